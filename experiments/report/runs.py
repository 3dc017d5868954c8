"""Reads a run from its workdir."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import numpy as np
from ml_collections import ConfigDict

from nl_jax.errors import InputError
from nl_jax.places import Place, absolute, place, read_text
from nl_jax.tasks import task_of
from nl_jax.training import workdir
from nl_jax.training.logs import rate_of, read_metrics, timing
from nl_jax.training.task import Task

# Fields of a config that do not count as differences, because the page shows them elsewhere.
SAID_ELSEWHERE = ("expect", "paper")


@dataclass(frozen=True)
class PastRun:
    """A run, read from its workdir.

    Attributes:
      name: a short name, unique among the runs.
      path: the workdir.
      config: the run's config.
      classes: class names by label.
      versions: versions of the packages and the devices of the run.
      results: content of results.json, from the test of the run or else from `evaluate`; empty without a test.
      predictions: arrays of predictions.npz in the same folder; empty without this file.
      metrics: rows of metrics.csv.
      found: the folder of results.json; None without a test.
      keypoints: content of keypoints_by_name.json: AP, exchanges and confusions of each keypoint; empty without it.
    """

    name: str
    path: Place
    config: ConfigDict
    classes: tuple[str, ...]
    versions: dict[str, str]
    results: dict
    predictions: dict[str, np.ndarray]
    metrics: list[dict[str, str]]
    found: Place | None
    keypoints: list[dict] = field(default_factory=list)

    def column(self, name: str, scale: float = 1.0) -> list[tuple[int, float]]:
        """Returns (step, scale * value) for the finite values of a column of the metrics."""
        points = [(int(row["step"]), float(row[name]) * scale) for row in self.metrics if row.get(name)]
        return [(step, value) for step, value in points if math.isfinite(value)]

    @property
    def task(self) -> Task:
        """Returns the task of the run."""
        return task_of(self.config)

    @property
    def rate(self) -> str:
        """Returns the name of the column with the throughput of training."""
        return rate_of(self.task.unit)

    def throughput(self) -> dict[str, float]:
        """Returns the mean of each timing column, and the median of the throughput, which a pause does not change."""
        columns = {name: [value for _, value in self.column(name)] for name in timing(self.task.unit)}
        return {name: (median if name == self.rate else fmean)(values) for name, values in columns.items() if values}


def read_runs(paths: Sequence[str]) -> list[PastRun]:
    """Reads the runs of several workdirs. Raises InputError if a path is not a workdir or is given twice."""
    directories = [place("workdir", path) for path in paths]
    real = [absolute(path) for path in directories]
    if twice := [str(path) for path, at in zip(directories, real, strict=True) if real.count(at) > 1]:
        raise InputError(f"{' and '.join(twice)} are the same workdir; give each workdir once")
    names = [path.name for path in real]
    return [
        _read(path, name if names.count(name) == 1 else str(path))
        for path, name in zip(directories, names, strict=True)
    ]


def _read(path: Place, name: str) -> PastRun:
    config, classes = workdir.read_config(path), workdir.read_classes(path)
    tested = next((at for at in (path, path / "evaluate") if (at / "results.json").exists()), None)
    results, predictions, keypoints = {}, {}, []
    if tested is not None:
        results = read_json(tested / "results.json")
        if (tested / "predictions.npz").exists():
            predictions = _arrays(tested / "predictions.npz")
            if predictions["scores"].shape[1] != len(classes):
                raise InputError(
                    f"{tested / 'predictions.npz'} has {predictions['scores'].shape[1]} classes, and "
                    f"{path / 'classes.json'} has {len(classes)}; test the run again"
                )
        if (tested / "keypoints_by_name.json").exists():
            keypoints = read_json(tested / "keypoints_by_name.json")
    versions = read_json(path / "versions.json") if (path / "versions.json").exists() else {}
    metrics = read_metrics(path / "metrics.csv")
    return PastRun(name, path, config, classes, versions, results, predictions, metrics, tested, keypoints)


def read_json(path: Place) -> dict:
    """Reads a JSON file. Raises InputError if it cannot be read."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _arrays(path: Place) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in ("scores", "labels", "failed", "names")}
    except Exception as error:  # a damaged archive raises many types: of zipfile, of NumPy, or for a missing array
        raise InputError(f"{path} cannot be read: {error}") from error


def differences(runs: Sequence[PastRun]) -> dict[str, list[tuple[str, list[str]]]]:
    """Returns (field, value in each run) for the fields of the configs, and for the versions, that differ."""
    configs = [workdir.flatten(run.config.to_dict()) for run in runs]
    return {
        "config": _differing([{k: v for k, v in config.items() if k not in SAID_ELSEWHERE} for config in configs]),
        "versions": _differing([run.versions for run in runs]),
    }


def _differing(tables: list[dict]) -> list[tuple[str, list[str]]]:
    fields = sorted({field for table in tables for field in table})
    rows = [(field, [_text(table.get(field, "")) for table in tables]) for field in fields]
    return [(field, values) for field, values in rows if len(set(values)) > 1]


def _text(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
