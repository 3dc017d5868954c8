"""Checkpoints of a run through Orbax: the model, the optimiser and the place of the data iterator."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from nl_jax.errors import InputError
from nl_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints under WORKDIR/checkpoints, named by step; the newest `keep` are kept.

    Saving goes on in the background, and a checkpoint appears under its name only when it is whole: killing a run in
    the middle of a save leaves the one before as the newest.
    """

    def __init__(self, workdir: Path, *, keep: int = 2, read_only: bool = False):
        self._directory = workdir.absolute() / "checkpoints"
        if read_only and not self._directory.is_dir():
            raise InputError(f"{workdir} holds no checkpoints: nothing has been trained there yet")
        if read_only:
            options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
        else:
            options = ocp.CheckpointManagerOptions(max_to_keep=keep)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, data_state: dict[str, int]) -> None:
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        model = {"params": state.params, "batch_stats": state.batch_stats}
        optimizer = {"step": state.step, "opt_state": state.opt_state}
        items = {
            "model": ocp.args.StandardSave(model),
            "optimizer": ocp.args.StandardSave(optimizer),
            "data": ocp.args.JsonSave(data_state),
        }
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, int]]:
        """The newest checkpoint, laid out over devices as `like` is, whatever mesh it was saved from."""
        restored = self._restore(
            model=_standard({"params": like.params, "batch_stats": like.batch_stats}),
            optimizer=_standard({"step": like.step, "opt_state": like.opt_state}),
            data=ocp.args.JsonRestore(),
        )
        return TrainState(**restored["model"], **restored["optimizer"]), restored["data"]

    def restore_model(self, params, batch_stats):
        """Parameters and statistics alone, laid out as the given ones (arrays, or shapes with shardings) are."""
        model = self._restore(model=_standard({"params": params, "batch_stats": batch_stats}))["model"]
        return model["params"], model["batch_stats"]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        """Waits for the last save to be whole."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _restore(self, **items):
        step = self.latest()
        if step is None:
            raise InputError(f"{self._directory} holds no whole checkpoint")
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, OSError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"the checkpoint {self._directory / str(step)} cannot be read: {reason}") from error


def _standard(tree):
    return ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
