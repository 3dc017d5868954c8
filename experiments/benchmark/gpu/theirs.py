"""Runs the PyTorch peer in its fast settings on GPUs.

These are autocast, channels last, torch.compile, fused attention and cuDNN's benchmark.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from experiments.benchmark.torch_network import I3D

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


_compiler = "inductor"


def prepare(small: bool) -> None:
    """Sets TF32 for float32 products and convolutions, and cuDNN's fastest algorithms."""
    global _compiler
    _compiler = "eager" if small else "inductor"
    if small:  # one thread, because several threads wait for each other on shared cores; and no generated code
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def compiled(function: Callable) -> Callable:
    """Returns the function, compiled by torch.compile."""
    torch.compiler.reset()
    return torch.compile(function, backend=_compiler)


def looped(call: Callable[[], object]) -> Callable[[int], None]:
    """Returns a function of the number of calls, which makes the calls and waits for them."""

    def run(count: int) -> None:
        for _ in range(count):
            call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run


def peak_bytes(call: Callable[[], object]) -> int | None:
    """Returns the maximum bytes that a call allocates; None without a GPU."""
    if DEVICE != "cuda":
        call()
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def free() -> None:
    """Returns PyTorch's cached memory to the GPU."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


class PeerTimeout(Exception):
    """The peer took longer than its time limit."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises PeerTimeout inside the context after `seconds`, because torch.compile has no time limit."""

    def stop(*_):
        raise PeerTimeout(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def network(video: np.ndarray, label: np.ndarray, dtype: str, train: bool, wrap=lambda model: model, **options):
    """Returns a function that runs one training step, or one forward pass.

    Args:
      video: (b,t,h,w,3) float32.
      label: (b,) class numbers.
      dtype: bfloat16 or float32.
      train: whether to run a training step.
      wrap: a function of the model, such as `compiled`.
      options: arguments of `I3D`.
    """
    model = I3D(fused=True, **options).to(DEVICE, memory_format=torch.channels_last_3d).train(train)
    video = torch.tensor(video).permute(0, 4, 1, 2, 3).to(DEVICE, memory_format=torch.channels_last_3d)
    label = torch.tensor(label, dtype=torch.long, device=DEVICE)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=DEVICE == "cuda"
    )
    apply = wrap(model)

    def autocast():
        return torch.autocast(DEVICE, torch.bfloat16) if dtype == "bfloat16" else nullcontext()

    def forward():
        with torch.inference_mode(), autocast():
            return apply(video).softmax(1)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            logits = apply(video)
        torch.nn.functional.cross_entropy(logits.float(), label).backward()
        optimizer.step()

    return step if train else forward
