import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.weights.inflate import inflate

IMAGE = ResNetConfig(blocks_per_stage=(1, 1), width=4, num_classes=5)
VIDEO = ResNetConfig(blocks_per_stage=(1, 1), width=4, num_classes=5, inflate="3x3x3", nonlocal_blocks={"res3": (0,)})


def arrays(config, seed):
    return flat.split(VideoResNet(config, rngs=nnx.Rngs(seed)))


def randomised(arrays, seed):
    keys = jax.random.split(jax.random.key(seed), len(arrays))
    return {
        name: a + 0.3 * jax.random.uniform(key, a.shape) for key, (name, a) in zip(keys, arrays.items(), strict=True)
    }


@pytest.mark.parametrize("planes", ["mean", "center"])
def test_a_repeated_image_gives_what_the_image_gave(planes):
    """This holds away from the padded ends of time, where planes meet zeros."""
    image_graph, image_params, image_stats = arrays(IMAGE, 0)
    image_params, image_stats = randomised(image_params, 1), randomised(image_stats, 2)
    graph, params, stats = arrays(VIDEO, 3)
    params, _ = inflate(params, image_params, planes)
    stats, _ = inflate(stats, image_stats, planes)
    image = jax.random.normal(jax.random.key(4), (1, 1, 32, 32, 3))

    def run(graph, params, stats, video):
        model = flat.merge(graph, params, stats)
        model.eval()
        return model(video)[1]

    expected = run(image_graph, image_params, image_stats, image)["res3_0"][:, 0]
    found = run(graph, params, stats, jnp.repeat(image, 65, axis=1))["res3_0_nonlocal"]
    np.testing.assert_allclose(found[:, found.shape[1] // 2], expected, rtol=1e-3, atol=1e-3)


def test_report_names_what_was_taken_inflated_and_left():
    _, image_params, _ = arrays(IMAGE, 0)
    _, params, _ = arrays(VIDEO, 1)
    result, report = inflate(params, image_params)
    assert set(report.loaded) == set(image_params)
    assert set(report.inflated) == {"conv1/kernel", "res2/0/conv2/kernel", "res3/0/conv2/kernel"}
    assert all("nonlocal_block" in name for name in report.left_at_init) and report.left_at_init
    np.testing.assert_array_equal(result["res2/0/conv1/kernel"], image_params["res2/0/conv1/kernel"])
    np.testing.assert_allclose(result["conv1/kernel"].sum(0), image_params["conv1/kernel"][0], rtol=1e-6)


def test_a_head_of_other_classes_stays_new():
    _, source, _ = arrays(ResNetConfig(blocks_per_stage=(1, 1), width=4, num_classes=7), 0)
    _, params, _ = arrays(IMAGE, 1)
    result, report = inflate(params, source)
    np.testing.assert_array_equal(result["classifier/fc/kernel"], params["classifier/fc/kernel"])
    assert set(report.left_at_init) == {"classifier/fc/kernel", "classifier/fc/bias"}


def test_another_width_is_an_error_with_both_shapes():
    _, source, _ = arrays(ResNetConfig(blocks_per_stage=(1, 1), width=8, num_classes=5), 0)
    with pytest.raises(InputError, match=r"conv1/kernel has shape \(1, 7, 7, 3, 8\) .* \(1, 7, 7, 3, 4\)"):
        inflate(arrays(IMAGE, 1)[1], source)


def test_a_part_without_a_place_is_an_error_that_names_it():
    _, source, _ = arrays(ResNetConfig(blocks_per_stage=(1, 2), width=4, num_classes=5), 0)
    with pytest.raises(InputError, match=r"res3/1/\S+ .* has no place"):
        inflate(arrays(IMAGE, 1)[1], source)


def test_unknown_planes():
    with pytest.raises(InputError, match=r"start\.planes='middle' is unknown; choose one of mean, center"):
        inflate({}, {}, "middle")
