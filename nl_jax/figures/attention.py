"""Pictures of where one position of a clip looks: a row of the matrix of a block, drawn over the frames (figure 3).

One letter per axis: t h w for the input of a block, which holds the position, and T H W for its keys. With subsampling
there are fewer keys than positions. f y x are the frames, height and width of a clip.
"""

import dataclasses
from functools import partial

import jax
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.figure import Figure

from nl_jax.errors import InputError
from nl_jax.figures import panels
from nl_jax.figures.rows import mean_row, rows_of
from nl_jax.models import MaskRCNN, NonLocalBlock, VideoResNet
from nl_jax.places import Place, written


@dataclasses.dataclass(frozen=True)
class Attention:
    """The weights f(x_i, x_j) / C(x) of one position i over every key j, or their average over all i.

    Attributes:
      weights: one weight for each key. It is 0 for a key that the block does not sum over, such as a key in another
        frame if axes="space".
      position: (frame, row, column) in the input of the block. None stands for the average.
      shape: (t, h, w) of the input of the block.
      block: the name of the block, with its pairwise function.
    """

    weights: Float[np.ndarray, "T H W"]
    position: tuple[int, int, int] | None
    shape: tuple[int, int, int]
    block: str

    @property
    def signed(self) -> bool:
        """Whether any weight is negative. Only the dot product has negative weights."""
        return bool((self.weights < 0).any())

    def strongest(self, count: int = 20) -> list[tuple[tuple[int, int, int], float]]:
        """Returns the places and weights of the `count` keys with the largest |weight|, the strongest first.

        Keys of weight 0 are left out.
        """
        order = np.argsort(-np.abs(self.weights), axis=None, kind="stable")[:count]
        places = [tuple(map(int, np.unravel_index(at, self.weights.shape))) for at in order]
        return [(place, float(self.weights[place])) for place in places if self.weights[place]]


def attend(
    model: VideoResNet, video: Float[jax.Array, "1 f y x 3"], block: str, position: tuple[int, int, int] | None
) -> Attention:
    """Returns the weights that one position of a clip gives to all keys of a block.

    Args:
      model: a network in evaluation mode.
      video: one clip, normalized as in training.
      block: a name of `model.nonlocal_blocks()`, such as res3_1_nonlocal.
      position: (frame, row, column) in the input of the block. None gives the average over all positions.

    Raises:
      InputError: if the block or the position does not exist.
    """
    found = _block(model, block)
    x = block_inputs(model, video, (block,))[block]
    return attend_to(found, x, block, position)


def attend_in_image(
    model: MaskRCNN,
    images: Float[jax.Array, "1 y x 3"],
    sizes: Int[jax.Array, "1 2"],
    block: str,
    position: tuple[int, int] | None = None,
    *,
    point: tuple[float | int, float | int] | None = None,
) -> Attention:
    """Returns the weights that one position of an image gives to all keys of a detector's block.

    An image is a clip of one frame.

    Args:
      model: a detector in evaluation mode.
      images: one image, normalized and padded as in training.
      sizes: height and width of the image without padding, in pixels.
      block: a name of `model.nonlocal_blocks()`.
      position: (row, column) in the input of the block. None gives the average over all positions.
      point: (x, y) in pixels, in place of `position`. It selects the position whose cell contains the point.

    Raises:
      InputError: if the block, the position or the point does not exist.
    """
    found = _block(model, block)
    x, valid = block_inputs_in_image(model, images, sizes, (block,))[block]
    if point is not None:
        height, width = np.asarray(sizes)[0].tolist()
        if not (0 <= point[0] <= width and 0 <= point[1] <= height):
            raise InputError(f"the point {point} lies outside the image of {width} x {height} pixels")
        rows, columns = (whole // part for whole, part in zip(images.shape[1:3], x.shape[2:4], strict=True))
        position = min(int(point[1] // rows), x.shape[2] - 1), min(int(point[0] // columns), x.shape[3] - 1)
    return attend_to(found, x, block, None if position is None else (0, *position), valid)


def attend_to(
    block: NonLocalBlock,
    x: Float[jax.Array, "1 t h w c"],
    name: str,
    position: tuple[int, int, int] | None,
    valid: Bool[jax.Array, "1 t h w"] | None = None,
) -> Attention:
    """Returns the weights that one position gives to all keys of a block, for an input of the block.

    Args:
      block: the block.
      x: the input of the block.
      name: the name of the block, for the picture and for messages.
      position: (frame, row, column) of `x`. None gives the average over all positions.
      valid: whether each position is a key. By default all positions are keys.

    Raises:
      InputError: if the position does not exist.
    """
    shape = x.shape[1:4]
    if position is not None and not all(0 <= at < size for at, size in zip(position, shape, strict=True)):
        raise InputError(f"position={position} lies outside the {shape} positions of {name}; count from 0")
    weights = mean_row(block, x, valid) if position is None else rows_of(block, x, np.array([position]), valid)[0]
    return Attention(weights, position, shape, f"{name} ({block.pairwise})")


def block_inputs(
    model: VideoResNet, video: Float[jax.Array, "1 f y x 3"], names: tuple[str, ...]
) -> dict[str, Float[jax.Array, "1 t h w c"]]:
    """Returns the inputs of blocks for one normalized clip, by the name of the block.

    `names` are names of `model.nonlocal_blocks()`.
    """
    return _inputs(*nnx.split(model), video, names)


def block_inputs_in_image(
    model: MaskRCNN, images: Float[jax.Array, "1 y x 3"], sizes: Int[jax.Array, "1 2"], names: tuple[str, ...]
) -> dict[str, tuple[Float[jax.Array, "1 1 h w c"], Bool[jax.Array, "1 1 h w"]]]:
    """Returns the inputs of blocks of a detector for one image, by the name of the block, and which positions are keys.

    `model`, `images` and `sizes` are as in `attend_in_image`. `names` are names of `model.nonlocal_blocks()`.
    """
    return _inputs_in_image(*nnx.split(model), images, sizes, names)


def _block(model, name):
    blocks = model.nonlocal_blocks()
    if name not in blocks:
        raise InputError(f"block={name!r} is unknown; the network has {', '.join(blocks) or 'no non-local block'}")
    return blocks[name]


# The arrays of the network are arguments, so XLA compiles once for a network and a shape.
@partial(jax.jit, static_argnames=("graphdef", "names"))
def _inputs(graphdef, state, video, names):
    out = nnx.merge(graphdef, state)(video)[1]
    return {name: out[name.removesuffix("_nonlocal")] for name in names}


@partial(jax.jit, static_argnames=("graphdef", "names"))
def _inputs_in_image(graphdef, state, images, sizes, names):
    model = nnx.merge(graphdef, state)
    return {name: model.block_input(images, sizes, name) for name in names}


def draw_arrows(video: UInt8[np.ndarray, "f y x 3"], attention: Attention, count: int = 20, title: str = "") -> Figure:
    """Draws frames of the clip with an arrow from the position to each of its `count` strongest keys (figure 3).

    A larger weight has a thicker arrow. Negative weights have dashed arrows of another colour. The picture shows the
    frames where arrows start and end.

    Args:
      video: the clip before normalization.
      attention: the weights of one position.
      count: number of arrows.
      title: the name of the clip, for the caption.

    Raises:
      InputError: if `attention` is an average, which has no position.
    """
    if attention.position is None:
        raise InputError("arrows need a position to start from; draw_heat shows the average")
    strongest = attention.strongest(count)
    frames = video.shape[0]
    start = panels.frame_of(attention.position[0], attention.shape[0], frames)
    shown = sorted({start, *(panels.frame_of(place[0], attention.weights.shape[0], frames) for place, _ in strongest)})
    figure, by_frame = panels.strip(video, shown)
    panels.add_arrows(figure, by_frame[start], by_frame, video, attention, strongest)
    panels.mark(figure, by_frame[start], video, attention)
    share = sum(abs(weight) for _, weight in strongest) / max(np.abs(attention.weights).sum(), 1e-30)
    panels.caption(
        figure,
        title,
        f"{attention.block}: the {len(strongest)} strongest of {attention.weights.size} keys "
        f"({share:.0%} of the weight) for position {attention.position} of {attention.shape}",
    )
    panels.legend(figure, attention, arrows=True)
    return figure


def draw_heat(video: UInt8[np.ndarray, "f y x 3"], attention: Attention, title: str = "") -> Figure:
    """Draws every key frame and, below it, the weights of its keys as a heat map.

    Args:
      video: the clip before normalization.
      attention: the weights of one position, or their average.
      title: the name of the clip, for the caption.
    """
    keys = attention.weights.shape[0]
    frames = [panels.frame_of(key, keys, video.shape[0]) for key in range(keys)]
    figure, by_frame = panels.strip(video, frames, lines=2)
    heats = figure.axes[1::2]
    for panel, frame, weights in zip(heats, frames, attention.weights, strict=True):
        image = panels.add_heat(panel, video[frame], weights, attention)
    if attention.position is not None:
        asked = panels.frame_of(attention.position[0], attention.shape[0], video.shape[0])
        nearest = min(by_frame, key=lambda frame: abs(frame - asked))
        panels.mark(figure, by_frame[nearest], video, attention)
        panels.mark(figure, heats[frames.index(nearest)], video, attention)
    panels.add_bar(figure, image)
    of = "averaged over all positions" if attention.position is None else f"of position {attention.position}"
    panels.caption(figure, title, f"{attention.block}: weights {of} of {attention.shape}")
    panels.legend(figure, attention, arrows=False)
    return figure


def save(figure: Figure, path: Place) -> None:
    """Writes the figure as PNG, PDF or SVG, as the ending of the path says.

    The background is white, so the picture is readable on light and dark pages.

    Raises:
      InputError: for another ending.
    """
    endings = (".png", ".pdf", ".svg")
    if path.suffix.lower() not in endings:
        raise InputError(f"{path}: pictures end in one of {', '.join(endings)}")
    with written(path) as file:
        figure.savefig(file, dpi=150, facecolor="white")
