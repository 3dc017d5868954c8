"""The tables of the paper as configs: every row is there, and is what its table says."""

import dataclasses
import functools
import importlib
import pickle
from pathlib import Path
from unittest.mock import Mock

import pytest
from absl import flags
from flax import nnx

from configs import kinetics, quickstart, recipes, something, table2g, table5, table6
from nl_jax import zoo
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig, VideoResNet, flat
from nl_jax.models.detection.config import BLOCK_DEFAULTS
from nl_jax.runs import stages as chain
from nl_jax.tasks import task_of
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training.optimizer import make_schedule
from nl_jax.training.setup import Setup, check_run

# Parameters in M of the networks without blocks, and of a block by stage (section 6 of the paper's counts; a block has
# four products of c x c/2 with their biases, and a norm).
C2D_50, C2D_101, I3D_50, I3D_101, I3D_333_101 = 24.33, 43.32, 28.04, 51.75, 63.04
RES2, RES3, RES4, RES5 = ((2 * c * c + 3 * c // 2 + 3 * c) / 1e6 for c in (256, 512, 1024, 2048))
GAUSSIAN = RES4 - (1024 * 1024 + 1024) / 1e6  # without theta and phi
FIVE, TEN = 2 * RES3 + 3 * RES4, 4 * RES3 + 6 * RES4
DEPTHS = {
    "c2d": (C2D_50, C2D_101),
    "i3d": (I3D_50, I3D_101),
    "nl5_i3d": (I3D_50 + FIVE, I3D_101 + FIVE),
}
OF_DEPTHS = {f"{name}_r{depth}": DEPTHS[name][at] for at, depth in enumerate((50, 101)) for name in DEPTHS}
PARAMETERS = {
    "table2a": {
        "baseline": C2D_50,
        "gaussian": C2D_50 + GAUSSIAN,
        "embedded_gaussian": C2D_50 + RES4,
        "dot_product": C2D_50 + RES4,
        "concatenation": C2D_50 + RES4 + 1024e-6,
    },
    "table2b": {
        "baseline": C2D_50,
        "res2": C2D_50 + RES2,
        "res3": C2D_50 + RES3,
        "res4": C2D_50 + RES4,
        "res5": C2D_50 + RES5,
    },
    "table2c": {"baseline_r50": C2D_50, "baseline_r101": C2D_101}
    | {
        f"{depth}_{count}": base + added
        for depth, base in (("r50", C2D_50), ("r101", C2D_101))
        for count, added in ((1, RES4), (5, FIVE), (10, TEN))
    },
    "table2d": {
        f"{axes}_{depth}": base + (0 if axes == "baseline" else FIVE)
        for depth, base in (("r50", C2D_50), ("r101", C2D_101))
        for axes in ("baseline", "space", "time", "spacetime")
    },
    "table2e": {"c2d": C2D_101, "i3d_3x3x3": I3D_333_101, "i3d_3x1x1": I3D_101, "nl_c2d": C2D_101 + FIVE},
    "table2f": OF_DEPTHS,
    "table2g": OF_DEPTHS,
    "table3": {"nl_i3d_r50": I3D_50 + FIVE, "nl_i3d_r101": I3D_101 + FIVE},
    # 157 classes in place of 400.
    "table4": {"i3d_r101": I3D_101 - 0.50, "nl_i3d_r101": I3D_101 + FIVE - 0.50},
}


@functools.cache
def parameters_of(resnet_fields):
    model = nnx.eval_shape(lambda: VideoResNet(ResNetConfig(**pickle.loads(resnet_fields)), rngs=nnx.Rngs(0)))
    return sum(array.size for array in flat.split(model)[1].values()) / 1e6


def config_of(table, row):
    return importlib.import_module(f"configs.{table}").get_config(row)


@pytest.mark.parametrize("table", PARAMETERS)
def test_every_row_builds_with_the_parameters_of_its_network(table):
    rows = importlib.import_module(f"configs.{table}").ROWS
    assert set(rows) == set(PARAMETERS[table])
    for row, expected in PARAMETERS[table].items():
        config = config_of(table, row)
        resnet = make_resnet_config(config.model, config.num_classes)
        fields = {field.name: getattr(resnet, field.name) for field in dataclasses.fields(resnet)}
        assert parameters_of(pickle.dumps(fields)) == pytest.approx(expected, abs=0.01), row


def test_the_tables_have_46_rows_with_the_figures_of_the_paper():
    assert sum(map(len, PARAMETERS.values())) == 46
    for table in set(PARAMETERS) - {"table4"}:
        assert all(len(row["paper"]) == 2 for row in importlib.import_module(f"configs.{table}").ROWS.values())


def test_charades():
    configs = [config_of("table4", row) for row in ("i3d_r101", "nl_i3d_r101")]
    for config in configs:
        assert (config.num_classes, config.data.frames, config.batch_size, config.model.norm) == (157, 128, 8, "frozen")
        assert config.start.stage == "" and not config.paper
    assert [len(make_resnet_config(c.model, 157).nonlocal_blocks) for c in configs] == [0, 2]


def test_table_5_has_the_networks_and_the_schedules_of_the_paper():
    found = {}
    for row in ("r50", "r50_block"):
        task = task_of(table5.get_config(row))
        graphdef, params, statistics = flat.abstract(lambda: task.build(80, nnx.Rngs(0)))  # noqa: B023
        frozen = tuple(n for n in flat.merge(graphdef, params, statistics).frozen_parameters() if "norm" in n)
        found[row] = sum(array.size for name, array in params.items() if not name.startswith(frozen))
    # As torchvision counts R50-FPN with 81 classes; a block with an affine layer.
    assert found == {"r50": 44_347_573, "r50_block": 44_347_573 + 2_101_760}
    blocks = {row: config_of("table5", row).model.nonlocal_blocks.res4 for row in table5.ROWS}
    assert [blocks[row] for row in ("r50_block", "r101_block", "x152_block", "r50")] == [(4,), (21,), (34,), ()]
    schedules = [table5.get_config(f"r50,{flag}") for flag in ("1x", "2x")] + [table5.get_config("x152")]
    assert [(c.steps, c.optimizer.decay_at) for c in schedules] == [
        (90_000, (60_000, 80_000)),
        (180_000, (120_000, 160_000)),
        (260_000, (200_000, 240_000)),
    ]
    with pytest.raises(ValueError, match="both given"):
        table5.get_config("r50,1x,2x")
    rate = make_schedule(schedules[0].optimizer, 90_000)
    steps = (0, 250, 500, 59_999, 60_000, 80_000)
    assert [float(rate(step)) for step in steps] == pytest.approx([0.02 / 3, 0.04 / 3, 0.02, 0.02, 2e-3, 2e-4])


def test_table_6_has_the_networks_and_the_schedules_of_the_paper():
    config = table6.get_config("r101_head_backbone")
    detector = task_of(config).detector(1)
    assert (detector.keypoints, detector.keypoint_blocks, detector.has_masks()) == (17, (2, 4, 6, 8), False)
    assert detector.backbone.nonlocal_blocks == {"res4": (21,)}
    assert detector.resolved_keypoint_options() == BLOCK_DEFAULTS | {"norm": "none"}
    assert config.data.short_sides == (640, 672, 704, 736, 768, 800) and config.num_classes == 1
    schedules = [table6.get_config(row) for row in ("r101", "r101,s1x", "r101,1x")]
    assert [(c.steps, c.optimizer.decay_at) for c in schedules] == [
        (130_000, (100_000, 120_000)),
        (130_000, (100_000, 120_000)),
        (90_000, (60_000, 80_000)),
    ]
    with pytest.raises(ValueError, match="both given"):
        table6.get_config("r101,1x,s1x")
    small = {row: table6.get_config(f"{row},laptop") for row in table6.ROWS}
    assert [c.detector.keypoint_blocks for c in small.values()] == [(), (1, 2), (1, 2), ()]
    assert [c.detector.keypoint_convolutions for c in small.values()] == [2, 2, 2, 8]
    assert [c.model.nonlocal_blocks.res4 for c in small.values()] == [(), (), (0,), ()]
    assert small["r101_head"].paper == (66.0, 87.1, 71.7)
    options = task_of(small["r101_head_backbone"]).detector(1)
    assert options.keypoint_options == {"init": "he", "norm": "batch", "norm_scale": 1.0, "subsample": None}
    assert options.backbone.nonlocal_options["norm_scale"] == 1.0


def test_recipes_of_other_code_train_the_networks_of_the_zoo():
    """Row by row the network, the clips and the figures of the entry of the same name."""
    for row, changes in recipes.ROWS.items():
        config, entry = recipes.get_config(row), zoo.find(row)
        expected = config_of("kinetics", entry.row.partition(":")[2]).unlock()
        expected.update_from_flattened_dict(entry.fields)
        for part in ("model", "data", "input"):
            same = expected[part].to_dict() | ({"dropout": 0.0} if part == "model" and "300k_4gpu" in row else {})
            same |= {"short_side": (256, 256)} if part == "data" and "300k_4gpu" in row else {}
            assert config[part].to_dict() == same, (row, part)
        assert all(f"{figure}%" in changes["expect"] for figure in entry.figures.values())
    for row, batch in (("release_i3d_r50_600k_4gpu_8x8", 32), ("release_nl_i3d_r50_8x8", 64)):
        config = recipes.get_config(row)
        rate = make_schedule(config.optimizer, config.steps)
        half = config.optimizer.learning_rate / 10 if batch == 64 else 0.0005
        assert config.batch_size == batch and float(rate(config.steps // 2)) == pytest.approx(half)
    with pytest.raises(ValueError, match="no flag 'laptop'"):
        recipes.get_config("laptop")


def test_something_something_is_not_mirrored():
    for row in something.ROWS:
        config = something.get_config(row)
        assert (config.data.flip, config.num_classes, config.optimizer.ema) == (False, 174, 0.0)
        assert config.start.stage.startswith("configs/recipes.py:release_")
    with pytest.raises(ValueError, match="no flag 'laptop'"):
        something.get_config("laptop")


def blocks_of(table, row):
    return make_resnet_config(config_of(table, row).model, 400).nonlocal_blocks


def test_blocks_lie_where_the_tables_say():
    assert blocks_of("table2a", "concatenation") == {"res4": (4,)}
    assert [blocks_of("table2b", f"res{i}") for i in (2, 3, 4, 5)] == [
        {"res2": (1,)},
        {"res3": (2,)},
        {"res4": (4,)},
        {"res5": (1,)},
    ]
    assert blocks_of("table2c", "r50_10") == {"res3": (0, 1, 2, 3), "res4": tuple(range(6))}
    assert {row: config_of("table2d", row).model.nonlocal_options.axes for row in ("space_r50", "time_r101")} == {
        "space_r50": "space",
        "time_r101": "time",
    }
    assert not blocks_of("table2c", "baseline_r101")


@pytest.fixture
def stages(monkeypatch):
    """Runs record their config and workdir instead of training."""
    done = []
    monkeypatch.setattr(chain, "train", lambda config, workdir, start, _: done.append((config, workdir, start)) or {})
    setup = Mock(spec=Setup, train_set=Mock(classes=range(5)))
    monkeypatch.setattr(chain, "check_run", lambda *_: setup)
    monkeypatch.setattr(chain, "check_stage", lambda *_: None)
    return done


def test_the_chain_of_a_long_network_is_images_then_32_frames_then_128(stages, tmp_path):
    config = table2g.get_config("nl5_i3d_r101").unlock()
    config.data.train, config.data.validation, config.images.train = "videos", "held_out", "pictures"
    config.mesh.time = 4
    last = tmp_path / "W"
    chain.train_chain(config, last)
    assert [(workdir, start, c.data.frames, c.data.train, c.model.norm) for c, workdir, start in stages] == [
        (last / "start/start", None, 1, "pictures", "batch"),
        (last / "start", last / "start/start", 32, "videos", "batch"),
        (last, last / "start", 128, "videos", "frozen"),
    ]
    assert all(c.model.depth == 101 for c, _, _ in stages)
    assert [c.data.validation for c, _, _ in stages] == ["", "held_out", "held_out"]
    assert [c.mesh.time for c, _, _ in stages] == [1, 4, 4]  # an image has no frames to split


def test_a_finished_stage_is_compared_with_the_recipe_at_its_batch_size(stages, tmp_path, monkeypatch):
    stage = tmp_path / "stage.py"
    stage.write_text(
        "from configs import quickstart\n\ndef get_config(_):\n"
        "    config = quickstart.get_config('images').unlock()\n    config.batch_size = 64\n    return config\n"
    )
    config = quickstart.get_config().unlock()
    config.start.stage = str(stage)
    (tmp_path / "W" / "start").mkdir(parents=True)
    (tmp_path / "W" / "start" / "results.json").touch()
    compared = []
    monkeypatch.setattr(chain.workdir, "check_workdir", lambda _, task, __: compared.append(task.config.steps))
    chain.train_chain(config, tmp_path / "W")
    assert compared == [1200]  # what `train` wrote into its workdir


@pytest.mark.parametrize("field, value", [("name", "adam"), ("schedule", "cosin"), ("warmup_steps", 10**6)])
def test_a_wrong_optimizer_of_any_stage_is_refused_before_the_first_is_trained(
    stages, tmp_path, monkeypatch, field, value
):
    monkeypatch.setattr(chain, "check_run", check_run)
    stage = tmp_path / "stage.py"  # which itself starts from images
    stage.write_text(
        "from configs import quickstart\n\ndef get_config(_):\n    config = quickstart.get_config().unlock()\n"
        f"    config.optimizer.{field} = {value!r}\n    return config\n"
    )
    config = quickstart.get_config().unlock()
    config.start.stage = str(stage)
    with pytest.raises(InputError, match=f"the stage before: .*{field}="):
        chain.train_chain(config, tmp_path / "W")
    assert not stages and not (tmp_path / "W").exists()


def test_a_finished_network_takes_the_place_of_the_stage(stages, tmp_path):
    config = kinetics.get_config("nl5_i3d_r50").unlock()
    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "config.json").write_text(config.to_json())
    config.start.workdir = str(finished)
    chain.train_chain(config, tmp_path / "W")
    (trained,) = stages  # no other stage
    assert (trained[1], trained[2].directory) == (tmp_path / "W", finished)


def test_a_chain_without_images_says_what_it_needs(stages):
    with pytest.raises(InputError, match=r"images\.train is empty: configs/kinetics\.py:imagenet_r50 needs a folder"):
        chain.train_chain(kinetics.get_config("c2d_r50").unlock(), Path("W"))
    assert not stages


@pytest.fixture(scope="module", autouse=True)
def no_flags_left():
    """Importing a program defines its flags, which other programs' tests may define too."""
    yield
    for name in ("config", "workdir"):
        if name in flags.FLAGS:
            delattr(flags.FLAGS, name)
