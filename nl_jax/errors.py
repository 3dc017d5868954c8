"""Exceptions that end a program although the program has no defect."""

import importlib.util


class InputError(ValueError):
    """Bad input: a config value, a file or a flag.

    The message names the field or file, the value that was found and the valid values. The programs under
    `experiments/` print the message as one line and exit with code 2. Every other exception is a defect of nl_jax and
    shows its traceback.
    """


class TrainingError(RuntimeError):
    """A run that cannot continue although its input is valid, for example because the loss is not finite.

    The programs print the message as one line and exit with code 1.
    """


PREEMPTED = 75  # exit code of a run that was asked to stop: EX_TEMPFAIL of sysexits.h, "try again"


class Preempted(Exception):
    """A run was asked to stop and has saved its state. The same command continues from that state."""


class MissingExtra(InputError, ImportError):
    """A part of `nl_jax` needs packages that are not installed. The message gives the command that installs them."""


def require(extra: str, *packages: str) -> None:
    """Checks that the packages of an extra of pyproject.toml are installed. It does not import them.

    Args:
      extra: name of the extra.
      packages: names under which Python imports the packages.

    Raises:
      MissingExtra: one or more packages are not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f'not installed: {", ".join(missing)}; install with pip install "nl_jax[{extra}]", '
            f'or in a clone with pip install -e ".[{extra}]"'
        )
