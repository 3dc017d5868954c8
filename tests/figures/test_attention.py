"""Rows drawn are rows of the naive n x m matrix, and arrows point at the pixels they name."""

import dataclasses
import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from nl_jax.errors import InputError
from nl_jax.figures import attention, rows
from nl_jax.models import DetectorConfig, MaskRCNN, NonLocalBlock, ResNetConfig, VideoResNet
from nl_jax.models.nonlocal_block import PAIRWISE, SUBSAMPLE
from nl_jax.models.variants import VARIANTS

BLOCK = "res3_0_nonlocal"
T, H, W, C = 4, 5, 3, 6  # positions of the block; an odd height and width leave some without a partner to pool with


@pytest.fixture(scope="module")
def video():
    return jax.random.normal(jax.random.key(3), (1, T, 8 * H, 8 * W, 3))


@pytest.fixture
def network(randomise):
    def build(**options):
        config = ResNetConfig(
            blocks_per_stage=(1, 1),
            width=4,
            num_classes=3,
            geometry="small",
            nonlocal_blocks={"res3": (0,)},
            nonlocal_options={"subsample": None} | options,
        )
        model = randomise(lambda: VideoResNet(config, rngs=nnx.Rngs(0)))
        model.eval()
        return model

    return build


def naive_matrix(block, x, axes, subsample, time_group, scale):
    """Every f(x_i, x_j) / C(x), (t, h, w, T, H, W), by a plain loop over positions i and j."""

    def linear(name, of):
        layer = getattr(block, name)
        return of @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)

    def pool(of):
        t, h, w, c = of.shape
        return of[:, : h // 2 * 2, : w // 2 * 2].reshape(t, h // 2, 2, w // 2, 2, c).max((2, 4))

    x = np.asarray(x[0], np.float64)
    theta, phi = x, pool(x) if subsample == "before" else x
    if block.pairwise != "gaussian":
        theta, phi = linear("theta", theta), linear("phi", phi)
    if subsample == "after":
        phi = pool(phi)
    if block.pairwise == "concatenation":
        w_f = np.asarray(block.w_f.kernel[:, 0], np.float64)
    scale = {"rsqrt_d": theta.shape[-1] ** -0.5, None: 1.0}.get(scale, scale)

    def f(i, j):
        if block.pairwise == "concatenation":
            return max(0.0, w_f @ np.concatenate([theta[i], phi[j]]))
        if block.pairwise == "dot_product":
            return theta[i] @ phi[j]
        return np.exp(scale * theta[i] @ phi[j])

    result = np.zeros((*x.shape[:3], *phi.shape[:3]))
    for i in np.ndindex(x.shape[:3]):
        seen = [
            j
            for j in np.ndindex(phi.shape[:3])
            if (axes != "space" or j[0] == i[0])
            and (axes != "time" or j[1:] == i[1:])
            and (not time_group or j[0] // time_group == i[0] // time_group)
        ]
        values = [f(i, j) for j in seen]
        total = sum(values) if block.pairwise.endswith("gaussian") else len(seen)
        for j, value in zip(seen, values, strict=True):
            result[(*i, *j)] = value / total
    return result


SUMS = [("spacetime", how, group) for how in SUBSAMPLE for group in (None, 2)]
SUMS += [("space", how, None) for how in SUBSAMPLE] + [("time", None, None)]
CASES = [(pairwise, *of, None) for pairwise in PAIRWISE for of in SUMS]
CASES += [
    (pairwise, *of, scale)
    for pairwise in ("gaussian", "embedded_gaussian")
    for of in (SUMS[0], SUMS[-2])
    for scale in ("rsqrt_d", 0.7)
]


@pytest.mark.parametrize("pairwise, axes, subsample, time_group, scale", CASES)
def test_rows_are_those_of_the_naive_matrix(pairwise, axes, subsample, time_group, scale, randomise):
    options = {"axes": axes, "subsample": subsample, "time_group": time_group, "scale": scale}
    block = randomise(lambda: NonLocalBlock(C, pairwise=pairwise, **options, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(4), (1, T, H, W, C))
    matrix = naive_matrix(block, x, **options)
    for position in itertools.islice(np.ndindex(T, H, W), 0, None, 7):
        found = attention.attend_to(block, x, BLOCK, position)
        assert found.shape == (T, H, W)
        np.testing.assert_allclose(found.weights, matrix[position], rtol=1e-4, atol=1e-6)
    mean = attention.attend_to(block, x, BLOCK, None)
    np.testing.assert_allclose(mean.weights, matrix.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_a_block_of_a_network_is_given_what_it_sees_there(network, video):
    model = network(pairwise="embedded_gaussian")
    x = jax.jit(lambda video: model(video)[1]["res3_0"])(video)
    for position in ((2, 4, 2), None):
        found = attention.attend(model, video, BLOCK, position)
        expected = attention.attend_to(model.nonlocal_blocks()[BLOCK], x, BLOCK, position)
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-4)


def test_a_block_of_a_detector_looks_at_the_image_and_not_at_its_padding(randomise):
    backbone = ResNetConfig(blocks_per_stage=(1, 1, 1, 1), width=4, geometry="small", nonlocal_blocks={"res3": (0,)})
    options = {"num_classes": 2, "masks": False, "fpn_channels": 4, "box_channels": 4}
    model = randomise(lambda: MaskRCNN(DetectorConfig(backbone, **options), rngs=nnx.Rngs(0)))
    model.eval()
    images = jax.random.normal(jax.random.key(5), (1, 64, 96, 3)).at[:, 48:].set(0).at[:, :, 70:].set(0)
    sizes = jnp.array([[48, 70]])
    ask = partial(attention.attend_in_image, model, images, sizes, BLOCK)
    found, mean = ask((2, 5)), ask()
    # Keys are pooled 2 x 2: of the 8 x 12 places of 8 pixels, those of the image are 6 x 9.
    assert found.position == (0, 2, 5) and found.shape == (1, 8, 12) and found.weights.shape == (1, 4, 6)
    for weights in (found.weights, mean.weights):
        assert (weights[0, :3, :5] > 0).all() and weights.sum() == pytest.approx(1, abs=1e-5)
        assert not weights[0, 3:].any() and not weights[0, :, 5:].any()
    np.testing.assert_array_equal(ask(point=(5 * 8 + 7.9, 2 * 8)).weights, found.weights)
    assert ask(point=(70, 48)).position == (0, 6, 8)
    with pytest.raises(InputError, match=r"the point \(71, 3\) lies outside the image of 70 x 48 pixels"):
        ask(point=(71, 3))
    with pytest.raises(InputError, match=r"position=.* lies outside"):
        ask((8, 0))
    with pytest.raises(InputError, match="block='res5_0_nonlocal' is unknown; the network has res3_0_nonlocal"):
        attention.attend_in_image(model, images, sizes, "res5_0_nonlocal")


def test_it_is_compiled_once_whatever_the_position_and_the_weights(network, video, monkeypatch):
    traced = []
    for owner, name in ((VideoResNet, "__call__"), (NonLocalBlock, "attention_rows")):
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, name=name, plain=plain: (traced.append(name), plain(*args))[1])
    model = network(pairwise="gaussian", scale=0.3)
    seen = []
    for position in ((0, 0, 0), (3, 4, 2), (1, 2, 1), None, None):
        seen.append(attention.attend(model, video, BLOCK, position).weights)
        model.conv1.kernel[...] *= 1.1
    assert sorted(traced) == ["__call__", "attention_rows", "attention_rows"]  # of a position, and of the average
    assert not np.array_equal(seen[-1], seen[-2]), "the weights are those of the call"


def test_the_matrix_is_never_formed(randomise):
    t, h, w = 4, 16, 16
    block = randomise(lambda: NonLocalBlock(2, pairwise="concatenation", rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(block)
    x, at = jnp.zeros((1, t, h, w, 2)), jnp.arange(rows.QUERIES)

    def largest(function, *args):
        program = str(jax.make_jaxpr(partial(function, graphdef))(state, x, *args))
        sizes = re.findall(r"(?:f32|bool)\[([\d,]+)\]", program)
        return max(int(np.prod(list(map(int, size.split(","))))) for size in sizes)

    assert largest(rows._rows, at[:1]) <= 2 * t * h * w
    assert largest(rows._sum_of_rows, at, at < 3) == rows.QUERIES * t * h * w


def made_up():
    weights = np.zeros((4, 2, 2), np.float32)
    weights[0, 0, 0], weights[3, 1, 1], weights[1, 0, 1] = 0.5, -1.0, 0.25
    return attention.Attention(weights, (2, 1, 0), (4, 2, 2), "res3_0_nonlocal (dot_product)")


def test_the_strongest_come_first_with_their_sign():
    assert made_up().strongest(2) == [((3, 1, 1), -1.0), ((0, 0, 0), 0.5)]
    assert len(made_up().strongest(20)) == 3, "weights of zero are no connection"


FRAMES = np.random.default_rng(0).integers(256, size=(8, 40, 60, 3), dtype=np.uint8)


def test_arrows_go_from_the_position_to_the_middle_of_each_key():
    figure = attention.draw_arrows(FRAMES, made_up())
    assert [ax.get_title() for ax in figure.axes] == ["frame 1", "frame 3", "frame 5", "frame 7"]
    panels = dict(zip((1, 3, 5, 7), figure.axes, strict=True))
    arrows = [patch for patch in figure.findobj(FancyArrowPatch)]
    ends = {(1, 14.5, 9.5): 0.5, (3, 44.5, 9.5): 0.25, (7, 44.5, 29.5): -1.0}  # frame, x, y: weight
    found = {}
    for arrow in arrows:
        (tail, head) = (figure.transFigure.transform(point) for point in arrow._posA_posB)
        np.testing.assert_allclose(panels[5].transData.inverted().transform(tail), (14.5, 29.5), atol=1e-6)
        for frame, panel in panels.items():
            x, y = panel.transData.inverted().transform(head)
            if panel.bbox.contains(*head):
                found[(frame, round(float(x), 3), round(float(y), 3))] = arrow
    assert found.keys() == ends.keys()
    dashed = {at for at, arrow in found.items() if arrow.get_linestyle() != "-"}
    assert dashed == {at for at, weight in ends.items() if weight < 0}
    assert "3 strongest of 16 keys (100% of the weight) for position (2, 1, 0)" in figure.get_suptitle()


def test_heat_lies_over_every_key_frame():
    figure = attention.draw_heat(FRAMES, made_up())
    *panels, bar = figure.axes
    frames, heats = panels[::2], panels[1::2]
    assert bar.get_ylabel().startswith("weight")
    for frame, number in zip(frames, (1, 3, 5, 7), strict=True):
        np.testing.assert_array_equal(frame.images[0].get_array(), FRAMES[number])
    for panel, weights in zip(heats, made_up().weights, strict=True):
        np.testing.assert_array_equal(panel.images[1].get_array(), weights)
        assert panel.images[1].get_clim() == (-1, 1), "zero is the middle of the colours"


def test_legend_and_caption_say_what_was_asked():
    def texts(figure):
        return [text.get_text() for text in figure.legends[0].get_texts()]

    signed, positive = made_up(), dataclasses.replace(made_up(), weights=np.abs(made_up().weights))
    assert texts(attention.draw_arrows(FRAMES, signed)) == ["position asked for", "positive weight", "negative weight"]
    assert len(texts(attention.draw_arrows(FRAMES, positive))) == 2
    figure = attention.draw_heat(FRAMES, positive, "clip 7")
    assert figure.get_suptitle() == "clip 7\nres3_0_nonlocal (dot_product): weights of position (2, 1, 0) of (4, 2, 2)"
    assert figure.axes[1].images[1].get_clim() == (0, 1)
    average = dataclasses.replace(positive, position=None)
    assert not attention.draw_heat(FRAMES, average).legends


@pytest.mark.parametrize("draw", [attention.draw_arrows, attention.draw_heat])
def test_pictures_are_written(draw, tmp_path):
    attention.save(draw(FRAMES, made_up()), tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert image.width > 600 and len(image.convert("RGB").getcolors(2**24)) > 1000


def test_what_does_not_exist_is_named(network, video, tmp_path):
    model = network(pairwise="dot_product")
    with pytest.raises(InputError, match=r"block='res4_0_nonlocal' is unknown; the network has res3_0_nonlocal"):
        attention.attend(model, video, "res4_0_nonlocal", (0, 0, 0))
    with pytest.raises(InputError, match=r"position=\(0, 5, 0\) lies outside the \(4, 5, 3\) positions"):
        attention.attend(model, video, BLOCK, (0, 5, 0))
    with pytest.raises(InputError, match="arrows need a position"):
        attention.draw_arrows(FRAMES, attention.attend(model, video, BLOCK, None))
    with pytest.raises(InputError, match=r"picture\.bmp: pictures end in one of \.png"):
        attention.save(attention.draw_heat(FRAMES, made_up()), tmp_path / "picture.bmp")


def test_the_average_is_taken_a_few_rows_at_a_time(network, video, monkeypatch):
    model = network(pairwise="embedded_gaussian")
    whole = attention.attend(model, video, BLOCK, None).weights
    monkeypatch.setattr(rows, "QUERIES", 7)
    np.testing.assert_allclose(attention.attend(model, video, BLOCK, None).weights, whole, rtol=1e-5)
    assert jnp.isclose(whole.sum(), 1)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_later_block_is_drawn_or_says_that_it_has_nothing_to_draw(name, randomise):
    block = randomise(lambda: VARIANTS[name](8, 4, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 3, 2, 8)), jnp.float32)
    positions = np.array([(0, 1, 1), (1, 2, 0)])
    if not block.has_map:
        for draw in (lambda: rows.rows_of(block, x, positions), lambda: rows.mean_row(block, x)):
            with pytest.raises(InputError, match=f"{name} has no weight for a pair of positions"):
                draw()
        return
    expected = np.asarray(block.attention_rows(x, jnp.arange(12)))[0].reshape(12, 2, 3, 2)
    np.testing.assert_allclose(rows.rows_of(block, x, positions), expected[[3, 10]], atol=1e-6)
    np.testing.assert_allclose(rows.mean_row(block, x), expected.mean(axis=0), atol=1e-6)
