"""Exported programs give the network's logits for any batch, and this machine exports for all platforms."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export as jax_export

from configs import folder
from nl_jax.errors import InputError
from nl_jax.models import NonLocalBlock, VideoResNet
from nl_jax.ops import devices
from nl_jax.runs.stablehlo import PLATFORMS, export_network, write_programs
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training.preprocessing import make_normalize

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config():
    config = folder.get_config().unlock()
    config.model.width, config.model.blocks_per_stage, config.model.head_window = 4, (1, 1), 2
    config.model.nonlocal_blocks.res3, config.model.nonlocal_blocks.res4 = (0,), ()
    config.data.frames, config.data.test_crop = 4, 32
    return config


@pytest.fixture
def model(config, randomise):
    model = randomise(lambda: VideoResNet(make_resnet_config(config.model, 2), rngs=nnx.Rngs(0)))
    model.eval()
    return model


def test_programs_are_the_network_and_are_made_for_every_platform(config, model, tmp_path):
    pytest.importorskip("flatbuffers")
    files = write_programs(model, config, ("flower", "pagoda"), list(PLATFORMS), tmp_path / "out")
    names = {f"{platform}.{ending}" for platform in PLATFORMS for ending in ("jax_export", "stablehlo")}
    assert {path.name for path in files} == names
    assert json.loads((tmp_path / "out" / "export.json").read_text())["classes"] == ["flower", "pagoda"]

    programs = {p: jax_export.deserialize((tmp_path / "out" / f"{p}.jax_export").read_bytes()) for p in PLATFORMS}
    assert {p: program.platforms for p, program in programs.items()} == {p: (p,) for p in PLATFORMS}
    video = np.random.default_rng(0).integers(0, 256, (3, 4, 32, 32, 3), np.uint8)
    expected = jax.jit(lambda video: model(make_normalize(config.input)(video))[0])(video)
    for batch in (1, 3):
        found = programs["cpu"].call(video[:batch])
        np.testing.assert_allclose(found, expected[:batch], rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))


SYMBOLS = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from jax import export
from nl_jax.models import NonLocalBlock
from nl_jax.ops import devices
shape = jax.ShapeDtypeStruct(export.symbolic_shape("b,t,2*h,2*w,8"), jnp.float32)
x = np.random.default_rng(0).normal(size=(2, 3, 4, 6, 8)).astype(np.float32)
for pairwise in ("gaussian", "embedded_gaussian", "dot_product", "concatenation"):
    block = NonLocalBlock(8, pairwise=pairwise, subsample="before", rngs=nnx.Rngs(0))
    block.eval()
    block.norm.scale[...] = jnp.ones(8)
    for platform, name in (("cpu", "cpu"), ("cuda", "gpu"), ("tpu", "tpu")):
        with devices.compiling_for(name):
            program = export.export(jax.jit(lambda x: block(x)), platforms=[platform])(shape)
        if platform == "cpu":
            np.testing.assert_allclose(program.call(x), block(jnp.asarray(x)), atol=1e-5)
"""


def test_a_block_is_traced_with_sizes_that_are_symbols():
    """Runs in a new Python process without jaxtyping's checks, which cannot compare symbolic sizes."""
    done = subprocess.run([sys.executable, "-c", SYMBOLS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tpu_has_no_kernel_for_a_batch_that_is_a_symbol():
    """With a known batch there is a kernel for at least 512 positions and 128 channels."""
    block = NonLocalBlock(256, rngs=nnx.Rngs(0))
    block.eval()
    texts = []
    for of in (jax_export.symbolic_shape("b,2,16,16,256"), (2, 2, 16, 16, 256)):
        with devices.compiling_for("tpu"):
            shape = jax.ShapeDtypeStruct(of, jnp.float32)
            texts.append(jax_export.export(jax.jit(lambda x: block(x)), platforms=["tpu"])(shape).mlir_module())
    assert ["tpu_custom_call" in text for text in texts] == [False, True]


def test_what_cannot_be_exported_is_said(config, model):
    with pytest.raises(InputError, match="platform='gpu' is unknown; choose one of cpu, cuda, tpu"):
        export_network(model, config, "gpu")
    config = config.copy_and_resolve_references()
    config.data.test_crop = 0
    with pytest.raises(InputError, match="give --size, the side of a crop"):
        export_network(model, config)
