"""A predictor that classifies a video. It computes the scores of the clips of a test one by one and combines them."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nl_jax.data.media.failure import DecodeError, ShortVideoError
from nl_jax.data.video.clips import test_crops, test_indices
from nl_jax.data.video.stream import Clip, clips_of_file, clips_of_stream
from nl_jax.errors import InputError
from nl_jax.evaluation.views import combine, scores_of_views
from nl_jax.figures import attention
from nl_jax.models import VideoResNet, flat
from nl_jax.places import Place, place
from nl_jax.tasks import restore_network
from nl_jax.tasks.classification import Classification
from nl_jax.training import sharding, workdir
from nl_jax.training.evaluator import Evaluator
from nl_jax.training.logs import read_metrics
from nl_jax.training.preprocessing import make_normalize
from nl_jax.zoo.pretrained import pretrained
from nl_jax.zoo.table import find


@dataclass(frozen=True)
class Prediction:
    """The scores of one video with v clips, for k classes.

    Attributes:
      name: path of the video, or name of the stream.
      classes: class names by label.
      scores: (k,), scores of the video.
      clip_scores: (v,k), scores of each clip over all its crops, in order of time.
      seconds: (v,), time of the middle of each clip.
      crops: number of crops of a clip.
      surest: the middle crop of the clip that has the highest score of all clips and classes. `surest.number` is the
        row of this clip in `clip_scores`.
    """

    name: str
    classes: tuple[str, ...]
    scores: np.ndarray
    clip_scores: np.ndarray
    seconds: np.ndarray
    crops: int
    surest: Clip

    def top(self, count: int = 5, scores: np.ndarray | None = None) -> list[dict[str, str | float | int]]:
        """Returns the class, score and label of the classes with the highest scores.

        Args:
          count: number of classes.
          scores: (k,), scores of the classes. By default they are the scores of the video.
        """
        scores = self.scores if scores is None else scores
        order = np.argsort(-scores, kind="stable")[:count]
        return [{"class": self.classes[i], "score": float(scores[i]), "label": int(i)} for i in order]


class Predictor:
    """A network with its classes and the test settings of its config.

    Args:
      model: the network.
      config: the config with which the network was trained.
      classes: class names by label.
      multi_label: whether a video can have several classes. If it can, scores are sigmoids, and the score of a video is
        the maximum over its clips.

    Raises:
      InputError: the network was not trained on videos.
    """

    def __init__(self, model: VideoResNet, config: ConfigDict, classes: tuple[str, ...], *, multi_label: bool):
        if config.data.name != "video_folder":
            raise InputError(
                f"the network has data.name={config.data.name!r}, and predict needs a network of videos "
                "(data.name='video_folder'); train one with --config=configs/folder.py"
            )
        model.eval()
        self.classes, self._data, self._multi_label = classes, config.data, multi_label
        self._model, self.frames = model, config.data.frames
        self.blocks = {name: block for name, block in model.nonlocal_blocks().items() if block.has_map}
        self._normalize = make_normalize(config.input)
        mesh = sharding.make_mesh(data=-1, fsdp=1)
        graphdef, *arrays = flat.split(model)
        evaluator = Evaluator(graphdef, Classification(config).scores(multi_label=multi_label), mesh)
        self._forward = partial(evaluator.outputs, *jax.device_put(arrays, sharding.replicated(mesh)))

    @classmethod
    def of_workdir(cls, directory: Place | str, *, best: bool = False, multi_label: bool | None = None) -> "Predictor":
        """Returns the predictor of a run.

        Args:
          directory: the workdir of the run.
          best: whether the checkpoint is the best by validation. Otherwise it is the newest.
          multi_label: whether a video can have several classes. By default the results of the run, or its last
            validation, decide this.

        Raises:
          InputError: the workdir has no network of videos.
        """
        directory = place("workdir", directory)
        config, classes = workdir.read_config(directory), workdir.read_classes(directory)
        model = flat.merge(*restore_network(directory, sharding.make_mesh(data=-1, fsdp=1), best=best))
        if multi_label is None:
            results, rows = directory / "results.json", read_metrics(directory / "metrics.csv")
            figures = json.loads(results.read_text()) if results.exists() else {}
            multi_label = "video_map" in figures or any(row.get("validation_video_map") for row in rows)
        return cls(model, config, classes, multi_label=multi_label)

    @classmethod
    def from_pretrained(cls, name: str, path: str | Path | None = None) -> "Predictor":
        """Returns the predictor of a published network, and takes the same arguments as `nl_jax.from_pretrained`.

        Raises:
          InputError: as in `nl_jax.from_pretrained`, or the network is not a classifier of videos.
        """
        entry = find(name)  # a network that this class cannot use is not downloaded
        if entry.is_detector:
            raise InputError(
                f"{name} detects objects in images: load it with nl_jax.runs.detector.Detector.from_pretrained"
            )
        if not entry.classes:
            raise InputError(f"{name} has no classifier: it is only a start for training")
        found = pretrained(name, path)
        return cls(found.model, found.config, found.classes, multi_label=False)

    def __call__(self, path: str | Path) -> Prediction:
        """Returns the scores of a video or an image, with at least one clip for every ten seconds.

        Raises:
          DecodeError: no frame can be decoded, or the scores are not finite.
        """
        return self.file(str(path), every=10.0)

    def check_block(self, block: str | None) -> None:
        """Raises InputError if the network does not have the block, or nothing to draw of it. None: the last block."""
        if block is not None and block not in self.blocks:
            raise InputError(f"block={block}: the network has {', '.join(self.blocks) or 'no non-local block to draw'}")

    def file(self, path: str, *, every: float, on_clip: Callable = lambda seconds, scores: None) -> Prediction:
        """Returns the scores of a video file.

        Args:
          path: path of the video.
          every: seconds of video for each clip, if this gives more clips than a test. 0 gives the clips of a test.
          on_clip: a function that is called with the time in seconds and the scores (k,) of each clip.

        Raises:
          DecodeError: no frame can be decoded, or the scores are not finite.
        """
        return over_clips(path, self._data, every, lambda clips, _: self._predict(path, clips, on_clip))

    def stream(
        self, name: str, *, every: float, seconds: float, on_clip: Callable = lambda seconds, scores: None
    ) -> Prediction:
        """Returns the scores of a camera or of standard input; see `clips_of_stream`. Ctrl-C ends the stream.

        Args:
          name: "-" for standard input, or the name of a camera.
          every: seconds from one clip to the next. With 0 the clips follow one another.
          seconds: seconds of the stream to read. 0 reads it without a limit.
          on_clip: a function that is called with the time in seconds and the scores (k,) of each clip.

        Raises:
          DecodeError: the stream cannot be opened or gives no frame, or the scores are not finite.
        """
        data = self._data
        clips = clips_of_stream(
            name,
            frames=data.frames,
            stride=data.stride,
            every=every,
            short_side=data.test_short_side,
            seconds=seconds,
        )
        return self._predict(name, clips, on_clip, interruptible=True)

    def attend(
        self, video: np.ndarray, block: str | None, position: tuple[int, int, int] | None
    ) -> attention.Attention:
        """Returns the attention of a position of a clip in a non-local block.

        Args:
          video: the clip, uint8 (t,h,w,3).
          block: name of the block. None stands for the last block.
          position: (frame, row, column) in the input of the block. None gives the average over all positions.

        Raises:
          InputError: the block or the position does not exist.
        """
        return attention.attend(
            self._model, self._normalize(jnp.asarray(video)[None]), block or list(self.blocks)[-1], position
        )

    def _predict(self, name: str, clips: Iterable[Clip], on_clip: Callable, interruptible: bool = False) -> Prediction:
        numbers, seconds, view_scores, surest = [], [], [], None
        try:
            for clip in clips:
                views = views_of(clip.video, self._data)
                scores = scores_of_views(self._forward, views, at_once(len(views)))
                if not np.isfinite(scores).all():
                    raise DecodeError(name, "the scores of the network are not finite")
                of_clip = combine(scores, several=self._multi_label)
                if surest is None or of_clip.max() > surest[0]:
                    surest = of_clip.max(), clip.number, clip.seconds, views[len(views) // 2]
                numbers.append(clip.number)
                seconds.append(clip.seconds)
                view_scores.append(scores)
                on_clip(clip.seconds, of_clip)
        except KeyboardInterrupt:
            if not interruptible or not numbers:
                raise
        order = np.argsort(numbers)
        scores = np.stack(view_scores)[order]  # (v, crops, k)
        return Prediction(
            name=name,
            classes=self.classes,
            scores=combine(scores.reshape(-1, scores.shape[-1]), several=self._multi_label),
            clip_scores=np.stack([combine(of_clip, several=self._multi_label) for of_clip in scores]),
            seconds=np.array(seconds)[order],
            crops=scores.shape[1],
            surest=Clip(*surest[1:]),
        )


def over_clips(path: str, data: ConfigDict, every: float, use: Callable[[Iterator[Clip], Callable], Any]) -> Any:
    """Calls `use` with the clips of a file, and with a function that returns the frame numbers (v,t) of the clips.

    If the file has fewer frames than it states, the function calls `use` again with clips of the real number of frames.

    Args:
      path: path of the video.
      data: `config.data` of videos.
      every: seconds of video for each clip, if this gives more than `data.num_clips` clips. 0 gives `data.num_clips`.
      use: the function to call.

    Returns:
      The result of `use`.

    Raises:
      DecodeError: no frame can be decoded.
      InputError: a field of `data` is out of range.
    """
    asked = []

    def sample(frames: int, rate: float) -> np.ndarray:
        seconds = frames / rate if rate else 0.0
        count = max(data.num_clips, math.ceil(seconds / every) if every else 0)
        asked.append(test_indices(frames, data.frames, data.stride, count, data.starts, rate))
        return asked[-1]

    promised = None
    while True:
        try:
            return use(clips_of_file(path, sample, data.test_short_side, promised), lambda: asked[-1])
        except ShortVideoError as error:
            if promised is not None and error.frames >= promised:
                raise
            promised = error.frames


def views_of(video: np.ndarray, data: ConfigDict) -> np.ndarray:
    """Returns the crops (v,t,h,w,3) of a clip for a test. `data` is `config.data` of videos.

    Raises:
      InputError: `data.num_crops` is neither 1 nor 3, or the clip is smaller than the crop.
    """
    return test_crops(video, data.test_crop, data.num_crops) if data.test_crop else video[None]


def at_once(views: int) -> int:
    """Returns the number of views, rounded up to a multiple of the number of devices.

    The network then takes all views of a clip at the same time.
    """
    return -(-views // jax.device_count()) * jax.device_count()
