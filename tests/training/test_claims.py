"""The claims of a run: it takes a workdir only after all checks, and its figures say no more than they measure."""

import jax
import numpy as np
import pytest

from configs import common, kinetics
from nl_jax.errors import InputError
from nl_jax.evaluation.views import Predictions
from nl_jax.runs.stages import train, train_chain
from nl_jax.tasks import classification, task_of
from nl_jax.training.logs import make_console, make_progress, show_step
from nl_jax.training.processes import lock


def of_folder(tiny, folder, **paths):
    data = common.video_data()
    small = {"frames": 4, "crop": 24, "short_side": (24, 28), "test_short_side": 24, "test_crop": 24, "num_clips": 2}
    data.update(small | {"train": str(folder)} | {name: str(path) for name, path in paths.items()})
    return tiny("c2d", {"data": data})


def labels(task):
    return {column: label for drawing in task.curves for column, label in drawing.lines.items()}


@pytest.mark.parametrize("validated", [False, True])
def test_figures_of_the_training_videos_are_named_so(validated, tiny, video_folder, capsys):
    task = task_of(of_folder(tiny, video_folder, **({"validation": video_folder} if validated else {})))
    name = "validation videos, top-1" if validated else "the training videos, top-1"
    assert labels(task)["validation_video_top1"] == name
    console = make_console()
    row = {"train_loss": 1.0, "train_top1": 0.5, "clips_per_second": 3.0, "validation_video_top1": 1.0}
    with make_progress(console) as progress:
        show_step(progress, progress.add_task("training", status=""), task, 1, row, None)
    printed = capsys.readouterr().out
    assert ("  validation top-1 100.0%" in printed) == validated
    assert ("  the training videos top-1 100.0%" in printed) == (not validated)
    assert task.measured_on("test") == (
        "the validation videos (data.test is not given)"
        if validated
        else "the training videos (data.test is not given)"
    )


def test_a_config_without_videos_is_a_task():
    """A plan and an import of weights use a config like this."""
    assert task_of(kinetics.get_config("nl5_i3d_r50")).validated_on == "validation"


@pytest.mark.parametrize("norm, said", [("batch", True), ("global", True), ("affine", False), ("frozen", False)])
def test_training_accuracy_by_statistics_of_the_batch_says_so(norm, said, tiny):
    task = task_of(tiny("c2d", {"model.norm": norm}))
    assert labels(task)["train_top1"].endswith(", by statistics of the batch") == said
    assert "statistics" not in str(classification.Classification.curves), "other runs keep their labels"


@pytest.mark.parametrize("classes", [2, 5, 6])
def test_top_5_of_five_classes_and_fewer_is_not_shown(classes, tiny):
    scores = np.eye(classes, dtype=np.float32)
    found = Predictions(scores, scores[:, None], np.zeros(classes, np.int32), np.zeros(classes, bool), "hash")
    task = task_of(tiny())
    results = found.metrics() | {"measured_on": "x", "chance": 1 / classes}
    assert results["video_top1"] == pytest.approx(1 / classes)
    for text in (str(results), task.describe(results)):
        assert ("top5" in text or "top-5" in text) == (classes > 5)


def test_one_class_is_nothing_to_learn(tiny, video_folder, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "pagoda").symlink_to(video_folder / "pagoda")
    with pytest.raises(InputError, match="one: found one class, pagoda: valid are two or more"):
        train(of_folder(tiny, tmp_path / "one"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refused_start_claims_nothing_and_the_mended_command_goes_on(tiny, tmp_path):
    refused = {"model.norm": "frozen", "steps": 3, "eval_every": 0}
    with pytest.raises(InputError, match=r"set model\.nonlocal_options\.norm=batch"):
        train(tiny(changes=refused), tmp_path)
    assert not (tmp_path / "config.json").exists()
    results = train(tiny(changes=refused | {"model.nonlocal_options.norm": "batch"}), tmp_path)
    assert results["steps"] == 3


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"model.norm": "frozen"}, r"norm/scale is zero and frozen, so the block would stay"),
        (
            {"model.geometry": "paper"},
            r"conv1/kernel has shape \(1, 5, 5, 3, 4\) in the starting network and \(1, 7, 7",
        ),
    ],
)
def test_a_chain_is_refused_before_its_first_stage_is_trained(wrong, message, tiny, tmp_path):
    config = tiny(changes={"start.stage": "configs/quickstart.py:images"} | wrong)
    with pytest.raises(InputError, match=message):
        train_chain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_processes_of_a_refused_run_all_hear_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(lock.multihost_utils, "broadcast_one_to_all", lambda mine: np.int32(0))
    with pytest.raises(InputError, match="in use by another run; process 0 says by which"), lock.only_run(tmp_path):
        pass
