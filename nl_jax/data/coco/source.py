"""Finds the splits of a dataset in COCO's format."""

from pathlib import Path

from nl_jax.errors import InputError

KINDS = ("instances", "person_keypoints")
EXPORTED = "_annotations.coco.json"  # some annotation tools write this file into the folder of a split's images


def find_splits(source: str | Path, kind: str = "instances", split: str | None = None) -> dict[str, tuple[Path, Path]]:
    """Returns the folder of images and the annotation file of every split, {"train2017": (folder, file), ..}.

    A dataset has one of three layouts. COCO's own layout has SOURCE/annotations/KIND_SPLIT.json, and the images in
    SOURCE/SPLIT or SOURCE/images/SPLIT. The second layout has SOURCE/SPLIT/_annotations.coco.json among the images,
    with annotations of any kind. If `kind` is not instances, this layout counts only if there is no split in COCO's own
    layout. In the third layout SOURCE is FILE.json or IMAGES:FILE.json, and the one split has the name FILE.

    Args:
      source: the folder of the dataset, or the annotation file.
      kind: instances or person_keypoints.
      split: the only split to return; None returns every split.

    Raises:
      InputError: the source has none of these layouts or not this split, or an annotation file has no folder of images.
    """
    if str(source).endswith(".json"):
        return _of_file(str(source))
    source = Path(source)
    files = {
        file.stem.removeprefix(f"{kind}_"): file for file in sorted((source / "annotations").glob(f"{kind}_*.json"))
    }
    if kind == KINDS[0] or not files:
        files |= {file.parent.name: file for file in sorted(source.glob(f"*/{EXPORTED}"))}
    if not files:
        raise InputError(f"{source}: found neither annotations/{kind}_SPLIT.json nor SPLIT/{EXPORTED} below it")
    if split is not None:
        if split not in files:
            raise InputError(f"{source}: has no split {split!r}, valid are {', '.join(files)}")
        files = {split: files[split]}
    return {name: (_folder(source, name, file), file) for name, file in files.items()}


def parts_of(source: str) -> tuple[Path, Path]:
    """Returns the folder of images and the annotation file of FILE.json or IMAGES:FILE.json."""
    images, colon, last = source.rpartition(":")
    if not colon or Path(source).is_file():  # the name of a folder may have a colon
        return Path(source).parent, Path(source)
    return Path(images), Path(last)


def _of_file(source: str) -> dict[str, tuple[Path, Path]]:
    folder, file = parts_of(source)
    for path, there in ((file, file.is_file()), (folder, folder.is_dir())):
        if not there:
            raise InputError(f"{source}: there is no {path}, valid is FILE.json or IMAGES:FILE.json")
    return {file.stem: (folder, file)}


def _folder(source: Path, split: str, file: Path) -> Path:
    if file.name == EXPORTED:
        return file.parent
    folders = [source / split, source / "images" / split]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise InputError(f"{file}: found no folder of its images, valid are {' and '.join(map(str, folders))}")
