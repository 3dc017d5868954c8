import numpy as np
import pytest

from nl_jax.data.video import clips  # imported as a module: pytest would collect test_indices and test_crops
from nl_jax.errors import InputError


@pytest.fixture
def video() -> np.ndarray:
    """Returns uint8 (t, h, w, c) = (3, 7, 11, 2), in which every pixel of a frame is different."""
    return np.arange(3 * 7 * 11 * 2).reshape(3, 7, 11, 2)


def test_a_training_clip_is_strided_and_lies_in_the_video():
    rng = np.random.default_rng(0)
    found = np.stack([clips.train_indices(20, 4, 3, rng) for _ in range(500)])
    assert found.shape == (500, 4)
    assert (np.diff(found) == 3).all()
    assert set(found[:, 0]) == set(range(9))  # clips span 12 frames and start at 0 to 8; every start occurs


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


def test_random_places_are_all_there_are():
    rng = np.random.default_rng(0)
    seen = {clips.random_place(7, 11, 5, rng) for _ in range(500)}
    assert seen == {(top, left) for top in range(3) for left in range(7)}


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
        clips.random_place(7, 11, size, np.random.default_rng(0))


LENGTHS = [1, 5, 31, 63, 64, 65, 100, 127, 128, 250, 299, 300, 301, 437, 1441]


@pytest.mark.parametrize("frames, stride", [(32, 2), (8, 8), (4, 16), (64, 1)])
@pytest.mark.parametrize("num_frames", LENGTHS)
def test_the_conventions_of_others(num_frames, frames, stride, torch):
    """Each convention equals a second version of its publisher's loop, with the same PyTorch or C types."""
    for num_clips in (10, 5, 2):
        found = clips.test_indices(num_frames, frames, stride, num_clips, "caffe2")
        for j in range(num_clips):
            start = int(np.float32(np.float32(num_frames) / np.float32(num_clips)) * np.float32(j)) % num_frames
            assert found[j].tolist() == [(start + i * stride) % num_frames for i in range(frames)]

        room = max(num_frames - ((frames - 1) * stride + 1), 0)
        starts = np.round(np.arange(num_clips) * (room / float(num_clips - 1))).astype(int)
        found = clips.test_indices(num_frames, frames, stride, num_clips, "mmaction2")
        assert found.tolist() == [[(start + i * stride) % num_frames for i in range(frames)] for start in starts]

        for rate in (0.0, 30.0, 25.0, 29.97, 24.0, 15.0, 59.94):
            found = clips.test_indices(num_frames, frames, stride, num_clips, "slowfast", rate)
            size = stride * frames / 30 * (rate or 30)
            for j in range(num_clips):
                start = max(num_frames - size, 0) * j / num_clips
                from_pts, to_pts = int(start * 512), int((start + size - 1) * 512)
                decoded = [i for i in range(num_frames) if from_pts <= i * 512 <= to_pts]
                places = torch.clamp(torch.linspace(0, size - 1, frames), 0, len(decoded) - 1).long()
                assert found[j].tolist() == [decoded[place] for place in places]


def test_conventions_differ():
    starts = {name: clips.test_indices(300, 32, 2, 10, name, 30.0)[:, 0].tolist() for name in clips.STARTS}
    assert starts == {
        "paper": [0, 26, 52, 79, 105, 131, 157, 184, 210, 236],
        "caffe2": [0, 30, 60, 90, 120, 150, 180, 210, 240, 270],
        "slowfast": [0, 24, 48, 71, 95, 118, 142, 166, 189, 213],
        "mmaction2": [0, 26, 53, 79, 105, 132, 158, 184, 211, 237],
    }
    assert clips.test_indices(300, 32, 2, 1, "mmaction2")[0, 0] == 118
    with pytest.raises(InputError, match="starts: found 'tsn', valid are paper, caffe2"):
        clips.test_indices(300, 32, 2, 1, "tsn")
