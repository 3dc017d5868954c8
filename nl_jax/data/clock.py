"""When the frames of a video are shown."""

import av


class Clock:
    """Seconds from the first frame of a video to each that follows, always more for a later frame.

    They are presentation times. Where these cannot be trusted (AVI with B-frames, joined streams), or a frame has none
    that is after that of the frame before, it follows that frame after as long as a frame lasts on average.

    Args:
        rate: mean frames per second; 0, unknown, counts as 25.
        timed: whether the times of the container can be trusted.
    """

    def __init__(self, rate: float, *, timed: bool = True):
        self._step, self._timed = 1 / (rate or 25.0), timed
        self._first: float | None = None
        self._count, self._last = 0, 0.0

    def __call__(self, frame: av.VideoFrame) -> float:
        """Seconds of the next frame."""
        now = frame.time if self._timed else self._count * self._step
        if self._count == 0:
            self._first = now
        elif now is None or self._first is None or now - self._first <= self._last:
            self._last += self._step
        else:
            self._last = now - self._first
        self._count += 1
        return self._last
