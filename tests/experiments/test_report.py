"""The report on invented runs with known curves and mistakes, as a page and in a browser."""

import csv
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from configs import quickstart, scenes
from experiments.report.classes import ByClass, gains
from experiments.report.objects import Objects
from experiments.report.page import render
from experiments.report.runs import differences, read_runs
from nl_jax.errors import InputError
from nl_jax.tasks import task_of
from nl_jax.training import workdir
from nl_jax.training.logs import columns

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1100,3600"),
    *("--force-device-scale-factor=1", "--enable-logging=stderr"),
)
VIDEOS = 40
STEPS = range(100, 2001, 100)


def loss(step: int) -> float:
    return 2.0 - 2.0 * step / 2000  # a straight line from 2 to 0


def make_run(path, *, mistakes: dict[int, int], rate: float):
    """Makes a workdir of the quickstart. `mistakes` is {class: number of videos taken for the next class}."""
    config = quickstart.get_config().unlock()
    config.data.test_size = VIDEOS
    config.optimizer.learning_rate = rate
    dataset = task_of(config).open_split("test")
    workdir.write_workdir(path, config, dataset.classes)
    labels = np.array([dataset.compose(index)[1] for index in range(VIDEOS)])
    predicted = labels.copy()
    for of_class, count in mistakes.items():
        wrong = np.flatnonzero(labels == of_class)[:count]
        predicted[wrong] = (of_class + 1) % len(dataset.classes)
    scores = np.full((VIDEOS, len(dataset.classes)), 0.05, np.float32)
    scores[np.arange(VIDEOS), predicted] = 0.8
    arrays = dict(scores=scores, view_scores=scores[:, None], labels=labels, failed=np.zeros(VIDEOS, bool))
    names = np.array(list(map(str, range(VIDEOS))))
    np.savez_compressed(path / "predictions.npz", **arrays, classes=np.array(dataset.classes), names=names)
    accuracy = float((predicted == labels).mean())
    results = dict(video_top1=accuracy, video_top5=1.0, clip_top1=accuracy, clip_top5=1.0, videos=VIDEOS, views=1)
    results |= dict(undecodable=0, list=dataset.list_hash(), measured_on="the test split", chance=0.2, steps=2000)
    workdir.write_json(path / "results.json", results)
    with (path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(task_of(config)))
        writer.writeheader()
        for step in STEPS:
            row = {"step": step, "train_loss": loss(step), "train_top1": step / 2000, "learning_rate": rate}
            writer.writerow(row | {"clips_per_second": 100 if step > 100 else 1, "input_seconds": 0.25})
    return labels


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "one", mistakes={0: 3, 2: 1}, rate=0.1)
    make_run(root / "<two>", mistakes={0: 1}, rate=0.2)
    return root / "one", root / "<two>"


@pytest.fixture(scope="module")
def page(runs):
    return render(read_runs(list(map(str, runs))), "<one> & two")


def test_what_is_right_and_wrong_by_class(runs):
    one, two = (ByClass(run) for run in read_runs(list(map(str, runs))))
    videos = one.videos
    assert videos.sum() == one.confusion.sum() == VIDEOS
    assert one.confusion[0, 1] == 3 and one.confusion[2, 3] == 1 and np.trace(one.confusion) == VIDEOS - 4
    hardest = one.hardest(10, 2)
    assert {hard.name for hard in hardest} == {"0", "2"}, "classes without a mistake are not hard"
    assert hardest[0].figure == min(1 - 3 / videos[0], 1 - 1 / videos[2])
    first = next(hard for hard in hardest if hard.name == "0")
    assert first.taken_for == "1 (3)" and len(first.examples) == 2
    pairs = one.most_confused(10)
    assert [(pair.true, pair.predicted, pair.count) for pair in pairs] == [("0", "1", 3), ("2", "3", 1)]
    gain = {name: points for name, *_, points in gains(one, two)}
    np.testing.assert_allclose([gain["0"], gain["2"], gain["4"]], [2 / videos[0], 1 / videos[2], 0])


def test_equal_scores_and_undecodable_videos_count_as_wrong(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    with np.load(runs[0] / "predictions.npz") as arrays:
        changed = dict(arrays)
    changed["scores"][:] = 0.2
    changed["failed"][:5] = True
    np.savez(tmp_path / "run" / "predictions.npz", **changed)
    (run,) = read_runs([str(tmp_path / "run")])
    found = ByClass(run)
    assert not found.figures.any() and np.trace(found.confusion) == 0 and found.confusion.sum() == VIDEOS - 5


def test_videos_with_several_labels_have_an_average_precision(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run")
    with np.load(runs[0] / "predictions.npz") as arrays:
        changed = dict(arrays)
    changed["labels"] = np.eye(5, dtype=np.float32)[changed["labels"]]
    np.savez(tmp_path / "run" / "predictions.npz", **changed)
    found = read_runs([str(tmp_path / "run")])
    by_class = ByClass(found[0])
    assert by_class.measure == "average precision" and by_class.confusion is None
    (hardest,) = by_class.hardest(1, 1)
    assert hardest.figure == by_class.figures[int(hardest.name)] == by_class.figures.min() < 1
    assert "videos with the lowest score" in render(found, "several")


def test_the_misses_and_the_false_alarms_of_a_detector(tmp_path):
    config = scenes.get_config().unlock()
    config.data.test_size = 3
    dataset = task_of(config).open_split("test")
    truth = dataset.coco()
    of = {number: [one for one in truth["annotations"] if one["image_id"] == number] for number in range(3)}
    sure = [{name: one[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.9} for one in of[0] + of[1]]
    wrong = of[1][0]["category_id"] % 4 + 1
    sure[len(of[0])] |= {"category_id": wrong, "score": 0.95}  # one has the wrong class; those of image 2 are not found
    nowhere = sure[0] | {"bbox": [88.0, 40.0, 12.0, 12.0], "score": 0.7}
    twice = sure[1] | {"score": 0.6}
    (path := tmp_path / "run").mkdir()
    workdir.write_workdir(path, config, dataset.classes)
    workdir.write_json(path / "detections.json", [*sure, nowhere, twice])
    aps = dict(zip(dataset.classes, (0.5, None, 0.25, 1.0), strict=True))
    workdir.write_json(path / "ap_by_class.json", {"box": aps, "mask": dict.fromkeys(dataset.classes, 0.125)})
    facts = {"images": 3, "list": dataset.list_hash(), "measured_on": "the test split", "undecodable": 0}
    workdir.write_json(path / "results.json", {"box_ap": 0.4, "box_ap_small": 0.375} | facts)
    (run,) = read_runs([str(path)])
    found = Objects(run, show=20)
    assert [name for name, _ in found.by_class] == ["blue", "red", "yellow", "green"]  # the lowest AP first, no AP last
    assert found.by_size[0][1] == [0.375, None] and not found.reason
    names = dict(enumerate(dataset.classes, 1))
    right = names[of[1][0]["category_id"]]
    texts = [mistake.text for mistake in found.misses]
    assert sorted(texts[: len(of[2]) + 1]) == sorted(
        [f"{names[one['category_id']]}, not found" for one in of[2]]
        + [f"{right}, not found; taken for {names[wrong]} (95.0%)"]
    )
    assert [(mistake.name, mistake.text) for mistake in found.false_alarms] == [
        ("1", f"{names[wrong]} (95.0%), at an object of class {right}: IoU 1.00"),
        ("0", f"{names[sure[0]['category_id']]} (70.0%), at a place without an object"),
        ("0", f"{names[sure[1]['category_id']]} (60.0%): IoU 1.00, found twice"),
    ]
    page = render([run], "detector", show=2)
    assert "Worst misses" in page and page.count("data:image/jpeg") == 4 and "37.5%" in page
    config.data.seed = 1
    workdir.write_json(path / "config.json", json.loads(config.to_json()))
    (other,) = read_runs([str(path)])
    assert "the images have changed since the test" in Objects(other, show=2).reason


def test_differences_are_those_of_the_configs(runs):
    found = differences(read_runs(list(map(str, runs))))
    assert found == {"config": [("optimizer.learning_rate", ["0.1", "0.2"])], "versions": []}


def test_the_page_needs_nothing_outside_it_and_escapes_names(page):
    assert "<title>&lt;one&gt; &amp; two</title>" in page and "&lt;two&gt;" in page and "<two>" not in page
    assert page.count("data:image/jpeg;base64,") >= 4, "frames of the mistakes"
    for reference in re.findall(r"(?:src|href)=.([^\"\']*)|url\(([^)]*)\)", page):
        assert "".join(reference).startswith("data:"), reference
    assert "100" in re.search(r'id="throughput".*?</table>', page, re.S).group(), "the median, not the first slow row"


def test_a_run_that_was_not_tested_and_one_whose_videos_are_gone(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "new")
    (tmp_path / "new" / "results.json").unlink()
    assert "not tested yet" in render(read_runs([str(tmp_path / "new")]), "new")
    shutil.copytree(runs[0], tmp_path / "moved")
    results = json.loads((runs[0] / "results.json").read_text())
    (tmp_path / "moved" / "results.json").write_text(json.dumps(results | {"list": "another"}))
    moved = render(read_runs([str(tmp_path / "moved")]), "moved")
    assert "the videos have changed since the test" in moved and "data:image" not in moved


def test_what_is_no_run_is_named(runs, tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json"):
        read_runs([str(tmp_path)])
    with pytest.raises(InputError, match="the same workdir"):
        read_runs([str(runs[0]), f"{runs[0]}/."])
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / "predictions.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"predictions\.npz cannot be read"):
        read_runs([str(tmp_path / "run")])


# A script in a copy of the page. It measures the positions of the parts on the screen and reads the console.
MEASURE = """<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; };
const chart = document.querySelector('[data-chart="Loss in training"]');
const ticks = name => Object.fromEntries([...chart.querySelectorAll('[data-' + name + ']')].map(
  e => [e.dataset[name], box(e)]));
const found = {x: ticks('x'), y: ticks('y'), matrix: box(document.querySelector('.matrix')),
  images: [...document.images].map(i => i.naturalWidth), run: getComputedStyle(document.querySelector('.run0')).color,
  wide: document.documentElement.scrollWidth};
console.log('measured'); document.body.innerHTML = ''; document.title = JSON.stringify(found);
</script></body>"""


def browse(path, *flags) -> subprocess.CompletedProcess:
    profile = path.parent / "profile"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_curve_and_the_confusion_where_they_must_be(runs, page, tmp_path, scheme):
    dark = ["--force-dark-mode"] if scheme == "dark" else []
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "measured.html").write_text(page.replace("</body>", MEASURE))
    measured = browse(tmp_path / "measured.html", "--dump-dom", *dark)
    assert "measured" in measured.stderr, "messages of the console are seen"
    title = re.search(r"<title>(.*?)</title>", measured.stdout, re.S).group(1)
    found = json.loads(title.replace("&quot;", '"').replace("&amp;", "&"))
    shown = browse(tmp_path / "page.html", f"--screenshot={tmp_path / 'page.png'}", *dark)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), int)

    ground = pixels[2, 2].mean()
    assert ground > 250 if scheme == "light" else ground < 50
    assert found["wide"] <= 1100, "nothing is cut off at the right"
    assert found["images"] and min(found["images"]) > 64

    def place(ticks, axis, value):
        """Returns the pixel of a value, from the positions of two ticks on the screen."""
        (low, at_low), (high, at_high) = ((float(text.replace(",", "")), box[axis]) for text, box in ticks)
        return at_low + (at_high - at_low) * (value - low) / (high - low)

    colour = np.array([int(number) for number in re.findall(r"\d+", found["run"])[:3]])
    for step in (300, 1000, 1700):
        x = round(place([("0", found["x"]["0"]), ("2,000", found["x"]["2,000"])], 0, step))
        y = round(place([("0", found["y"]["0"]), ("2", found["y"]["2"])], 1, loss(step)))
        # Both runs have this curve, and the second line covers the first.
        near = pixels[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3)
        far = pixels[y - 40 : y - 12, x + 2 : x + 8].reshape(-1, 3)
        line = line_colour(near, pixels[2, 2])
        assert np.abs(line - pixels[2, 2]).max() > 80, (scheme, step, "no curve where it must be")
        assert np.abs(far - line).sum(axis=1).min() > 60, (scheme, step, "the curve's colour where it must not be")
    assert len(colour) == 3

    confusion = ByClass(read_runs([str(runs[0])])[0]).confusion
    left, top, width, height = found["matrix"]
    side = width / len(confusion)
    depth = np.zeros(confusion.shape)
    for row, column in np.ndindex(confusion.shape):
        # A point next to the number in the middle of the cell.
        y, x = round(top + (row + 0.15) * height / len(confusion)), round(left + (column + 0.15) * side)
        depth[row, column] = np.abs(pixels[y, x] - pixels[2, 2]).sum()
    shares = confusion / confusion.sum(axis=1, keepdims=True)
    order = np.argsort(shares, axis=None, kind="stable")
    assert (np.diff(depth.ravel()[order]) >= -12).all(), "the larger the share, the further from the ground"
    assert depth.diagonal().min() > 2 * depth[shares == 0].max()


NAMES = """<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
const drawing = document.querySelector('.confusion');
const found = {drawing: box(drawing), names: [...drawing.querySelectorAll('text')].map(box)};
document.body.innerHTML = ''; document.title = JSON.stringify(found);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_long_names_of_classes_lie_within_the_drawing_of_the_confusion(runs, tmp_path):
    run = shutil.copytree(runs[0], tmp_path / "run")
    workdir.write_json(run / "classes.json", [f"{number} playing the accordion outdoors" for number in range(5)])
    page = render(read_runs([str(run)]), "long names")
    (tmp_path / "page.html").write_text(page.replace("</body>", NAMES))
    title = re.search(r"<title>(.*?)</title>", browse(tmp_path / "page.html", "--dump-dom").stdout, re.S).group(1)
    found = json.loads(title.replace("&quot;", '"'))
    left, top, right, bottom = found["drawing"]
    assert len(found["names"]) >= 10
    for name in found["names"]:
        assert left - 1 <= name[0] and top - 1 <= name[1] and name[2] <= right + 1 and name[3] <= bottom + 1, name


def line_colour(near: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Returns the pixel that differs most from the background."""
    return near[np.abs(near - ground).sum(axis=1).argmax()]
