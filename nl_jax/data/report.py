"""What a copy of a data set holds: every file decoded, one line each, as a table, a CSV and a page."""

import csv
import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path

import av
import numpy as np

from nl_jax.data.decode import DecodeError
from nl_jax.data.sources.listing import IMAGE_SUFFIXES, Item, Listing
from nl_jax.data.to_rgb import ToRgb
from nl_jax.data.transcode import Scan, scan
from nl_jax.data.workers import Crash, map_unordered

STATUSES = {
    "ok": "nothing is wrong",
    "missing": "listed, and not in the copy",
    "unreadable": "no frame can be decoded",
    "duplicate": "the same bytes as a file of another split",
    "truncated": "fewer frames than its header promises, or damage",
    "image": "a still image named as a video",
    "rate": "another frame rate than its header says",
    "duration": "another duration than the annotations or its header say",
    "unlisted": "in the copy, and in no list",
}
_THUMBNAILS = 200  # on the page, at most
_THUMBNAIL_SIDE = 90  # pixels of the shorter side


@dataclass(frozen=True)
class Line:
    """One file, or one video that is listed and missing; the columns of report.csv."""

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
    """A line with what only the report needs: the hash of the file and a picture of it."""

    line: Line
    sha256: str = ""
    thumbnail: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Inspection:
    """Decodes the file of an item and says what is wrong with it; a function that can be sent to other processes."""

    source: Path
    classes: tuple[str, ...]

    def __call__(self, item: Item) -> Finding:
        pictures: list[np.ndarray] = []
        to_rgb = ToRgb(_THUMBNAIL_SIDE)

        def keep_first(frame: av.VideoFrame) -> None:
            if not pictures:
                pictures.append(np.ascontiguousarray(to_rgb(frame)))

        try:
            found = scan(self.source / item.path, keep_first)
        except DecodeError as error:
            return self.unreadable(item, error.reason)
        wrong = dict(_wrong(item, found))
        status = next(iter(wrong), "ok")
        facts = found.frames, round(found.rate, 3), round(found.duration, 3)
        line = Line(item.path, item.split, label_text(item, self.classes), status, *facts, "; ".join(wrong.values()))
        return Finding(line, found.sha256, pictures[0] if wrong else None)

    def unreadable(self, item: Item, reason: str) -> Finding:
        return Finding(Line(item.path, item.split, label_text(item, self.classes), "unreadable", reason=reason))


def check(listing: Listing, source: Path, *, num_workers: int, timeout: float) -> Iterator[Finding]:
    """A finding for every item and unlisted file, as they come; `finish` needs all of them."""
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
    """All findings by split and path, those of files with the same bytes in two splits marked as duplicates."""
    findings = sorted(findings, key=lambda found: (found.line.split, found.line.path))
    same = defaultdict(list)
    for found in findings:
        if found.sha256:
            same[found.sha256].append(found.line)
    result = []
    for found in findings:
        twins = [line for line in same.get(found.sha256, ()) if line.split != found.line.split]
        if twins:
            reason = "; ".join(
                filter(None, [f"the same bytes as {twins[0].path} ({twins[0].split})", found.line.reason])
            )
            found = replace(found, line=replace(found.line, status="duplicate", reason=reason))
        result.append(found)
    return result


def label_text(item: Item, classes: tuple[str, ...]) -> str:
    """The name of its class, or of those of its actions."""
    labels = {item.label} if item.label >= 0 else {action.label for action in item.actions}
    return "; ".join(classes[label] for label in sorted(labels))


def write_report(directory: Path, title: str, findings: list[Finding]) -> None:
    """report.csv, index.html and the pictures that it shows."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "report.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(column.name for column in fields(Line))
        writer.writerows(astuple(found.line) for found in findings)
    page = _page(title, findings, directory / "thumbnails")
    (directory / "index.html").write_text(page, encoding="utf-8", errors="replace")


def summary(findings: Iterable[Finding]) -> dict[str, Counter]:
    """How many of each status, by split; unlisted files under ""."""
    table: dict[str, Counter] = defaultdict(Counter)
    for found in findings:
        table[found.line.split][found.line.status] += 1
    return dict(table)


def _wrong(item: Item, found: Scan) -> Iterator[tuple[str, str]]:
    """(status, reason) of all that is wrong with a file that gives frames, the gravest first."""
    header, promised = found.header, found.promised
    if found.damage or promised - found.frames > max(2, 0.05 * promised):
        yield "truncated", f"{found.frames} of {promised} frames decode" + (found.damage and f" ({found.damage})")
    if found.image and Path(item.path).suffix.lower() not in IMAGE_SUFFIXES:
        yield "image", "a still image"
    if header.rate and abs(found.rate - header.rate) > 0.05 * header.rate:
        yield "rate", f"{found.rate:.2f} frames per second, the header says {header.rate:.2f}"
    for who, duration in (("the annotations say", item.duration), ("the header says", header.duration)):
        if duration and not found.image and abs(found.duration - duration) > max(1.0, 0.1 * duration):
            yield "duration", f"{found.duration:.2f} seconds, {who} {duration:.2f}"
            return


def _page(title: str, findings: list[Finding], thumbnails: Path) -> str:
    table = summary(findings)
    used = [status for status in STATUSES if any(status in counts for counts in table.values())]
    head = "".join(f"<th title='{STATUSES[status]}'>{status}</th>" for status in used)
    rows = "".join(
        f"<tr><th>{split or 'no split'}</th>{''.join(f'<td>{counts[status]}</td>' for status in used)}</tr>"
        for split, counts in table.items()
    )
    wrong = [found for found in findings if found.line.status not in ("ok", "missing", "unlisted")]
    cards = []
    for number, found in enumerate(wrong[:_THUMBNAILS]):
        picture = "<div class=none>no picture</div>"
        if found.thumbnail is not None:
            thumbnails.mkdir(exist_ok=True)
            name = f"{number:04d}.jpg"
            av.VideoFrame.from_ndarray(found.thumbnail, format="rgb24").save(str(thumbnails / name))
            picture = f"<img src='thumbnails/{name}' alt=''>"
        line = found.line
        text = f"<b>{line.status}</b> {line.split}: {html.escape(line.path)}<br>{html.escape(line.reason)}"
        cards.append(f"<figure>{picture}<figcaption>{text}</figcaption></figure>")
    more = f"<p>and {len(wrong) - _THUMBNAILS} more in report.csv</p>" if len(wrong) > _THUMBNAILS else ""
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>Every file is one line of <a href=report.csv>report.csv</a>.</p>"
        f"<table><tr><th></th>{head}</tr>{rows}</table>"
        f"<h2>What is wrong</h2>{''.join(cards) or '<p>nothing</p>'}{more}"
        f"<h2>Videos of each class that decode</h2>{_histogram(findings)}"
    )


def _histogram(findings: list[Finding]) -> str:
    counts: Counter = Counter()
    for found in findings:
        decodes = found.line.status not in ("missing", "unreadable", "unlisted")
        counts.update({label: int(decodes) for label in found.line.label.split("; ") if label})
    highest = max(counts.values(), default=0) or 1
    rows = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{count}</td>"
        f"<td><div class=bar style='width:{300 * count / highest:.0f}px'></div></td></tr>"
        for label, count in sorted(counts.items())
    )
    return f"<table>{rows}</table>"


_STYLE = (
    "body{font:14px sans-serif;margin:2em;max-width:70em}th{text-align:left;font-weight:normal;padding-right:1em}"
    "td{text-align:right;padding-right:1em}figure{display:inline-block;width:14em;vertical-align:top;"
    "margin:0 1em 1em 0;overflow-wrap:anywhere}.none{height:90px;background:#ddd;text-align:center;line-height:90px}"
    ".bar{height:.8em;background:#47a}"
)
