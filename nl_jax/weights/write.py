"""Writing of files that are complete or absent, and of torch files."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nl_jax.errors import InputError


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yields a path to which the caller writes a file. After the block the file is at `path`.

    If the block raises an error, `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    yield part
    os.replace(part, path)


def torch_state(path: str | Path, arrays: Mapping[str, np.ndarray], *, counters: bool, wrapper: str = "") -> None:
    """Writes arrays by name as a torch file.

    Args:
      path: path of the file.
      arrays: arrays by the names of torch.
      counters: whether every batch norm also has num_batches_tracked, as torch's own batch norm has.
      wrapper: if it is not empty, the file is {wrapper: {name: tensor}} in place of {name: tensor}.

    Raises:
      InputError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("writing a torch file needs PyTorch: pip install torch") from error
    # NumPy makes copies, because torch takes no read-only arrays.
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    if counters:
        names = [name.replace("running_mean", "num_batches_tracked") for name in state if name.endswith("running_mean")]
        state |= {name: torch.tensor(0) for name in names}
    with whole(path) as part:
        torch.save({wrapper: state} if wrapper else state, part)
