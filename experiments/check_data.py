"""Checks every file of a dataset of videos or of images. Shows the progress, the pace and the counts of faults."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nl_jax.data.sources.listing import Listing
from nl_jax.data.video import check
from nl_jax.places import Place

console = Console(highlight=False, markup=False, soft_wrap=True)


def check_videos(listing: Listing, root: Path, *, report: Place, title: str, num_workers: int, timeout: float) -> None:
    """Checks a dataset of videos, and writes the report.

    Args:
      listing: the videos of the dataset.
      root: folder of the videos.
      report: folder for report.csv and index.html.
      title: title of the report.
      num_workers: number of processes that decode.
      timeout: maximum seconds to decode one file.
    """
    findings = []
    with counted("files", len(listing.items) + len(listing.unlisted), num_workers) as count:
        for found in check.check_copy(listing, root, num_workers=num_workers, timeout=timeout):
            findings.append(found)
            count(found.line.status == "unreadable")
    findings = check.finish(findings)
    check.write_report(report, title, findings)
    counts = check.count_statuses(findings)
    used = [status for status in check.STATUSES if any(status in row for row in counts.values())]
    table = Table("split", *used)
    for split, row in counts.items():
        table.add_row(split or "no split", *(str(row[status]) for status in used))
    console.print(table)
    console.print(f"wrote {report}/report.csv, a line for every file, and {report}/index.html")


def check_coco(
    splits: Mapping, *, masks: bool, keypoints: bool, report: Place, title: str, num_workers: int, timeout: float
) -> None:
    """Checks a dataset in COCO's format, and writes the report.

    Args:
      splits: the splits, as `nl_jax.data.coco.source.find_splits` returns them.
      masks: whether every annotation must have a mask.
      keypoints: whether every annotation must have keypoints.
      report, title, num_workers, timeout: as in `check_videos`.
    """
    from nl_jax.data.coco import check  # imports pycocotools, which videos do not need

    lines = []
    with counted("images", check.count_images(splits), num_workers) as count:
        options = {"num_workers": num_workers, "timeout": timeout}
        for found in check.check(splits, masks=masks, keypoints=keypoints, **options):
            lines += found
            count(sum(line.problem.kind == "unreadable" for line in found))
    lines = check.finish(lines)
    check.write_report(report, title, lines)
    counts = check.summary(lines)
    table = Table("fault", *splits)
    for kind in check.KINDS:
        if any(kind in row for row in counts.values()):
            table.add_row(kind, *(str(counts.get(split, {}).get(kind, 0)) for split in splits))
    console.print(table if counts else "no fault is found")
    console.print(f"wrote {report}/report.csv, a line for every fault, and {report}/index.html")


@contextmanager
def counted(what: str, total: int, num_workers: int) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar, and at its end the pace. Yields a function that counts one file and its failures.

    Args:
      what: name of the files in the plural.
      total: number of files.
      num_workers: number of processes, for the line with the pace.
    """
    began, done, failed = time.monotonic(), 0, 0
    columns = (
        *(TextColumn("{task.description}"), BarColumn(bar_width=14), MofNCompleteColumn(), TimeElapsedColumn()),
        *(TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[failed]} failed")),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, failed=0)

        def count(failures: int) -> None:
            nonlocal done, failed
            done, failed = min(done + 1, total), failed + failures
            progress.update(task, completed=done, failed=failed)

        yield count
    if total:
        seconds = time.monotonic() - began
        thousand = seconds / total * 1000 / 60
        console.print(
            f"{total} {what} took {seconds:.1f} s with {num_workers} processes: {thousand:.1f} min for a thousand"
        )
