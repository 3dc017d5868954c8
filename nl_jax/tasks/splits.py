"""Which data a figure is measured on where the user gave no data for its split."""

from collections.abc import Mapping

from ml_collections import ConfigDict

Paths = Mapping[str, str] | ConfigDict  # of each split; "" is not given

# What stands for each split, the first that is given: a user with one folder only sees how well it is fitted.
ORDER = {"train": ("train",), "validation": ("validation", "train"), "test": ("test", "validation", "train")}


def stand_in(paths: Paths, split: str) -> str:
    """The split whose data stand for `split`: itself where its path is given, else the next that is."""
    return next((name for name in ORDER[split] if paths[name]), split)


def measured_on(paths: Paths, split: str, example: str) -> str:
    """What a figure of this split is measured on, in words; an example is a "video", say."""
    used = stand_in(paths, split)
    if used == split:
        return f"the {split} split"
    shown = {"train": "training", "validation": "validation"}[used]
    return f"the {shown} {example}s (data.{split} is not given)"


def validated_on(paths: Paths, example: str) -> str:
    """ "validation", or the training examples where they stand for it: a network's fit must not be taken for one."""
    return f"the training {example}s" if stand_in(paths, "validation") == "train" else "validation"
