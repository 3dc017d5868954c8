"""A lock that allows one run at a time in a workdir.

A second run gets an error that names the first run. A dead run blocks no other run.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from nl_jax.errors import InputError
from nl_jax.places import Place, absolute, is_bucket

NAME = ".lock"
PATIENCE = 3.0  # seconds that a killed process may take to disappear
# Seconds. A lock of the file system ends with its process. But other machines may not see the lock, and some file
# systems have no locks. So the holder shows that it is alive: it writes a new number once in BEAT, and a process that
# wants the workdir watches for 3 BEAT. If two processes begin at once, both find no holder and both write. After half a
# BEAT the last writer wins.
BEAT = 5.0

_held: set[Place] = set()  # locks of this process, which can ask for a lock twice


@contextmanager
def only_run(directory: Place) -> Iterator[None]:
    """Holds the workdir for this run. The workdir must exist, and all processes of a run must call this together.

    Raises:
      InputError: on every process, if another run holds the workdir.
    """
    path = absolute(directory) / NAME
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


class _File:
    """A file that names the holder of the workdir, under a POSIX lock, which a forked process does not inherit."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def lock(self) -> bool:
        """Takes the lock, and returns whether the file system has locks. Raises BlockingIOError if it is held."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except PermissionError as error:
            raise BlockingIOError from error
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True

    def read(self) -> bytes:
        return os.pread(self._file, 4096, 0)

    def write(self, data: bytes) -> None:
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))

    def close(self) -> None:
        os.close(self._file)


class _Object:
    """An object in a bucket that names the holder of the workdir. A bucket has no locks."""

    def __init__(self, path: Place):
        self._path = path

    def lock(self) -> bool:
        return False

    def read(self) -> bytes:
        return self._path.read_bytes() if self._path.exists() else b""

    def write(self, data: bytes) -> None:
        self._path.write_bytes(data)

    def close(self) -> None:
        pass


class _Lock:
    """The lock of a workdir, with a beat that other machines can see."""

    def __init__(self, path: Place):
        self._path, self._over, self._number = path, threading.Event(), 0
        self._holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "id": uuid.uuid4().hex,
        }
        self._note = _Object(path) if is_bucket(path) else _File(path)
        try:
            self._take()
        except BaseException:
            self._note.close()
            raise
        self._thread = threading.Thread(target=self._beat, daemon=True, name="beat of the workdir's lock")
        self._thread.start()

    def release(self) -> None:
        self._over.set()
        self._thread.join(BEAT)  # the thread may be in the middle of a beat
        with suppress(Exception):  # the next run sees that the beat has ended
            self._note.write(b"")
        self._note.close()

    def _take(self) -> None:
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                locked = self._note.lock()
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise InputError(self._in_use(self._read())) from None
                time.sleep(0.1)
        holder = self._read()
        # All processes of this machine see the lock. So a holder on this machine without the lock is dead.
        if holder and not (locked and holder.get("host") == socket.gethostname()):
            self._watch(holder)
        self._write()
        if not locked:
            time.sleep(BEAT / 2)
            if (now := self._read()).get("id") != self._holder["id"]:
                raise InputError(self._in_use(now))

    def _watch(self, holder: dict) -> None:
        """Returns when the holder is dead or has ended. Raises InputError if the holder is alive."""
        for _ in range(30):
            time.sleep(BEAT / 10)
            if (now := self._read()) != holder:
                if not now:
                    return
                raise InputError(self._in_use(now))

    def _in_use(self, holder: dict) -> str:
        who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}" if holder else "another run"
        return f"{self._path.parent} is in use by {who}; wait for its end, or choose another --workdir"

    def _read(self) -> dict:
        try:
            found = json.loads(self._note.read())
        except ValueError:  # the file is empty or half written
            return {}
        return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else {}

    def _write(self) -> None:
        self._note.write(json.dumps(self._holder | {"beat": self._number}).encode())
        self._number += 1

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self._write()
            except Exception:  # a full disk, or an error of a bucket's client: the next beat tries again
                continue
