import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from configs import common
from nl_jax.data.embedded.long_range import LongRange
from nl_jax.data.loader import TrainBatches
from nl_jax.errors import InputError, Preempted, TrainingError
from nl_jax.runs.stages import train
from nl_jax.tasks import classification as classification_task
from nl_jax.tasks import clip_splits, restore_network, task_of
from nl_jax.training import run as training_run
from nl_jax.training import setup, sharding
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.logs import MetricsLog, read_metrics, timing
from nl_jax.training.workdir import check_workdir, read_classes, read_config


def final_arrays(directory):
    """Returns the parameters and statistics of the newest checkpoint."""
    mesh = sharding.make_mesh(-1, 1)
    return jax.device_get(restore_network(directory, mesh)[1:])


def rows_without_timing(directory):
    return [
        {name: value for name, value in row.items() if name not in timing("clip")}
        for row in read_metrics(directory / "metrics.csv")
    ]


def folder_data(folder):
    data = common.video_data()
    small = {"frames": 4, "crop": 24, "short_side": (24, 28), "test_short_side": 24, "test_crop": 24, "num_clips": 2}
    data.update(small | {"train": str(folder)})
    return data


def test_views_that_several_processes_cannot_test_are_refused_at_the_start(tiny, tmp_path, video_folder, monkeypatch):
    data = folder_data(video_folder)
    data.update({"test_crop": 0, "num_crops": 1})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"whole frames .* several processes need equal ones"):
        setup.check_run(task_of(tiny("c2d", {"data": data})), tmp_path)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    """Returns the workdir of a whole run."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    with jax.numpy_dtype_promotion("standard"):
        train(tiny(), directory)
    return directory


def test_a_run_leaves_what_it_says(tiny, uninterrupted, capsys):
    results = train(tiny(), uninterrupted)  # the run is finished, so only the final test runs again
    printed = capsys.readouterr().out
    assert "non-local block res3_0_nonlocal: dot_product" in printed
    assert "16 videos x 1 views of the test split" in printed
    assert json.loads((uninterrupted / "results.json").read_text()) == results
    assert results["videos"] == 16 and 0 <= results["video_top1"] <= 1 and "video_top5" not in results
    assert read_config(uninterrupted).steps == 6 and len(read_classes(uninterrupted)) > 1
    assert "dot_product" in (uninterrupted / "network.txt").read_text()
    assert "jax" in json.loads((uninterrupted / "versions.json").read_text())
    assert (uninterrupted / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((uninterrupted / "tensorboard").glob("events.out.tfevents.*"))
    rows = read_metrics(uninterrupted / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["validation_video_top1"]] == ["3", "6"]
    with np.load(uninterrupted / "predictions.npz") as predictions:
        top1 = (predictions["scores"].argmax(-1) == predictions["labels"]).mean()
    assert results["video_top1"] == top1


@pytest.mark.parametrize("steps_done", [1, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tiny, uninterrupted, tmp_path, monkeypatch, steps_done):
    calls = []

    def killed_put(batch, mesh, *parts, put=sharding.put_batch):
        calls.append(batch)
        if "label" in batch and sum("label" in b for b in calls) > steps_done:
            raise Killed
        return put(batch, mesh, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "put_batch", killed_put)
        with pytest.raises(Killed):
            train(tiny(), tmp_path)
    resumed = train(tiny(), tmp_path)
    assert resumed == json.loads((uninterrupted / "results.json").read_text())
    assert rows_without_timing(tmp_path) == rows_without_timing(uninterrupted)
    for found, expected in zip(final_arrays(tmp_path), final_arrays(uninterrupted), strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_asked_to_stop_saves_and_continues_bit_for_bit(tiny, uninterrupted, tmp_path, monkeypatch, number):
    def put(batch, mesh, *parts, put=sharding.put_batch, calls=iter(range(100))):  # noqa: B008
        if "label" in batch and next(calls) == 4:  # in the fifth step, after which no checkpoint is due
            signal.raise_signal(number)
        return put(batch, mesh, *parts)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "put_batch", put)
        with pytest.raises(Preempted, match="saved at step 5; the same command continues"):
            train(tiny(), tmp_path)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert train(tiny(), tmp_path) == json.loads((uninterrupted / "results.json").read_text())
    for found, expected in zip(final_arrays(tmp_path), final_arrays(uninterrupted), strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    "batch, message",
    [
        (0, "saved at step 3, before its validation"),  # the first of two batches for precise batch norm
        (3, "saved at step 6, before its validation"),
        (6, "step 6 is saved; the same command tests it"),  # the first of two test batches
    ],
)
def test_a_long_validation_or_test_is_left_and_taken_up_again(
    tiny, uninterrupted, tmp_path, monkeypatch, batch, message
):
    def put(arrays, mesh, *parts, put=sharding.put_batch, calls=iter(range(100))):  # noqa: B008
        if "label" not in arrays and next(calls) == batch:
            signal.raise_signal(signal.SIGTERM)
        return put(arrays, mesh, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "put_batch", put)
        with pytest.raises(Preempted, match=message):
            train(tiny(), tmp_path)
    assert train(tiny(), tmp_path) == json.loads((uninterrupted / "results.json").read_text())
    assert rows_without_timing(tmp_path) == rows_without_timing(uninterrupted)
    for found, expected in zip(final_arrays(tmp_path), final_arrays(uninterrupted), strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert Checkpoints(tmp_path, read_only=True).best() == Checkpoints(uninterrupted, read_only=True).best()
    assert not (tmp_path / training_run.UNVALIDATED).exists()


def test_a_finished_run_only_repeats_its_figure(tiny, uninterrupted):
    before = final_arrays(uninterrupted)
    again = train(tiny(), uninterrupted)
    assert again == json.loads((uninterrupted / "results.json").read_text())
    jax.tree.map(np.testing.assert_array_equal, final_arrays(uninterrupted), before)


def test_another_config_is_refused_and_another_way_of_running_it_is_not(tiny, uninterrupted):
    with pytest.raises(InputError, match=r"another config: optimizer\.learning_rate was \S+ and is now 0\.5"):
        train(tiny(changes={"optimizer.learning_rate": 0.5}), uninterrupted)
    train(tiny(changes={"mesh.fsdp": 2, "log_every": 5}), uninterrupted)


def test_a_run_of_before_a_field_was_there_goes_on(tiny, uninterrupted, tmp_path):
    task = task_of(tiny())
    train_set = task.open_split("train")
    for name in ("config.json", "classes.json", "train_list.json"):
        shutil.copy(uninterrupted / name, tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    del fields["loss"], fields["optimizer"]["ema"], fields["optimizer"]["decay_at"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    check_workdir(tmp_path, task, train_set)
    with pytest.raises(InputError, match=r"another config: optimizer\.ema was 0\.0 and is now 0\.9\. Choose"):
        check_workdir(tmp_path, task_of(tiny(changes={"optimizer.ema": 0.9})), train_set)


def test_videos_may_move_but_not_change(tiny, tmp_path, video_folder):
    def changes(folder):
        data = folder_data(folder)
        data.clips_per_decode = 2
        return {"data": data, "steps": 3}

    with pytest.raises(InputError, match=r"data.clips_per_decode=3: valid is .* divides 16,"):
        train(tiny("c2d", changes(video_folder) | {"data.clips_per_decode": 3}), tmp_path / "run")
    train(tiny("c2d", changes(video_folder)), tmp_path / "run")
    moved = tmp_path / "elsewhere"
    shutil.copytree(video_folder, moved)
    train(tiny("c2d", changes(moved)), tmp_path / "run")
    shutil.copy(moved / "flower/clip.mp4", moved / "flower/more.mp4")
    with pytest.raises(InputError, match=r"was trained on 4 videos, list \w+, and data.train now has 5, list \w+"):
        train(tiny("c2d", changes(moved)), tmp_path / "run")


def test_a_head_is_taken_over_by_its_classes_not_their_number(tiny, tmp_path, capsys, video_folder):
    data = folder_data(video_folder)
    train(tiny("c2d", {"data": data, "steps": 3}), tmp_path / "first")
    for name, other in (("same", video_folder), ("other", tmp_path / "renamed")):
        if name == "other":
            shutil.copytree(video_folder, other)
            (other / "flower").rename(other / "bloom")
        capsys.readouterr()
        config = tiny("c2d", {"data": folder_data(other), "steps": 3, "start.workdir": str(tmp_path / "first")})
        train(config, tmp_path / name, start_from=tmp_path / "first")
        left = capsys.readouterr().out.split("left at initialization: ")[1].splitlines()[0]
        assert left == {"same": "none", "other": "classifier/fc"}[name]


def test_a_start_that_saw_other_inputs_is_refused(tiny, tmp_path, uninterrupted):
    config = tiny(changes={"input.mean": (0.5, 0.5, 0.5)})
    with pytest.raises(InputError, match=r"input\.mean=\(0\.45, .* this run has input\.mean=\(0\.5, "):
        train(config, tmp_path, start_from=uninterrupted)


def test_statistics_of_blocks_alone_are_made_precise(tiny, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        training_run, "precise_batch_stats", lambda m, params, stats, videos: calls.append(len(stats)) or stats
    )
    train(tiny(changes={"model.norm": "affine", "model.nonlocal_options.norm": "batch"}), tmp_path / "block")
    assert calls == [2, 2]  # mean and variance of the block's norm, at steps 3 and 6
    train(tiny(changes={"model.norm": "affine"}), tmp_path / "none")
    assert len(calls) == 2


@pytest.mark.parametrize(
    "field, value, valid",
    [
        ("model.dropout", 1.5, "0 up to"),
        ("model.dropout", -0.1, "0 up to"),
        ("model.width", 0, "1 or more"),
        ("model.blocks_per_stage", (1, 0), "1 or more a stage"),
        ("optimizer.momentum", 1.0, "0 up to"),
        ("optimizer.learning_rate", -1.0, "0 or more"),
        ("optimizer.warmup_steps", -1, "0 or more"),
        ("optimizer.decay_every", 0, "1 to 2147483647"),
        ("num_workers", -1, "0 or more"),
        ("seed", -1, "0 to 4294967295"),
        ("steps", 0, "1 to 2147483647"),
        ("skip_nonfinite", -1, "0 or more"),
        ("input_warning", 0.0, "more than 0"),
        ("seed", 2**32, "0 to 4294967295"),  # JAX would give the weights of seed 0
        ("optimizer.learning_rate", float("inf"), "0 or more"),
    ],
)
def test_numbers_out_of_range_are_named(tiny, tmp_path, field, value, valid):
    config = tiny(changes={field: value})
    with pytest.raises(InputError, match=rf"{field.rpartition('.')[2]}=.* is out of range; choose {valid}"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_labels_are_measured_by_mean_average_precision(tiny, tmp_path, monkeypatch, capsys):
    class Several(LongRange):
        """The clip contains the digit asked for and the next one."""

        multi_label = True

        def train_example(self, index, rng=None):
            example = super().train_example(index)
            label = np.zeros(len(self.classes), np.float32)
            label[[example["label"], (example["label"] + 1) % len(self.classes)]] = 1
            return example | {"label": label}

    monkeypatch.setattr(clip_splits, "LongRange", Several)
    results = train(tiny(changes={"optimizer.learning_rate": 0.01}), tmp_path)
    with np.load(tmp_path / "predictions.npz") as predictions:
        scores, labels = predictions["view_scores"].max(axis=1), predictions["labels"]
    assert results["video_map"] == pytest.approx(np.mean(average_precision_score(labels, scores, average=None)))
    assert "video_top1" not in results and ((scores > 0) & (scores < 1)).all()
    assert "video mean average precision" in capsys.readouterr().out
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [bool(row["validation_video_map"]) for row in rows] == [False, False, True] * 2


def test_start_from_another_network(tiny, tmp_path, capsys):
    train(tiny("images", {"steps": 3}), tmp_path / "images")
    config = tiny("nl_c2d", {"model.inflate": "3x1x1", "start.workdir": str(tmp_path / "images"), "steps": 3})
    train(config, tmp_path / "video", start_from=tmp_path / "images")
    assert "arrays taken over, 3 of them inflated in time" in capsys.readouterr().out


def test_batch_norm_is_folded_where_long_clips_have_affine(tiny, tmp_path, uninterrupted, capsys):
    config = tiny(changes={"model.norm": "affine", "optimizer.learning_rate": 0.0})
    results = train(config, tmp_path / "long", start_from=uninterrupted)
    assert "10 batch norms were folded into affine layers" in capsys.readouterr().out
    before, after = (np.load(path / "predictions.npz")["scores"] for path in (uninterrupted, tmp_path / "long"))
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert results["video_top1"] == json.loads((uninterrupted / "results.json").read_text())["video_top1"]


def test_a_loss_that_is_not_finite_stops_with_step_and_learning_rate(tiny, tmp_path):
    config = tiny(changes={"optimizer.learning_rate": 1e30, "optimizer.warmup_steps": 0, "log_every": 4})
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step [23], learning rate .*e\+"):
        train(config, tmp_path)


def poisoned(monkeypatch, steps):
    """Makes the normalized videos of these steps (from 0) NaN. Returns the indices of their examples."""
    seen = []

    def put(batch, mesh, accumulate=1, put=sharding.put_batch, calls=iter(range(100))):  # noqa: B008
        if "label" in batch and next(calls) in steps:
            batch = batch | {"video": np.full_like(batch["video"], 255)}
        return put(batch, mesh, accumulate)

    def next_batch(self, make=TrainBatches.__next__):
        batch = make(self)
        if self.get_state()["next_batch"] - 1 in steps:
            seen.append(batch["index"])
        return batch

    def make_normalize(config, make=classification_task.make_normalize):
        normalize = make(config)
        return lambda video: jnp.where((video == 255).all(), jnp.nan, normalize(video))

    monkeypatch.setattr(sharding, "put_batch", put)
    monkeypatch.setattr(TrainBatches, "__next__", next_batch)
    monkeypatch.setattr(classification_task, "make_normalize", make_normalize)
    return seen


def test_the_batch_of_a_loss_that_is_not_finite_is_written_down(tiny, tmp_path, monkeypatch):
    seen = poisoned(monkeypatch, {1})
    with pytest.raises(TrainingError, match=r"the loss is nan at step 2, learning rate \S+, batch 1, .*step2\.csv"):
        train(tiny(changes={"log_every": 4, "checkpoint_every": 4, "eval_every": 0}), tmp_path)
    written = (tmp_path / "nonfinite_step2.csv").read_text().splitlines()
    assert written[0] == "index,path" and [int(row.split(",")[0]) for row in written[1:]] == seen[0].tolist()


def test_steps_that_are_not_finite_are_skipped_and_counted_if_asked(tiny, tmp_path, monkeypatch):
    poisoned(monkeypatch, {1, 4})
    changes = {"steps": 5, "skip_nonfinite": 1, "eval_every": 0, "log_every": 2}
    for _ in range(2):  # the skipped step before the run was resumed counts
        with pytest.raises(TrainingError, match="the loss is nan at step 5 after 1 skipped steps"):
            train(tiny(changes=changes), tmp_path)
        poisoned(monkeypatch, {0})  # step 5 of a run that continues at step 4
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["skipped_steps"] for row in rows] == ["1", "1"] and np.isfinite(float(rows[0]["train_loss"]))
    mesh = sharding.make_mesh(-1, 1)
    for arrays in restore_network(tmp_path, mesh)[1:]:
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_debug_nans_stops_at_the_operation(tiny, tmp_path, monkeypatch):
    poisoned(monkeypatch, {1})
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match=r"nan.* encountered in (jit\()?\w+"):
        train(tiny(changes={"eval_every": 0, "steps": 3}), tmp_path)


def test_steps_are_traced_if_asked_and_timed(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "peak_flops", lambda dtype: 1e12)
    results = train(tiny(changes={"eval_every": 0, "steps": 3}), tmp_path, profile_steps=(1, 2))
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    row = read_metrics(tmp_path / "metrics.csv")[-1]
    assert all(float(row[f"{part}_seconds"]) > 0 for part in ("input", "compute", "checkpoint"))
    used = 6 * results["macs"] * float(row["clips_per_second"]) / 1e12  # three forward passes, a multiply and an add
    assert float(row["flops_utilisation"]) == pytest.approx(used)


def test_a_batch_that_the_devices_do_not_divide_is_refused_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(InputError, match="batch_size=12"):
        train(tiny(changes={"batch_size": 12}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_with_split_frames_and_batches_in_parts_of_a_recipe_for_half_the_clips(tiny, tmp_path, capsys):
    changes = {"recipe_batch_size": 8, "accumulate_steps": 2, "mesh.time": 2, "optimizer.learning_rate": 0.002}
    results = train(tiny(changes=changes), tmp_path)
    assert "learning_rate 0.002 -> 0.004, steps 6 -> 3, " in capsys.readouterr().out
    assert results["steps"] == 3 and read_config(tmp_path).optimizer.learning_rate == 0.004
    assert all(np.isfinite(float(row["train_loss"])) for row in read_metrics(tmp_path / "metrics.csv"))
    again = train(tiny(changes=changes | {"accumulate_steps": 1, "mesh.time": 1}), tmp_path)
    assert again["video_top1"] == results["video_top1"]  # the changed fields do not change the result


def test_frames_that_the_mesh_does_not_divide_are_refused_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(InputError, match=r"mesh\.time=8 does not divide the frames .*clip 12, .* one of \[1, 2, 4\]"):
        train(tiny(changes={"mesh.time": 8, "data.frames": 12}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_classes_than_the_config_says(tiny, tmp_path):
    with pytest.raises(InputError, match=r"num_classes=400, but the training data has \d+ classes"):
        train(tiny(changes={"num_classes": 400}), tmp_path / "run")


def test_rows_after_the_checkpoint_and_half_written_ones_are_dropped(tiny, tmp_path):
    task = task_of(tiny())
    with MetricsLog(tmp_path, 0, task) as log:
        for step in (1, 2, 3):
            log.write(step, {"train_loss": 1.0 / step})
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("4,0.1")
    with MetricsLog(tmp_path, 2, task) as log:
        log.write(3, {"train_loss": 9.0})
    rows = [(row["step"], row["train_loss"]) for row in read_metrics(tmp_path / "metrics.csv")]
    assert rows == [("1", "1.0"), ("2", "0.5"), ("3", "9.0")]


def test_a_workdir_that_cannot_be_made_or_read(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"the directory .*file cannot be made: File exists"):
        train(tiny(), tmp_path / "file")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text('{"seed": ')
    with pytest.raises(InputError, match=r"cut/config\.json cannot be read"):
        train(tiny(), tmp_path / "cut")


def test_a_network_that_does_not_fit_the_clips(tiny, tmp_path):
    config = tiny(changes={"data.side": 16, "data.frames": 5, "model.geometry": "caffe2_32"})
    with pytest.raises(InputError, match=r"the network does not fit clips of shape \(5, 16, 16\)"):
        train(config, tmp_path / "run")


def test_the_best_checkpoint_is_that_of_the_best_validation(tiny, uninterrupted):
    validated = [row for row in read_metrics(uninterrupted / "metrics.csv") if row["validation_video_top1"]]
    best = max(validated, key=lambda row: (float(row["validation_video_top1"]), int(row["step"])))
    assert Checkpoints(uninterrupted, read_only=True).best() == int(best["step"])
    found = restore_network(uninterrupted, sharding.make_mesh(-1, 1), best=True)[1:]
    assert [set(arrays) for arrays in found] == [set(arrays) for arrays in final_arrays(uninterrupted)]
