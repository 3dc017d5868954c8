"""Strict JAX for every test, annotations that are checked at run time, and modules filled with telling numbers."""

import atexit
import os
import shutil
import tempfile
import warnings

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import install_import_hook
from sklearn.datasets import load_sample_images

# Before JAX picks its devices: sharding is tested on eight, whatever the machine.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Test programs are small and many alike: compiling them takes longer than running them. The programs of experiments/
# that tests start as processes of their own inherit both from the environment.
COMPILED = tempfile.mkdtemp(prefix="nl_jax_tests_")
atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": COMPILED,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}
jax.config.update("jax_compilation_cache_dir", COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_disable_most_optimizations", True)

# Before the first import of nl_jax: every shape and type in its annotations is asserted, in tests only.
install_import_hook("nl_jax", "beartype.beartype")


@pytest.fixture(scope="module", autouse=True)
def programs_of_one_module():
    """Those of all modules together take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def torch():
    """PyTorch, for comparison; where it is not installed, the tests that ask for it are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def randomise():
    """randomise(build, seed) is the module that build() makes, with parameters and statistics that are never 0 or 1.

    A new network hides mistakes: its means and biases are 0, its variances 1 and its non-local blocks the identity.
    """

    from nl_jax.models import flat  # after the hook above

    def fill(build, seed=0):
        graphdef, *groups = flat.abstract(build)  # quicker: the initial values are not needed
        rng = np.random.default_rng(seed)
        for group in groups:
            for name, array in group.items():
                shape, kind = array.shape, name.rsplit("/")[-1]
                if kind == "kernel":
                    value = rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
                elif kind in ("scale", "var"):
                    value = rng.uniform(0.5, 1.5, shape)
                else:
                    value = 0.1 * rng.normal(size=shape)
                group[name] = jnp.asarray(value, jnp.float32)
        return flat.merge(graphdef, *groups)

    return fill


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory):
    """Four small videos in two classes, flower and pagoda, by the photograph they pan over: each as mp4 and avi."""
    folder = tmp_path_factory.mktemp("videos")
    for label, photo in zip(("pagoda", "flower"), load_sample_images().images, strict=True):
        (folder / label).mkdir()
        for ending, codec in (("mp4", "libx264"), ("avi", "mpeg4")):
            with av.open(str(folder / label / f"clip.{ending}"), "w") as container:
                stream = container.add_stream(codec, rate=25)
                stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
                for i in range(30):
                    image = np.ascontiguousarray(photo[200 + i : 296 + i, 2 * i : 2 * i + 128])
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
                container.mux(stream.encode(None))
    return folder
