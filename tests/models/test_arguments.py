"""Checks of arguments that the type checker of the tests would refuse before."""

import pytest

from nl_jax.errors import InputError
from nl_jax.models.arguments import check_count, check_number


@pytest.mark.parametrize("value", [0, -1, 2.5, "8", None, float("nan")])
def test_a_count_is_an_integer_of_1_or_more(value):
    with pytest.raises(InputError, match=rf"channels={value!r} is out of range; choose 1 or more, an integer"):
        check_count("channels", value)
    check_count("channels", 1)
    check_count("inner_channels", None, or_none=True)


@pytest.mark.parametrize("value", ["a", None, float("nan"), float("inf"), [1]])
def test_a_number_is_finite(value):
    with pytest.raises(InputError, match=r"scale=.* is out of range; choose a finite number"):
        check_number("scale", value)
    check_number("scale", -1)
