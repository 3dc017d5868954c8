import jax
import numpy as np
import pytest

from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig
from nl_jax.training import sharding


def test_mesh_takes_all_devices():
    assert dict(sharding.make_mesh(-1, 2).shape) == {"data": 4, "fsdp": 2, "time": 1}
    assert dict(sharding.make_mesh(8, 1).shape) == {"data": 8, "fsdp": 1, "time": 1}
    assert dict(sharding.make_mesh(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "time": 2}


@pytest.mark.parametrize(
    "data, fsdp, time, message",
    [
        (-1, 3, 1, r"mesh\.fsdp=3 does not divide the 8 devices; use one of \[1, 2, 4, 8\]"),
        (-1, 1, 3, r"mesh\.time=3 does not divide the 8 devices; use one of \[1, 2, 4, 8\]"),
        (-1, 4, 4, r"mesh\.fsdp=4 does not divide the 2 of 8 devices that mesh\.time=4 leaves; use one of \[1, 2\]"),
        (3, 2, 1, r"mesh\.data=3 x mesh\.fsdp=2 x mesh.time=1 is not .* devices, 8; mesh\.data=-1 takes the 4"),
    ],
)
def test_a_mesh_that_does_not_fit(data, fsdp, time, message):
    with pytest.raises(InputError, match=message):
        sharding.make_mesh(data, fsdp, time)


def test_frames_are_checked_at_every_stride():
    long = ResNetConfig(nonlocal_blocks={"res3": (1,)}, nonlocal_options={"res3": {"time_group": 4}})
    assert long.frames(128) == {"clip": 128, "conv1": 64, "pool1": 32, "pool2": 16, "groups of 4 in res3": 4}
    assert ResNetConfig(geometry="caffe2_8").frames(8) == {"clip": 8, "conv1": 8, "pool1": 8, "pool2": 4}
    assert ResNetConfig(geometry="small").frames(5) == {"clip": 5, "conv1": 5, "pool1": 5, "pool2": 5}
    sharding.check_frames(long.frames(128), sharding.make_mesh(2, 1, 4))
    with pytest.raises(InputError, match=r"mesh\.time=8 .* everywhere \(clip 32, .* pool2 4\); use one of \[1, 2, 4\]"):
        sharding.check_frames(ResNetConfig().frames(32), sharding.make_mesh(1, 1, 8))


def test_clips_of_the_same_place_have_their_frames_on_neighbours():
    clips = np.arange(4 * 8).reshape(4, 8, 1, 1, 1)
    video = sharding.put_batch({"video": clips}, sharding.make_mesh(2, 1, 4))["video"]
    parts = [shard.data[:, :, 0, 0, 0].tolist() for shard in video.addressable_shards]
    assert parts[:2] == [[[0, 1], [8, 9]], [[2, 3], [10, 11]]] and parts[4] == [[16, 17], [24, 25]]


def test_a_batch_is_split_over_data_and_fsdp_and_in_parts():
    sharding.check_batch("batch_size", 4, sharding.make_mesh(2, 2, 2))
    with pytest.raises(InputError, match=r"batch_size=4 .* in 2 parts \(accumulate_steps\); .* do: \[8\]"):
        sharding.check_batch("batch_size", 4, sharding.make_mesh(2, 2, 2), accumulate=2)


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
