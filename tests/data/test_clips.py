import numpy as np
import pytest

from nl_jax.data import clips  # not by name: pytest would take test_indices and test_crops for tests
from nl_jax.errors import InputError


@pytest.fixture
def video() -> np.ndarray:
    """uint8 (t, h, w, c) = (3, 7, 11, 2), every pixel of a frame different."""
    return np.arange(3 * 7 * 11 * 2).reshape(3, 7, 11, 2)


def test_a_training_clip_is_strided_and_lies_in_the_video():
    rng = np.random.default_rng(0)
    found = np.stack([clips.train_indices(20, 4, 3, rng) for _ in range(500)])
    assert found.shape == (500, 4)
    assert (np.diff(found) == 3).all()
    assert set(found[:, 0]) == set(range(9))  # 12 consecutive frames start at 0 to 8, each of which occurs


def test_a_video_as_long_as_the_clip_leaves_no_choice():
    np.testing.assert_array_equal(clips.train_indices(12, 4, 3, np.random.default_rng(0)), [0, 3, 6, 9])


def test_a_short_video_loops():
    np.testing.assert_array_equal(clips.train_indices(5, 4, 3, np.random.default_rng(0)), [0, 3, 1, 4])
    np.testing.assert_array_equal(clips.test_indices(5, 4, 3, 2), [[0, 3, 1, 4]] * 2)
    np.testing.assert_array_equal(clips.test_indices(1, 3, 8, 1), [[0, 0, 0]])


def test_a_training_clip_follows_its_seed():
    one, same, other = (clips.train_indices(10_000, 8, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).all()


def test_test_clips_spread_from_the_start_to_the_end():
    np.testing.assert_array_equal(clips.test_indices(20, 4, 3, 3), [[0, 3, 6, 9], [4, 7, 10, 13], [8, 11, 14, 17]])
    ten = clips.test_indices(300, 32, 2, 10)  # the last clip spans frames 236 to 299
    assert ten.shape == (10, 32)
    assert (ten[0, 0], ten[-1, 0], ten[-1, -1]) == (0, 236, 298)
    assert set(np.diff(ten[:, 0])) == {26, 27}


def test_one_test_clip_is_the_centre():
    np.testing.assert_array_equal(clips.test_indices(20, 4, 3, 1), [[4, 7, 10, 13]])


@pytest.mark.parametrize("wrong", ["num_frames", "frames", "stride", "num_clips"])
def test_numbers_below_one_are_refused(wrong):
    numbers = {"num_frames": 5, "frames": 2, "stride": 2, "num_clips": 1} | {wrong: 0}
    with pytest.raises(InputError, match=f"^{wrong}: found 0"):
        clips.test_indices(**numbers)


def test_random_crops_are_everywhere_and_the_same_in_all_frames(video):
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(500):
        crop = clips.random_crop_flip(video, 5, rng)
        assert crop.shape == (3, 5, 5, 2)
        flipped = crop[0, 0, 0, 0] > crop[0, 0, -1, 0]
        upright = crop[:, :, ::-1] if flipped else crop
        top, left = divmod(upright[0, 0, 0, 0] // 2, 11)
        np.testing.assert_array_equal(upright, video[:, top : top + 5, left : left + 5])
        seen.add((int(top), int(left), bool(flipped)))
    assert len(seen) == 3 * 7 * 2


def test_flip_can_be_switched_off(video):
    rng = np.random.default_rng(0)
    assert all((np.diff(clips.random_crop_flip(video, 5, rng, flip=False), axis=2) > 0).all() for _ in range(20))


def test_center_crop(video):
    np.testing.assert_array_equal(clips.center_crop(video, 5), video[:, 1:6, 3:8])
    np.testing.assert_array_equal(clips.center_crop(video, 7), video[:, :, 2:9])


def test_one_test_crop_is_the_centre(video):
    np.testing.assert_array_equal(clips.test_crops(video, 5, 1), clips.center_crop(video, 5)[None])


def test_three_test_crops_lie_along_the_longer_side(video):
    wide = clips.test_crops(video, 7, 3)
    np.testing.assert_array_equal(wide, [video[:, :, :7], video[:, :, 2:9], video[:, :, 4:]])
    high = clips.test_crops(video.swapaxes(1, 2), 7, 3)
    np.testing.assert_array_equal(high, wide.swapaxes(2, 3))
    np.testing.assert_array_equal(clips.test_crops(video, 5, 3)[2], video[:, 1:6, 6:])


@pytest.mark.parametrize("crops", [0, 2, 10])
def test_other_numbers_of_crops_are_refused(crops, video):
    with pytest.raises(InputError, match=f"num_crops: found {crops}, valid are 1 and 3"):
        clips.test_crops(video, 5, crops)


@pytest.mark.parametrize("crop", [clips.center_crop, lambda *a: clips.test_crops(*a, 3)])
@pytest.mark.parametrize(("size", "message"), [(8, "found 8.*7 x 11"), (0, "found 0")])
def test_crops_that_do_not_fit_are_refused(crop, size, message, video):
    with pytest.raises(InputError, match=message):
        crop(video, size)
    with pytest.raises(InputError, match=message):
        clips.random_crop_flip(video, size, np.random.default_rng(0))
