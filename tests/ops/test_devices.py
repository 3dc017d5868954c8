import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nl_jax.ops import chunks, devices, hinge, nonlocal_op
from nl_jax.ops.conv import conv3d
from nl_jax.ops.relu import relu

MESH = jax.make_mesh((2, 4), ("data", "time"), axis_types=(AxisType.Auto,) * 2)


def on_mesh(function):
    def traced(*arguments):
        with jax.sharding.use_abstract_mesh(MESH.abstract_mesh):
            return function(*arguments)

    return jax.jit(traced)


def test_frames_are_merged_in_plain_order_on_one_device_and_by_parts_on_several():
    x = jnp.arange(4 * 8).reshape(4, 8)
    assert devices.time_parts() == 1
    np.testing.assert_array_equal(devices.merge_frames(x, 2), x.reshape(2, 16))
    parts = on_mesh(lambda x: devices.merge_frames(x, 2))(x)
    np.testing.assert_array_equal(parts[0], [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15])
    np.testing.assert_array_equal(on_mesh(lambda x: devices.split_frames(devices.merge_frames(x, 2), 4, 8))(x), x)
    odd = jnp.arange(4 * 6).reshape(4, 6)  # an image, which is not split
    np.testing.assert_array_equal(on_mesh(lambda x: devices.merge_frames(x)[0])(odd), odd.ravel())


@pytest.mark.parametrize("pairwise", ["gaussian", "concatenation"])
def test_queries_of_every_device_meet_all_keys(pairwise, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_PAIRS", 2**10)  # several chunks on every device
    rng = np.random.default_rng(0)
    n, m = 2048, hinge.MIN_SORTED_KEYS["cpu"]  # takes the sorted form
    shapes = {"gaussian": [(2, n, 4), (2, m, 4), (2, m, 3)], "concatenation": [(2, n), (2, m), (2, m, 3)]}[pairwise]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    dy = jnp.asarray(rng.normal(size=(2, n, 3)), jnp.float32)
    operation = getattr(nonlocal_op, pairwise)

    def with_gradient(operation):
        return lambda dy, *arrays: (lambda y, pull: (y, *pull(dy)))(*jax.vjp(operation, *arrays))

    expected = jax.jit(with_gradient(operation))(dy, *arrays)
    split = [jax.device_put(x, NamedSharding(MESH, PartitionSpec("data", "time"))) for x in (dy, *arrays)]
    run = on_mesh(lambda *given: with_gradient(devices.by_query(operation))(*given))
    for found, value in zip(run(*split), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-5 * np.abs(value).max())
    program = run.lower(*split).compile().as_text()
    assert f"f32[1,{n}," not in program and f"f32[1,{n // 4}" in program  # no device has all queries


def test_what_is_traced_for():
    assert devices.target() == devices.Target("cpu", 8)
    with devices.compiling_for("tpu", 4):
        assert devices.platform() == "tpu" and devices.partitioned()
        with devices.compiling_for("gpu", 1, (9, 0)):
            assert devices.target() == devices.Target("gpu", 1, (9, 0)) and not devices.partitioned()
        assert devices.platform() == "tpu"
    with jax.default_device("cpu"):
        assert devices.platform() == "cpu"
    with jax.default_device(jax.devices()[3]):
        assert devices.platform() == "cpu"
    assert not devices.knows_cudnn()


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_a_program_has_the_forms_of_its_platform_everywhere(platform):
    """A program traced first for another platform does so, too. Only a CPU has loops around ReLU and over frames."""
    x, kernel = jnp.ones((1, 2, 32, 32, 4)), jnp.ones((1, 3, 3, 4, 5))

    @jax.jit
    def gradient(x, kernel):
        return jax.grad(lambda kernel: relu(conv3d(x, kernel, padding=(0, 1, 1))).sum())(kernel)

    def loops():
        return str(gradient.trace(x, kernel).jaxpr).count(" while") + str(gradient.trace(x, kernel).jaxpr).count(
            " scan["
        )

    with devices.compiling_for("cpu"):
        of_a_cpu = loops()
    with devices.compiling_for(platform):
        assert loops() == (of_a_cpu if platform == "cpu" else 0)
    assert of_a_cpu == 2
