"""Records results and writes each result at once, so that a run that is stopped keeps its results."""

import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Record:
    """Writes gpu.jsonl, with one result a line, and gpu.txt, with the same results in words.

    If the files exist, the new results follow the old ones. So a second run can measure the sections that the first run
    had no time for.

    Args:
      out: folder for the files. It is made if it does not exist.
      seconds: maximum time of the whole run.
    """

    def __init__(self, out: Path, seconds: float):
        out.mkdir(parents=True, exist_ok=True)
        self.out, self._end, self._start = out, time.monotonic() + seconds, time.monotonic()
        self._section, self._section_end = "", self._end
        self.failures = 0

    def left(self) -> float:
        """Returns the seconds that are left for the section."""
        return min(self._end, self._section_end) - time.monotonic()

    def note(self, text: str) -> None:
        """Writes a line to gpu.txt and to the output."""
        line = f"[{time.monotonic() - self._start:5.0f} s] {text}"
        print(line, flush=True)
        with (self.out / "gpu.txt").open("a") as file:
            file.write(line + "\n")

    def add(self, text: str, **fields) -> None:
        """Writes one result: `text` to gpu.txt, and `fields` as a line of gpu.jsonl."""
        row = {"section": self._section, "at": round(time.monotonic() - self._start, 1), **fields}
        with (self.out / "gpu.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.note(text)

    def check(self, what: str, errors: dict[str, float], tolerance: float) -> None:
        """Writes whether all relative errors are at most the tolerance."""
        ok = all(error <= tolerance for error in errors.values())  # an error of nan is not ok
        self.failures += not ok
        found = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
        self.add(f"{'ok  ' if ok else 'FAIL'} {what}: {found} (at most {tolerance:g})", what=what, errors=errors, ok=ok)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Writes any exception inside the context as a failure, and lets the run continue."""
        try:
            yield
        except Exception as error:  # of a compiler, a kernel or a peer
            self.failures += 1
            first = str(error).strip().splitlines()[:1]
            self.add(f"FAIL {what}: {type(error).__name__}: {' '.join(first)[:300]}", what=what, ok=False)
            with (self.out / "gpu.txt").open("a") as file:
                file.write(traceback.format_exc()[-4000:])

    def section(self, name: str, run: Callable[[], None], seconds: float, least: float) -> None:
        """Runs a section for about `seconds`. Skips it with a note if less than `least` seconds are left."""
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
    """Returns the median seconds of one call of each program. The programs take turns, after a first call.

    A program is a function of the number of calls. A turn makes as many calls as fit into about `seconds`, so that the
    wait at the end of the turn takes a small part of the time.
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
