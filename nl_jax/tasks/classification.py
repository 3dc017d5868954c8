"""The task of classification: softmax over classes, or sigmoids if a clip shows several (sections 4 and 5)."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from nl_jax.data.dataset import Batch, ClipDataset
from nl_jax.data.loader import TrainBatches, check_clips_per_decode, test_batches
from nl_jax.data.video.clips import STARTS
from nl_jax.data.video.videos import Videos
from nl_jax.errors import InputError
from nl_jax.evaluation.views import Predictions, check_views, predict
from nl_jax.models import ResNetConfig, VideoResNet
from nl_jax.models.flat import FlatParams
from nl_jax.models.summary import Summary, summarize
from nl_jax.tasks.classification_figures import (
    CURVES,
    RESULT_FIGURES,
    TRAIN_FIGURES,
    VALIDATION_FIGURES,
    named_curve,
    sentences,
)
from nl_jax.tasks.clip_splits import check_test_size, measured_on, open_clips, validated_on
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training import sharding
from nl_jax.training.optimizer import make_optimizer
from nl_jax.training.preprocessing import make_normalize, mixed, smooth
from nl_jax.training.setup import check_parts, check_ranges
from nl_jax.training.task import Example, Forward, Gather, Metrics, Results, Task

NUMBERS = {
    "model.head_window": "0 or more",
    "optimizer.classifier_rate": "0 or more",
    "loss.label_smoothing": "0 up to, not including, 1",
    "loss.mixup": "0 or more",
}
SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)  # class names that are wrong for a mirrored clip


class Classification(Task):
    """The task of classification; see `nl_jax.training.task.Task`.

    A batch has `video` uint8 (b,t,h,w,3) and `label`, int32 (b,), or (b,k) of 0 and 1 if a clip has several labels.
    """

    unit = "clip"
    example = "video"
    inputs = ("video",)
    train_figures = TRAIN_FIGURES
    validation_figures = VALIDATION_FIGURES
    result_figures = RESULT_FIGURES
    best = ("video_map", "video_top1")
    curves = CURVES
    paper = "top-1 {}%, top-5 {}%"
    by_class = ("classifier/",)
    test_options = {  # noqa: RUF012
        "num_clips": (int, "number of test clips of a video, evenly spaced in time"),
        "num_crops": (int, "number of crops of a clip, 1 or 3"),
        "starts": (STARTS, "rule for the first frames of the test clips: the rule of the paper or of another program"),
        "test_short_side": (int, "short side in pixels to which frames or images are resized"),
        "test_crop": (int, "side of a crop in pixels; 0 tests on whole frames and needs --num_crops=1"),
    }

    def __init__(self, config: ConfigDict):
        self.config = config
        self._normalize = make_normalize(config.input)
        fields = config.get("loss", {})  # an older workdir has none
        self._smoothing, self._alpha = fields.get("label_smoothing", 0.0), fields.get("mixup", 0.0)
        self._clips_per_decode = config.get("data", {}).get("clips_per_decode", 1)
        if "data" in config:  # a step alone needs no data
            self.validated_on = validated_on(config.data)
            self.curves = [named_curve(drawing, config, self.validated_on) for drawing in self.curves]

    def check(self) -> None:
        """Raises InputError if a number that only a classifier has is out of range, or if mixup has nothing to mix."""
        check_ranges(self.config, NUMBERS)
        check_test_size(self.config.data, lambda clip: self.summary(1, {"video": clip}))
        clips = self.config.batch_size // self.config.accumulate_steps
        check_clips_per_decode(clips, self._clips_per_decode)
        if self._alpha and clips == self._clips_per_decode:
            raise InputError(
                f"loss.mixup={self._alpha} mixes clips of different videos, and a step, or each part of one "
                f"(accumulate_steps), has {clips} clips of one video; give a larger batch_size, or loss.mixup=0"
            )

    def check_mesh(self, mesh: Mesh, num_classes: int, example: Example) -> None:
        """Raises InputError unless each part of a step has whole groups of batch norm and `time` divides the frames."""
        batch_size, model = self.config.batch_size, self.config.model
        if model.norm == "batch" and batch_size > model.group_size and batch_size % model.group_size:
            raise InputError(f"batch_size={batch_size} is not a multiple of model.group_size={model.group_size}")
        resnet = self.resnet(num_classes)
        check_parts(batch_size, self.config.accumulate_steps, resnet)
        if mesh.shape["time"] > 1:
            sharding.check_frames(resnet.frames(example["video"].shape[0]), mesh)

    def check_test(self, mesh: Mesh, dataset: ClipDataset) -> None:
        """Raises InputError unless `time` divides the frames of a view."""
        if mesh.shape["time"] > 1:
            frames = dataset.test_example(0)["video"].shape[1]
            sharding.check_frames(self.resnet(len(dataset.classes)).frames(frames), mesh)

    def open_split(self, split: str, classes: tuple[str, ...] | None = None) -> ClipDataset:
        """Returns a split of `config.data`: see `open_clips`. `classes` are class names by label.

        Raises InputError if the split cannot be opened or has only one class, or if several processes cannot test it.
        """
        dataset = open_clips(self.config.data, split, classes)
        if split != "train":
            check_views(dataset)
        if len(dataset.classes) == 1 and not dataset.multi_label:
            name = self.config.data.get(split, "") or self.config.data.get("train", "")
            raise InputError(f"{name}: found one class, {dataset.classes[0]}: valid are two or more classes")
        return dataset

    def measured_on(self, split: str) -> str:
        """Returns the name of the examples on which a figure of this split is measured: see `clip_splits`."""
        return measured_on(self.config.data, split)

    def notes(self, dataset: ClipDataset) -> Sequence[str]:
        """Returns warnings: classes without a training video, and classes that are wrong for a mirrored clip."""
        found = []
        if empty := dataset.empty_classes() if isinstance(dataset, Videos) else ():
            names = ", ".join(empty[:10]) + (", .." if len(empty) > 10 else "")
            found.append(f"{len(empty)} of the {len(dataset.classes)} classes have no training video: {names}")
        if self.config.data.get("flip") and (sided := [name for name in dataset.classes if SIDED.search(name)]):
            found.append(
                f"data.flip=True mirrors half of the training clips, and {len(sided)} classes tell left from right "
                f"(such as {sided[0]}): set data.flip=False"
            )
        return found

    def train_batches(self, dataset: ClipDataset, *, batch_size: int, seed: int, rows: Sequence[int]) -> TrainBatches:
        """Returns shuffled batches of random clips. `rows` are the rows of a batch that this process reads."""
        options = {"num_workers": self.config.num_workers, "clips_per_decode": self._clips_per_decode}
        return TrainBatches(dataset, batch_size=batch_size, seed=seed, rows=rows, **options)

    def test_batches(self, dataset: ClipDataset, rows: Sequence[int]) -> Iterator[Batch]:
        """Returns batches of all test views. If sizes differ, a batch has one video, and one process tests it."""
        size, rows = (1, None) if dataset.variable_size else (self.config.eval_batch_size, rows)
        return test_batches(dataset, batch_size=size, num_workers=self.config.num_workers, rows=rows)

    def example_shapes(self, dataset: ClipDataset | None = None) -> Example:
        """Returns the shapes of a clip (t,h,w,3) and of one label."""
        data = self.config.data
        if dataset is None and data.name == "video_folder":
            shape = (data.frames, data.crop, data.crop, 3)
        else:
            dataset = self.open_split("train") if dataset is None else dataset
            shape = dataset.train_example(0, np.random.default_rng(0))["video"].shape
        return {"video": jax.ShapeDtypeStruct(shape, jnp.uint8), "label": jax.ShapeDtypeStruct((), jnp.int32)}

    def resnet(self, num_classes: int) -> ResNetConfig:
        """Returns the configuration of the network from `config.model`. With 0 classes it has no classifier."""
        return make_resnet_config(self.config.model, num_classes or None)

    def build(self, num_classes: int, rngs: nnx.Rngs) -> VideoResNet:
        """Returns a C2D or I3D ResNet with non-local blocks."""
        return VideoResNet(self.resnet(num_classes), rngs=rngs)

    def summary(self, num_classes: int, example: Example) -> Summary:
        """Returns the summary of the network for a training clip. Raises InputError if the clip does not fit it."""
        resnet, clip = self.resnet(num_classes), example["video"].shape[:3]
        try:
            return summarize(resnet, clip)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"the network does not fit clips of shape {clip}: {error}") from error

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the optimizer of `config.optimizer`. `classifier_rate` multiplies the rate of the classifier."""
        return make_optimizer(self.config.optimizer, schedule, scaled=((self.config.optimizer.classifier_rate, head),))

    def loss(self, model: nnx.Module, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        """Returns the mean softmax cross-entropy, or the mean sigmoid cross-entropy over classes for labels (b,k).

        `config.loss` says whether clips are mixed and labels smoothed, see `nl_jax.training.preprocessing`. top1 is the
        share of clips whose highest logit is a class of the clip. A mixed clip counts with the share of this class.
        """
        video, label = self._normalize(batch["video"]), batch["label"]
        multi_label, soft = label.ndim == 2, self._smoothing or self._alpha
        if self._alpha:
            key, drawing = jax.random.split(key)
            shares = jax.random.beta(drawing, self._alpha, self._alpha, (len(label),))
            # Neighbouring clips may show the same video. So each clip is mixed with a clip of the video before.
            video = mixed(video, shares, apart=self._clips_per_decode)
        logits, _ = model(video, key)
        first = logits.argmax(-1)
        if soft and not multi_label:
            label = jax.nn.one_hot(label, logits.shape[-1])
        if self._alpha:
            label = mixed(label, shares, apart=self._clips_per_decode)
        if multi_label or soft:
            top1 = jnp.take_along_axis(label, first[:, None], axis=1).mean()
            label = smooth(label, self._smoothing, multi_label=multi_label) if self._smoothing else label
            losses = (optax.sigmoid_binary_cross_entropy if multi_label else optax.softmax_cross_entropy)(logits, label)
            return losses.mean(), {"top1": top1}
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
        return loss, {"top1": (first == label).mean()}

    def forward(self, dataset: ClipDataset) -> Callable[[nnx.Module, dict[str, Array]], Float[Array, "b k"]]:
        """Returns the function of `scores` for the labels of a dataset."""
        return self.scores(multi_label=dataset.multi_label)

    def scores(self, *, multi_label: bool) -> Callable[[nnx.Module, dict[str, Array]], Float[Array, "b k"]]:
        """Returns the function (model, {"video": (b,t,h,w,3)}) -> softmax (b,k), or sigmoid if `multi_label`."""

        def of_model(model, inputs):
            logits, _ = model(self._normalize(inputs["video"]))
            return jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits)

        return of_model

    def start_arrays(self, source: Task, arrays: FlatParams) -> FlatParams:
        """Returns `arrays`. Raises InputError unless they are from a classifier: other tasks have other names."""
        if not isinstance(source, Classification):
            raise InputError("a classifier starts from a classifier; choose another start.workdir")
        return arrays

    def evaluate(self, dataset: ClipDataset, batches: Iterable[Batch], forward: Forward, gather: Gather) -> Predictions:
        """Returns the scores of every video: see `nl_jax.evaluation.views.predict`."""
        return predict(dataset, batches, forward, gather, at_once=self.config.eval_batch_size)

    def results(self, evaluation: Predictions, dataset: ClipDataset, measured_on: str) -> Results:
        """Returns the figures, the name of the examples on which they were measured, and the accuracy of chance."""
        return evaluation.metrics() | {"measured_on": measured_on, "chance": 1 / len(dataset.classes)}

    def describe(self, results: Results) -> str:
        """Returns the figures as sentences that name the examples on which they were measured."""
        return sentences(results)


def head(params: FlatParams) -> dict[str, bool]:
    """Returns whether each parameter belongs to the classifier, by name, for `config.optimizer.classifier_rate`."""
    return {name: name.startswith("classifier/") for name in params}
