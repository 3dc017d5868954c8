"""A data set of labelled videos on disk: a CSV list, or a folder with one sub-folder per class."""

import csv
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nl_jax.data.clips import random_crop_flip, test_crops, test_indices, train_indices
from nl_jax.data.decode import DecodeError, ShortVideoError, probe, read_frames
from nl_jax.errors import InputError

MAX_FAILED = 15  # videos that may fail to decode before a training clip is given up

VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .asf .avi .f4v .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv "
    ".bmp .gif .jpeg .jpg .png .tif .tiff .webp".split()
)

_MAX_CLASSES = 1_000_000  # an integer label beyond is a mistake, not a class


class VideoFolder:
    """Labelled videos, and the clips and crops the paper takes of them (section 4).

    Args:
        path: a CSV file of `path,label` lines (that very header line is optional; relative paths start at the CSV's
            folder), or a folder with one sub-folder of videos per class.
        frames: t, frames per clip.
        stride: a clip takes every stride-th frame.
        crop: side in pixels of training crops.
        short_side: (lowest, highest) shorter side in pixels to which training frames are scaled, drawn uniformly.
        test_crop: side in pixels of test crops.
        test_short_side: shorter side in pixels of frames at test time.
        num_clips: test clips per video.
        num_crops: test crops per clip, 1 or 3.
        flip: whether half of the training clips are mirrored.
        classes: class names in label order. Without it they are the sorted labels found or, when all labels are
            integers, "0" to the highest.

    Attributes:
        classes: class names; a label is an index into them.
        names: path of every video relative to the CSV or the folder, with forward slashes.
        labels: label of every video.
        ignored: files in the folder that are not taken for videos, are hidden, or lie in no class folder.

    Raises:
        InputError: the list is missing, empty or wrong, a listed file does not exist or is listed twice, a label is
            not among `classes`, or a number is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike,
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
        classes: tuple[str, ...] | None = None,
    ):
        for field, value in (("frames", frames), ("stride", stride), ("crop", crop), ("num_clips", num_clips)):
            if value < 1:
                raise InputError(f"{field}: found {value}, valid are integers from 1")
        if len(short_side) != 2 or not crop <= short_side[0] <= short_side[1]:
            raise InputError(f"short_side: found {short_side}, valid is crop ({crop}) <= lowest <= highest")
        if not 1 <= test_crop <= test_short_side:
            raise InputError(f"test_crop: found {test_crop}, valid is 1 to test_short_side ({test_short_side})")
        if num_crops not in (1, 3):
            raise InputError(f"num_crops: found {num_crops}, valid are 1 and 3")
        self._frames, self._stride, self._crop, self._short_side, self._flip = frames, stride, crop, short_side, flip
        self._test_crop, self._test_short_side = test_crop, test_short_side
        self._num_clips, self._num_crops = num_clips, num_crops
        self._true_frames: dict[int, int] = {}  # of videos whose header promised more than decodes

        if os.path.isdir(path):
            self._root = str(path)
            self.ignored, rows, found = _list_folder(Path(path))
        elif os.path.isfile(path):
            self._root = str(Path(path).parent)
            self.ignored, rows, found = [], *_list_csv(Path(path))
        else:
            raise InputError(f"{path}: there is no such file or folder, valid is a CSV file or a folder of videos")
        self.classes = _class_names(found, path) if classes is None else tuple(classes)
        index = {name: i for i, name in enumerate(self.classes)}
        if len(index) < len(self.classes):
            raise InputError(f"classes: found {self.classes}, valid are distinct names")
        self.names: list[str] = []
        self.labels: list[int] = []
        for name, label, where in rows:
            if label not in index:
                raise InputError(f"{where}: found label {label!r}, valid are {_shortened(self.classes)}")
            self.names.append(name)
            self.labels.append(index[label])

    def __len__(self) -> int:
        return len(self.names)

    def train_clip(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """A random clip, scale, crop and flip of one video, a function of `index` and the state of `rng` alone.

        A video that cannot be decoded is replaced by another, drawn from those of the folder.

        Returns:
            video: uint8 (t, h, w, c), h = w = `crop`.
            label: int32, that of the video shown.
            index: int32, the index asked for.
            failed: int32 (MAX_FAILED,), indices of videos that could not be decoded, padded with -1.

        Raises:
            DecodeError: MAX_FAILED + 1 videos, or all there are, cannot be decoded.
        """
        seed = int(rng.integers(2**63))
        failed: list[int] = []
        for shown in self._candidates(index, seed):
            rng = np.random.default_rng(seed)  # every draw starts anew, so that none depends on what came before
            short_side = int(rng.integers(self._short_side[0], self._short_side[1] + 1))
            start, place = rng.spawn(2)
            try:
                video = self._read(shown, lambda n, rng=start: self._train_indices(n, rng), short_side)
            except DecodeError:
                failed.append(shown)
                continue
            crop = random_crop_flip(video, self._crop, place, self._flip)
            return self._example(np.ascontiguousarray(crop), self.labels[shown], index, failed)
        names = ", ".join(self.names[i] for i in failed)
        raise DecodeError(self._root, f"{len(failed)} of {len(self)} videos tried, none can be decoded: {names}")

    def test_views(self, index: int) -> dict[str, np.ndarray]:
        """All test views of one video: `num_crops` crops of each of `num_clips` clips, clip by clip.

        A video that cannot be decoded is not replaced: its views are zeros and it is the first of `failed`.

        Returns:
            video: uint8 (v, t, h, w, c), v = num_clips * num_crops, h = w = `test_crop`.
            label, index, failed: as `train_clip`.
        """
        clips, t, size = self._num_clips, self._frames, self._test_crop
        views = np.zeros((clips, self._num_crops, t, size, size, 3), np.uint8)
        failed = []
        try:
            frames = self._read(index, self._test_indices, self._test_short_side)
        except DecodeError:
            failed.append(index)
        else:
            for clip, view in zip(frames.reshape(clips, t, *frames.shape[1:]), views, strict=True):
                view[:] = test_crops(clip, size, self._num_crops)
        return self._example(views.reshape(-1, t, size, size, 3), self.labels[index], index, failed)

    def failure_reason(self, index: int) -> str:
        """Why a video reported in `failed` cannot be decoded: tries once more, and says so if it now can."""
        try:
            self._read(index, self._test_indices, self._test_short_side)
        except DecodeError as error:
            return error.reason
        return "it decodes now"

    def list_hash(self) -> str:
        """12 hex digits that name this list of videos and labels, wherever its copy lies and in whatever order."""
        lines = sorted(f"{name},{self.classes[label]}" for name, label in zip(self.names, self.labels, strict=True))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:12]

    def _candidates(self, index: int, seed: int) -> Iterator[int]:
        """The video asked for, then others in a random order: broken files often lie side by side."""
        yield index
        others = np.random.default_rng((seed, 1)).choice(
            len(self) - 1, min(MAX_FAILED, len(self) - 1), replace=False, shuffle=True
        )
        yield from (int(other + (other >= index)) for other in others)

    def _train_indices(self, num_frames: int, rng: np.random.Generator) -> np.ndarray:
        return train_indices(num_frames, self._frames, self._stride, rng)

    def _test_indices(self, num_frames: int) -> np.ndarray:
        return test_indices(num_frames, self._frames, self._stride, self._num_clips).ravel()

    def _read(self, index: int, sample: Callable[[int], np.ndarray], short_side: int) -> np.ndarray:
        """Frames `sample(number of frames)` of a video, sampled once more if its header promised too many.

        The header is always asked first: what is sampled must not depend on which videos were read before.
        """
        path = os.path.join(self._root, self.names[index])
        indices = sample(probe(path).frames)
        true = self._true_frames.get(index)
        if true is None or indices.max() < true:
            try:
                return read_frames(path, indices, short_side=short_side)
            except ShortVideoError as error:
                true = self._true_frames[index] = error.frames
        return read_frames(path, sample(true), short_side=short_side)

    @staticmethod
    def _example(video: np.ndarray, label: int, index: int, failed: list[int]) -> dict[str, np.ndarray]:
        padded = np.full(MAX_FAILED, -1, np.int32)
        padded[: len(failed)] = failed
        return {"video": video, "label": np.int32(label), "index": np.int32(index), "failed": padded}


# Both listings return rows (name, label, where it stands, for messages) and the labels found.
_Row = tuple[str, str, str]


def _list_folder(root: Path) -> tuple[list[str], list[_Row], list[str]]:
    ignored, rows = [], []
    folders = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not folders:
        raise InputError(f"{root}: found no sub-folder, valid is one sub-folder of videos per class")
    for file in sorted(f for f in root.rglob("*") if not f.is_dir()):
        name = file.relative_to(root)
        hidden = any(part.startswith(".") for part in name.parts)
        if file.suffix.lower() in VIDEO_SUFFIXES and name.parts[0] in folders and not hidden:
            rows.append((name.as_posix(), name.parts[0], str(root / name.parts[0])))
        else:
            ignored.append(name.as_posix())
    if not rows:
        raise InputError(
            f"{root}: found no video in its sub-folders, valid endings are {' '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return ignored, rows, folders


def _list_csv(file: Path) -> tuple[list[_Row], list[str]]:
    rows, lines = [], {}
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, strict=True)
            for first, row in enumerate(reader):
                fields = [field.strip() for field in row]
                where = f"{file}, line {reader.line_num}"
                if not any(fields) or (first == 0 and fields == ["path", "label"]):
                    continue
                if len(fields) != 2 or not all(fields):
                    raise InputError(f"{where}: found {','.join(row)!r}, valid is path,label")
                name = _relative(fields[0], file.parent)
                if name in lines:
                    raise InputError(f"{where}: {name} is listed already in line {lines[name]}, valid is once")
                if not os.path.isfile(file.parent / name):
                    raise InputError(f"{where}: there is no file {file.parent / name}")
                lines[name] = reader.line_num
                rows.append((name, fields[1], where))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a CSV text in UTF-8 ({error}), valid are path,label lines") from error
    if not rows:
        raise InputError(f"{file}: found no line, valid are path,label lines")
    return rows, [label for _, label, _ in rows]


def _relative(path: str, root: Path) -> str:
    """One spelling per file, relative to the list where it lies below it."""
    absolute = Path(os.path.abspath(root))
    clean = Path(os.path.normpath(path))
    return (clean.relative_to(absolute) if clean.is_relative_to(absolute) else clean).as_posix()


def _class_names(labels: list[str], path: str | os.PathLike) -> tuple[str, ...]:
    found = set(labels)
    if negative := sorted(label for label in found if label.startswith("-") and label[1:].isdecimal()):
        raise InputError(f"{path}: found the label {negative[0]}, valid are class names or integers from 0")
    if not all(label.isdecimal() and str(int(label)) == label for label in found):
        return tuple(sorted(found))
    highest = max(int(label) for label in found)
    if highest >= _MAX_CLASSES:
        raise InputError(f"{path}: found the label {highest}, valid are class names or integers below {_MAX_CLASSES}")
    return tuple(str(i) for i in range(highest + 1))


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])} and {len(names) - 20} more"
