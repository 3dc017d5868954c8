"""Chooses the data on which a figure is measured if the user gave no data for its split."""

from collections.abc import Mapping

from ml_collections import ConfigDict

Paths = Mapping[str, str] | ConfigDict  # path of each split; "" means that it is not given

# The splits that can replace each split, in order of preference. A user with one folder sees only how well the network
# fits it.
ORDER = {"train": ("train",), "validation": ("validation", "train"), "test": ("test", "validation", "train")}


def stand_in(paths: Paths, split: str) -> str:
    """Returns the split whose data are used for `split`: `split` itself if given, else the first given one of ORDER."""
    return next((name for name in ORDER[split] if paths[name]), split)


def measured_on(paths: Paths, split: str, example: str) -> str:
    """Returns the name of the examples on which a figure of this split is measured.

    Args:
        paths: path of each split.
        split: train, validation or test.
        example: the word for an example, such as "video".
    """
    used = stand_in(paths, split)
    if used == split:
        return f"the {split} split"
    shown = {"train": "training", "validation": "validation"}[used]
    return f"the {shown} {example}s (data.{split} is not given)"


def validated_on(paths: Paths, example: str) -> str:
    """Returns "validation", or the name of the training examples if they replace the validation split.

    A figure on the training examples only shows the fit of the network and must not be called a validation.
    """
    return f"the training {example}s" if stand_in(paths, "validation") == "train" else "validation"
