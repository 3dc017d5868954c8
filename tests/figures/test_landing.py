"""Where arrows land: things lie where their pixels are, and a block that looks at the relevant thing is seen to."""

import numpy as np
import pytest
from flax import nnx

from nl_jax.data.embedded.long_range import CUE, LongRange
from nl_jax.figures import attention, landing
from nl_jax.models import NonLocalBlock


@pytest.fixture(scope="module")
def dataset():
    return LongRange("test", size=20, noise=0)


def test_owners_are_where_the_pixels_are(dataset):
    """On a grid of single pixels: what is not black belongs to the thing of its frame, and nothing lies elsewhere."""
    for index in range(5):
        shots, _ = dataset.compose(index)
        video = dataset.train_example(index)["video"]
        owner = landing.owners(shots, (16, 24, 24), dataset)
        assert (owner[video.any(axis=-1)] >= 0).all()
        for number, shot in enumerate(shots):
            assert {int(frame) for frame in np.flatnonzero((owner == number).any((1, 2)))} == set(shot.frames)
            assert (owner == number).sum() == len(shot.frames) * 16 * 16


@pytest.mark.parametrize("thing", ["cue", "digit"])
def test_arrows_to_the_relevant_thing_are_counted_as_such(dataset, monkeypatch, thing):
    """A block that weighs the other thing of the tint 1, and one key of the background -2."""
    asked = []

    def attend_to(block, x, name, position):
        index, which = divmod(len(asked), 2)
        asked.append(position)
        shots, _ = dataset.compose(index)
        cue = next(number for number, shot in enumerate(shots) if shot.kind == CUE)
        digit = next(n for n, shot in enumerate(shots) if shot.tint == shots[cue].tint and n != cue)
        owner = landing.owners(shots, (16, 3, 3), dataset)
        at = (cue, digit) if which == 0 else (digit, cue)
        assert owner[position] == at[0], "asked in the middle of the thing"
        weights = (owner == at[1]).astype(np.float32)
        weights[tuple(np.argwhere(owner < 0)[0])] = -2
        return attention.Attention(weights, position, (16, 3, 3), name)

    monkeypatch.setattr(attention, "attend_to", attend_to)
    block = NonLocalBlock(1, rngs=nnx.Rngs(0))
    inputs = lambda videos: {"res3_0_nonlocal": np.zeros((len(videos), 16, 3, 3, 1))}  # noqa: E731
    found = landing.measure(dataset, inputs, {"res3_0_nonlocal": block}, 10, batch_size=4)["res3_0_nonlocal", thing]
    assert found.positive.keys() == {"relevant"} and found.negative == {"background": 10}
    assert found.strongest == {"background": 10} and found.keys.total() == 10 * 16 * 9
    assert found.positive["relevant"] == found.keys["relevant"], "a thing has fewer keys than there are arrows"
