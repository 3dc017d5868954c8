"""Trains a network from a config, or continues where the same command stopped.

python -m experiments.train --config=configs/quickstart.py --workdir=runs/quickstart
"""

import jax
from absl import flags
from ml_collections import config_flags

from experiments import command_line, processes
from nl_jax.errors import InputError
from nl_jax.places import place
from nl_jax.runs.stages import train_chain
from nl_jax.tasks import task_of
from nl_jax.training.times import parse_steps

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "the config (required): FILE.py, or FILE.py:ROW for one of its rows; --config.FIELD=VALUE changes one field",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "directory for the checkpoints, metrics and results (required); the same command continues a run that stopped",
)
PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "FIRST:END: profiles the steps from FIRST to END - 1 and writes WORKDIR/profile; by default none",
)
DEBUG_NANS = flags.DEFINE_bool(
    "debug_nans", False, "stop at the first operation that returns a NaN; training is slower"
)
flags.mark_flags_as_required(["config", "workdir"])
flags.adopt_module_key_flags(processes)  # --help lists its flags


def main() -> None:
    processes.join()
    config = CONFIG.value
    if not WORKDIR.value:
        raise InputError("--workdir is empty; give a directory")
    if DEBUG_NANS.value:  # JAX checks every result. After a NaN it repeats the program, one operation at a time.
        jax.config.update("jax_debug_nans", True)
    train_chain(config, place("--workdir", WORKDIR.value), parse_steps(PROFILE_STEPS.value))
    if jax.process_index():
        return
    if config.paper:
        print(f"The paper reports for this row: {task_of(config).paper.format(*config.paper)}")
    if config.expect:
        print(f"For comparison, the results of the unchanged config: {config.expect}")


if __name__ == "__main__":
    command_line.run(main)
