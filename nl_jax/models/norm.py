"""Normalization: batch norm over groups of clips or over the whole batch, affine, and frozen."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nl_jax.errors import InputError
from nl_jax.models.arguments import check_choice, check_count
from nl_jax.ops import devices
from nl_jax.ops.batch_norm import batch_norm
from nl_jax.ops.devices import merge_frames, split_frames
from nl_jax.ops.precision import widen
from nl_jax.ops.relu import relu

KINDS = ("batch", "global", "affine", "frozen")
MOMENTUM = 0.9  # momentum of the running statistics


class Norm(nnx.Module):
    """Normalization y = scale (x - mean) / sqrt(var + epsilon) + bias, per channel.

    `kind` decides the source of mean and variance:

    - batch: training uses the statistics of groups of `group_size` clips, for any number of devices. The paper has 8
      clips on each GPU (section 4.1). Testing uses the running statistics.
    - global: as batch, with the whole batch as one group.
    - frozen: training and testing use the running statistics. Scale and bias get no gradient (section 5.1, long clips).
    - affine: there are no statistics, and the mean is 0 and the variance 1. A frozen norm that is folded into its scale
      and bias has this form.

    The running statistics follow the mean and variance over the whole batch, all groups pooled:
    running = momentum running + (1 - momentum) batch.

    Args:
      channels: channels of input and output, c.
      kind: one of the four above.
      group_size: clips per group.
      scale_init: initial scale. 0 makes a new non-local block the identity.
      momentum: momentum of the running statistics.
      epsilon: number that is added to the variance.

    Raises:
      InputError: for an unknown kind, or a group of less than one clip.
    """

    def __init__(
        self,
        channels: int,
        *,
        kind: str = "batch",
        group_size: int = 8,
        scale_init: float = 1.0,
        momentum: float = MOMENTUM,
        epsilon: float = 1e-5,
    ):
        check_choice("norm", kind, KINDS)
        check_count("group_size", group_size)
        self.kind = kind
        self.group_size = group_size
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False
        self.scale = nnx.Param(jnp.full(channels, scale_init, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels))
        if kind != "affine":
            self.mean = nnx.BatchStat(jnp.zeros(channels))
            self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Float[Array, "b *s c"], rectified: bool = False) -> Float[Array, "b *s c"]:
        """Returns y, or max(y, 0) with `rectified`. Training with kind "batch" or "global" updates the statistics.

        Raises:
          InputError: for a batch that does not divide into groups.
        """
        if devices.platform() == "gpu" and self.has_running_statistics and not self.use_running_average:
            groups = _merge(x, self._num_groups(x.shape[0]))
            y, mean, var = batch_norm(groups, self.scale[...], self.bias[...], self.epsilon, rectified)
            self._update(mean, var)
            return _split(y, x.shape)
        y = self._apply(x)
        if not rectified:
            return y
        # After a frozen norm the gradient needs only the result, so x need not be kept.
        return relu(y) if self.kind == "frozen" else nnx.relu(y)

    def _apply(self, x):
        if self.kind == "affine":
            return _split(_affine(_merge(x), self.scale[None], self.bias[None]), x.shape)
        scale, bias = self.scale[None], self.bias[None]
        if self.kind == "frozen":
            scale, bias = jax.lax.stop_gradient((scale, bias))
        if self.kind == "frozen" or self.use_running_average:
            groups = _merge(x)
            mean, var = self.mean[None], self.var[None]
        else:
            groups = _merge(x, self._num_groups(x.shape[0]))
            mean, var = _moments(groups)
            self._update(mean, var)
        scale = scale * jax.lax.rsqrt(var + self.epsilon)
        return _split(_affine(groups, scale, bias - mean * scale), x.shape)

    @property
    def has_running_statistics(self) -> bool:
        """Whether the mean and variance come from training batches."""
        return self.kind in ("batch", "global")

    def _num_groups(self, clips: int) -> int:
        if self.kind == "global" or clips <= self.group_size:
            return 1
        if clips % self.group_size:
            raise InputError(
                f"a batch of {clips} clips does not divide into groups of {self.group_size} for batch norm; "
                f"use a multiple of {self.group_size}, or norm='global'"
            )
        return clips // self.group_size

    def _update(self, mean: Float[Array, "g c"], var: Float[Array, "g c"]) -> None:
        batch_mean = mean.mean(0)
        batch_var = (var + jnp.square(mean)).mean(0) - jnp.square(batch_mean)
        for running, batch in ((self.mean, batch_mean), (self.var, batch_var)):
            # A user may have converted the whole module to another type.
            running[...] = (self.momentum * running[...] + (1 - self.momentum) * batch).astype(running.dtype)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Sets the source of the statistics. `nnx.view` calls it, as for `nnx.BatchNorm`.

        Args:
          use_running_average: whether the norm uses the running statistics. None changes nothing.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


def pooled(stacked: dict[str, Array], weight: float = 1.0) -> dict[str, Array]:
    """Pools k sets of statistics, each array stacked as (k,c).

    A mean becomes the mean of the means. A variance becomes the mean of the variances plus `weight` times the variance
    of the means. Sums run over differences from the first set, so a value that all sets share comes out bit for bit.

    Args:
      stacked: the statistics by name, with names that end in "/mean" and "/var".
      weight: factor of the variance of the means.
    """
    apart = {name: array - array[:1] for name, array in stacked.items()}
    result = {name: stacked[name][0] + apart[name].mean(axis=0) for name in stacked}
    for name in result:
        if name.endswith("/var"):
            result[name] += weight * apart[name.removesuffix("/var") + "/mean"].var(axis=0)
    return result


def _merge(x: Float[Array, "b *s c"], groups: int = 1) -> Float[Array, "g n c"]:
    return merge_frames(x, groups).reshape(groups, -1, x.shape[-1])


def _split(y: Float[Array, "g n c"], shape: devices.Shape) -> Float[Array, "b *s c"]:
    return split_frames(y.reshape(y.shape[0], -1, *shape[2:]), *shape[:2])


def _moments(x: Float[Array, "g n c"]) -> tuple[Float[Array, "g c"], Float[Array, "g c"]]:
    """Returns the mean and variance over n, in float32."""
    x = widen(x)
    mean, square = x.mean(axis=1), jnp.square(x).mean(axis=1)
    return mean, jnp.maximum(square - jnp.square(mean), 0)


def _affine(x: Float[Array, "g n c"], scale: Float[Array, "g c"], bias: Float[Array, "g c"]) -> Float[Array, "g n c"]:
    # The broadcast is explicit for its gradient, a sum over n. With one group, XLA:CPU computes the gradient of an
    # implicit broadcast 10 to 25 times slower.
    scale, bias = (jnp.broadcast_to(array[:, None], x.shape) for array in (scale, bias))
    return (x.astype(scale.dtype) * scale + bias).astype(x.dtype)
