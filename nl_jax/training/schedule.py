"""Learning rate and optimiser from config fields (section 4.1 and the released code)."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import optax

from nl_jax.errors import InputError
from nl_jax.models.flat import FlatParams

SCHEDULES = ("step", "steps", "cosine", "constant")


def make_schedule(config, steps: int) -> optax.Schedule:
    """step -> learning rate: linear warm-up from `warmup_start` x rate, then decay, cosine to 0 or constant.

    "step" decays after every `decay_every` steps, "steps" at each of the steps in `decay_at`.

    Args:
      config: fields schedule, learning_rate, warmup_steps, warmup_start, decay_rate, decay_every; decay_at for "steps".
      steps: of the whole run.
    """
    if config.schedule not in SCHEDULES:
        raise InputError(f"optimizer.schedule={config.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    decay_at = np.asarray(getattr(config, "decay_at", ()), np.int32)
    if config.schedule == "steps" and not decay_at.size:
        raise InputError("optimizer.schedule='steps' needs optimizer.decay_at, the steps at which the rate decays")
    if config.warmup_steps >= steps:
        raise InputError(f"optimizer.warmup_steps={config.warmup_steps} must be fewer than steps={steps}")
    rate = config.learning_rate
    main = {
        # Decay counts from step 0, warm-up included, as the paper counts its iterations.
        "step": lambda step: rate * config.decay_rate ** (step // config.decay_every),
        "steps": lambda step: rate * config.decay_rate ** (step >= decay_at).sum(),
        "cosine": lambda step: (
            rate * 0.5 * (1 + jnp.cos(jnp.pi * (step - config.warmup_steps) / (steps - config.warmup_steps)))
        ),
        "constant": lambda step: rate,
    }[config.schedule]
    if not config.warmup_steps:
        return main

    def schedule(step):
        fraction = config.warmup_start + (1 - config.warmup_start) * step / config.warmup_steps
        return jnp.where(step < config.warmup_steps, rate * fraction, main(step))

    return schedule


Mask = Callable[[FlatParams], dict[str, bool]]


def decayed(params: FlatParams) -> dict[str, bool]:
    """Which parameters weight decay acts on: all but those of a norm."""
    return {name: "norm" not in name.split("/")[-2] for name in params}


def make_optimizer(
    config, schedule: optax.Schedule, *, decay: Mask = decayed, scaled: Sequence[tuple[float, Mask]] = ()
) -> optax.GradientTransformation:
    """`config.name`: sgd (momentum, nesterov; weight decay added to the gradient, as Caffe2 and PyTorch do) or adamw.

    Args:
      config: fields name, momentum, nesterov, weight_decay, clip_norm.
      decay: which parameters weight decay acts on.
      scaled: factors of the steps of some parameters; 0 freezes them.
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
    )
