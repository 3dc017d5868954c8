"""Multi-view testing (section 4.1): the score of a video is the mean score of its views.

For videos with several labels it is the highest score of its views. A view is one clip in one crop, or one clip of
whole frames in the size of the video.
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
    """The scores of n videos with v views for k classes (see `combine`).

    A video that could not be decoded, or has a score that is not finite, counts as wrong in every figure.

    Attributes:
      scores: (n,k), softmax or sigmoid of every video.
      view_scores: (n,v,k), scores of every view.
      labels: (n,), or (n,k) of 0 and 1 for videos with several labels.
      failed: (n,), whether each video could not be decoded.
      list_hash: hash of the list of videos and labels. Figures with the same hash were measured on the same list.
    """

    scores: Float[np.ndarray, "n k"]
    view_scores: Float[np.ndarray, "n v k"]
    labels: Num[np.ndarray, "n *k"]
    failed: Bool[np.ndarray, "n"]
    list_hash: str

    def metrics(self) -> dict[str, float | int | str]:
        """Returns the accuracies or the mean average precision from 0 to 1, and facts on the videos, by name.

        The accuracies are video_top1 and clip_top1, and for more than five classes video_top5 and clip_top5. A clip is
        one view here. For videos with several labels the figure is video_map. The facts are the numbers of videos, of
        views, of undecodable videos and of videos with a score that is not finite, and the hash of their list.
        """
        facts = {
            "videos": len(self.labels),
            "views": self.view_scores.shape[1],
            "undecodable": int(self.failed.sum()),
            "nonfinite": int((~np.isfinite(self.scores).all(axis=1) & ~self.failed).sum()),
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
        """Writes predictions.npz: scores, view_scores, labels, failed, and the names of classes and videos.

        Returns:
          The path of the file.
        """
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
    """Runs every video of the dataset through the network, and returns the scores.

    The network takes one view of each video of a batch at a time. In a dataset of `variable_size` a batch holds one
    video, and the network takes up to `at_once` of its views at a time. Videos are not padded to a common size, because
    padding would change the scores. XLA compiles the network once for every size.

    Args:
      dataset: the videos.
      batches: batches of `nl_jax.data.loader.test_batches`, with the videos of this process.
      forward: a function from {"video": uint8 (b,t,h,w,3)} to the softmax (b,k), or the sigmoid for several labels.
      gather: a function from the rows of a batch on this process to the rows on all processes.
      at_once: largest number of views in a batch of one video.
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
    """Returns the scores of n videos: the mean over the v views, or the maximum if videos have `several` labels.

    A single label describes most of the video. One of several labels may show in a single view only.
    """
    if several:
        return view_scores.max(axis=-2)
    return view_scores.mean(axis=-2, dtype=np.float64).astype(np.float32)


def scores_of_views(
    forward: Callable[[Batch], Float[jax.Array, "b *k"]], views: np.ndarray, at_once: int
) -> Float[np.ndarray, "v *k"]:
    """Returns the scores, or features, of all views of one video.

    The network takes the views in groups of one size. Copies of the last view fill the last group.

    Args:
      forward: a function from {"video": uint8 (b,t,h,w,3)} to scores (b,k) or features.
      views: uint8 (v,t,h,w,3).
      at_once: largest number of views in a group.
    """
    count = len(views)
    devices = math.gcd(at_once, jax.device_count())
    groups = -(-count // at_once)
    size = -(-count // (groups * devices)) * devices
    views = views[np.minimum(np.arange(groups * size), count - 1)]
    scores = [np.asarray(forward({"video": group})) for group in np.split(views, groups)]
    return np.concatenate(scores)[:count]
