"""Fields that the user sets and that have no effect."""

import pytest

from experiments.idle_fields import check_effect
from nl_jax.errors import InputError
from nl_jax.runs.config_files import load_config

FOLDER, KINETICS, SCENES = "configs/folder.py", "configs/kinetics.py:c2d_r50", "configs/scenes.py"


@pytest.mark.parametrize(
    "name, changes, reason",
    [
        (FOLDER, {"optimizer.decay_at": (5,)}, "optimizer.schedule=cosine"),
        (FOLDER, {"optimizer.decay_rate": 0.5}, "optimizer.schedule=cosine"),
        (KINETICS, {"optimizer.decay_every": 5, "optimizer.schedule": "steps"}, "optimizer.schedule=steps"),
        (FOLDER, {"optimizer.momentum": 0.5}, "optimizer.name=adamw"),
        (KINETICS, {"optimizer.warmup_start": 0.5}, "optimizer.warmup_steps=0"),
        (FOLDER, {"model.nonlocal_options.scale": "2", "model.nonlocal_options.pairwise": "dot_product"}, "a softmax"),
        (
            "configs/controls_after.py:double_attention",
            {"model.nonlocal_options.scale": "2"},
            "variant=double_attention, without scores",
        ),
        (KINETICS, {"model.group_size": 4, "model.norm": "global"}, "model.norm=global"),
        (KINETICS, {"precise_bn_batches": 4, "model.norm": "affine"}, "model.norm=affine"),
        (SCENES, {"model.dropout": 0.1}, "a detector has no classifier"),
        (SCENES, {"detector.keypoint_channels": 8}, "there is no keypoint head"),
        (SCENES, {"detector.mask_channels": 8, "detector.masks": False}, "detector.masks=False"),
        ("configs/poses.py", {"detector.mask_channels": 8}, "a keypoint head replaces the mask head"),
    ],
)
def test_a_field_without_an_effect_is_refused(name, changes, reason):
    config = load_config(name)
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=rf"--config\.{next(iter(changes))}=.* has no effect because of .*{reason}"):
        check_effect(config, list(changes))


def test_a_field_that_turns_something_off_or_has_an_effect_is_taken():
    config = load_config(KINETICS)
    config.update_from_flattened_dict({"optimizer.warmup_start": 0.0, "optimizer.decay_every": 5})
    check_effect(config, ["optimizer.warmup_start", "optimizer.decay_every", "optimizer.momentum", "model.dropout"])
