"""The base of every dataset of videos: random clips for training, all views for testing (paper section 4)."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nl_jax.data.dataset import MAX_FAILED, padded_failed
from nl_jax.data.media.decode import Crop, read_crops
from nl_jax.data.media.failure import DecodeError, ShortVideoError, Source
from nl_jax.data.media.image_files import is_picture
from nl_jax.data.video.clips import STARTS, random_place, test_crops, test_indices, train_indices
from nl_jax.errors import InputError


class Videos:
    """Labelled videos from any source. A subclass implements `_video`, which finds a video.

    Args:
      root: place of the videos, for messages.
      names: names of the videos.
      labels: labels of the videos, as indices of `classes`.
      classes: class names in label order.
      frames: t, frames in a clip.
      stride: distance in frames between neighbours in a clip.
      crop: side of training crops, in pixels.
      short_side: (lowest, highest) shorter side of training frames, in pixels. It is drawn uniformly, and frames are
        scaled to it.
      test_crop: side of test crops, in pixels. With 0 the network is tested on whole frames, each video in its own
        size.
      test_short_side: shorter side of test frames, in pixels.
      num_clips: test clips of each video.
      num_crops: test crops of each clip, 1 or 3; 1 for whole frames.
      flip: whether half of the training clips are mirrored.
      starts: convention for the starts of test clips: see `nl_jax.data.video.clips.test_indices`.

    Attributes:
      names, labels, classes: the arguments.
      multi_label: whether a clip can have several classes. If true, a label is (k,) of 0 and 1.
      variable_size: whether the test views of different videos differ in height and width.

    Raises:
      InputError: a number is out of range, or all videos are still pictures and a clip has several frames.
    """

    multi_label = False
    ignored: Sequence[str] = ()

    def __init__(
        self,
        root: str,
        names: list[str],
        labels: Sequence[int],
        classes: tuple[str, ...],
        *,
        frames: int,
        stride: int,
        crop: int,
        short_side: tuple[int, int],
        test_crop: int,
        test_short_side: int,
        num_clips: int,
        num_crops: int,
        flip: bool = True,
        starts: str = "paper",
    ):
        for field, value in (("frames", frames), ("stride", stride), ("crop", crop), ("num_clips", num_clips)):
            if value < 1:
                raise InputError(f"{field}: found {value}, valid are integers from 1")
        if len(short_side) != 2 or not crop <= short_side[0] <= short_side[1]:
            raise InputError(f"short_side: found {short_side}, valid is crop ({crop}) <= lowest <= highest")
        if not 0 <= test_crop <= test_short_side or test_short_side < 1:
            raise InputError(
                f"test_crop: found {test_crop}, valid is 0 (whole frames) to test_short_side ({test_short_side})"
            )
        if num_crops not in ((1, 3) if test_crop else (1,)):
            raise InputError(f"num_crops: found {num_crops}, valid are 1 and 3, and with whole frames 1")
        if starts not in STARTS:
            raise InputError(f"starts: found {starts!r}, valid are {', '.join(STARTS)}")
        if frames > 1 and names and all(is_picture(name.rpartition("/")[2]) for name in names):
            raise InputError(
                f"{root}: found still pictures alone, which are clips of one frame; frames: found {frames}, valid is 1"
            )
        self._root, self.names, self.labels, self.classes = root, names, labels, classes
        self._frames, self._stride, self._crop, self._short_side, self._flip = frames, stride, crop, short_side, flip
        self._test_crop, self._test_short_side = test_crop, test_short_side
        self._num_clips, self._num_crops, self._starts = num_clips, num_crops, starts
        self.variable_size = not test_crop

    def __len__(self) -> int:
        return len(self.names)

    def _video(self, index: int) -> tuple[Source, int, float]:
        """Returns a video, its stated number of frames, and its frames per second. It may raise DecodeError."""
        raise NotImplementedError

    def _label(self, index: int, indices: np.ndarray | None) -> np.int32 | np.ndarray:
        """Returns the label of a clip with the frames `indices`. None stands for the whole video."""
        return np.int32(self.labels[index])

    def train_example(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns a clip of one video at a random place, with a random scale, crop and flip.

        The result depends only on `index` and the state of `rng`. If the video cannot be decoded, another video, drawn
        from all videos, replaces it.

        Args:
          index: the number of the video.
          rng: source of all random choices.

        Returns:
          video: uint8 (t, h, w, c), h = w = `crop`.
          label: int32 (), or float32 (k,) for several classes, the label of the shown video.
          index: int32 (), the requested index.
          failed: int32 (MAX_FAILED,), indices of videos that could not be decoded, padded with -1.

        Raises:
          DecodeError: MAX_FAILED + 1 videos, or all videos of a smaller dataset, cannot be decoded.
        """
        return self.train_examples(index, rng, 1)[0]

    def train_examples(self, index: int, rng: np.random.Generator, count: int) -> list[dict[str, np.ndarray]]:
        """Returns several random clips of one video that is decoded once (repeated augmentation, arXiv 1901.09335).

        All clips show the same frames. Each clip has its own scale, crop and flip. The first clip is the clip of
        `train_example`.

        Args:
          index: the number of the video.
          rng: source of all random choices.
          count: the number of clips.

        Returns:
          the dict of `train_example`, for each clip.

        Raises:
          DecodeError: as in `train_example`.
        """
        seed = int(rng.integers(2**63))
        failed: list[int] = []
        reasons: list[str] = []
        for shown in self._candidates(index, seed):
            # Every clip has its own generator, so no clip depends on an earlier clip.
            rngs = [np.random.default_rng(seed), *(np.random.default_rng((seed, 2, k)) for k in range(1, count))]
            crops, mirrored, starts = zip(*map(self._random_crop, rngs), strict=True)
            try:
                clips, indices = self._read(shown, lambda n, _, rng=starts[0]: self._train_indices(n, rng), crops)
            except DecodeError as error:
                failed.append(shown)
                reasons.append(error.reason)
                continue
            flipped = np.arange(self._crop)[::-1]  # faster than a copy of a reversed view
            clips = [clip.take(flipped, axis=2) if flip else clip for clip, flip in zip(clips, mirrored, strict=True)]
            label = self._label(shown, indices)
            return [self._example(clip, label, index, failed) for clip in clips]
        names = ", ".join(self.names[i] for i in failed)
        raise DecodeError(
            self._root,
            f"{len(failed)} of {len(self)} videos tried, none can be decoded: {names}; the first: {reasons[0]}",
        )

    def _random_crop(self, rng: np.random.Generator) -> tuple[tuple[int, Crop], bool, np.random.Generator]:
        """Returns a scale and a crop, whether the clip is mirrored, and a generator for the start of the clip."""
        short_side = int(rng.integers(self._short_side[0], self._short_side[1] + 1))
        start, place = rng.spawn(2)
        mirror, seed_of_place = bool(place.integers(2)) and self._flip, int(place.integers(2**63))

        def crop(height, width):  # called again if the video has fewer frames than stated
            return *random_place(height, width, self._crop, np.random.default_rng(seed_of_place)), self._crop

        return (short_side, crop), mirror, start

    def test_example(self, index: int) -> dict[str, np.ndarray]:
        """Returns all test views of one video: `num_crops` crops of each of `num_clips` clips, clip by clip.

        The views of a video that cannot be decoded are zeros, and its index is the first of `failed`. It is not
        replaced.

        Args:
          index: the number of the video.

        Returns:
          video: uint8 (v, t, h, w, c), v = num_clips * num_crops, h = w = `test_crop`. Whole frames keep the video's
            own size.
          label, index, failed: as in `train_example`.
        """
        clips, t, size = self._num_clips, self._frames, self._test_crop
        failed = []
        try:
            (frames,), _ = self._read(index, self._test_indices, [(self._test_short_side, None)])
        except DecodeError:
            failed.append(index)
            side = size or self._test_short_side
            views = np.zeros((clips * self._num_crops, t, side, side, 3), np.uint8)
        else:
            views = frames.reshape(clips, t, *frames.shape[1:])
            if size:
                views = np.concatenate([test_crops(clip, size, self._num_crops) for clip in views])
        return self._example(views, self._label(index, None), index, failed)

    def failure_reason(self, index: int) -> str:
        """Returns the reason why a video of `failed` cannot be decoded.

        It decodes the video again to find the reason.
        """
        try:
            self._read(index, self._test_indices, [(self._test_short_side, None)])
        except DecodeError as error:
            return error.reason
        return "it decodes now"

    def empty_classes(self) -> tuple[str, ...]:
        """Returns the classes without a video. With several classes per clip the result is empty."""
        used = set(range(len(self.classes)) if self.multi_label else self.labels)
        return tuple(name for label, name in enumerate(self.classes) if label not in used)

    def list_hash(self) -> str:
        """Returns a hash (12 hex digits) of the videos and labels. It does not depend on their folder or order.

        The two Unicode forms of one name (NFC and NFD) give the same hash.
        """
        lines = [f"{name},{self._label_text(index)}" for index, name in enumerate(self.names)]
        lines = sorted(unicodedata.normalize("NFC", line) for line in lines)
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:12]

    def _candidates(self, index: int, seed: int) -> Iterator[int]:
        """Yields the requested video, then other videos in random order.

        The order is random because broken files often lie side by side.
        """
        yield index
        others = np.random.default_rng((seed, 1)).choice(
            len(self) - 1, min(MAX_FAILED, len(self) - 1), replace=False, shuffle=True
        )
        yield from (int(other + (other >= index)) for other in others)

    def _label_text(self, index: int) -> str:
        return self.classes[self.labels[index]]

    def _train_indices(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        return train_indices(num_frames, self._frames, self._stride, rng)

    def _test_indices(self, num_frames: int, rate: float) -> np.ndarray:
        return test_indices(num_frames, self._frames, self._stride, self._num_clips, self._starts, rate).ravel()

    def _read(
        self,
        index: int,
        sample: Callable[[int, float], np.ndarray],
        crops: Sequence[tuple[int, Crop | None]],
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns the frames of a video for each of `crops`, and the numbers of the frames.

        If the video has fewer frames than stated, the frames are sampled again. The stated number always comes first,
        so that samples do not depend on videos that were read before.

        Args:
          index: the number of the video.
          sample: takes the number of frames and the frames per second, returns the numbers of the frames.
          crops: as in `read_crops`.
        """
        video, promised, rate = self._video(index)
        indices = sample(promised, rate)
        try:
            return read_crops(video, indices, crops), indices
        except ShortVideoError as error:  # some packets do not decode, or hold no frame
            indices = sample(error.frames, rate)
        return read_crops(video, indices, crops), indices

    @staticmethod
    def _example(
        video: np.ndarray, label: np.int32 | np.ndarray, index: int, failed: list[int]
    ) -> dict[str, np.ndarray]:
        return {"video": video, "label": label, "index": np.int32(index), "failed": padded_failed(failed)}
