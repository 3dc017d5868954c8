"""Reads videos and images into batches. No module here imports JAX."""

from nl_jax.errors import require

require("train", "PIL", "absl", "av", "grain", "sklearn", "tensorflow_datasets")
