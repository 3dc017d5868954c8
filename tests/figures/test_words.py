"""Names that a user chose, in pictures."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nl_jax.figures import detections, panels
from nl_jax.figures.scores import draw_scores


def pixels(figure):
    file = io.BytesIO()
    figure.savefig(file, format="rgba", dpi=60)
    return np.frombuffer(file.getvalue(), np.uint8)


def boxes(name):
    image, box = np.full((40, 90, 3), 200, np.uint8), np.array([[5, 20, 60, 35]], np.float32)
    return detections.draw_objects(image, box, [name], np.array([0]), None, [])


def scores(name):
    return draw_scores(np.arange(3.0), np.full((3, 1), 0.5), [name], [0], name)


def captioned(name):
    figure = Figure(figsize=(4, 1))
    FigureCanvasAgg(figure)
    panels.caption(figure, name, name)
    return figure


@pytest.mark.parametrize("draw", [boxes, scores, captioned])
def test_dollar_signs_are_no_formula(draw):
    assert (pixels(draw(r"$\frac$")) != pixels(draw(" "))).any()  # as a formula it cannot be drawn
    assert (pixels(draw("$a$")) != pixels(draw("a"))).any()
