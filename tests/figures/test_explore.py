"""The page to explore by hand: what it holds, read in Python, and what it shows, in a browser."""

import json
import math
import re
import shutil
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nl_jax.errors import InputError
from nl_jax.figures import attention, explore
from nl_jax.models import DetectorConfig, MaskRCNN, NonLocalBlock, ResNetConfig, VideoResNet
from nl_jax.models.nonlocal_block import PAIRWISE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SHAPE, CHANNELS, SIDE = (8, 14, 14), 6, 56  # 1568 positions and, pooled, 392 keys: res4 of a ResNet-50 and 8 frames
FRAMES = np.random.default_rng(0).integers(256, size=(8, SIDE, SIDE, 3), dtype=np.uint8)
NETWORKS = {"products": "dot_product", "softmax": "embedded_gaussian"}


@pytest.fixture(scope="module")
def blocks(randomise):
    """By network and name, each with its input; the first block has as many pairs as the bar asks for."""
    shapes = {"res4_1_nonlocal": SHAPE, "res5_0_nonlocal": (4, 5, 3)}
    found = {}
    for number, (network, pairwise) in enumerate(NETWORKS.items()):
        for name, shape in shapes.items():
            options = {"pairwise": pairwise, "subsample": "after"}
            block = randomise(lambda o=options: NonLocalBlock(CHANNELS, **o, rngs=nnx.Rngs(0)), number)
            found[network, name] = block, jax.random.normal(jax.random.key(number), (1, *shape, CHANNELS))
    return found


@pytest.fixture(scope="module")
def page(blocks):
    networks = {
        network: [explore.rows_of_block(*blocks[key], key[1]) for key in blocks if key[0] == network]
        for network in NETWORKS
    }
    return explore.make_page(FRAMES, networks, "a </script> <b>clip</b>", position=(2, 3, 4))


def row(blocks, network, name, position):
    """The row of `attention_rows`, (T,H,W)."""
    block, x = blocks[network, name]
    _, h, w = x.shape[1:4]
    at = jnp.array([(position[0] * h + position[1]) * w + position[2]])
    return np.asarray(block.attention_rows(x, at))[0, 0].reshape(block.key_shape(x.shape))


def data_of(page) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page.html, re.S).group(1))


def test_it_holds_the_rows_of_every_position(page, blocks):
    data = data_of(page)
    assert [network["name"] for network in data["networks"]] == list(NETWORKS)
    assert data["blocks"] == ["res4_1_nonlocal", "res5_0_nonlocal"]
    for network in data["networks"]:
        for name, packed in network["blocks"].items():
            block, x = blocks[network["name"], name]
            expected = np.asarray(block.attention_rows(x, jnp.arange(math.prod(x.shape[1:4]))))[0]
            found = explore.unpack(packed).reshape(expected.shape)
            largest = np.abs(expected).max(axis=1, keepdims=True)
            assert (np.abs(found - expected) <= largest / 510 * (1 + 1e-4)).all()
            assert packed["signed"] == (block.pairwise == "dot_product") == bool((found < 0).any())
            assert packed["frames"] == ([*range(8)] if x.shape[1] == 8 else [1, 3, 5, 7])


def test_1568_positions_and_392_keys_stay_under_2_mb(page):
    data = data_of(page)
    for network in data["networks"]:
        assert np.prod(network["blocks"]["res4_1_nonlocal"]["shape"]) == 1568
        assert np.prod(network["blocks"]["res4_1_nonlocal"]["keys"]) == 392
    assert len(page.html) < 2e6, "both networks together"


def test_it_asks_nothing_of_others_and_no_name_ends_its_script(page):
    assert "default-src 'none'" in page.html
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[\w/.:]+""", page.html.split("<script")[0])
    assert "a &lt;/script&gt; &lt;b&gt;clip" in page.html
    assert page.html.count("</script>") == 2


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("options", [{"axes": "space", "subsample": "after"}, {"axes": "time"}, {"time_group": 2}])
def test_rows_of_all_positions_are_those_of_each(pairwise, options, randomise):
    block = randomise(lambda: NonLocalBlock(CHANNELS, pairwise=pairwise, **options, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(1), (1, 4, 5, 3, CHANNELS))
    rows = explore.rows_of_block(block, x, "it")
    for number, position in enumerate(np.ndindex(4, 5, 3)):
        if number % 11 == 0:
            expected = attention.attend_to(block, x, "it", position).weights
            np.testing.assert_allclose(rows.weights[number], expected, rtol=1e-5, atol=1e-7)


def test_where_pairs_are_many_fewer_positions_are_asked(blocks):
    block, x = blocks["products", "res4_1_nonlocal"]
    rows = explore.rows_of_block(block, x, "it", pairs=100_000)
    # Every third of 14 rows and columns: 8 x 5 x 5 x 392 is below it, and 8 x 7 x 7 x 392 is not.
    assert list(rows.rows) == list(rows.columns) == [0, 3, 6, 9, 12]
    assert rows.weights.shape == (8 * 5 * 5, 8, 7, 7)
    at = 3 * 25 + 2 * 5 + 1
    np.testing.assert_allclose(rows.weights[at], row(blocks, "products", "res4_1_nonlocal", (3, 6, 3)), rtol=1e-5)


@pytest.fixture(scope="module")
def networks(randomise):
    backbone = ResNetConfig(
        blocks_per_stage=(1, 1, 1, 1), width=4, geometry="small", nonlocal_blocks={"res3": (0,), "res4": (0,)}
    )
    detector = DetectorConfig(backbone, num_classes=2, masks=False, fpn_channels=4, box_channels=4)
    models = [lambda: VideoResNet(backbone, rngs=nnx.Rngs(0)), lambda: MaskRCNN(detector, rngs=nnx.Rngs(0))]
    models = [randomise(model) for model in models]
    for model in models:
        model.eval()
    return models


def test_of_a_network_it_has_the_rows_of_each_block(networks):
    model, _ = networks
    video = jax.random.normal(jax.random.key(3), (1, 4, 32, 32, 3))
    found = explore.rows_in_video(model, video)
    assert [rows.block for rows in found] == ["res3_0_nonlocal", "res4_0_nonlocal"]
    expected = attention.attend(model, video, "res4_0_nonlocal", (2, 1, 0))
    _, _, w = found[1].shape
    at = (2 * len(found[1].rows) + 1) * w
    np.testing.assert_allclose(found[1].weights[at], expected.weights, rtol=1e-4, atol=1e-7)
    assert [rows.block for rows in explore.rows_in_video(model, video, "res4_0_nonlocal")] == ["res4_0_nonlocal"]
    with pytest.raises(InputError, match="block=res5_0_nonlocal: the network has res3_0_nonlocal, res4_0_nonlocal"):
        explore.rows_in_video(model, video, "res5_0_nonlocal")


def test_of_a_detector_it_asks_the_image_and_not_its_padding(networks):
    _, model = networks
    images = jax.random.normal(jax.random.key(5), (1, 64, 96, 3)).at[:, 48:].set(0).at[:, :, 70:].set(0)
    sizes = jnp.array([[48, 70]])
    (rows,) = explore.rows_in_image(model, images, sizes, "res3_0_nonlocal")
    assert rows.shape == (1, 8, 12) and list(rows.rows) == [*range(6)] and list(rows.columns) == [*range(9)]
    expected = attention.attend_in_image(model, images, sizes, "res3_0_nonlocal", (2, 5))
    np.testing.assert_allclose(rows.weights[2 * 9 + 5], expected.weights, rtol=1e-4, atol=1e-7)


def test_what_no_page_can_be_made_of_is_named(blocks):
    rows = explore.rows_of_block(*blocks["products", "res5_0_nonlocal"], "res5_0_nonlocal")
    with pytest.raises(InputError, match="at least one network, and of each network at least one block"):
        explore.make_page(FRAMES, {"it": []})
    with pytest.raises(InputError, match=r"position=\(4, 0, 0\) lies outside the \(4, 5, 3\) positions of res5_0"):
        explore.make_page(FRAMES, {"it": [rows]}, position=(4, 0, 0))


# ------------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright, which drives Chromium, is not installed"
    )
    with playwright.sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, page, tmp_path):
    """Opens the page from disk and without a network; requests and errors of the console are collected."""
    page.save(tmp_path / "page.html")
    contexts = []

    def open_page(**options):
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 900}, **options))
        contexts[-1].set_offline(True)
        tab = contexts[-1].new_page()
        tab.requests, tab.errors = [], []
        tab.on("request", lambda request: tab.requests.append(request.url))
        tab.on("console", lambda message: tab.errors.extend([message.text] * (message.type == "error")))
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_selector("body[data-ready]")
        return tab

    yield open_page
    for context in contexts:
        context.close()


HEAT = """panel => [...panel.querySelectorAll('canvas.heat')].map(({width, height}, frame, all) =>
  ({shape: [height, width, 4], rgba: [...all[frame].getContext('2d').getImageData(0, 0, width, height).data]}))"""


def heat(tab, network):
    """The heat on screen as shares of the largest weight, and whether its colour is the negative one, (T,H,W)."""
    panel = tab.locator(".panel").nth(list(NETWORKS).index(network))
    rgba = np.stack([np.reshape(image["rgba"], image["shape"]) for image in panel.evaluate(HEAT)])
    red, blue = rgba[..., 0], rgba[..., 2]
    return rgba[..., 3] / 255, blue > red


def point(tab, network, position, shape):
    """Where the middle of a position is on screen."""
    panel = tab.locator(".panel").nth(list(NETWORKS).index(network))
    box = panel.locator(".picture").nth(position[0]).bounding_box()
    y, x = ((at + 0.5) / size for at, size in zip(position[1:], shape[1:], strict=True))
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def assert_heat_is_that_of(tab, blocks, name, position):
    for network in NETWORKS:
        expected = row(blocks, network, name, position)
        share = np.abs(expected) / np.abs(expected).max()
        found, is_negative = heat(tab, network)
        np.testing.assert_allclose(found, share, rtol=0, atol=1 / 255)
        seen = share > 0.05  # of a fainter colour the browser keeps too few levels to tell which one it is
        np.testing.assert_array_equal(is_negative[seen], (expected < 0)[seen])


def test_heat_under_the_pointer_is_the_row_of_its_position(opened, blocks):
    tab = opened()
    assert_heat_is_that_of(tab, blocks, "res4_1_nonlocal", (2, 3, 4))
    for network, position in (("products", (0, 0, 0)), ("softmax", (7, 13, 13)), ("products", (5, 12, 1))):
        tab.mouse.move(*point(tab, network, position, SHAPE))
        assert_heat_is_that_of(tab, blocks, "res4_1_nonlocal", position)
    tab.mouse.wheel(0, 500)
    tab.mouse.move(*point(tab, "softmax", (3, 7, 6), SHAPE))
    assert_heat_is_that_of(tab, blocks, "res4_1_nonlocal", (3, 7, 6))
    assert [url for url in tab.requests if not url.startswith("data:")] == [tab.url]
    assert not tab.errors


def test_arrows_point_at_the_strongest_keys(opened, blocks):
    tab = opened()
    tab.mouse.move(*point(tab, "products", (4, 6, 9), SHAPE))
    expected = attention.Attention(row(blocks, "products", "res4_1_nonlocal", (4, 6, 9)), (4, 6, 9), SHAPE, "")
    panel = tab.locator(".panel").first
    corner = panel.locator(".frames").bounding_box()
    found = Counter()
    for arrow in panel.locator("g.arrow:has(.tip)").all():
        x, y = map(float, arrow.locator(".tip").get_attribute("d")[1:].split(" L")[0].split())
        found[round(x), round(y), "negative" in arrow.get_attribute("class")] += 1
    ends = Counter()
    for place, weight in expected.strongest(20):
        x, y = point(tab, "products", place, (8, 7, 7))
        ends[round(x - corner["x"]), round(y - corner["y"]), weight < 0] += 1
    assert sum(found.values()) == 20
    near = [any(abs(x - a) <= 1 and abs(y - b) <= 1 and of == sign for a, b, sign in ends) for x, y, of in found]
    assert all(near), (found, ends)
    share = sum(abs(weight) for _, weight in expected.strongest(20)) / np.abs(expected.weights).sum()
    assert f"the 20 strongest hold {share:.0%} of the weight" in panel.locator(".facts").inner_text()


def test_keys_move_the_position_and_change_the_block(opened, blocks):
    tab = opened()
    for key, position in (
        ("ArrowRight", (2, 3, 5)),
        ("ArrowDown", (2, 4, 5)),
        ("Shift+ArrowRight", (3, 4, 5)),
        ("ArrowUp", (3, 3, 5)),
        *(("ArrowLeft", (3, 3, column)) for column in (4, 3, 2, 1, 0)),
        ("ArrowLeft", (2, 3, 13)),  # the frame before
    ):
        tab.keyboard.press(key)
        assert tab.locator("#state").inner_text() == "frame {}, row {}, column {}".format(*position)
    assert_heat_is_that_of(tab, blocks, "res4_1_nonlocal", (2, 3, 13))
    said = tab.locator("[aria-live]").text_content()
    assert said.startswith("frame 2, row 3, column 13. products: the 20 strongest keys hold")
    tab.keyboard.press("2")
    pytest.importorskip("playwright.sync_api").expect(tab.locator(".panel:first-child canvas")).to_have_count(4)
    assert tab.locator("input[value=res5_0_nonlocal]").is_checked()
    assert_heat_is_that_of(tab, blocks, "res5_0_nonlocal", (1, 1, 2))
    assert tab.locator("#state").inner_text() == "frame 3, row 1, column 2", "the second of its four frames is frame 3"
    tab.keyboard.press("h")
    assert not tab.locator("#heat").is_checked() and not tab.locator("canvas.heat").first.is_visible()
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press(" ")
    tab.mouse.move(*point(tab, "products", (3, 4, 0), (4, 5, 3)))
    assert tab.locator("#state").inner_text() == "frame 3, row 1, column 1, held", "the pointer moves it no more"
    tab.keyboard.press("Escape")
    tab.mouse.move(*point(tab, "products", (3, 4, 1), (4, 5, 3)))
    assert tab.locator("#state").inner_text() == "frame 7, row 4, column 1"
    assert not tab.errors


def test_a_click_holds_the_position_and_a_finger_asks_one(opened, blocks):
    tab = opened()
    tab.mouse.click(*point(tab, "products", (1, 2, 3), SHAPE))
    tab.mouse.move(*point(tab, "products", (6, 6, 6), SHAPE))
    assert tab.locator("#state").inner_text() == "frame 1, row 2, column 3, held"
    tab.mouse.click(*point(tab, "products", (6, 6, 6), SHAPE))
    assert tab.locator("#state").inner_text() == "frame 6, row 6, column 6"
    phone = opened(has_touch=True, is_mobile=True)
    phone.touchscreen.tap(*point(phone, "products", (1, 10, 3), SHAPE))
    pytest.importorskip("playwright.sync_api").expect(phone.locator("#state")).to_have_text("frame 1, row 10, column 3")
    assert_heat_is_that_of(phone, blocks, "res4_1_nonlocal", (1, 10, 3))


READABLE = """() => {
  const luminance = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = luminance(getComputedStyle(document.body).backgroundColor);
  const texts = ['h1', '#help', '.facts', '#state', 'figcaption', 'legend'].map(of => document.querySelector(of));
  return [ground, ...texts.map(text => luminance(getComputedStyle(text).color))];
}"""


FOCUS = """[document.activeElement, document.activeElement.nextElementSibling].map(
  element => element && getComputedStyle(element).outlineStyle)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_reached_without_a_mouse(opened, scheme):
    tab = opened(color_scheme=scheme)
    ground, *inks = tab.evaluate(READABLE)
    assert (ground > 0.9) if scheme == "light" else (ground < 0.05)
    for ink in inks:
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5, "contrast of WCAG AA"
    reached = []
    for _ in range(5):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.className || 'block'"))
        assert "solid" in tab.evaluate(FOCUS), f"{reached[-1]} shows that it has the focus"
    assert reached == ["block", "count", "heat", "frames", "frames"]
    assert all(panel.get_attribute("aria-label") for panel in tab.locator(".panel, .frames").all())
    assert all(image.get_attribute("alt") for image in tab.locator("img").all())
    wide = tab.evaluate("document.documentElement.scrollWidth")
    tab.set_viewport_size({"width": 380, "height": 700})
    assert wide <= 1200 and tab.evaluate("document.documentElement.scrollWidth") <= 380


def test_a_notebook_shows_it_in_a_cell(browser, page):
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.set_content(f"<main>{page._repr_html_()}</main>")
    frame = tab.frame_locator("iframe")
    frame.locator("body[data-ready]").wait_for()
    frame.locator(".picture").nth(3).hover()
    assert frame.locator("#state").inner_text().startswith("frame 3, row")
    context.close()
