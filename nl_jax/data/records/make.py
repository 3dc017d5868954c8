"""Makes the record of one video. A cache on disk keeps the records until the builder has written all of them."""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nl_jax.data.media.failure import DecodeError
from nl_jax.data.media.packets import stamp
from nl_jax.data.media.transcode import Scan, transcode
from nl_jax.data.sources.listing import Item
from nl_jax.data.workers import Crash, map_unordered

Record = dict[str, Any]


@dataclass(frozen=True)
class Preparation:
    """A function that makes the record of an item. It can be sent to other processes and machines.

    The record depends only on the file and on `short_side`. A video that does not decode also has a record, with the
    reason in place of a video. In testing it counts as wrong.

    Args:
      source: folder of the videos.
      short_side: pixels to which the shorter side is scaled down; None keeps the size.
      cache: folder for finished records, so that none is made twice; None keeps no records.
    """

    source: Path
    short_side: int | None
    cache: Path | None = None

    def __call__(self, item: Item) -> Record:
        """Returns the record of an item. It takes the record from the cache, or makes it and puts it into the cache."""
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
        """Returns whether the record of an item is in the cache."""
        return self._kept(item).exists()

    def keep_all(self, items: Sequence[Item], *, num_workers: int, timeout: float) -> Iterator[tuple[Item, str]]:
        """Puts the record of every item into the cache, with the processes of `map_unordered`.

        Args:
          items: the items.
          num_workers: as in `map_unordered`.
          timeout: as in `map_unordered`, in seconds.

        Returns:
          an iterator of (item, reason why it has no video, or "") in the order of completion.
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
        """Returns the record's path in the cache.

        The path depends on all inputs of the record, so a changed file gets another path.
        """
        try:
            file = stamp(self.source / item.path)[1:]
        except (OSError, DecodeError):  # there is no video: the record will give the reason
            file = ()
        facts = [item.path, *file, self.short_side, [asdict(action) for action in item.actions]]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        return self.cache / name[:2] / name

    def _keep(self, path: Path, record: Record) -> None:
        """Writes a record in one move, so a process that is killed leaves no partial record."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Workers of Beam may make the same record at the same time.
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        head = json.dumps({key: value for key, value in record.items() if key != "video"})
        partial.write_bytes(head.encode() + b"\n" + record["video"])
        partial.replace(path)


def _without_video(reason: str) -> Record:
    return {"video": b"", "frames": 0, "rate": 0.0, "duration": 0.0, "sha256": "", "reason": reason, "actions": []}


def _in_frames(item: Item, found: Scan) -> list[dict[str, int]]:
    """Returns the label, first frame and last frame of every action.

    These are the frames that are shown during the action. If there are none, both are the frame nearest to the middle
    of the action.
    """
    result = []
    for action in item.actions:
        during = [i for i, time in enumerate(found.times) if action.start <= time <= action.end]
        if not during:
            middle = (action.start + action.end) / 2
            during = [min(range(found.frames), key=lambda i: abs(found.times[i] - middle))]
        result.append({"label": action.label, "first": during[0], "last": during[-1]})
    return result
