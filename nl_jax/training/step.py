"""One training step and one forward pass, each compiled once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8

from nl_jax.errors import InputError
from nl_jax.models import flat
from nl_jax.training import sharding
from nl_jax.training.accumulate import over_parts
from nl_jax.training.state import TrainState

Normalize = Callable[[UInt8[Array, "*s 3"]], Float[Array, "*s 3"]]


def make_normalize(config) -> Normalize:
    """(x / 255 - mean) / std by channel, on the device: a quarter of the bytes travel.

    Args:
      config: fields mean and std, three numbers each.
    """
    for name, values in (("mean", config.mean), ("std", config.std)):
        if len(values) != 3 or (name == "std" and min(values) <= 0):
            raise InputError(f"input.{name}={values} must be three numbers, one for each of R, G and B; std above 0")
    mean, std = (np.asarray(values, np.float32) for values in (config.mean, config.std))

    def normalize(video):
        by_channel = (1,) * (video.ndim - 1) + (3,)
        return (video.astype(jnp.float32) / 255 - mean.reshape(by_channel)) / std.reshape(by_channel)

    return normalize


def make_train_step(
    graphdef: nnx.GraphDef,
    normalize: Normalize,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    state: TrainState,
    accumulate: int = 1,
    *,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, dict[str, Array], Key[Array, ""]], tuple[TrainState, dict[str, Array]]]:
    """(state, batch, key) -> (state, metrics): loss, gradient, update. The given state is donated.

    The loss is softmax cross-entropy for labels (b,), and for labels (b,k) of 0 and 1, where a clip shows any number of
    classes, the mean over classes of the sigmoid's. top1 is how often the class of the highest logit is (one of) the
    clip's. With `accumulate` the batch comes in that many parts, (k,b/k,..).

    With `skip_nonfinite` a step whose loss or gradient is not finite changes nothing but the counters.

    The dropout key of a step is `key` folded with the step, so a resumed run draws what an uninterrupted one does.
    """

    def gradient(params, batch_stats, batch, key):
        def loss_fn(params):
            model = flat.merge(graphdef, params, batch_stats)
            model.train()
            logits, _ = model(normalize(batch["video"]), key)
            _, _, new_stats = flat.split(model)
            return _loss(logits, batch["label"]), (new_stats, logits)

        (loss, (new_stats, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return grads, {"loss": loss, "top1": _top1(logits, batch["label"])}, new_stats

    state_shardings = sharding.state_shardings(mesh, state)
    gradient = over_parts(gradient, accumulate, state_shardings.params)

    def train_step(state, batch, key):
        key = jax.random.fold_in(key, state.step)
        grads, metrics, batch_stats = gradient(state.params, state.batch_stats, batch, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics |= {
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "grad_norm": optax.tree.norm(grads),
        }
        new_state = TrainState(state.step + 1, optax.apply_updates(state.params, updates), batch_stats, opt_state)
        if skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            new_state = jax.tree.map(lambda new, old: _where(finite, new, old), new_state, state)
        return new_state, metrics

    return jax.jit(
        sharding.within(mesh, train_step),
        donate_argnums=0,
        out_shardings=(state_shardings, sharding.replicated(mesh)),
    )


def _where(finite, new, old):
    """Counters, which are integers, go on: the schedule is of steps, whatever they did."""
    return jnp.where(finite, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new


def _loss(logits, label):
    if label.ndim == 2:
        return optax.sigmoid_binary_cross_entropy(logits, label).mean()
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()


def _top1(logits, label):
    first = logits.argmax(-1)
    return (jnp.take_along_axis(label, first[:, None], axis=1) if label.ndim == 2 else first == label).mean()


def make_forward(
    graphdef: nnx.GraphDef, normalize: Normalize, mesh: Mesh, *, multi_label: bool = False
) -> Callable[[flat.FlatParams, flat.FlatParams, Array], Float[Array, "b k"]]:
    """(params, batch_stats, uint8 video (b,t,h,w,3)) -> softmax (b,k) on every process, or sigmoid if `multi_label`."""

    def forward(params, batch_stats, video):
        model = flat.merge(graphdef, params, batch_stats)
        model.eval()
        logits, _ = model(normalize(video))
        return jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits)

    return jax.jit(sharding.within(mesh, forward), out_shardings=sharding.replicated(mesh))
