"""Gloss heads in PyTorch, written from their description.

MMTLB's reads a clip without padding.
"""

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


class BiLSTMHead(torch.nn.Module):
    """Torch's own bidirectional LSTM over packed clips, longest first, and a Linear."""

    def __init__(self, inputs: int, d_model: int, layers: int, glosses: int):
        super().__init__()
        self.lstm = torch.nn.LSTM(inputs, d_model // 2, layers, bidirectional=True, batch_first=True)
        self.output = torch.nn.Linear(d_model, glosses)

    def forward(self, x: Any, lengths: Any) -> tuple[Any, Any]:
        """Map [B, T, C] to logits [B, T, G] and the feature, with zeros after a clip."""
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        feature, _ = torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        return self.output(feature), feature

    def load(self, ours: dict[str, Any]) -> None:
        """Copy the variables of our head, whose bias is the sum of torch's two."""
        state = {"output.weight": ours["output"]["kernel"].T, "output.bias": ours["output"]["bias"]}
        for layer, directions in ours["layers"].items():
            for direction, suffix in enumerate(("", "_reverse")):
                cell, name = directions[direction]["cells"][0], f"l{layer}{suffix}"
                state[f"lstm.weight_ih_{name}"] = cell["input"]["kernel"].T
                state[f"lstm.bias_ih_{name}"] = cell["input"]["bias"]
                state[f"lstm.weight_hh_{name}"] = cell["recurrent"]["kernel"].T
                state[f"lstm.bias_hh_{name}"] = 0 * cell["input"]["bias"]
        self.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in state.items()})
