import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.recurrent import RecurrentConfig, RecurrentDecoder, RecurrentEncoder
from tests.support import recurrent_reference as twin
from tests.support.pytorch import torch
from tests.support.toy import assert_close, jit, random_model

C, E, U = 5, 4, 6
FRAMES, WORDS = (5, 1, 3), (2, 4, 3)
KINDS = [("gru", "luong", True), ("lstm", "bahdanau", False), ("lstm", "none", True)]


class Pair(nnx.Module):
    def __init__(self, config, reverse=False):
        parts = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        self.encoder = RecurrentEncoder(C, config, reverse=reverse, **parts)
        self.decoder = RecurrentDecoder(E, config, **parts)

    def __call__(self, frames, frame_mask, words, word_mask, rngs=None):
        encoded = self.encoder(frames, frame_mask, rngs)
        return self.decoder(words, word_mask, encoded, frame_mask, rngs), encoded.outputs


def config_of(cell="gru", attention="luong", residual=True, dropout=0.0):
    return RecurrentConfig(
        units=U, layers=3, cell=cell, attention=attention, residual=residual, dropout=dropout
    )


@pytest.fixture(scope="module")
def batch():
    """Frames with noise after each clip, words with noise in between, and the masks."""
    rng = np.random.default_rng(0)
    frame_mask = np.arange(max(FRAMES) + 2) < np.array(FRAMES)[:, None]
    word_mask = np.array([[1, 0, 1, 0, 0], [1, 0, 1, 1, 1], [0, 1, 1, 0, 1]], bool)
    assert tuple(word_mask.sum(axis=1)) == WORDS
    frames, words = (
        rng.normal(size=(3, mask.shape[1], size)).astype(np.float32)
        for mask, size in ((frame_mask, C), (word_mask, E))
    )
    return frames, frame_mask, words, word_mask


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "attention", "reverse"), KINDS)
def test_a_padded_batch_and_its_gradient_equal_torch_on_each_clip_alone(batch, cell, attention, reverse):
    config = config_of(cell, attention, residual=cell == "gru" or attention == "none")
    graphdef, params = nnx.split(random_model(lambda: Pair(config, reverse)))
    frames, frame_mask, words, word_mask = batch
    rng = np.random.default_rng(1)
    weight, frame_weight = (
        rng.normal(size=(*mask.shape, U)).astype("f4") for mask in (word_mask, frame_mask)
    )

    def total(frames, words, params):
        hidden, outputs = nnx.merge(graphdef, params)(frames, frame_mask, words, word_mask)
        weighted = (hidden * weight * word_mask[..., None]).sum()
        return weighted + (outputs * frame_weight * frame_mask[..., None]).sum(), (hidden, outputs)

    gradient = jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    (by_frames, by_words, by_params), (hidden, outputs) = jax.device_get(gradient(frames, words, params))
    params = nnx.to_pure_dict(params)
    theirs = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), params)
    for row in range(len(frames)):
        clip, sentence = (
            torch.tensor(x[row][mask[row]], requires_grad=True)
            for x, mask in ((frames, frame_mask), (words, word_mask))
        )
        memory, states = twin.encode(config, reverse, theirs["encoder"]["cells"], clip)
        expected = twin.decode(config, theirs["decoder"], sentence, memory, states)
        assert_close(outputs[row][frame_mask[row]], memory.detach().numpy())
        assert_close(hidden[row][word_mask[row]], expected.detach().numpy())
        own_weights = (
            torch.tensor(weight[row][word_mask[row]]),
            torch.tensor(frame_weight[row][frame_mask[row]]),
        )
        ((expected * own_weights[0]).sum() + (memory * own_weights[1]).sum()).backward()
        assert_close(by_frames[row][frame_mask[row]], clip.grad.numpy(), 1e-4)
        assert_close(by_words[row][word_mask[row]], sentence.grad.numpy(), 1e-4)
        assert not by_frames[row][~frame_mask[row]].any() and not by_words[row][~word_mask[row]].any()
    assert_close(nnx.to_pure_dict(by_params), jax.tree.map(lambda x: x.grad.numpy(), theirs), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["luong", "none"])
def test_token_by_token_equals_teacher_forcing(batch, attention):
    """Also for beams that each continue another, and with recomputation."""
    model = random_model(lambda: Pair(config_of(attention=attention)))
    frames, frame_mask, words, word_mask = batch
    expected, _ = jit(nnx.view(model, remat=True))(frames, frame_mask, words, word_mask)

    @jit
    def step_by_step(model, frames, words):
        encoded = model.encoder(frames, frame_mask)
        cache = model.decoder.init_cache(encoded, frame_mask, 0).take(jnp.repeat(jnp.arange(3), 2))
        found = []
        for place in range(words.shape[1]):
            # beams: the words, and noise that no later step may see
            beams = jnp.stack([words[:, place], -words[:, place]], axis=1).reshape(6, 1, E)
            hidden, cache = model.decoder.extend(beams, jnp.repeat(word_mask[:, place], 2)[:, None], cache)
            found.append(hidden[::2, 0])
            cache = cache.take(jnp.repeat(jnp.arange(0, 6, 2), 2))
        return jnp.stack(found, axis=1)

    assert_close(step_by_step(model, frames, words)[word_mask], expected[word_mask])


def test_dropout_draws_anew_for_each_layer_and_each_step(batch):
    frames, _, words, _ = batch
    frames, words = (np.repeat(x[:, :1], 9, axis=1) for x in (frames, words))
    ones = np.ones((3, 9), bool)
    plain, dropped = (
        random_model(lambda dropout=dropout: Pair(config_of(dropout=dropout))) for dropout in (0.0, 0.5)
    )
    run = jit(lambda model, key: model(frames, ones, words, ones, nnx.Rngs(dropout=key)))
    keys = jax.random.split(jax.random.key(0), 2)
    first, again, other = (run(dropped, keys[number]) for number in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    without = run(plain, keys[0])
    for one, two, three in zip(first, other, without, strict=True):
        for different in (two, three):
            assert (np.abs(one - different).max(axis=-1) > 1e-3).all()
    filled = (np.concatenate([x, x[:1]]) for x in (frames, ones, words, ones))
    with_one_more = jit(lambda model, key, *batch: model(*batch, nnx.Rngs(dropout=key)))(
        dropped, keys[0], *filled
    )
    assert_close([x[:3] for x in with_one_more], [*first])
    with_key_in_evaluation = run(nnx.view(dropped, deterministic=True), keys[0])
    assert_close(with_key_in_evaluation, without)
