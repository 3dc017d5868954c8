"""The names of the classes of Kinetics-400 and COCO. Their files are part of the package."""

from importlib.resources import files

from nl_jax.errors import InputError

KINDS = ("kinetics400", "imagenet1k", "coco80", "coco90", "")


def class_names(kind: str) -> tuple[str, ...]:
    """Returns the class names by label.

    Args:
      kind: one of
        "kinetics400": 400 names in alphabetical order.
        "coco80": the 80 classes that COCO uses.
        "coco90": label i is the class with the number i + 1 of COCO. If COCO does not use a number, its name is
          "unused 12", ..
        "imagenet1k": the numbers 0 to 999 as names.
        "": no names, for a network without classifier.

    Raises:
      InputError: for another kind.
    """
    if kind not in KINDS:
        raise InputError(f"classes={kind!r} is unknown; choose one of {', '.join(filter(None, KINDS))}")
    if kind == "kinetics400":
        return tuple(_lines("kinetics400.txt"))
    if kind == "imagenet1k":
        return tuple(map(str, range(1000)))
    numbered = dict(line.split(" ", 1) for line in _lines("coco.txt")) if kind else {}
    if kind == "coco90":
        return tuple(numbered.get(str(number), f"unused {number}") for number in range(1, 91))
    return tuple(numbered.values())


def _lines(name: str) -> list[str]:
    return (files("nl_jax.zoo") / name).read_text(encoding="utf-8").splitlines()
