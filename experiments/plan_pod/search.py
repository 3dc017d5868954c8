"""Searches for the settings of a run that fit a pod. It plans one setting after another."""

import sys
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.plan_pod.plan import Plan, Pod, make_plan, shares
from nl_jax.errors import InputError
from nl_jax.training import sharding


class Setting(NamedTuple):
    """Changes of a config: config.mesh, config.model.remat, and examples on a chip. None changes nothing."""

    mesh: dict[str, int] | None = None
    remat: tuple[str, ...] | None = None
    batch: int | None = None


def changed(config: ConfigDict, pod: Pod, setting: Setting) -> ConfigDict:
    """Returns a copy of the config with the changes of a setting."""
    config = config.copy_and_resolve_references()
    if setting.mesh is not None:
        config.mesh.update(setting.mesh)
    if setting.remat is not None:
        config.model.remat = setting.remat
    if setting.batch is not None:
        config.batch_size = setting.batch * shares(sharding.make_mesh(**config.mesh, devices=pod.devices))
    return config


def every(config: ConfigDict, pod: Pod, sizes, settings: list[Setting]) -> list[Plan]:
    """Returns the plans of all settings. It skips a setting if the same setting with a smaller batch does not fit.

    Args:
      config: the config of the run.
      pod: the pod.
      sizes: number of classes, and shapes of an example.
      settings: the settings, with ascending batches.

    Raises:
      InputError: no setting can be compiled. The message is the error of the last setting.
    """
    plans, full = [], []
    refused = None
    for setting in settings:
        if setting._replace(batch=None) in full:
            continue
        print(f"compiling {setting}", file=sys.stderr)
        try:
            plan = make_plan(changed(config, pod, setting), pod, *sizes)
        except InputError as error:
            refused = error
            print(f"skipped: {error}", file=sys.stderr)
            continue
        if plan.fits is False:
            full.append(setting._replace(batch=None))
        plans.append(plan)
    if not plans:
        raise refused
    return plans


def largest(config: ConfigDict, pod: Pod, sizes, setting: Setting, first: Plan) -> list[Plan]:
    """Plans further batches after `first`, until the largest batch that fits is known. Returns the new plans."""
    tried = {first.batch_per_chip: first}
    batch = max(1, first.batch_that_fits()) if first.fits else first.batch_per_chip // 2
    while batch >= 1:
        if batch not in tried:
            print(f"compiling {batch} {first.unit}s a chip", file=sys.stderr)
            try:
                tried[batch] = make_plan(changed(config, pod, setting._replace(batch=batch)), pod, *sizes)
            except InputError:
                tried[batch] = None  # a batch of this size cannot be run
        fitting = [batch for batch, plan in tried.items() if plan and plan.fits]
        full = [batch for batch, plan in tried.items() if plan and not plan.fits]
        if not full:
            batch = max(tried) + 1
            continue
        between = [n for n in range(max(fitting, default=0) + 1, min(full)) if n not in tried]
        if not between:
            break
        batch = between[len(between) // 2]
    return [plan for plan in tried.values() if plan not in (None, first)]
