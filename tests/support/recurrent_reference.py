"""A recurrent encoder and decoder in PyTorch, for one clip without padding, step by step.

Written from the description of neccam/nslt and TensorFlow 1's cells and `AttentionWrapper`.
"""

from tests.support.pytorch import torch


def gru(parts, state, x):
    """`GRUCell` of TensorFlow 1: r, u = sigmoid([x, h] W + b); c = tanh([x, r h] W + b); u h + (1 - u) c."""
    (h,) = state
    units = len(h)
    from_x = x @ parts["input"]["kernel"] + parts["input"]["bias"]
    r = (from_x[:units] + h @ parts["gates"]["kernel"][:, :units]).sigmoid()
    u = (from_x[units : 2 * units] + h @ parts["gates"]["kernel"][:, units:]).sigmoid()
    c = (from_x[2 * units :] + (r * h) @ parts["candidate"]["kernel"]).tanh()
    return (u * h + (1 - u) * c,)


def lstm(parts, state, x):
    """Torch's own."""
    weights = parts["input"]["kernel"].T, parts["recurrent"]["kernel"].T, parts["input"]["bias"]
    h, c = torch.lstm_cell(x[None], [part[None] for part in state], *weights, torch.zeros_like(weights[-1]))
    return h[0], c[0]


CELLS = {"gru": (gru, 1), "lstm": (lstm, 2)}


def stack(config, cells, states, x):
    """One step of all layers: the new states and the last layer's output."""
    new = []
    for layer, state in enumerate(states):
        new.append(CELLS[config.cell][0](cells[layer], state, x))
        x = x + new[-1][0] if config.residual and layer > 0 else new[-1][0]
    return new, x


def encode(config, reverse, cells, clip):
    """Outputs `[T, U]` in the clip's order, and each layer's last states."""
    zero = torch.zeros(config.units)
    states, outputs = [(zero,) * CELLS[config.cell][1]] * config.layers, []
    for x in reversed(clip) if reverse else clip:
        states, output = stack(config, cells, states, x)
        outputs.append(output)
    return torch.stack(outputs[::-1] if reverse else outputs), states


def context(config, attention, query, memory):
    """The mean of the memory, weighted by the softmax of the scores."""
    if config.attention == "luong":
        scores = (memory @ attention["memory"]["kernel"]) @ query
    else:
        both = query @ attention["query"]["kernel"] + memory @ attention["memory"]["kernel"]
        scores = both.tanh() @ attention["score"]["kernel"][:, 0]
    return torch.softmax(scores, 0) @ memory


def decode(config, decoder, words, memory, states):
    """The decoder's outputs for the embedded words, `[L, U]`."""
    attended, outputs = torch.zeros(config.units), []
    for word in words:
        x = word if config.attention == "none" else torch.cat([word, attended])
        states, output = stack(config, decoder["cells"], states, x)
        if config.attention != "none":
            both = torch.cat([output, context(config, decoder["attention"], output, memory)])
            output = attended = both @ decoder["combine"]["kernel"]
        outputs.append(output)
    return torch.stack(outputs)
