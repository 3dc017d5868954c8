"""A moving picture has a picture for every frame, with the arrows of that frame, and can be read back."""

import av
import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch
from PIL import Image, ImageColor

from nl_jax.errors import InputError
from nl_jax.figures import attention, moving, panels

FRAMES = np.random.default_rng(0).integers(256, size=(4, 40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def found():
    weights = np.zeros((2, 2, 2), np.float32)
    weights[0, 0, 0], weights[1, 1, 1], weights[1, 0, 1] = 0.5, -1.0, 0.25
    return attention.Attention(weights, (1, 1, 0), (4, 2, 2), "res3_0_nonlocal (dot_product)")


def test_every_frame_has_the_arrows_that_end_in_it(found, monkeypatch):
    drawn = []
    caption = panels.caption
    monkeypatch.setattr(
        panels,
        "caption",
        lambda figure, *text: (drawn.append(len(figure.findobj(FancyArrowPatch))), caption(figure, *text)),
    )
    pictures = list(moving.draw_frames(FRAMES, found))
    assert drawn == [1, 1, 2, 2], "two keys in time, each for two frames"
    assert len({picture.shape for picture in pictures}) == 1 and not pictures[0].shape[0] % 2
    assert (pictures[0] != pictures[1]).any()


@pytest.mark.parametrize("ending", moving.ENDINGS)
def test_it_can_be_read_back(found, tmp_path, ending):
    pictures = list(moving.draw_frames(FRAMES, found))
    path = tmp_path / f"moving{ending}"
    moving.save(iter(pictures), path, rate=5.0)
    if ending == ".gif":
        with Image.open(path) as image:
            assert image.n_frames == 4 and image.info["duration"] == 200
            read = []
            for number in range(4):
                image.seek(number)
                read.append(np.asarray(image.convert("RGB"), int))
    else:
        with av.open(str(path)) as container:
            assert container.streams.video[0].average_rate == 5
            read = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(read) == 4
    for picture, again in zip(pictures, read, strict=True):
        assert np.abs(picture - again).mean() < 12
        for colour in (panels.POSITIVE, panels.NEGATIVE) if ending == ".gif" else ():  # of arrows and legend
            drawn = (picture == ImageColor.getrgb(colour)).all(axis=-1)
            assert drawn.sum() >= 20 and np.abs(picture - again)[drawn].mean() < 25, colour


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"moving\.webp: moving pictures end in one of \.gif, \.mp4"):
        moving.save(iter([]), tmp_path / "moving.webp")
