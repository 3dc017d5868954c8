"""What a user sees of a run while it goes on."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
    progress: Progress, task, step: int, steps: int, row: dict[str, float], minutes_left: float | None
) -> None:
    """Of a step that was logged: in the bar where there is a terminal, else, and of every validation, as a line."""
    status = f"loss {row['train_loss']:.3f}  top-1 {row['train_top1']:.1%}  {row['clips_per_second']:.0f} clips/s"
    progress.update(task, status=status)
    if "validation_video_top1" in row:
        status += f"  validation top-1 {row['validation_video_top1']:.1%}"
    elif "validation_video_map" in row:
        status += f"  validation mAP {row['validation_video_map']:.1%}"
    elif progress.console.is_terminal:
        return  # the bar shows it
    left = "" if minutes_left is None else f"  {minutes_left:.1f} min left"
    progress.console.print(f"step {step}/{steps}  {status}{left}")
