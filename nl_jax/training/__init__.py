"""Training: the run and its parts."""

from nl_jax.errors import require

require("train", "ml_collections", "tensorboardX")
