"""What is kept of a run: one line of JSON in the file of its table. Every table and plot is made of these lines."""

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

# Of detection, beside box AP.
FIGURES = (
    *("box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75", "box_ap_agnostic", "mask_ap_agnostic"),
    "keypoint_exchanged",
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
      row: FILE.py:ROW that it was run as; other rows may be the same network.
      config: hash of what its config computes, but for the seed.
      commit: of the code, with "+" where files differed from it.
      accuracy: top-1 of the test videos; mean average precision where a video has several labels; of detection box AP,
        with keypoints keypoint AP.
      macs: multiply-adds of a clip; FLOPs are twice that.
      seconds, cpu_seconds: that its process took on the clock, and on processors; of a run that was interrupted, the
        process that ended it.
      correct: whether each test video was right, as bits; empty where a video has several labels, and of detection.
      videos, list: how many there are, and their hash.
      losses: step to the mean training loss of the steps up to it since the one before; results of before they were
        kept have none.
      figures: by name, the others that the task measures, from 0 to 1; of classification none.
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
        """What two runs are compared by: whether each test video was right, or else the accuracy alone."""
        return self.right() if self.correct else np.array([self.accuracy])

    def right(self) -> Bool[np.ndarray, "n"]:
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.correct), np.uint8), count=self.videos).astype(bool)


def collect(run: PlannedRun, workdir: Path, *, commit: str, seconds: float, cpu_seconds: float) -> Result:
    """The result of a workdir whose run has ended."""
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
    """Appends the result, as one line, to the file of the table that it was run for."""
    folder.mkdir(parents=True, exist_ok=True)
    table = Path(result.row.partition(":")[0]).stem
    with (folder / f"{table}.jsonl").open("a") as file:
        file.write(json.dumps(dataclasses.asdict(result)) + "\n")


def load(run: PlannedRun, folder: Path) -> Result | None:
    """The newest result of a run, if it has been run, for this table or for another that has the same network."""
    for path in sorted(folder.glob("*.jsonl")):
        if found := _read(path, path.stat().st_mtime_ns).get((run.key, run.seed)):
            return found
    return None


@functools.cache
def _read(path: Path, changed: int) -> dict[tuple[str, int], Result]:
    """(hash of the config, seed) to the last result of each run in a file; read anew when the file has changed."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}, line {number}, is not the result of a run: {error}") from error
        found[result.config, result.seed] = result
    return found
