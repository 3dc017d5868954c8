"""The differences between published versions of one network: strides, pools, details of the non-local block.

A geometry belongs to the weights that were trained with it. Loading weights into another geometry costs accuracy and
raises no error. Padding is always explicit and the same on both sides.
"""

import dataclasses

from jaxtyping import Array, Float

from nl_jax.errors import InputError
from nl_jax.ops.pool import max_pool


@dataclasses.dataclass(frozen=True)
class Pool:
    """A max pool over (t, h, w).

    Attributes:
      kernel: sides of the window, in positions.
      strides: positions from one window to the next.
      padding: positions that are added on both sides of each axis.
    """

    kernel: tuple[int, int, int]
    strides: tuple[int, int, int]
    padding: tuple[int, int, int] = (0, 0, 0)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t2 h2 w2 c"]:
        """Returns the maximum of every window of x."""
        return max_pool(x, self.kernel, self.strides, self.padding)

    def frames(self, frames: int) -> int:
        """Returns the number of frames after the pool, for `frames` frames before it."""
        return (frames + 2 * self.padding[0] - self.kernel[0]) // self.strides[0] + 1


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Strides and pools of the backbone, and the defaults of its non-local blocks.

    Attributes:
      conv1_stride: stride of conv1 over (t, h, w).
      pool1: the pool after conv1.
      pool2: the pool after res2.
      conv1_kernel: side of the kernel of conv1 in space. In time the kernel has 5 frames in an inflated network, and
        otherwise 1.
      subsample: `subsample` of the non-local blocks, see `NonLocalBlock`.
      scale: `scale` of the non-local blocks.
      out_bias: `out_bias` of the non-local blocks.
      init: `init` of the non-local blocks.
      fan: "fan_in" or "fan_out", by which `Conv` scales the initial kernels of the backbone.
      zero_init_residual: whether the last norm of each residual block has the initial scale 0. Then a new residual
        block only passes on its input.
    """

    conv1_stride: tuple[int, int, int]
    pool1: Pool | None
    pool2: Pool | None
    conv1_kernel: int = 7
    subsample: str | None = "after"
    scale: str | None = None
    out_bias: bool = True
    init: str = "he"
    fan: str = "fan_in"
    zero_init_residual: bool = False

    def frames(self, frames: int) -> dict[str, int]:
        """Returns the number of frames after conv1 and after each pool, for a clip of `frames` frames."""
        conv1 = -(-frames // self.conv1_stride[0])
        pool1 = self.pool1.frames(conv1) if self.pool1 else conv1
        return {"conv1": conv1, "pool1": pool1, "pool2": self.pool2.frames(pool1) if self.pool2 else pool1}


GEOMETRIES = {
    # Table 1 of the paper.
    "paper": Geometry((2, 2, 2), Pool((3, 3, 3), (2, 2, 2), (1, 1, 1)), Pool((3, 1, 1), (2, 1, 1), (1, 0, 0))),
    # The Caffe2 release: 32 frames with a temporal stride of 2, and 8 frames with a temporal stride of 8.
    "caffe2_32": Geometry(
        (2, 2, 2),
        Pool((2, 3, 3), (2, 2, 2)),
        Pool((2, 1, 1), (2, 1, 1)),
        subsample="before",
        scale="rsqrt_d",
        init="normal",
    ),
    "caffe2_8": Geometry(
        (1, 2, 2),
        Pool((1, 3, 3), (1, 2, 2)),
        Pool((2, 1, 1), (2, 1, 1)),
        subsample="before",
        scale="rsqrt_d",
        init="normal",
    ),
    # PySlowFast, PyTorchVideo and long-term feature banks. PySlowFast trains from scratch, with these initial values.
    "slowfast": Geometry(
        (1, 2, 2),
        Pool((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        Pool((2, 1, 1), (2, 1, 1)),
        subsample="before",
        scale="rsqrt_d",
        init="normal",
        fan="fan_out",
        zero_init_residual=True,
    ),
    # The same without the pool over time. Networks of single frames have this geometry, in mmaction2 too.
    "slowfast_nopool": Geometry(
        (1, 2, 2),
        Pool((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        None,
        subsample="before",
        scale="rsqrt_d",
        init="normal",
        fan="fan_out",
        zero_init_residual=True,
    ),
    "mmaction2": Geometry(
        (2, 2, 2),
        Pool((1, 3, 3), (2, 2, 2), (0, 1, 1)),
        Pool((2, 1, 1), (2, 1, 1)),
        out_bias=False,
        init="normal",
    ),
    # Our own, for frames a few dozen pixels wide: every frame is kept, and the blocks see every position.
    "small": Geometry((1, 2, 2), Pool((1, 2, 2), (1, 2, 2)), None, conv1_kernel=5, subsample=None),
}


def resolve(geometry: str | Geometry) -> Geometry:
    """Returns the geometry of this name, or `geometry` itself if it is a Geometry.

    Raises:
      InputError: for an unknown name.
    """
    if isinstance(geometry, Geometry):
        return geometry
    if geometry not in GEOMETRIES:
        raise InputError(f"geometry={geometry!r} is unknown; choose one of {', '.join(GEOMETRIES)}")
    return GEOMETRIES[geometry]
