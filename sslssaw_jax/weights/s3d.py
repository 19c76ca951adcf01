"""Pretrained S3D: kylemin/S3D's Kinetics file and the checkpoints of FangyunWei/SLRT, strict both ways.

PyTorch's running variances are unbiased, ours are biased; PyTorch's are taken as they are.
"""

import re

from sslssaw_jax.models.s3d import S3DConfig
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import InitialWeights, KeyPath, WeightsError, variables
from sslssaw_jax.weights.torch_files import Checkpoint, find_model
from sslssaw_jax.weights.torch_layout import load_tensors, torch_leaf

# both projects keep the layers as a list, with the pools among them, after a prefix of their own
_LAYER = re.compile(r"(?:.*\.)?(base\.(\d+)\..*)")
_FIRST_LEFT_OUT = 13  # the fifth block; the classifier has another name
_FIRST = "base.0.conv_s.weight"
_COUNTER = "num_batches_tracked"  # of a BatchNorm in PyTorch
_OUTSIDE = {"stem": "base.0", "reduce": "base.2", "expand": "base.3"}
_INCEPTIONS = (5, 6, 8, 9, 10, 11, 12)
_BRANCHES = {
    "branch0": "branch0.0",
    "branch1.reduce": "branch1.0",
    "branch1.separable": "branch1.1",
    "branch2.reduce": "branch2.0",
    "branch2.separable": "branch2.1",
    "branch3": "branch3.1",
}
_LAYERS = {
    "conv": "conv",
    "norm": "bn",
    "space.conv": "conv_s",
    "space.norm": "bn_s",
    "time.conv": "conv_t",
    "time.norm": "bn_t",
}


def pretrained_s3d(config: S3DConfig, module: str = "s3d", *, first: bool = True) -> InitialWeights:
    """Return the function that loads `config.weights` into a state's `video.s3d`.

    The fifth block, classifiers and batch counters are left out. The function raises WeightsError if a
    tensor is missing, has no place, or has another shape.

    Args:
        config: Names the file.
        module: The name of the network in a state's `video`.
        first: Whether to load the first convolution, which networks with other inputs than frames lack.

    Raises:
        WeightsError: There is no such file.
    """
    try:
        path = find_model(str(config.weights))
        checkpoint = Checkpoint(path, ("state_dict",) if path.suffix == ".tar" else ())
    except WeightsError as error:
        raise WeightsError(
            f"config.model.s3d.weights: {error}. Name the file S3D_kinetics400.pt that the page of "
            "kylemin/S3D links to, or the .pth.tar of s3ds_glosscls_ckpt, which FangyunWei/SLRT links to; "
            "--config.model.s3d.weights= trains from scratch"
        ) from error
    layers = {name: match for name in checkpoint.shapes if (match := _LAYER.fullmatch(name))}
    tensors = {
        match[1]: name
        for name, match in layers.items()
        if int(match[2]) < _FIRST_LEFT_OUT and not name.endswith(_COUNTER) and (first or match[1] != _FIRST)
    }

    def load(state: TrainState) -> TrainState:
        names = {path: published_name(path[2:]) for path in variables(state) if path[:2] == ("video", module)}
        if not first:
            names = {path: name for path, name in names.items() if name != _FIRST}
        return load_tensors(state, names, checkpoint, tensors, "config.model.s3d") if names else state

    return load


def published_name(path: KeyPath) -> str:
    """Return kylemin/S3D's name for a variable of our S3D, without its prefix."""
    module, inside = path[0], path[1:-1]
    if module == "inceptions":
        base, inside = f"base.{_INCEPTIONS[path[1]]}", path[2:-1]
        branch = ".".join(inside[:1] if inside[0] in _BRANCHES else inside[:2])
        base, inside = f"{base}.{_BRANCHES[branch]}", inside[branch.count(".") + 1 :]
    else:
        base = _OUTSIDE[module]
    return f"{base}.{_LAYERS['.'.join(inside)]}.{torch_leaf(path)}"
