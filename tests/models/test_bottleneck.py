"""The residual block against PyTorch's functional layers, with the stride on each convolution and with groups."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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
