"""Multi-view testing (section 4.1): the mean score over the views of a video, or with several labels the highest.

A view is one clip in one crop, or one clip of whole frames in the video's own size.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jaxtyping import Bool, Float, Num

from nl_jax.data.dataset import Batch, ClipDataset
from nl_jax.errors import InputError
from nl_jax.evaluation.metrics import in_top_k, mean_average_precision
from nl_jax.places import Place, written


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The scores of n videos: the mean over the v views of a video, or with several labels (n,k) the highest.

    A video that could not be decoded counts as wrong in every figure.

    Attributes:
      scores: softmax or sigmoid of every video.
      view_scores: scores of every view.
      labels: (n,), or (n,k) of 0 and 1 for videos with several labels.
      failed: which videos could not be decoded.
      list_hash: hash of the list of videos and labels. Figures with the same hash were measured on the same list.
    """

    scores: Float[np.ndarray, "n k"]
    view_scores: Float[np.ndarray, "n v k"]
    labels: Num[np.ndarray, "n *k"]
    failed: Bool[np.ndarray, "n"]
    list_hash: str

    def metrics(self) -> dict[str, float | int | str]:
        """Returns video and clip top-1, and top-5 for more than five classes; for several labels (n,k) video_map.

        The result also has the number of videos, of views, of undecodable videos, and the hash of their list. A clip
        here is one view.
        """
        facts = {
            "videos": len(self.labels),
            "views": self.view_scores.shape[1],
            "undecodable": int(self.failed.sum()),
            "list": self.list_hash,
        }
        good = ~self.failed
        if self.labels.ndim == 2:  # an undecodable video ranks last
            return {
                "video_map": mean_average_precision(np.where(good[:, None], self.scores, np.nan), self.labels)
            } | facts
        views = np.broadcast_to(self.labels[:, None], self.view_scores.shape[:2])
        ranks = [k for k in (1, 5) if k == 1 or k < self.scores.shape[1]]  # five classes are all in the top 5
        return {
            **{f"video_top{k}": float((in_top_k(self.scores, self.labels, k) & good).mean()) for k in ranks},
            **{f"clip_top{k}": float((in_top_k(self.view_scores, views, k) & good[:, None]).mean()) for k in ranks},
            **facts,
        }

    def save(self, directory: Place, dataset: ClipDataset) -> Place:
        """Writes predictions.npz: scores, view_scores, labels, failed, and the names of classes and videos."""
        path = directory / "predictions.npz"
        arrays = {name: value for name, value in vars(self).items() if name != "list_hash"}
        arrays |= {"classes": np.array(dataset.classes), "names": np.array(list(dataset.names))}
        with written(path) as file:
            np.savez_compressed(file, **arrays)
        return path


def predict(
    dataset: ClipDataset,
    batches: Iterable[Batch],
    forward: Callable[[Batch], Float[jax.Array, "b k"]],
    gather: Callable[[Batch], Batch] = lambda arrays: arrays,
    *,
    at_once: int,
) -> Predictions:
    """Runs every video of the dataset through the network, one view of a batch of videos at a time.

    In a dataset of `variable_size` a batch holds one video, and at most `at_once` of its views run at once. Videos are
    not padded to a common size, because padding would change the scores. The network is compiled once for every size.

    Args:
      dataset: the videos.
      batches: batches of `nl_jax.data.loader.test_batches`, with the videos of this process.
      forward: from {"video": uint8 (b,t,h,w,3)} to softmax, or with several labels sigmoid, (b,k).
      gather: from this process's rows of a batch to all rows.
      at_once: the largest number of views in a batch of one video.
    """
    view_scores, labels, failed = [], [], []
    for batch in batches:
        if dataset.variable_size:
            view_scores.append(scores_of_views(forward, batch["video"][0], at_once)[None])
        else:
            views = [forward({"video": view}) for view in np.moveaxis(batch["video"], 1, 0)]
            view_scores.append(np.stack([np.asarray(scores) for scores in views], axis=1))
        facts = gather({"label": batch["label"], "failed": (batch["failed"] >= 0).any(axis=1)})
        labels.append(facts["label"])
        failed.append(facts["failed"])
    view_scores = np.concatenate(view_scores)[: len(dataset)]
    labels = np.concatenate(labels)[: len(dataset)]
    return Predictions(
        scores=combine(view_scores, several=labels.ndim == 2),
        view_scores=view_scores,
        labels=labels,
        failed=np.concatenate(failed)[: len(dataset)],
        list_hash=dataset.list_hash(),
    )


def check_views(dataset: ClipDataset) -> None:
    """Raises InputError if several processes cannot test the views of this dataset together."""
    if dataset.variable_size and jax.process_count() > 1:
        raise InputError(
            "whole frames (test_crop=0) differ in size, and several processes need equal ones; use one process"
        )


def combine(view_scores: Float[np.ndarray, "*n v k"], *, several: bool) -> Float[np.ndarray, "*n k"]:
    """Returns the scores of a video: the mean of its views, or with `several` labels the maximum.

    One label is the content of most of the video. With several labels each may appear in a single view.
    """
    if several:
        return view_scores.max(axis=-2)
    return view_scores.mean(axis=-2, dtype=np.float64).astype(np.float32)


def scores_of_views(
    forward: Callable[[Batch], Float[jax.Array, "b *k"]], views: np.ndarray, at_once: int
) -> Float[np.ndarray, "v *k"]:
    """Returns the scores, or features, of all views (v,t,h,w,3) of one video.

    The views run in groups of one size. The last view fills up the last group.
    """
    count = len(views)
    devices = math.gcd(at_once, jax.device_count())
    groups = -(-count // at_once)
    size = -(-count // (groups * devices)) * devices
    views = views[np.minimum(np.arange(groups * size), count - 1)]
    scores = [np.asarray(forward({"video": group})) for group in np.split(views, groups)]
    return np.concatenate(scores)[:count]
