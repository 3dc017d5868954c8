"""Cell nuclei under a microscope, with masks, minutes on a laptop: does a block help on a task not made for it?

    python -m experiments.photographs nuclei stardist-0.9.2-*.whl
    python -m experiments.train --config=configs/nuclei.py --workdir=runs/nuclei

`experiments.photographs` writes the dataset to data/nuclei, and its help says where the wheel comes from. The
dataset is a single picture, cut into 12 tiles for training and 4 for testing. The networks and the recipe come from
configs/crowns.py. The networks also have a mask head.
"""

from configs import crowns

ROWS, BASELINE, FIGURE = crowns.ROWS, crowns.BASELINE, crowns.FIGURE
OTHER_FIGURES = {"mask_ap": "mask AP"} | crowns.OTHER_FIGURES


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    config = crowns.get_config(argument).unlock()
    for split in ("train", "test"):
        config.data[split] = f"data/nuclei/{split}:data/nuclei/{split}.json"
    config.detector.masks = True
    return config.lock()
