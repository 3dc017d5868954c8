"""Comparison of two networks by the names and shapes of their arrays, with the setting that removes each difference."""

import re
from collections.abc import Iterator

Shapes = dict[str, tuple[int, ...]]


def differences(file: Shapes, model: Shapes, may_inflate: bool) -> Iterator[str]:
    """Yields the reasons why the arrays of a file do not fit a model, the most general reason first.

    The function ignores non-local blocks that only the model has, and another number of classes.

    Args:
      file: shapes of the arrays of the file, with the names and layout of `models.flat`.
      model: shapes of the arrays of the model.
      may_inflate: whether a kernel of one plane in time fits a kernel of several planes.
    """
    yield from _blocks(file, model)
    yield from _positions(file, model)
    yield from _inflation(file, model, may_inflate)
    yield from _kinds(file, model)
    if width := _shape(file, model, "conv1/kernel", -1):
        yield f"width: conv1 has {width[0]} channels in the file and {width[1]} in the model; set width={width[0]}"
    for name in file.keys() & model.keys():
        if not _fits(name, file[name], model[name], may_inflate):
            yield f"{name} has shape {file[name]} in the file and {model[name]} in the model"


def nonlocal_positions(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns the residual blocks that a non-local block follows, by stage: {"res3": (1, 3), ..}."""
    return _places(shapes, r"(res\d)/(\d+)/nonlocal_block/g/kernel")


def inflation(shapes: Shapes) -> str | None:
    """Returns the kind of inflation: None (C2D), "3x1x1" or "3x3x3"."""
    for name, kind in (("conv1", "3x1x1"), ("conv2", "3x3x3")):
        if any(shape[0] > 1 for key, shape in shapes.items() if re.fullmatch(rf"res\d/\d+/{name}/kernel", key)):
            return kind
    return None


def _blocks(file, model):
    counts = [
        {stage: len(at) for stage, at in _places(shapes, r"(res\d)/(\d+)/conv1/kernel").items()}
        for shapes in (file, model)
    ]
    if counts[0] != counts[1]:
        depth = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}.get(tuple(counts[0].values()))
        advice = f"depth={depth}" if depth else f"blocks_per_stage={tuple(counts[0].values())}"
        yield f"the file has the residual blocks {counts[0]}, the model {counts[1]}; set {advice}"


def _positions(file, model):
    found, wanted = nonlocal_positions(file), nonlocal_positions(model)
    if lacking := [f"{stage} block {at}" for stage in found for at in found[stage] if at not in wanted.get(stage, ())]:
        yield (
            f"the file has non-local blocks where the model has none, after {', '.join(lacking)}; "
            f"set nonlocal_blocks={found}"
        )


def _inflation(file, model, may_inflate):
    if may_inflate:
        return
    found, wanted = inflation(file), inflation(model)
    if found != wanted:
        names = [f"I3D {kind}" if kind else "C2D" for kind in (found, wanted)]
        yield (
            f"the file holds {names[0]}, the model is {names[1]}; set inflate={found!r}"
            + ("" if found else ", or ask for the kernels of the file to be inflated in time")
        )


def _kinds(file, model):
    """Yields the differences of the non-local blocks that both networks have: pairwise function, biases and norm."""
    for prefix in [f"{stage}/{at}/nonlocal_block" for stage, ats in nonlocal_positions(file).items() for at in ats]:
        found, wanted = (_pairwise(shapes, prefix) for shapes in (file, model))
        if found != wanted:
            yield f"{prefix} is {found} in the file and {wanted} in the model; set nonlocal_options.pairwise"
        for array, advice in (
            ("w_z/bias", "geometry='mmaction2' has none, the others have one; or set nonlocal_options.out_bias"),
            ("g/bias", "set nonlocal_options.bias"),
            ("norm/scale", "set nonlocal_options.norm"),
        ):
            found, wanted = ("has" if f"{prefix}/{array}" in shapes else "has no" for shapes in (file, model))
            if found != wanted:
                yield f"the file {found} {prefix}/{array} and the model {wanted} such array: {advice}"


def _pairwise(shapes, prefix):
    if f"{prefix}/w_f/kernel" in shapes:
        return "concatenation"
    return "embedded_gaussian or dot_product" if f"{prefix}/theta/kernel" in shapes else "gaussian"


def _fits(name, file, model, may_inflate):
    if name.startswith("classifier/"):
        return file[:-1] == model[:-1]  # the number of classes may differ, and the classifier is then new
    return file == model or (may_inflate and len(model) == 5 and file == (1, *model[1:]))


def _shape(file, model, name, axis):
    if name in file and name in model and file[name][axis] != model[name][axis]:
        return file[name][axis], model[name][axis]


def _places(shapes, pattern):
    result = {}
    for name in shapes:
        if match := re.fullmatch(pattern, name):
            result.setdefault(match[1], []).append(int(match[2]))
    return {stage: tuple(sorted(at)) for stage, at in sorted(result.items())}
