"""Logs the metrics of a run while it trains: metrics.csv, TensorBoard events, curves.png and the terminal."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from nl_jax.figures.curves import plot_curves
from nl_jax.places import Growing, Place, read_text
from nl_jax.training.task import Task

# Columns about the machine: mean seconds of the parts of a step, and the share of the devices' peak if it is known.
SECONDS = ("input_seconds", "compute_seconds", "checkpoint_seconds", "flops_utilisation")


def rate_of(unit: str) -> str:
    """Returns the name of the column with the throughput, such as "clips_per_second".

    Compare runs by the median of this column, because pauses do not change the median.
    """
    return f"{unit}s_per_second"


def timing(unit: str) -> tuple[str, ...]:
    """Returns the names of the columns about the machine."""
    return (rate_of(unit), *SECONDS)


def columns(task: Task) -> tuple[str, ...]:
    """Returns the names of all columns of a task's metrics.csv."""
    metrics = [f"train_{name}" for name in task.train_figures]
    figures = [f"validation_{name}" for name in task.validation_figures]
    fixed = ["step", "learning_rate", "train_loss", *metrics, "grad_norm", "skipped_steps"]
    return (*fixed, *timing(task.unit), *figures)


class MetricsLog:
    """The log of the metrics, with one row for every logged step. At the end of its context it draws curves.png.

    When a killed run is resumed, the rows after `step` are dropped.

    Args:
      workdir: folder of the files.
      step: number of finished steps.
      task: the task of the run.
      enabled: whether this process writes. Only the main process does.
    """

    def __init__(self, workdir: Place, step: int, task: Task, *, enabled: bool = True):
        self._path = workdir / "metrics.csv"
        self._validated_on = task.validated_on.replace(" ", "_")
        self._task, self._picture = task, workdir / "curves.png"
        self._enabled = enabled
        if not enabled:
            return
        rows = [row for row in read_metrics(self._path) if int(row["step"]) <= step]
        self._columns = columns(task)
        self._file = Growing(self._path, csv_lines(self._columns, rows, header=True))
        from tensorboardX import SummaryWriter  # tensorboardX imports PyTorch where it is installed

        self._tensorboard = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes a row of metrics.csv, and the same values to TensorBoard. `columns` lists the names."""
        if self._enabled:
            self._file.write(csv_lines(self._columns, [{"step": step, **values}]))
            for name, value in values.items():
                self._tensorboard.add_scalar(
                    name.replace("train_", "train/").replace("validation_", f"{self._validated_on}/"), value, step
                )

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        if self._enabled:
            self._tensorboard.close()
            plot_curves(read_metrics(self._path), self._task.curves, self._picture)


def read_metrics(path: Place) -> list[dict[str, str]]:
    """Returns the rows of a metrics.csv, without a last line that a kill cut short."""
    if not path.exists():
        return []
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    return [row for row in rows if None not in row.values() and row["step"].isdigit()]


def csv_lines(columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, header: bool = False) -> str:
    """Returns rows as lines of a CSV file.

    Args:
      columns: names of the columns.
      rows: the rows, by column.
      header: whether the first line names the columns.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def make_console() -> Console:
    """Returns the console that informs the user. With several processes only the first process prints."""
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
    """Shows a logged step in the bar. Without a terminal, and for every validation, it prints a line.

    Args:
      progress: the bars.
      bar: the bar of the training.
      task: the task of the run.
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
