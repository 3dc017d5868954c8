"""Scales a recipe to another batch size by the linear scaling rule (Goyal et al. 2017, arXiv 1706.02677).

If a step has k times as many clips, the learning rate is multiplied by k and every number of steps is divided by k. So
the run sees the same number of clips, and validates after the same number of clips. The decay of an average of the
weights is raised to the power of k, so that the average covers the same number of clips (Busbridge et al. 2023, arXiv
2307.13813). checkpoint_every and log_every do not change, because a step takes the same time on k times as many
devices.
"""

from operator import attrgetter

from ml_collections import ConfigDict

from nl_jax.errors import InputError
from nl_jax.training.fields import check_lists

RATES = ("optimizer.learning_rate",)
EMA = "optimizer.ema"
STEPS = ("steps", "optimizer.decay_every", "optimizer.warmup_steps", "eval_every")


def at_batch_size(config: ConfigDict) -> ConfigDict:
    """Returns `config` scaled from its `recipe_batch_size` to its `batch_size`.

    In the result the two sizes are equal. With recipe_batch_size=0 the result is `config` itself.

    Raises:
      InputError: a field has values of another type, `recipe_batch_size` is negative, or no step is left.
    """
    check_lists(config)
    if config.recipe_batch_size < 0:
        raise InputError(f"recipe_batch_size={config.recipe_batch_size} is out of range; choose 0 or more")
    if config.batch_size < 1 or config.recipe_batch_size in (0, config.batch_size):
        return config
    factor = config.batch_size / config.recipe_batch_size
    scaled = ConfigDict(config.to_dict())  # a copy
    changes = {name: attrgetter(name)(config) * factor for name in RATES}
    changes |= {name: round(attrgetter(name)(config) / factor) for name in STEPS}
    for name in ("steps", "optimizer.decay_every"):
        if not changes[name] and attrgetter(name)(config):
            raise InputError(
                f"batch_size={config.batch_size}: {name}={attrgetter(name)(config)} is for batches of "
                f"{config.recipe_batch_size}, and less than one step of this size; choose a smaller batch_size, or "
                "recipe_batch_size=0"
            )
    changes[EMA] = attrgetter(EMA)(config) ** factor
    if decay_at := config.optimizer.get("decay_at"):
        changes["optimizer.decay_at"] = tuple(round(step / factor) for step in decay_at)
    if config.eval_every:  # with 0, a run validates only at the end
        changes["eval_every"] = max(1, changes["eval_every"])
    scaled.update_from_flattened_dict(changes | {"recipe_batch_size": config.batch_size})
    return scaled.lock()


def describe(given: ConfigDict, scaled: ConfigDict) -> str:
    """Returns a sentence that names the changes of `at_batch_size`, or "" if there are none."""
    if given is scaled:
        return ""
    values = ((name, attrgetter(name)(given), attrgetter(name)(scaled)) for name in (*RATES, EMA, *STEPS))
    changes = [f"{name} {before:g} -> {after:g}" for name, before, after in values if before]
    if decay_at := given.optimizer.get("decay_at"):
        changes.append(f"optimizer.decay_at {decay_at} -> {scaled.optimizer.decay_at}")
    return (
        f"batch_size={given.batch_size} where the recipe is for {given.recipe_batch_size}: scaled linearly, "
        f"{', '.join(changes)} (recipe_batch_size=0 turns this off)"
    )
