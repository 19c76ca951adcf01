import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.models.mbart import MBartConfig, TokenEmbedding
from sslssaw_jax.models.transformer import Decoder, Encoder, LearnedPositions
from tests.support.mbart_reference import CONFIG, VOCAB_SIZE, random_pair, random_tokens, relative_error
from tests.support.pytorch import torch


@pytest.fixture(scope="module")
def pair():
    return random_pair(seed=0)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return random_tokens(rng, [9, 5, 7]), random_tokens(rng, [4, 6, 3])


@jax.jit
def encode(model, ids, mask):
    return model.encoder(model.embedding(ids), mask)


@jax.jit
def decode(model, ids, mask, states, states_mask):
    return model.decoder(model.embedding(ids), mask, states, states_mask)


@jax.jit
def empty_cache(model, states, mask):
    return model.decoder.init_cache(states, mask, slots=8)


@jax.jit
def extend(model, ids, mask, cache):
    return model.decoder.extend(model.embedding(ids), mask, cache)


def test_encoder_states_and_logits_equal_hugging_face(pair, batch):
    (source, source_mask), (target, target_mask) = batch
    with torch.no_grad():
        expected = pair.theirs(
            input_ids=torch.tensor(source),
            attention_mask=torch.tensor(source_mask),
            decoder_input_ids=torch.tensor(target),
            decoder_attention_mask=torch.tensor(target_mask),
            output_hidden_states=True,
        )
    states = encode(pair.ours, source, source_mask)
    logits = pair.ours.embedding.logits(decode(pair.ours, target, target_mask, states, source_mask))
    assert relative_error(states, expected.encoder_last_hidden_state, source_mask) < 1e-5
    assert relative_error(logits, expected.logits, target_mask) < 1e-5


def test_padding_anywhere_changes_no_state(pair, batch):
    (source, source_mask), (target, target_mask) = batch

    def states_of(source, source_mask, target, target_mask):
        states = encode(pair.ours, source, source_mask)
        hidden = decode(pair.ours, target, target_mask, states, source_mask)
        return np.asarray(states), np.asarray(hidden)

    def spread(x, fill):  # padding before, between and after
        return np.insert(x, [0, 0, 2, 3, 3, x.shape[1]], fill, axis=1)

    states, hidden = states_of(source, source_mask, target, target_mask)
    spread_masks = spread(source_mask, False), spread(target_mask, False)
    spread_states, spread_hidden = states_of(
        spread(source, 7), spread_masks[0], spread(target, 8), spread_masks[1]
    )
    assert relative_error(spread_states[spread_masks[0]], states[source_mask]) < 1e-5
    assert relative_error(spread_hidden[spread_masks[1]], hidden[target_mask]) < 1e-5


def test_decoder_state_has_zero_gradient_from_later_tokens_and_padding(pair, batch):
    (source, source_mask), (target, _) = batch
    states = encode(pair.ours, source, source_mask)
    mask = np.array([[True, True, False, True, True, True]] * len(target))

    def fourth_token_state(embedded):
        return jnp.square(pair.ours.decoder(embedded, mask, states, source_mask)[:, 3]).sum()

    gradient = np.asarray(jax.jit(jax.grad(fourth_token_state))(pair.ours.embedding(target)))
    reaches = np.abs(gradient).max(axis=(0, 2)) > 0
    np.testing.assert_array_equal(reaches, [True, True, False, True, False, False])


@pytest.mark.parametrize("chunks", [(4, 1, 1), (1, 2, 3)])
def test_cached_decoding_equals_teacher_forcing(pair, batch, chunks):
    (source, source_mask), (target, _) = batch
    mask = np.array([[1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1]], bool)
    states = encode(pair.ours, source, source_mask)
    expected = decode(pair.ours, target, mask, states, source_mask)

    cache = empty_cache(pair.ours, states, source_mask)
    parts, start = [], 0
    for chunk in chunks:
        part = slice(start, start + chunk)
        hidden, cache = extend(pair.ours, target[:, part], mask[:, part], cache)
        parts.append(hidden)
        start += chunk
    assert relative_error(np.concatenate(parts, axis=1), expected, mask) < 1e-5


def test_beams_attend_to_their_own_clip_and_past(pair, batch):
    (source, source_mask), (target, target_mask) = batch
    states = encode(pair.ours, source, source_mask)
    rows = np.array([0, 0, 1, 1, 2, 2])
    cache = empty_cache(pair.ours, states, source_mask)
    _, cache = extend(pair.ours, target[:, :1], target_mask[:, :1], cache)
    beams = np.arange(6)[:, None] + 10
    hidden, _ = extend(pair.ours, beams, np.ones_like(beams, bool), cache.take(rows))
    sequences = np.concatenate([target[rows, :1], beams], axis=1)
    expected = decode(
        pair.ours,
        sequences,
        np.ones_like(sequences, bool),
        np.asarray(states)[rows],
        source_mask[rows],
    )
    assert relative_error(hidden, expected[:, 1:]) < 1e-5


def test_rows_without_tokens_keep_values_and_gradients_finite(pair, batch):
    (source, source_mask), (target, target_mask) = batch
    has_clip = np.array([True, False, True])[:, None]
    graphdef, params = nnx.split(pair.ours)

    def loss(params):
        model = nnx.merge(graphdef, params)
        states = model.encoder(model.embedding(source), source_mask & has_clip)
        hidden = model.decoder(
            model.embedding(target), target_mask & has_clip, states, source_mask & has_clip
        )
        return jnp.square(model.embedding.logits(hidden)).mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_head_is_tied_to_the_embedding_and_its_bias_is_not_trained(pair):
    graphdef, params = nnx.split(pair.ours)
    hidden = jnp.ones((1, 1, CONFIG.d_model))
    gradients = jax.grad(lambda params: nnx.merge(graphdef, params).embedding.logits(hidden).sum())(params)
    np.testing.assert_allclose(gradients["embedding"]["embed"]["embedding"][...], 1.0)
    np.testing.assert_array_equal(gradients["embedding"]["final_logits_bias"][...], 0.0)
    tables = [leaf for leaf in jax.tree.leaves(params) if VOCAB_SIZE in leaf.shape and leaf.ndim == 2]
    assert len(tables) == 1


def test_dropout_follows_the_key_given_at_the_call(pair, batch):
    (source, source_mask), _ = batch
    model = nnx.view(pair.ours, deterministic=False)

    @jax.jit
    def states(key):
        return model.encoder(model.embedding(source), source_mask, nnx.Rngs(dropout=key))

    np.testing.assert_array_equal(states(jax.random.key(1)), states(jax.random.key(1)))
    assert relative_error(states(jax.random.key(2)), states(jax.random.key(1))) > 0.01


def test_bfloat16_computes_in_it_and_keeps_float32_parameters(batch):
    (source, source_mask), _ = batch

    @functools.partial(jax.jit, static_argnums=0)
    def states_and_params(dtype):
        rngs = nnx.Rngs(0)
        embedding = TokenEmbedding(VOCAB_SIZE, CONFIG.d_model, dtype=dtype, rngs=rngs)
        encoder = nnx.view(Encoder(1, 4, CONFIG, dtype=dtype, rngs=rngs), deterministic=True)
        return encoder(embedding(source), source_mask), nnx.state((embedding, encoder), nnx.Param)

    expected, _ = states_and_params(jnp.float32)
    states, params = states_and_params(jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert 1e-4 < relative_error(states, expected) < 0.05


def test_a_sequence_beyond_the_positions_is_refused():
    config = MBartConfig(d_model=8, ffn_dim=8, text_heads=2, video_heads=2, decoder_heads=2, max_positions=4)
    embedded, mask = jnp.zeros((1, 5, 8)), jnp.ones((1, 5), bool)
    with pytest.raises(ConfigError, match=r"5 exceeds the 4 .*max_positions in config\.model"):
        Encoder(1, 2, config, rngs=nnx.Rngs(0))(embedded, mask)
    with pytest.raises(ConfigError, match=r"5 exceeds the 4 .*max_positions in config\.model"):
        Decoder(1, 2, config, rngs=nnx.Rngs(0))(embedded, mask, embedded, mask)
    with pytest.raises(ConfigError, match=r"5 exceeds the 4 .*max_positions in config\.model"):
        LearnedPositions(config, rngs=nnx.Rngs(0))(embedded, jnp.arange(5)[None], None)
