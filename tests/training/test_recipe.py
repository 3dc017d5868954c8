import pytest

from configs import kinetics, quickstart
from nl_jax.errors import InputError
from nl_jax.training import recipe


def test_half_the_batch_takes_half_the_rate_and_twice_the_steps():
    given = kinetics.get_config("nl5_i3d_r50")
    given.batch_size = 32
    given.optimizer.warmup_steps = 500
    config = recipe.at_batch_size(given)
    optimizer = config.optimizer
    found = (config.steps, optimizer.decay_every, optimizer.warmup_steps, config.eval_every, optimizer.learning_rate)
    assert found == (800_000, 300_000, 1000, 20_000, 0.005)
    assert config.checkpoint_every == given.checkpoint_every  # this field does not change the result of a run
    assert given.steps == 400_000 and config.recipe_batch_size == config.batch_size == 32
    said = recipe.describe(given, config)
    assert "batch_size=32 where the recipe is for 64" in said and "optimizer.learning_rate 0.01 -> 0.005" in said
    assert recipe.at_batch_size(config) is config  # a second call changes nothing


def test_an_average_of_the_weights_is_over_as_many_clips():
    given = kinetics.get_config("nl5_i3d_r50")
    given.batch_size, given.optimizer.ema = 128, 0.99
    config = recipe.at_batch_size(given)
    assert config.optimizer.ema == pytest.approx(0.99**2) and "optimizer.ema 0.99 -> 0.9801" in recipe.describe(
        given, config
    )


@pytest.mark.parametrize("eval_every, scaled", [(0, 0), (1, 1), (100, 25)])
def test_validations_come_after_as_many_clips(eval_every, scaled):
    given = kinetics.get_config("nl5_i3d_r50")
    given.batch_size, given.eval_every = 256, eval_every
    assert recipe.at_batch_size(given).eval_every == scaled


@pytest.mark.parametrize("recipe_batch_size", [0, 32])
def test_no_scaling_where_it_is_turned_off_or_the_recipe_is_for_this_batch(recipe_batch_size):
    given = kinetics.get_config("nl5_i3d_r50")
    given.batch_size, given.recipe_batch_size = 32, recipe_batch_size
    assert recipe.at_batch_size(given) is given and recipe.describe(given, given) == ""


def test_the_batch_of_a_config_is_its_recipes():
    for row in quickstart.ROWS:
        config = quickstart.get_config(row)
        assert recipe.at_batch_size(config) is config


def test_a_recipe_for_fewer_than_no_clips():
    given = kinetics.get_config()
    given.recipe_batch_size = -1
    with pytest.raises(InputError, match="recipe_batch_size=-1 is out of range; choose 0 or more"):
        recipe.at_batch_size(given)


def test_a_batch_that_is_too_large_for_the_steps_of_the_recipe():
    given = quickstart.get_config()
    given.batch_size = given.recipe_batch_size * 10_000
    with pytest.raises(InputError, match=r"batch_size=320000: steps=2400 is for batches of 32, and less than one step"):
        recipe.at_batch_size(given)
