"""Weights from elsewhere, and back: inflation, importers of other programs' files, an exporter."""

from nl_jax.weights.export import save
from nl_jax.weights.inflate import Report
from nl_jax.weights.load import SOURCES, load

__all__ = ["SOURCES", "Report", "load", "save"]
