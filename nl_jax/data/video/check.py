"""Checks a copy of a dataset: decodes every file and reports one line for each file, as a CSV and as a page."""

import csv
import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path

import av
import numpy as np

from nl_jax.data.media.failure import DecodeError
from nl_jax.data.media.image_files import IMAGE_SUFFIXES
from nl_jax.data.media.to_rgb import ToRgb
from nl_jax.data.media.transcode import Scan, scan
from nl_jax.data.sources.listing import Item, Listing
from nl_jax.data.workers import Crash, map_unordered
from nl_jax.places import Place, make_directory, written

STATUSES = {
    "ok": "nothing is wrong",
    "missing": "listed, and not in the copy",
    "unreadable": "no frame can be decoded",
    "duplicate": "the same bytes as a file of another split or class",
    "truncated": "fewer frames than its header promises, or damage",
    "image": "a still image named as a video",
    "rate": "another frame rate than its header says",
    "duration": "another duration than the annotations or its header say",
    "unlisted": "in the copy, and in no list",
}
_SHOWN = 50  # maximum number of files of one status on the page
_THUMBNAIL_SIDE = 90  # pixels of the shorter side


@dataclass(frozen=True)
class Line:
    """One line of report.csv: a file, or a listed video that is missing. The fields are the columns.

    Attributes:
      path: the file relative to the source, or the name of a missing video.
      split: train, validation or test; "" for an unlisted file.
      label: name of the class, or names of the actions' classes.
      status: one of `STATUSES`.
      frames: number of frames that decode.
      rate: mean frames per second.
      duration: in seconds.
      reason: description of the faults; "" if there are none.
    """

    path: str
    split: str
    label: str
    status: str
    frames: int = 0
    rate: float = 0.0
    duration: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """The result of checking one file.

    Attributes:
      line: the line of the report.
      sha256: SHA-256 of the file; "" if there is none.
      thumbnail: a picture of the file, uint8 (h, w, 3); None if there is none.
    """

    line: Line
    sha256: str = ""
    thumbnail: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Inspection:
    """A function that decodes the file of an item and returns its faults. It can be sent to other processes.

    Attributes:
      source: folder that the paths of the items are relative to.
      classes: class names in label order.
    """

    source: Path
    classes: tuple[str, ...]

    def __call__(self, item: Item) -> Finding:
        """Decodes the video of an item and returns the finding."""
        picture = _Thumbnail()
        try:
            found = scan(self.source / item.path, picture)
        except DecodeError as error:
            return self.unreadable(item, error.reason)
        wrong = dict(_wrong(item, found))
        status = next(iter(wrong), "ok")
        facts = found.frames, round(found.rate, 3), round(found.duration, 3)
        line = Line(item.path, item.split, label_text(item, self.classes), status, *facts, "; ".join(wrong.values()))
        return Finding(line, found.sha256, picture.image if wrong else None)

    def unreadable(self, item: Item, reason: str) -> Finding:
        """Returns the finding for an item whose file gives no frame or crashed the decoder."""
        return Finding(Line(item.path, item.split, label_text(item, self.classes), "unreadable", reason=reason))


class _Thumbnail:
    """Keeps the frame with the highest contrast of frames 0, 1, 3, 7, 15 ..

    Many videos begin with black frames.
    """

    def __init__(self):
        self.image: np.ndarray | None = None
        self._to_rgb, self._count, self._contrast = ToRgb(_THUMBNAIL_SIDE), 0, -1.0

    def __call__(self, frame: av.VideoFrame, seconds: float) -> None:
        self._count += 1
        if self._count & (self._count - 1):
            return
        image = np.ascontiguousarray(self._to_rgb(frame))
        if image.std() > self._contrast:
            self.image, self._contrast = image, float(image.std())


def check_copy(listing: Listing, source: Path, *, num_workers: int, timeout: float) -> Iterator[Finding]:
    """Yields a finding for every item and every unlisted file, in the order of completion.

    Args:
      listing: the items to check.
      source: folder that the paths of the items are relative to.
      num_workers: number of processes; 0 decodes in this process.
      timeout: maximum time of one file, in seconds.
    """
    for item in listing.items:
        if item.path is None:
            yield Finding(Line(item.name, item.split, label_text(item, listing.classes), "missing"))
    for path in listing.unlisted:
        yield Finding(Line(path, "", "", "unlisted"))
    items = [item for item in listing.items if item.path is not None]
    inspect = Inspection(source, listing.classes)
    for index, found in map_unordered(inspect, items, num_workers=num_workers, timeout=timeout):
        yield inspect.unreadable(items[index], str(found)) if isinstance(found, Crash) else found


def finish(findings: Iterable[Finding]) -> list[Finding]:
    """Returns all findings, sorted by split and path. Files with the same bytes in two splits or classes are marked."""
    findings = sorted(findings, key=lambda found: (found.line.split, found.line.path))
    same = defaultdict(list)
    for found in findings:
        if found.sha256:
            same[found.sha256].append(found.line)
    result = []
    for found in findings:
        place = (found.line.split, found.line.label)
        twins = [line for line in same.get(found.sha256, ()) if (line.split, line.label) != place]
        twins.sort(key=lambda line: line.split == found.line.split)  # another split is worse than another class
        if twins:
            where = twins[0].split if twins[0].split != found.line.split else f"class {twins[0].label}"
            reason = "; ".join(filter(None, [f"the same bytes as {twins[0].path} ({where})", found.line.reason]))
            found = replace(found, line=replace(found.line, status="duplicate", reason=reason))
        result.append(found)
    return result


def label_text(item: Item, classes: tuple[str, ...]) -> str:
    """Returns the name of an item's class, or the names of its actions' classes with "; " between them."""
    labels = {item.label} if item.label >= 0 else {action.label for action in item.actions}
    return "; ".join(classes[label] for label in sorted(labels))


def write_report(directory: Place, title: str, findings: list[Finding]) -> None:
    """Writes report.csv, index.html and the pictures of the page.

    Args:
      directory: folder of the report.
      title: title of index.html.
      findings: the findings, as `finish` returns them.

    Raises:
      InputError: the folder cannot be written.
    """
    make_directory(directory)
    with written(directory) as folder:
        folder.mkdir(exist_ok=True)
        with (folder / "report.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(column.name for column in fields(Line))
            writer.writerows(astuple(found.line) for found in findings)
        page = _page(title, findings, folder / "thumbnails")
        (folder / "index.html").write_text(page, encoding="utf-8", errors="replace")


def count_statuses(findings: Iterable[Finding]) -> dict[str, Counter]:
    """Returns the number of findings of each status, by split. Unlisted files have the split ""."""
    table: dict[str, Counter] = defaultdict(Counter)
    for found in findings:
        table[found.line.split][found.line.status] += 1
    return dict(table)


def _wrong(item: Item, found: Scan) -> Iterator[tuple[str, str]]:
    """Yields (status, reason) of each fault of a file that gives frames, the most serious fault first."""
    promised = found.promised
    if found.damage or promised - found.frames > max(2, 0.05 * promised):
        yield "truncated", f"{found.frames} of {promised} frames decode" + (found.damage and f" ({found.damage})")
    if found.image and Path(item.path).suffix.lower() not in IMAGE_SUFFIXES:
        yield "image", "a still image"
    if found.stated_rate and abs(found.rate - found.stated_rate) > 0.05 * found.stated_rate:
        yield "rate", f"{found.rate:.2f} frames per second, the header says {found.stated_rate:.2f}"
    for who, duration in (("the annotations say", item.duration), ("the header says", found.stated_duration)):
        if duration and not found.image and abs(found.duration - duration) > max(1.0, 0.1 * duration):
            yield "duration", f"{found.duration:.2f} seconds, {who} {duration:.2f}"
            return


def _page(title: str, findings: list[Finding], thumbnails: Path) -> str:
    counts = count_statuses(findings)
    head = "".join(f"<th>{split or 'no split'}</th>" for split in counts)
    rows, parts = [], []
    for status, meaning in STATUSES.items():
        if any(status in row for row in counts.values()):
            numbers = "".join(f"<td>{row[status]}</td>" for row in counts.values())
            rows.append(f"<tr><th>{status}</th>{numbers}<td class=text>{meaning}</td></tr>")
        wrong = [found for found in findings if found.line.status == status]
        if wrong and status not in ("ok", "missing", "unlisted"):
            cards = "".join(_card(found, thumbnails, f"{status}_{i:02d}.jpg") for i, found in enumerate(wrong[:_SHOWN]))
            more = f"<p>and {len(wrong) - _SHOWN} more in report.csv</p>" if len(wrong) > _SHOWN else ""
            parts.append(f"<h2>{status}: {meaning}</h2><div class=cards>{cards}</div>{more}")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>Every file is one line of <a href=report.csv>report.csv</a>.</p>"
        f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
        f"{''.join(parts) or '<h2>All files decode</h2>'}"
        f"<h2>Videos of each class that decode</h2>{_histogram(findings)}</html>"
    )


def _card(found: Finding, thumbnails: Path, name: str) -> str:
    """Returns the HTML of a file with its picture, and saves the picture as `name`."""
    picture = ""
    if found.thumbnail is not None:
        thumbnails.mkdir(exist_ok=True)
        av.VideoFrame.from_ndarray(found.thumbnail, format="rgb24").save(str(thumbnails / name))
        picture = f"<img src='thumbnails/{name}' alt=''>"
    line = found.line
    text = f"{line.split}: <b>{html.escape(line.path)}</b><br>{html.escape(line.reason)}"
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _histogram(findings: list[Finding]) -> str:
    counts: Counter = Counter()
    for found in findings:
        decodes = found.line.status not in ("missing", "unreadable", "unlisted")
        counts.update({label: int(decodes) for label in found.line.label.split("; ") if label})
    highest = max(counts.values(), default=0) or 1
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{count}</td>"
        f"<td class=room><div class=bar style='width:{100 * count / highest:.1f}%'></div></td></tr>"
        for label, count in sorted(counts.items())
    )
    return f"<table>{rows}</table>"


_STYLE = (
    ":root{color-scheme:light dark}body{font:14px sans-serif;margin:1.5em}h1,figcaption{overflow-wrap:anywhere}"
    "h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}th{font-weight:normal;text-align:right}th:first-child,"
    ".text{text-align:left}th,td{padding:.1em 1em .1em 0;vertical-align:top}td{text-align:right}.text{color:gray}"
    ".cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(12em,1fr));gap:1em}figure{margin:0}"
    "img{height:90px;max-width:100%;object-fit:contain;object-position:left;margin-bottom:.3em}"
    ".room{width:18em}.bar{height:1em;background:#58b}"
)
