"""The training run, top to bottom: set up, start or resume, train, evaluate."""

import itertools
import shutil
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console

from nl_jax.data.loader import TrainBatches
from nl_jax.errors import Preempted
from nl_jax.evaluation.views import predict
from nl_jax.models import VideoResNet, flat
from nl_jax.training import recipe, sharding, start, state, workdir
from nl_jax.training.checkpoint import Checkpoints
from nl_jax.training.chips import peak_flops
from nl_jax.training.logs import VALIDATION, BadVideos, MetricsLog
from nl_jax.training.nonfinite import NonFinite
from nl_jax.training.precise_bn import make_moments, precise_batch_stats
from nl_jax.training.preemption import Preemption
from nl_jax.training.progress import make_progress, show_step
from nl_jax.training.schedule import make_optimizer, make_schedule
from nl_jax.training.setup import check_run, make_resnet_config, measured_on
from nl_jax.training.step import make_forward, make_normalize, make_train_step
from nl_jax.training.times import Profile, Times
from nl_jax.training.watchdog import Watchdog

# Under a workdir: the state of a run that was asked to end in the middle of its validation.
UNVALIDATED = "unvalidated"


def train(
    config: ConfigDict,
    directory: Path,
    start_from: Path | None = None,
    profile_steps: tuple[int, int] | None = None,
) -> dict[str, float | int | str]:
    """Trains `config` in `directory`, or goes on where an earlier call stopped, and returns the test metrics.

    Args:
      config: as those under `configs`; `configs/common.py` explains every field.
      directory: the workdir.
      start_from: the workdir of the network to start from, inflated in time where this one has temporal kernels.
      profile_steps: the first step to trace into `directory`/profile, and the one after the last.

    Raises:
      InputError: for a config that cannot be run.
      TrainingError: when the loss is not finite or a checkpoint cannot be saved.
      Preempted: on SIGTERM or Ctrl-C, once the state is saved.
    """
    is_main = jax.process_index() == 0
    console = Console(quiet=not is_main, highlight=False, markup=False, soft_wrap=True)
    say = console.print

    # ------------------------------------------------------------------------------------------- mesh and data
    config, given = recipe.at_batch_size(config), config
    if note := recipe.describe(given, config):
        say(note)
    mesh, (train_set, validation_set, test_set), description = check_run(config, directory)
    if ignored := getattr(train_set, "ignored", ()):
        say(f"{len(ignored)} files under {config.data.train} are not taken for videos: {', '.join(ignored[:10])}")

    parts = config.accumulate_steps

    def make_batches(seed, batch_size, parts=1):
        rows = sharding.local_rows(mesh, batch_size, parts)
        return TrainBatches(train_set, batch_size=batch_size, seed=seed, num_workers=config.num_workers, rows=rows)

    # ------------------------------------------------------------------------------------------------- network
    resnet = make_resnet_config(config.model, len(train_set.classes))
    schedule = make_schedule(config.optimizer, config.steps)
    optimizer = make_optimizer(config.optimizer, schedule)
    if is_main:
        workdir.claim(directory, config, train_set)
        (directory / "network.txt").write_text(f"{description}\n")
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    say(f"{directory}: {config.steps} steps of {config.batch_size} clips on {mesh.size} device(s){processes}")
    say(str(description))

    # ---------------------------------------------------------------------------------------- start or resume
    graphdef, _, _ = flat.abstract(lambda: VideoResNet(resnet, rngs=nnx.Rngs(0)))
    train_state = state.create(lambda rngs: VideoResNet(resnet, rngs=rngs), optimizer, mesh, config.seed)
    batches = make_batches(config.seed, config.batch_size, parts)
    checkpoints = Checkpoints(directory, keep=config.keep_checkpoints, keep_every=config.keep_every)
    newest, data_state = _newest(directory, checkpoints), {}
    if newest is not None:
        train_state, data_state = newest.restore(train_state)
        batches.set_state(data_state)
        say(f"resumed at step {int(train_state.step)}")
    elif start_from is not None:
        train_state, report = start.take_over(train_state, start_from, config, train_set.classes, mesh)
        say(f"started from {start_from}: {report}")
    if int(train_state.step) == 0:
        start.check_blocks_can_learn(resnet, train_state.params)

    # ------------------------------------------------------------------------------------------------ training
    normalize = make_normalize(config.input)
    skip = config.skip_nonfinite > 0
    train_step = make_train_step(
        graphdef, normalize, optimizer, schedule, mesh, train_state, parts, skip_nonfinite=skip
    )
    forward = make_forward(graphdef, normalize, mesh, multi_label=train_set.multi_label)
    moments = make_moments(graphdef, normalize, mesh)
    dropout_key, precise_seed = _other_seeds(config.seed)
    rows = sharding.local_rows(mesh, config.batch_size, parts)
    bad_videos = BadVideos(directory, train_set, config.max_bad_videos, rows)
    process = jax.process_index() if jax.process_count() > 1 else None
    skipped = data_state.get("skipped_steps", 0)
    nonfinite = NonFinite(directory, train_set, config.skip_nonfinite, process, skipped)
    watchdog = Watchdog(say, warn_after=config.input_warning, end_after=config.input_timeout)
    times, peak = Times(), peak_flops(config.model.dtype)
    preemption, progress = Preemption(), make_progress(console)

    def watched(what):
        return lambda batches: preemption.over(watchdog.over(batches, what))

    def evaluate(dataset, title):
        task = progress.add_task(title, total=len(dataset), status="")
        predictions = predict(
            lambda video: forward(train_state.params, train_state.batch_stats, video),
            lambda batch: sharding.put_batch(batch, mesh),
            dataset,
            batch_size=config.eval_batch_size,
            num_workers=config.num_workers,
            rows=sharding.local_rows(mesh, config.eval_batch_size),
            on_batch=lambda videos: progress.update(task, completed=videos),
            watch=watched(f"batch for {title}"),
        )
        progress.remove_task(task)
        for index in predictions.failed.nonzero()[0]:
            say(f"cannot be decoded, counted as wrong: {dataset.names[index]}: {dataset.failure_reason(int(index))}")
        return predictions

    def save(checkpoints, validation=None, **more):
        data_state = batches.get_state() | {"skipped_steps": nonfinite.skipped} | more
        checkpoints.save(train_state, data_state, validation)

    def after(step, row, *, validate, keep, stop=False):
        """Validates, logs and saves this state, whichever are due, and ends the run where it is asked to."""
        nonlocal train_state
        found = None
        if validate:
            before = train_state
            try:
                if resnet.has_running_statistics():
                    part = make_batches(precise_seed, config.batch_size // parts)
                    watch, count = watched("batch for precise batch norm"), config.precise_bn_batches * parts
                    precise = _precise_batch_stats(moments, train_state, part, count, mesh, watch)
                    train_state = train_state.replace(batch_stats=precise)
                found = evaluate(validation_set, "validating").metrics()
            except Preempted:
                train_state = before
                with Checkpoints(directory / UNVALIDATED, keep=1) as unvalidated:
                    save(unvalidated, row=row)
                raise Preempted(
                    f"asked to end: saved at step {step}, before its validation; the same command goes on from there"
                ) from None
            row |= {f"validation_{name}": found[name] for name in found if name in VALIDATION}
        log.write(step, row)
        done = step - first_step
        left = (time.monotonic() - began) / done * (config.steps - step) / 60 if done else None
        show_step(progress, task, step, config.steps, row, left)
        checkpoints.check()
        if keep:
            with times.of("checkpoint"):
                save(checkpoints, found)
        if stop:
            checkpoints.wait()
            raise Preempted(f"asked to end: saved at step {step}; the same command goes on from there")

    first_step = step = int(train_state.step)
    owed = data_state.get("row")  # of this step, in whose validation the run was asked to end
    pending, indices, began = [], [], time.monotonic()
    with (
        preemption,
        checkpoints,
        closing(batches),
        closing(Profile(directory / "profile", profile_steps)) as profile,
        MetricsLog(directory, step - bool(owed), enabled=is_main) as log,
        watchdog,
        progress,
    ):
        task = progress.add_task("training", total=config.steps, completed=step, status="")
        if owed:
            after(step, owed, validate=True, keep=True)
        since = time.monotonic()
        while step < config.steps:
            profile.before(step)
            with times.of("input"), watchdog.waiting_for(f"batch {step}"):
                batch = next(batches)
            for line in bad_videos.add(batch.pop("failed")):
                say(f"cannot be decoded, replaced by another: {line}")
            indices.append(batch.pop("index"))
            with times.of("compute"):
                train_state, metrics = train_step(train_state, sharding.put_batch(batch, mesh, parts), dropout_key)
                pending.append(metrics)
                # Steps are queued, and with each its batch on the device: one waits there while one is computed.
                jax.block_until_ready(pending[-2:-1])
            step += 1
            profile.after(step, metrics)
            progress.advance(task)

            last = step == config.steps
            stop = preemption.asked() and not last
            validate = last or (config.eval_every and step % config.eval_every == 0)
            # What has been validated is saved, so that the best can be kept.
            keep = stop or validate or step % config.checkpoint_every == 0
            if not (keep or step % config.log_every == 0):
                continue
            for line in bad_videos.exchange():
                say(f"cannot be decoded, replaced by another: {line}")
            with times.of("compute"):
                fetched = jax.device_get(pending)
            row = _mean_metrics(nonfinite.finite(fetched, indices, step)) | times.take(len(pending))
            row["learning_rate"], row["skipped_steps"] = float(fetched[-1]["learning_rate"]), nonfinite.skipped
            row["clips_per_second"] = len(pending) * config.batch_size / (time.monotonic() - since)
            if peak:
                row["flops_utilisation"] = 6 * description.macs * row["clips_per_second"] / peak
            after(step, row, validate=validate, keep=keep, stop=stop)
            pending, indices, since = [], [], time.monotonic()

    # -------------------------------------------------------------------------------------------- final figure
    try:
        with preemption, watchdog, progress:
            predictions = evaluate(test_set, "testing")
    except Preempted:
        raise Preempted(f"asked to end: step {step} is saved; the same command tests it") from None
    if is_main:
        shutil.rmtree(directory / UNVALIDATED, ignore_errors=True)
    results = predictions.metrics() | {
        "measured_on": measured_on(config.data, "test"),
        "chance": 1 / len(train_set.classes),
        "steps": step,
        "parameters": description.parameters,
        "macs": description.macs,
        "bad_training_videos": len(bad_videos.indices),
    }
    if is_main:
        predictions.save(directory / "predictions.npz", test_set)
        workdir.write_json(directory / "results.json", results)
    say(describe_results(results))
    return results


def describe_results(results: dict[str, float | int | str]) -> str:
    """The final figure as a sentence that says what it was measured on."""
    if "video_map" in results:
        figure, chance = f"video mean average precision {results['video_map']:.1%}", ""
    else:
        figure = (
            f"video top-1 {results['video_top1']:.1%}, top-5 {results['video_top5']:.1%}; "
            f"clip top-1 {results['clip_top1']:.1%}, top-5 {results['clip_top5']:.1%}"
        )
        chance = f"; chance {results['chance']:.1%}"
    lines = [
        f"{figure} ({results['videos']} videos x {results['views']} views of {results['measured_on']}, "
        f"list {results['list']}{chance})"
    ]
    if results["undecodable"]:
        lines.append(f"{results['undecodable']} of these videos could not be decoded and count as wrong")
    if results.get("bad_training_videos"):
        lines.append(f"{results['bad_training_videos']} training videos could not be decoded: see bad_videos.csv")
    return "\n".join(lines)


def _other_seeds(seed: int) -> tuple[jax.Array, int]:
    """Of dropout and of the batches for precise BN: unlike those of training, for every seed."""
    return jax.random.fold_in(jax.random.key(seed), 1), int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


def _newest(directory: Path, checkpoints: Checkpoints) -> Checkpoints | None:
    """Where the state to go on from is, if there is one."""
    found = [checkpoints]
    if (directory / UNVALIDATED).is_dir():
        found.append(Checkpoints(directory / UNVALIDATED, read_only=True))
    found = [checkpoints for checkpoints in found if checkpoints.latest() is not None]
    return max(found, key=lambda checkpoints: checkpoints.latest(), default=None)


def _precise_batch_stats(moments, train_state, batches, count, mesh, watch):
    with closing(batches):
        watched = itertools.islice(watch(batches), count)
        videos = (sharding.put_batch({"video": batch["video"]}, mesh)["video"] for batch in watched)
        precise = precise_batch_stats(moments, train_state.params, train_state.batch_stats, videos)
    return jax.device_put(precise, jax.tree.map(lambda array: array.sharding, train_state.batch_stats))


def _mean_metrics(steps: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Means since the last row, of the steps that were not skipped."""
    names = {"loss": "train_loss", "top1": "train_top1", "grad_norm": "grad_norm"}
    return {new: float(np.mean([step[name] for step in steps])) if steps else np.nan for name, new in names.items()}
