"""TSPNet's encoder and decoder in PyTorch, written from its description."""

import numpy as np

from tests.support.pytorch import torch


def tensor(value) -> "torch.Tensor":
    return torch.nn.Parameter(torch.tensor(np.asarray(value)))


def linear(params) -> "torch.nn.Linear":
    layer = torch.nn.Linear(*params["kernel"].shape)
    layer.weight, layer.bias = tensor(params["kernel"].T), tensor(params["bias"])
    return layer


def layer_norm(params) -> "torch.nn.LayerNorm":
    layer = torch.nn.LayerNorm(len(params["scale"]))
    layer.weight, layer.bias = tensor(params["scale"]), tensor(params["bias"])
    return layer


def linked(spans, counts, stride) -> np.ndarray:
    """Node i of a span covers a set of frames; two are linked if on one level or if one holds the other."""
    nodes = [
        (level, set(range(stride * i, stride * i + span)))
        for level, (span, count) in enumerate(zip(spans, counts, strict=True))
        for i in range(count)
    ]
    return np.array([[a == b or x <= y or y <= x for b, y in nodes] for a, x in nodes])


class Attention(torch.nn.Module):
    """Multi-head attention, head by head."""

    def __init__(self, params, heads):
        super().__init__()
        self.q, self.k, self.v, self.out = (linear(params[f"{name}_proj"]) for name in ("q", "k", "v", "out"))
        self.heads = heads

    def forward(self, queries, memory, seen):
        q, k, v = self.q(queries), self.k(memory), self.v(memory)
        size = q.shape[-1] // self.heads
        mixed = []
        for head in range(self.heads):
            own = slice(head * size, (head + 1) * size)
            scores = q[..., own] @ k[..., own].transpose(1, 2) / size**0.5
            mixed.append(scores.masked_fill(~seen, -1e30).softmax(-1) @ v[..., own])
        return self.out(torch.cat(mixed, -1))


class Layer(torch.nn.Module):
    """A post-norm layer: each norm is over the sum of a block and its input."""

    def __init__(self, params, heads):
        super().__init__()
        self.own, self.own_norm = (
            Attention(params["self_attn"], heads),
            layer_norm(params["self_attn_layer_norm"]),
        )
        self.crosses = "encoder_attn" in params
        if self.crosses:
            self.cross = Attention(params["encoder_attn"], heads)
            self.cross_norm = layer_norm(params["encoder_attn_layer_norm"])
        inner = params["feed_forward"]
        self.wide, self.narrow = linear(inner["fc1"]), linear(inner["fc2"])
        self.last_norm = layer_norm(inner["final_layer_norm"])

    def forward(self, x, seen, memory=None, memory_seen=None):
        x = self.own_norm(x + self.own(x, x, seen))
        if self.crosses:
            x = self.cross_norm(x + self.cross(x, memory, memory_seen))
        return self.last_norm(x + self.narrow(torch.nn.functional.gelu(self.wide(x))))


class Stack(torch.nn.Module):
    """The layers of an encoder or decoder, and its table of positions, whose first rows are unused."""

    def __init__(self, params, heads):
        super().__init__()
        self.positions = tensor(params["input"]["embed_positions"]["embedding"])
        self.layers = torch.nn.ModuleList(Layer(layer, heads) for layer in params["layers"].values())

    def placed(self, x):
        return x + self.positions[2 : 2 + x.shape[1]]


class Encoder(Stack):
    """An encoder from the levels [B, W, D] and their masks to the states of the first."""

    def forward(self, levels, masks, spans, stride):
        x = torch.cat([self.placed(x.shape[-1] ** 0.5 * x) for x in levels], dim=1)
        links = torch.tensor(linked(spans, [len(mask[0]) for mask in masks], stride))
        seen = torch.cat([torch.tensor(mask) for mask in masks], dim=1)[:, None] & links
        for layer in self.layers:
            x = layer(x, seen)
        return x[:, : levels[0].shape[1]]


class Decoder(Stack):
    """A decoder of embedded words, padded at the end, with teacher forcing."""

    def forward(self, words, mask, memory, memory_mask):
        length, x = words.shape[1], self.placed(words)
        seen = torch.tensor(np.asarray(mask))[:, None] & torch.ones(length, length, dtype=bool).tril()
        for layer in self.layers:
            x = layer(x, seen, memory, torch.tensor(np.asarray(memory_mask))[:, None])
        return x
