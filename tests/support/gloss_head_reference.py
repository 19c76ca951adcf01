"""MMTLB's head of glosses in PyTorch, of a clip without padding, written from its description."""

import math
from typing import Any

import numpy as np

from tests.support.pytorch import torch


class ConvHead(torch.nn.Module):
    """Linear-BN-ReLU, positions, pre-norm convolutions with their residual, layer norm, Linear."""

    def __init__(self, inputs: int, d_model: int, ffn_dim: int, glosses: int):
        super().__init__()
        self.project = torch.nn.Linear(inputs, d_model)
        self.project_norm = torch.nn.BatchNorm1d(d_model)
        self.conv_norm = torch.nn.LayerNorm(d_model, eps=1e-6)
        self.conv1 = torch.nn.Conv1d(d_model, ffn_dim, 3, padding=1)
        self.conv2 = torch.nn.Conv1d(ffn_dim, d_model, 3, padding=1)
        self.layer_norm = torch.nn.LayerNorm(d_model, eps=1e-6)
        self.output = torch.nn.Linear(d_model, glosses)

    def forward(self, x: Any) -> Any:
        """Map [T, C] to logits [T, G]."""
        x = self.project_norm(self.project(x)).relu()
        place, pair = torch.arange(len(x))[:, None], torch.arange(0, x.shape[1], 2)
        angle = place * torch.exp(pair * (-math.log(10_000.0) / x.shape[1]))
        waves = torch.zeros_like(x)
        waves[:, 0::2], waves[:, 1::2] = angle.sin(), angle.cos()
        x = x + waves
        inner = self.conv2(self.conv1(self.conv_norm(x).T).relu())
        return self.output(self.layer_norm(x + inner.T))

    def load(self, ours: dict[str, Any]) -> None:
        """Copy the variables of our head."""
        names = {"scale": "weight", "kernel": "weight", "mean": "running_mean", "var": "running_var"}
        state = {}
        for module, variables in ours.items():
            for name, value in variables.items():
                array = np.asarray(value)
                array = array.T if name == "kernel" else array  # [k, in, out] is [out, in, k]
                state[f"{module}.{names.get(name, name)}"] = torch.tensor(array)
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert not unexpected and all("num_batches" in name for name in missing)
