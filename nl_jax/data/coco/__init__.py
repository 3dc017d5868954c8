"""Data sets in COCO's format: annotation files and images to padded batches for detection. Needs `pycocotools`."""
