"""Finds the splits in a copy of a data set in COCO's format."""

from pathlib import Path

from nl_jax.errors import InputError

KINDS = ("instances", "person_keypoints")
EXPORTED = "_annotations.coco.json"  # beside the images of a split, as some annotation tools write it


def find_splits(source: Path, kind: str = "instances") -> dict[str, tuple[Path, Path]]:
    """Returns the folder of the images and the annotation file of every split, {"train2017": (folder, file), ..}.

    Two layouts are known. COCO's own has SOURCE/annotations/KIND_SPLIT.json beside SOURCE/SPLIT or SOURCE/images/SPLIT.
    The other has SOURCE/SPLIT/_annotations.coco.json among the images, for annotations of any kind. For the kind
    person_keypoints it is used only if COCO's own layout has no file of this kind.

    Raises:
        InputError: neither layout is found, or an annotation file has no folder of images.
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
