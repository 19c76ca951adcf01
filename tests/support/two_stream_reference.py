"""TS-SLT's links between two S3D networks, in PyTorch, written from the description."""

from typing import Any

import numpy as np

from tests.support.pytorch import torch

F = torch.nn.functional


class Lateral(torch.nn.Module):
    """The sums of both streams; the keypoints' side is half as long."""

    def __init__(self, channels: int):
        super().__init__()
        sizes: dict[str, Any] = {"stride": (1, 2, 2), "padding": (3, 1, 1), "bias": False}
        kernel = (7, 3, 3)
        self.to_keypoints = torch.nn.Conv3d(channels, channels, kernel, **sizes)
        self.to_video = torch.nn.ConvTranspose3d(
            channels, channels, kernel, **sizes, output_padding=(0, 1, 1)
        )

    def forward(self, video: torch.Tensor, keypoints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return video + self.to_video(keypoints), keypoints + self.to_keypoints(video)


class Enlargement(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, time_stride: int):
        super().__init__()
        self.space = torch.nn.ConvTranspose3d(
            inputs, outputs, (1, 3, 3), (1, 2, 2), (0, 1, 1), (0, 1, 1), bias=False
        )
        self.space_norm = torch.nn.BatchNorm3d(outputs, eps=1e-3)
        self.time = torch.nn.ConvTranspose3d(
            outputs, outputs, (3, 1, 1), (time_stride, 1, 1), (1, 0, 0), (time_stride - 1, 0, 0), bias=False
        )
        self.time_norm = torch.nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: torch.Tensor, larger: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.space_norm(self.space(x)))
        return larger + F.relu(self.time_norm(self.time(x)))


class Pyramid(torch.nn.Module):
    def __init__(self, second: int, third: int, fourth: int):
        super().__init__()
        self.to_third = Enlargement(fourth, third, 2)
        self.to_second = Enlargement(third, second, 1)

    def forward(self, second: Any, third: Any, fourth: Any) -> list[torch.Tensor]:
        third = self.to_third(fourth, third)
        return [level.mean((3, 4)) for level in (self.to_second(third, second), third)]


def distillation(logits: list[torch.Tensor]) -> torch.Tensor:
    """The sum over heads and positions of KL(mean of the probabilities || head), for a clip [T, G]."""
    teacher = torch.stack([x.softmax(-1) for x in logits]).sum(0)
    teacher = (teacher / teacher.sum(-1, keepdim=True)).detach()
    return sum(F.kl_div(x.log_softmax(-1), teacher, reduction="sum") for x in logits)


def load(theirs: torch.nn.Module, ours: dict[str, Any]) -> None:
    """Copy the variables of our module; a transposed kernel of torch is reversed."""
    with torch.no_grad():
        for path, value in ours.items():
            *modules, name = path
            module = theirs.get_submodule(".".join(map(str, modules)))
            array = np.asarray(value)
            if isinstance(module, torch.nn.ConvTranspose3d):
                array = array[::-1, ::-1, ::-1].transpose(3, 4, 0, 1, 2)
            elif name == "kernel":
                array = array.transpose(4, 3, 0, 1, 2)
            names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
            getattr(module, names.get(name, name)).copy_(torch.tensor(array.copy()))


def gradients(theirs: torch.nn.Module, ours: dict[str, Any]) -> dict[Any, np.ndarray]:
    """Torch's gradients in the layout and under the paths of ours."""
    found = {}
    for path in ours:
        *modules, name = path
        module = theirs.get_submodule(".".join(map(str, modules)))
        array = (module.bias if name == "bias" else module.weight).grad.numpy()
        if isinstance(module, torch.nn.ConvTranspose3d):
            array = array.transpose(2, 3, 4, 0, 1)[::-1, ::-1, ::-1]
        elif name == "kernel":
            array = array.transpose(2, 3, 4, 1, 0)
        found[path] = array
    return found
