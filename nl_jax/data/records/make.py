"""One video of a listing made into the record that the builders write; kept on disk until all are written."""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nl_jax.data.failure import DecodeError
from nl_jax.data.packets import stamp
from nl_jax.data.sources.listing import Item
from nl_jax.data.transcode import Scan, transcode
from nl_jax.data.workers import Crash, map_unordered

Record = dict[str, Any]


@dataclass(frozen=True)
class Preparation:
    """Makes the record of an item; a function that can be sent to other processes and machines.

    The record depends on the file and on `short_side` alone. A video that does not decode has a record, too, without
    a video and with the reason: in testing it counts as wrong.

    Args:
        source: the folder of the videos.
        short_side: pixels to which the shorter side is scaled down; None keeps it.
        cache: where finished records are kept, so that none is made twice; None keeps none.
    """

    source: Path
    short_side: int | None
    cache: Path | None = None

    def __call__(self, item: Item) -> Record:
        """The record: found in the cache or made, and then put there."""
        if self.cache is None:
            return self._make(item)
        kept = self._kept(item)
        if kept.exists():
            head, _, video = kept.read_bytes().partition(b"\n")
            return json.loads(head) | {"video": video}
        record = self._make(item)
        self._keep(kept, record)
        return record

    def done(self, item: Item) -> bool:
        """Whether the record is in the cache."""
        return self._kept(item).exists()

    def keep_all(self, items: Sequence[Item], *, num_workers: int, timeout: float) -> Iterator[tuple[Item, str]]:
        """Puts the record of every item into the cache, in processes of their own, as `map_unordered` has them.

        Returns:
            an iterator of every item, as they are finished, and why it has no video, if it has none.
        """
        for index, reason in map_unordered(self._run, items, num_workers=num_workers, timeout=timeout):
            if isinstance(reason, Crash):
                self._keep(self._kept(items[index]), _without_video(str(reason)))
            yield items[index], str(reason)

    def _run(self, item: Item) -> str:
        return self(item)["reason"]

    def _make(self, item: Item) -> Record:
        path = self.source / item.path
        try:
            found, video = transcode(path, self.short_side)
        except DecodeError as error:
            return _without_video(error.reason)
        return {
            "video": video,
            "frames": found.frames,
            "rate": found.rate,
            "duration": found.duration,
            "sha256": found.sha256,
            "reason": "",
            "actions": _in_frames(item, found),
        }

    def _kept(self, item: Item) -> Path:
        """Named by all that the record depends on; a file that was changed since has another name."""
        try:
            file = stamp(self.source / item.path)[1:]
        except (OSError, DecodeError):  # there is none: the record says so
            file = ()
        facts = [item.path, *file, self.short_side, [asdict(action) for action in item.actions]]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        return self.cache / name[:2] / name

    def _keep(self, path: Path, record: Record) -> None:
        """Whole or not at all, whenever this process is killed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # workers of Beam may make the same one at a time
        head = json.dumps({key: value for key, value in record.items() if key != "video"})
        partial.write_bytes(head.encode() + b"\n" + record["video"])
        partial.replace(path)


def _without_video(reason: str) -> Record:
    return {"video": b"", "frames": 0, "rate": 0.0, "duration": 0.0, "sha256": "", "reason": reason, "actions": []}


def _in_frames(item: Item, found: Scan) -> list[dict[str, int]]:
    """Actions by the first and last frame that is shown during them; one that no frame shows is at the nearest."""
    result = []
    for action in item.actions:
        during = [i for i, time in enumerate(found.times) if action.start <= time <= action.end]
        if not during:
            middle = (action.start + action.end) / 2
            during = [min(range(found.frames), key=lambda i: abs(found.times[i] - middle))]
        result.append({"label": action.label, "first": during[0], "last": during[-1]})
    return result
