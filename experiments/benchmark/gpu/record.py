"""What is found, written as it is found: a run that is ended keeps its results."""

import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Record:
    """gpu.jsonl, one result a line, and gpu.txt, the same in words, in the folder `out`.

    Args:
      out: is made where it does not exist.
      seconds: that the whole run may take.
    """

    def __init__(self, out: Path, seconds: float):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self._end, self._start = out, time.monotonic() + seconds, time.monotonic()
        self._section, self._section_end = "", self._end
        self.failures = 0
        for name in ("gpu.jsonl", "gpu.txt"):
            (out / name).write_text("")

    def left(self) -> float:
        """Seconds that the section may still take."""
        return min(self._end, self._section_end) - time.monotonic()

    def note(self, text: str) -> None:
        """A line of gpu.txt, and of the output."""
        line = f"[{time.monotonic() - self._start:5.0f} s] {text}"
        print(line, flush=True)
        with (self.out / "gpu.txt").open("a") as file:
            file.write(line + "\n")

    def add(self, text: str, **fields) -> None:
        """One result: `text` says it in words, `fields` are its line of gpu.jsonl."""
        row = {"section": self._section, "at": round(time.monotonic() - self._start, 1), **fields}
        with (self.out / "gpu.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.note(text)

    def check(self, what: str, errors: dict[str, float], tolerance: float) -> None:
        """Relative errors that must not pass the tolerance."""
        ok = all(error <= tolerance for error in errors.values())  # not where one is no number
        self.failures += not ok
        found = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        self.add(f"{'ok  ' if ok else 'FAIL'} {what}: {found} (at most {tolerance:g})", what=what, errors=errors, ok=ok)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Whatever goes wrong within is told, and the run goes on with the next."""
        try:
            yield
        except Exception as error:  # a compiler's, a kernel's, a peer's
            self.failures += 1
            first = str(error).strip().splitlines()[:1]
            self.add(f"FAIL {what}: {type(error).__name__}: {' '.join(first)[:300]}", what=what, ok=False)
            with (self.out / "gpu.txt").open("a") as file:
                file.write(traceback.format_exc()[-4000:])

    def section(self, name: str, run: Callable[[], None], seconds: float, least: float) -> None:
        """Runs a section for about so many seconds, or says that too little time is left for it."""
        left = self._end - time.monotonic()
        if left < least:
            self.note(f"-- {name}: skipped, {left:.0f} s are left and it needs {least:.0f}")
            return
        self._section, self._section_end = name, time.monotonic() + seconds
        self.note(f"-- {name}")
        with self.attempt(name):
            run()
        self._section_end = self._end


def alternate(programs: dict[str, Callable[[int], None]], rounds: int, seconds: float = 0.05) -> dict[str, float]:
    """Median seconds of one call. Each program is given how often to call; all are warm, and take turns.

    A turn calls often enough to last about `seconds`, so that the wait at its end costs little.
    """
    counts = {}
    for name, run in programs.items():
        run(1)
        start = time.perf_counter()
        run(2)
        counts[name] = max(1, round(seconds / ((time.perf_counter() - start) / 2)))
    times = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            start = time.perf_counter()
            run(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name])
    return {name: statistics.median(values) for name, values in times.items()}
