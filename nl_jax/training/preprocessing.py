"""What a device does with a batch before the network: normalized inputs, smoothed labels, mixed examples."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from nl_jax.errors import InputError

Normalize = Callable[[UInt8[Array, "*s 3"]], Float[Array, "*s 3"]]


def make_normalize(config) -> Normalize:
    """Returns a function (x / 255 - mean) / std by channel.

    It runs on the device, because bytes are a quarter of the data that float32 would send there.

    Args:
      config: fields mean and std, three numbers each, for RGB in [0, 1].

    Raises:
      InputError: for a mean or std of another length, or a std that is not above 0.
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
    """Returns (1 - e) y + e / k: the share e = `amount` is spread over the k classes (Szegedy et al. 2016, section 7).

    With `multi_label` each class has two answers, yes and no, and the label is (1 - e) y + e / 2.
    """
    return (1 - amount) * label + amount / 2 if multi_label else optax.smooth_labels(label, amount)


def mixed(x: Float[Array, "b *d"], shares: Float[Array, "b"], *, apart: int = 1) -> Float[Array, "b *d"]:
    """Returns s_i x_i + (1 - s_i) x_(i-r): each example of a batch, or its label, mixed with another (mixup).

    A batch is shuffled, so example i - r is a random other example. The first r examples are mixed with the last r
    (Zhang et al. 2018, arXiv 1710.09412).

    Args:
      shares: s, of 0 to 1; mixup draws them from Beta(alpha, alpha).
      apart: r, places in the batch from an example to the other.
    """
    shares = shares.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return shares * x + (1 - shares) * jnp.roll(x, apart, axis=0)
