"""TSPNet's windows, which of them attend to each other, and its encoder against a PyTorch twin."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.nested_windows import (
    FrameWindows,
    NestedEncoder,
    nested,
    num_windows,
    prepared_levels,
)
from sslssaw_jax.models.resnet import ResNetConfig
from sslssaw_jax.models.transformer import Decoder, LearnedPositions, TransformerConfig
from sslssaw_jax.types import Features, PackedClips
from tests.support import tspnet_reference
from tests.support.pytorch import torch
from tests.support.toy import assert_close, random_model

SPANS, STRIDE = (8, 12, 16), 2
D, DECODER_D, HEADS, LAYERS = 16, 12, 2, 2
SIZES = TransformerConfig(d_model=D, ffn_dim=24, max_positions=16, dropout=0.0)


@pytest.mark.parametrize("frames", [16, 17, 18, 30, 41])
def test_windows_are_linked_whose_frames_are_those_of_the_other_or_that_are_of_one_span(frames):
    counts = [num_windows(frames, span, STRIDE) for span in SPANS]
    np.testing.assert_array_equal(
        nested(SPANS, counts, STRIDE), tspnet_reference.linked(SPANS, counts, STRIDE)
    )


def test_node_i_of_a_long_span_is_linked_to_nodes_i_to_i_plus_half_the_difference_of_a_short_one():
    counts = [num_windows(40, span, STRIDE) for span in SPANS]
    links, first = nested(SPANS, counts, STRIDE), np.cumsum([0, *counts])
    for a, b in itertools.combinations(range(3), 2):
        between = links[first[b] : first[b + 1], first[a] : first[a + 1]]
        half = (SPANS[b] - SPANS[a]) // 2
        assert all(set(np.flatnonzero(row)) == set(range(i, i + half + 1)) for i, row in enumerate(between))
        np.testing.assert_array_equal(links[first[a] : first[a + 1], first[b] : first[b + 1]], between.T)


def levels_of(frames: tuple[int, ...], width: int = D):
    """Random levels of clips, with noise after them, and their masks."""
    rng = np.random.default_rng(0)
    masks = [
        np.arange(num_windows(max(frames), span, STRIDE) + 1)
        < np.array([num_windows(count, span, STRIDE) for count in frames])[:, None]
        for span in SPANS
    ]
    return [rng.normal(size=(*mask.shape, width)).astype(np.float32) / 4 for mask in masks], masks


def test_the_encoder_and_its_gradients_equal_those_of_a_torch_twin():
    values, masks = levels_of((24, 16, 19))
    encoder = random_model(lambda: NestedEncoder(LAYERS, HEADS, SIZES, SPANS, STRIDE, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(encoder)
    weight = np.random.default_rng(1).normal(size=values[0].shape).astype(np.float32) * masks[0][..., None]

    def total(params, values):
        states, mask = nnx.merge(graphdef, params)(list(zip(values, masks, strict=True)))
        return (states * weight).sum(), (states, mask)

    gradients, (states, mask) = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, values)
    twin = tspnet_reference.Encoder(nnx.to_pure_dict(jax.device_get(params)), HEADS)
    inputs = [torch.tensor(x, requires_grad=True) for x in values]
    expected = twin(inputs, masks, SPANS, STRIDE)
    (expected * torch.tensor(weight)).sum().backward()
    np.testing.assert_array_equal(mask, masks[0])
    assert_close(np.asarray(states)[mask], expected.detach().numpy()[masks[0]])
    for ours, theirs, seen in zip(gradients[1], inputs, masks, strict=True):
        assert_close(np.asarray(ours)[seen], theirs.grad.numpy()[seen], 1e-4)
        assert not np.asarray(ours)[~seen].any(), "padding is read"
    assert_same_gradients(gradients[0], twin)


def assert_same_gradients(ours, twin) -> None:
    ours = nnx.to_pure_dict(jax.device_get(ours))
    assert_close(ours["input"]["embed_positions"]["embedding"], twin.positions.grad.numpy(), 1e-4)
    for own, layer in zip(ours["layers"].values(), twin.layers, strict=True):
        feed = own["feed_forward"]
        for one, theirs in [
            (own["self_attn"]["q_proj"]["kernel"], layer.own.q.weight),
            (own["self_attn"]["v_proj"]["kernel"], layer.own.v.weight),
            (own["self_attn_layer_norm"]["scale"], layer.own_norm.weight),
            (feed["fc1"]["kernel"], layer.wide.weight),
            (feed["fc2"]["kernel"], layer.narrow.weight),
            (feed["final_layer_norm"]["scale"], layer.last_norm.weight),
        ]:
            assert_close(one.T, theirs.grad.numpy(), 1e-4)
        if layer.crosses:
            assert_close(own["encoder_attn"]["k_proj"]["kernel"].T, layer.cross.k.weight.grad.numpy(), 1e-4)


def test_a_post_norm_decoder_of_another_width_and_its_gradients_equal_those_of_a_torch_twin():
    rng = np.random.default_rng(0)
    words, memory = (rng.normal(size=(3, n, d)).astype(np.float32) for n, d in ((6, DECODER_D), (7, D)))
    mask, memory_mask = (
        np.arange(n) < np.array(lengths)[:, None] for n, lengths in ((6, (6, 2, 4)), (7, (3, 7, 1)))
    )
    sizes = TransformerConfig(d_model=DECODER_D, ffn_dim=20, max_positions=8, dropout=0.0)
    decoder = random_model(lambda: Decoder(LAYERS, HEADS, sizes, LearnedPositions, True, D, rngs=nnx.Rngs(0)))
    graphdef, params = nnx.split(decoder)
    weight = rng.normal(size=words.shape).astype(np.float32) * mask[..., None]

    def total(params):
        states = nnx.merge(graphdef, params)(words, mask, memory, memory_mask)
        return (states * weight).sum(), states

    gradients, states = jax.jit(jax.grad(total, has_aux=True))(params)
    twin = tspnet_reference.Decoder(nnx.to_pure_dict(jax.device_get(params)), HEADS)
    expected = twin(torch.tensor(words), mask, torch.tensor(memory), memory_mask)
    (expected * torch.tensor(weight)).sum().backward()
    assert_close(np.asarray(states)[mask], expected.detach().numpy()[mask])
    assert_same_gradients(gradients, twin)


def test_windows_of_frames_are_a_convolution_of_each_clip_and_a_short_clip_repeats_its_last_frame():
    config = CNNConfig(resnet=ResNetConfig(depths=(1,), width=6, stem="conv7_stride4"))
    windows = random_model(
        lambda: FrameWindows(
            config, D, (3, 5), 2, image_size=16, max_frames=9, dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
    )
    windows = nnx.view(windows, use_running_average=True)
    counts, lengths = np.array([9, 2, 0]), (9, 5)  # a clip of 2 frames is read as one of 5
    frames = np.random.default_rng(0).normal(size=(11, 16, 16, 3)).astype(np.float32)
    start = np.array([0, 9, 11])
    clips = PackedClips(start, counts, np.array([True, True, False]))
    levels = jax.jit(lambda windows: windows(frames, np.ones(11, bool), clips))(windows)
    features = np.asarray(jax.jit(lambda windows: windows.cnn(frames, np.ones(11, bool)))(windows))
    for level, (span, conv, norm) in enumerate(zip((3, 5), windows.convs, windows.norms, strict=True)):
        found, mask = (np.asarray(x) for x in levels[level])
        for row, length in enumerate(lengths):
            clip = features[np.minimum(np.arange(length), counts[row] - 1) + start[row]]
            expected = [
                np.einsum("KC,KCD->D", clip[2 * i : 2 * i + span], conv.kernel[...]) + conv.bias[...]
                for i in range((length - span) // 2 + 1)
            ]
            assert mask[row].sum() == len(expected) > 0
            assert_close(found[row][mask[row]], np.maximum(norm(np.stack(expected)), 0))
        assert not mask[2].any()


def test_prepared_windows_are_each_set_s_own_rows_and_a_set_may_have_none_of_a_clip():
    rng = np.random.default_rng(0)
    counts = [np.array([3, 1, 0]), np.array([2, 0, 0])]
    sets = [
        Features(rng.normal(size=(6, D)).astype(np.float16), np.cumsum([0, *count[:-1]]), count)
        for count in counts
    ]
    levels = jax.jit(prepared_levels, static_argnums=2)(sets, np.array([True, True, False]), 4)
    for (values, mask), one in zip(jax.device_get(levels), sets, strict=True):
        assert values.shape == (3, 4, D) and values.dtype == np.float32
        np.testing.assert_array_equal(mask.sum(axis=1), one.count)
        np.testing.assert_array_equal(values[mask], one.values[: one.count.sum()])
        assert not values[~mask].any()
