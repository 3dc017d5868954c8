"""How every program here starts: bad input is one clear line and exit code 2, never a traceback."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from nl_jax.errors import InputError, TrainingError


def run(main: Callable[[], None]) -> None:
    """Parses the flags, runs `main` and exits: 0, 1 for a run that could not go on, 2 for bad input."""
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file it writes
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if rest[1:]:
            raise ValueError(f"unexpected argument {rest[1]!r}; valid flags: {_valid_flags()}")
        return rest
    except flags.UnrecognizedFlagError as error:
        fail(f"{error}; valid flags: {_valid_flags()}", 2)
    # What a config file or an override raises: an unknown row, an unknown field, a value of another type.
    except (flags.Error, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        fail(error, 2)


def _guarded(main: Callable[[], None]) -> None:
    try:
        main()
    except InputError as error:
        fail(error, 2)
    except TrainingError as error:
        fail(error, 1)


def fail(error: Exception | str, code: int) -> None:
    """Prints one line to stderr and ends the program."""
    message = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _valid_flags() -> str:
    return ", ".join(f"--{flag.name}" for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]))
