"""Published networks by name: the addresses of their files, their settings, and their owners' figures."""

from nl_jax.zoo.cache import fetch, home
from nl_jax.zoo.classes import class_names
from nl_jax.zoo.entry import Entry
from nl_jax.zoo.table import ENTRIES, find

__all__ = ["ENTRIES", "Entry", "class_names", "fetch", "find", "home"]
