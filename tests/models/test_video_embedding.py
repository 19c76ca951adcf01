import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.video_embedding import (
    FrameFeatures,
    VideoEmbedding,
    VideoInput,
    gather_frames,
    num_positions,
)
from sslssaw_jax.types import FeatureSize, PackedClips
from tests.support.pytorch import torch
from tests.support.resnet_reference import (
    BiasedVariances,
    copy_weights,
    randomise_torch,
    to_ours,
    torch_frames,
)
from tests.support.torchvision_reference import TorchvisionResNet
from tests.support.toy import assert_close, jit, padded, random_model, toy_batch, toy_config

F = torch.nn.functional

CONFIG = toy_config(**{"model.mbart.d_model": 8})
D = CONFIG.model.mbart.d_model


class TorchConv(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = torch.nn.Conv1d(inputs, outputs, 5)
        self.norm = torch.nn.BatchNorm1d(outputs)

    def forward(self, clips: list[torch.Tensor]) -> list[torch.Tensor]:
        clips = split_norm(self.norm, [self.conv(clip[None])[0].T for clip in clips])
        return [F.max_pool1d(F.relu(clip.T), 2) for clip in clips]


class RaggedVideoEmbedding(torch.nn.Module):
    """One clip after the other, each with its own length; edge frames repeated before the CNN."""

    def __init__(self):
        super().__init__()
        self.cnn = TorchvisionResNet(CONFIG.model.cnn.resnet, CONFIG.data.image_size)
        self.conv1 = TorchConv(CONFIG.model.cnn.resnet.width, D)
        self.conv2 = TorchConv(D, D)
        self.project = torch.nn.Linear(D, D)
        self.project_norm = torch.nn.BatchNorm1d(D)

    def forward(self, clips: list[torch.Tensor]) -> list[torch.Tensor]:
        return self.temporal([self.cnn(repeat_edges(clip)) for clip in clips])

    def temporal(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        clips = self.conv2(self.conv1([clip.T for clip in features]))
        clips = split_norm(self.project_norm, [self.project(clip.T) for clip in clips])
        return [F.relu(clip) for clip in clips]


def split_norm(norm: torch.nn.Module, clips: list[torch.Tensor]) -> list[torch.Tensor]:
    """BatchNorm over the positions of all clips together."""
    return list(norm(torch.cat(clips)).split([len(clip) for clip in clips]))


def repeat_edges(clip: torch.Tensor) -> torch.Tensor:
    """8 times the first frame before; the last one after, up to 4 * ceil(L / 4) + 16 frames."""
    length = -(-len(clip) // 4) * 4 + 16
    last = clip[-1:].expand(length - 8 - len(clip), *clip.shape[1:])
    return torch.cat([clip[:1].expand(8, *clip.shape[1:]), clip, last])


def make_ours(max_frames: int) -> VideoEmbedding:
    """Without values, since they are copied."""
    reads = VideoInput(CONFIG.data.image_size, max_frames)
    return nnx.eval_shape(lambda: VideoEmbedding(CONFIG.model.cnn, D, reads, dtype=jnp.float32, rngs=Keys(0)))


@pytest.fixture(scope="module")
def pair():
    """Torch's and ours, with the same random weights and running statistics."""
    theirs = RaggedVideoEmbedding()
    randomise_torch(theirs, seed=3)
    ours = make_ours(CONFIG.data.max_frames)
    copy_weights(ours, theirs)
    return theirs, ours


@pytest.fixture(scope="module")
def batch():
    return padded(toy_batch(seed=0, clips=5), rows=2, frames=3)


def embed(model, batch):
    """The embedding, its mask, the statistics after it."""
    return jax.device_get(compiled_embed(model, batch))


@jit
def compiled_embed(model, batch):
    frames, frame_mask = prepare_frames(batch, CONFIG.data, None)
    return *model(frames, frame_mask, batch.packed_clips), nnx.state(model, nnx.BatchStat)


def clips_of(batch) -> list[torch.Tensor]:
    frames = torch_frames(np.asarray(prepare_frames(batch, CONFIG.data, None)[0]))
    rows = np.flatnonzero(batch.valid)
    return [frames[batch.frame_start[b] :][: batch.frame_count[b]] for b in rows]


def test_a_packed_batch_equals_torch_clip_by_clip(pair, batch):
    theirs, ours = pair
    with torch.no_grad():
        expected = theirs.eval()(clips_of(batch))
    video, mask, _ = embed(nnx.view(ours, use_running_average=True), batch)
    assert not mask[len(expected) :].any()
    for row, clip in enumerate(expected):
        assert_close(video[row][mask[row]], clip.numpy())


def test_training_statistics_are_those_of_the_real_positions(pair, batch):
    theirs, ours = pair
    theirs = copy.deepcopy(theirs).train()
    variances = BiasedVariances(theirs)
    clips = clips_of(batch)
    # ours repeats features, so each real frame counts once in the CNN's statistics
    features = theirs.cnn(torch.cat(clips)).split([len(clip) for clip in clips])
    expected = theirs.temporal([repeat_edges(clip) for clip in features])
    video, mask, stats = embed(nnx.clone(ours), batch)
    # without oneDNN, PyTorch sums in another order: the largest difference found is 1.0e-5
    assert_close(video[mask], torch.cat(expected).detach().numpy(), 2e-5)
    assert_close(stats, to_ours(variances.state_dict(), stats))


@pytest.mark.parametrize("training", [False, True])
def test_more_padding_and_more_max_frames_change_nothing(pair, batch, training):
    ours = nnx.clone(pair[1])
    roomier = make_ours(max_frames=CONFIG.data.max_frames + 9)
    nnx.update(roomier, nnx.state(ours))
    if not training:
        ours, roomier = (nnx.view(model, use_running_average=True) for model in (ours, roomier))
    video, mask, stats = embed(ours, batch)
    padded_video, padded_mask, padded_stats = embed(roomier, padded(batch, rows=2, frames=4))
    assert padded_mask.shape[1] > mask.shape[1]
    np.testing.assert_array_equal(padded_mask.sum(axis=1), np.pad(mask.sum(axis=1), (0, 2)))
    assert_close(padded_video[padded_mask], video[mask])
    assert_close(padded_stats, stats)


def test_the_number_of_positions_is_that_of_the_layers():
    video = TorchConv(1, 1).eval()
    for frames in range(1, 41):
        clip = repeat_edges(torch.zeros(frames, 1)).T
        with torch.no_grad():
            assert num_positions(frames) == video(video([clip]))[0].shape[1]


def first_clip(count):
    """Return which of four places to fill, and a clip of so many frames at the start of the pack."""
    return np.ones((1, 4), bool), PackedClips(np.zeros(1, int), np.array([count]), np.ones(1, bool))


def test_gathered_frames_are_those_of_each_clip_without_those_left_out():
    packed = jax.random.normal(jax.random.key(0), (9, 2))
    start, left_out = np.array([0, 5, 9]), np.array([[1, 2], [0, 0], [0, 0]])
    count = np.array([3, 4, 0])  # of its 5 frames the first clip lacks the second and the third
    place = np.arange(4)
    inside = place < count[:, None]
    found = np.asarray(gather_frames(packed, place, inside, PackedClips(start, count, count > 0, left_out)))
    np.testing.assert_array_equal(found[inside], np.asarray(packed)[[0, 3, 4, 5, 6, 7, 8]])
    assert not found[~inside].any()
    complete = gather_frames(packed, place, *first_clip(4))
    np.testing.assert_array_equal(complete[0], packed[:4])
    repeated = gather_frames(packed, place - 1, *first_clip(2))
    np.testing.assert_array_equal(repeated[0], packed[np.array([0, 0, 1, 1])])  # beyond both ends


def test_features_of_each_frame_give_what_their_frames_give(batch):
    def make(features=None):
        reads = VideoInput(CONFIG.data.image_size, CONFIG.data.max_frames, features=features)
        return random_model(
            lambda: VideoEmbedding(CONFIG.model.cnn, D, reads, dtype=jnp.float32, rngs=Keys(0))
        )

    frames = make()
    reader = make(FeatureSize(frames.cnn.features, 1, 1))
    assert reader.cnn is None
    for part in ("conv1", "conv2", "project", "project_norm"):
        nnx.update(getattr(reader, part), nnx.state(getattr(frames, part)))

    @jit
    def both(frames, reader, batch):
        video, mask = prepare_frames(batch, CONFIG.data, None)
        clips = batch.packed_clips
        return frames(video, mask, clips), reader(frames.cnn(video, mask), mask, clips)

    (theirs, mask), (ours, our_mask) = both(frames, reader, batch)
    assert_close(ours, theirs)
    np.testing.assert_array_equal(our_mask, mask)


@pytest.mark.parametrize("part", [FrameFeatures, partial(VideoEmbedding, d_model=D)])
def test_a_batch_of_short_clips_gives_the_same_features_in_fewer_positions(part):
    reads = VideoInput(16, max_frames=40, features=FeatureSize(3, 1, 1))
    model = random_model(lambda: part(CONFIG.model.cnn, reads=reads, dtype=jnp.float32, rngs=Keys(0)))
    clips = PackedClips(np.array([0, 9], np.int32), np.array([9, 4], np.int32), np.ones(2, bool))
    rows = jax.random.normal(jax.random.key(0), (13, 3))
    read = jit(lambda model, most: model(rows, np.ones(13, bool), clips, most_rows=most), static_argnums=1)
    whole, short = (jax.device_get(read(model, most)) for most in (None, 12))
    length = short[1].shape[1]
    assert length < whole[1].shape[1] and not whole[1][:, length:].any()
    np.testing.assert_array_equal(short[1], whole[1][:, :length])
    assert_close(*(np.where(mask[:, :length, None], video[:, :length], 0) for video, mask in (short, whole)))


@pytest.mark.parametrize(
    ("stride", "frame_stride", "positions"),
    [(1, 1, 4), (2, 1, 5), (2, 2, 9)],
)
def test_positions_stand_about_four_frames_of_the_film_apart(stride, frame_stride, positions):
    size, count = FeatureSize(3, stride, stride), 9
    reads = VideoInput(16, 20 * stride, frame_stride, size)
    model = random_model(lambda: VideoEmbedding(CONFIG.model.cnn, D, reads, dtype=jnp.float32, rngs=Keys(0)))
    clips = PackedClips(np.zeros(1, np.int32), np.full(1, count, np.int32), np.ones(1, bool))
    rows = jax.random.normal(jax.random.key(0), (count, 3), jnp.float16)
    video, mask = jit(lambda model: model(rows, np.ones(count, bool), clips))(model)
    assert mask.sum() == positions and mask[0, :positions].all()
    assert np.isfinite(video).all() and len(np.unique(np.asarray(video)[0, :positions], axis=0)) == positions
