"""The residual block of ResNet-50 and deeper networks, over clips."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from nl_jax.models.norm import Norm
from nl_jax.ops.conv import conv3d
from nl_jax.ops.relu import relu


class Conv(nnx.Module):
    """A spacetime convolution without bias, padded by half a kernel.

    The kernel (kt,kh,kw,i/groups,o) has the initial values of He et al. (2015): normal, with the variance 2 / fan. The
    fan is kt kh kw i / groups ("fan_in") or kt kh kw o ("fan_out").

    Args:
      features_in: input channels, i.
      features_out: output channels, o.
      kernel: kt, kh, kw.
      strides: strides over (t, h, w).
      groups: groups of channels (see `conv3d`).
      fan: the fan of the initial values.
      dtype: type of the computation.
    """

    def __init__(
        self,
        features_in,
        features_out,
        kernel,
        strides=(1, 1, 1),
        *,
        groups=1,
        fan="fan_in",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (*kernel, features_in // groups, features_out)
        self.kernel = nnx.Param(nnx.initializers.variance_scaling(2.0, fan, "truncated_normal")(rngs.params(), shape))
        self.strides = strides
        self.groups = groups
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t2 h2 w2 o"]:
        """Returns the convolution of x."""
        kernel = self.kernel[...].astype(self.dtype)
        return conv3d(x.astype(self.dtype), kernel, self.strides, tuple(k // 2 for k in kernel.shape[:3]), self.groups)


class Bottleneck(nnx.Module):
    """The residual block relu(x + 1x1(3x3(1x1(x)))), with a projection of x where the shape changes (He et al. 2016).

    Args:
      features_in: channels of x.
      inner: channels of the 3x3 convolution.
      features: channels of the result.
      stride: stride over height and width.
      stride_on_1x1: whether the first 1x1 convolution takes the stride. Otherwise the 3x3 convolution takes it.
      groups: groups of the 3x3 convolution.
      inflate: the kernel that reaches over three frames: "3x1x1" (the first 1x1 convolution), "3x3x3" (the 3x3
        convolution), or None.
      nonlocal_block: a non-local block, or None. The residual block only holds it: `VideoResNet` applies it and names
        its output.
      fan: `fan` of the convolutions.
      zero_init_residual: whether the scale of the last norm is 0 at first. Then the result is relu(x), with x projected
        where the shape changes.
      norm: arguments of `Norm`.
      dtype: type of the computation.
    """

    def __init__(
        self,
        features_in,
        inner,
        features,
        *,
        stride=1,
        stride_on_1x1=False,
        groups=1,
        inflate=None,
        nonlocal_block=None,
        fan="fan_in",
        zero_init_residual=False,
        norm,
        dtype,
        rngs,
    ):
        t1, t2 = {None: (1, 1), "3x1x1": (3, 1), "3x3x3": (1, 3)}[inflate]
        strides = (1, stride, stride)
        first, second = (strides, (1, 1, 1)) if stride_on_1x1 else ((1, 1, 1), strides)
        options = {"fan": fan, "dtype": dtype, "rngs": rngs}
        self.conv1 = Conv(features_in, inner, (t1, 1, 1), first, **options)
        self.norm1 = Norm(inner, **norm)
        self.conv2 = Conv(inner, inner, (t2, 3, 3), second, groups=groups, **options)
        self.norm2 = Norm(inner, **norm)
        self.conv3 = Conv(inner, features, (1, 1, 1), **options)
        self.norm3 = Norm(features, scale_init=0.0 if zero_init_residual else 1.0, **norm)
        if stride != 1 or features_in != features:
            self.shortcut = Conv(features_in, features, (1, 1, 1), strides, **options)
            self.shortcut_norm = Norm(features, **norm)
        else:
            self.shortcut = None
        self.nonlocal_block = nonlocal_block

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h2 w2 o"]:
        """Returns the result for x, without the non-local block."""
        y = self.norm1(self.conv1(x), rectified=True)
        y = self.norm2(self.conv2(y), rectified=True)
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return relu(x + y)
