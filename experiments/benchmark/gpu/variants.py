"""Forms that may replace those of the training step on a GPU, timed alone, and the step itself in several settings."""

from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.gpu import ours
from experiments.benchmark.gpu.networks import BLOCKS
from experiments.benchmark.gpu.profiling import profile
from experiments.benchmark.gpu.record import Record, alternate
from nl_jax.models import ResNetConfig, norm
from nl_jax.models.summary import summarize
from nl_jax.ops.batch_norm import batch_norm
from nl_jax.ops.conv import conv3d
from nl_jax.ops.pool import max_pool


def step(frames, clips, small, options=None, **settings):
    side, width = (32, 4) if small else (224, 64)
    stages, blocks = ((1, 2, 2), {"res3": (1,)}) if small else (None, BLOCKS)
    config = ResNetConfig(
        blocks_per_stage=stages, width=width, inflate="3x1x1", geometry="slowfast", nonlocal_blocks=blocks,
        group_size=128, dtype="bfloat16", **settings,
    )
    graphdef, params, stats = ours.arrays(config)
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.normal(size=(clips, frames, side, side, 3)), jnp.float32)
    label = jnp.asarray(rng.integers(0, 400, clips), jnp.int32)
    optimizer = ours.sgd()
    state = params, stats, optimizer.init(params)
    arguments = video, label, jax.random.key(0)
    compiled = ours.training_step(graphdef, optimizer).lower(state, *arguments).compile(compiler_options=options or {})
    macs = summarize(config, (frames, side, side)).macs

    def run(count):
        nonlocal state
        for _ in range(count):
            state, loss = compiled(state, *arguments)
        return loss.block_until_ready()

    return run, 6 * macs * clips, compiled


def measure(record: Record, small: bool, products) -> None:
    b = 2 if small else 16
    gpu = jax.default_backend() == "gpu"
    with record.attempt("profile"):
        options = {"xla_gpu_graph_min_graph_size": 1000000} if gpu else {}
        run, operations, compiled = step(8, b, small, options)
        record.note(f"compiled; {compiled.memory_analysis().temp_size_in_bytes / 1e9:.1f} GB")
        seconds = alternate({"x": run}, 3, 0.3)["x"]
        record.note(f"base, no command buffers: {1e3 * seconds:.2f} ms, {operations / seconds / products['bfloat16']:.1%}")
        profile(record, f"step of {b} clips", run, compiled.as_text())
        del run, compiled
    _pieces(record, small)

    def old(**settings):
        def call(self, x, rectified=False):
            return jax.nn.relu(self._apply(x)) if rectified else self._apply(x)

        with mock.patch.object(norm.Norm, "__call__", call):
            return step(8, b, small, **settings)

    variants = {
        "64 clips": partial(step, 8, 4 * b, small),
        "base": partial(step, 8, b, small),
        "old norm": old,
        "frozen norm": partial(step, 8, b, small, norm="frozen"),
        "32 frames, 16 clips": partial(step, 32, b, small),
    }
    for name, make in variants.items():
        if record.left() < 25:
            record.note(f"{name}: skipped")
            continue
        with record.attempt(name):
            run, operations, compiled = make()
            record.note(f"{name}: compiled")
            seconds = alternate({"x": run}, 3, 0.3)["x"]
            share = operations / seconds / products["bfloat16"]
            record.add(f"{name}: {1e3 * seconds:.2f} ms, {share:.1%}", what=name, seconds=seconds)
            if name in ("64 clips", "32 frames, 16 clips"):
                profile(record, name, run)
            del run, compiled


def _pieces(record, small):
    b, t, s = (1, 4, 8) if small else (16, 8, 1)
    side = lambda full: 8 if small else full  # noqa: E731
    c = (lambda full: 4) if small else (lambda full: full)
    bf = jnp.bfloat16
    shape = lambda *x: jax.ShapeDtypeStruct(x, bf)  # noqa: E731
    groups = {}
    x, k = shape(b, t, side(224), side(224), 3), shape(5, 7, 7, 3, c(64))
    groups["stem, y and gradient of the kernel"] = (1,), (x, k), {
        "now": partial(conv3d, strides=(1, 2, 2), padding=(2, 3, 3)), "16": stem_16, "cells": stem_cells,
        "cells of 64": partial(stem_cells, pad=64), "three axes": three_axes,
    }
    for name, (t2, size, i, o) in {"res2": (t, 56, 256, 64), "res3": (t // 2, 28, 512, 128), "res4": (t // 2, 14, 1024, 256), "res5": (t // 2, 7, 2048, 512)}.items():
        x, k = shape(b, t2, side(size), side(size), c(i)), shape(3, 1, 1, c(i), c(o))
        groups[f"3x1x1 in {name}"] = (0, 1), (x, k), {
            "now": partial(conv3d, padding=(1, 0, 0)), "shifted products": shifted, "sum of products": summed, "side by side": stacked,
        }
        x, k = shape(b, t2, side(size), side(size), c(o)), shape(1, 3, 3, c(o), c(o))
        groups[f"1x3x3 in {name}"] = (0, 1), (x, k), {"now": partial(conv3d, padding=(0, 1, 1))}
        x, k = shape(b, t2, side(size), side(size), c(o)), shape(1, 1, 1, c(o), c(i))
        groups[f"1x1x1 in {name}"] = (0, 1), (x, k), {"now": conv3d, "convolution": by_convolution}
    groups["pool1"] = (0,), (shape(b, t, side(112), side(112), c(64)),), {
        "now": lambda x: max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)), "window": window,
    }
    for channels in (64, 256):
        x, p = shape(1, 256 if small else 401408, channels), jax.ShapeDtypeStruct((channels,), jnp.float32)
        groups[f"norm, {channels}"] = (0, 1, 2), (x, p, p), {
            "new": lambda x, s, b: batch_norm(x, s, b, 1e-5, True)[0], "old": old_norm,
            "new linear": lambda x, s, b: batch_norm(x, s, b, 1e-5, False)[0],
        }

    def compile_one(which, shapes, function):
        def both(dy, *arrays):
            y, pull = jax.vjp(function, *arrays)
            found = pull(dy)
            return y, *(found[i] for i in which)

        dy = jax.eval_shape(function, *shapes)
        return jax.jit(both).lower(dy, *shapes).compile(), (dy, *shapes)

    def fill(shape, seed):
        return jax.random.normal(jax.random.key(seed), shape.shape, shape.dtype)

    with ThreadPoolExecutor(2 if small else 8) as pool:
        jobs = {name: {form: pool.submit(compile_one, which, shapes, f) for form, f in forms.items()} for name, (which, shapes, forms) in groups.items()}
        wait([job for forms in jobs.values() for job in forms.values()])  # nothing is tuned while others are timed
        record.note('compiled')
        for name, forms in jobs.items():
            programs = {}
            for form, job in forms.items():
                with record.attempt(f"{name}, {form}"):
                    compiled, shapes = job.result()
                    arrays = [jax.jit(fill, static_argnums=(0, 1))(s, i) for i, s in enumerate(shapes)]

                    def run(count, compiled=compiled, arrays=arrays):
                        for _ in range(count):
                            found = compiled(*arrays)
                        jax.block_until_ready(found)

                    programs[form] = run
            with record.attempt(name):
                seconds = alternate(programs, 1 if small else 3, 0.01)
                record.add(f"{name}: " + ", ".join(f"{form} {1e6 * s:.0f} us" for form, s in seconds.items()), what=name, seconds=seconds)


def _conv2d(x, k, strides, padding, groups=None):
    return jax.lax.conv_general_dilated(x, k, strides, [(p, q) for p, q in padding], dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _stem_taps(x, k):
    b, t = x.shape[:2]
    x = jnp.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0), (0, 0)))
    x = jnp.concatenate([x[:, i : i + t] for i in range(5)], axis=-1)
    return x.reshape(b * t, *x.shape[2:]), jnp.moveaxis(k, 0, 2).reshape(7, 7, 15, -1)


def stem_16(x, k):
    b, t = x.shape[:2]
    x, k = _stem_taps(x, k)
    x, k = jnp.pad(x, ((0, 0),) * 3 + ((0, 1),)), jnp.pad(k, ((0, 0), (0, 0), (0, 1), (0, 0)))
    y = _conv2d(x, k, (2, 2), ((3, 3), (3, 3)))
    return y.reshape(b, t, *y.shape[1:])


def stem_cells(x, k, pad=60):
    b, t, h, w, _ = x.shape
    x = x.reshape(b, t, h // 2, 2, w // 2, 2, 3).transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, t, h // 2, w // 2, 12)
    x = jnp.pad(x, ((0, 0), (2, 2), (0, 0), (0, 0), (0, 0)))
    x = jnp.concatenate([x[:, i : i + t] for i in range(5)] + [jnp.zeros((b, t, h // 2, w // 2, pad - 60), x.dtype)], axis=-1)
    x = x.reshape(b * t, *x.shape[2:])
    # y[i] reads x[2i - 3 .. 2i + 3]: cells i - 2 .. i + 1 with one row of zeros before.
    k = jnp.pad(k, ((0, 0), (1, 0), (1, 0), (0, 0), (0, 0)))
    o = k.shape[-1]
    k = k.reshape(5, 4, 2, 4, 2, 3, o).transpose(1, 3, 0, 2, 4, 5, 6).reshape(4, 4, 60, o)
    k = jnp.pad(k, ((0, 0), (0, 0), (0, pad - 60), (0, 0)))
    y = _conv2d(x, k, (1, 1), ((2, 1), (2, 1)))
    return y.reshape(b, t, *y.shape[1:])


def three_axes(x, k):
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, k, (1, 2, 2), ((2, 2), (3, 3), (3, 3)), dimension_numbers=numbers)


def _shift(x, by):
    t = x.shape[1]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (by, -by, 0), *((0, 0, 0),) * (x.ndim - 2)))


def shifted(x, k):
    i, o = k.shape[3:]
    y = x @ jnp.moveaxis(k[:, 0, 0], 0, 1).reshape(i, 3 * o)
    before, at, after = jnp.split(y, 3, axis=-1)
    return _shift(before, 1) + at + _shift(after, -1)


def summed(x, k):
    return _shift(x, 1) @ k[0, 0, 0] + x @ k[1, 0, 0] + _shift(x, -1) @ k[2, 0, 0]


def stacked(x, k):
    return jnp.concatenate([_shift(x, 1), x, _shift(x, -1)], axis=-1) @ k.reshape(-1, k.shape[-1])


def by_convolution(x, k):
    b, t, h, w, i = x.shape
    y = _conv2d(x.reshape(b * t, h, w, i), k[0], (1, 1), ((0, 0), (0, 0)))
    return y.reshape(b, t, h, w, -1)


def window(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 3, 3, 1), (1, 1, 2, 2, 1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))


def old_norm(x, scale, bias):
    mean, var = norm._moments(x)
    scale = scale * jax.lax.rsqrt(var + 1e-5)
    return jax.nn.relu(norm._affine(x, scale, bias - mean * scale))
