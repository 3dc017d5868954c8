"""Top-k accuracy of clips and of videos."""

import numpy as np
from jaxtyping import Bool, Float, Int


def in_top_k(scores: Float[np.ndarray, "... k"], labels: Int[np.ndarray, "..."], k: int) -> Bool[np.ndarray, "..."]:
    """Whether the label is among the k highest scores. Equal scores count against the label: a constant is no answer.

    Non-finite scores are never right.
    """
    of_label = np.take_along_axis(scores, labels[..., None], axis=-1)
    others_as_good = (scores >= of_label).sum(axis=-1) - 1
    return (others_as_good < k) & np.isfinite(scores).all(axis=-1)
