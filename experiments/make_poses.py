"""Writes nl_jax/data/embedded/poses.npz, the poses of the embedded task of keypoints, from the wheel that has them.

pip download --no-deps pose-classification-kit==1.1.5
python -m experiments.make_poses --wheel=pose_classification_kit-1.1.5-py3-none-any.whl

The wheel has 10,681 poses of 25 points (MIT licence, see nl_jax/data/embedded/poses.txt). The program selects poses
that show all 17 keypoints of COCO and whose width is at most 0.62 of their height. It keeps every second of these
poses, because neighbours are frames of one video.
"""

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from absl import flags

from experiments import command_line
from nl_jax.data.embedded import poses

WHEEL = flags.DEFINE_string(
    "wheel", None, "the file pose_classification_kit-1.1.5-py3-none-any.whl (required)", required=True
)
OUT = flags.DEFINE_string("out", str(poses.FILE), "file for the poses")
TABLE = "pose_classification_kit/datasets/BodyPose_Dataset.csv"
# Indices of COCO's 17 keypoints among the 25 of the table, and the maximum width over height of a pose.
PLACES = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)
WIDEST = 0.62


def main() -> None:
    with zipfile.ZipFile(WHEEL.value) as wheel, wheel.open(TABLE) as file:
        rows = list(csv.reader(io.TextIOWrapper(file, "utf-8")))[1:]
    points = np.array([row[2:] for row in rows], float).reshape(len(rows), 25, 2)[:, PLACES]
    points = points[(points != 0).any(-1).all(-1)]  # 0, 0 marks a keypoint that was not seen
    points[..., 1] *= -1  # y points down, as in images
    points -= points.min(axis=1, keepdims=True)
    width, height = points.max(axis=1).T
    points = (points / height[:, None, None])[width <= WIDEST * height][::2]
    np.savez_compressed(OUT.value, points=np.rint(points * 255).astype(np.uint8))
    print(f"wrote {OUT.value}: {len(points)} poses, {Path(OUT.value).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    command_line.run(main)
