"""The keypoint head finds the place of each keypoint in a box (He et al. 2017, section 5; table 6)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from nl_jax.models.detection.config import DetectorConfig
from nl_jax.models.detection.layers import Conv2D
from nl_jax.models.nonlocal_block import NonLocalBlock
from nl_jax.ops import devices
from nl_jax.ops.conv import conv1x1
from nl_jax.ops.precision import widen
from nl_jax.ops.relu import relu

# Pixels along a side of a tile of an enlarged heatmap. The search for keypoints takes one tile after another.
TILE = 64
# The number of boxes that are searched at once. Each turn of the loop waits for the largest box.
BOXES_AT_ONCE = {"cpu": 1, "gpu": 100, "tpu": 100}


class Deconv4x4(nnx.Module):
    """A 4x4 deconvolution at stride 2 with bias, padded by 1, kernel (4,4,i,o): h x w places become 2h x 2w."""

    def __init__(self, features_in, features_out, *, init, dtype=jnp.float32, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), (4, 4, features_in, features_out)))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        """Returns the deconvolution of x."""
        kernel, bias = (a[...].astype(self.dtype) for a in (self.kernel, self.bias))
        n, h, w, i = x.shape
        # Each place becomes the 4 x 4 places that it adds to. Then overlapping places are added.
        y = conv1x1(x.astype(self.dtype), kernel.transpose(2, 0, 1, 3).reshape(i, -1))
        y = y.reshape(n, h, w, 4, 4, -1)
        y = _overlapped(y, axis=1, taps=3)  # (n,2h,w,4,o)
        y = _overlapped(y, axis=2, taps=3)
        return y + jnp.broadcast_to(bias, y.shape)


class KeypointHead(nnx.Module):
    """3x3 convolutions with ReLUs, non-local blocks between them, a deconvolution, and bilinear enlargement by 2.

    `config.keypoint_blocks` holds numbers of convolutions, counted from 1. A non-local block follows the ReLU of each
    of these convolutions. `features` is the number of input channels, c.

    Raises:
      InputError: for a value of `config.keypoint_options` that `NonLocalBlock` does not take.
    """

    def __init__(self, features: int, config: DetectorConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        options = {"init": nnx.initializers.variance_scaling(2.0, "fan_out", "normal"), "dtype": dtype, "rngs": rngs}
        channels, count = config.keypoint_channels, config.keypoint_convolutions
        inputs = (features, *(channels,) * (count - 1))
        self.places = config.keypoint_blocks
        self.convs = nnx.List([Conv2D(i, channels, 3, **options) for i in inputs])
        of_block = config.resolved_keypoint_options() | {"dtype": dtype, "rngs": rngs}
        self.nonlocal_blocks = nnx.List([NonLocalBlock(channels, **of_block) for _ in self.places])
        self.deconv = Deconv4x4(channels, config.keypoints, **options)

    def __call__(self, x: Float[Array, "n s s c"]) -> tuple[Float[Array, "n k s4 s4"], dict[str, Array]]:
        """Returns the logits of every keypoint at the places of its box (heatmaps), and every intermediate by name.

        keypoint_1 is the output of the first convolution. keypoint_2_nonlocal is the output of the block after the
        second convolution.
        """
        out = {}
        for number, conv in enumerate(self.convs, start=1):
            with jax.named_scope(f"keypoint_{number}"):
                out[f"keypoint_{number}"] = x = relu(conv(x))
            if number in self.places:
                block = self.nonlocal_blocks[self.places.index(number)]
                with jax.named_scope(f"keypoint_{number}_nonlocal"):
                    out[f"keypoint_{number}_nonlocal"] = x = block(x)
        with jax.named_scope("heatmaps"):
            y = widen(self.deconv(x))
            n, h, w, k = y.shape
            return jax.image.resize(y, (n, 2 * h, 2 * w, k), "linear").transpose(0, 3, 1, 2), out


def heatmap_targets(
    keypoints: Float[Array, "*b n k 3"], boxes: Float[Array, "*b n 4"], size: int
) -> tuple[Int[Array, "*b n k"], Bool[Array, "*b n k"]]:
    """Returns the place of every keypoint in the heatmap of its box, y * size + x, and which keypoints count.

    A keypoint counts if it is labelled (visible or hidden) and lies in the box. A keypoint on the right or the lower
    side of the box is in the last place.

    Args:
      keypoints: x, y in pixels, the centre of a pixel at one half, and visibility, 0 for an unlabelled keypoint.
      boxes: one box for each of the n objects.
      size: places along a side.
    """
    box = boxes[..., None, :]
    corner, end = box[..., :2], box[..., 2:]
    side = jnp.where(end > corner, end - corner, 1)
    at = keypoints[..., :2]
    place = jnp.floor((at - corner) * (size / side)).astype(jnp.int32)
    place = jnp.where(at == end, size - 1, place)
    counts = ((place >= 0) & (place < size)).all(-1) & (keypoints[..., 2] > 0)
    return jnp.where(counts, place[..., 1] * size + place[..., 0], 0), counts


def keypoint_loss(
    heatmaps: Float[Array, "*b n k m m"], places: Int[Array, "*b n k"], counts: Bool[Array, "*b n k"]
) -> Float[Array, ""]:
    """Returns the mean softmax cross-entropy of the keypoints that count (He et al. 2017, section 5).

    The softmax of a keypoint runs over the m x m places of its heatmap. The loss is 0 if no keypoint counts.

    Args:
      heatmaps: logits.
      places: the place of every keypoint (see `heatmap_targets`).
      counts: whether each keypoint counts.
    """
    logits = heatmaps.reshape(*heatmaps.shape[:-2], -1)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), places[..., None], axis=-1)[..., 0]
    return jnp.where(counts, entropy, 0).sum() / jnp.maximum(counts.sum(), 1).astype(logits.dtype)


def find_keypoints(heatmaps: Float[Array, "b n k m m"], boxes: Num[Array, "b n 4"]) -> Float[Array, "b n k 3"]:
    """Returns x and y in pixels and the score of every keypoint of every box.

    A heatmap is enlarged to the size of its box in whole pixels (bicubic, a = -3/4). The keypoint is the centre of the
    pixel with the largest logit, and its score is this logit. If several pixels have the largest logit, the first tile
    counts, and in this tile the first pixel in row-major order.

    Args:
      heatmaps: logits of k keypoints at the m x m places of every box.
      boxes: (x0, y0, x1, y1) in pixels.
    """
    b, n = boxes.shape[:2]
    at_once = BOXES_AT_ONCE[devices.platform()]

    def of_boxes(heatmaps, boxes):
        return jax.lax.map(lambda one: _highest(*one), (heatmaps, boxes), batch_size=min(at_once, boxes.shape[0]))

    heatmaps, boxes = jax.lax.stop_gradient((heatmaps, boxes.astype(heatmaps.dtype)))
    if devices.partitioned():  # images may lie on different devices
        return jax.vmap(of_boxes)(heatmaps, boxes)
    return of_boxes(heatmaps.reshape(b * n, *heatmaps.shape[2:]), boxes.reshape(b * n, 4)).reshape(b, n, -1, 3)


def _highest(heatmaps, box):
    """Returns (k,3) for heatmaps (k,m,m) and their box (4,). Only the pixels of one tile are in memory at a time."""
    k, m, _ = heatmaps.shape
    side = jnp.maximum(box[2:] - box[:2], 1)  # width and height
    pixels = jnp.ceil(side)
    across, down = (jnp.ceil(length / TILE).astype(jnp.int32) for length in pixels)

    def look(state):
        tile, best, place = state
        x, y = (TILE * start + jnp.arange(TILE, dtype=jnp.int32) for start in (tile % across, tile // across))
        columns, rows = (_cubic(at.astype(pixels.dtype), length, m) for at, length in ((x, pixels[0]), (y, pixels[1])))
        exact = {"precision": jax.lax.Precision.HIGHEST}
        values = jnp.einsum("kij,xj->kix", heatmaps, columns, **exact)
        values = jnp.einsum("yi,kix->kyx", rows, values, **exact)
        inside = (y < pixels[1].astype(jnp.int32))[:, None] & (x < pixels[0].astype(jnp.int32))[None]
        values = jnp.where(inside[None], values, -jnp.inf).reshape(k, -1)
        index, value = values.argmax(1), values.max(1)
        found = jnp.stack([x[index % TILE], y[index // TILE]], axis=-1)
        higher = value > best
        return tile + 1, jnp.where(higher, value, best), jnp.where(higher[:, None], found, place)

    start = (jnp.int32(0), jnp.full(k, -jnp.inf, heatmaps.dtype), jnp.zeros((k, 2), jnp.int32))
    _, best, place = jax.lax.while_loop(lambda state: state[0] < across * down, look, start)
    at = box[None, :2] + (place.astype(side.dtype) + 0.5) * (side / pixels)[None]
    return jnp.concatenate([at, best[:, None]], axis=1)


def _cubic(pixel, pixels, m):
    """Returns the weights (t,m) of m values for t pixels of an axis that is enlarged to `pixels`.

    Outside the axis the first and the last value repeat.
    """
    at = (pixel + 0.5) * (m / pixels) - 0.5
    first = jnp.floor(at)
    part = at - first

    def near(d):  # weight of a value at most one place away
        return (1.25 * d - 2.25) * d * d + 1

    def far(d):  # weight of a value one to two places away
        return ((-0.75 * d + 3.75) * d - 6) * d + 3

    weights = jnp.stack([far(part + 1), near(part), near(1 - part), far(2 - part)], axis=1)
    taps = jnp.clip(first[:, None].astype(jnp.int32) + jnp.arange(-1, 3, dtype=jnp.int32)[None], 0, m - 1)
    hits = taps[..., None] == jnp.arange(m, dtype=jnp.int32)[None, None]
    return jnp.where(hits, weights[..., None], 0).sum(1)


def _overlapped(y, axis, taps):
    """Returns 2h sums along an axis of h places. The 4 values of place i on the axis `taps` add to 2i - 1 .. 2i + 2."""
    first, second, third, fourth = jnp.moveaxis(y, taps, 0)
    size = first.shape[axis]

    def shifted(array, by):
        width = [(0, 0)] * array.ndim
        width[axis] = (max(by, 0), max(-by, 0))
        return jax.lax.slice_in_dim(jnp.pad(array, width), max(-by, 0), max(-by, 0) + size, axis=axis)

    even, odd = second + shifted(fourth, 1), third + shifted(first, -1)
    both = jnp.stack([even, odd], axis=axis + 1)
    return both.reshape(*both.shape[:axis], 2 * size, *both.shape[axis + 2 :])
