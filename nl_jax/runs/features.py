"""What a layer of a network makes of a video, clip by clip: for retrieval and for localisation in time."""

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
from nl_jax.training.normalize import make_normalize
from nl_jax.zoo.pretrained import pretrained


@dataclass(frozen=True)
class Features:
    """Of one video, with v clips of t frames in the order of time, each in several crops.

    Attributes:
      clips: the numbers of their frames.
      seconds: the middle of each.
      features: of each crop, c channels; (v, crops, t2, h, w, c) where they are not pooled.
    """

    clips: Int[np.ndarray, "v t"]
    seconds: Float[np.ndarray, "v"]
    features: Float[np.ndarray, "v crops *place c"]


class Extractor:
    """A layer of a network as a function of a video. Clips and crops are those of testing.

    Args:
      model: the network.
      config: by which it was trained and is tested.
      layer: a name of `layers_of`, or a stage, such as res5, for the last layer of that stage.
      pooled: whether features are averaged over the frames and places of a clip.

    Raises:
      InputError: for a layer that the network does not have, and a network that is not one of videos.
    """

    def __init__(self, model: VideoResNet, config: ConfigDict, layer: str = "res5", *, pooled: bool = True):
        if config.get("task", "classification") != "classification" or config.data.name != "video_folder":
            raise InputError(f"features are those of networks of videos, and this one is of {config.data.name!r}")
        model.eval()
        names = layers_of(model)
        found = [name for name in names if name == layer or name.startswith(f"{layer}_")]
        if not found:
            raise InputError(f"layer={layer}: the network has {', '.join(names)}")
        self.layer = found[0] if found[0] == layer else found[-1]
        self._data, self.pooled = config.data, pooled
        normalize = make_normalize(config.input)

        def forward(model, inputs):
            out = model.features(normalize(inputs["video"]))[self.layer]
            return widen(out).mean(axis=(1, 2, 3)) if pooled else out

        mesh = sharding.make_mesh(data=-1, fsdp=1)
        graphdef, *arrays = flat.split(model)
        self.digest = _digest(arrays)
        arrays = jax.device_put(arrays, sharding.replicated(mesh))
        self._forward = partial(Evaluator(graphdef, forward, mesh).outputs, *arrays)

    @classmethod
    def of_workdir(cls, directory: Place, layer: str = "res5", *, best: bool = False, **options) -> "Extractor":
        """That of a run; `options` are those of `Extractor`, and fields of its data, such as num_clips."""
        config = workdir.read_config(directory)
        if config.get("task", "classification") != "classification":
            raise InputError(f"{directory}: the run is one of {config.task}, and features are those of videos")
        model = flat.merge(*restore_network(directory, sharding.make_mesh(data=-1, fsdp=1), best=best))
        return cls._with(model, config, layer, **options)

    @classmethod
    def from_pretrained(cls, name: str, layer: str = "res5", path: str | Path | None = None, **options) -> "Extractor":
        """That of a published network; see `nl_jax.from_pretrained`, and `of_workdir` for the options."""
        found = pretrained(name, path)
        return cls._with(found.model, found.config, layer, **options)

    @classmethod
    def _with(cls, model, config: ConfigDict, layer: str, *, pooled: bool = True, **fields: int) -> "Extractor":
        config = config.copy_and_resolve_references().unlock()
        config.data.update({name: value for name, value in fields.items() if value is not None})
        return cls(model, config, layer, pooled=pooled)

    def settings(self) -> dict[str, object]:
        """What the features of a video depend on, beside the layer: the network and the clips of a video."""
        names = ("frames", "stride", "num_clips", "num_crops", "starts", "test_short_side", "test_crop")
        return {"network": self.digest, "layer": self.layer, "pooled": self.pooled} | {
            name: self._data[name] for name in names
        }

    def __call__(self, path: str | Path, every: float = 0.0) -> Features:
        """The features of a video, with a clip for every so many seconds where that is more than in testing.

        Raises DecodeError for a file that gives no frame.
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
    """The names of what `VideoResNet.features` returns, in the order of computation."""
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
    """A short hash of all parameters and statistics."""
    found = hashlib.sha256()
    for part in arrays:
        for name in sorted(part):
            found.update(np.ascontiguousarray(part[name]).tobytes())
    return found.hexdigest()[:16]
