"""The handwritten digits of scikit-learn in three splits, and the tints of the embedded tasks."""

import functools

import numpy as np

TINTS = {"red": (255, 60, 60), "green": (70, 230, 70), "blue": (80, 120, 255), "yellow": (240, 220, 50)}
SPLITS = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}  # fractions of each digit's samples


@functools.cache
def handwriting():
    """Returns scikit-learn's digits: `images` (n,8,8) with values from 0 to 16, and `target` (n,) the digits."""
    from sklearn.datasets import load_digits  # the import takes a second, and no other dataset needs it

    return load_digits()


@functools.cache
def samples(split: str) -> tuple[np.ndarray, ...]:
    """Returns, for every digit, the indices of its samples in the split. Other splits have other samples."""
    target = handwriting().target
    shuffled = np.random.default_rng(0).permutation(len(target))
    of_digit = [shuffled[target[shuffled] == digit] for digit in range(10)]
    low, high = SPLITS[split]
    return tuple(found[round(low * len(found)) : round(high * len(found))] for found in of_digit)


def enlarged(images: np.ndarray, side: int) -> np.ndarray:
    """Returns images (..,8,8) enlarged to (..,side,side) by bilinear interpolation."""
    centers = (np.arange(side) + 0.5) * 8 / side - 0.5  # centres of the new pixels, in units of the original pixels
    weights = np.maximum(0, 1 - np.abs(np.clip(centers, 0, 7)[:, None] - np.arange(8)))
    return weights @ images @ weights.T
