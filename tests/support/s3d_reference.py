"""S3D in PyTorch, with the names of the public Kinetics weights."""

from typing import Any

from sslssaw_jax.models.s3d import S3DConfig
from tests.support.pytorch import torch

F = torch.nn.functional

# channels of the branches of Mixed_3b, 3c, 4b to 4f: 1x1; 1x1 and 3; 1x1 and 3; pool and 1x1
MIXED = {
    5: (64, 96, 128, 16, 32, 32),
    6: (128, 128, 192, 32, 96, 64),
    8: (192, 96, 208, 16, 48, 64),
    9: (160, 112, 224, 24, 64, 64),
    10: (128, 128, 256, 24, 64, 64),
    11: (112, 144, 288, 32, 64, 64),
    12: (256, 160, 320, 32, 128, 128),
}
POOLS = {1: ((1, 3, 3), (1, 2, 2)), 4: ((1, 3, 3), (1, 2, 2)), 7: (3, 2)}


class Basic(torch.nn.Module):
    """A convolution of any kernel with BatchNorm; its parts may have a suffix."""

    def __init__(self, inputs: int, outputs: int, kernel: Any, stride: Any, suffix: str, momentum: float):
        super().__init__()
        padding = tuple(size // 2 for size in kernel)
        conv = torch.nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
        norm = torch.nn.BatchNorm3d(outputs, eps=1e-3, momentum=1 - momentum)
        self.names = f"conv{suffix}", f"bn{suffix}"
        self.add_module(self.names[0], conv)
        self.add_module(self.names[1], norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, norm = (getattr(self, name) for name in self.names)
        return F.relu(norm(conv(x)))


class Sep(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, side: int, stride: int, momentum: float):
        super().__init__()
        space = Basic(inputs, outputs, (1, side, side), (1, stride, stride), "_s", momentum)
        time = Basic(outputs, outputs, (side, 1, 1), (stride, 1, 1), "_t", momentum)
        self.parts = [space, time]
        for part in self.parts:
            for name in part.names:
                self.add_module(name, getattr(part, name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return x


class Mixed(torch.nn.Module):
    def __init__(self, inputs: int, widths: Any, momentum: float):
        super().__init__()
        one, two, two_out, three, three_out, four = widths

        def basic(outputs: int) -> Basic:
            return Basic(inputs, outputs, (1, 1, 1), 1, "", momentum)

        seq = torch.nn.Sequential
        self.branch0 = seq(basic(one))
        self.branch1 = seq(basic(two), Sep(two, two_out, 3, 1, momentum))
        self.branch2 = seq(basic(three), Sep(three, three_out, 3, 1, momentum))
        self.branch3 = seq(torch.nn.MaxPool3d(3, 1, 1), basic(four))
        self.outputs = one + two_out + three_out + four

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class TorchS3D(torch.nn.Module):
    """From clips [B, T, H, W, 3] to features [B, T/4, C]; `fc` exists for its name."""

    def __init__(self, config: S3DConfig):
        super().__init__()
        scaled, momentum = config.channels, config.momentum
        stem, expanded = scaled(64), scaled(192)
        layers: dict[int, torch.nn.Module] = {
            0: Sep(3, stem, 7, 2, momentum),
            2: Basic(stem, stem, (1, 1, 1), 1, "", momentum),
            3: Sep(stem, expanded, 3, 1, momentum),
        }
        for number, (size, stride) in POOLS.items():
            padding = tuple(side // 2 for side in size) if isinstance(size, tuple) else 1
            layers[number] = torch.nn.MaxPool3d(size, stride, padding)
        channels = expanded
        for number, widths in MIXED.items():
            layers[number] = Mixed(channels, tuple(map(scaled, widths)), momentum)
            channels = layers[number].outputs
        self.base = torch.nn.Sequential(*(layers[number] for number in sorted(layers)))
        self.fc = torch.nn.Linear(channels, 3)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.base(clips.permute(0, 4, 1, 2, 3)).mean((3, 4)).swapaxes(1, 2)


def public_weights(model: TorchS3D, prefix: str = "module.") -> dict[str, torch.Tensor]:
    """The model's weights under the names of a public file, with a fifth block that is not read."""
    found = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    return found | {f"{prefix}base.14.branch0.0.conv.weight": torch.zeros(2, 2, 1, 1, 1)}
