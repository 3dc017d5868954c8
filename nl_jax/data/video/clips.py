"""Chooses the frames and the crops of a video that the network sees, in training and in testing (paper section 4).

A video is an array (t, h, w, c). A clip spans `frames * stride` consecutive frames and has every stride-th of them.
"""

import numpy as np

from nl_jax.errors import InputError

STARTS = ("paper", "caffe2", "slowfast", "mmaction2")


def train_indices(num_frames: int, frames: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the frame numbers (t,) of a clip at a random place. A video that is shorter than the clip loops.

    Args:
      num_frames: number of frames of the video.
      frames: t.
      stride: distance in frames between neighbours in a clip.
      rng: source of the random place.

    Raises:
      InputError: a number is below 1.
    """
    last = _last_start(num_frames, frames, stride)
    return (rng.integers(last + 1) + np.arange(frames) * stride) % num_frames


def test_indices(
    num_frames: int, frames: int, stride: int, num_clips: int, starts: str = "paper", rate: float = 0.0
) -> np.ndarray:
    """Returns the frame numbers (num_clips, t) of the test clips of a video.

    The video has N frames. A clip spans L = frames * stride frames. There are K = num_clips clips, j = 0 .. K-1.
    Published accuracies use different conventions for the start of clip j, and for a video that is shorter than a clip:

    - paper: the starts are spread evenly: floor((N - L) j / (K - 1) + 1/2). So the first clip starts with the video,
      and the last clip ends with it. A single clip lies at the centre. A short video loops.
    - caffe2 (the paper's release): floor(N / K j) in single precision. A clip that passes the end continues from the
      start.
    - slowfast: a clip has the duration of L frames at 30 frames per second. This is L' = L rate / 30 frames of the
      video. The clip starts at (N - L') j / K. Its `frames` numbers are spread evenly over the frames that PyAV returns
      for this span, and are rounded down. If PyAV returns too few frames, the last frame is repeated.
    - mmaction2: round((N - L + stride - 1) j / (K - 1)), where halves round to even. A single clip starts at
      floor((N - L + stride - 1) / 2). A short video loops.

    Args:
      num_frames: N.
      frames: t.
      stride: distance in frames between neighbours in a clip.
      num_clips: K.
      starts: name of the convention.
      rate: frames per second of the video. Only `slowfast` uses it. 0 means unknown and counts as 30.

    Raises:
      InputError: a number is below 1, or `starts` is another name.
    """
    last = _last_start(num_frames, frames, stride)
    _positive(num_clips=num_clips)
    if starts not in STARTS:
        raise InputError(f"starts: found {starts!r}, valid are {', '.join(STARTS)}")
    clips = np.arange(num_clips)
    steps = np.arange(frames) * stride
    if starts == "slowfast":
        span = stride * frames / 30 * (rate or 30)
        start = max(num_frames - span, 0) * clips / num_clips
        # An MP4's clock usually has 512 ticks in a frame. PyAV seeks to a whole tick, and takes the frames from there.
        ticks = 512
        first = np.ceil(np.floor(start * ticks) / ticks).astype(int)
        last = np.floor(np.floor((start + span - 1) * ticks) / ticks).astype(int)
        numbers = first[:, None] + _spread(span - 1, frames)
        return np.minimum(numbers, np.minimum(last, num_frames - 1)[:, None])
    if starts == "caffe2":
        first = (np.float32(num_frames) / np.float32(num_clips) * clips.astype(np.float32)).astype(int) % num_frames
    elif starts == "mmaction2":
        room = max(0, num_frames - (frames - 1) * stride - 1)
        first = np.round(clips * (room / (num_clips - 1))).astype(int) if num_clips > 1 else np.array([room // 2])
    else:
        even = np.linspace(0, last, num_clips) if num_clips > 1 else np.array([last / 2])
        first = np.floor(even + 0.5).astype(int)
    return (first[:, None] + steps) % num_frames


def random_place(height: int, width: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Returns the top and the left of a square crop at a random place of an image.

    Args:
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      size: side of the crop, in pixels.
      rng: source of the random place.

    Raises:
      InputError: the image is smaller than the crop.
    """
    spare = _room((height, width), size)
    return int(rng.integers(spare[0] + 1)), int(rng.integers(spare[1] + 1))


def center_crop(video: np.ndarray, size: int) -> np.ndarray:
    """Returns the crop (t, size, size, c) at the centre of a video (t, h, w, c), as a view.

    Raises:
      InputError: the video is smaller than the crop.
    """
    height, width = _room(video.shape[1:3], size)
    return video[:, height // 2 : height // 2 + size, width // 2 : width // 2 + size]


def test_crops(video: np.ndarray, size: int, num_crops: int) -> np.ndarray:
    """Returns the test crops (num_crops, t, size, size, c) of a video (t, h, w, c).

    One crop lies at the centre. Three crops lie at the start, the centre and the end of the longer side, and in the
    middle of the shorter side. They cover the whole frame if `size` is the shorter side and the longer side is at most
    three times as long.

    Args:
      video: the video.
      size: side of a crop, in pixels.
      num_crops: 1 or 3.

    Raises:
      InputError: `num_crops` is neither 1 nor 3, or the video is smaller than the crop.
    """
    if num_crops not in (1, 3):
        raise InputError(f"num_crops: found {num_crops}, valid are 1 and 3")
    if num_crops == 1:
        return center_crop(video, size)[None]
    height, width = _room(video.shape[1:3], size)
    if width >= height:
        places = [(height // 2, left) for left in (0, width // 2, width)]
    else:
        places = [(top, width // 2) for top in (0, height // 2, height)]
    return np.stack([video[:, top : top + size, left : left + size] for top, left in places])


def _spread(end: float, count: int) -> np.ndarray:
    """Returns whole numbers (count,) spread evenly from 0 to `end`, rounded down.

    Like PyTorch's linspace, it computes in single precision and counts the second half back from `end`.
    """
    end, places = np.float32(end), np.arange(count, dtype=np.float32)
    step = end / np.float32(max(1, count - 1))
    return np.where(places < count // 2, step * places, end - step * places[::-1]).astype(int)


def _last_start(num_frames: int, frames: int, stride: int) -> int:
    _positive(num_frames=num_frames, frames=frames, stride=stride)
    return max(0, num_frames - frames * stride)


def _room(frame: tuple[int, ...], size: int) -> tuple[int, int]:
    """Returns the pixels by which a frame is higher and wider than the crop."""
    _positive(size=size)
    height, width = frame
    if size > min(height, width):
        raise InputError(f"crop size: found {size}, valid is at most the shorter side of the {height} x {width} frames")
    return height - size, width - size


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name}: found {value}, valid are integers from 1")
