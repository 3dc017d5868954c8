"""Videos to batches; nothing here imports JAX."""

from nl_jax.errors import require

require("train", "absl", "av", "grain", "sklearn", "tensorflow_datasets")
