"""Non-local Neural Networks (Wang, Girshick, Gupta, He, CVPR 2018) in JAX and Flax.

`import nl_jax` is enough to use `nl_jax.NonLocalBlock` or `nl_jax.weights.load`. Python loads each name when a program
first uses it. So a program that uses only `nl_jax.data` does not load JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nl_jax import data, evaluation, figures, models, ops, runs, tasks, training, weights, zoo
    from nl_jax.models import NonLocalBlock, ResNetConfig, VideoResNet
    from nl_jax.runs.config_files import load_config
    from nl_jax.runs.predictor import Prediction, Predictor
    from nl_jax.runs.stages import train_chain
    from nl_jax.zoo.pretrained import from_pretrained

__version__ = "0.2.0"

PACKAGES = ("data", "evaluation", "figures", "models", "ops", "runs", "tasks", "training", "weights", "zoo")
# Maps a name to the module that defines it.
NAMES = {
    "NonLocalBlock": "nl_jax.models",
    "Prediction": "nl_jax.runs.predictor",
    "Predictor": "nl_jax.runs.predictor",
    "ResNetConfig": "nl_jax.models",
    "VideoResNet": "nl_jax.models",
    "from_pretrained": "nl_jax.zoo.pretrained",
    "load_config": "nl_jax.runs.config_files",
    "train_chain": "nl_jax.runs.stages",
}

__all__ = [
    "NonLocalBlock",
    "Prediction",
    "Predictor",
    "ResNetConfig",
    "VideoResNet",
    "data",
    "evaluation",
    "figures",
    "from_pretrained",
    "load_config",
    "models",
    "ops",
    "runs",
    "tasks",
    "train_chain",
    "training",
    "weights",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return getattr(importlib.import_module(NAMES[name]), name)
    if name in PACKAGES:
        return importlib.import_module(f"nl_jax.{name}")
    raise AttributeError(f"module 'nl_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *NAMES, *PACKAGES})
