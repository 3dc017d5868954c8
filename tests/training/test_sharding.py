import jax
import pytest

from nl_jax.errors import InputError
from nl_jax.training import sharding


def test_mesh_takes_all_devices():
    assert dict(sharding.make_mesh(-1, 2).shape) == {"data": 4, "fsdp": 2}
    assert dict(sharding.make_mesh(8, 1).shape) == {"data": 8, "fsdp": 1}


@pytest.mark.parametrize(
    "data, fsdp, message",
    [
        (-1, 3, r"mesh\.fsdp=3 does not divide the 8 devices; use one of \[1, 2, 4, 8\]"),
        (3, 2, r"mesh\.data=3 x mesh\.fsdp=2 is not the number of devices, 8; mesh\.data=-1 takes the 4"),
    ],
)
def test_a_mesh_that_does_not_fit(data, fsdp, message):
    with pytest.raises(InputError, match=message):
        sharding.make_mesh(data, fsdp)


@pytest.mark.parametrize("size, nearest", [(12, r"\[8, 16\]"), (3, r"\[8\]"), (0, r"\[8\]")])
def test_a_batch_that_the_mesh_does_not_divide(size, nearest):
    with pytest.raises(
        InputError, match=rf"batch_size={size} does not divide .* 8 devices .* nearest that do: {nearest}"
    ):
        sharding.check_batch("batch_size", size, sharding.make_mesh(-1, 1))


def test_small_and_odd_arrays_stay_whole():
    mesh = sharding.make_mesh(1, 8)
    shapes = {"large": (3, 512, 1024), "small": (8, 8), "odd": (301, 333), "scalar": ()}
    specs = sharding.state_shardings(mesh, {n: jax.ShapeDtypeStruct(s, "float32") for n, s in shapes.items()})
    assert {name: tuple(s.spec) for name, s in specs.items()} == {
        "large": (None, None, "fsdp"),
        "small": (),
        "odd": (),
        "scalar": (),
    }
