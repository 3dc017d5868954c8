"""Features of videos: equal to the network's, one file a video, resumed, with a list of bad videos."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import folder
from experiments import feature_files
from nl_jax.data.video.folder import VideoFolder
from nl_jax.errors import InputError
from nl_jax.models import VideoResNet
from nl_jax.runs.features import Extractor, layers_of
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training.preprocessing import make_normalize


@pytest.fixture(scope="module")
def config():
    config = folder.get_config().unlock()
    config.model.width, config.model.blocks_per_stage = 4, (1, 1)
    config.model.nonlocal_blocks.res3, config.model.nonlocal_blocks.res4 = (0,), ()
    config.data.frames, config.data.num_clips, config.data.num_crops, config.data.test_crop = 4, 2, 3, 48
    config.data.test_short_side = 48
    return config


@pytest.fixture
def model(config, randomise):
    return randomise(lambda: VideoResNet(make_resnet_config(config.model, 2), rngs=nnx.Rngs(0)))


def test_features_are_those_of_the_network_for_the_views_of_testing(config, model, video_folder):
    fields = {name: value for name, value in config.data.to_dict().items() if name not in ("name", "train", "test")}
    fields = {name: value for name, value in fields.items() if not name.startswith(("validation", "clips_per_decode"))}
    dataset = VideoFolder(video_folder, **fields)
    extractor = Extractor(model, config, "res3", pooled=False)
    found = extractor(video_folder / dataset.names[0])
    views = dataset.test_example(0)["video"]  # clip by clip, crop by crop
    out = jax.jit(lambda views: model.features(make_normalize(config.input)(views)))(jnp.asarray(views))
    assert set(out) == set(layers_of(model)) and extractor.layer == "res3_0_nonlocal"
    expected = np.asarray(out["res3_0_nonlocal"])
    np.testing.assert_allclose(found.features.reshape(expected.shape), expected, atol=1e-4 * np.abs(expected).max())
    assert found.clips.shape == (2, 4) and found.seconds.shape == (2,) and (np.diff(found.seconds) > 0).all()
    np.testing.assert_allclose(found.seconds, found.clips[:, [0, -1]].mean(axis=1) / 25)

    pooled = Extractor(model, config, "res3_0_nonlocal")(video_folder / dataset.names[0])
    np.testing.assert_allclose(pooled.features, found.features.mean(axis=(2, 3, 4)), rtol=1e-4, atol=1e-5)
    assert Extractor(model, config, "res3_0").layer == "res3_0"
    with pytest.raises(InputError, match="layer=res6: the network has conv1, pool1, res2_0, "):
        Extractor(model, config, "res6")
    config = config.copy_and_resolve_references()
    config.data.name = "long_range"
    with pytest.raises(InputError, match=r"this network has data\.name='long_range'"):
        Extractor(model, config)


def test_features_of_a_network_in_bfloat16_are_float32_in_their_file(config, randomise, video_folder, tmp_path):
    config = config.copy_and_resolve_references()
    config.model.dtype, config.data.num_clips, config.data.num_crops = "bfloat16", 1, 1
    network = randomise(lambda: VideoResNet(make_resnet_config(config.model, 2), rngs=nnx.Rngs(0)))
    for layer, pooled in (("conv1", False), ("res3", True)):
        out = tmp_path / layer
        feature_files.write(Extractor(network, config, layer, pooled=pooled), [str(video_folder / "flower")], out)
        with np.load(out / "clip.mp4.npz") as found:
            assert found["features"].dtype == np.float32 and np.isfinite(found["features"]).all()


def test_a_command_goes_on_where_it_stopped_and_lists_bad_videos(config, model, video_folder, tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    shutil.copytree(video_folder, videos)
    (videos / "pagoda" / "text.mp4").write_text("this is no video\n" * 100)
    asked = []

    class Counting(Extractor):
        def __call__(self, path, every=0.0):
            asked.append(path)
            return super().__call__(path, every)

    extractor = Counting(model, config, "res3")
    assert feature_files.write(extractor, [str(videos)], out) == (1, 5)
    with (out / "bad_videos.csv").open() as file:
        (_, (bad, _)) = csv.reader(file)
    assert bad == str(videos / "pagoda" / "text.mp4")
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.npz"))
    assert names == [f"{label}/clip.{end}.npz" for label in ("flower", "pagoda") for end in ("avi", "mp4")]
    with np.load(out / names[0]) as file:
        assert file["features"].shape == (2, 3, 32) and file["clips"].shape == (2, 4)
    assert json.loads((out / "features.json").read_text())["layer"] == "res3_0_nonlocal"

    (out / names[0]).unlink()
    (videos / "pagoda" / "text.mp4").unlink()
    asked.clear()
    assert feature_files.write(extractor, [str(videos)], out) == (0, 4)
    assert asked == [str(videos / names[0].removesuffix(".npz"))]
    assert (out / "bad_videos.csv").read_text().splitlines() == ["video,reason"]
    extractor.pooled = False
    with pytest.raises(InputError, match="has features with other settings: pooled was True and is now False"):
        feature_files.write(extractor, [str(videos)], out)
    with pytest.raises(InputError, match=r"would both write .*clip\.mp4\.npz; give the folder that holds both"):
        feature_files._videos([str(videos / label / "clip.mp4") for label in ("flower", "pagoda")], out, stills=False)
