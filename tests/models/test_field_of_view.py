import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet
from nl_jax.models.detection.config import DetectorConfig
from nl_jax.models.detection.mask_rcnn import MaskRCNN
from nl_jax.models.field_of_view import reach, region_view, stage_views


def seen(gradient):
    """Returns the first and last column whose pixels have a gradient."""
    columns = np.flatnonzero(np.abs(np.asarray(gradient)).sum((0, 1, 2, 4)))
    return int(columns[0]), int(columns[-1])


@pytest.mark.parametrize("geometry", ["small", "paper", "caffe2_8"])
def test_a_place_of_a_stage_sees_what_its_gradient_touches(geometry, randomise):
    config = ResNetConfig(blocks_per_stage=(2, 1, 2), width=2, geometry=geometry, num_classes=2, norm="affine")
    model = randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    model.eval()
    video = jnp.asarray(np.random.default_rng(0).uniform(1, 2, size=(1, 2, 16, 256, 3)), jnp.float32)
    graph, state = nnx.split(model)
    state = jax.tree.map(jnp.abs, state)  # no ReLU is ever closed
    names = {"res2": "res2_1", "res3": "res3_0", "res4": "res4_1"}

    views = stage_views(config)

    @jax.jit
    def gradients(video):
        def places(video):
            out = nnx.merge(graph, state)(video)[1]
            return [jnp.abs(out[name][:, :, :, 128 // views[stage].stride]).sum() for stage, name in names.items()]

        return jax.jacrev(places)(video)

    for name, gradient in zip(names, gradients(video), strict=True):
        view = views[name]
        first, last = view.of(128 // view.stride)
        assert 0 < first and last < 255  # nothing is cut off at the border
        found = seen(gradient)
        # A max pool can leave out pixels at the rim, but never adds pixels.
        assert first <= found[0] <= first + 4 and last - 4 <= found[1] <= last, name


def pyramid_sees(config, place, level, width=1024):
    """Returns the pixels that the features of a pyramid depend on, from a 1-D network with all weights 1."""
    geometry = config.geometry
    assert geometry == "small"

    def conv(x, kernel, stride):  # x (pixels, places): the pixels that a place depends on
        wide = np.pad(x, ((0, 0), (kernel // 2, kernel // 2)))
        return sum(wide[:, k : k + x.shape[1] : 1] for k in range(kernel))[:, ::stride] > 0

    x = conv(np.eye(width, dtype=bool), 5, 2)
    x = x[:, ::2] | x[:, 1::2]
    stages = []
    for index, count in enumerate(config.blocks_per_stage):
        for block in range(count):
            x = conv(x, 3, 2 if index and block == 0 else 1)
        stages.append(x)
    top = stages[-1]
    for stage in stages[-2::-1][: len(stages) - 1 - (level - 2)]:
        top = stage | np.repeat(top, 2, axis=1)
    features = conv(top, 3, 1)
    at = place / 2**level  # RoIAlign interpolates between the two nearest places
    low, high = int(np.floor(at - 0.5)), int(np.floor(at)) + 1
    pixels = np.flatnonzero(features[:, low : high + 1].any(1))
    return int(pixels[0]), int(pixels[-1])


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (1, 2, 1), (2, 1, 3, 1)])
@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_region_of_the_pyramid_sees_what_its_convolutions_reach(blocks, level):
    config = ResNetConfig(blocks_per_stage=blocks, geometry="small")
    farthest = 0
    for place in range(512, 544):
        found = pyramid_sees(config, place, level)
        first, last = region_view(config, place, place, level)
        assert first <= found[0] and found[1] <= last  # the view is never too narrow
        farthest = max(farthest, place - found[0], found[1] - place)
    assert farthest <= reach(config, level) <= farthest + 2**level  # it is at most one place too wide


def test_the_full_network_sees_what_is_known_of_it():
    views = stage_views(ResNetConfig(depth=50))
    assert {name: view.stride for name, view in views.items()} == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    assert views["res5"].high - views["res5"].low + 1 == 427  # a ResNet-50 with the stride on its 3x3 convolutions
    assert reach(ResNetConfig(blocks_per_stage=(1, 1, 1, 1))) == 76


def test_a_level_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="level=6 is out of range; choose 2 to 5"):
        region_view(ResNetConfig(), 0, 10, level=6)


def test_the_pyramid_of_the_detector_sees_no_farther(randomise):
    """The gradient of RoIAlign's features by the image: how far a digit of `embedded.scenes` can see its cue."""
    backbone = ResNetConfig(blocks_per_stage=(1, 1, 1, 1), width=2, geometry="small", norm="affine")
    config = DetectorConfig(backbone=backbone, num_classes=2, masks=False, fpn_channels=4, box_channels=4)
    model = randomise(lambda: MaskRCNN(config, rngs=nnx.Rngs(0)))
    model.eval()
    graph, state = nnx.split(model)
    state = jax.tree.map(jnp.abs, state)  # no ReLU is ever closed
    images = jnp.asarray(np.random.default_rng(0).uniform(1, 2, size=(1, 32, 384, 3)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(images, boxes):
        model = nnx.merge(graph, state)
        out = model.features(images, jnp.array([[32, 384]], jnp.int32))
        return jnp.abs(model._align(out, boxes, 7)).sum()

    farthest = 0
    for left in range(180, 212, 5):
        low, high = left + 0.5, left + 24.5
        found = seen(gradient(images, jnp.array([[[low, 4, high, 28]]], jnp.float32))[:, None])
        first, last = region_view(backbone, low, high)
        assert 0 < first <= found[0] and found[1] <= last < 383
        farthest = max(farthest, low - found[0], found[1] - high)
    assert reach(backbone) - 12 <= farthest <= reach(backbone)
