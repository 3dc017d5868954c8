"""The choice of the data for a split for which the user gave no data."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from nl_jax.errors import InputError

Paths = Mapping[str, str] | ConfigDict  # path of each split; "" means that it is not given

# The splits that can replace each split, in order of preference. So a run with one folder works. Its figures then show
# only how well the network fits this folder.
ORDER = {"train": ("train",), "validation": ("validation", "train"), "test": ("test", "validation", "train")}


def stand_in(paths: Paths, split: str) -> str:
    """Returns the split whose data are used for `split`: the first split of ORDER for which the user gave data."""
    return next((name for name in ORDER[split] if paths[name]), split)


def path_of(paths: Paths, split: str, valid: str) -> str:
    """Returns the path of the data used for `split`. An imported network has no training data, but one can test it.

    Args:
      paths: path of each split.
      split: train, validation or test.
      valid: the valid paths, for the error message.

    Raises:
      InputError: the user gave no data that can be used for `split`.
    """
    used = stand_in(paths, split)
    if not paths[used]:
        raise InputError(f"data.{used} is empty: give {valid}")
    return paths[used]


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

    A figure on the training examples shows only the fit of the network and must not be called a validation.
    """
    return f"the training {example}s" if stand_in(paths, "validation") == "train" else "validation"
