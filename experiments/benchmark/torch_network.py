"""Defines I3D 3x1x1 ResNet with embedded Gaussian blocks in plain PyTorch, as in the published ports.

The benchmark compares our network with this network, which uses only the layers of PyTorch and nothing of nl_jax. It
has the geometry of PySlowFast: conv1 5x7x7 with stride (1,2,2), pool1 1x3x3, pool2 2x1x1, and keys pooled before phi
and g.
"""

import torch
import torch.nn.functional as F
from torch import nn

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class NonLocal(nn.Module):
    """x + norm(W_z softmax(theta phi^T / sqrt(d)) g), through the whole n x m matrix or PyTorch's fused attention."""

    def __init__(self, channels, fused=False):
        super().__init__()
        self.fused = fused
        d = channels // 2
        self.theta, self.phi, self.g = (nn.Conv3d(channels, d, 1) for _ in range(3))
        self.w_z = nn.Conv3d(d, channels, 1)
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, x):
        keys = F.max_pool3d(x, (1, 2, 2))
        theta, phi, g = self.theta(x).flatten(2), self.phi(keys).flatten(2), self.g(keys).flatten(2)
        if self.fused:  # its default scale is 1 / sqrt(d)
            of_one_head = (a.transpose(1, 2)[:, None] for a in (theta, phi, g))
            y = F.scaled_dot_product_attention(*of_one_head)[:, 0].transpose(1, 2)
            return self._add(x, y)
        rows = (torch.einsum("bdn,bdm->bnm", theta, phi) * theta.shape[1] ** -0.5).softmax(2)
        y = torch.einsum("bnm,bcm->bcn", rows, g)
        return self._add(x, y)

    def _add(self, x, y):
        return x + self.norm(self.w_z(y.reshape(y.shape[0], -1, *x.shape[2:])))


class Bottleneck(nn.Module):
    """relu(x + 1x1(3x3(1x1(x))))."""

    def __init__(self, features_in, features, stride, inflated):
        super().__init__()
        t = 3 if inflated else 1
        self.conv1 = nn.Conv3d(features_in, features, (t, 1, 1), padding=(t // 2, 0, 0), bias=False)
        self.conv2 = nn.Conv3d(features, features, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        self.conv3 = nn.Conv3d(features, 4 * features, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm3d(features), nn.BatchNorm3d(features)
        self.norm3 = nn.BatchNorm3d(4 * features)
        self.shortcut = None
        if stride != 1 or features_in != 4 * features:
            convolution = nn.Conv3d(features_in, 4 * features, 1, (1, stride, stride), bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm3d(4 * features))

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class I3D(nn.Module):
    """Maps videos (b, 3, t, h, w) to logits (b, num_classes)."""

    def __init__(self, depth=50, width=64, num_classes=400, nonlocal_blocks=None, blocks_per_stage=None, fused=False):
        super().__init__()
        self.stem = nn.Conv3d(3, width, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.stem_norm = nn.BatchNorm3d(width)
        features, stages = width, []
        for index, count in enumerate(blocks_per_stage or DEPTHS[depth]):
            blocks = []
            for position in range(count):
                inflated = index == 0 or position % 2 == (1 if index == 3 else 0)
                stride = 2 if index and position == 0 else 1
                blocks.append(Bottleneck(features, width * 2**index, stride, inflated))
                features = 4 * width * 2**index
                if position in (nonlocal_blocks or {}).get(f"res{index + 2}", ()):
                    blocks.append(NonLocal(features, fused))
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(features, num_classes)

    def forward(self, video):
        x = F.max_pool3d(F.relu(self.stem_norm(self.stem(video))), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index == 0:
                x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
        return self.fc(self.dropout(x.mean((2, 3, 4))))
