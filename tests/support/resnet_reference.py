"""A ResNet in PyTorch with torchvision's layout, and its weights as ours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sslssaw_jax.models.resnet import ResNetConfig
from tests.support.pytorch import torch

F = torch.nn.functional

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# torch's O, I, ... to ours, by number of axes
TRANSPOSE = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> torch.nn.Conv2d:
    return torch.nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class Block(torch.nn.Module):
    def __init__(self, kind: str, inputs: int, width: int, stride: int):
        super().__init__()
        # (outputs, kernel, stride)
        layers = [(width, 3, stride), (width, 3, 1)]
        if kind == "bottleneck":
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
        self.num_layers, self.outputs = len(layers), layers[-1][0]
        before = inputs
        for i, (outputs, kernel, step) in enumerate(layers, start=1):
            self.add_module(f"conv{i}", conv(before, outputs, kernel, step))
            self.add_module(f"norm{i}", torch.nn.BatchNorm2d(outputs))
            before = outputs
        self.shortcut: Any = None
        if stride > 1 or inputs != self.outputs:
            self.shortcut = torch.nn.Module()
            self.shortcut.conv = conv(inputs, self.outputs, 1, stride)
            self.shortcut.norm = torch.nn.BatchNorm2d(self.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i in range(1, self.num_layers + 1):
            y = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.num_layers else y
        return F.relu(y + (x if self.shortcut is None else self.shortcut.norm(self.shortcut.conv(x))))


class TorchResNet(torch.nn.Module):
    """A ResNet from frames [N, 3, H, W] to features [N, C]."""

    def __init__(self, config: ResNetConfig, image_size: int):
        super().__init__()
        self.pools = config.stem == "conv7_pool"
        self.stem = conv(3, config.width, 7, 2 if self.pools else 4)
        self.stem_norm = torch.nn.BatchNorm2d(config.width)
        channels, blocks = config.width, []
        for level, depth in enumerate(config.depths):
            for i in range(depth):
                stride = 2 if level and not i else 1
                blocks.append(Block(config.block, channels, config.width * 2**level, stride))
                channels = blocks[-1].outputs
        self.blocks = torch.nn.ModuleList(blocks)
        self.flattens = config.head == "flatten"
        if self.flattens:
            with torch.no_grad():
                maps = self.eval().maps(torch.zeros(1, 3, image_size, image_size))
            self.head = torch.nn.Linear(maps.numel(), config.head_features, bias=False)
            self.head_norm = torch.nn.BatchNorm1d(config.head_features)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        if self.pools:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maps(x)
        if not self.flattens:
            return x.mean((2, 3))
        # ours flattens rows, columns, channels
        return F.relu(self.head_norm(self.head(x.permute(0, 2, 3, 1).flatten(1))))


def randomise_torch(module: torch.nn.Module, seed: int) -> None:
    """Draw every weight, scale, bias and running statistic of a PyTorch module."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.ndim > 1:
                value.normal_(0.0, (2 / value[0].numel()) ** 0.5)
            elif value.is_floating_point():
                value.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)


def torch_frames(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor(pixels).permute(0, 3, 1, 2)


def to_ours(values: dict[str, torch.Tensor], like: nnx.State) -> nnx.State:
    """Convert PyTorch's weights or gradients by name to the state of our module."""

    def ours(path: Any, leaf: jax.Array) -> jax.Array:
        keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
        keys = [key for key in keys if key != "value"]
        value = values[".".join([*keys[:-1], LEAVES[keys[-1]]])].detach().numpy()
        value = value.transpose(TRANSPOSE[value.ndim])
        assert value.shape == leaf.shape, keys
        return jnp.asarray(value)

    return jax.tree.map_with_path(ours, like)


def copy_weights(ours: nnx.Module, theirs: torch.nn.Module) -> None:
    """Copy all weights and running statistics into our module of the same names."""
    state = nnx.state(ours)
    used = {name for name in theirs.state_dict() if not name.endswith("num_batches_tracked")}
    assert len(jax.tree.leaves(state)) == len(used)
    nnx.update(ours, to_ours(theirs.state_dict(), state))


class BiasedVariances:
    """A count of the values that each BatchNorm of a PyTorch module saw.

    It turns running variances into ours: PyTorch keeps the unbiased variance of a batch, we the biased one.
    """

    def __init__(self, module: torch.nn.Module):
        self.module = module
        self.before = {name: value.clone() for name, value in module.state_dict().items()}
        self.seen: dict[str, int] = {}
        for name, part in module.named_modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                part.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def hook(part: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            self.seen[name] = inputs[0].numel() // inputs[0].shape[1]

        return hook

    def state_dict(self) -> dict[str, torch.Tensor]:
        state = dict(self.module.state_dict())
        for name, count in self.seen.items():
            key = f"{name}.running_var"
            unbiased = (state[key] - 0.9 * self.before[key]) / 0.1
            state[key] = 0.9 * self.before[key] + 0.1 * unbiased * (count - 1) / count
        return state
