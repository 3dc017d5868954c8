"""Reads the communication between chips in a step from the compiled program."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%([\w.-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"\b([a-z]+)(\d+)?\w*\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\[(\d+),(\d+)\]|\{\{([\d,]+)\})")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All collectives of one kind.

    Attributes:
      kind: all-reduce, all-gather, reduce-scatter, collective-permute or all-to-all.
      count: number of collectives of this kind in a step.
      bytes: total bytes of their results on one chip.
      sent: bytes that one chip sends for them, if they use a ring of chips.
    """

    kind: str
    count: int
    bytes: int
    sent: float


def collectives(hlo: str, devices: int) -> list[Collective]:
    """Returns the collectives of a compiled program.

    A collective in a loop counts once for each run of the loop. If the number of runs is not known, it counts once.

    Args:
      hlo: text of the compiled program.
      devices: number of devices. A collective without a named group includes all devices.
    """
    computations = dict(_computations(hlo))
    entry = re.search(r"^ENTRY %?([\w.-]+)", hlo, re.M).group(1)
    found = collections.defaultdict(lambda: [0, 0, 0.0])
    for name, times in _runs(computations, entry).items():
        for line in computations[name]:
            if match := _COLLECTIVE.search(line):
                result, kind, start = match.groups()
                size = _bytes(result, of_pair=bool(start) and kind in ("all-gather", "collective-permute"))
                total = found[kind]
                total[0] += times
                total[1] += times * size
                total[2] += times * _sent(kind, size, _group(line, devices))
    return [Collective(kind, *found[kind]) for kind in KINDS if kind in found]


def _computations(hlo: str) -> Iterator[tuple[str, list[str]]]:
    name, lines = None, []
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            name, lines = match.group(1), []
        elif line.startswith("}") and name:
            yield name, lines
            name = None
        else:
            lines.append(line)


def _runs(computations: dict[str, list[str]], entry: str) -> collections.Counter:
    """Returns the number of times that each computation runs in one step."""
    runs = collections.Counter()

    def add(name, times):
        runs[name] += times
        for line in computations[name]:
            trips = _TRIPS.search(line) if " while(" in line else None
            for called, branches in _CALLED.findall(line):
                for inner in [called] if called else re.findall(r"%([\w.-]+)", branches):
                    if inner in computations:
                        add(inner, times * (int(trips.group(1)) if trips else 1))

    add(entry, 1)
    return runs


def _bytes(shapes: str, of_pair: bool) -> int:
    """Returns the bytes of an array or of a tuple of arrays; with `of_pair` only the bytes of the second array."""
    sizes = [
        math.prod(int(n) for n in dims.split(",") if n) * max(1, int(bits or 8) // 8)
        for _, bits, dims in _ARRAY.findall(shapes)
    ]
    return sizes[1] if of_pair and len(sizes) > 1 else sum(sizes)


def _group(line: str, devices: int) -> int:
    if match := _GROUPS.search(line):
        _, size, listed = match.groups()
        return int(size) if size else listed.count(",") + 1
    return devices


def _sent(kind: str, size: int, group: int) -> float:
    others = (group - 1) / group
    return {
        "all-reduce": 2 * others * size,
        "all-gather": others * size,
        "reduce-scatter": (group - 1) * size,  # its result is one part
        "all-to-all": others * size,
        "collective-permute": size,
    }[kind]
