"""Compares the operations alone with PyTorch, in turns, and measures their memory with 128 frames."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.benchmark import op
from experiments.benchmark.gpu import theirs
from experiments.benchmark.gpu.record import Record, alternate
from experiments.benchmark.measure import compiled_bytes
from nl_jax.ops import chunks, devices, nonlocal_op
from nl_jax.ops.attention import attention, attention_form
from nl_jax.ops.hinge import hinge, hinge_form

# Batch, queries, keys and channels of a block in PySlowFast's geometry.
SIZES = {
    "res3 of 32 frames": (8, 12544, 3136, 256),
    "res4 of 32 frames": (8, 3136, 784, 512),
    "res3 of 8 frames": (16, 3136, 784, 256),
}
LONG = {"res3 of 128 frames": (1, 50176, 12544, 256)}
SMALL = {"small": (1, 64, 16, 8)}
BOTH = "forward+backward"


def forms(function: str, shapes: list[tuple[int, ...]], dtype: str) -> dict[str, object]:
    """Returns every form of ours by name. The first is the form that nl_jax chooses."""
    if function == "dot_product":
        return {"ours": nonlocal_op.dot_product}
    (_, n, *_), (_, m, *_), (_, _, d) = shapes
    if function == "gaussian":
        form = attention_form(devices.target(), False, n, m, d, d, jnp.dtype(dtype))
        fused = form in ("cudnn", "mixed") and devices.knows_cudnn()
        names, operation = dict.fromkeys((form, "cudnn", "chunked") if fused else ("chunked",)), attention
    else:
        names, operation = dict.fromkeys((hinge_form(devices.platform(), m), "sorted", "blockwise")), hinge
    return {f"ours {name}": partial(operation, form=name) for name in names}


def measure(record: Record, small: bool, only: str = "") -> None:
    """Times every form, and eager and compiled PyTorch. The ratio is the time of the faster of these two over ours."""
    _measure(record, small, only, [("bfloat16", BOTH)])


def measure_further(record: Record, small: bool, only: str = "") -> None:
    """Times the forward pass in bfloat16, and forward and backward in float32, as `measure` does."""
    _measure(record, small, only, [("bfloat16", "forward"), ("float32", BOTH)])


def _measure(record, small, only, cases):
    theirs.prepare(small)
    for dtype, direction in cases:
        for size, (b, n, m, d) in (SMALL if small else SIZES).items():
            for function in op.FUNCTIONS:
                what = f"{function} {direction}, {size}, {dtype}"
                if not re.search(only, what):
                    continue
                if record.left() < 12:
                    record.note(f"{what}: skipped, no time is left")
                    continue
                with record.attempt(what):
                    _time(record, what, function, direction, op.shapes(function, b, n, m, d), dtype)


def memory(record: Record, small: bool) -> None:
    """Records the bytes of forward and backward without the arguments.

    The compiled program states the bytes of ours. PyTorch's allocator counts the bytes of PyTorch.
    """
    theirs.prepare(small)
    for size, (b, n, m, d) in (SMALL if small else LONG).items():
        for function in op.FUNCTIONS:
            shapes = op.shapes(function, b, n, m, d)
            arrays, tensors = _inputs(shapes, "bfloat16")
            ours = {}
            for name, form in forms(function, shapes, "bfloat16").items():
                with record.attempt(f"{function} {name}"):
                    step = op.jax_program(form, BOTH)
                    ours[name] = compiled_bytes(step, *arrays)
                    jax.block_until_ready(step(*arrays))  # checks that it also runs
            peers = {"torch": op.torch_program(function, tensors, BOTH)}
            if function == "gaussian":  # through the n x m matrix, as in the published networks
                peers["torch einsum"] = partial(_gaussian_by_einsum, tensors)
            found = {}
            for name, call in peers.items():
                with record.attempt(f"{function} {name}"), theirs.within(record.left()):
                    found[name] = theirs.peak_bytes(call)
            of = {name: value for name, value in (ours | found).items() if value is not None}
            text = ", ".join(f"{name} {value / 1e6:,.0f} MB" for name, value in of.items())
            record.add(f"{function} forward+backward, {size}, bfloat16: {text}", what=function, bytes=of, shapes=shapes)


def chunk_sizes(record: Record, small: bool) -> None:
    """Times several values of `MAX_PAIRS_ON_GPUS`: forward and backward by chunks, in turns."""
    sizes = [10, 12] if small else [20, 22, 23, 24, 25, 26]
    before = chunks.MAX_PAIRS_ON_GPUS
    for function, form, d in (("gaussian", "chunked", 512), ("concatenation", "blockwise", 256)):
        b, n, m, _ = SMALL["small"] if small else (8, 12544, 3136, d)
        arrays, _ = _inputs(op.shapes(function, b, n, m, 16 if small else d), "bfloat16")
        programs = {}
        try:
            for size in sizes:
                if record.left() < 8:
                    break
                chunks.MAX_PAIRS_ON_GPUS = 2**size
                step = op.jax_program(partial(getattr(nonlocal_op, function), form=form), BOTH)
                step = step.lower(*arrays).compile()
                programs[f"2^{size}"] = _looped(step, arrays)
        finally:
            chunks.MAX_PAIRS_ON_GPUS = before
        if programs:
            seconds = alternate(programs, rounds=3)
            text = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
            record.add(f"{function} {form}, d {d}, bfloat16, pairs a chunk: {text}", what=function, seconds=seconds)


def _inputs(shapes, dtype):
    rng = np.random.default_rng(0)
    given = [(0.25 * rng.normal(size=shape)).astype(np.float32) for shape in shapes]
    tensors = [torch.tensor(x, device=theirs.DEVICE, dtype=getattr(torch, dtype)) for x in given]
    return [jnp.asarray(x, dtype) for x in given], tensors


def _looped(step, arrays):
    def run(count: int) -> None:
        for _ in range(count):
            found = step(*arrays)
        jax.block_until_ready(found)

    return run


def _time(record, what, function, direction, shapes, dtype):
    arrays, tensors = _inputs(shapes, dtype)
    programs, ours = {}, forms(function, shapes, dtype)
    for name, form in ours.items():
        with record.attempt(f"{what}, {name}"):
            step = op.jax_program(form, direction).lower(*arrays).compile()
            programs[name] = _looped(step, arrays)
            programs[name](1)
    eager = op.torch_program(function, tensors, direction)
    peers = {"torch": lambda: eager}
    if function != "gaussian":  # the kernel of the Gaussian is already fused
        peers["torch compiled"] = lambda: op.torch_program(function, tensors, direction, theirs.compiled)
    for name, make in peers.items():
        try:
            with theirs.within(min(25, record.left() - 5)):
                call = make()
                call()
                programs[name] = theirs.looped(call)
        except Exception as error:
            record.note(f"{what}, {name}: {type(error).__name__}: {str(error)[:150]}")
    seconds = alternate(programs, rounds=1 if "small" in what else 5)
    peers = [value for name, value in seconds.items() if name.startswith("torch")]
    ratio = min(peers) / seconds[next(iter(ours))] if peers else None
    text = ", ".join(f"{name} {1e3 * value:.3f} ms" for name, value in seconds.items())
    record.add(f"{what}: {f'{ratio:.2f}x; ' if ratio else ''}{text}", what=what, seconds=seconds, ratio=ratio)
    theirs.free()


def _gaussian_by_einsum(tensors):
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    rows = torch.einsum("bnd,bmd->bnm", *leaves[:2]).softmax(2)
    y = torch.einsum("bnm,bmc->bnc", rows, leaves[2])
    y.backward(y.detach())
