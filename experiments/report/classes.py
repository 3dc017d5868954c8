"""Counts the right and wrong predictions of a run, by class."""

from dataclasses import dataclass

import numpy as np

from experiments.report.runs import PastRun
from nl_jax.evaluation.metrics import average_precision, in_top_k


@dataclass(frozen=True)
class Example:
    """A video with a wrong prediction."""

    index: int
    name: str
    text: str


@dataclass(frozen=True)
class Hard:
    """A class: its accuracy or average precision, its most frequent confusion, and its most confident mistakes."""

    name: str
    figure: float
    videos: int
    taken_for: str
    examples: list[Example]


@dataclass(frozen=True)
class Pair:
    """A pair of classes: the number of videos of `true` that are taken for `predicted`, and the most confident one."""

    true: str
    predicted: str
    count: int
    videos: int
    example: Example


class ByClass:
    """The predictions of one run, by class.

    Attributes:
      measure: name of the figures.
      figures: (k,), accuracy of each class, or average precision if videos have several labels; nan if a class has no
        video.
      videos: (k,), number of videos of each class.
      confusion: (k,k), number of videos of the class of the row that are taken for the class of the column. Undecodable
        videos are not counted. None if videos have several labels.
    """

    def __init__(self, run: PastRun):
        scores, labels, failed = (run.predictions[name] for name in ("scores", "labels", "failed"))
        self.classes, self._scores, self._names = run.classes, scores, run.predictions["names"]
        count = len(run.classes)
        self.confusion = None
        if labels.ndim == 2:
            self.measure = "average precision"
            self.figures = average_precision(np.where(failed[:, None], np.nan, scores), labels)
            self.videos = labels.astype(bool).sum(axis=0)
            self._labels = labels
            return
        self.measure = "accuracy"
        right = in_top_k(scores, labels, 1) & ~failed
        self.videos = np.bincount(labels, minlength=count)
        with np.errstate(invalid="ignore"):
            self.figures = np.bincount(labels, weights=right, minlength=count) / self.videos
        # If two classes have equal scores, the prediction is wrong: the video is taken for the other class.
        others = np.where(np.arange(count) == labels[:, None], -np.inf, scores)
        self._predicted = np.where(right, labels, others.argmax(axis=1))
        self._labels, self._decoded = labels, ~failed
        self.confusion = np.zeros((count, count), int)
        np.add.at(self.confusion, (labels[self._decoded], self._predicted[self._decoded]), 1)

    def hardest(self, count: int, examples: int) -> list[Hard]:
        """Returns the classes with the lowest figures and their most confident mistakes.

        A class without a mistake is left out.

        Args:
          count: maximum number of classes.
          examples: maximum number of mistakes of a class.
        """
        order = np.lexsort((-self.videos, self.figures))
        order = [at for at in order if self.videos[at] and self.figures[at] < 1][:count]
        return [
            Hard(
                self.classes[at],
                float(self.figures[at]),
                int(self.videos[at]),
                self._taken_for(at),
                self._mistakes(at)[:examples],
            )
            for at in order
        ]

    def most_confused(self, count: int) -> list[Pair]:
        """Returns the pairs of classes with the most mistakes, at most `count`."""
        if self.confusion is None:
            return []
        wrong = self.confusion * (1 - np.eye(len(self.classes), dtype=int))
        places = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [tuple(map(int, np.unravel_index(place, wrong.shape))) for place in places]
        return [
            Pair(
                self.classes[true],
                self.classes[predicted],
                int(wrong[true, predicted]),
                int(self.videos[true]),
                self._mistakes(true, predicted)[0],
            )
            for true, predicted in pairs
            if wrong[true, predicted]
        ]

    def _taken_for(self, at: int) -> str:
        if self.confusion is None:
            return ""
        row = self.confusion[at].copy()
        row[at] = 0
        return f"{self.classes[row.argmax()]} ({row.max()})" if row.max() else "undecodable"

    def _mistakes(self, at: int, predicted: int | None = None) -> list[Example]:
        """Returns the mistakes of a class, the most confident first.

        If videos have several labels, it returns all videos of the class, the lowest score first.
        """
        if self.confusion is None:
            rows = np.flatnonzero(self._labels[:, at])
            rows = rows[np.argsort(self._scores[rows, at], kind="stable")]
            return [self._example(row, f"score {self._scores[row, at]:.1%}") for row in rows]
        wrong = (self._labels == at) & self._decoded & (self._predicted != at)
        if predicted is not None:
            wrong &= self._predicted == predicted
        rows = np.flatnonzero(wrong)
        sure = self._scores[rows, self._predicted[rows]]
        order = np.argsort(-sure, kind="stable")
        return [
            self._example(
                rows[i], f"{self.classes[at]}, taken for {self.classes[self._predicted[rows[i]]]} ({sure[i]:.1%})"
            )
            for i in order
        ]

    def _example(self, row: int, text: str) -> Example:
        return Example(int(row), str(self._names[row]), text)


def gains(first: ByClass, second: ByClass) -> list[tuple[str, float, float, float]]:
    """Returns (class, first figure, second figure, gain), the highest gain first.

    A class without a video in one of the two runs is left out.
    """
    gain = second.figures - first.figures
    return [
        (first.classes[at], float(first.figures[at]), float(second.figures[at]), float(gain[at]))
        for at in np.argsort(-gain, kind="stable")
        if np.isfinite(gain[at])
    ]
