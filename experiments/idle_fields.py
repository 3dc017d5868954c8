"""Finds fields that a user sets and that have no effect because of other fields of the config."""

from operator import attrgetter

from ml_collections import ConfigDict

from nl_jax.errors import InputError
from nl_jax.models.variants import VARIANTS


def check_effect(config: ConfigDict, given: list[str]) -> None:
    """Checks that every field that the user sets has an effect.

    Args:
      config: the config with the changes of the user.
      given: full names of the fields that the user sets.

    Raises:
      InputError: a field has no effect. The message names the other field that is the reason.
    """
    idle = _idle(config)
    for name in given:
        value = attrgetter(name)(config)
        if name in idle and value:  # 0, False and () turn a field off
            raise InputError(f"--config.{name}={value} has no effect because of {idle[name]}")


def _idle(config: ConfigDict) -> dict[str, str]:
    """Returns {field without effect: the field and the value that are the reason}."""
    optimizer, found = config.optimizer, {}
    schedule = f"optimizer.schedule={optimizer.schedule}"
    if optimizer.schedule != "steps":
        found["optimizer.decay_at"] = schedule
    if optimizer.schedule != "step":
        found["optimizer.decay_every"] = schedule
    if optimizer.schedule not in ("step", "steps"):
        found["optimizer.decay_rate"] = schedule
    if optimizer.name != "sgd":
        found |= dict.fromkeys(("optimizer.momentum", "optimizer.nesterov"), f"optimizer.name={optimizer.name}")
    if not optimizer.warmup_steps:
        found["optimizer.warmup_start"] = "optimizer.warmup_steps=0"
    options = config.model.nonlocal_options
    if options.pairwise in ("dot_product", "concatenation"):
        found["model.nonlocal_options.scale"] = f"model.nonlocal_options.pairwise={options.pairwise}, without a softmax"
    variant = options.get("variant", "default")
    if variant in VARIANTS and "scale" in VARIANTS[variant].without:
        found["model.nonlocal_options.scale"] = f"model.nonlocal_options.variant={variant}, without scores"
    norms = {config.model.norm, options.norm}
    if "batch" not in norms:
        found["model.group_size"] = f"model.norm={config.model.norm}"
    if norms.isdisjoint(("batch", "global")):
        found["precise_bn_batches"] = f"model.norm={config.model.norm}"
    if config.get("task") == "detection":
        fields = ("model.dropout", "model.head_window", "optimizer.classifier_rate")
        found |= dict.fromkeys(fields, "task=detection: a detector has no classifier of images")
    if detector := config.get("detector"):
        # `DetectorConfig` checks keypoint_blocks and keypoint_options.
        of_keypoints = ("detector.keypoint_channels", "detector.keypoint_convolutions")
        of_masks = ("detector.masks", "detector.mask_channels")
        if detector.keypoints:
            reason = f"detector.keypoints={detector.keypoints}: a keypoint head replaces the mask head"
            found |= dict.fromkeys(of_masks, reason)
        else:
            found |= dict.fromkeys(of_keypoints, "detector.keypoints=0: there is no keypoint head")
            if not detector.masks:
                found["detector.mask_channels"] = "detector.masks=False"
    return found
