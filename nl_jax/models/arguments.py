"""Checks the arguments of a non-local block and of a norm."""

import math
import numbers
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Int

from nl_jax.errors import InputError

# Initial values of the kernels of a block, by `init`.
INITS = {"he": nnx.initializers.he_normal(), "normal": nnx.initializers.normal(0.01)}


def check_choice(name: str, value: object, valid: Collection[object]) -> None:
    """Raises InputError unless the value is one of `valid`."""
    if value not in valid:
        raise InputError(f"{name}={value!r} is unknown; choose one of {', '.join(map(str, valid))}")


def check_count(name: str, value: object, *, or_none: bool = False) -> None:
    """Raises InputError unless the value is an integer of 1 or more. With `or_none` it can also be None."""
    if or_none and value is None:
        return
    if not isinstance(value, numbers.Integral) or value < 1:
        raise InputError(f"{name}={value!r} is out of range; choose 1 or more, an integer")


def check_number(name: str, value: object) -> None:
    """Raises InputError unless the value is a finite number."""
    try:
        finite = math.isfinite(value)
    except TypeError:
        finite = False
    if not finite:
        raise InputError(f"{name}={value!r} is out of range; choose a finite number")


def check_scale(scale: object) -> None:
    """Raises InputError unless the factor of the scores is a finite number, None or "rsqrt_d"."""
    if isinstance(scale, str) and scale != "rsqrt_d":
        raise InputError(f"scale={scale!r} is unknown; choose a number, None or 'rsqrt_d'")
    if scale is not None and scale != "rsqrt_d":
        check_number("scale", scale)


def check_dtype(dtype: DTypeLike | None) -> None:
    """Raises InputError unless the type of the computation is a type of real floating-point numbers, or None."""
    try:
        known = dtype is None or jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        known = False
    if not known:
        raise InputError(f"dtype={dtype!r} is unknown; choose float32, bfloat16, float16 or None")


def check_block(channels: object, inner_channels: object, init: object, scale: object, dtype: DTypeLike | None) -> None:
    """Raises InputError unless the arguments that every kind of block takes are valid."""
    check_count("channels", channels)
    check_count("inner_channels", inner_channels, or_none=True)
    check_choice("init", init, INITS)
    check_scale(scale)
    check_dtype(dtype)


def checked_positions(positions: ArrayLike, count: int, shape: tuple[int, ...]) -> Int[Array, "q"]:
    """Returns the positions as an array. Inside `jax.jit` their values are not known and not checked.

    Args:
      positions: numbers of positions.
      count: number of positions of an input.
      shape: shape of the input, for the error message.

    Raises:
      InputError: the positions are not integers of shape (q,) from 0 to `count` - 1.
    """
    positions = jnp.asarray(positions)
    if positions.ndim != 1 or (positions.size and not jnp.issubdtype(positions.dtype, jnp.integer)):
        raise InputError(
            f"positions: found {positions.dtype} of shape {positions.shape}, valid are integers of shape (q,)"
        )
    if not isinstance(positions, jax.core.Tracer):
        if wrong := [int(i) for i in np.asarray(positions) if not 0 <= i < count]:
            raise InputError(f"positions: found {wrong[0]} in an input of shape {shape}, valid are 0 to {count - 1}")
    return positions.astype(int)
