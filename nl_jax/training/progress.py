"""What a user sees of a run while it goes on."""

from collections.abc import Mapping

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nl_jax.training.logs import rate_of
from nl_jax.training.task import Task


def make_console() -> Console:
    """What tells the user of a run; of several processes only the first does."""
    return Console(quiet=jax.process_index() != 0, highlight=False, markup=False, soft_wrap=True)


def make_progress(console: Console) -> Progress:
    """Bars with the time left, in a line that fits a terminal of 80 columns; nothing where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),  # the line fits a terminal of 80 columns
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
        disable=not console.is_terminal,
    )


def show_step(
    progress: Progress, bar: TaskID, task: Task, step: int, row: dict[str, float], minutes_left: float | None
) -> None:
    """Of a step that was logged: in the bar where there is a terminal, else, and of every validation, as a line.

    Args:
      row: of metrics.csv.
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
