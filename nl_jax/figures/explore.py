"""A page to explore by hand: it shows where the position under the pointer looks, in every frame.

The page is one HTML file that needs no other file. It holds the frames and, for each block of each network, the rows of
all positions: weights as 8-bit numbers with one scale a row. The folder `page` has its text, its style and its
programs.
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
PAIRS = 1_500_000  # the most weights of one block in a page; a larger block has rows of fewer positions
LEVELS = 255  # the number of the largest weight of a row
SMALL = 96  # pixels of a side: smaller frames are kept exactly, as PNG
WIDEST = 1024  # pixels of a frame in the page


@dataclasses.dataclass(frozen=True)
class Rows:
    """Holds the weights f(x_i, x_j) / C(x) of the positions i that a page can ask, over every key j of one block.

    Attributes:
      weights: t x r x c rows, of every frame and of the `rows` and `columns` that are asked, in this order.
      rows: the rows of the block's input that are asked, counted from 0; `columns` likewise.
      shape: (t, h, w) of the block's input.
      block: its name.
      pairwise: its pairwise function, as `NonLocalBlock.pairwise` has it, or any words that say what the weights are.
    """

    weights: Float[np.ndarray, "q T H W"]
    rows: Sequence[int]
    columns: Sequence[int]
    shape: tuple[int, int, int]
    block: str
    pairwise: str


@dataclasses.dataclass(frozen=True)
class Page:
    """Holds the page as text. A notebook shows the page if it is the last value of a cell."""

    html: str = dataclasses.field(repr=False)
    height: int = 640  # CSS pixels in a notebook

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
      model: in evaluation mode.
      video: one clip, normalised as the network was trained.
      block: a name of `model.nonlocal_blocks()`, such as res3_1_nonlocal; all of them by default.
      pairs: the most weights of a block. If it has more, only every second (third, ..) row and column is asked.

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

    Positions in the padding of the image are not asked. `images` and `sizes` are as in `attention.attend_in_image`,
    `block` and `pairs` as in `rows_in_video`.

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
    """Returns the rows of one block from its input.

    Args:
      x: the input of the block.
      name: the name of the block in the page.
      valid: which positions are keys; all of them by default.
      inside: the share of the height and of the width that is asked, from the top and from the left.
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
      video: what the networks saw, before it was normalised.
      networks: the rows of the blocks of each network, by the name that the page gives the network.
      size: the true height and width of the frames, whose right and bottom are padding; all by default.
      position: (frame, row, column) in the first block's input that the page shows at first; the middle by default.
      count: arrows at first.
      height: CSS pixels of the page in a notebook.

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
    """Returns a block as the page holds it, a dict of JSON.

    `packed` is base64 of a zlib stream: the scale of every row as float32 of little endian; the level of every weight
    as uint8; and where any weight is negative, a bit for each weight that says so, the first in the highest bit. A
    weight is scale x level / 255, so it is right to 1/510 of the largest of its row.
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
    """Returns the weights that `pack` has packed, as the page reads them."""
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
    """Returns every step-th place along an axis whose middle lies in the share, equally far from both ends."""
    inside = max(1, sum(place + 0.5 < share * size for place in range(size)))
    return list(range((inside - 1) % step // 2, inside, step))


def _frames(rows, video):
    """Returns the frames of the video that the block's steps of time represent."""
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
