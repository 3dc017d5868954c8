"""Computes the cost of runs from their operations."""

from collections import Counter
from collections.abc import Iterable

from experiments.reproduce.rows import PlannedRun, chain, summary_of
from nl_jax.training.chips import CHIPS

CHIP = "v5e"
EFFICIENCY = 0.4  # fraction of the chip's published bfloat16 peak; assumed, not measured


def device_hours(run: PlannedRun) -> float:
    """Returns the device-hours of the training alone.

    A multiply-add is two operations. The gradient takes twice the operations of the forward pass.
    """
    config = run.config
    operations = 6 * summary_of(config).macs * config.batch_size * config.steps
    return operations / (EFFICIENCY * CHIPS[CHIP].flops) / 3600


def describe_costs(runs: Iterable[PlannedRun]) -> str:
    """Returns a text with one line for each run, one for each run that it starts from, and one for the sum."""
    every: dict[str, tuple[PlannedRun, PlannedRun]] = {}  # by key: a run, and the first run that needs it
    for run in runs:
        for link in chain(run):
            every.setdefault(link.key, (link, run))
    count = Counter(link.spec for link, _ in every.values())
    # The rows of a table can change a config that they start from, such as its depth.
    hours = {
        link.spec if count[link.spec] == 1 else f"{link.spec} for {run.spec}": device_hours(link)
        for link, run in every.values()
    }
    width = max(map(len, hours))
    lines = [f"{name:{width}}  {value:10,.3g}" for name, value in hours.items()]
    return "\n".join(
        [
            f"device-hours of one seed, on a {CHIP} at an assumed {EFFICIENCY:.0%} of its published peak",
            *lines,
            f"{'all':{width}}  {sum(hours.values()):10,.3g}",
        ]
    )
