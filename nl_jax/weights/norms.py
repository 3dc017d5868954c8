"""Conversion of batch norms to affine layers and back, for a file that has one of them and a network with the other.

The batch norm y = scale (x - mean) / sqrt(var + eps) + bias is y = s x + b with s = scale / sqrt(var + eps) and b =
bias - mean s. Long clips are trained with this affine form (section 5.1). An affine layer is the batch norm of mean 0
and variance 1 - eps, which divides by exactly 1.
"""

from collections.abc import Callable

import numpy as np

from nl_jax.models.flat import FlatParams

OUR_EPSILON = 1e-5  # epsilon of `models.norm.Norm`


def fold(found: FlatParams, wanted: set[str], epsilon: float) -> tuple[FlatParams, int]:
    """Folds the statistics of every norm that is affine in `wanted`.

    Returns the arrays and the number of folded norms.

    Args:
      found: arrays by name.
      wanted: names of the arrays of the model.
      epsilon: epsilon of the batch norms in `found`.
    """
    result = dict(found)
    folded = [name for name in _norms(found) if f"{name}/mean" in found and _is_affine(name, wanted.__contains__)]
    for name in folded:
        mean, var = result.pop(f"{name}/mean"), result.pop(f"{name}/var")
        scale = found[f"{name}/scale"] / np.sqrt(var + np.asarray(epsilon, var.dtype))
        result[f"{name}/scale"] = scale
        result[f"{name}/bias"] = found[f"{name}/bias"] - mean * scale
    return result, len(folded)


def folded(count: int) -> str:
    """Returns the sentence of a report on `count` folded norms, and "" for none."""
    return f"{count} batch norms were folded into affine layers" if count else ""


def unfold(found: FlatParams, wanted: set[str]) -> tuple[FlatParams, int]:
    """Adds a mean and a variance to every affine norm that has them in `wanted`.

    Returns the arrays and the number of these norms.

    Args:
      found: arrays by name.
      wanted: names of the arrays of the model.
    """
    result = dict(found)
    affine = [name for name in _norms(found) if _is_affine(name, found.__contains__) and f"{name}/mean" in wanted]
    for name in affine:
        shape = found[f"{name}/scale"].shape
        result[f"{name}/mean"] = np.zeros(shape, np.float32)
        result[f"{name}/var"] = np.full(shape, 1 - OUR_EPSILON, np.float32)
    return result, len(affine)


def _norms(names) -> list[str]:
    return [name.removesuffix("/scale") for name in names if name.endswith("/scale")]


def _is_affine(name: str, has: Callable[[str], bool]) -> bool:
    return has(f"{name}/scale") and not has(f"{name}/mean")
