"""RoIAlign: the features of a box as a grid of fixed size (He et al. 2017, section 3), from one map or from a pyramid.

Every bin of the grid is the mean of samples x samples values. Each value is interpolated from the four nearest places
of the map. The function has two forms, and `choose` chooses between them:

- gather: a bin reads at most (2 samples)^2 places, each with a weight. The form takes a few boxes at a time and adds up
  the rows of the map that they read. The backward pass adds to the same rows. This form suits a CPU and a GPU.
- einsum: each box has two matrices, the weights over height and over width, so its grid is a product of three arrays.
  The product runs over every place of the map. This form suits a TPU, where products are fast and gathers are slow.

Boxes get no gradient.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from nl_jax.ops import devices
from nl_jax.ops.boxes import area
from nl_jax.ops.precision import wide

# Boxes in one chunk. On a CPU the data of a chunk stays in the cache. A GPU needs more work in a turn of the loop.
CHUNK = {"cpu": 8, "gpu": 256, "tpu": 64}
# A box with the square root of its area at 224 pixels is read from level 4, of stride 16 (Lin et al. 2017, equation 1).
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4


def choose(platform: str) -> str:
    """Returns the form for "cpu", "gpu" or "tpu"."""
    return "einsum" if platform == "tpu" else "gather"


def roi_align(
    features: Float[Array, "h w c"],
    boxes: Num[Array, "n 4"],
    scale: float,
    size: int,
    samples: int = 2,
    aligned: bool = False,
    form: str | None = None,
) -> Float[Array, "n s s c"]:
    """Returns the features of n boxes, each as s x s bins (s = `size`).

    Args:
      features: a map. The value at index i belongs to the coordinate i.
      boxes: (x0, y0, x1, y1) in pixels of the image.
      scale: places of the map per pixel, 1/stride.
      size: bins along a side.
      samples: values along a side of a bin.
      aligned: whether the centre of a pixel has a coordinate half a pixel above its index. If true, half a place is
        subtracted from the scaled box. If false (the form of 2017), a box is at least one place wide and high.
      form: one of FORMS. By default the platform decides.

    Returns:
      The bins, row by row, in the type of `features`. Sums are float32. A value more than one place outside the map
      is 0.

    Raises:
      ValueError: `form` is unknown.
    """
    return roi_align_pyramid([features[None]], boxes[None], (scale,), size, samples, aligned, form)[0]


def roi_align_pyramid(
    features: Sequence[Float[Array, "b _ _ c"]],
    boxes: Num[Array, "b n 4"],
    scales: tuple[float, ...],
    size: int,
    samples: int = 2,
    aligned: bool = False,
    form: str | None = None,
    image_sizes: Int[Array, "b 2"] | None = None,
) -> Float[Array, "b n s s c"]:
    """Applies `roi_align` to every box, on the one map of the pyramid that suits the size of the box (see `levels`).

    Args:
      features: one map for each level, from the finest to the coarsest.
      boxes: n boxes of each image, (x0, y0, x1, y1) in pixels.
      scales: 1/stride of every map.
      size: bins along a side, s.
      samples: values along a side of a bin.
      aligned: see `roi_align`.
      form: one of FORMS. By default the platform decides.
      image_sizes: heights and widths in pixels, for images that are padded below and on the right. With it a map ends
        where its image ends.

    Raises:
      ValueError: `form` is unknown, or the number of maps is not the number of scales.
    """
    form = form or choose(devices.platform())
    if form not in FORMS:
        raise ValueError(f"form={form!r} is unknown; choose one of {', '.join(FORMS)}")
    if len(features) != len(scales):
        raise ValueError(f"{len(features)} maps and {len(scales)} scales: choose one for each")
    dtype = jnp.promote_types(wide(features[0]), wide(boxes))
    boxes = jax.lax.stop_gradient(boxes).astype(dtype)
    level = levels(boxes, scales)
    lengths = jnp.asarray([f.shape[1:3] for f in features], dtype)[level]  # (b,n,2), height and width
    widths = lengths[..., 1].astype(jnp.int32)
    if image_sizes is not None:
        ends = image_sizes[:, None].astype(dtype) * jnp.asarray(scales, dtype)[level][..., None]
        lengths = jnp.minimum(lengths, jnp.ceil(ends))
    scaled = boxes * jnp.asarray(scales, dtype)[level][..., None]
    axes = [
        _axis(scaled[..., i], scaled[..., i + 2], lengths[..., 1 - i], size, samples, aligned) for i in (1, 0)
    ]  # y and x: places and weights (b,n,s,t)
    if form == "einsum":
        return jax.vmap(_einsum)(tuple(features), level, *axes)
    starts = np.cumsum([0, *(f.shape[1] * f.shape[2] for f in features)])
    rows = jnp.concatenate([f.reshape(f.shape[0], -1, f.shape[-1]) for f in features], axis=1)
    start = jnp.asarray(starts[:-1], jnp.int32)[level]
    (y, y_weight), (x, x_weight) = axes
    taps = y[..., :, None, :, None] * widths[..., None, None, None, None] + x[..., None, :, None, :]
    taps = taps + start[..., None, None, None, None]
    weights = y_weight[..., :, None, :, None] * x_weight[..., None, :, None, :]
    taps, weights = (a.reshape(*a.shape[:4], -1) for a in (taps, weights))  # (b,n,s,s,t*t)
    if devices.partitioned():  # images may lie on different devices
        return jax.vmap(_gather)(rows, taps, weights)
    # All images become one map, which gives the loop over chunks more boxes.
    b, p, c = rows.shape
    taps = taps + p * jnp.arange(b, dtype=taps.dtype)[:, None, None, None, None]
    result = _gather(rows.reshape(b * p, c), *(a.reshape(-1, *a.shape[2:]) for a in (taps, weights)))
    return result.reshape(*boxes.shape[:2], size, size, c)


def levels(boxes: Num[Array, "*n 4"], scales: tuple[float, ...]) -> Int[Array, "*n"]:
    """Returns the map that each box is read from: floor(4 + log2(sqrt(area) / 224)), as an index of `scales`.

    The stride of level k is 2^k. A box that is too small for the maps is read from the first map. A box that is too
    large is read from the last map (Lin et al. 2017, equation 1).
    """
    first, last = (round(-np.log2(scale)) for scale in (scales[0], scales[-1]))
    exact = CANONICAL_LEVEL + jnp.log2(jnp.sqrt(area(boxes)) / CANONICAL_SIDE)
    return jnp.clip(jnp.floor(exact + 1e-6), first, last).astype(jnp.int32) - first


def _axis(low, high, length, size, samples, aligned):
    """Returns, along one axis, the places that a bin reads and their weights, both (b,n,s,t) with t = 2 samples.

    Args:
      low, high, length: (b,n). The two ends of the box and the number of places in the map, both in places of the map.
    """
    if aligned:
        low, high = low - 0.5, high - 0.5
    side = high - low if aligned else jnp.maximum(high - low, 1)
    bin_side = (side / size)[..., None, None]
    bins, inside = np.arange(size)[:, None], (np.arange(samples)[None] + 0.5)
    bins, inside = (jnp.asarray(a, low.dtype)[None, None] for a in (bins, inside))
    at, length = low[..., None, None] + bins * bin_side + inside * bin_side / samples, length[..., None, None]
    counts = (at >= -1) & (at <= length)  # false for NaN
    at = jnp.clip(jnp.where(counts, at, 0), 0, length - 1)
    before = jnp.floor(at)
    part = at - before
    places = jnp.stack([before, jnp.minimum(before + 1, length - 1)], axis=-1).astype(jnp.int32)
    weights = jnp.stack([1 - part, part], axis=-1) * (counts.astype(at.dtype) / samples)[..., None]
    return tuple(a.reshape(*a.shape[:3], 2 * samples) for a in (places, weights))


@jax.custom_vjp
def _gather(rows: Float[Array, "p c"], taps: Int[Array, "n s s t"], weights: Float[Array, "n s s t"]):
    """Returns sum_t weights_t rows[taps_t]: (n,s,s,c)."""

    def one_chunk(chunk):
        taps, weights = chunk
        # Adding term by term lets XLA add up the rows where it reads them.
        terms = (
            rows.at[taps[..., t]].get(mode="promise_in_bounds").astype(weights.dtype) * weights[..., t, None]
            for t in range(taps.shape[-1])
        )
        return sum(terms).astype(rows.dtype)

    n = taps.shape[0]
    result = jax.lax.map(one_chunk, _chunks(taps, weights))
    return result.reshape(-1, *result.shape[2:])[:n]


def _gather_forward(rows, taps, weights):
    # The backward pass needs only the shape and type of the rows.
    return _gather(rows, taps, weights), (jnp.zeros((0, *rows.shape), rows.dtype), taps, weights)


def _gather_backward(residuals, dy):
    shape, taps, weights = residuals
    _, p, c = shape.shape

    def add_chunk(total, chunk):
        taps, weights, dy = chunk
        updates = weights[..., None] * dy[..., None, :].astype(weights.dtype)
        return total.at[taps.ravel()].add(updates.reshape(-1, c), mode="promise_in_bounds"), None

    # These zeros depend on dy. XLA makes a constant when a step begins, and would keep it in memory for the whole step.
    zero = jnp.minimum(jnp.abs(dy.ravel()[0].astype(weights.dtype)), 0)
    total, _ = jax.lax.scan(add_chunk, jnp.full((p, c), zero), _chunks(taps, weights, dy))
    return total.astype(shape.dtype), None, None


_gather.defvjp(_gather_forward, _gather_backward)


def _einsum(features, level, y_axis, x_axis):
    """Returns the grids (n,s,s,c) of one image: features [(h,w,c)], level (n,), axes of places and weights (n,s,t)."""
    size, dtype = y_axis[0].shape[1], y_axis[1].dtype

    @partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)
    def one_chunk(chunk):
        level, y_axis, x_axis = chunk
        total = 0
        for i, f in enumerate(features):
            y, x = (_matrix(*axis, length) for axis, length in ((y_axis, f.shape[0]), (x_axis, f.shape[1])))
            y = y * (level == i).astype(dtype)[:, None, None]
            columns = jnp.einsum("nqw,hwc->nhqc", x.astype(f.dtype), f, preferred_element_type=dtype)
            total += jnp.einsum("nph,nhqc->npqc", y, columns)
        return total.astype(features[0].dtype)

    n = level.shape[0]
    level, *axes = _chunks(level, *y_axis, *x_axis)
    result = jax.lax.map(one_chunk, (level, tuple(axes[:2]), tuple(axes[2:])))
    return result.reshape(-1, size, size, result.shape[-1])[:n]


def _matrix(places, weights, length):
    """Returns places and weights (n,s,t) as a matrix (n,s,length)."""
    hits = places[..., None] == jnp.arange(length, dtype=places.dtype)[None, None, None]
    return jnp.sum(jnp.where(hits, weights[..., None], 0), axis=-2)


def _chunks(*arrays):
    """Splits (n,..) into (k, n / k, ..).

    Zeros fill the last chunk: a box of zeros has weights of zero and adds nothing.
    """
    n = arrays[0].shape[0]
    size = min(n, CHUNK[devices.platform()])
    padded = (jnp.pad(a, ((0, -n % size), *((0, 0),) * (a.ndim - 1))) for a in arrays)
    return tuple(a.reshape(-1, size, *a.shape[1:]) for a in padded)


FORMS = ("gather", "einsum")
