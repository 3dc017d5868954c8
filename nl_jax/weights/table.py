"""The description of one source of weights: its names, its geometry, and the reader of its files."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Torch's names for the arrays of a norm and of a linear layer, and ours.
TORCH_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
TORCH_LINEAR = {"weight": "kernel", "bias": "bias"}


@dataclasses.dataclass(frozen=True)
class Source:
    """A table of the names of another program and the names of `models.flat`, for both directions.

    "Their" names are the names of the other program, and "our" names are the names of `models.flat`.

    Attributes:
      rows: (their template, our template). A placeholder `{stage}` stands for one of the words in `words["stage"]`. If
        `words` does not have the placeholder, it stands for a number.
      words: maps a placeholder to {their word: our word}.
      read: a function from a path to the arrays of the file by name.
      ignored: regular expressions of names that are known not to be weights.
      geometries: the geometries of the networks in these files. If it is empty, an import does not check the geometry.
      geometries_2d: the same for files with 2-D kernels.
      images: whether these are image networks, whose kernels are inflated.
      mean: mean of the training inputs, by channel of RGB in [0, 1].
      std: standard deviation of the training inputs, by channel.
      epsilon: epsilon of the batch norms.
      affine: whether a file may have norms without statistics.
      bgr: whether the channels of the images are B, G, R. An import then reverses the input channels of the first
        kernel.
      background_last: whether the background is the last class and not the first. The background then has no deltas and
        no mask of its own.
    """

    rows: tuple[tuple[str, str], ...]
    words: Mapping[str, Mapping[str, str]]
    read: Callable[[Path], dict[str, np.ndarray]]
    ignored: tuple[str, ...] = ()
    geometries: tuple[str, ...] = ()
    geometries_2d: tuple[str, ...] = ()
    images: bool = False
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    epsilon: float = 1e-5
    affine: bool = False
    bgr: bool = False
    background_last: bool = False

    def to_ours(self) -> Callable[[str], str | None]:
        """Returns a function from their name to our name. The function returns None if no row fits."""
        return _renamer([(theirs, ours) for theirs, ours in self.rows], self.words)

    def to_theirs(self) -> Callable[[str], str | None]:
        """Returns a function from our name to their name. The function returns None if no row fits."""
        words = {name: {ours: theirs for theirs, ours in pairs.items()} for name, pairs in self.words.items()}
        return _renamer([(ours, theirs) for theirs, ours in self.rows], words)

    def is_ignored(self, name: str) -> bool:
        """Returns whether `name`, one of their names, is known not to be a weight."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


def _renamer(rows, words):
    patterns = [(re.compile(_pattern(before, words)), after) for before, after in rows]

    def rename(name):
        for pattern, after in patterns:
            if match := pattern.fullmatch(name):
                found = match.groupdict().items()
                return after.format(**{key: words.get(key, {}).get(word, word) for key, word in found})
        return None

    return rename


def _pattern(template: str, words) -> str:
    """Returns a template as a regular expression. Literal text and placeholders alternate."""
    parts = re.split(r"\{(\w+)\}", template)
    for i in range(0, len(parts), 2):
        parts[i] = re.escape(parts[i])
    for i in range(1, len(parts), 2):
        choices = "|".join(map(re.escape, words[parts[i]])) if parts[i] in words else r"\d+"
        parts[i] = f"(?P<{parts[i]}>{choices})"
    return "".join(parts)
