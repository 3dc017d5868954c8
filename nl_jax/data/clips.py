"""Which frames and which crops of a video the network sees, in training and at test time (paper section 4).

Videos are arrays (t, h, w, c). A clip spans `frames * stride` consecutive frames and takes every stride-th of them.
"""

import numpy as np

from nl_jax.errors import InputError


def train_indices(num_frames: int, frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Frame numbers (t,) of a clip at a random place; a video shorter than the clip loops.

    Raises:
        InputError: a number below 1.
    """
    last = _last_start(num_frames, frames, stride)
    return (rng.integers(last + 1) + np.arange(frames) * stride) % num_frames


def test_indices(num_frames: int, frames: int, stride: int, num_clips: int) -> np.ndarray:
    """Frame numbers (num_clips, t) of clips spread evenly over the video; a video shorter than a clip loops.

    The first clip starts with the video and the last ends with it; a single clip is the one at the centre.

    Raises:
        InputError: a number below 1.
    """
    last = _last_start(num_frames, frames, stride)
    _positive(num_clips=num_clips)
    starts = np.linspace(0, last, num_clips) if num_clips > 1 else np.array([last / 2])
    return (np.floor(starts + 0.5).astype(int)[:, None] + np.arange(frames) * stride) % num_frames


def random_crop_flip(video: np.ndarray, size: int, rng: np.random.Generator, flip: bool = True) -> np.ndarray:
    """A size x size crop at a random place, the same in all frames, mirrored left to right half of the time.

    Args:
        video: (t, h, w, c).
        size: pixels.
        rng: source of the place and of the mirroring.
        flip: whether to mirror at all.

    Returns:
        (t, size, size, c), a view of `video`.

    Raises:
        InputError: the video is smaller than the crop.
    """
    height, width = _room(video, size)
    top, left = rng.integers(height + 1), rng.integers(width + 1)
    crop = video[:, top : top + size, left : left + size]
    return crop[:, :, ::-1] if flip and rng.integers(2) else crop


def center_crop(video: np.ndarray, size: int) -> np.ndarray:
    """The size x size crop (t, size, size, c) at the centre of a video (t, h, w, c), as a view.

    Raises:
        InputError: the video is smaller than the crop.
    """
    height, width = _room(video, size)
    return video[:, height // 2 : height // 2 + size, width // 2 : width // 2 + size]


def test_crops(video: np.ndarray, size: int, num_crops: int) -> np.ndarray:
    """Crops (num_crops, t, size, size, c) of a video (t, h, w, c) at test time.

    One crop is the centre; three lie at the start, the centre and the end of the longer side, in the middle of the
    shorter one, and so cover the whole frame when `size` is the shorter side.

    Raises:
        InputError: `num_crops` is neither 1 nor 3, or the video is smaller than the crop.
    """
    if num_crops not in (1, 3):
        raise InputError(f"num_crops: found {num_crops}, valid are 1 and 3")
    if num_crops == 1:
        return center_crop(video, size)[None]
    height, width = _room(video, size)
    if width >= height:
        places = [(height // 2, left) for left in (0, width // 2, width)]
    else:
        places = [(top, width // 2) for top in (0, height // 2, height)]
    return np.stack([video[:, top : top + size, left : left + size] for top, left in places])


def _last_start(num_frames: int, frames: int, stride: int) -> int:
    _positive(num_frames=num_frames, frames=frames, stride=stride)
    return max(0, num_frames - frames * stride)


def _room(video: np.ndarray, size: int) -> tuple[int, int]:
    """Pixels by which the frames are higher and wider than the crop."""
    _positive(size=size)
    height, width = video.shape[1:3]
    if size > min(height, width):
        raise InputError(f"crop size: found {size}, valid is at most the shorter side of the {height} x {width} frames")
    return height - size, width - size


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name}: found {value}, valid are integers from 1")
