"""Prepares a batch on the device: normalizes the inputs, smooths the labels and mixes the examples."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from nl_jax.errors import InputError

Normalize = Callable[[UInt8[Array, "*s 3"]], Float[Array, "*s 3"]]


def make_normalize(config) -> Normalize:
    """Returns the function x -> (x / 255 - mean) / std by channel.

    The device computes it, because bytes are a quarter of the data that float32 would send to the device.

    Args:
      config: fields mean and std, three numbers each, for RGB in [0, 1].

    Raises:
      InputError: mean or std does not have three numbers, or a std is not above 0.
    """
    for name, values in (("mean", config.mean), ("std", config.std)):
        if len(values) != 3 or (name == "std" and min(values) <= 0):
            raise InputError(f"input.{name}={values} must be three numbers, one for each of R, G and B; std above 0")
    mean, std = (np.asarray(values, np.float32) for values in (config.mean, config.std))

    def normalize(video):
        by_channel = (1,) * (video.ndim - 1) + (3,)
        return (video.astype(jnp.float32) / 255 - mean.reshape(by_channel)) / std.reshape(by_channel)

    return normalize


def smooth(label: Float[Array, "b k"], amount: float, *, multi_label: bool) -> Float[Array, "b k"]:
    """Returns (1 - e) y + e / k: the share e of a label is spread over the k classes (Szegedy et al. 2016, section 7).

    Args:
      label: y, one row for each example.
      amount: e, from 0 to 1.
      multi_label: whether each class has the two answers yes and no. Then the result is (1 - e) y + e / 2.
    """
    return (1 - amount) * label + amount / 2 if multi_label else optax.smooth_labels(label, amount)


def mixed(x: Float[Array, "b *d"], shares: Float[Array, "b"], *, apart: int = 1) -> Float[Array, "b *d"]:
    """Returns s_i x_i + (1 - s_i) x_(i-r): mixup of the examples of a batch, or of their labels.

    A batch is shuffled, so example i - r is a random other example. The first r examples are mixed with the last r
    examples (Zhang et al. 2018, arXiv 1710.09412).

    Args:
      x: examples or labels.
      shares: s, from 0 to 1. Mixup draws them from Beta(alpha, alpha).
      apart: r, the distance in the batch of two mixed examples.
    """
    shares = shares.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return shares * x + (1 - shares) * jnp.roll(x, apart, axis=0)
