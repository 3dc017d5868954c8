"""Converts `config.model` to the configuration of a ResNet with non-local blocks."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig
from nl_jax.models.resnet import nonlocal_preset


def make_resnet_config(config: ConfigDict, num_classes: int | None) -> ResNetConfig:
    """Returns the configuration of a network from `config.model`. Empty strings and tuples mean "not given".

    Args:
      config: `config.model`.
      num_classes: number of classes. None gives a backbone without a classifier.

    Raises:
      InputError: the values are not valid, or both `nonlocal_preset` and `nonlocal_blocks` are given.
    """
    fields = config.to_dict()
    fields["nonlocal_blocks"] = {stage: tuple(at) for stage, at in fields["nonlocal_blocks"].items() if at}
    if preset := fields.pop("nonlocal_preset", 0):
        if fields["nonlocal_blocks"]:
            raise InputError("model.nonlocal_preset and model.nonlocal_blocks are both given; choose one")
        fields["nonlocal_blocks"] = nonlocal_preset(fields["depth"], preset)
    options = nonlocal_options(fields["nonlocal_options"])
    by_stage = fields.pop("nonlocal_time_group")
    options |= {stage: {"time_group": frames} for stage, frames in by_stage.items() if frames}
    fields["nonlocal_options"] = options
    for name in ("blocks_per_stage", "inflate", "head_window"):
        fields[name] = fields[name] or None
    result = ResNetConfig(**fields, num_classes=num_classes)
    result.check()
    return result


def nonlocal_options(options: Mapping[str, str]) -> dict[str, object]:
    """Returns the keywords of `NonLocalBlock` for the options of a config.

    Options with the value "default" are left out.

    Raises:
      InputError: a scale is neither a number nor a known name.
    """
    return {name: _option(name, value) for name, value in options.items() if value != "default"}


def _option(name: str, value: str):
    if name == "subsample" and value == "none":
        return None
    if name in ("scale", "norm_scale") and (name, value) != ("scale", "rsqrt_d"):
        try:
            return float(value)
        except ValueError:
            valid = "a number or 'rsqrt_d'" if name == "scale" else "a number"
            raise InputError(f"nonlocal_options.{name}={value!r} is unknown; choose {valid}") from None
    return value
