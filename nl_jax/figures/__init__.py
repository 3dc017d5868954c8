"""Pictures of attention, of detections, of scores and of the curves of a run."""

from nl_jax.errors import require

require("train", "av", "jinja2", "matplotlib", "PIL")
