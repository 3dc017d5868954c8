"""Data sets in COCO's format: annotation files and images to padded batches for detection. Needs `pycocotools`."""

from nl_jax.errors import require

require("detection", "pycocotools")
