"""Tree crowns in aerial photographs, minutes on a laptop: does a block help on a task that was not made for it?

    python -m experiments.photographs crowns deepforest-2.1.0-py3-none-any.whl
    python -m experiments.train --config=configs/crowns.py --workdir=runs/crowns

`experiments.photographs` writes the dataset to data/crowns, and its help says where the wheel comes from. The
networks come from configs/scenes.py. They have no mask head, because crowns have only boxes.
"""

from configs import common, scenes

ROWS = {row: scenes.ROWS[row] for row in ("block", "baseline", "wider")}
BASELINE, FIGURE = "baseline", "box AP"
OTHER_FIGURES = {"box_ap50": "box AP50"}


def get_config(argument: str = ""):
    """Returns the config of a row, or of ROW,FLAG. Raises ValueError for an unknown row or flag."""
    changes, _ = common.parse_row(argument, ROWS, ("laptop",))  # the flag changes nothing: the row is small already
    config = scenes.get_config("baseline").unlock()
    config.data = common.coco_data()
    for split in ("train", "test"):
        config.data[split] = f"data/crowns/{split}:data/crowns/{split}.json"
    config.data.short_sides = (256,)
    config.data.long_side = config.data.test_short_side = 256
    config.num_classes = 1
    config.steps = 400
    config.eval_batch_size = 8
    config.detector.masks = False
    config.detector.anchor_sides = (16, 32, 64, 128, 256)
    config.detector.train_pre_nms = 200
    config.detector.train_proposals = 100
    config.detector.proposals = 200
    config.detector.rpn_samples = 128
    config.detector.roi_samples = 32
    config.detector.detections = 100
    return common.update(config, changes)
