"""Turns a config file into a trained network, and a workdir into predictions."""

from nl_jax.errors import require

require("train", "ml_collections")
