"""Features of a video from a layer of a network, clip by clip, for retrieval and for temporal localisation."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from nl_jax.errors import InputError
from nl_jax.evaluation.views import scores_of_views
from nl_jax.models import VideoResNet, flat
from nl_jax.ops.precision import widen
from nl_jax.places import Place
from nl_jax.runs.predictor import at_once, over_clips, views_of
from nl_jax.tasks import restore_network
from nl_jax.training import sharding, workdir
from nl_jax.training.evaluator import Evaluator
from nl_jax.training.preprocessing import make_normalize
from nl_jax.zoo.pretrained import pretrained
from nl_jax.zoo.table import find


@dataclass(frozen=True)
class Features:
    """The features of one video, with v clips of t frames in order of time, and several crops of each clip.

    Attributes:
      clips: (v,t), frame numbers of the clips.
      seconds: (v,), time of the middle of each clip.
      features: (v,crops,c) with c channels, or (v,crops,t2,h,w,c) if they are not pooled.
    """

    clips: Int[np.ndarray, "v t"]
    seconds: Float[np.ndarray, "v"]
    features: Float[np.ndarray, "v crops *place c"]


class Extractor:
    """A function that returns the features of a video from one layer. It uses the clips and crops of a test.

    Args:
      model: the network.
      config: the config with which the network was trained and is tested.
      layer: a name of `layers_of`, or a stage such as res5. A stage stands for its last layer.
      pooled: whether the features of a clip are the mean over its frames and positions.

    Raises:
      InputError: the network does not have the layer, or it is not a network of videos.
    """

    def __init__(self, model: VideoResNet, config: ConfigDict, layer: str = "res5", *, pooled: bool = True):
        if config.get("task", "classification") != "classification" or config.data.name != "video_folder":
            raise InputError(
                f"features need a network of videos (data.name='video_folder'), and this network has "
                f"data.name={config.data.name!r}"
            )
        model.eval()
        names = layers_of(model)
        found = [name for name in names if name == layer or name.startswith(f"{layer}_")]
        if not found:
            raise InputError(f"layer={layer}: the network has {', '.join(names)}")
        self.layer = found[0] if found[0] == layer else found[-1]
        self._data, self.frames, self.pooled = config.data, config.data.frames, pooled
        normalize = make_normalize(config.input)

        def forward(model, inputs):
            out = widen(model.features(normalize(inputs["video"]))[self.layer])  # a file of NumPy has no bfloat16
            return out.mean(axis=(1, 2, 3)) if pooled else out

        mesh = sharding.make_mesh(data=-1, fsdp=1)
        graphdef, *arrays = flat.split(model)
        self.digest = _digest(arrays)
        arrays = jax.device_put(arrays, sharding.replicated(mesh))
        self._forward = partial(Evaluator(graphdef, forward, mesh).outputs, *arrays)

    @classmethod
    def of_workdir(cls, directory: Place, layer: str = "res5", *, best: bool = False, **options) -> "Extractor":
        """Returns the extractor of a run.

        Args:
          directory: the workdir of the run.
          layer: as in `Extractor`.
          best: whether the checkpoint is the best by validation. Otherwise it is the newest.
          options: `pooled` as in `Extractor`, and fields of `config.data`, such as num_clips. None keeps the value of
            the config.

        Raises:
          InputError: as in `Extractor`.
        """
        config = workdir.read_config(directory)
        if config.get("task", "classification") != "classification":
            raise InputError(f"{directory}: the task of the run is {config.task}; features need a network of videos")
        model = flat.merge(*restore_network(directory, sharding.make_mesh(data=-1, fsdp=1), best=best))
        return cls._with(model, config, layer, **options)

    @classmethod
    def from_pretrained(cls, name: str, layer: str = "res5", path: str | Path | None = None, **options) -> "Extractor":
        """Returns the extractor of a published network.

        Args:
          name: as in `nl_jax.from_pretrained`.
          layer: as in `Extractor`.
          path: as in `nl_jax.from_pretrained`.
          options: as in `of_workdir`.

        Raises:
          InputError: as in `nl_jax.from_pretrained` and `Extractor`.
        """
        if find(name).is_detector:  # before a download
            raise InputError(f"{name} detects objects in images; features need a network of videos")
        found = pretrained(name, path)
        return cls._with(found.model, found.config, layer, **options)

    @classmethod
    def _with(cls, model, config: ConfigDict, layer: str, *, pooled: bool = True, **fields: int) -> "Extractor":
        config = config.copy_and_resolve_references().unlock()
        config.data.update({name: value for name, value in fields.items() if value is not None})
        return cls(model, config, layer, pooled=pooled)

    def settings(self) -> dict[str, object]:
        """Returns the settings that determine the features of a video: the network, the layer and the clips."""
        names = ("frames", "stride", "num_clips", "num_crops", "starts", "test_short_side", "test_crop")
        return {"network": self.digest, "layer": self.layer, "pooled": self.pooled} | {
            name: self._data[name] for name in names
        }

    def __call__(self, path: str | Path, every: float = 0.0) -> Features:
        """Returns the features of a video.

        Args:
          path: path of the video.
          every: seconds of video for each clip, if this gives more clips than a test. 0 gives the clips of a test.

        Raises:
          DecodeError: no frame can be decoded.
        """

        def of_clips(clips, indices):
            found = {}
            for clip in clips:
                views = views_of(clip.video, self._data)
                found[clip.number] = clip.seconds, scores_of_views(self._forward, views, at_once(len(views)))
            numbers = sorted(found)
            return Features(
                clips=indices()[numbers],
                seconds=np.array([found[number][0] for number in numbers], np.float64),
                features=np.stack([found[number][1] for number in numbers]),
            )

        return over_clips(str(path), self._data, every, of_clips)


def layers_of(model: VideoResNet) -> list[str]:
    """Returns the names of the layers in `VideoResNet.features`, in order of computation."""
    pool1, pool2 = model.pools
    names = ["conv1"] + (["pool1"] if pool1 else [])
    blocks = model.nonlocal_blocks()
    for stage, count in model.config.stages().items():
        for position in range(count):
            name = f"{stage}_{position}"
            names += [name] + ([f"{name}_nonlocal"] if f"{name}_nonlocal" in blocks else [])
        names += ["pool2"] if stage == "res2" and pool2 else []
    return names


def _digest(arrays: list[flat.FlatParams]) -> str:
    """Returns a hash (16 hex digits) of all parameters and batch norm statistics."""
    found = hashlib.sha256()
    for part in arrays:
        for name in sorted(part):
            found.update(np.ascontiguousarray(part[name]).tobytes())
    return found.hexdigest()[:16]
