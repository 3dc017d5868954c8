"""Computes statistics of the runs of a row, and of the difference between two rows."""

import functools

import numpy as np
from jaxtyping import Float, Shaped

RESAMPLES = 5000


def mean_and_spread(accuracies: Float[np.ndarray, "s"]) -> tuple[float, float | None]:
    """Returns the mean and the sample standard deviation over s seeds. With one seed the deviation is None."""
    return float(accuracies.mean()), float(accuracies.std(ddof=1)) if len(accuracies) > 1 else None


def paired_difference(
    ours: Shaped[np.ndarray, "s n"],
    theirs: Shaped[np.ndarray, "s n"],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """Returns the accuracy of `ours` minus the accuracy of `theirs`, and the low and high end of its 95% interval.

    The interval is a percentile bootstrap, which draws seeds and clips with replacement. Each draw applies to both
    networks, because their runs are pairs: run k of both has the same seed, the same start and the same training clips,
    and column i is the same test clip. With a single seed only the clips vary between draws. With few seeds the
    interval is too narrow: three draws from three seeds have only 10 outcomes.

    Args:
      ours, theirs: (s,n), whether test clip i was right in the run of seed k; or (s,1), one figure per run.
      seed: seed of the draws.
      resamples: number of draws.
    """
    difference = ours.astype(np.float64) - theirs
    of_seeds, of_clips = _draws(*difference.shape, seed, resamples)
    drawn = ((of_clips @ difference.T) * of_seeds).sum(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


@functools.lru_cache(maxsize=2)  # all rows of a table use the same draws
def _draws(
    seeds: int, clips: int, seed: int, resamples: int
) -> tuple[Float[np.ndarray, "r s"], Float[np.ndarray, "r n"]]:
    """Returns the weight of every seed and of every clip in each of r resamples."""
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
    of_clips = rng.multinomial(clips, np.full(clips, 1 / clips), resamples) / clips
    return of_seeds, of_clips
