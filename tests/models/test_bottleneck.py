"""The residual block against PyTorch's functional layers and initial values."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.models import ResNetConfig, VideoResNet
from nl_jax.models.bottleneck import Bottleneck


@pytest.mark.parametrize("stride_on_1x1", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_strides_and_groups(stride_on_1x1, groups, randomise, torch):
    F = torch.nn.functional

    def build():
        options = {"norm": {"kind": "frozen"}, "dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        return Bottleneck(6, 8, 12, stride=2, stride_on_1x1=stride_on_1x1, groups=groups, **options)

    block = randomise(build)
    x = np.random.default_rng(0).normal(size=(2, 1, 10, 12, 6)).astype(np.float32)

    def layer(y, conv, norm, stride=1, padding=0, groups=1):
        kernel = torch.tensor(np.array(conv.kernel[...])[0]).permute(3, 2, 0, 1)
        y = F.conv2d(y, kernel, None, stride, padding, groups=groups)
        stats = (torch.tensor(np.array(a[...])) for a in (norm.mean, norm.var, norm.scale, norm.bias))
        return F.batch_norm(y, *stats)

    theirs = torch.tensor(x[:, 0]).permute(0, 3, 1, 2)
    first, second = (2, 1) if stride_on_1x1 else (1, 2)
    y = layer(theirs, block.conv1, block.norm1, first).relu()
    y = layer(y, block.conv2, block.norm2, second, 1, groups).relu()
    expected = (layer(y, block.conv3, block.norm3) + layer(theirs, block.shortcut, block.shortcut_norm, 2)).relu()
    found = block(jnp.asarray(x))[:, 0]
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)


def test_initial_values(torch):
    def build(**options):
        norm = {"kind": "batch"}
        return Bottleneck(64, 96, 128, stride=2, norm=norm, dtype=jnp.float32, rngs=nnx.Rngs(0), **options)

    for fan in ("fan_in", "fan_out"):
        kernel = build(fan=fan).conv2.kernel[...]
        theirs = torch.empty(96, 96, 1, 3, 3)
        torch.nn.init.kaiming_normal_(theirs, mode=fan, nonlinearity="relu")
        assert float(kernel.std()) == pytest.approx(float(theirs.std()), rel=0.02)
    theirs = torch.empty(96, 64, 1, 1, 1)  # the fans differ
    torch.nn.init.kaiming_normal_(theirs, mode="fan_out", nonlinearity="relu")
    assert float(build(fan="fan_out").conv1.kernel[...].std()) == pytest.approx(float(theirs.std()), rel=0.05)

    block, x = build(zero_init_residual=True), jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 6, 6, 64)))
    x = x.astype(jnp.float32)
    projected = nnx.relu(block.shortcut_norm(block.shortcut(x)))
    np.testing.assert_array_equal(block(x), projected)
    assert float(jnp.abs(build()(x) - projected).max()) > 0.1


def test_networks_of_pyslowfast_start_with_its_initial_values():
    shape = ResNetConfig(num_classes=3, width=8, blocks_per_stage=(1, 1))
    for geometry in ("paper", "slowfast", "slowfast_nopool"):
        network = VideoResNet(dataclasses.replace(shape, geometry=geometry), rngs=nnx.Rngs(0))
        theirs = geometry != "paper"
        scales = [float(network.res2[0].norm3.scale[...].mean()), float(network.res2[0].norm2.scale[...].mean())]
        assert scales == [0.0 if theirs else 1.0, 1.0]
        fan = 8 * 49 if theirs else 3 * 49
        assert float(network.conv1.kernel[...].std()) == pytest.approx((2 / fan) ** 0.5, rel=0.1)
