"""The theoretical field of view: the pixels that a feature of a network without non-local blocks can depend on.

Along one axis of an image, place i of a layer depends on pixels i s + low to i s + high, where s is the number of
pixels from one place to the next. A non-local block makes the field of view the whole image.
"""

from dataclasses import dataclass

from nl_jax.errors import InputError
from nl_jax.models.geometry import resolve
from nl_jax.models.resnet_config import ResNetConfig


@dataclass(frozen=True)
class View:
    """The pixels that place i of a layer sees along one axis: i * stride + low to i * stride + high, both included.

    Attributes:
      stride: pixels from one place of the layer to the next.
      low: the first pixel that place 0 sees.
      high: the last pixel that place 0 sees.
    """

    stride: int
    low: int
    high: int

    def of(self, place: int) -> tuple[int, int]:
        """Returns the first and the last pixel that a place sees. Pixels outside the image are padding."""
        return place * self.stride + self.low, place * self.stride + self.high

    def after(self, kernel: int, stride: int, padding: int) -> "View":
        """Returns the view of a convolution or a pool on this layer.

        Args:
          kernel: length of the kernel, in places of this layer.
          stride: places of this layer from one window to the next.
          padding: places that are added on both sides.
        """
        low, high = self.low - padding * self.stride, self.high + (kernel - 1 - padding) * self.stride
        return View(self.stride * stride, low, high)


def stage_views(config: ResNetConfig) -> dict[str, View]:
    """Returns the view of the last layer of every stage, {"res2": View, ..}. Non-local blocks are left out.

    Raises:
      InputError: as `ResNetConfig.check`.
    """
    config.check()
    geometry = resolve(config.geometry)
    view = View(1, 0, 0).after(geometry.conv1_kernel, geometry.conv1_stride[1], geometry.conv1_kernel // 2)
    if geometry.pool1:
        view = view.after(geometry.pool1.kernel[1], geometry.pool1.strides[1], geometry.pool1.padding[1])
    views = {}
    for index, (stage, count) in enumerate(config.stages().items()):
        for block in range(count):
            view = view.after(3, 2 if index and block == 0 else 1, 1)
        views[stage] = view
        if stage == "res2" and geometry.pool2:
            view = view.after(geometry.pool2.kernel[1], geometry.pool2.strides[1], geometry.pool2.padding[1])
    return views


def region_view(config: ResNetConfig, low: float | int, high: float | int, level: int = 2) -> tuple[int, int]:
    """Returns the first and the last pixel that the features of a region can depend on, along one axis.

    The features come from a feature pyramid. Every level adds two maps: the coarser level, enlarged twice by
    nearest neighbour, and a 1x1 convolution of its stage. A 3x3 convolution follows. RoIAlign interpolates the
    features bilinearly.

    Args:
      config: the backbone. Its non-local blocks are left out.
      low: the pixel where the region begins.
      high: the pixel where the region ends.
      level: the level of the pyramid that the region takes its features from. Level l has a place for every 2^l pixels.

    Raises:
      InputError: for a level that the backbone does not have.
    """
    stages = list(stage_views(config).values())
    if not 2 <= level < 2 + len(stages):
        raise InputError(f"level={level} is out of range; choose 2 to {1 + len(stages)}")
    views = stages[level - 2 :]
    stride = views[0].stride
    # One more place for the bilinear neighbour, and one for the 3x3 convolution. This holds whether the coordinate of a
    # place is its centre or its corner.
    first, last = int(low // stride) - 1 - 1, int(high // stride) + 1 + 1
    seen = [view.of(place >> coarser) for coarser, view in enumerate(views) for place in (first, last)]
    return min(pair[0] for pair in seen), max(pair[1] for pair in seen)


def reach(config: ResNetConfig, level: int = 2) -> int:
    """Returns the largest number of pixels that a region of the pyramid can see beyond its border, at any place.

    The function takes the same arguments as `region_view`.
    """
    period = 2 ** (1 + len(config.stages()))  # the period of the places of all levels
    before = max(place - region_view(config, place, place, level)[0] for place in range(period))
    after = max(region_view(config, place, place, level)[1] - place for place in range(period))
    return max(before, after)
