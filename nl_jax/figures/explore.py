"""An interactive page that shows where the position under the pointer looks, in every frame.

The page is one HTML file that needs no other file. It holds the frames, and the rows of all positions for each block of
each network. The weights of a row are 8-bit numbers with one scale. The folder `page` has the text, the style and the
programs of the page.

One letter per axis: t h w for the input of a block, T H W for its keys, and f y x for the frames, height and width of a
clip.
"""

import base64
import dataclasses
import html
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jinja2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from nl_jax.errors import InputError
from nl_jax.figures import attention, panels
from nl_jax.figures.rows import rows_of
from nl_jax.models import MaskRCNN, NonLocalBlock, VideoResNet
from nl_jax.places import Place, write_text

FILES = Path(__file__).parent / "page"
PAIRS = 1_500_000  # largest number of weights of a block in a page; a block with more has rows of fewer positions
LEVELS = 255  # the level of the largest weight of a row
SMALL = 96  # pixels of the longer side: frames up to this size are PNG without loss, and larger frames are JPEG
WIDEST = 1024  # pixels of the longer side of a frame in the page


@dataclasses.dataclass(frozen=True)
class Rows:
    """The weights f(x_i, x_j) / C(x) of the positions i that a page can show, over every key j of one block.

    Attributes:
      weights: one row of the matrix for each of q = t r c positions: every frame, the r `rows` and the c `columns`, in
        this order.
      rows: the rows of the input of the block that the page can show, counted from 0.
      columns: the columns of the input of the block that the page can show, counted from 0.
      shape: (t, h, w) of the input of the block.
      block: the name of the block.
      pairwise: the pairwise function, as in `NonLocalBlock.pairwise`, or another name of the weights.
    """

    weights: Float[np.ndarray, "q T H W"]
    rows: Sequence[int]
    columns: Sequence[int]
    shape: tuple[int, int, int]
    block: str
    pairwise: str


@dataclasses.dataclass(frozen=True)
class Page:
    """A page of HTML. A notebook shows the page if it is the last value of a cell.

    Attributes:
      html: the text of the page.
      height: height of the page in a notebook, in CSS pixels.
    """

    html: str = dataclasses.field(repr=False)
    height: int = 640

    def save(self, path: Place) -> None:
        """Writes the page as one file."""
        write_text(path, self.html)

    def _repr_html_(self) -> str:
        source = html.escape(self.html, quote=True)
        options = f'sandbox="allow-scripts" style="width: 100%; height: {self.height}px; border: 0"'
        return f'<iframe title="What a position looks at" {options} srcdoc="{source}"></iframe>'


def rows_in_video(
    model: VideoResNet, video: Float[jax.Array, "1 f y x 3"], block: str | None = None, *, pairs: int = PAIRS
) -> list[Rows]:
    """Returns the rows of every block of a network, or of one block.

    Args:
      model: a network in evaluation mode.
      video: one clip, normalized as in training.
      block: a name of `model.nonlocal_blocks()`, such as res3_1_nonlocal. By default all blocks.
      pairs: largest number of weights of a block. If a block has more, only every second (third, ..) row and column of
        its input has weights.

    Raises:
      InputError: for a block that does not exist, or a network without blocks.
    """
    blocks = _chosen(model.nonlocal_blocks(), block)
    inputs = attention.block_inputs(model, video, tuple(blocks))
    return [rows_of_block(blocks[name], x, name, pairs=pairs) for name, x in inputs.items()]


def rows_in_image(
    model: MaskRCNN,
    images: Float[jax.Array, "1 y x 3"],
    sizes: Int[jax.Array, "1 2"],
    block: str | None = None,
    *,
    pairs: int = PAIRS,
) -> list[Rows]:
    """Returns the rows of every block of a detector's backbone, or of one block, for one image.

    Positions in the padding of the image have no rows. `model`, `images` and `sizes` are as in
    `attention.attend_in_image`, and `block` and `pairs` are as in `rows_in_video`.

    Raises:
      InputError: for a block that does not exist, or a backbone without blocks.
    """
    blocks = _chosen(model.backbone.nonlocal_blocks(), block)
    inputs = attention.block_inputs_in_image(model, images, sizes, tuple(blocks))
    inside = tuple(np.asarray(sizes)[0] / images.shape[1:3])
    return [rows_of_block(blocks[name], x, name, valid, inside, pairs=pairs) for name, (x, valid) in inputs.items()]


def rows_of_block(
    block: NonLocalBlock,
    x: Float[jax.Array, "1 t h w c"],
    name: str,
    valid: Bool[jax.Array, "1 t h w"] | None = None,
    inside: tuple[float, float] = (1.0, 1.0),
    *,
    pairs: int = PAIRS,
) -> Rows:
    """Returns the rows of one block for an input of the block.

    Args:
      block: the block.
      x: the input of the block.
      name: the name of the block in the page.
      valid: whether each position is a key. By default all positions are keys.
      inside: the share of the height and of the width that has rows, from the top and from the left.
      pairs: as in `rows_in_video`.
    """
    t, h, w = x.shape[1:4]
    keys = block.key_shape(x.shape)
    count = t * (h * w if block.axes == "time" else math.prod(keys[-2:]))
    step = 1
    while t * -(-h // step) * -(-w // step) * count > pairs and step < max(h, w):
        step += 1
    rows, columns = _asked(h, inside[0], step), _asked(w, inside[1], step)
    asked = np.stack(np.meshgrid(np.arange(t), rows, columns, indexing="ij"), axis=-1).reshape(-1, 3)
    return Rows(rows_of(block, x, asked, valid), rows, columns, (t, h, w), name, block.pairwise)


def make_page(
    video: UInt8[np.ndarray, "f y x 3"],
    networks: Mapping[str, Sequence[Rows]],
    title: str = "",
    *,
    size: tuple[int, int] | None = None,
    position: tuple[int, int, int] | None = None,
    count: int = 20,
    height: int = 640,
) -> Page:
    """Returns the page of one clip, with one network or several side by side. An image is a clip of one frame.

    Args:
      video: the clip before normalization.
      networks: the rows of the blocks of each network, by the name of the network in the page.
      title: the title of the page.
      size: height and width of the frames without the padding on the right and at the bottom. By default there is no
        padding.
      position: (frame, row, column) in the input of the first block. The page shows this position first. The default is
        the middle.
      count: number of arrows that the page shows first.
      height: height of the page in a notebook, in CSS pixels.

    Raises:
      InputError: for no network, a network without rows, or a position outside the block's input.
    """
    if not networks or not all(networks.values()):
        raise InputError("a page needs at least one network, and of each network at least one block")
    first = next(iter(networks.values()))[0]
    position = tuple(axis // 2 for axis in first.shape) if position is None else position
    if not all(0 <= at < axis for at, axis in zip(position, first.shape, strict=True)):
        raise InputError(f"position={position} lies outside the {first.shape} positions of {first.block}")
    size = video.shape[1:3] if size is None else size
    frames = sorted({frame for of in networks.values() for rows in of for frame in _frames(rows, video)})
    data = {
        "frames": {frame: _picture(video[frame, : size[0], : size[1]]) for frame in frames},
        "size": size,
        "padded": [whole / part for whole, part in zip(video.shape[1:3], size, strict=True)],
        "blocks": list(dict.fromkeys(rows.block for of in networks.values() for rows in of)),
        "start": [(at + 0.5) / axis for at, axis in zip(position, first.shape, strict=True)],
        "networks": [
            {"name": name, "blocks": {rows.block: pack(rows) | {"frames": _frames(rows, video)} for rows in of}}
            for name, of in networks.items()
        ],
    }
    words = {"title": title, "count": count, "is_clip": len(frames) > 1}
    words["is_signed"] = any((rows.weights < 0).any() for of in networks.values() for rows in of)
    return Page(_template().render(**words, data=_as_script(data)), height)


def pack(rows: Rows) -> dict[str, object]:
    """Returns a block in the form that the page holds, a dict for JSON.

    `packed` is a zlib stream in base64 with three parts: the scale of every row as little-endian float32, the level of
    every weight as uint8, and, if any weight is negative, a bit for each weight that is 1 for a negative weight. The
    first weight has the highest bit of a byte. A weight is scale x level / 255, so its error is at most 1/510 of the
    largest weight of its row.
    """
    flat = rows.weights.reshape(len(rows.weights), -1)
    scales = np.abs(flat).max(axis=1).astype("<f4")
    levels = np.rint(np.abs(flat) / np.where(scales, scales, 1)[:, None] * LEVELS).astype(np.uint8)
    signed = bool((flat < 0).any())
    signs = np.packbits(flat < 0).tobytes() if signed else b""
    return {
        "pairwise": rows.pairwise.replace("_", " "),
        "shape": rows.shape,
        "keys": rows.weights.shape[1:],
        "rows": [int(row) for row in rows.rows],
        "columns": [int(column) for column in rows.columns],
        "signed": signed,
        "packed": base64.b64encode(zlib.compress(scales.tobytes() + levels.tobytes() + signs, 9)).decode(),
    }


def unpack(packed: Mapping[str, object]) -> Float[np.ndarray, "q T H W"]:
    """Returns the weights of a block from the result of `pack`, as the page reads them."""
    data = zlib.decompress(base64.b64decode(packed["packed"]))
    queries = packed["shape"][0] * len(packed["rows"]) * len(packed["columns"])
    count = queries * math.prod(packed["keys"])
    scales = np.frombuffer(data, "<f4", queries)
    weights = np.frombuffer(data, np.uint8, count, 4 * queries).astype(np.float32)
    if packed["signed"]:
        weights *= 1 - 2.0 * np.unpackbits(np.frombuffer(data, np.uint8, offset=4 * queries + count), count=count)
    return weights.reshape(queries, *packed["keys"]) * (scales / LEVELS)[:, None, None, None]


def _chosen(blocks, block):
    if not blocks or block not in (None, *blocks):
        raise InputError(f"block={block}: the network has {', '.join(blocks) or 'no non-local block'}")
    return blocks if block is None else {block: blocks[block]}


def _asked(size, share, step):
    """Returns every step-th of the places whose middle lies in the first `share` of an axis, with equal margins."""
    inside = max(1, sum(place + 0.5 < share * size for place in range(size)))
    return list(range((inside - 1) % step // 2, inside, step))


def _frames(rows, video):
    """Returns the frame of the video for each step of time of the block's input."""
    return [panels.frame_of(t, rows.shape[0], len(video)) for t in range(rows.shape[0])]


def _picture(frame):
    """Returns a frame as a data URL."""
    image, file = Image.fromarray(np.ascontiguousarray(frame)), io.BytesIO()
    image.thumbnail((WIDEST, WIDEST))
    kind, options = ("PNG", {}) if max(image.size) <= SMALL else ("JPEG", {"quality": 85})
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _template():
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FILES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html")


def _as_script(data) -> str:
    """Returns JSON for a script element. It escapes "</script>", which would end the element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
