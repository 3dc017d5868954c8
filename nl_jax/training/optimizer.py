"""Builds the optimizer of a config: the learning rate, the update and the average of the weights.

Source: section 4.1 of the paper, and the released code.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nl_jax.errors import InputError
from nl_jax.models.flat import FlatParams
from nl_jax.training.fields import LARGEST

SCHEDULES = ("step", "steps", "cosine", "constant")


def make_schedule(config, steps: int) -> optax.Schedule:
    """Returns the schedule step -> learning rate: a linear warm-up from `warmup_start` x rate, then a decay.

    The schedule "step" multiplies the rate by `decay_rate` after every `decay_every` steps. The schedule "steps"
    multiplies it at each step of `decay_at`. "cosine" lowers the rate to 0 by the end of the run. "constant" keeps it.

    Args:
      config: fields schedule, learning_rate, warmup_steps, warmup_start, decay_rate, decay_every; decay_at for "steps";
        cosine_from_start for "cosine". If cosine_from_start is true, the cosine begins at step 0, and the warm-up ends
        at the cosine's value. Otherwise the cosine begins after the warm-up, at the full rate.
      steps: number of steps of the whole run.

    Raises:
      InputError: the schedule does not exist, or fields contradict each other.
    """
    if config.schedule not in SCHEDULES:
        raise InputError(f"optimizer.schedule={config.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    decay_at = np.minimum(getattr(config, "decay_at", ()), LARGEST).astype(np.int32)
    if config.schedule == "steps" and not decay_at.size:
        raise InputError("optimizer.schedule='steps' needs optimizer.decay_at, the steps at which the rate decays")
    if (decay_at < 1).any():
        raise InputError(f"optimizer.decay_at={tuple(config.decay_at)} is out of range; choose steps of 1 or more")
    if config.warmup_steps >= steps:
        raise InputError(f"optimizer.warmup_steps={config.warmup_steps} must be fewer than steps={steps}")
    from_start = getattr(config, "cosine_from_start", False)
    if from_start and config.schedule != "cosine":
        raise InputError(
            f"optimizer.cosine_from_start=True with optimizer.schedule={config.schedule!r}; valid is cosine"
        )
    rate, begin = config.learning_rate, 0 if from_start else config.warmup_steps
    main = {
        # Decay counts from step 0 and includes the warm-up, as the paper counts iterations.
        "step": lambda step: rate * config.decay_rate ** (step // config.decay_every),
        "steps": lambda step: rate * config.decay_rate ** (step >= decay_at).sum(),
        "cosine": lambda step: rate * 0.5 * (1 + jnp.cos(jnp.pi * (step - begin) / (steps - begin))),
        "constant": lambda step: rate,
    }[config.schedule]
    if not config.warmup_steps:
        return main

    top = 0.5 * (1 + np.cos(np.pi * config.warmup_steps / steps)) if from_start else 1  # end of warm-up / rate

    def schedule(step):
        fraction = config.warmup_start + (top - config.warmup_start) * step / config.warmup_steps
        return jnp.where(step < config.warmup_steps, rate * fraction, main(step))

    return schedule


def missed_decays(config, steps: int) -> str:
    """Returns a sentence about decays of the learning rate after the end of the run, or "".

    Args:
      config: the fields of `make_schedule`.
      steps: number of steps of the whole run.
    """
    if config.schedule == "step" and config.decay_every >= steps:
        return f"the learning rate never decays: optimizer.decay_every={config.decay_every} and steps={steps}"
    if config.schedule == "steps" and (late := [step for step in config.decay_at if step >= steps]):
        return f"the learning rate does not decay at {', '.join(map(str, late))}: the run ends at step {steps}"
    return ""


Mask = Callable[[FlatParams], dict[str, bool]]


def decayed(params: FlatParams) -> dict[str, bool]:
    """Returns {parameter: whether weight decay acts on it}.

    Weight decay acts on all parameters except the parameters of norms.
    """
    return {name: "norm" not in name.split("/")[-2] for name in params}


def make_optimizer(
    config, schedule: optax.Schedule, *, decay: Mask = decayed, scaled: Sequence[tuple[float, Mask]] = ()
) -> optax.GradientTransformation:
    """Returns the optimizer `config.name`: sgd or adamw.

    SGD uses `momentum` and `nesterov`. It adds the weight decay to the gradient, as Caffe2 and PyTorch do. With
    `config.ema` the state of the optimizer holds an average of the weights, see `average_weights`.

    Args:
      config: fields name, momentum, nesterov, weight_decay, clip_norm, ema.
      schedule: maps a step to its learning rate.
      decay: selects the parameters that weight decay acts on.
      scaled: (factor, mask) pairs. The factor multiplies the update of the parameters that the mask selects; 0 freezes
        them.

    Raises:
      InputError: `config.name` is unknown.
    """
    if config.name == "sgd":
        steps = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=decay),
            optax.sgd(schedule, momentum=config.momentum, nesterov=config.nesterov),
        )
    elif config.name == "adamw":
        steps = optax.adamw(schedule, weight_decay=config.weight_decay, mask=decay)
    else:
        raise InputError(f"optimizer.name={config.name!r} is unknown; choose sgd or adamw")
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        steps,
        *(optax.masked(optax.scale(factor), mask) for factor, mask in scaled),
        *([average_weights(ema)] if (ema := getattr(config, "ema", 0.0)) else ()),
    )


class WeightAverage(NamedTuple):
    """The exponential moving average of the weights after k steps, as a state of the optimizer.

    A run tests this average in place of the weights.

    Attributes:
      weight: sum of the weights of the k steps in the average, 1 - decay^k.
      average: average of the parameters after each of the k steps; zeros before the first step.
    """

    weight: Float[Array, ""]
    average: FlatParams


def average_weights(decay: float) -> optax.GradientTransformation:
    """Returns a transformation that keeps the average a_k of the parameters p_1 .. p_k after each of k steps.

    a_k = sum_i decay^(k-i) p_i / sum_i decay^(k-i). The initial parameters of a run have no part in the average. The
    average is computed as a_k = a_(k-1) + (1 - decay) / (1 - decay^k) (p_k - a_(k-1)).

    The transformation does not change the update. It must be the last in a chain, where the update is final.
    """

    def init(params: FlatParams) -> WeightAverage:
        return WeightAverage(jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))

    def update(updates: FlatParams, state: WeightAverage, params: FlatParams) -> tuple[FlatParams, WeightAverage]:
        weight = decay * state.weight + (1 - decay)
        params = optax.apply_updates(params, updates)
        return updates, WeightAverage(weight, optax.incremental_update(params, state.average, (1 - decay) / weight))

    return optax.GradientTransformation(init, update)


def average_of(opt_state: Any) -> WeightAverage | None:
    """Returns the average in the state of an optimizer, or None if the optimizer keeps no average."""
    return optax.tree.get(opt_state, WeightAverage.__name__)


def tested_params(params: FlatParams, opt_state: Any) -> FlatParams:
    """Returns the weights that a run tests: the average if the optimizer keeps one, else the weights themselves.

    Before the first step there is no average yet, and the result is the weights themselves.
    """
    found = average_of(opt_state)
    return params if found is None or not float(found.weight) else found.average  # weight 0: before the first step
