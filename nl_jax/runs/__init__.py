"""From a config file to a trained network, and from a workdir to predictions."""

from nl_jax.errors import require

require("train", "ml_collections")
