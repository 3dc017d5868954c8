"""Pictures of what a network learnt and how."""

from nl_jax.errors import require

require("train", "av", "jinja2", "matplotlib", "PIL")
