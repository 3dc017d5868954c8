"""Finds the splits of a dataset in COCO's format."""

from pathlib import Path

from nl_jax.errors import InputError

KINDS = ("instances", "person_keypoints")
EXPORTED = "_annotations.coco.json"  # some annotation tools write this file into the folder of a split's images


def find_splits(source: Path, kind: str = "instances") -> dict[str, tuple[Path, Path]]:
    """Returns the folder of images and the annotation file of every split, {"train2017": (folder, file), ..}.

    A dataset has one of two layouts. COCO's own layout has SOURCE/annotations/KIND_SPLIT.json, and the images in
    SOURCE/SPLIT or SOURCE/images/SPLIT. The other layout has SOURCE/SPLIT/_annotations.coco.json among the images, with
    annotations of any kind. If `kind` is not instances, the other layout counts only if there is no split in COCO's own
    layout.

    Args:
      source: the folder of the dataset.
      kind: instances or person_keypoints.

    Raises:
      InputError: the folder has neither layout, or an annotation file has no folder of images.
    """
    splits = {}
    for file in sorted((source / "annotations").glob(f"{kind}_*.json")):
        split = file.stem.removeprefix(f"{kind}_")
        folders = [source / split, source / "images" / split]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise InputError(f"{file}: found no folder of its images, valid are {' and '.join(map(str, folders))}")
        splits[split] = folder, file
    if kind == KINDS[0] or not splits:
        splits |= {file.parent.name: (file.parent, file) for file in sorted(source.glob(f"*/{EXPORTED}"))}
    if not splits:
        raise InputError(f"{source}: found neither annotations/{kind}_SPLIT.json nor SPLIT/{EXPORTED} below it")
    return splits
