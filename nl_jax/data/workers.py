"""Runs one function over many files on all cores, although a file may crash the decoder or never end."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

_CONTEXT = multiprocessing.get_context("spawn")  # a forked process can hang in the threads of libav and NumPy


class Crash(Exception):
    """A call gave no result because its process ended or took too long. The message gives the reason."""


class _Worker:
    def __init__(self, function: Callable[[Any], Any]):
        self.connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(function, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.index: int | None = None  # index of the argument that the process works on
        self.since = 0.0

    def send(self, index: int, argument: Any) -> None:
        self.index, self.since = index, time.monotonic()
        self.connection.send(argument)

    def receive(self) -> Any:
        """Returns the result of the present call, or a Crash if the process ended during the call."""
        self.index = None
        try:
            return self.connection.recv()
        except EOFError:
            self._process.join()
            return Crash(f"the decoder crashed (exit code {self._process.exitcode})")

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def map_unordered(
    function: Callable[[Any], Any], arguments: Sequence[Any], *, num_workers: int, timeout: float
) -> Iterator[tuple[int, Any]]:
    """Calls a function with every argument in other processes. These processes end when this process ends.

    Args:
      function: a function that can be pickled. An exception in it is raised here and ends the iteration.
      arguments: objects that can be pickled.
      num_workers: number of processes. With 0 this process makes the calls, in order and without a time limit.
      timeout: maximum time of a call, in seconds.

    Returns:
      an iterator of (index of the argument, result) in the order of completion. The result is a `Crash` if the
      process of the call ended or the call took too long.
    """
    if not num_workers:
        yield from ((index, function(argument)) for index, argument in enumerate(arguments))
        return
    waiting = iter(enumerate(arguments))
    workers = [_Worker(function) for _ in range(min(num_workers, len(arguments)))]
    try:
        while True:
            for worker in workers:
                if worker.index is None and (following := next(waiting, None)) is not None:
                    worker.send(*following)
            at_work = [worker for worker in workers if worker.index is not None]
            if not at_work:
                return
            ready = wait([worker.connection for worker in at_work], timeout=1)
            for place, worker in enumerate(workers):
                late = worker.index is not None and time.monotonic() - worker.since > timeout
                if worker.connection not in ready and not late:
                    continue
                index = worker.index
                if worker.connection in ready:
                    result = worker.receive()
                else:
                    result = Crash(f"decoding took more than {timeout:g} seconds")
                if isinstance(result, Crash):
                    worker.end()
                    workers[place] = _Worker(function)
                elif isinstance(result, BaseException):
                    raise result
                yield index, result
    finally:
        for worker in workers:
            worker.end()


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            argument = connection.recv()
        except EOFError:
            return
        try:
            result = function(argument)
        except Exception as error:
            result = error
        connection.send(result)


def _end_with_parent() -> None:
    """Ends this process when its parent ends.

    Without this thread the process would not notice that its parent was killed.
    """
    multiprocessing.parent_process().join()
    os._exit(1)
