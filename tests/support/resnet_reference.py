"""The weights, gradients and statistics of PyTorch's modules as ours."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.support.pytorch import torch

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
TORCHVISION = {
    "stem_norm": "bn1",
    "stem": "conv1",
    "shortcut.conv": "downsample.0",
    "shortcut.norm": "downsample.1",
}
# torch's O, I, ... to ours, by number of axes
TRANSPOSE = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}


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
    """Convert PyTorch's weights or gradients by name to the state of our module.

    Their names are ours, or torchvision's for a ResNet.
    """
    blocks = list(dict.fromkeys(re.findall(r"layer\d+\.\d+", " ".join(values))))

    def theirs(name: str) -> str:
        for own, other in TORCHVISION.items():
            name = name.replace(own, other)
        name = re.sub(r"blocks\.(\d+)", lambda found: blocks[int(found[1])], name)
        return re.sub(r"(layer\d+\.\d+)\.norm", r"\1.bn", name)

    def ours(path: Any, leaf: jax.Array) -> jax.Array:
        keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
        keys = [key for key in keys if key != "value"]
        value = values[theirs(".".join([*keys[:-1], LEAVES[keys[-1]]]))].detach().numpy()
        value = value.transpose(TRANSPOSE[value.ndim])
        assert value.shape == leaf.shape, keys
        return jnp.asarray(value)

    return jax.tree.map_with_path(ours, like)


def copy_weights(ours: nnx.Module, theirs: torch.nn.Module) -> None:
    """Copy all weights and running statistics into our module of the same names."""
    state = nnx.state(ours)
    unused = re.compile(r"num_batches_tracked$|\bfc\.")  # torchvision's classifier is not ours
    used = {name for name in theirs.state_dict() if not unused.search(name)}
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
