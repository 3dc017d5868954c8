"""What several runs of two rows say of their difference."""

import functools

import numpy as np
from jaxtyping import Float, Shaped

RESAMPLES = 5000


def mean_and_spread(accuracies: Float[np.ndarray, "s"]) -> tuple[float, float | None]:
    """Mean and sample standard deviation over seeds; None for the spread of one run."""
    return float(accuracies.mean()), float(accuracies.std(ddof=1)) if len(accuracies) > 1 else None


def paired_difference(
    ours: Shaped[np.ndarray, "s n"],
    theirs: Shaped[np.ndarray, "s n"],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """Accuracy of `ours` minus that of `theirs`, and its 95% interval: the percentile bootstrap.

    Row k of both has the same seed, so the same start and the same clips in training, and column i the same test clip:
    seeds and clips are drawn with replacement, each draw for both networks. With the one seed that there may be, clips
    alone are drawn. Few seeds make the interval too narrow: three draws of three have 10 outcomes.

    Args:
      ours, theirs: whether test clip i was right in the run of seed k; or (s,1), one figure a run.
    """
    difference = ours.astype(np.float64) - theirs
    of_seeds, of_clips = _draws(*difference.shape, seed, resamples)
    drawn = ((of_clips @ difference.T) * of_seeds).sum(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


@functools.lru_cache(maxsize=2)  # a table asks for the same ones for every row
def _draws(
    seeds: int, clips: int, seed: int, resamples: int
) -> tuple[Float[np.ndarray, "r s"], Float[np.ndarray, "r n"]]:
    """The weight of every seed and of every clip in each resample."""
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    of_clips = rng.multinomial(clips, np.full(clips, 1 / clips), resamples) / clips
    return of_seeds, of_clips
