"""GBT's graph layer and decoder in PyTorch, node by node, written from their description."""

import math

import numpy as np

from tests.support.pytorch import torch
from tests.support.tspnet_reference import Attention, layer_norm, linear, tensor


class Fusion(torch.nn.Module):
    """`f (W a + U b) + (1 - f) a` with `f = sigmoid(W' a + U' b)`."""

    def __init__(self, params):
        super().__init__()
        size = len(params["own"]["kernel"])
        self.w, self.w_gate = (tensor(params["own"]["kernel"][:, half]) for half in _halves(size))
        self.u, self.u_gate = (tensor(params["added"]["kernel"][:, half]) for half in _halves(size))

    def forward(self, a, b):
        f = torch.sigmoid(a @ self.w_gate + b @ self.u_gate)
        return f * (a @ self.w + b @ self.u) + (1 - f) * a


def _halves(size):
    return slice(0, size), slice(size, 2 * size)


class GAT(torch.nn.Module):
    """Each node asks its neighbours, head by head."""

    def __init__(self, params):
        super().__init__()
        self.w = tensor(params["project"]["kernel"])  # [D, H, K]
        self.a1, self.a2 = tensor(params["query"]), tensor(params["key"])

    def forward(self, nodes, others, links):
        """Map nodes [X, D] and others [Y, D] with links [X, Y] to [X, D]."""
        rows = []
        for x, linked in zip(nodes, links):
            heads = []
            for head in range(self.w.shape[1]):
                w = self.w[:, head]
                near = [others[y] @ w for y in np.flatnonzero(linked)]
                if not near:
                    heads.append(torch.zeros(w.shape[1]))
                    continue
                scores = torch.stack([(x @ w) @ self.a1[head] + y @ self.a2[head] for y in near])
                weights = torch.nn.functional.leaky_relu(scores, 0.2).softmax(0)
                heads.append(torch.nn.functional.elu(weights @ torch.stack(near)))
            rows.append(torch.cat(heads))
        return torch.stack(rows)


class GraphLayer(torch.nn.Module):
    """Positions, glosses, words and glosses again, of one clip."""

    def __init__(self, params):
        super().__init__()
        names = ("position_fusion", "shown_fusion", "word_fusion", "asked_fusion")
        self.fusions = torch.nn.ModuleList(Fusion(params[name]) for name in names)
        self.attentions = torch.nn.ModuleList(GAT(params[name]) for name in ("shown", "word", "asked"))

    def forward(self, glosses, positions, words, spans, links):
        position, shown_fusion, word_fusion, asked_fusion = self.fusions
        shown, word, asked = self.attentions
        positions = torch.stack(
            [
                position(x, glosses[own.argmax()]) if own.any() else x
                for x, own in zip(positions, np.transpose(spans))
            ]
        )
        glosses = shown_fusion(glosses, shown(glosses, positions, spans))
        words = word_fusion(words, word(words, glosses, np.transpose(links)))
        return asked_fusion(glosses, asked(glosses, words, links)), positions, words


class Decoder(torch.nn.Module):
    """One pre-norm layer on sinusoidal positions, whose one cross-attention reads each memory."""

    def __init__(self, params, heads):
        super().__init__()
        layer = params["layers"][0]
        inner = layer["feed_forward"]
        self.own, self.cross = (Attention(layer[name], heads) for name in ("self_attn", "encoder_attn"))
        self.own_norm = layer_norm(layer["self_attn_layer_norm"])
        self.cross_norm = layer_norm(layer["encoder_attn_layer_norm"])
        self.inner_norm = layer_norm(inner["final_layer_norm"])
        self.wide, self.narrow = linear(inner["fc1"]), linear(inner["fc2"])
        self.last_norm = layer_norm(params["layer_norm"])

    def forward(self, words, memories):
        """Map words [L, D] of one clip and its memories, each [X, D], to states [L, D]."""
        length, size = words.shape
        place = torch.arange(length)[:, None] * torch.exp(-math.log(1e4) * torch.arange(0, size, 2) / size)
        x = (words + torch.stack([place.sin(), place.cos()], dim=-1).flatten(1))[None]
        normed = self.own_norm(x)
        x = x + self.own(normed, normed, torch.ones(1, length, length, dtype=bool).tril())
        normed = self.cross_norm(x)
        x = x + sum(
            self.cross(normed, memory[None], torch.ones(1, 1, len(memory), dtype=bool)) for memory in memories
        )
        x = x + self.narrow(self.wide(self.inner_norm(x)).relu())
        return self.last_norm(x)[0]
