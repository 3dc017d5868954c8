"""The tables: their runs, their statistics, and a whole run of one table at the smallest size."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
import scipy.stats

from configs import table6
from experiments.reproduce import __main__ as reproduce
from experiments.reproduce import dip, distance, results, rows, tables
from experiments.reproduce.cost import describe_costs, device_hours
from experiments.reproduce.execute import in_order
from experiments.reproduce.statistics import mean_and_spread, paired_difference
from nl_jax.data.embedded.long_range import LongRange
from nl_jax.errors import InputError
from nl_jax.models.field_of_view import reach
from nl_jax.tasks.resnet_fields import make_resnet_config

TABLES = {name: list(rows.table_module(name).ROWS) for name in rows.TABLES}
EVERY = [(table, row) for table, of_table in TABLES.items() for row in of_table]


# ------------------------------------------------------------------------------------------------------- statistics
def test_the_interval_of_one_seed_is_the_bootstrap_of_scipy():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((1, 500)) < 0.7, rng.random((1, 500)) < 0.5
    mean, low, high = paired_difference(ours, theirs)
    assert mean == pytest.approx(ours.mean() - theirs.mean())
    difference = ours[0].astype(float) - theirs[0]
    expected = scipy.stats.bootstrap((difference,), np.mean, n_resamples=5000, method="percentile", rng=1)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.006)


def test_the_interval_of_several_seeds_draws_seeds_and_clips():
    """The oracle is a loop that draws indices. Networks differ by seed, so clips alone give a too narrow interval."""
    rng = np.random.default_rng(0)
    ours = rng.random((4, 200)) < np.array([0.5, 0.6, 0.8, 0.9])[:, None]
    theirs = rng.random((4, 200)) < 0.5
    _, low, high = paired_difference(ours, theirs)
    drawn = []
    for _ in range(5000):
        at = np.ix_(rng.integers(4, size=4), rng.integers(200, size=200))
        drawn.append(ours[at].mean() - theirs[at].mean())
    assert (low, high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.03)
    assert high - low > 0.2


def test_clips_that_both_get_wrong_alike_do_not_widen_the_interval():
    hard = np.random.default_rng(0).random((3, 400)) < 0.5
    assert paired_difference(hard, hard) == (0, 0, 0)


def test_mean_and_spread():
    mean, spread = mean_and_spread(np.array([0.5, 0.6, 0.7]))
    assert (mean, spread) == pytest.approx((0.6, 0.1))
    assert mean_and_spread(np.array([0.5]))[1] is None


# ------------------------------------------------------------------------------------------------------------- rows
@pytest.fixture(scope="module")
def laptop_runs():
    others = ("4", "5", "6", "scenes", "crowns", "nuclei", "recipes", "something")
    chosen = [(table, row) for table, row in EVERY if table not in others]
    return {(table, row): rows.make_run(table, row, 0, laptop=True) for table, row in chosen}


def test_every_row_has_a_small_counterpart_that_starts_from_images(laptop_runs):
    for (table, _), run in laptop_runs.items():
        chain = rows.chain(run)
        assert chain[0].config.data.images and len(chain) == (3 if table in ("2g", "3") else 2)
        assert all(link.config.data.name == "long_range" for link in chain)


def test_detectors_have_small_counterparts_that_differ_by_the_block_alone():
    found = {row: rows.make_run("5", row, 0, laptop=True) for row in TABLES["5"]}
    assert {run.config.data.name for run in found.values()} == {"scenes"}
    assert found["r50"].key == found["x152"].key != found["r50_block"].key == found["r101_block"].key
    assert rows.baseline_of("5", "r101_block") == "r101"
    for laptop in (False, True):
        scenes = {row: rows.make_run("scenes", row, 0, laptop=laptop) for row in TABLES["scenes"]}
        assert scenes["baseline"].key == found["r50"].key and scenes["block"].key == found["r50_block"].key
        assert len({run.key for run in scenes.values()}) == len(scenes)
    assert {rows.baseline_of("scenes", row) for row in scenes} == {"baseline"}
    blocks = [dict(run.config.model.nonlocal_blocks) for run in (found["r50"], found["r50_block"])]
    assert blocks == [{"res2": (), "res3": (), "res4": at, "res5": ()} for at in ((), (0,))]


def test_keypoints_have_small_counterparts_with_a_control():
    found = {row: rows.make_run("6", row, 0, laptop=True) for row in TABLES["6"]}
    assert len({run.key for run in found.values()}) == 4 and rows.baseline_of("6", "r101_head") == "r101"
    at_full_size = {row: rows.make_run("6", row, 0, laptop=False, changes=IMAGES).key for row in TABLES["6"]}
    assert at_full_size["r101"] == at_full_size["r101_convolutions"] and len(set(at_full_size.values())) == 3
    # Keys of other rows do not include fields of keypoints, because results of these rows are older.
    changed = rows.make_run("5", "r50", 0, laptop=True, changes=["detector.keypoint_channels=7"])
    assert changed.key == rows.make_run("5", "r50", 0, laptop=True).key


def test_exchanges_of_left_and_right_have_a_column_where_there_are_any():
    def row(name, exchanged):
        figures = {} if exchanged is None else {"keypoint_exchanged": exchanged}
        result = results.Result("", "", 0, "", 0.5, 1, 1, 1.0, 1.0, 4, "list", "", figures=figures)
        return tables.Row(name, "a", None, None, (result,), 1, 1, 1, "keypoint AP", table6.OTHER_FIGURES)

    text = tables.markdown([row("a", 0.5), row("b", 0.125), row("c", None)])
    assert "| left for right, % |" in text and "| 50.0 |" in text and "| 12.5 |" in text


def test_detectors_start_from_the_image_network_of_their_depth():
    for row, depth in (("r50", 50), ("r101_block", 101), ("x152", 152)):
        stage = rows.make_run("5", row, 0, laptop=False, changes=IMAGES).start.config
        assert stage.model.depth == depth and stage.data.train == "IMAGES" and stage.model.get("groups", 1) in (1, 32)
    assert stage.model.groups == 32 and stage.model.width_per_group == 8


def test_charades_has_no_small_counterpart():
    with pytest.raises(InputError, match="one label a clip"):
        rows.make_run("4", "i3d_r101", 0, laptop=True)


def test_rows_that_are_one_network_are_one_run(laptop_runs):
    same = [("2a", "embedded_gaussian"), ("2b", "res4"), ("2c", "r50_1")]
    assert len({laptop_runs[at].name for at in same}) == 1
    five = [("2c", "r50_5"), ("2d", "spacetime_r50"), ("2e", "nl_c2d"), ("controls", "five_blocks")]
    assert len({laptop_runs[at].name for at in five}) == 1
    different = {laptop_runs["2a", row].name for row in TABLES["2a"]} | {laptop_runs["2f", "i3d_r50"].name}
    assert len(different) == 6


def test_the_same_recipe_under_another_seed_is_another_run_of_the_same_hash():
    runs = [rows.make_run("2a", "gaussian", seed, laptop=True) for seed in (0, 1)]
    assert runs[0].key == runs[1].key and runs[0].name != runs[1].name
    changed = rows.make_run("2a", "gaussian", 0, laptop=True, changes=["--config.optimizer.learning_rate=0.5"])
    assert changed.key != runs[0].key and changed.start.key == runs[0].start.key


def test_each_run_is_there_once_and_after_what_it_starts_from(laptop_runs):
    found = in_order([laptop_runs[at] for at in (("2a", "gaussian"), ("2g", "c2d_r50"), ("2a", "baseline"))])
    names = [run.name for run in found]
    assert len(names) == len(set(names)) == 4  # the images, two runs of 2a, the long run
    assert all(names.index(run.start.name) < names.index(run.name) for run in found if run.start)
    assert laptop_runs["2g", "c2d_r50"].start.name == laptop_runs["2a", "baseline"].name


def test_small_counterparts_keep_what_the_row_is_about(laptop_runs):
    def blocks(table, row):
        chosen = laptop_runs[table, row].config.model.nonlocal_blocks
        return {stage: chosen[stage] for stage in chosen if chosen[stage]}

    assert [blocks("2b", f"res{i}") for i in (2, 3, 4, 5)] == [
        {"res2": (0,)},
        {"res3": (0,)},
        {"res4": (1,)},
        {"res5": (0,)},
    ]
    counts = [sum(map(len, blocks("2c", f"r50_{count}").values())) for count in (1, 5, 10)]
    assert counts == [1, 5, 7]
    assert [laptop_runs["2d", f"{axes}_r50"].config.model.nonlocal_options.axes for axes in ("space", "time")] == [
        "space",
        "time",
    ]
    assert laptop_runs["2e", "i3d_3x3x3"].config.model.inflate == "3x3x3"
    short, long = laptop_runs["2f", "i3d_r50"], laptop_runs["2g", "i3d_r50"]
    assert long.config.data.frames == 4 * short.config.data.frames and long.start.name == short.name


def test_controls_have_the_parameters_and_the_operations_of_five_blocks():
    for laptop in (False, True):
        found = {
            row: rows.summary_of(rows.make_run("controls", row, 0, laptop=laptop, changes=IMAGES).config)
            for row in TABLES["controls"]
        }
        added = found["five_blocks"].parameters - found["baseline"].parameters
        assert abs(found["same_parameters"].parameters - found["five_blocks"].parameters) < 0.06 * added
        added = found["five_blocks"].macs - found["baseline"].macs
        assert abs(found["same_flops"].macs - found["five_blocks"].macs) < 0.06 * added


def test_a_wider_detector_has_the_parameters_and_the_operations_of_a_block_and_sees_no_farther():
    found = {row: rows.make_run("scenes", row, 0, laptop=True).config for row in ("baseline", "block", "wider")}
    baseline, block, wider = (rows.summary_of(config) for config in found.values())
    assert abs(wider.parameters - block.parameters) < 0.06 * (block.parameters - baseline.parameters)
    assert abs(wider.macs - block.macs) < 0.15 * (block.macs - baseline.macs)
    assert len({reach(make_resnet_config(config.model, None)) for config in found.values()}) == 1


IMAGES = ["--config.images.train=IMAGES"]


def test_cost_is_six_operations_for_every_multiply_add():
    run = rows.make_run("2a", "baseline", 0, laptop=False, changes=IMAGES)
    # 20.44 G multiply-adds a clip, 400k steps of 64 clips, 40% of 197 T operations a second.
    assert device_hours(run) == pytest.approx(6 * 20.44e9 * 400e3 * 64 / (0.4 * 197e12) / 3600, rel=0.01)


def test_image_networks_that_rows_change_are_counted_apart():
    changes = [*IMAGES, "--config.steps=1000"]
    runs = [rows.make_run("5", row, 0, laptop=False, changes=changes) for row in ("r101", "x152")]
    text = describe_costs(runs)
    lines = dict(re.findall(r"^(configs/\S+(?: for \S+)?|all) +([\d.]+)$", text, re.MULTILINE))
    image = "configs/kinetics.py:imagenet_r101 for configs/table5.py:"
    assert list(lines) == [f"{image}r101", "configs/table5.py:r101", f"{image}x152", "configs/table5.py:x152", "all"]
    *parts, total = map(float, lines.values())
    assert total == pytest.approx(sum(parts), rel=0.01) and len(set(parts)) == 4


def test_the_hours_that_the_tables_name_for_images_are_those_of_the_plan():
    """Checks every config whose rows start from one of two image networks."""
    hours = {}
    for table, depth in (("2a", "R50"), ("2e", "R101")):
        run = rows.make_run(table, next(iter(rows.table_module(table).ROWS)), 0, laptop=False, changes=IMAGES)
        hours[depth] = f"{device_hours(run.start):.1f}"
    named = []
    for table in rows.TABLES:
        if found := re.search(r"after ([\d.]+)(?: and ([\d.]+))? for\s+the\s+images", rows.table_module(table).__doc__):
            named.append(table)
            both = [hours["R50"], hours["R101"]]
            assert [one for one in found.groups() if one] == (
                both if found[2] else [hours["R101" if table == "2e" else "R50"]]
            ), table
    assert len(named) == 8


def test_a_change_that_is_none_is_named():
    for change, message in (
        ("--config.optimizer.rate=1", r"config\.optimizer has no field 'rate'; valid: .*learning_rate"),
        ("--config.steps=many", "--config.steps=many: valid is a value of type int"),
        ("--config.steps", "'--config.steps' has no value"),
    ):
        with pytest.raises(InputError, match=message):
            rows.make_run("2a", "gaussian", 0, laptop=True, changes=[change])
    with pytest.raises(InputError, match="there is no table '2z'; choose from 2a"):
        rows.table_module("2z")


# ----------------------------------------------------------------------------------------------------------- tables
def result(seed, right):
    return results.Result(
        row="configs/table2a.py:x",
        config="0" * 10,
        seed=seed,
        commit="c",
        accuracy=float(np.mean(right)),
        parameters=1,
        macs=1,
        seconds=1.0,
        cpu_seconds=1.0,
        videos=len(right),
        list="l",
        correct=np.packbits(right).tobytes().hex(),
    )


def a_row(name, rights, paper=None, **changes):
    found = tuple(result(seed, right) for seed, right in enumerate(rights))
    fields = dict(
        name=name,
        baseline="base",
        paper=paper,
        paper_ratios=None,
        results=found,
        wanted=2,
        parameters=100,
        macs=100,
    )
    return tables.Row(**fields | changes)


def test_a_table_has_ours_beside_the_papers():
    base = np.arange(20) % 4 == 0
    better = base | (np.arange(20) % 4 == 1)
    table = [
        a_row("base", [base, base], 71.8),
        a_row("better", [better, better], 72.7, parameters=120, macs=150, paper_ratios=(1.2, 1.5)),
        a_row("half", [better], 72.5),
        a_row("none", [], 72.9),
    ]
    text = tables.markdown(table).splitlines()
    assert len(text) == 2 + 4
    assert text[2].startswith("| base | 2 | 25.0 ± 0.0 | 25 25 |  | 1.00x | 1.00x | 71.8 |  |")
    assert (
        text[3].startswith("| better | 2 | 50.0 ± 0.0 | 50 50 | +25.0 [+")
        and "| 1.20x | 1.50x | 72.7 | +0.9 |" in text[3]
    )
    assert text[3].endswith("| 1.2x, 1.5x |")
    assert "| half | not enough runs (1 of 2) | 50.0 | 50 |" in text[4]
    assert "| none | not enough runs (0 of 2) |  |  |  |" in text[5]
    page = tables.html_page("T", [("Table 2a: <f>", table, "2a.png")])
    assert page.count("<tr>") == 5 and "Table 2a: &lt;f&gt;" in page


def test_a_picture_is_drawn_where_runs_are_missing(tmp_path):
    tables.plot("Table", [a_row("base", [np.ones(8, bool)]), a_row("none", [], 72.0)], tmp_path / "t.png")
    assert (tmp_path / "t.png").stat().st_size > 1000


def test_what_was_right_survives_the_file(tmp_path):
    right = np.random.default_rng(0).random(13) < 0.5
    results.save(result(3, right), tmp_path)
    run = rows.make_run("2a", "gaussian", 3, laptop=True)
    results.save(dataclasses.replace(result(3, right), config=run.key), tmp_path)
    assert np.array_equal(results.load(run, tmp_path).right(), right)


def test_the_newest_result_of_a_run_counts_whatever_table_it_was_run_for(tmp_path):
    run = rows.make_run("2a", "gaussian", 3, laptop=True)
    assert results.load(run, tmp_path) is None
    for right in ([False, True], [True, True]):
        kept = dataclasses.replace(result(3, np.array(right)), config=run.key, row="configs/table2b.py:other,laptop")
        results.save(kept, tmp_path)
        assert results.load(run, tmp_path) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["table2b.jsonl"]


def test_a_line_that_is_no_result_is_named(tmp_path):
    (tmp_path / "table2a.jsonl").write_text('{"row": 1}\n')
    with pytest.raises(InputError, match=r"table2a\.jsonl, line 1, is not the result of a run"):
        results.load(rows.make_run("2a", "gaussian", 0, laptop=True), tmp_path)


def test_results_of_before_losses_were_kept_are_read(tmp_path):
    run = rows.make_run("2a", "gaussian", 0, laptop=True)
    fields = dataclasses.asdict(result(0, np.ones(8, bool)))
    del fields["losses"]
    (tmp_path / "table2a.jsonl").write_text(json.dumps(fields | {"config": run.key}) + "\n")
    assert results.load(run, tmp_path).losses == {}


# -------------------------------------------------------------------------------------------------------------- dip
def test_a_dip_is_the_largest_loss_above_that_of_the_baseline_with_the_same_seed():
    """Losses are at steps 50 to 500; the first 100 steps are early. Seed 1 of the baseline has no loss: no pair."""
    steps = [str(50 * i) for i in range(1, 11)]
    base, ours = a_row("base", [np.ones(8, bool)] * 3), a_row("ours", [np.ones(8, bool)] * 3)
    for row, of_seed in ((base, ([1.0] * 10, [], [2.0] * 10)), (ours, ([0.9] * 10, [9.0] * 10, [1.5] * 10))):
        for found, losses in zip(row.results, of_seed, strict=True):
            found.losses.update(zip(steps, losses, strict=False))
    ours.results[0].losses.update({"100": 1.02, "150": 1.3})
    ours.results[2].losses["500"] = 2.4
    found = dip.dips([base, ours])
    assert len(found) == 1 and (found[0].row, found[0].baseline, found[0].runs) == ("ours", "base", 2)
    assert (found[0].until, found[0].steps) == (100, 500)
    assert (found[0].early, found[0].all) == pytest.approx((0.02, 0.4))
    assert dip.markdown(found).splitlines()[-1] == "| ours | base | 2 | +0.020 (100) | +0.400 (500) |"
    assert dip.dips([base, a_row("none", [])]) == []


# --------------------------------------------------------------------------------------------------------- distance
def test_distance_is_that_of_the_cue_and_the_answer():
    data = LongRange("test", size=50, frames=16, drift=0)
    frames, pixels = distance.distances(data)
    for index in range(50):
        shots, label = data.compose(index)
        cue = next(shot for shot in shots if shot.kind == 10)
        answer = next(shot for shot in shots if shot.kind == label)
        assert answer.tint == cue.tint  # the answer is the digit with the tint of the cue
        middle = [(shot.frames.start + shot.frames.stop - 1) / 2 for shot in (cue, answer)]
        assert frames[index] == abs(middle[0] - middle[1])
        assert pixels[index] == pytest.approx(np.linalg.norm(cue.places[0] - answer.places[0]))


def test_groups_by_distance_hold_every_clip_once_and_equal_distances_together():
    values = np.repeat([1.0, 2.0, 3.0], [500, 300, 200])
    right = np.stack([values < 3, values < 2])
    found = distance.bins(right, values)
    assert sum(group.clips for group in found) == 1000
    assert all(later.low > group.high for group, later in itertools.pairwise(found))
    assert found[0].accuracy == 100 and found[0].interval == pytest.approx((100, 100))
    assert found[-1].accuracy < found[0].accuracy


# ------------------------------------------------------------------------------------------------- from end to end
TINY = [
    *("--config.steps=2", "--config.batch_size=8", "--config.recipe_batch_size=8", "--config.precise_bn_batches=1"),
    *("--config.optimizer.warmup_steps=1", "--config.data.test_size=16", "--config.data.validation_size=8"),
    *("--config.eval_batch_size=8", "--config.model.width=4", "--config.model.blocks_per_stage=(1,1,2,1)"),
    "--config.start.stage=",
]


def test_a_table_is_run_kept_and_run_no_second_time(tmp_path, capsys):
    places = [f"--{name}={tmp_path / name}" for name in ("workdirs", "results", "out")]
    command = ["2a", "--rows=baseline,dot_product", "--laptop", "--seeds=1", "--jobs=2", *places]
    with pytest.raises(SystemExit) as ended:
        reproduce.main([*command, *TINY])
    first = capsys.readouterr()
    assert not ended.value.code, first.err
    assert first.out.count("experiments.train --config=configs/table2a.py:") == 2
    saved = (tmp_path / "results" / "table2a.jsonl").read_text().splitlines()
    assert len(saved) == 2
    for line in saved:
        found = results.Result(**json.loads(line))
        assert found.videos == 16 and found.accuracy == pytest.approx(found.right().mean()) and found.cpu_seconds > 0
    assert "| dot_product | 1 |" in (tmp_path / "out" / "2a.md").read_text()
    assert "<td>dot_product</td>" in (tmp_path / "out" / "tables.html").read_text()

    with pytest.raises(SystemExit) as ended:
        reproduce.main([*command, "--seeds=2", "--show", "--distance", "--dip", *TINY])
    again = capsys.readouterr().out
    assert not ended.value.code and "experiments.train" not in again
    assert "| dot_product | not enough runs (1 of 2) |" in again and "accuracy by distance" in again
    assert "| dot_product | baseline | 1 | " in (tmp_path / "out" / "2a_dip.md").read_text()


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, capsys):
    places = [f"--{name}={tmp_path / name}" for name in ("workdirs", "results", "out")]
    with pytest.raises(SystemExit) as ended:
        reproduce.main(["2a", "--rows=baseline", "--laptop", "--seeds=1", *places, *TINY, "--config.steps=0"])
    assert ended.value.code == 1
    assert (
        "failed: configs/table2a.py:baseline,laptop, seed 0: error: steps=0 is out of range" in capsys.readouterr().err
    )


def test_bad_arguments_are_named(capsys):
    for arguments, message in (
        (["2z"], "there is no table '2z'"),
        (["2a", "--rows=x", "--laptop"], "there is no row 'x'"),
        (["2a", "--rows=baseline", "--baseline=res2", "--laptop"], "there is no row 'res2'"),
        (["2a", "--seeds=0"], "--seeds=0"),
        (["2a", "--laptop", "--bogus"], "unexpected argument '--bogus'"),
    ):
        with pytest.raises(SystemExit) as ended:
            reproduce.main(arguments)
        assert ended.value.code == 2 and message in capsys.readouterr().err
