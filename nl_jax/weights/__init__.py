"""Weights: inflation of image networks, import of other programs' files, and export."""

from nl_jax.weights.export import save
from nl_jax.weights.inflate import Report
from nl_jax.weights.load import SOURCES, load
from nl_jax.weights.own import save_own

__all__ = ["SOURCES", "Report", "load", "save", "save_own"]
