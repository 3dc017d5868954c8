"""Prints plans as tables."""

import math
import os
import shlex

from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from experiments.plan_pod.plan import Plan, Pod
from nl_jax.models.summary import Summary
from nl_jax.training.chips import GIB

_console = Console(width=None if os.isatty(1) else 140, highlight=False)


def title(network: Summary, config: ConfigDict, pod: Pod) -> None:
    """Prints the network, its non-local blocks and the pod."""
    _console.print(f"{network.title}: {network.parameters / 1e6:.1f} M parameters, {config.model.dtype}")
    for block in network.blocks:
        _console.print(f"  {block}")
    _console.print(f"{pod.name}: {pod.count} chips" + (f", figures from {pod.chip.source}" if pod.chip else ""))


def details(plan: Plan, pod: Pod, dtype: str, efficiency: float) -> None:
    """Prints one plan: the memory, operations and traffic of a chip, and the minimum time of a step."""
    _console.print(f"mesh {_mesh(plan)}; {_of_chip(plan)}, batch_size={plan.batch_size}; remat {_remat(plan)}\n")
    memory = Table("memory of a chip", "GiB", "of its memory")
    for name, size in plan.parts.items():
        known = size is not None
        share = f"{size / pod.chip.memory:.1%}" if known and pod.chip else ""
        memory.add_row(name, f"{size / GIB:.3f}" if known else "not known", share)
    if plan.needed is not None:
        memory.add_row("all", f"{plan.needed / GIB:.3f}", f"{plan.needed / pod.chip.memory:.1%}", style="bold")
    _console.print(memory)
    _console.print(_verdict(plan))
    if plan.collectives:
        table = Table("collective", "in a step", "results MB", "sent by a chip MB")
        for found in plan.collectives:
            table.add_row(found.kind, f"{found.count}", f"{found.bytes / 1e6:,.1f}", f"{found.sent / 1e6:,.1f}")
        _console.print(table)
    _speed(plan, pod, dtype, efficiency)
    if plan.fits is not False:
        _console.print(f"flags to train like this: {_flags(plan, pod)} ..", soft_wrap=True)


def table(plans: list[Plan], pod: Pod, dtype: str, efficiency: float) -> None:
    """Prints many plans, one row for each."""
    rows = Table(
        "mesh",
        "remat",
        f"{plans[0].unit}s a chip",
        "batch_size",
        "memory GiB",
        "fits",
        "limited by",
        f"{plans[0].unit}s/s at most",
    )
    for plan in plans:
        limit, seconds = ("", math.nan)
        if pod.chip and plan.fits is not False:
            limit, seconds = _slowest(plan, pod, dtype)
        rows.add_row(
            *(_mesh(plan), _remat(plan), f"{plan.batch_per_chip}", f"{plan.batch_size}"),
            "" if plan.needed is None else f"{plan.needed / GIB:.2f}",
            {None: "not known", True: "yes", False: "no"}[plan.fits],
            limit,
            "" if math.isnan(seconds) else f"{plan.batch_size / seconds:,.0f}",
        )
    _console.print(rows)
    fitting = [plan for plan in plans if plan.fits]
    if fitting:
        best = min(fitting, key=lambda plan: _slowest(plan, pod, dtype)[1] / plan.batch_size)
        _console.print(f"most {best.unit}s a second: mesh {_mesh(best)}, remat {_remat(best)}, {_of_chip(best)}")
        _assumptions(dtype, efficiency)


def largest(plans: list[Plan]) -> None:
    """Prints the largest batch of a chip that fits."""
    unit = plans[0].unit
    fitting = max((plan.batch_per_chip for plan in plans if plan.fits), default=0)
    full = min((plan.batch_per_chip for plan in plans if plan.fits is False), default=None)
    beyond = f", {full} do not fit" if full else ""
    _console.print(
        f"compiled: {fitting} {unit}s a chip fit{beyond}" if fitting else f"even one {unit} a chip does not fit"
    )


def _verdict(plan: Plan) -> str:
    if plan.fits is None:
        return "it is not known whether the step fits: only the compiler knows it, and the compiler needs the GPU"
    if not plan.fits:
        return f"[bold]does not fit[/bold]{': ' + ' '.join(plan.error.split())[:300] if plan.error else ''}"
    return (
        f"[bold]fits[/bold], with {(plan.limit - plan.needed) / GIB:.2f} GiB to spare; if all memory except the state "
        f"grows with the batch, {plan.batch_that_fits()} {plan.unit}s a chip fit (--largest checks this by compiling)"
    )


def _speed(plan: Plan, pod: Pod, dtype: str, efficiency: float) -> None:
    _console.print(
        f"operations of a chip in a step: {plan.operations / 1e12:.2f} T that the network needs (3 forward passes)"
        + (f", {plan.compiled_operations / 1e12:.2f} T in the program" if plan.compiled_operations else "")
        + (f"; memory traffic {plan.moved / 1e9:.1f} GB" if plan.moved else "")
    )
    if not pod.chip:
        return _console.print(
            "the peak of this GPU is not known; give --topology a known kind, such as a100:8 or h100:8"
        )
    if plan.fits is False:
        return None
    for name, seconds in plan.seconds(pod.chip, dtype).items():
        if seconds:
            _console.print(f"  {name}: {1e3 * seconds:.1f} ms at the chip's peak")
    limit, seconds = _slowest(plan, pod, dtype)
    _console.print(
        f"at most {1 / seconds:.2f} steps/s, {plan.batch_size / seconds:,.0f} {plan.unit}s/s, limited by {limit}; "
        f"at {efficiency:.0%} of the peak {efficiency / seconds:.2f} steps/s, "
        f"{efficiency * plan.batch_size / seconds:,.0f} {plan.unit}s/s"
    )
    _assumptions(dtype, efficiency)


def _assumptions(dtype: str, efficiency: float) -> None:
    _console.print(
        "assumptions: arithmetic, memory and links work at the same time, each at its published peak; products of "
        f"{dtype} have JAX's default precision; collectives use a ring over all links of a chip; the compiler counts a "
        f"loop once; a step never waits for input. --efficiency={efficiency:g} is assumed, not measured."
    )


def _slowest(plan: Plan, pod: Pod, dtype: str) -> tuple[str, float]:
    return max(plan.seconds(pod.chip, dtype).items(), key=lambda item: item[1])


def _flags(plan: Plan, pod: Pod) -> str:
    changes = {"batch_size": plan.batch_size, "eval_batch_size": pod.count}
    changes |= {
        f"mesh.{axis}": plan.mesh.get(axis, 1) for axis in ("fsdp", "time")
    }  # the axis data takes the remaining devices
    changes["model.remat"] = plan.remat
    return shlex.join(f"--config.{name}={value}" for name, value in changes.items())


def _of_chip(plan: Plan) -> str:
    return f"{plan.batch_per_chip} {plan.unit}s a chip"


def _mesh(plan: Plan) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items())


def _remat(plan: Plan) -> str:
    return "+".join(plan.remat) or "none"
