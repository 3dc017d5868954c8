"""Reads the test examples of a run, and makes film strips of its videos as pictures inside the page."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.report.runs import PastRun
from nl_jax.data.dataset import Dataset
from nl_jax.errors import InputError
from nl_jax.places import is_bucket
from nl_jax.tasks import task_of

HEIGHT, FRAMES = 64, 5  # pixels and frames of a strip


def tested(run: PastRun) -> tuple[Dataset | None, str]:
    """Returns (dataset on which a run was tested, ""), or (None, reason why the dataset cannot be read)."""
    config = run.config.copy_and_resolve_references().unlock()
    if "num_clips" in config.data:
        config.data.num_clips = config.data.num_crops = 1
    measured_on = str(run.results.get("measured_on", ""))
    there = is_bucket(measured_on) or (measured_on and Path(measured_on.partition(":")[0]).exists())
    if "test" in config.data and there:  # evaluate --data
        config.data.test = measured_on
    task = task_of(config)
    try:
        dataset = task.open_split("test", run.classes)
        if dataset.list_hash() != run.results.get("list"):
            raise InputError(f"the {task.example}s have changed since the test")
        return dataset, ""
    except (InputError, OSError) as error:
        return None, f"The page has no pictures of {run.name}: {error}"


def data_url(picture: bytes) -> str:
    """Returns a JPEG as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode()


class Strips:
    """Film strips of the videos on which a run was tested. If there are no strips, `reason` says why."""

    def __init__(self, run: PastRun):
        self._dataset, self.reason = tested(run)

    def __call__(self, index: int) -> str:
        """Returns the strip of a video as a data URL; "" if the video gives no frames."""
        if self._dataset is None:
            return ""
        example = self._dataset.test_example(index)
        if (example["failed"] >= 0).any():
            return ""
        clip = example["video"][0]
        chosen = clip[np.linspace(0, len(clip) - 1, min(FRAMES, len(clip))).round().astype(int)]
        height, width = chosen.shape[1:3]
        size = (max(1, round(HEIGHT * width / height)), HEIGHT)
        way = Image.Resampling.NEAREST if height < HEIGHT else Image.Resampling.BOX
        strip = Image.new("RGB", ((size[0] + 2) * len(chosen) - 2, HEIGHT), "white")
        for place, frame in enumerate(chosen):
            strip.paste(Image.fromarray(frame).resize(size, way), (place * (size[0] + 2), 0))
        file = io.BytesIO()
        strip.save(file, "JPEG", quality=80)
        return data_url(file.getvalue())
