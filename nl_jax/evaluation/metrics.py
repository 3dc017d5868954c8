"""Top-k accuracy of clips and videos, and mean average precision for videos with several labels."""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def in_top_k(scores: Float[np.ndarray, "... k"], labels: Int[np.ndarray, "..."], k: int) -> Bool[np.ndarray, "..."]:
    """Returns whether the label of each row of scores is among the k highest scores of the row.

    A row with a score that is not finite is never right. Equal scores count against the label, because a network that
    gives all classes the same score has no answer.
    """
    of_label = np.take_along_axis(scores, labels[..., None], axis=-1)
    others_as_good = (scores >= of_label).sum(axis=-1) - 1
    return (others_as_good < k) & np.isfinite(scores).all(axis=-1)


def average_precision(scores: Float[np.ndarray, "n k"], labels: Shaped[np.ndarray, "n k"]) -> Float[np.ndarray, "k"]:
    """Returns the average precision of every class over n videos, as in Charades' evaluation.

    Videos are ranked by their score for the class. Each positive video has a precision: the share of positives among
    all videos ranked as high or higher. The average is over the positive videos. Videos without any label and videos
    with a score of NaN rank below all others. Equal scores have equal ranks. A class without a positive video gives
    NaN.

    Args:
      scores: scores of n videos for k classes.
      labels: 1 (or true) if the class is in the video, else 0.
    """
    positive = labels.astype(bool)
    scores = np.where(np.isnan(scores) | ~positive.any(axis=1, keepdims=True), -np.inf, scores)
    result = np.full(scores.shape[1], np.nan)
    for of_class in np.flatnonzero(positive.any(axis=0)):
        order = np.argsort(-scores[:, of_class], kind="stable")
        ranked = scores[order, of_class]
        hits = np.cumsum(positive[order, of_class])
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # the last of equal scores
        precision = hits[ends] / (ends + 1)
        result[of_class] = np.sum(np.diff(hits[ends], prepend=0) * precision) / hits[-1]
    return result


def mean_average_precision(scores: Float[np.ndarray, "n k"], labels: Shaped[np.ndarray, "n k"]) -> float:
    """Returns the mean of `average_precision` over the classes with a positive video. It is NaN if there is none."""
    found = average_precision(scores, labels)
    found = found[~np.isnan(found)]
    return float(found.mean()) if found.size else float("nan")
