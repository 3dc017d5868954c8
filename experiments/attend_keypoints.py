"""`experiments.attend` for a run with keypoints: the places that the place of a keypoint attends to in the head."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import pictures
from nl_jax.data.coco.detection import DetectionImages
from nl_jax.data.coco.images import resize
from nl_jax.errors import InputError
from nl_jax.figures import attention, explore
from nl_jax.models import MaskRCNN
from nl_jax.tasks.detection import Detection

CELL = 24  # side in pixels of the square that shows one place of the head's maps


def draw(
    task: Detection,
    model: MaskRCNN,
    dataset: DetectionImages,
    index: int,
    *,
    block: str | None,
    keypoint: str | None,
    number: int,
    count: int,
    ending: str,
    out: Path,
) -> list[Path]:
    """Writes pictures, or a page, of the places that a keypoint of an object attends to. Returns their paths.

    Args:
        block: a block, such as keypoint_2_nonlocal. By default pictures show the first block of the head, a page all
            blocks.
        keypoint: name of the keypoint; None for the mean over all places.
        number: number of the object; object 0 has the highest score.
        ending: ending of the pictures, such as png; html for a page (`nl_jax.figures.explore`).

    Raises:
        InputError: the block, the keypoint or the object does not exist.
    """
    blocks = {name: of for name, of in model.nonlocal_blocks().items() if name.startswith("keypoint")}
    shown = blocks if block is None and ending == "html" else (block or next(iter(blocks), ""),)
    block = next(iter(shown), "")
    if block not in blocks:
        raise InputError(f"--block={block}: the keypoint head has {', '.join(blocks) or 'no non-local block'}")
    example = dataset.test_example(index)
    inputs = {name: jnp.asarray(example[name][None]) for name in ("images", "sizes")}
    found = _found(task, *nnx.split(model), inputs)
    objects = int(np.asarray(found.valid[0]).sum())
    if number >= objects:
        raise InputError(
            f"--object={number}: {objects} objects are found in {dataset.names[index]}; they are counted from 0"
        )
    box = np.asarray(found.boxes[0, number])
    x = found.out[block.removesuffix("_nonlocal")][:, number][:, None]  # a clip of one frame
    position = None
    if keypoint is not None:
        of = dataset.keypoints.of_category[int(found.classes[0, number])]
        names = [dataset.keypoints.names[place] for place in of]
        if keypoint not in names:
            raise InputError(f"--keypoint={keypoint}: valid are {', '.join(names)}")
        at = np.asarray(found.keypoints[0, number, of[names.index(keypoint)], :2])
        column, row = np.clip((at - box[:2]) / (box[2:] - box[:2]) * x.shape[2], 0, x.shape[2] - 1).astype(int).tolist()
        position = (0, row, column)
    x0, y0, x1, y1 = (int(side) for side in (*np.floor(box[:2]), *np.ceil(box[2:])))
    crop = resize(np.ascontiguousarray(example["images"][y0:y1, x0:x1]), CELL * x.shape[2], CELL * x.shape[3])
    title = f"image {dataset.names[index]}, object {number}" + (f", {keypoint}" if keypoint else "")
    if ending == "html":
        inputs = {name: found.out[name.removesuffix("_nonlocal")][:, number][:, None] for name in shown}
        rows = [explore.rows_of_block(blocks[name], of, name) for name, of in inputs.items()]
        path = out / f"image{index}_{number}.html"
        explore.make_page(crop[None], {"keypoint head": rows}, title, position=position, count=count).save(path)
        return [path]
    seen = attention.attend_to(blocks[block], x, block, position)
    stem = out / f"image{index}_{number}_{block}{f'_{keypoint}' if keypoint else ''}"
    return pictures.draw(crop[None], seen, stem, ending, count, title)


def _found(task: Detection, graphdef, state, inputs):
    """Returns every output for one image, by name."""

    @jax.jit
    def run(state, inputs):
        return nnx.merge(graphdef, state)(task.normalized(inputs), inputs["sizes"])

    return run(state, inputs)
