"""Measures the non-local block on real data: movements of held-out people (1-D) and images of clothes (2-D).

python -m experiments.real_data watch --seeds=3
python -m experiments.real_data fashion --seeds=5 --steps=1000

`watch` is the dataset of shoulder exercises in seglearn (`pip install -e ".[real_data]"`): ten people, seven exercises,
accelerometer and gyroscope of a smart watch at 50 Hz. Each fold tests on two people and trains on the others. `fashion`
is Fashion-MNIST as Debian distributes it (`apt install dataset-fashion-mnist`): ten kinds of clothes, 60000 training
images of 28 x 28 pixels and 10000 test images.

The program trains three small residual networks for the same number of steps. `plain` has two residual blocks.
`non_local` has a non-local block between them. `control` has another residual block there, with as many parameters.
"""

import argparse
import gzip
import importlib.util
import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments import command_line
from experiments.command_line import local_path
from experiments.reproduce.statistics import mean_and_spread, paired_difference
from experiments.reproduce.tables import signed
from nl_jax.errors import InputError
from nl_jax.models import NonLocalBlock, flat
from nl_jax.models.norm import Norm

NETWORKS = ("plain", "non_local", "control")
WIDTH, BATCH, RATE = 32, 64, 2e-3
EVALUATED = 500  # examples in a batch of the test
STRIDE, WINDOW, HOP = 4, 64, 32  # watch: every fourth sample; windows of 64 samples (5 s), which start every 32
FOLDS = 5  # of watch
FASHION = Path("/usr/share/datasets/fashion-mnist")  # the folder of Debian's package


class Residual(nnx.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), with kernels of size 3 along each axis of a sequence or an image."""

    def __init__(self, axes: int, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.norms = nnx.List([Norm(width, kind="global"), Norm(hidden, kind="global")])
        self.convs = nnx.List(
            [nnx.Conv(i, o, (3,) * axes, rngs=rngs) for i, o in ((width, hidden), (hidden, width))],
        )

    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(nnx.relu(norm(y)))
        return x + y


class Network(nnx.Module):
    """A convolution (with stride 2 for images), two residual blocks, global average pooling and a linear classifier."""

    def __init__(self, kind: str, axes: int, channels: int, classes: int, *, rngs: nnx.Rngs):
        stride = 1 if axes == 1 else 2  # keeps the block's positions x positions matrix small
        self.stem = nnx.Conv(channels, WIDTH, (3,) * axes, strides=stride, rngs=rngs)
        layers = [Residual(axes, WIDTH, WIDTH, rngs=rngs) for _ in range(2)]
        if kind == "non_local":
            layers.insert(1, NonLocalBlock(WIDTH, scale="rsqrt_d", norm="global", rngs=rngs))
        if kind == "control":  # a non-local block has about 2 c^2 parameters, and this layer has 2 c hidden 3^axes
            layers.insert(1, Residual(axes, WIDTH, max(1, round(WIDTH / 3**axes)), rngs=rngs))
        self.layers = nnx.List(layers)
        self.norm = Norm(WIDTH, kind="global")
        self.classifier = nnx.Linear(WIDTH, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b k"]:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(nnx.relu(self.norm(x)).mean(axis=tuple(range(1, x.ndim - 1))))


def watch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns windows (n,t,c) of the recordings, the labels (n,) of the exercises, and the folds (n,) of the people."""
    package = importlib.util.find_spec("seglearn")
    if package is None:
        raise InputError('watch needs the recordings in the package seglearn: pip install -e ".[real_data]"')
    path = Path(package.submodule_search_locations[0]) / "data" / "watch_dataset.npy"
    recordings = np.load(path, allow_pickle=True).item()  # read without seglearn, whose import needs more packages
    windows, labels, folds = [], [], []
    for series, label, person in zip(*(recordings[name] for name in ("X", "y", "subject")), strict=True):
        series = np.asarray(series, np.float32)[::STRIDE]
        for start in range(0, len(series) - WINDOW + 1, HOP):
            windows.append(series[start : start + WINDOW])
            labels.append(label)
            folds.append((int(person) - 1) % FOLDS)
    return np.stack(windows), np.array(labels, np.int32), np.array(folds)


def fashion(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images (n,h,w,1), their labels (n,), and folds (n,): 0 for the official test split, -1 for training.

    Raises:
      InputError: a file is missing or damaged.
    """
    parts = []
    for part, fold in (("train", -1), ("t10k", 0)):
        images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
        labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)
        if len(images) != len(labels):
            raise InputError(
                f"{folder}: {part} has {len(images)} images and {len(labels)} labels; the two numbers must be equal"
            )
        parts.append((images, labels, np.full(len(labels), fold)))
    images, labels, folds = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return images[..., None].astype(np.float32), labels.astype(np.int32), folds


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Reads a gzip file in MNIST's format: the bytes 0, 0, 8, the number of axes, the lengths of the axes, the values.

    Raises:
      InputError: the file is missing or damaged, or does not have this number of axes.
    """
    if not path.exists():
        raise InputError(
            f"there is no file {path}: fashion needs images-idx3-ubyte.gz and labels-idx1-ubyte.gz, each with train- "
            "and with t10k- before its name; apt install dataset-fashion-mnist, or give the folder of the files as "
            "--data_dir"
        )
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is not a complete gzip file: {error}") from error
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise InputError(
            f"{path} begins with {content[:4].hex()}; valid is 000008{axes:02}, and then the length of each axis"
        )
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise InputError(
            f"{path} has {len(content) - start} bytes of values; its header {shape} needs {math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


DATA = {"watch": lambda arguments: watch(), "fashion": lambda arguments: fashion(arguments.data_dir)}


def right_by_fold(kind: str, data: tuple, seeds: int, steps: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields (seed, indices, right) for the held-out examples of every fold, for every seed.

    `right` (n,) says whether the prediction for each example of `indices` (n,) is right. Examples of fold -1 are only
    for training.
    """
    x, labels, folds = data

    def network(key):
        return flat.split(Network(kind, x.ndim - 2, x.shape[-1], labels.max() + 1, rngs=nnx.Rngs(key)))

    graphdef = network(jax.random.key(0))[0]
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, steps), weight_decay=1e-2)

    def apply(params, stats, x, train):
        model = flat.merge(graphdef, params, stats)
        model.train() if train else model.eval()
        logits = model(x)
        return logits, flat.split(model)[2]

    @jax.jit
    def step(params, stats, opt_state, x: Float[Array, "b *s c"], label: Int[Array, "b"]):
        def loss(params):
            logits, new_stats = apply(params, stats, x, True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), new_stats

        grads, new_stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), new_stats, opt_state

    predict = jax.jit(lambda params, stats, x: apply(params, stats, x, False)[0].argmax(-1))
    for seed in range(seeds):
        for fold in range(folds.max() + 1):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            axes = tuple(range(x.ndim - 1))
            mean, std = x[train].mean(axes), x[train].std(axes) + 1e-6
            params, stats = network(jax.random.key(seed))[1:]
            opt_state = optimizer.init(params)
            rng = np.random.default_rng([seed, fold])
            for _ in range(steps):
                at = rng.choice(train, BATCH, replace=False)
                params, stats, opt_state = step(params, stats, opt_state, (x[at] - mean) / std, labels[at])
            parts = [test[start : start + EVALUATED] for start in range(0, len(test), EVALUATED)]
            found = [predict(params, stats, jnp.asarray((x[part] - mean) / std)) for part in parts]
            yield seed, test, np.concatenate(found) == labels[test]


def parameters(kind: str, data: tuple) -> int:
    """Returns the number of parameters of a network for this data."""
    x, labels, _ = data
    model = nnx.eval_shape(lambda: Network(kind, x.ndim - 2, x.shape[-1], labels.max() + 1, rngs=nnx.Rngs(0)))
    return sum(array.size for array in flat.split(model)[1].values())


def markdown(networks: dict[str, dict]) -> str:
    """Returns a Markdown table with one line for every network. `networks` is the content of a JSON file of results."""
    lines = [
        "| network | parameters | held-out accuracy, % | difference from plain [95%] |",
        "| --- | --- | --- | --- |",
    ]
    for kind, found in networks.items():
        mean, low, high = (signed(value) for value in found["difference"])
        spread = "" if found["spread"] is None else f" ± {found['spread']:.1f}"
        difference = "" if kind == "plain" else f"{mean} [{low}, {high}]"
        lines.append(f"| {kind} | {found['parameters']} | {found['accuracy']:.1f}{spread} | {difference} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.real_data", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", choices=tuple(DATA), help="dataset")
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="number of runs of each network, with seeds 0, 1, ..; by default %(default)s",
    )
    parser.add_argument("--steps", type=int, default=300, help="training steps of each run; by default %(default)s")
    parser.add_argument(
        "--data_dir",
        type=local_path("--data_dir"),
        default=FASHION,
        help="folder of the four files of Fashion-MNIST; by default %(default)s",
    )
    parser.add_argument(
        "--out",
        type=local_path("--out"),
        default=Path("results"),
        help="folder for real_data_DATA.json; by default %(default)s",
    )
    arguments = parser.parse_args(argv)
    try:
        if min(arguments.seeds, arguments.steps) < 1:
            raise InputError(f"--seeds={arguments.seeds}, --steps={arguments.steps}: choose 1 or more")
        data = DATA[arguments.data](arguments)
    except InputError as error:
        command_line.fail(error, 2)
    right = {kind: np.zeros((arguments.seeds, len(data[1])), bool) for kind in NETWORKS}
    for kind in NETWORKS:
        for seed, indices, found in right_by_fold(kind, data, arguments.seeds, arguments.steps):
            right[kind][seed, indices] = found
        right[kind] = right[kind][:, data[2] >= 0]
    found = {}
    for kind in NETWORKS:
        mean, spread = mean_and_spread(100 * right[kind].mean(axis=1))
        difference = [100 * value for value in paired_difference(right[kind], right["plain"])]
        found[kind] = {"parameters": parameters(kind, data), "accuracy": mean, "spread": spread}
        found[kind]["difference"] = difference
    print(markdown(found))
    arguments.out.mkdir(parents=True, exist_ok=True)
    facts = {"seeds": arguments.seeds, "steps": arguments.steps, "samples": right["plain"].shape[1], "networks": found}
    path = arguments.out / f"real_data_{arguments.data}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
