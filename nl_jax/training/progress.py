"""The output of a run in the terminal."""

from collections.abc import Mapping

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nl_jax.training.logs import rate_of
from nl_jax.training.task import Task


def make_console() -> Console:
    """Returns the console that informs the user. With several processes only the first one prints."""
    return Console(quiet=jax.process_index() != 0, highlight=False, markup=False, soft_wrap=True)


def make_progress(console: Console) -> Progress:
    """Returns progress bars with the time left, for a terminal of 80 columns. Without a terminal they show nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),  # so that the line fits 80 columns
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        disable=not console.is_terminal,
    )


def show_step(
    progress: Progress, bar: TaskID, task: Task, step: int, row: dict[str, float], minutes_left: float | None
) -> None:
    """Shows a logged step: in the bar, or without a terminal as a line. A validation is always a line.

    Args:
      progress: the bars.
      bar: the bar of the training.
      task: its kind of run.
      step: number of finished steps.
      row: the row of metrics.csv.
      minutes_left: estimated time left in minutes, or None.
    """
    training = _words(task.train_figures, "train_", row)
    status = "  ".join([f"loss {row['train_loss']:.3f}", *training, f"{row[rate_of(task.unit)]:.0f} {task.unit}s/s"])
    progress.update(bar, status=status)
    validation = _words(task.validation_figures, "validation_", row)
    if not validation and progress.console.is_terminal:
        return  # the bar shows it
    if validation:
        status += f"  {task.validated_on} {', '.join(validation)}"
    left = "" if minutes_left is None else f"  {minutes_left:.1f} min left"
    progress.console.print(f"step {step}/{task.config.steps}  {status}{left}")


def _words(figures: Mapping[str, str], prefix: str, row: dict[str, float]) -> list[str]:
    return [text.format(row[prefix + name]) for name, text in figures.items() if text and prefix + name in row]
