"""A temporal inception net in PyTorch, clip by clip, written from its description."""

from typing import Any

import numpy as np

from tests.support.pytorch import torch


class Block(torch.nn.Module):
    """Convolutions of 3, 5, 7 and 9 positions, each with BatchNorm and ReLU; then the larger of two."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        sizes, part = (3, 5, 7, 9), outputs // 4
        self.convs = torch.nn.ModuleList(torch.nn.Conv1d(inputs, part, k, padding=k // 2) for k in sizes)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm1d(part) for _ in sizes)

    def forward(self, clips: list[Any]) -> list[Any]:
        branches = []
        for conv, norm in zip(self.convs, self.norms):
            found = [conv(clip.T[None])[0].T for clip in clips]
            normed = norm(torch.cat(found)).relu()  # over the positions of all clips together
            branches.append(normed.split([len(clip) for clip in found]))
        joined = [torch.cat(parts, dim=1) for parts in zip(*branches)]
        return [torch.nn.functional.max_pool1d(clip.T[None], 2)[0].T for clip in joined]

    def load(self, ours: dict[str, Any]) -> None:
        """Copy the variables of our block."""
        scale, bias = (np.split(np.asarray(ours["norm"][name]), 4) for name in ("scale", "bias"))
        with torch.no_grad():
            for place, (conv, norm) in enumerate(zip(self.convs, self.norms)):
                conv.weight.copy_(torch.tensor(np.asarray(ours["convs"][place]["kernel"]).T))
                conv.bias.copy_(torch.tensor(np.asarray(ours["convs"][place]["bias"])))
                norm.weight.copy_(torch.tensor(scale[place]))
                norm.bias.copy_(torch.tensor(bias[place]))


class Embedding(torch.nn.Module):
    """Two blocks over the features of each clip, whose last row is repeated up to a multiple of four."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.block1, self.block2 = Block(inputs, outputs), Block(outputs, outputs)

    def forward(self, clips: list[Any]) -> list[Any]:
        whole = [torch.cat([clip, clip[-1:].expand(-len(clip) % 4, -1)]) for clip in clips]
        return self.block2(self.block1(whole))
