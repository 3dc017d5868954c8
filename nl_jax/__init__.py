"""Non-local Neural Networks (Wang, Girshick, Gupta, He, CVPR 2018) in JAX and Flax."""

import importlib
import importlib.metadata

# What users import from here, and the module that has it; none is loaded before it is asked for.
_HOMES = {
    "InputError": "nl_jax.errors",
    "NonLocalBlock": "nl_jax.models",
    "ResNetConfig": "nl_jax.models",
    "VideoResNet": "nl_jax.models",
    "Prediction": "nl_jax.predictor",
    "Predictor": "nl_jax.predictor",
    "load_config": "nl_jax.config_files",
    "train_chain": "nl_jax.stages",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name == "__version__":
        try:
            return importlib.metadata.version("nl_jax")
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            return "0+unknown"
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES, "__version__"]
