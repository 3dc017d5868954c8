"""Where a run starts: the weights of another workdir, inflated, folded and laid out as this run needs them."""

from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig
from nl_jax.models.flat import FlatParams
from nl_jax.training import workdir
from nl_jax.training.state import TrainState
from nl_jax.weights import norms
from nl_jax.weights.inflate import Report, inflate


def take_over(
    train_state: TrainState, directory: Path, config: ConfigDict, classes: tuple[str, ...], mesh: Mesh
) -> tuple[TrainState, Report]:
    """The state with parameters and statistics of the network in a workdir wherever this one has them.

    Kernels are inflated in time, batch norm is folded where this network has affine layers, and the classifier is taken
    over if it tells the same classes apart.

    Raises:
      InputError: for arrays that do not fit, or a network that was trained on inputs normalised otherwise.
    """
    if (theirs := workdir.read_config(directory).input) != config.input:
        raise InputError(
            f"{directory} was trained with input.mean={theirs.mean} and input.std={theirs.std}, and this run has "
            f"input.mean={config.input.mean} and input.std={config.input.std}; set them alike"
        )
    _, params, batch_stats = workdir.load_network(directory, mesh)
    source, folded = norms.fold(
        params | batch_stats, {*train_state.params, *train_state.batch_stats}, norms.OUR_EPSILON
    )
    params, batch_stats = ({name: source[name] for name in part if name in source} for part in (params, batch_stats))
    same_classes = workdir.read_classes(directory) == classes
    params, report = inflate(train_state.params, params, config.start.planes, head=same_classes)
    batch_stats, _ = inflate(train_state.batch_stats, batch_stats, config.start.planes)
    report.norms = norms.folded(folded)
    like = jax.tree.map(lambda array: array.sharding, (train_state.params, train_state.batch_stats))
    params, batch_stats = jax.device_put((params, batch_stats), like)
    return train_state.replace(params=params, batch_stats=batch_stats), report


def check_blocks_can_learn(resnet: ResNetConfig, params: FlatParams) -> None:
    """A new block is the identity by a scale of zero, which a frozen norm would keep for ever."""
    if resnet.nonlocal_options.get("norm", resnet.norm) == "frozen":
        for name, scale in params.items():
            if name.endswith("nonlocal_block/norm/scale") and not np.asarray(scale).any():
                raise InputError(
                    f"{name} is zero and frozen, so the block would stay the identity: start from a network that has "
                    "it, or set model.nonlocal_options.norm to none or affine"
                )
