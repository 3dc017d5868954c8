"""Loads the config file of a run."""

import importlib.util
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from nl_jax.errors import InputError


def load_config(name: str) -> ConfigDict:
    """Returns the config of a file.

    Args:
      name: FILE.py or FILE.py:ROW. ROW is the argument of the function `get_config` of the file.

    Raises:
      InputError: the file or row does not exist, or the file raises an exception.
    """
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        raise InputError(f"there is no config file {path}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(argument)
    except Exception as error:  # a config is a program of the user, so the message names the line of any exception
        places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        where = f"{name}, line {places[-1].lineno}" if places else name
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise InputError(f"{where}: {kind}{error}") from error
