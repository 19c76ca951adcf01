import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.temporal_inception import InceptionEmbedding, frames_of_position
from sslssaw_jax.models.video_embedding import VideoInput
from sslssaw_jax.types import FeatureSize, PackedClips
from tests.support.toy import assert_close, jit, random_model

C, D, MOST = 5, 8, 16
COUNTS = np.array([11, 1, 16, 0])
CLIPS = PackedClips(np.cumsum(COUNTS) - COUNTS, COUNTS, COUNTS > 0)
ROWS = np.random.default_rng(0).normal(size=(COUNTS.sum() + 2, C)).astype(np.float32)


def make(stride: int = 1) -> InceptionEmbedding:
    reads = VideoInput(16, MOST, features=FeatureSize(C, stride, stride))
    return random_model(
        lambda: InceptionEmbedding(CNNConfig(), D, reads, dtype=jnp.float32, rngs=nnx.Rngs(0))
    )


def test_two_blocks_and_their_gradient_equal_pytorch() -> None:
    reference = pytest.importorskip("tests.support.temporal_inception_reference")
    torch, ours = reference.torch, make()
    theirs = reference.Embedding(C, D)
    for name in ("block1", "block2"):
        getattr(theirs, name).load(nnx.to_pure_dict(nnx.state(getattr(ours, name))))
    clips = [torch.tensor(ROWS[a : a + n], requires_grad=True) for a, n in zip(CLIPS.start, COUNTS) if n]
    expected = theirs(clips)
    weight = np.linspace(-1, 1, D, dtype=np.float32)
    sum((clip * torch.tensor(weight)).sum() for clip in expected).backward()
    graphdef, params, rest = nnx.split(ours, nnx.Param, ...)

    def loss(params, rows):
        model = nnx.merge(graphdef, params, rest, copy=True)
        found, mask = model(rows, np.arange(len(rows)) < COUNTS.sum(), CLIPS)
        return jnp.where(mask[..., None], found * weight, 0).sum(), (found, mask)

    (of_params, of_rows), (found, mask) = jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, ROWS)
    assert mask.sum(axis=1).tolist() == [3, 1, 4, 0]
    assert_close(np.asarray(found)[np.asarray(mask)], torch.cat(expected).detach().numpy(), 1e-5)
    assert_close(np.asarray(of_rows[:-2]), np.concatenate([clip.grad.numpy() for clip in clips]), 1e-4)
    assert not np.asarray(of_rows[-2:]).any(), "rows of no clip"
    of_params = nnx.to_pure_dict(of_params)
    for name in ("block1", "block2"):
        for place, conv in enumerate(getattr(theirs, name).convs):
            kernel = np.asarray(of_params[name]["convs"][place]["kernel"])
            assert_close(kernel, conv.weight.grad.numpy().T, 1e-4)


@pytest.mark.parametrize(("stride", "frames", "positions"), [(1, 4, 4), (2, 4, 4), (3, 6, 3), (4, 4, 4)])
def test_positions_stand_about_four_frames_apart(stride: int, frames: int, positions: int) -> None:
    assert frames_of_position(FeatureSize(C, stride, stride)) == frames
    assert frames_of_position(None) == frames_of_position(None, frame_stride=4) * 4 == 4
    model = nnx.eval_shape(lambda: make(stride))
    assert (model.num_positions, model.step * stride) == (positions, frames)
