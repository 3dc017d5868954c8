import jax
import numpy as np
from flax import nnx

from configs import common
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.tasks.classification import Classification
from nl_jax.training import sharding
from nl_jax.training.precise_bn import has_running_statistics, make_moments, precise_batch_stats
from nl_jax.training.preprocessing import make_normalize

NORMALIZE = make_normalize(common.base().input)
FORWARD = Classification(common.base()).scores(multi_label=False)
MESH = sharding.make_mesh(1, 1, devices=jax.devices()[:1])


def test_statistics_are_those_of_all_clips_together(randomise):
    config = ResNetConfig(blocks_per_stage=(1,), width=4, geometry="small", num_classes=3, group_size=2)
    model = randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
    graphdef, params, batch_stats = flat.split(model)
    videos = [
        jax.random.randint(jax.random.key(i), (4, 2, 12, 12, 3), 0, 50 * (i + 1)).astype("uint8") for i in range(3)
    ]
    moments = make_moments(graphdef, FORWARD, MESH)
    precise = precise_batch_stats(moments, params, batch_stats, [{"video": video} for video in videos])

    inputs = np.concatenate([np.asarray(model.conv1(NORMALIZE(video))) for video in videos])
    np.testing.assert_allclose(precise["norm1/mean"], inputs.mean((0, 1, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(precise["norm1/var"], inputs.var((0, 1, 2, 3)), rtol=1e-3)
    assert precise.keys() == batch_stats.keys()
    assert all((precise[name] != batch_stats[name]).any() for name in precise)


def test_a_network_without_statistics_has_none(randomise):
    config = ResNetConfig(blocks_per_stage=(1,), width=4, num_classes=3, norm="affine")
    graphdef, params, batch_stats = flat.split(randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0))))
    assert precise_batch_stats(make_moments(graphdef, FORWARD, MESH), params, batch_stats, []) == {}


def test_which_networks_have_statistics_that_move():
    def found(norm, block):
        config = ResNetConfig(
            blocks_per_stage=(1,),
            width=4,
            norm=norm,
            nonlocal_blocks={"res2": (0,)} if block else {},
            nonlocal_options={"norm": block} if block else {},
        )
        return has_running_statistics(nnx.eval_shape(lambda: VideoResNet(config, rngs=nnx.Rngs(0))))

    assert found("batch", "") and found("global", "") and found("affine", "batch") and found("batch", "none")
    assert not found("affine", "") and not found("frozen", "") and not found("frozen", "affine")
