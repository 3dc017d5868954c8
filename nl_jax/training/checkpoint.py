"""Saves and restores checkpoints of a run through Orbax: the model, the optimizer and the position in the batches.

The model holds the weights that the run tests. If the run tests an average of the weights, the weights themselves are
saved with the state of the optimizer. A resumed run continues from the weights themselves.
"""

import contextlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, EveryNSteps, LatestN

from nl_jax.errors import InputError, TrainingError
from nl_jax.places import Place, absolute, is_bucket
from nl_jax.training.optimizer import average_of
from nl_jax.training.step import TrainState

# Folder of a workdir for the state of a run that was asked to stop in the middle of its validation.
UNVALIDATED = "unvalidated"


class Checkpoints:
    """The checkpoints under WORKDIR/checkpoints, named by step.

    Three kinds are kept: the newest `keep`, the best by validation, and every multiple of `keep_every` steps.

    A save runs in the background, and a checkpoint gets its name only when it is whole. If a run is killed in the
    middle of a save, the checkpoint before it is the newest. An older checkpoint is deleted only after a save.

    Args:
      workdir: the workdir.
      keep: number of newest checkpoints to keep.
      keep_every: distance in steps of the checkpoints that are always kept; 0 for none.
      read_only: whether the checkpoints are only read.

    Raises:
      InputError: Orbax cannot write to `workdir`, or with `read_only` there are no checkpoints.
    """

    def __init__(self, workdir: Place, *, keep: int = 2, keep_every: int = 0, read_only: bool = False):
        check_can_hold(workdir)
        self._directory = absolute(workdir) / "checkpoints"
        if read_only and not self._directory.is_dir():
            raise InputError(f"{workdir} holds no checkpoints: nothing has been trained there yet")
        if read_only:
            options = {"read_only": True, "save_interval_steps": 0, "create": False}
        else:
            kept = [LatestN(keep), BestN(get_metric_fn=_figure, n=1, keep_checkpoints_without_metrics=False)]
            kept += [EveryNSteps(keep_every)] if keep_every else []
            # The rest of a killed save never counts as a checkpoint. This option frees its space.
            options = {"preservation_policy": AnyPreservationPolicy(kept), "cleanup_tmp_directories": True}
        self._manager = ocp.CheckpointManager(
            self._directory, options=ocp.CheckpointManagerOptions(best_fn=_figure, **options)
        )
        # TensorStore's errors are ValueErrors. Errors of a bucket's client have no common class.
        self._errors = (Exception,) if is_bucket(workdir) else (ValueError, OSError)
        self._whole = self.latest()

    def latest(self) -> int | None:
        """Returns the step of the newest whole checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Returns the step of the checkpoint with the highest figure of a validation, or None if there is none."""
        return self._manager.best_step()

    def save(self, state: TrainState, data_state: dict, figure: tuple[str, float] | None = None) -> None:
        """Starts a save in the background, after the previous save is whole.

        Args:
          state: the training state.
          data_state: the position in the batches, and other content for JSON.
          figure: name and value of the figure that ranks checkpoints, if this state has been validated.

        Raises:
          TrainingError: this save or the previous save cannot be written. The last whole checkpoint stays.
        """
        step = int(state.step)
        self.wait()
        if step in self._manager.all_steps():
            return
        model = {"params": state.tested_params(), "batch_stats": state.batch_stats}
        optimizer = _beside_model(state)
        self._check_space((model, optimizer))
        items = {
            "model": ocp.args.StandardSave(model),
            "optimizer": ocp.args.StandardSave(optimizer),
            "data": ocp.args.JsonSave(data_state),
        }
        metrics = {figure[0]: float(figure[1])} if figure else None
        with self._reported():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def check(self) -> None:
        """Raises TrainingError if the save in the background has failed. It does not wait for the save."""
        with self._reported():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until the last save is whole. Raises TrainingError if the save failed."""
        with self._reported():
            self._manager.wait_until_finished()
        self._whole = self.latest()

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """Returns the training state and the `data_state` of the newest checkpoint.

        Args:
          like: a state. The result has its shapes and its layout over devices, also if the checkpoint is from another
            mesh.

        Raises:
          InputError: there is no whole checkpoint, or it cannot be read.
        """
        restored = self._restore(
            self.latest(),
            model=_standard({"params": like.params, "batch_stats": like.batch_stats}),
            optimizer=_standard(_beside_model(like)),
            data=ocp.args.JsonRestore(),
        )
        return TrainState(**(restored["model"] | restored["optimizer"])), restored["data"]

    def restore_model(self, params, batch_stats, *, best: bool = False):
        """Returns only the parameters and the batch norm statistics of a checkpoint.

        Args:
          params: arrays, or shapes with shardings. The result is laid out like them.
          batch_stats: the same for the statistics.
          best: whether to read the best checkpoint by validation. By default it is the newest.

        Raises:
          InputError: there is no such checkpoint, or it cannot be read.
        """
        step = self.best() if best else self.latest()
        if best and step is None:
            raise InputError(f"no checkpoint in {self._directory} has been validated, so none is the best")
        model = self._restore(step, model=_standard({"params": params, "batch_stats": batch_stats}))["model"]
        return model["params"], model["batch_stats"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        """Waits until the last save is whole."""
        try:
            self.wait()
        except TrainingError:
            if kind is None:  # else the run already ends with an error, perhaps this one
                raise
        finally:
            with contextlib.suppress(Exception):  # errors of a failed save, which has been reported
                self._manager.close()

    def _restore(self, step, **items):
        if step is None:
            raise InputError(f"{self._directory} holds no whole checkpoint")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (*self._errors, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"the checkpoint {self._directory / str(step)} cannot be read: {reason}") from error

    def _check_space(self, saved) -> None:
        """Raises TrainingError if the disk has too little space. A bucket has no limit.

        All processes compare with the free space that the first process sees.
        """
        if is_bucket(self._directory):
            return
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(saved))
        free = shutil.disk_usage(self._directory).free
        if jax.process_count() > 1:
            free = int(multihost_utils.broadcast_one_to_all(np.float64(free)))
        if free < needed:
            raise TrainingError(self._failed(f"it takes {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free"))

    @contextlib.contextmanager
    def _reported(self):
        """Turns an error of the file system into a TrainingError of one line."""
        try:
            yield
        except self._errors as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(self._failed(reason)) from error

    def _failed(self, reason: str) -> str:
        kept = "no checkpoint is there yet" if self._whole is None else f"the checkpoint of step {self._whole} is whole"
        return (
            f"a checkpoint cannot be saved in {self._directory}: {reason}; {kept}. Make room and run the same command "
            "again: it continues from there"
        )


def check_can_hold(workdir: Place) -> None:
    """Checks that Orbax can write checkpoints to a workdir.

    Raises:
      InputError: the workdir is in a bucket, but not in a bucket of Google.
    """
    if is_bucket(workdir) and not str(workdir).startswith("gs:"):
        raise InputError(
            f"{workdir}: checkpoints are written to a file system or a bucket of Google (gs://), to no other; mount "
            "this one (mountpoint-s3) and give that folder"
        )


def _figure(metrics: dict[str, float]) -> float:
    (value,) = metrics.values()
    return value


def _beside_model(state: TrainState) -> dict:
    """Returns the rest of the state, with the weights themselves if the model holds their average."""
    found = {"step": state.step, "opt_state": state.opt_state}
    return found if average_of(state.opt_state) is None else found | {"params": state.params}


def _standard(tree):
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))


def newest_of(directory: Place, checkpoints: Checkpoints) -> Checkpoints | None:
    """Returns the checkpoints that hold the newest state of a workdir, or None if no state is saved.

    Args:
      directory: the workdir.
      checkpoints: the checkpoints of the workdir. A state in UNVALIDATED can be newer.

    Raises:
      InputError: the state in UNVALIDATED cannot be read.
    """
    found = [checkpoints]
    if (directory / UNVALIDATED).is_dir():
        found.append(Checkpoints(directory / UNVALIDATED, read_only=True))
    found = [checkpoints for checkpoints in found if checkpoints.latest() is not None]
    return max(found, key=lambda checkpoints: checkpoints.latest(), default=None)
