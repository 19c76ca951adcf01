import copy

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.resnet import ResNet, ResNetConfig
from tests.support.pytorch import torch
from tests.support.resnet_reference import (
    BiasedVariances,
    copy_weights,
    randomise_torch,
    to_ours,
    torch_frames,
)
from tests.support.torchvision_reference import TorchvisionResNet
from tests.support.toy import assert_close, jit, trained

SIDE = 22  # odd maps on the way down: 22, 11, 6, 3
CONFIGS = {
    "basic": ResNetConfig("basic", (1, 2), 4, "conv7_pool", "flatten", head_features=5),
    "bottleneck": ResNetConfig("bottleneck", (1, 1), 4, "conv7_stride4", "pool"),
}
MASK = np.array([True, True, False, True, True, False, True])


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    """Torch's and ours, with the same random weights and running statistics."""
    config = CONFIGS[request.param]
    theirs = TorchvisionResNet(config, SIDE)
    randomise_torch(theirs, seed=1)
    ours = nnx.eval_shape(lambda: ResNet(config, SIDE, dtype=jnp.float32, rngs=Keys(0)))
    copy_weights(ours, theirs)
    return theirs, ours


def random_frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(MASK), SIDE, SIDE, 3)).astype(np.float32)


def random_cotangent(model: ResNet) -> np.ndarray:
    """A cotangent of the features; zero where the frame belongs to no clip."""
    cotangent = np.random.default_rng(2).normal(size=(len(MASK), model.features)).astype(np.float32)
    return cotangent * MASK[:, None]


def test_evaluation_equals_torch(pair):
    theirs, ours = pair
    frames = random_frames(0)
    with torch.no_grad():
        expected = theirs.eval()(torch_frames(frames))
    model = nnx.view(ours, use_running_average=True)
    features = jit(lambda model, frames: model(frames, MASK))(model, frames)
    assert_close(features, expected.numpy())


def test_training_on_the_real_frames_equals_torch_on_them_alone(pair):
    theirs, ours = pair
    frames, cotangent = random_frames(1), random_cotangent(ours)
    theirs = copy.deepcopy(theirs).train()
    variances = BiasedVariances(theirs)
    expected = theirs(torch_frames(frames[MASK]))
    (expected * torch.tensor(cotangent[MASK])).sum().backward()

    features, stats, gradients = trained(ours, (frames, MASK), cotangent)
    assert_close(features[MASK], expected.detach().numpy())
    assert_close(stats, to_ours(variances.state_dict(), stats))
    their_gradients = {name: value.grad for name, value in theirs.named_parameters()}
    assert_close(gradients, to_ours(their_gradients, gradients), 1e-4)
