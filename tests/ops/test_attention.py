"""The forms of the softmax: the choice of a form, the memory it keeps, and equal results of the fused kernels."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from nl_jax.ops import attention, chunks, devices
from nl_jax.ops.devices import Target


def arguments(n, m, d, c=None, b=2, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in ((b, n, d), (b, m, d), (b, m, c or d))]


def reference(theta, phi, g, scale):
    """Computes the softmax over the whole matrix, with NumPy's float64 for values."""
    theta, phi, g = (np.asarray(x, np.float64) for x in (theta, phi, g))
    weights = np.exp(scale * theta @ phi.swapaxes(1, 2))
    return weights / weights.sum(-1, keepdims=True) @ g


CPU, TPU = Target("cpu", 1), Target("tpu", 1)
TURING, AMPERE, ADA, HOPPER = (Target("gpu", 1, capability) for capability in ((7, 5), (8, 0), (8, 9), (9, 0)))


@pytest.mark.parametrize("expected, target, partitioned, sizes", [
    ("chunked", CPU, False, (12544, 3136, 256, 256, jnp.float32)),
    ("cudnn", AMPERE, False, (12544, 3136, 128, 128, jnp.bfloat16)),
    ("mixed", ADA, True, (50, 49, 64, 64, jnp.float16)),
    ("mixed", HOPPER, False, (3136, 784, 256, 256, jnp.bfloat16)),
    ("cudnn", HOPPER, True, (12544, 3136, 256, 256, jnp.bfloat16)),
    ("cudnn", Target("gpu", 8, (12, 0)), True, (12544, 3136, 256, 256, jnp.bfloat16)),
    ("chunked", HOPPER, False, (3136, 784, 512, 512, jnp.bfloat16)),
    ("chunked", HOPPER, False, (12544, 3136, 128, 128, jnp.float32)),
    ("chunked", HOPPER, False, (12544, 3136, 100, 100, jnp.bfloat16)),
    ("chunked", HOPPER, False, (12544, 3136, 512, 256, jnp.bfloat16)),
    ("chunked", AMPERE, False, (12544, 3136, 256, 256, jnp.bfloat16)),
    ("chunked", TURING, False, (12544, 3136, 64, 64, jnp.float16)),
    ("chunked", Target("gpu", 1), False, (12544, 3136, 64, 64, jnp.bfloat16)),  # no NVIDIA GPU, or not known
    ("pallas", TPU, False, (12544, 3136, 256, 256, jnp.bfloat16)),
    ("chunked", TPU, True, (12544, 3136, 256, 256, jnp.bfloat16)),
    ("chunked", TPU, False, (12544, 196, 256, 256, jnp.bfloat16)),
    ("chunked", TPU, False, (12544, 3136, 64, 64, jnp.bfloat16)),
    ("chunked", TPU, False, (12544, 3136, 256, 128, jnp.bfloat16)),
])  # fmt: skip
def test_choice(expected, target, partitioned, sizes):
    assert attention.attention_form(target, partitioned, *sizes) == expected


def test_choice_is_made_for_this_machine(monkeypatch):
    """Eight devices may share the batch, so no Pallas kernel is chosen.

    A function under shard_map runs on one device.
    """
    asked = []
    monkeypatch.setattr(attention, "attention_form", lambda *args: asked.append(args) or "chunked")
    args = arguments(5, 6, 4, 3, b=8)
    attention.attention(*args)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    jax.jit(jax.shard_map(attention.attention, mesh=mesh, in_specs=spec, out_specs=spec))(*args)
    here = Target("cpu", 8)
    assert asked == [(here, partitioned, 5, 6, 4, 3, jnp.float32) for partitioned in (True, False)]


def test_chunks_stand_in_for_a_kernel_that_cannot_be_traced_here(monkeypatch):
    """Chunks for a GPU, traced without one, have the size of a GPU's chunks."""
    sizes = [jax.ShapeDtypeStruct((1, s, 64), jnp.bfloat16) for s in (12544, 3136, 3136)]
    with devices.compiling_for("gpu", 1, (9, 0)):
        jaxpr = str(jax.make_jaxpr(attention.attention)(*sizes))
        (chunk,) = {int(q) for q in re.findall(r"f32\[1,(\d+),3136\]", jaxpr)}
        assert chunk == 4192  # at most 2^24 // 3136 = 5349, so 12544 queries make three chunks
        monkeypatch.setattr(devices, "knows_cudnn", lambda: True)
        asked = []
        monkeypatch.setitem(
            attention.FORMS, "cudnn", lambda *args: asked.append(args) or args[2][:, :1].repeat(12544, 1)
        )
        jax.eval_shape(lambda *args: attention.attention(*args), *sizes)
        assert len(asked) == 1


def test_unknown_form():
    with pytest.raises(ValueError, match="form='flash' is unknown; choose one of pairs, chunked, cudnn, mixed, pallas"):
        attention.attention(*arguments(5, 6, 4), form="flash")


@pytest.mark.parametrize("b", [1, 1024])
def test_chunks_depend_on_one_clip_alone(b):
    """A step has the batch of all devices. This must not make the chunks small."""
    sizes = [jax.ShapeDtypeStruct((b, s, 256), jnp.float32) for s in (12544, 3136, 3136)]
    jaxpr = str(jax.make_jaxpr(attention.attention)(*sizes))
    (chunk,) = {int(q) for q in re.findall(rf"f32\[{b},(\d+),3136\]", jaxpr)}
    assert 128 <= chunk <= chunks.MAX_PAIRS // 3136 + chunks.CHUNK_MULTIPLE


def test_backward_keeps_no_pairs(monkeypatch):
    """Compares the memory of the backward pass, kept and temporary, with the n x m matrix."""
    n = m = 2048
    args = arguments(n, m, 8, b=1)
    kept = jax.eval_shape(lambda *a: jax.vjp(attention.attention, *a)[1], *args)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(kept) if leaf.size > 1)
    assert shapes == [(1, n, 1), *[(1, n, 8)] * 4]  # lse; theta, phi, g, y

    @jax.jit
    def step(*args):
        y, pull = jax.vjp(lambda *a: attention.attention(*a), *args)
        return y, *pull(y)

    def temporary_bytes():
        jax.clear_caches()
        return step.lower(*args).compile().memory_analysis().temp_size_in_bytes

    monkeypatch.setattr(chunks, "MAX_PAIRS", n * m)
    assert temporary_bytes() > 4 * n * m  # one chunk
    monkeypatch.setattr(chunks, "MAX_PAIRS", 128 * m)
    assert temporary_bytes() < 4 * n * m / 2


def value_and_gradients(f, args):
    y, pull = jax.vjp(f, *args)
    return y, *pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


def test_pallas_equals_chunked(monkeypatch):
    """Runs JAX's TPU kernel in interpret mode. Positions that are no multiple of its block are padded and masked."""
    monkeypatch.setattr(attention, "BLOCK", 128)
    args = arguments(150, 200, 128)
    with pltpu.force_tpu_interpret_mode():
        found = value_and_gradients(lambda *a: attention.attention(*a, 0.1, "pallas"), args)
    expected = value_and_gradients(lambda *a: attention.attention(*a, 0.1, "chunked"), args)
    np.testing.assert_allclose(expected[0], reference(*args, 0.1), atol=1e-5)
    for name, ours, theirs in zip(("y", "dtheta", "dphi", "dg"), found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("n, m, d", [(600, 700, 128), (6272, 1568, 512)])
def test_pallas_lowers_for_tpu(n, m, d, dtype):
    def step(*args):
        return value_and_gradients(lambda *a: attention.attention(*a, form="pallas"), args)

    sizes = [jax.ShapeDtypeStruct((2, s, d), dtype) for s in (n, m, m)]
    module = jax.jit(step).trace(*sizes).lower(lowering_platforms=("tpu",)).as_text()
    assert module.count("tpu_custom_call") == 3  # forward, backward for keys and values, backward for queries


def test_cudnn_is_asked_for_the_same_function(monkeypatch):
    """cuDNN needs a GPU. Its entry in JAX has a reference implementation that takes the same arguments."""
    entry = jax.nn.dot_product_attention
    asked = []

    def stand_in(*args, implementation, **options):
        asked.append(implementation)
        return entry(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    for n, m in ((11, 7), (12, 7), (11, 8), (12, 8)):
        args = arguments(n, m, 16)
        y, *gradients = value_and_gradients(lambda *a: inspect.unwrap(attention.attention)(*a, 0.3, "cudnn"), args)
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, reference(*args, 0.3), atol=1e-6)
        _, *expected = value_and_gradients(lambda *a: attention.attention(*a, 0.3, "chunked"), args)
        for found, value in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(found, value, atol=1e-5)
    assert set(asked) == {"cudnn"}


@pytest.fixture
def cudnn_of_hopper(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: float(capability) <= 9)
    monkeypatch.setattr(devices, "knows_cudnn", lambda: True)


def lowered_for_hopper(function, *sizes):
    with devices.compiling_for("gpu", 1, (9, 0)):
        return jax.jit(function).trace(*sizes).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("masked, n, m", [(False, 600, 150), (True, 600, 150), (False, 599, 149), (True, 600, 149)])
def test_cudnn_lowers_for_a_gpu_that_is_not_here(cudnn_of_hopper, monkeypatch, masked, n, m):
    """JAX checks its conditions for the choice on Hopper.

    It would raise an error where they fail, as for odd lengths.
    """
    monkeypatch.setattr(attention, "FEW_PAIRS", 0)

    def step(valid, *args):
        return value_and_gradients(lambda *a: attention.attention(*a, valid=valid), args)

    sizes = [jax.ShapeDtypeStruct((2, s, 256), jnp.bfloat16) for s in (n, m, m)]
    valid = jax.ShapeDtypeStruct((2, m), jnp.bool_) if masked else None
    module = lowered_for_hopper(step, valid, *sizes)
    assert module.count("custom_call @__cudnn$fmhaSoftmax(") == 1
    assert module.count("custom_call @__cudnn$fmhaSoftmaxBackward(") == 1
    assert not re.search(r"2x(599|600)x(149|150)x", module)  # the pairs


def test_few_pairs_are_taken_in_chunks_where_there_is_a_gradient(cudnn_of_hopper):
    sizes = [jax.ShapeDtypeStruct((2, s, 256), jnp.bfloat16) for s in (600, 150, 150)]
    forward = lowered_for_hopper(attention.attention, *sizes)
    both = lowered_for_hopper(lambda *args: value_and_gradients(attention.attention, args), *sizes)
    assert forward.count("custom_call @__cudnn$fmhaSoftmax(") == 1 and "cudnn" not in both
