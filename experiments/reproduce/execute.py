"""Trains each run in a process of its own, several at the same time. A run that stopped continues."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from experiments.reproduce import results
from experiments.reproduce.rows import PlannedRun, chain
from nl_jax.errors import InputError, Preempted

ROOT = Path(__file__).parents[2]


def in_order(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Returns the runs and all runs that they start from. Each appears once, after the run that it starts from."""
    found: dict[str, PlannedRun] = {}
    for run in runs:
        for link in chain(run):
            found.setdefault(link.name, link)
    return list(found.values())


def command(run: PlannedRun, workdirs: Path) -> list[str]:
    """Returns the command that trains the run, as a user types it. The run that it starts from must be finished."""
    arguments = [f"--config={run.spec}", f"--workdir={workdirs / run.name}", *run.overrides]
    if run.start:
        arguments.append(f"--config.start.workdir={workdirs / run.start.name}")
    return ["python", "-m", "experiments.train", *arguments]


class Executor:
    """Trains the runs that have no result yet.

    Args:
      jobs: number of runs at the same time. On a CPU each of several runs gets one core. On GPUs run k gets the devices
        k, k + jobs, ..
      folder: folder for the results.
      workdirs: folder for the workdirs of the runs.
    """

    def __init__(self, jobs: int, folder: Path, workdirs: Path):
        self.jobs, self.folder, self.workdirs = jobs, folder, workdirs
        self.failed: list[str] = []
        self._slots = list(range(jobs))
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._stopped = False
        self._commit = current_commit()

    def __call__(self, runs: list[PlannedRun]) -> None:
        """Trains all runs.

        Raises:
          Preempted: the user interrupts the program. Each run has saved its state and can continue.
        """
        missing = [run for run in runs if results.load(run, self.folder) is None]
        futures: dict[str, Future] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            for run in in_order(missing):
                if not (self.workdirs / run.name / "results.json").exists() or run in missing:
                    futures[run.name] = pool.submit(self._run, run, futures.get(run.start.name) if run.start else None)
            try:
                for future in futures.values():
                    future.result()
            except BaseException as error:
                self._stop()
                if isinstance(error, KeyboardInterrupt):
                    raise Preempted("interrupted: the same command continues from there") from error
                raise

    def _run(self, run: PlannedRun, start_ends: Future | None) -> None:
        directory, start = self.workdirs / run.name, run.start
        if start_ends:
            start_ends.result()  # it was submitted earlier, so it is running or has ended
        if self._stopped:
            return
        if start and not (self.workdirs / start.name / "results.json").exists():
            self.failed.append(
                f"{run.spec}, seed {run.seed}: not trained, because {start.spec}, from which it starts, has no result"
            )
            return
        directory.mkdir(parents=True, exist_ok=True)
        log, typed = directory / "output.txt", command(run, self.workdirs)
        with self._lock:
            slot = self._slots.pop()
        print(f"{time.strftime('%H:%M:%S')} {shlex.join(typed)}", flush=True)
        began = time.monotonic()
        with log.open("a") as output:
            process = subprocess.Popen(
                [sys.executable, *typed[1:]],
                cwd=ROOT,
                env=os.environ | self._environment(slot),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only this program, which then stops the runs
            )
            self._processes.add(process)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self._processes.discard(process)
        with self._lock:
            self._slots.append(slot)
        if self._stopped:
            return
        if process.returncode:
            last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
            self.failed.append(f"{run.spec}, seed {run.seed}: {last} (the whole output: {log})")
            return
        result = results.collect(
            run,
            directory,
            commit=self._commit,
            seconds=time.monotonic() - began,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
        )
        results.save(result, self.folder)
        print(f"{time.strftime('%H:%M:%S')} {run.spec}, seed {run.seed}: {result.accuracy:.1%}", flush=True)

    def _environment(self, slot: int) -> dict[str, str]:
        if self.jobs == 1:
            return {}
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        if len(gpus) >= self.jobs:
            return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot :: self.jobs])}
        return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()}

    def _stop(self) -> None:
        self._stopped = True
        for process in list(self._processes):
            process.send_signal(signal.SIGTERM)


def default_jobs(laptop: bool) -> int:
    """Returns the number of runs at the same time: one per core for laptop rows, else one, which has all devices."""
    return len(os.sched_getaffinity(0)) if laptop else 1


def current_commit() -> str:
    """Returns the commit of the code, with "+" if files differ from the commit; "unknown" without git."""
    try:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", "nl_jax", "configs", "experiments"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


def check_workdirs(path: Path) -> None:
    """Raises InputError if the folder for the workdirs is a file."""
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdirs={path} is a file; give a directory")
