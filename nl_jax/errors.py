"""What can end a program without being a defect of ours."""

import importlib.util


class InputError(ValueError):
    """Bad input: a config value, a file or a flag.

    Its message names the field or file, what was found and what is valid. The programs under `experiments/` print it
    as one line and exit with code 2; every other exception is a defect of ours and shows its traceback.
    """


class TrainingError(RuntimeError):
    """A run that cannot go on through no fault of its input's form: a loss that is not finite.

    The programs print it as one line and exit with code 1.
    """


PREEMPTED = 75  # exit code of a run that was asked to end, EX_TEMPFAIL of sysexits.h: try again


class Preempted(Exception):
    """A run that was asked to end has saved its state; the same command goes on from there."""


class MissingExtra(InputError, ImportError):
    """A part of `nl_jax` needs packages that are not installed. Its message gives the command that installs them."""


def require(extra: str, *packages: str) -> None:
    """Looks for packages that an extra of pyproject.toml installs, by the names they are imported with; imports none.

    Raises:
      MissingExtra: for those that are not installed.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f'not installed: {", ".join(missing)}; install with pip install "nl_jax[{extra}]", '
            f'or in a clone with pip install -e ".[{extra}]"'
        )
