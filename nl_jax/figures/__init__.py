"""Pictures of what a network has learnt."""

from nl_jax.errors import require

require("train", "av", "jinja2", "matplotlib", "PIL")
