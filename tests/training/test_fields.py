"""The types of the values in the fields with several values."""

import pytest

from configs import folder, kinetics, table5, table6
from nl_jax.errors import InputError
from nl_jax.runs.stages import train
from nl_jax.tasks.classification import Classification
from nl_jax.training import recipe
from nl_jax.training.fields import LISTS, check_lists
from nl_jax.training.workdir import flatten


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("model.blocks_per_stage", ("a", 1), "'a' is no integer"),
        ("model.remat", (2,), "2 is no text"),
        ("model.nonlocal_blocks.res3", (True,), "True is no integer"),
        ("input.std", ("nan", 1.0, 1.0), "'nan' is no number"),
        ("input.mean", (0.5, float("inf"), 0.5), "inf is no number"),
        ("optimizer.decay_at", (None,), "None is no integer"),
        ("data.short_side", (72.5, 80), "72.5 is no integer"),
    ],
)
def test_a_value_of_another_type_is_named(field, value, message):
    config = folder.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=rf"{field}=.*: {message}; give one"):
        recipe.at_batch_size(config)


def test_the_papers_figures_are_as_many_as_the_task_has(tiny, tmp_path):
    with pytest.raises(InputError, match=r"paper=\(75.1,\) must be 2 numbers, for top-1 .*top-5"):
        train(tiny(changes={"paper": (75.1,)}), tmp_path / "run")


def test_test_views_that_are_too_small_for_the_network_are_named_before_training():
    config = folder.get_config()
    config.update_from_flattened_dict({"data.test_crop": 1, "model.width": 4})
    with pytest.raises(InputError, match=r"data\.test_crop=1: the network does not fit clips of shape"):
        Classification(config).check()
    config.update_from_flattened_dict({"data.test_crop": 0, "data.test_short_side": 1})
    with pytest.raises(InputError, match=r"data\.test_short_side=1: the network does not fit clips of shape"):
        Classification(config).check()


def test_every_field_with_several_values_has_a_type():
    for config in (kinetics.get_config(), table5.get_config(), table6.get_config()):
        check_lists(config)
        several = {name for name, value in flatten(config.to_dict()).items() if isinstance(value, tuple)}
        assert several <= set(LISTS)
