"""Detection of objects with their masks or keypoints: Mask R-CNN on images in COCO's format (section 6)."""

from __future__ import annotations  # pycocotools is an extra, so functions import the modules that need it

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key
from ml_collections import ConfigDict

from nl_jax.data.dataset import Batch
from nl_jax.data.loader import TrainBatches, test_batches
from nl_jax.errors import InputError
from nl_jax.models import DetectorConfig, MaskRCNN, flat
from nl_jax.models.detection import losses
from nl_jax.models.flat import FlatParams
from nl_jax.models.summary import Summary, detector_summary
from nl_jax.ops import devices
from nl_jax.tasks import splits
from nl_jax.tasks.classification import Classification
from nl_jax.tasks.detection_figures import CURVES, RESULT_FIGURES, TRAIN_FIGURES, VALIDATION_FIGURES, sentences
from nl_jax.tasks.resnet_fields import make_resnet_config, nonlocal_options
from nl_jax.training.optimizer import make_optimizer
from nl_jax.training.preprocessing import make_normalize
from nl_jax.training.processes import hosts
from nl_jax.training.setup import check_parts, check_ranges
from nl_jax.training.task import Example, Forward, Gather, Metrics, Results, Task

if TYPE_CHECKING:
    from nl_jax.data.coco.detection import DetectionImages
    from nl_jax.data.coco.example import Shape
    from nl_jax.evaluation.detections import Found

LARGE = 512 * 512  # pixels of an image
# Prefixes of the names of parameters that depend on the classes.
BY_CLASS = ("box_head/classes/", "box_head/deltas/", "mask_head/logits/", "keypoint_head/deconv/")


class Detection(Task):
    """The task of detection; see `nl_jax.training.task.Task`.

    A batch has the arrays of `nl_jax.models.detection.losses`, with uint8 images.
    """

    unit = example = "image"
    inputs = ("images", "sizes")
    result_figures = RESULT_FIGURES
    best = ("keypoint_ap", "box_ap")
    curves = CURVES
    paper = "box AP {}, AP50 {}, AP75 {}; mask AP {}, AP50 {}, AP75 {}"
    by_class = BY_CLASS
    test_options = {  # noqa: RUF012
        "test_short_side": (int, "short side in pixels to which frames or images are resized")
    }

    def __init__(self, config: ConfigDict):
        self.config = config
        self._normalize = make_normalize(config.input)
        self._keypoints = config.detector.get("keypoints", 0)
        self._masks = config.detector.masks and not self._keypoints
        if self._keypoints:
            self.paper = "keypoint AP {}, AP50 {}, AP75 {}"
        if config.data.name == "coco":
            self.validated_on = splits.validated_on(config.data, "image")
        if self.validated_on != "validation":
            training, precision = self.curves
            self.curves = (training, dataclasses.replace(precision, title=f"{precision.title}, {self.validated_on}"))
        self.train_figures, self.validation_figures = map(self._of_heads, (TRAIN_FIGURES, VALIDATION_FIGURES))

    def check(self) -> None:
        """Raises InputError if a field that only a detector has is out of range, or the network cannot be built."""
        check_ranges(self.config, {"optimizer.bias_rate": "0 or more", "model.freeze_at": "0 or more"})
        self.detector(1).check()

    def check_mesh(self, mesh: Mesh, num_classes: int, example: Example) -> None:
        """Raises InputError unless each part of a step has whole groups of batch norm and an image is on one device."""
        batch_size, resnet = self.config.batch_size, self.detector(num_classes).resolved_backbone()
        if "batch" in resnet.norms() and batch_size > resnet.group_size and batch_size % resnet.group_size:
            raise InputError(f"batch_size={batch_size} is not a multiple of model.group_size={resnet.group_size}")
        check_parts(batch_size, self.config.accumulate_steps, resnet)
        _check_time(mesh)

    def check_test(self, mesh: Mesh, dataset: DetectionImages) -> None:
        """Raises InputError unless an image is on one device."""
        _check_time(mesh)

    def open_split(self, split: str, classes: tuple[str, ...] | None = None) -> DetectionImages:
        """Returns a split of `config.data`: see `nl_jax.tasks.image_splits.open_images`.

        Raises InputError if the split cannot be opened, or if it has another number of keypoints than the network.
        """
        from nl_jax.tasks.image_splits import open_images

        dataset = open_images(self.config.data, split, classes, masks=self._masks, keypoints=bool(self._keypoints))
        if self._keypoints and len(dataset.keypoints) != self._keypoints:
            raise InputError(
                f"detector.keypoints={self._keypoints}: the data have the {len(dataset.keypoints)} keypoints "
                f"{', '.join(dataset.keypoints.names)}; set detector.keypoints={len(dataset.keypoints)}"
            )
        return dataset

    def measured_on(self, split: str) -> str:
        """Returns the name of the examples on which figures of this split are measured: see `splits.measured_on`."""
        data = self.config.data
        return splits.measured_on(data, split, "image") if data.name == "coco" else f"the {split} split"

    def notes(self, dataset: DetectionImages) -> Sequence[str]:
        """Returns a line on each kind of fault in the annotation file, and on images that training leaves out."""
        found = []
        if dataset.problems:
            from nl_jax.data.coco.annotations import told

            found.append(f"faults of the annotation file: {told(dataset.problems)}")
        if dataset.unused:
            found.append(f"{dataset.unused} images without an object to learn from are left out")
        if self._keypoints and (unknown := dataset.keypoints.without_sigma()):
            from nl_jax.data.coco.keypoints import DEFAULT_SIGMA

            found.append(
                f"the data give no sigmas for {', '.join(unknown)}; the sigma {DEFAULT_SIGMA} is used for them"
            )
        if dataset.crowded:
            count, most = len(dataset.crowded), dataset.shape.max_boxes
            found.append(f"{count} images have more than {most} objects: {most} of them are drawn at random each time")
        return found

    def train_batches(self, dataset: DetectionImages, *, batch_size: int, seed: int, rows: Sequence[int]):
        """Returns shuffled batches. The images of a batch are all wide or all tall.

        `rows` are the rows of a batch that this process reads.
        """
        workers = self.config.num_workers
        options = {"batch_size": batch_size, "seed": seed, "num_workers": workers, "rows": rows}
        return TrainBatches(dataset, groups=dataset.groups, **options)

    def test_batches(self, dataset: DetectionImages, rows: Sequence[int]) -> Iterator[Batch]:
        """Returns the batches of wide images, and then the batches of tall images."""
        size, workers = self.config.eval_batch_size, self.config.num_workers
        return test_batches(dataset, batch_size=size, num_workers=workers, rows=rows, groups=dataset.groups)

    def example_shapes(self, dataset: DetectionImages | None = None) -> Example:
        """Returns the shapes of a wide padded image (h,w,3), of its size (2,) and of g true boxes."""
        shape = self.shape() if dataset is None else dataset.shape
        height, width = shape.bucket(tall=False)
        g = shape.max_boxes
        shapes = {
            "images": ((height, width, 3), jnp.uint8),
            "sizes": ((2,), jnp.int32),
            "boxes": ((g, 4), jnp.float32),
            "classes": ((g,), jnp.int32),
            "crowd": ((g,), jnp.bool_),
            "valid": ((g,), jnp.bool_),
        }
        if self._masks:
            from nl_jax.data.coco.masks import SIDE

            shapes["masks"] = (g, SIDE, SIDE), jnp.uint8
        if self._keypoints:
            shapes["keypoints"] = (g, self._keypoints, 3), jnp.float32
        return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}

    def shape(self) -> Shape:
        """Returns the sizes to which images are scaled and padded."""
        from nl_jax.data.coco.example import Shape

        data = self.config.data
        if data.name != "coco":
            return self.open_split("test").shape
        return Shape(data.short_sides, data.long_side, data.test_short_side, data.max_boxes)

    def detector(self, num_classes: int) -> DetectorConfig:
        """Returns the configuration of the network from `config.model` and `config.detector`."""
        backbone = make_resnet_config(self.config.model, None)
        return DetectorConfig(backbone, num_classes, **detector_fields(self.config.detector))

    def build(self, num_classes: int, rngs: nnx.Rngs) -> MaskRCNN:
        """Returns Mask R-CNN, or Keypoint R-CNN with keypoints, or Faster R-CNN without masks and keypoints."""
        return MaskRCNN(self.detector(num_classes), rngs=rngs)

    def summary(self, num_classes: int, example: Example) -> Summary:
        """Returns the summary of the network for a padded image."""
        detector = self.detector(num_classes)
        detector.check()
        return detector_summary(detector, example["images"].shape[:2])

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Returns the optimizer of `config.optimizer`.

        Weight decay applies to kernels and not to biases. The learning rate of biases is `bias_rate` times the
        learning rate of kernels. The parameters of frozen stages and norms do not change.
        """
        frozen = self._frozen()

        def decays(params):
            return {name: name.endswith("/kernel") and not name.startswith(frozen) for name in params}

        def is_bias(params):
            return {name: name.endswith("/bias") for name in params}

        def is_frozen(params):
            return {name: name.startswith(frozen) for name in params}

        scaled = ((self.config.optimizer.bias_rate, is_bias), (0.0, is_frozen))
        return make_optimizer(self.config.optimizer, schedule, decay=decays, scaled=scaled)

    def loss(self, model: nnx.Module, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Float[Array, ""], Metrics]:
        """Returns the sum of the losses of Mask R-CNN, and each loss; see `nl_jax.models.detection.losses.loss`.

        Each loss is a mean over the samples of the batch. With `accumulate_steps` each loss is a mean over the samples
        of one part of the batch, as on each of the paper's eight devices.
        """
        total, found = losses.loss(model, batch | {"images": self.normalized(batch)}, key)
        return total, {name: found[name].astype(jnp.float32) for name in self.train_figures}

    def compiler_options(self, example: Example) -> dict[str, object]:
        """Returns the options that save memory if images are large. Small images train faster without these options."""
        height, width, _ = example["images"].shape
        return devices.options_for_memory() if height * width >= LARGE else {}

    def forward(self, dataset: DetectionImages | None = None) -> Callable[[nnx.Module, dict[str, Array]], dict]:
        """Returns a function (model, {"images", "sizes"}) -> the fields of `Detections` by name, without `out`."""

        def of_model(model, inputs):
            found = model(self.normalized(inputs), inputs["sizes"])._asdict()
            return {name: array for name, array in found.items() if name != "out" and array is not None}

        return of_model

    def start_arrays(self, source: Task, arrays: FlatParams) -> FlatParams:
        """Returns the arrays of another detector or of an image classifier, with the names of this detector.

        The stages of a classifier become the backbone. Raises InputError for any other network.
        """
        if isinstance(source, Detection):
            heads = {"mask_head/": self._masks, "keypoint_head/": self._keypoints}
            absent = tuple(name for name, wanted in heads.items() if not wanted)
            return {name: array for name, array in arrays.items() if not name.startswith(absent)}
        if isinstance(source, Classification):
            return {f"backbone/{name}": a for name, a in arrays.items() if not name.startswith(source.by_class)}
        raise InputError("a detector starts from a detector or from an image classifier; choose another start.workdir")

    def evaluate(self, dataset: DetectionImages, batches: Iterable[Batch], forward: Forward, gather: Gather) -> Found:
        """Returns the detections in every image: see `nl_jax.evaluation.detections.detect`."""
        from nl_jax.evaluation.detections import detect

        heads = {"masks": self._masks, "keypoints": bool(self._keypoints)}
        return detect(dataset, batches, forward, gather, hosts.gather_json, **heads)

    def results(self, evaluation: Found, dataset: DetectionImages, measured_on: str) -> Results:
        """Returns the figures, the name of the examples on which they were measured, and their faults by kind."""
        faults = {}
        if dataset.problems:
            from nl_jax.data.coco.problems import counted

            faults["annotation_faults"] = counted(dataset.problems)
        return evaluation.metrics() | {"measured_on": measured_on} | faults

    def describe(self, results: Results) -> str:
        """Returns the figures as sentences that name the examples on which they were measured."""
        return sentences(results)

    def normalized(self, batch: dict[str, Array]) -> Float[Array, "b h w 3"]:
        """Returns the normalized images of a batch. The padding is 0."""
        images, sizes = self._normalize(batch["images"]), batch["sizes"]
        rows, columns = (jnp.arange(images.shape[axis])[None] < sizes[:, axis - 1, None] for axis in (1, 2))
        return jnp.where((rows[:, :, None] & columns[:, None])[..., None], images, 0)

    def describes(self, dataset: DetectionImages) -> dict[str, object]:
        """Returns the names and skeletons of the keypoints as a file for the workdir, which predictions need."""
        return {"keypoints.json": [one.entry() for one in dataset.keypoints.categories]} if self._keypoints else {}

    def _of_heads(self, figures: dict[str, str]) -> dict[str, str]:
        """Returns the figures without the figures of heads that the network does not have."""
        absent = [kind for kind, there in (("mask", self._masks), ("keypoint", self._keypoints)) if not there]
        return {name: text for name, text in figures.items() if not name.startswith(tuple(absent))}

    def _frozen(self) -> tuple[str, ...]:
        """Returns the prefixes of the names of all frozen parameters."""
        graphdef, *arrays = flat.abstract(lambda: self.build(1, nnx.Rngs(0)))
        return flat.merge(graphdef, *arrays).frozen_parameters()


def detector_fields(config: ConfigDict) -> dict[str, object]:
    """Returns the fields of DetectorConfig from `config.detector`. Options with the value "default" are left out."""
    fields = config.to_dict()
    options = nonlocal_options(fields.pop("keypoint_options", {}))
    return fields | ({"keypoint_options": options} if options else {})


def _check_time(mesh: Mesh) -> None:
    if mesh.shape["time"] > 1:
        raise InputError(f"mesh.time={mesh.shape['time']} splits frames, and an image has one; set mesh.time=1")
