"""The programs, run from a clone: `python -m experiments.train`, one module or package each."""

import sys

from nl_jax.errors import MissingExtra, require

try:
    require("train")
except MissingExtra as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
