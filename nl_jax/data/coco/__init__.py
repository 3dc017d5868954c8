"""Datasets in COCO's format: turns annotation files and images into padded examples. Needs `pycocotools`."""

from nl_jax.errors import require

require("detection", "pycocotools")
