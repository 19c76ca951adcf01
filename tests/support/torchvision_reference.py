"""ResNet and ShuffleNetV2 in PyTorch with the names of torchvision's weight files."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.resnet import ResNetConfig
from sslssaw_jax.models.shufflenet import ShuffleNetConfig
from sslssaw_jax.models.vgg import VGGConfig
from sslssaw_jax.models.video_embedding import make_cnn
from sslssaw_jax.weights.cnn import pretrained_cnn
from tests.support.pretrained import load_part
from tests.support.pytorch import torch

F = torch.nn.functional
BatchNorm2d, Conv2d, MaxPool2d = torch.nn.BatchNorm2d, torch.nn.Conv2d, torch.nn.MaxPool2d
ReLU, Sequential = torch.nn.ReLU, torch.nn.Sequential


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Conv2d:
    return Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class ResidualBlock(torch.nn.Module):
    def __init__(self, kind: str, inputs: int, width: int, stride: int):
        super().__init__()
        basic = kind == "basic"
        self.outputs = width if basic else 4 * width
        self.conv1 = conv(inputs, width, 3, stride) if basic else conv(inputs, width, 1)
        self.bn1 = BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, 1 if basic else stride)
        self.bn2 = BatchNorm2d(width)
        self.basic = basic
        if not basic:
            self.conv3 = conv(width, self.outputs, 1)
            self.bn3 = BatchNorm2d(self.outputs)
        self.downsample: Any = None
        if stride > 1 or inputs != self.outputs:
            self.downsample = Sequential(conv(inputs, self.outputs, 1, stride), BatchNorm2d(self.outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        y = y if self.basic else self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class TorchvisionResNet(torch.nn.Module):
    """A CNN from frames [N, 3, H, W] to features [N, C]; `fc` is there for its name.

    Torchvision has neither the stem `conv7_stride4` nor the head `flatten`.
    """

    def __init__(self, config: ResNetConfig, image_size: int = 0):
        super().__init__()
        self.pools, self.flattens = config.stem == "conv7_pool", config.head == "flatten"
        self.conv1, self.bn1 = conv(3, config.width, 7, 2 if self.pools else 4), BatchNorm2d(config.width)
        channels, self.levels = config.width, len(config.depths)
        for level, depth in enumerate(config.depths):
            blocks = []
            for i in range(depth):
                stride = 2 if level and not i else 1
                blocks.append(ResidualBlock(config.block, channels, config.width * 2**level, stride))
                channels = blocks[-1].outputs
            self.add_module(f"layer{level + 1}", Sequential(*blocks))
        self.fc = torch.nn.Linear(channels, 3)
        if self.flattens:
            with torch.no_grad():
                maps = self.eval().maps(torch.zeros(1, 3, image_size, image_size))
            self.head = torch.nn.Linear(maps.numel(), config.head_features, bias=False)
            self.head_norm = torch.nn.BatchNorm1d(config.head_features)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.pools:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for level in range(self.levels):
            x = getattr(self, f"layer{level + 1}")(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maps(x)
        if not self.flattens:
            return x.mean((2, 3))
        # ours flattens rows, columns, channels
        return F.relu(self.head_norm(self.head(x.permute(0, 2, 3, 1).flatten(1))))


class ShuffleUnit(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        half = outputs // 2
        self.splits = stride == 1
        self.branch1 = Sequential()
        if not self.splits:
            self.branch1 = Sequential(
                conv(inputs, inputs, 3, stride, inputs),
                BatchNorm2d(inputs),
                conv(inputs, half, 1),
                BatchNorm2d(half),
                ReLU(),
            )
        self.branch2 = Sequential(
            conv(half if self.splits else inputs, half, 1),
            BatchNorm2d(half),
            ReLU(),
            conv(half, half, 3, stride, half),
            BatchNorm2d(half),
            conv(half, half, 1),
            BatchNorm2d(half),
            ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1) if self.splits else (x, x)
        return F.channel_shuffle(torch.cat([self.branch1(left), self.branch2(right)], 1), 2)


class TorchvisionShuffleNet(torch.nn.Module):
    """A CNN from frames [N, 3, H, W] to features [N, C]; `fc` is there for its name."""

    def __init__(self, config: ShuffleNetConfig):
        super().__init__()
        self.conv1 = Sequential(conv(3, config.stem, 3, 2), BatchNorm2d(config.stem), ReLU())
        self.maxpool = MaxPool2d(3, 2, 1)
        channels, self.levels = config.stem, len(config.depths)
        for level, depth in enumerate(config.depths):
            width = config.width * 2**level
            units = [ShuffleUnit(channels, width, 2)] + [
                ShuffleUnit(width, width, 1) for _ in range(depth - 1)
            ]
            self.add_module(f"stage{level + 2}", Sequential(*units))
            channels = width
        self.conv5 = Sequential(conv(channels, config.features, 1), BatchNorm2d(config.features), ReLU())
        self.fc = torch.nn.Linear(config.features, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.conv1(x))
        for level in range(self.levels):
            x = getattr(self, f"stage{level + 2}")(x)
        return self.conv5(x).mean((2, 3))


class TorchvisionVGG(torch.nn.Module):
    """VGG-11 from frames [N, 3, H, W] to the mean of its last map; `classifier` exists for its name."""

    def __init__(self, config: VGGConfig):
        super().__init__()
        layers, channels = [], 3
        for width, depth in zip(config.widths, (1, 1, 2, 2, 2), strict=True):
            for _ in range(depth):
                layers += [Conv2d(channels, width, 3, padding=1), ReLU()]
                channels = width
            layers.append(MaxPool2d(2))
        self.features = Sequential(*layers)
        self.classifier = Sequential(torch.nn.Linear(channels, 5), ReLU(), torch.nn.Linear(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).mean((2, 3))


def torchvision_model(config: CNNConfig) -> torch.nn.Module:
    if config.kind == "vgg":
        return TorchvisionVGG(config.vgg)
    if config.kind == "shufflenet":
        return TorchvisionShuffleNet(config.shufflenet)
    return TorchvisionResNet(config.resnet)


def imported(config: CNNConfig, side: int, dtype: str = "float32") -> nnx.Module:
    """The CNN of `config` with the weights that `config.weights` names."""
    model = nnx.eval_shape(lambda: make_cnn(config, side, dtype=jnp.dtype(dtype), rngs=Keys(0)))
    model = load_part(model, "cnn", pretrained_cnn(config))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), model)


def save_torch(values: dict[str, torch.Tensor], path: Path) -> str:
    torch.save(values, path)
    return str(path)
