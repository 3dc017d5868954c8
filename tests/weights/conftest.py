"""Checkpoints in the formats of other programs, filled with random numbers, and the outputs of these programs.

Names, layouts, strides, pools and formulas follow the published layer tables. They are written in PyTorch's functional
layers and use nothing of nl_jax.
"""

import contextlib
import dataclasses
import io
import pickle
import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    with contextlib.suppress(ImportError):  # without torch, `peers` skips the tests that need it
        import torch
        import torch.nn.functional as F

# Residual blocks. "few" is no published network, but has every kind of layer.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), "few": (1, 2, 2, 2)}
TORCH_NORM = (".weight", ".bias", ".running_mean", ".running_var")
# conv1 strides, then pool1 and pool2 as kernel, strides, padding.
GEOMETRIES = {
    "slowfast": ((1, 2, 2), ((1, 3, 3), (1, 2, 2), (0, 1, 1)), ((2, 1, 1), (2, 1, 1))),
    "caffe2_32": ((2, 2, 2), ((2, 3, 3), (2, 2, 2)), ((2, 1, 1), (2, 1, 1))),
    "caffe2_8": ((1, 2, 2), ((1, 3, 3), (1, 2, 2)), ((2, 1, 1), (2, 1, 1))),
    "slowfast_nopool": ((1, 2, 2), ((1, 3, 3), (1, 2, 2), (0, 1, 1)), None),
    "mmaction2": ((2, 2, 2), ((1, 3, 3), (2, 2, 2), (0, 1, 1)), ((2, 1, 1), (2, 1, 1))),
    "paper": ((2, 2, 2), ((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 1, 1), (2, 1, 1), (1, 0, 0))),
}


def inflated_conv1(stage, block):
    """Returns whether the first 1x1 convolution of a block reaches over three frames in I3D 3x1x1."""
    return {0: True, 1: block % 2 == 0, 2: block % 2 == 0, 3: block % 2 == 1}[stage]


@dataclasses.dataclass(frozen=True)
class Peer:
    """The names of one program. Stages count from 0, the convolutions of a block from 1."""

    stem: tuple[str, str]  # convolution, prefix of the norm
    conv: Callable  # (stage, block, i) to the name of a kernel
    norm: Callable  # (stage, block, i) to the prefix of a norm's names
    shortcut: Callable  # (stage, block) to both
    embed: Callable  # (stage, block, part) to the prefix of theta, phi, g and out
    embed_norm: Callable
    fc: str
    linear: tuple[str, str] = (".weight", ".bias")
    parts: tuple[str, ...] = TORCH_NORM  # scale, bias, mean, variance
    epsilon: float = 1e-5
    subsample: str = "before"
    rsqrt_d: bool = True
    out_bias: bool = True

    def checkpoint(
        self,
        depth="few",
        *,
        width=4,
        i3d=True,
        nonlocal_at=None,
        gaussian=False,
        concat=False,
        affine=False,
        two_d=False,
        classes=5,
    ):
        """Returns tensors by name. nonlocal_at is {stage: blocks that a non-local block follows}."""
        rng = np.random.default_rng(0)
        out = {}

        def tensor(value):
            return torch.tensor(np.asarray(value, np.float32))

        def kernel(name, o, i, *k):
            k = k[1:] if two_d and len(k) == 3 else k
            out[name] = tensor(rng.normal(size=(o, i, *k)) / np.sqrt(i * np.prod(k)))

        def norm(name, channels):
            values = rng.uniform(0.5, 1.5, (4, channels))
            values[1:3] = 0.1 * rng.normal(size=(2, channels))
            for part, value in zip(self.parts[: 2 if affine else 4], values, strict=False):
                out[name + part] = tensor(value)
            if self.parts == TORCH_NORM:
                out[f"{name}.num_batches_tracked"] = torch.tensor(7)

        kernel(self.stem[0], width, 3, 5 if i3d else 1, 7, 7)
        norm(self.stem[1], width)
        features = width
        for stage, count in enumerate(DEPTHS[depth]):
            d = width * 2**stage
            for block in range(count):
                kernel(self.conv(stage, block, 1), d, features, 3 if i3d and inflated_conv1(stage, block) else 1, 1, 1)
                kernel(self.conv(stage, block, 2), d, d, 1, 3, 3)
                kernel(self.conv(stage, block, 3), 4 * d, d, 1, 1, 1)
                for i, channels in ((1, d), (2, d), (3, 4 * d)):
                    norm(self.norm(stage, block, i), channels)
                if block == 0:
                    name, norm_name = self.shortcut(stage, block)
                    kernel(name, 4 * d, features, 1, 1, 1)
                    norm(norm_name, 4 * d)
                features = 4 * d
                if block in (nonlocal_at or {}).get(stage, ()):
                    for part in ("g", "out") if gaussian else ("theta", "phi", "g", "out"):
                        o, i = (features, 2 * d) if part == "out" else (2 * d, features)
                        name = self.embed(stage, block, part)
                        kernel(name + self.linear[0], o, i, 1, 1, 1)
                        if part != "out" or self.out_bias:
                            out[name + self.linear[1]] = tensor(0.1 * rng.normal(size=o))
                    if concat:
                        kernel(self.embed(stage, block, "concat") + self.linear[0], 1, 4 * d, 1, 1)
                    norm(self.embed_norm(stage, block), features)
        kernel(self.fc + self.linear[0], classes, features)
        out[self.fc + self.linear[0]] /= 10  # so that the softmax leaves more than one class
        out[self.fc + self.linear[1]] = tensor(0.1 * rng.normal(size=classes))
        return out

    def forward(self, tensors, video, geometry, *, depth="few", pairwise="embedded_gaussian", window=None, groups=0):
        """Returns the logits and every layer's output by our name. With a window the mean softmax replaces the logits.

        The video is (b,t,h,w,3), and outputs have channels last. Blocks of res3 sum over groups of so many frames.
        """
        out = {}

        def note(name, x):
            out[name] = x.permute(0, 2, 3, 4, 1).numpy()
            return x

        conv1_stride, pool1, pool2 = GEOMETRIES[geometry]

        def conv(x, name, stride=(1, 1, 1)):
            kernel = tensors[name]
            kernel = kernel[:, :, None] if kernel.ndim == 4 else kernel
            return F.conv3d(x, kernel, None, stride, [k // 2 for k in kernel.shape[2:]])

        def norm(x, name):
            scale, bias, mean, var = (tensors.get(name + part) for part in self.parts)
            if mean is None:  # an affine layer
                return x * scale[:, None, None, None] + bias[:, None, None, None]
            return F.batch_norm(x, mean, var, scale, bias, eps=self.epsilon)

        def embed(x, name):
            return F.conv3d(x, tensors[name + self.linear[0]], tensors.get(name + self.linear[1]))

        def nonlocal_block(x, stage, block):
            names = {part: self.embed(stage, block, part) for part in ("theta", "phi", "g", "out")}
            keys = F.max_pool3d(x, (1, 2, 2)) if self.subsample == "before" else x
            theta, phi, g = x, keys, embed(keys, names["g"])
            if pairwise != "gaussian":
                theta, phi = embed(x, names["theta"]), embed(keys, names["phi"])
            if self.subsample == "after":
                phi, g = F.max_pool3d(phi, (1, 2, 2)), F.max_pool3d(g, (1, 2, 2))
            scores = torch.matmul(theta.flatten(2).transpose(1, 2), phi.flatten(2))
            if pairwise == "dot_product":
                weights = scores / scores.shape[2]
            elif pairwise == "concatenation":
                w_f = tensors[self.embed(stage, block, "concat") + self.linear[0]].flatten()
                sums = torch.einsum("c,bcn->bn", w_f[: len(w_f) // 2], theta.flatten(2))[:, :, None]
                sums = sums + torch.einsum("c,bcm->bm", w_f[len(w_f) // 2 :], phi.flatten(2))[:, None]
                weights = sums.relu() / sums.shape[2]
            else:
                weights = (scores * (theta.shape[1] ** -0.5 if self.rsqrt_d else 1)).softmax(2)
            y = torch.matmul(weights, g.flatten(2).transpose(1, 2)).transpose(1, 2)
            y = y.reshape(*y.shape[:2], *x.shape[2:])
            y = embed(y, names["out"])
            if self.embed_norm(stage, block) + self.parts[0] in tensors:
                y = norm(y, self.embed_norm(stage, block))
            return x + y

        x = torch.tensor(np.asarray(video)).permute(0, 4, 1, 2, 3)
        x = note("conv1", norm(conv(x, self.stem[0], conv1_stride), self.stem[1]).relu())
        x = note("pool1", F.max_pool3d(x, *pool1))
        for stage, count in enumerate(DEPTHS[depth]):
            for block in range(count):
                stride = (1, 2, 2) if block == 0 and stage > 0 else (1, 1, 1)
                y = norm(conv(x, self.conv(stage, block, 1)), self.norm(stage, block, 1)).relu()
                y = norm(conv(y, self.conv(stage, block, 2), stride), self.norm(stage, block, 2)).relu()
                y = norm(conv(y, self.conv(stage, block, 3)), self.norm(stage, block, 3))
                if block == 0:
                    name, norm_name = self.shortcut(stage, block)
                    x = norm(conv(x, name, stride), norm_name)
                x = note(f"res{stage + 2}_{block}", (x + y).relu())
                if self.embed(stage, block, "g") + self.linear[0] in tensors:
                    parts = x.split(groups, 2) if groups and stage == 1 else (x,)
                    x = torch.cat([nonlocal_block(part, stage, block) for part in parts], 2)
                    x = note(f"res{stage + 2}_{block}_nonlocal", x)
            if stage == 0 and pool2:
                x = note("pool2", F.max_pool3d(x, *pool2))
        fc = tensors[self.fc + self.linear[0]], tensors[self.fc + self.linear[1]]
        if window is None:
            return F.linear(x.mean((2, 3, 4)), *fc).numpy(), out
        cells = F.avg_pool3d(x, (x.shape[2], window, window), 1).permute(0, 2, 3, 4, 1)
        return F.linear(cells, *fc).softmax(-1).mean((1, 2, 3)).numpy(), out


PEERS = {
    "slowfast": Peer(
        stem=("s1.pathway0_stem.conv.weight", "s1.pathway0_stem.bn"),
        conv=lambda s, b, i: f"s{s + 2}.pathway0_res{b}.branch2.{'abc'[i - 1]}.weight",
        norm=lambda s, b, i: f"s{s + 2}.pathway0_res{b}.branch2.{'abc'[i - 1]}_bn",
        shortcut=lambda s, b: (f"s{s + 2}.pathway0_res{b}.branch1.weight", f"s{s + 2}.pathway0_res{b}.branch1_bn"),
        embed=lambda s, b, part: f"s{s + 2}.pathway0_nonlocal{b}.conv_{part}",
        embed_norm=lambda s, b: f"s{s + 2}.pathway0_nonlocal{b}.bn",
        fc="head.projection",
    ),
    "mmaction2": Peer(
        stem=("backbone.conv1.conv.weight", "backbone.conv1.bn"),
        conv=lambda s, b, i: f"backbone.layer{s + 1}.{b}.conv{i}.conv.weight",
        norm=lambda s, b, i: f"backbone.layer{s + 1}.{b}.conv{i}.bn",
        shortcut=lambda s, b: (
            f"backbone.layer{s + 1}.{b}.downsample.conv.weight",
            f"backbone.layer{s + 1}.{b}.downsample.bn",
        ),
        embed=lambda s, b, part: (
            f"backbone.layer{s + 1}.{b}.non_local_block."
            + {"phi": "phi.0", "g": "g.0", "out": "conv_out", "concat": "concat_project"}.get(part, part)
            + ".conv"
        ),
        embed_norm=lambda s, b: f"backbone.layer{s + 1}.{b}.non_local_block.conv_out.bn",
        fc="cls_head.fc_cls",
        subsample="after",
        rsqrt_d=False,
        out_bias=False,
    ),
    "caffe2": Peer(
        stem=("conv1_w", "res_conv1_bn"),
        conv=lambda s, b, i: f"res{s + 2}_{b}_branch2{'abc'[i - 1]}_w",
        norm=lambda s, b, i: f"res{s + 2}_{b}_branch2{'abc'[i - 1]}_bn",
        shortcut=lambda s, b: (f"res{s + 2}_{b}_branch1_w", f"res{s + 2}_{b}_branch1_bn"),
        embed=lambda s, b, part: f"nonlocal_conv{s + 2}_{b}_{part}",
        embed_norm=lambda s, b: f"nonlocal_conv{s + 2}_{b}_bn",
        fc="pred",
        linear=("_w", "_b"),
        parts=("_s", "_b", "_rm", "_riv"),
        epsilon=1.0000001e-5,
    ),
    "pytorchvideo": Peer(
        stem=("blocks.0.conv.weight", "blocks.0.norm"),
        conv=lambda s, b, i: f"blocks.{(1, 3, 4, 5)[s]}.res_blocks.{b}.branch2.conv_{'abc'[i - 1]}.weight",
        norm=lambda s, b, i: f"blocks.{(1, 3, 4, 5)[s]}.res_blocks.{b}.branch2.norm_{'abc'[i - 1]}",
        shortcut=lambda s, b: (
            f"blocks.{(1, 3, 4, 5)[s]}.res_blocks.{b}.branch1_conv.weight",
            f"blocks.{(1, 3, 4, 5)[s]}.res_blocks.{b}.branch1_norm",
        ),
        embed=lambda s, b, part: "none",
        embed_norm=lambda s, b: "none",
        fc="blocks.6.proj",
    ),
    "torchvision": Peer(
        stem=("conv1.weight", "bn1"),
        conv=lambda s, b, i: f"layer{s + 1}.{b}.conv{i}.weight",
        norm=lambda s, b, i: f"layer{s + 1}.{b}.bn{i}",
        shortcut=lambda s, b: (f"layer{s + 1}.{b}.downsample.0.weight", f"layer{s + 1}.{b}.downsample.1"),
        embed=lambda s, b, part: "none",
        embed_norm=lambda s, b: "none",
        fc="fc",
    ),
}


class Python2Pickler(pickle._Pickler):
    """A pickler that writes strings and the bytes of arrays as Python 2 did."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(content):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


@pytest.fixture
def peers(torch):
    """Returns {"slowfast": Peer, ..}."""
    return PEERS


@pytest.fixture
def write(tmp_path):
    """Returns write(source, tensors): the path of a file as this program writes it, with its other content."""

    def write(source, tensors, **content):
        if source == "caffe2":
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            path = tmp_path / "weights.pkl"
            if "_rm" in "".join(arrays):  # trained files also have the optimizer's state; affine files are flat
                momentum = {f"{name}_momentum": array for name, array in arrays.items() if name.endswith("_w")}
                arrays = {"blobs": arrays | momentum | {"lr": np.float32(0.01), "model_iter": 400_000}}
            path.write_bytes(python2_pickle(arrays))
            return path
        wrapped = {
            "pytorchvideo": {"model_state": tensors},
            "slowfast": {"epoch": 118, "model_state": tensors, "optimizer_state": {"state": {}}, "cfg": "NUM_GPUS: 8"},
            "mmaction2": {"meta": {"epoch": 100, "mmaction_version": "1.0"}, "state_dict": tensors},
            "torchvision": tensors,
        }[source]
        path = tmp_path / {"slowfast": "weights.pyth", "pytorchvideo": "weights.pyth"}.get(source, "weights.pth")
        torch.save(wrapped, path)
        return path

    return write
