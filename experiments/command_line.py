"""Starts every program of this folder. Bad input gives one clear line and exit code 2, and no traceback."""

import _thread
import atexit
import difflib
import errno
import gc
import itertools
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache, partial
from logging import getLogger
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from configs import common
from experiments.idle_fields import check_effect
from nl_jax.errors import PREEMPTED, InputError, Preempted, TrainingError
from nl_jax.places import cache_directory, check_local, is_bucket
from nl_jax.runs.config_files import load_config
from nl_jax.training import sharding
from nl_jax.training.processes import hosts
from nl_jax.training.workdir import flatten

FULL = os.strerror(errno.ENOSPC)
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
INTERRUPTED = 130  # the exit code of shells for Ctrl-C
WAY_OUT = 5.0  # seconds after which a preempted program is ended
# The flags and fields whose value can be a path in a bucket.
IN_BUCKETS = tuple(f"--{name}" for name in ("workdir", "data", "out", "report"))
IN_BUCKETS += tuple(f"--config.{name}" for name in ("start.workdir", "data.", "images."))


def run(main: Callable[..., None], arguments: str = "") -> None:
    """Parses the flags and runs `main`.

    The exit code is 0 for success, 1 for a run that could not continue, 2 for bad input, 75 for a run that was asked to
    stop and has saved its state, and 130 for Ctrl-C at any other time.

    Args:
      main: the program.
      arguments: describes the arguments of the program besides its flags; error messages show it. `main` then takes the
        list of these arguments. "" means that the program takes only flags.
    """
    for stream in (sys.stdout, sys.stderr):  # the name of a file may hold bytes that are not valid text
        stream.reconfigure(errors="backslashreplace")
    sys.unraisablehook = _repeated
    logging.set_verbosity(logging.ERROR)  # Orbax logs every file that it writes
    getLogger("gcsfs").setLevel("CRITICAL")  # gcsfs also logs a traceback of every exception
    if not jax.config.jax_compilation_cache_dir:  # JAX_COMPILATION_CACHE_DIR
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "compiled"))
    atexit.register(gc.collect)  # frees batches in shared memory, which Grain cannot free during Python's shutdown
    flags.FLAGS.set_gnu_getopt(bool(arguments))  # flags may follow arguments
    app.run(
        lambda argv: _guarded(partial(main, argv[1:]) if arguments else main), flags_parser=partial(_parse, arguments)
    )


def local_path(flag: str) -> Callable[[str], Path]:
    """Returns the type of an argparse flag for a local file or folder. An address (gs://..) ends the program."""

    def read(text: str) -> Path:
        try:
            check_local(flag, text)
        except InputError as error:
            fail(error, 2)  # in one line, without the usage that argparse would print
        return Path(text)

    return read


def mesh_axes(given: str) -> dict[str, int]:
    """Returns the sizes in --mesh=fsdp=4,time=2. Raises InputError for an unknown axis or a size that is no integer."""
    axes = {}
    for pair in given.split(","):
        name, _, size = pair.partition("=")
        if name not in sharding.AXES or not size.lstrip("-").isdigit():
            raise InputError(
                f"--mesh={given!r}: {pair!r} is not the size of an axis; give AXIS=SIZE, such as fsdp=4, with the axes "
                f"{', '.join(sharding.AXES)}"
            )
        axes[name] = int(size)
    return axes


def refuse_flags(*names: str, why: str) -> None:
    """Raises InputError if the command line gives one of these flags, because the program would ignore its value.

    Args:
      names: names of the flags.
      why: the reason, such as "with --model".
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} has no effect {why}; leave it out")


def fail(error: Exception | str, code: int) -> None:
    """Prints the error as one line to stderr and ends the program with the exit code `code`."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    if hosts.several():
        hosts.end(code)
    sys.exit(code)


def _guarded(main: Callable[[], None]) -> None:
    try:
        main()
    except InputError as error:
        fail(error, 2)
    except TrainingError as error:
        fail(error, 1)
    except Preempted as stop:
        print(stop, flush=True)
        # At its end Python waits for all threads, and a thread may wait for input that never comes.
        late = threading.Timer(WAY_OUT, os._exit, [PREEMPTED])
        late.daemon = True
        late.start()
        sys.exit(PREEMPTED)
    except KeyboardInterrupt:  # before a run can save its state, or in a program that has no state
        fail("interrupted", INTERRUPTED)
    except Exception as error:
        if fault := _fault_of_disk(error):
            fail(fault, 1)
        if not hosts.several():
            raise
        traceback.print_exc()
        which = f"process {jax.process_index()} of {jax.process_count()} cannot continue"
        print(f"error: {which}; if another process has ended, its output says why", file=sys.stderr)
        hosts.end(1, at_once=True)


def _repeated(lost) -> None:
    """Sends Ctrl-C again if Python could not raise it. Other exceptions that Python cannot raise are shown as usual.

    JAX runs a function at every garbage collection, and Python drops an exception inside such a function.
    """
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()  # at once it would be raised and dropped in here
    else:
        sys.__unraisablehook__(lost)


def _fault_of_disk(error: Exception) -> str:
    """Returns a line on a disk that is full or cannot be written to, or "" for another exception.

    The writers of records and checkpoints raise exceptions of their own, with the words of the system.
    """
    hint = "free some space, then run the same command again"
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}" + (f"; {hint}" if error.strerror == FULL else "")
    return f"{error}; {hint}" if FULL in str(error) else ""


def _parse(arguments: str, argv: list[str]) -> list[str]:
    try:
        if "config" in flags.FLAGS:
            _check_fields(argv)
        try:
            rest = flags.FLAGS(argv)
        except SystemExit:  # after --help absl exits with a failure code
            sys.exit(0)
        if "config" in flags.FLAGS and isinstance(config := flags.FLAGS["config"].value, ConfigDict):
            check_effect(config, list(_given(argv)))
        if arguments and not rest[1:]:
            raise InputError(f"no arguments are given; give {arguments}; valid flags: {_valid_flags()}")
        if rest[1:] and not arguments:
            raise InputError(f"unexpected argument {rest[1]!r}; valid flags: {_valid_flags()}")
        _check_places()
        return rest
    except flags.UnrecognizedFlagError as error:
        file = next((word for word in argv[1:] if word.startswith("-") and _is_file(word)), None)
        hint = f"; a file whose name begins with - must follow the argument --: -- {file}" if arguments and file else ""
        fail(f"{error}{hint}; valid flags: {_valid_flags()}", 2)
    except (InputError, flags.Error, ValueError, TypeError, AttributeError) as error:  # a value has the wrong type
        fail(_plain(str(error)), 2)


def _plain(message: str) -> str:
    """Replaces messages of absl and Python about the value of a flag with messages that name the valid values."""
    message = re.sub(
        r"flag (--\w+)=None: Flag --\w+ must have a value other than None\.",
        r"\1 is not given; it is required",
        message,
    )
    message = re.sub(r"invalid literal for int\(\) with base 10: .*", "valid is an integer", message)
    message = re.sub(r"could not convert string to float: .*", "valid is a number", message)
    return re.sub(r"\('Non-boolean argument to boolean flag', .*\)", "valid are true and false", message)


def _is_file(word: str) -> bool:
    """Returns whether the word is the path of a file, or has a file ending and no "=" as a flag has."""
    return os.path.exists(word) or (bool(os.path.splitext(word)[1]) and "=" not in word)


def _check_places() -> None:
    """Raises InputError if a flag that takes only local paths holds an address. Runs before any file is used."""
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        values = {f"--{flag.name}": flag.value}
        if isinstance(flag.value, ConfigDict):
            values = flatten(flag.value.to_dict(), f"--{flag.name}.")
        for name, value in values.items():
            if isinstance(value, str) and not (name.startswith(IN_BUCKETS) and is_bucket(value)):
                check_local(name, value)


def _check_fields(argv: list[str]) -> None:
    """Raises InputError if --config.FIELD names a field that does not exist.

    The error lists the valid fields. The error of ml_collections does not.
    """
    named = [argument.removeprefix("--config=") for argument in argv if argument.startswith("--config=")]
    named += [value for flag, value in itertools.pairwise(argv) if flag == "--config"]
    if not named:
        return
    config = load_config(named[-1])
    check_known(named[-1], config)
    for argument in argv:
        if argument.startswith("--config."):
            check_field(config, argument.partition("=")[0])
    given = _given(argv)
    stages = [named[-1], given.get("start.stage", config.get("start", {}).get("stage", ""))]
    while Path(stages[-1].partition(":")[0]).is_file():
        if stages[-1] in stages[:-1]:
            raise InputError(f"start.stage={stages[-1]} starts from itself; give a stage that ends without this config")
        before = load_config(stages[-1])
        check_known(stages[-1], before)
        stages.append(before.start.stage)
    model = config.get("model", {})
    blocks = given.get("model.blocks_per_stage", str(model.get("blocks_per_stage", "")))
    if "model.depth" in given and blocks not in ("", "()"):
        raise InputError(
            f"--config.model.depth={given['model.depth']} has no effect because blocks_per_stage={blocks} sets the "
            "number of blocks; give --config.model.blocks_per_stage=() too"
        )


def _given(argv: list[str]) -> dict[str, str]:
    """Returns {field: text} for the flags --config.FIELD=TEXT and --config.FIELD TEXT."""
    given = {}
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word.startswith("--config."):
            name, equals, text = word.removeprefix("--config.").partition("=")
            given[name] = text if equals else following
    return given


def check_known(name: str, config: ConfigDict) -> None:
    """Raises InputError if a config has a field that no program reads, such as a misspelt field.

    A locked config cannot get a new field, but a user can unlock it.
    """
    for field in flatten(config.to_dict()):
        if field not in _known():
            near = difflib.get_close_matches(field, _known(), n=1)
            hint = f"did you mean {near[0]}?" if near else "configs/common.py lists the fields"
            raise InputError(f"{name}: no program reads the field {field}; {hint}")


@cache
def _known() -> frozenset[str]:
    fields = [flatten(config().to_dict()) for config in (common.base, common.detection)]
    fields += [flatten(data().to_dict(), "data.") for data in common.DATA]
    return frozenset().union(*fields)


def check_field(config: ConfigDict, flag: str) -> None:
    """Raises InputError if the flag --config.FIELD names a field that `config` does not have."""
    node, path = config, flag.removeprefix("--").split(".")
    for depth, field in enumerate(path[1:], start=1):
        if not isinstance(node, ConfigDict) or field not in node:
            valid = ", ".join(node) if isinstance(node, ConfigDict) else "none, because it is a value"
            raise InputError(f"{'.'.join(path)}: {'.'.join(path[:depth])} has no field {field!r}; valid: {valid}")
        node = node[field]


def _valid_flags() -> str:
    return ", ".join(f"--{flag.name}" for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]))
