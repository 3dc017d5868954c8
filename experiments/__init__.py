"""The programs of this repository: `python -m experiments.NAME`."""

import sys

from nl_jax.errors import require

PACKAGES = ("PIL", "absl", "av", "etils", "grain", "jinja2", "matplotlib", "ml_collections", "sklearn", "tensorboardX")

# A machine with a GPU may have few packages. So `experiments.benchmark` asks only for the packages of its subject.
if not any("experiments.benchmark" in argument for argument in sys.orig_argv):
    require("train", *PACKAGES, "tensorflow_datasets")
