"""Multi-view testing (section 4.1): n clips x crops of every video, softmax of each, averaged."""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from nl_jax.data.loader import test_batches
from nl_jax.errors import InputError
from nl_jax.evaluation.metrics import in_top_k


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores of every video of a list (n), each the mean over its views (v).

    A video that could not be decoded is counted as wrong in every figure.
    """

    scores: Float[np.ndarray, "n k"]
    view_scores: Float[np.ndarray, "n v k"]
    labels: Int[np.ndarray, "n"]
    failed: Bool[np.ndarray, "n"]
    list_hash: str

    def metrics(self) -> dict[str, float | int | str]:
        """Video and clip top-1 and top-5, the number of videos, of undecodable ones, and the hash of their list.

        A clip here is one view: one stretch of frames in one crop.
        """
        good = ~self.failed
        views = np.broadcast_to(self.labels[:, None], self.view_scores.shape[:2])
        return {
            **{f"video_top{k}": float((in_top_k(self.scores, self.labels, k) & good).mean()) for k in (1, 5)},
            **{f"clip_top{k}": float((in_top_k(self.view_scores, views, k) & good[:, None]).mean()) for k in (1, 5)},
            "videos": len(self.labels),
            "views": self.view_scores.shape[1],
            "undecodable": int(self.failed.sum()),
            "list": self.list_hash,
        }

    def save(self, path: Path, dataset) -> None:
        """An .npz with scores, view_scores, labels, failed, and the names of classes and, if they have any, videos."""
        names = getattr(dataset, "names", [str(index) for index in range(len(dataset))])
        arrays = {name: value for name, value in vars(self).items() if name != "list_hash"}
        np.savez_compressed(path, **arrays, classes=np.array(dataset.classes), names=np.array(names))


def predict(
    forward: Callable[[jax.Array], Float[jax.Array, "b k"]],
    put: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    dataset,
    *,
    batch_size: int,
    num_workers: int = 0,
    on_batch: Callable[[int], None] = lambda videos: None,
) -> Predictions:
    """Every video of the data set through the network, one view of `batch_size` videos at a time.

    Args:
      forward: uint8 video (b,t,h,w,3) -> softmax (b,k).
      put: from this process's arrays to arrays over all devices.
      on_batch: called with the number of videos done.
    """
    if not len(dataset):
        raise InputError("there are no videos to evaluate")
    view_scores, labels, failed = [], [], []
    batches = test_batches(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    with closing(batches):
        for batch in batches:
            views = [forward(put({"video": view})["video"]) for view in np.moveaxis(batch["video"], 1, 0)]
            view_scores.append(np.stack([np.asarray(view) for view in views], axis=1))
            rows = _gather({"label": batch["label"], "failed": (batch["failed"] >= 0).any(axis=1)})
            labels.append(rows["label"])
            failed.append(rows["failed"])
            on_batch(min(len(labels) * batch_size, len(dataset)))
    view_scores = np.concatenate(view_scores)[: len(dataset)]
    return Predictions(
        scores=view_scores.mean(axis=1, dtype=np.float64).astype(np.float32),
        view_scores=view_scores,
        labels=np.concatenate(labels)[: len(dataset)],
        failed=np.concatenate(failed)[: len(dataset)],
        list_hash=dataset.list_hash(),
    )


def _gather(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of all processes in order."""
    if jax.process_count() == 1:
        return rows
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(rows, tiled=True)
