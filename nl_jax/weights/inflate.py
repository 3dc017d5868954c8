"""Inflation of a 2-D network to a 3-D one. Every video network of the paper starts like this (section 4).

A k x k kernel becomes t x k x k. Each of its t planes is the k x k kernel divided by t. So a video of one repeated
image gives the same result as the image.
"""

import dataclasses

import jax.numpy as jnp

from nl_jax.errors import InputError
from nl_jax.models.flat import FlatParams

PLANES = ("mean", "center")


@dataclasses.dataclass
class Report:
    """A report on a start from another network. `str` gives one line.

    Attributes:
      loaded: names of our arrays with a value of the other network.
      inflated: names of the loaded arrays that were inflated in time.
      left_at_init: names of our arrays that kept their initial values.
      unused: names in the file that are known not to be weights.
      norms: a sentence on the conversion of batch norms and affine layers. It is empty without a conversion.
      source: the source of the file. It is empty without a file.
    """

    loaded: list[str] = dataclasses.field(default_factory=list)
    inflated: list[str] = dataclasses.field(default_factory=list)
    left_at_init: list[str] = dataclasses.field(default_factory=list)
    unused: list[str] = dataclasses.field(default_factory=list)
    norms: str = ""
    source: str = ""

    def __str__(self) -> str:
        left = sorted({name.rsplit("/", 1)[0] for name in self.left_at_init})
        text = (
            f"{len(self.loaded)} arrays taken over, {len(self.inflated)} of them inflated in time; "
            f"left at initialization: {', '.join(left) or 'none'}"
        )
        if self.unused:
            more = ", .." if len(self.unused) > 3 else ""
            text += f"; {len(self.unused)} entries of the file are no weights: {', '.join(self.unused[:3])}{more}"
        return text + (f"; {self.norms}" if self.norms else "")


def inflate(
    target: FlatParams,
    source: FlatParams,
    planes: str = "mean",
    *,
    head: bool = True,
    by_class: tuple[str, ...] = ("classifier/",),
) -> tuple[FlatParams, Report]:
    """Returns `target` with every array that `source` has under the same name, and a report.

    Kernels (1,h,w,i,o) become (t,h,w,i,o). Parts that only the target has (non-local blocks) keep their values. The
    layers that depend on the classes take the values of `source` only if `head` is true and both networks have the same
    number of classes.

    Args:
      target: our arrays by name.
      source: arrays of the other network by name.
      planes: "mean" or "center". With "mean" each of the t planes is the kernel divided by t. With "center" the middle
        plane is the kernel and the other planes are zero. The new network then applies the image network to each frame.
      head: whether both networks have the same classes.
      by_class: prefixes of the names of arrays that depend on the classes.

    Raises:
      InputError: for unknown `planes`, and for an array of the source that the target lacks or whose shape does not
        fit.
    """
    if planes not in PLANES:
        raise InputError(f"start.planes={planes!r} is unknown; choose one of {', '.join(PLANES)}")
    report = Report()
    result = dict(target)
    theirs = [name for name in source if name.startswith(by_class)]
    new_head = not head or any(name not in target or source[name].shape != target[name].shape for name in theirs)
    for name, value in source.items():
        if new_head and name in theirs:
            continue
        if name not in target:
            raise InputError(f"{name} {value.shape} of the starting network has no place in this one")
        shape = target[name].shape
        if value.shape != shape:
            if len(shape) != 5 or value.shape != (1, *shape[1:]):
                raise InputError(f"{name} has shape {value.shape} in the starting network and {shape} in this one")
            value = _planes(value, shape[0], planes)
            report.inflated.append(name)
        result[name] = jnp.asarray(value, target[name].dtype)
        report.loaded.append(name)
    report.left_at_init = [name for name in target if name not in report.loaded]
    return result, report


def _planes(kernel, t: int, planes: str):
    if planes == "mean":
        return jnp.repeat(kernel / t, t, axis=0)
    before = (t - 1) // 2
    return jnp.pad(kernel, ((before, t - 1 - before), *((0, 0),) * 4))
