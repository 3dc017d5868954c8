"""The PyTorch peer as it is run on GPUs: autocast, channels last, torch.compile, fused attention, cuDNN's benchmark."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from experiments.benchmark.torch_network import I3D

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


_compiler = "inductor"


def prepare(small: bool) -> None:
    """TF32 for float32 products and convolutions, cuDNN's fastest algorithms."""
    global _compiler
    _compiler = "eager" if small else "inductor"
    if small:  # one thread, since several wait for each other where cores are shared, and no code is generated
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


def compiled(function: Callable) -> Callable:
    """torch.compile's."""
    torch.compiler.reset()
    return torch.compile(function, backend=_compiler)


def looped(call: Callable[[], object]) -> Callable[[int], None]:
    """So many calls, and the wait for them."""

    def run(count: int) -> None:
        for _ in range(count):
            call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run


def peak_bytes(call: Callable[[], object]) -> int | None:
    """The most that a call takes next to what is there before; None without a GPU."""
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
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


class PeerTimeout(Exception):
    """The peer took longer than it was given."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises PeerTimeout after so many seconds: torch.compile has no limit of its own."""

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
    """A call that does one training step, or one forward pass, on videos (b,t,h,w,3).

    `wrap` may be `compiled`.
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
