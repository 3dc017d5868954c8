"""Published networks by name: where their files are, what they need, what their owners report."""

from nl_jax.zoo.cache import fetch, home
from nl_jax.zoo.classes import class_names
from nl_jax.zoo.entry import Entry
from nl_jax.zoo.table import ENTRIES, find

__all__ = ["ENTRIES", "Entry", "class_names", "fetch", "find", "home"]
