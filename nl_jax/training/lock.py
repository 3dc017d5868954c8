"""One run at a time in a workdir: the second one is told who is there, and a dead one is in nobody's way."""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from nl_jax.errors import InputError

NAME = ".lock"
PATIENCE = 3.0  # seconds that a process which was killed may take to be gone
# The file system's own locks end with their process. Where they are not seen by other machines, or do not exist, the
# holder shows that it is alive by writing a new number this often, and another one watches for three times as long.
BEAT = 5.0

_held: set[Path] = set()  # by this process, which may ask again


@contextmanager
def only_run(directory: Path) -> Iterator[None]:
    """Within it this run has the workdir, which must exist, for itself; all processes of one run ask together.

    Raises:
      InputError: on every process, where another run has it.
    """
    path = directory.resolve() / NAME
    if path in _held:
        yield
        return
    file, problem = None, ""
    if jax.process_index() == 0:
        try:
            file = _Lock(path)
        except InputError as error:
            problem = str(error)
    if jax.process_count() > 1 and not multihost_utils.broadcast_one_to_all(np.int32(not problem)):
        problem = problem or f"{directory} is in use by another run; process 0 says by which"
    if problem:
        raise InputError(problem)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        if file is not None:
            file.release()


class _Lock:
    """Of POSIX, which a process that is forked does not inherit, with a beat for other machines."""

    def __init__(self, path: Path):
        self._path, self._over = path, threading.Event()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take()
        except BaseException:
            os.close(self._file)
            raise
        self._number = 0
        self._write()
        threading.Thread(target=self._beat, daemon=True, name="beat of the workdir's lock").start()

    def release(self) -> None:
        self._over.set()
        os.ftruncate(self._file, 0)
        os.close(self._file)

    def _take(self) -> None:
        by_file_system = True
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > give_up:
                    raise InputError(self._in_use(self._read())) from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                by_file_system = False
                break
        holder = self._read()
        # Of this machine, whose processes all see the lock, a holder without it is dead.
        if not holder or (by_file_system and holder.get("host") == socket.gethostname()):
            return
        for _ in range(30):
            time.sleep(BEAT / 10)
            if (now := self._read()) != holder:
                if not now:  # it has ended
                    return
                raise InputError(self._in_use(now))

    def _in_use(self, holder: dict) -> str:
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}" if holder else "another run"
        return f"{self._path.parent} is in use by {who}; wait for its end, or choose another --workdir"

    def _read(self) -> dict:
        try:
            found = json.loads(os.pread(self._file, 4096, 0))
        except ValueError:  # nothing, or half of it
            return {}
        return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else {}

    def _write(self) -> None:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._since = getattr(self, "_since", since)
        fields = {"pid": os.getpid(), "host": socket.gethostname(), "since": self._since, "beat": self._number}
        text = json.dumps(fields).encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))
        self._number += 1

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self._write()
            except OSError:  # a full disk: the lock of the file system stays
                return
