"""Conversion of the bytes of videos and images to normalised network inputs."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
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
