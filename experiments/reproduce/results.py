"""Saves the result of each run as one line of JSON in the file of its table. All tables and plots come from these."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from experiments.reproduce.rows import PlannedRun
from nl_jax.errors import InputError
from nl_jax.evaluation.metrics import in_top_k
from nl_jax.training.logs import read_metrics

# Figures of detection besides box AP.
FIGURES = (
    *("box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75", "box_ap_agnostic", "mask_ap_agnostic"),
    "keypoint_exchanged",
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
      row: FILE.py:ROW of the run. Rows of other tables can be the same network.
      config: hash of the fields of the config that change the result, without the seed.
      seed: seed of the run.
      commit: commit of the code, with "+" if files differed from it.
      accuracy: top-1 of the test videos, from 0 to 1; mean average precision if a video has several labels; for
        detection box AP, or keypoint AP with keypoints.
      parameters: number of parameters of the network.
      macs: multiply-adds of a clip. The FLOPs are twice this number.
      seconds, cpu_seconds: wall time and processor time of the process; of the last process if the run was interrupted.
      videos: number of test videos or images.
      list: hash of the list of the test videos or images.
      correct: whether each test video was right, as bits in hexadecimal; empty for detection, and if a video has
        several labels.
      losses: {step: mean training loss since the previous entry}; empty in old results.
      figures: {name: value} of the other figures of the task, from 0 to 1; empty for classification.
    """

    row: str
    config: str
    seed: int
    commit: str
    accuracy: float
    parameters: int
    macs: int
    seconds: float
    cpu_seconds: float
    videos: int
    list: str
    correct: str
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, float] = dataclasses.field(default_factory=dict)

    def measured(self) -> Shaped[np.ndarray, "n"]:
        """Returns the values to compare with another run: whether each of n test videos was right, or the accuracy."""
        return self.right() if self.correct else np.array([self.accuracy])

    def right(self) -> Bool[np.ndarray, "n"]:
        """Returns whether each of n test videos was right."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.correct), np.uint8), count=self.videos).astype(bool)


def collect(run: PlannedRun, workdir: Path, *, commit: str, seconds: float, cpu_seconds: float) -> Result:
    """Reads the result of a finished run from its workdir."""
    found = json.loads((workdir / "results.json").read_text())
    correct = ""
    if (workdir / "predictions.npz").exists():
        with np.load(workdir / "predictions.npz") as saved:
            if saved["labels"].ndim == 1:
                right = in_top_k(saved["scores"], saved["labels"], 1) & ~saved["failed"]
                correct = np.packbits(right).tobytes().hex()
    return Result(
        row=run.spec,
        config=run.key,
        seed=run.seed,
        commit=commit,
        accuracy=next(found[name] for name in ("video_top1", "video_map", "keypoint_ap", "box_ap") if name in found),
        parameters=found["parameters"],
        macs=found["macs"],
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu_seconds, 1),
        videos=found["videos"] if "videos" in found else found["images"],
        list=found["list"],
        correct=correct,
        figures={name: found[name] for name in FIGURES if name in found},
        losses={row["step"]: round(float(row["train_loss"]), 4) for row in read_metrics(workdir / "metrics.csv")},
    )


def save(result: Result, folder: Path) -> None:
    """Appends the result as one line to the file of its table."""
    folder.mkdir(parents=True, exist_ok=True)
    table = Path(result.row.partition(":")[0]).stem
    with (folder / f"{table}.jsonl").open("a") as file:
        file.write(json.dumps(dataclasses.asdict(result)) + "\n")


def load(run: PlannedRun, folder: Path) -> Result | None:
    """Returns the newest result of a run, or None. A table with the same network and recipe can have the result too."""
    for path in sorted(folder.glob("*.jsonl")):
        if found := _read(path, path.stat().st_mtime_ns).get((run.key, run.seed)):
            return found
    return None


@functools.cache
def _read(path: Path, changed: int) -> dict[tuple[str, int], Result]:
    """Returns {(hash of the config, seed): last result of the run}. With another `changed` the file is read again."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}, line {number}, is not the result of a run: {error}; remove the line") from error
        found[result.config, result.seed] = result
    return found
