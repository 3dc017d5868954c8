"""Presentation times of the frames of a video."""

import av


class Clock:
    """Computes the time of each frame in seconds from the first frame. Later frames have larger times.

    The time is the frame's presentation time if that time is usable. Otherwise the time is the previous frame's time
    plus the mean duration of a frame. A presentation time is not usable if it is missing, if it is not after the
    previous frame's time, or if the container's times cannot be trusted (AVI with B-frames, joined streams).

    Args:
      rate: mean frames per second; 0 means unknown and counts as 25.
      timed: whether the times in the container can be trusted.
    """

    def __init__(self, rate: float, *, timed: bool = True):
        self._step, self._timed = 1 / (rate or 25.0), timed
        self._first: float | None = None
        self._count, self._last = 0, 0.0

    def __call__(self, frame: av.VideoFrame) -> float:
        """Returns the time of the next frame, in seconds."""
        now = frame.time if self._timed else self._count * self._step
        if self._count == 0:
            self._first = now
        elif now is None or self._first is None or now - self._first <= self._last:
            self._last += self._step
        else:
            self._last = now - self._first
        self._count += 1
        return self._last
