"""The tables of the paper as configs: every row is there, and is what its table says."""

import importlib
from pathlib import Path

import pytest
from absl import flags

from configs import kinetics, quickstart, table2g
from experiments import train
from nl_jax.errors import InputError
from nl_jax.models.summary import summary
from nl_jax.training.setup import make_resnet_config

# Rows, parameters in M of the first and the last (section 6 of the paper's counts; one block on res4 is 2.10 M).
TABLES = {
    "table2a": (5, 24.33, 26.43),
    "table2b": (5, 24.33, None),
    "table2c": (8, 24.33, 43.32 + 14.7),
    "table2d": (8, 24.33, 50.68),
    "table2e": (4, 43.32, 50.68),
    "table2f": (6, 24.33, 59.11),
    "table2g": (6, 24.33, 59.11),
    "table3": (2, 35.40, 59.11),
}


def config_of(table, row):
    return importlib.import_module(f"configs.{table}").get_config(row)


@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_a_table(table):
    rows = importlib.import_module(f"configs.{table}").ROWS
    count, *parameters = TABLES[table]
    assert len(rows) == count and all(len(row["paper"]) == 2 for row in rows.values())
    for row, expected in zip((next(iter(rows)), list(rows)[-1]), parameters, strict=True):
        config = config_of(table, row)
        found = summary(make_resnet_config(config.model, 400), (config.data.frames, 224, 224))
        if expected:
            assert found.parameters / 1e6 == pytest.approx(expected, abs=0.05)


def test_charades():
    configs = [config_of("table4", row) for row in ("i3d_r101", "nl_i3d_r101")]
    for config in configs:
        assert (config.num_classes, config.data.frames, config.batch_size, config.model.norm) == (157, 128, 8, "frozen")
        assert config.start.stage == "" and not config.paper
    assert [len(make_resnet_config(c.model, 157).nonlocal_blocks) for c in configs] == [0, 2]


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
    monkeypatch.setattr(train, "train", lambda config, workdir, start, steps: done.append((config, workdir, start)))
    monkeypatch.setattr(train, "check_run", lambda *_: None)
    return done


def test_the_chain_of_a_long_network_is_images_then_32_frames_then_128(stages):
    config = table2g.get_config("nl5_i3d_r101").unlock()
    config.data.train, config.data.validation, config.images.train = "videos", "held_out", "pictures"
    config.mesh.time = 4
    train.run(config, Path("W"))
    found = [(str(workdir), str(start), c.data.frames, c.data.train, c.model.norm) for c, workdir, start in stages]
    assert found == [
        ("W/start/start", "None", 1, "pictures", "batch"),
        ("W/start", "W/start/start", 32, "videos", "batch"),
        ("W", "W/start", 128, "videos", "frozen"),
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
    monkeypatch.setattr(train.workdirs, "check", lambda _, config, __: compared.append(config.steps))
    train.run(config, tmp_path / "W")
    assert compared == [1200]  # what `train` wrote into its workdir


def test_a_finished_network_takes_the_place_of_the_stage(stages):
    config = kinetics.get_config("nl5_i3d_r50").unlock()
    config.start.workdir = "finished"
    train.run(config, Path("W"))
    assert [(str(workdir), str(start)) for _, workdir, start in stages] == [("W", "finished")]


def test_a_chain_without_images_says_what_it_needs(stages):
    with pytest.raises(InputError, match=r"images\.train is empty: configs/kinetics\.py:imagenet_r50 needs a folder"):
        train.run(kinetics.get_config("c2d_r50").unlock(), Path("W"))
    assert not stages


@pytest.fixture(scope="module", autouse=True)
def no_flags_left():
    """Importing a program defines its flags, which other programs' tests may define too."""
    yield
    for name in ("config", "workdir"):
        if name in flags.FLAGS:
            delattr(flags.FLAGS, name)
