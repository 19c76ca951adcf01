"""GBT's graph and its decoder: the meaning of links, and both compared with PyTorch twins."""

from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.gloss_graph import (
    GraphLayer,
    MemoryAttention,
    Nodes,
    choose_words,
    join_memories,
    read_glosses,
)
from sslssaw_jax.models.transformer import Decoder, SinusoidalPositions, TransformerConfig
from tests.support.toy import assert_close, jit, random_model

D, HEADS = 8, 2
RNG = np.random.default_rng(0)
LENGTHS = np.array([[6], [3]])
MASK = np.arange(6) < LENGTHS
SPANS = np.zeros((2, 3, 6), bool)  # clip 0 has two glosses with a blank between, clip 1 has one gloss
SPANS[0, 0, :2], SPANS[0, 1, 3:6], SPANS[1, 0, 1] = True, True, True
LINKS = np.zeros((2, 3, 4), np.float32)  # two glosses with the same word; a gloss without one
LINKS[0, 0, 2] = LINKS[0, 1, 2] = 1
NODES = Nodes(*(RNG.normal(size=(2, size, D)).astype(np.float32) for size in (3, 6, 4)))


def graph_layer() -> GraphLayer:
    return random_model(lambda: GraphLayer(D, HEADS, 0.0, dtype=jnp.float32, rngs=nnx.Rngs(0)))


def test_glosses_are_the_best_path_s_and_each_has_the_positions_that_show_it() -> None:
    logits = np.random.default_rng(1).normal(size=(9, 12, 3)).astype(np.float32)
    mask = np.arange(12) < np.arange(0, 18, 2)[:, None]
    glosses = jax.device_get(read_glosses(logits, mask))
    for row, path in enumerate(logits.argmax(axis=-1)):
        wanted = [one for one, _ in groupby(path[mask[row]].tolist()) if one]
        assert glosses.ids[row].tolist() == wanted + [0] * (12 - len(wanted))
    np.testing.assert_array_equal(glosses.mask, glosses.ids > 0)
    best = np.where(mask, logits.argmax(axis=-1), 0)
    np.testing.assert_array_equal(glosses.spans.sum(axis=1), best > 0)
    assert (best[:, None] == glosses.ids[..., None])[glosses.spans].all()
    starts = np.diff(glosses.spans.astype(int), axis=2, prepend=0) == 1
    np.testing.assert_array_equal(starts.sum(axis=2), glosses.mask)  # one piece each
    assert glosses.mask.sum() > 20


def test_a_gloss_takes_its_likeliest_word_and_in_training_draws_one() -> None:
    glosses, words = np.eye(2, 3, dtype=np.float32), np.log([[[2, 1, 1], [1, 1, 1], [1, 3, 1], [1, 9, 1]]])
    word_mask, gloss_mask = np.array([[True, True, True, False]]), np.array([[True, True]])
    chosen = choose_words(glosses[None], gloss_mask, np.float32(words), word_mask)
    np.testing.assert_array_equal(chosen[0], [[1, 0, 0, 0], [0, 0, 1, 0]])
    many, seen = np.repeat(glosses[:1], 4000, axis=0)[None], np.arange(4000)[None] < 3999

    def draw(glosses, seed=0, temperature=2.0):
        key = jax.random.key(seed)
        return choose_words(glosses, seen, np.float32(words), word_mask, temperature, key)

    drawn = np.asarray(draw(many))
    np.testing.assert_array_equal(drawn, np.asarray(draw(many, temperature=0.1)))
    assert (drawn != np.asarray(draw(many, seed=1))).any()
    np.testing.assert_array_equal(drawn.sum(axis=2)[0], seen[0])
    np.testing.assert_allclose(drawn.mean(axis=1)[0], [0.5, 0.25, 0.25, 0], atol=0.03)

    def slope(temperature):  # of one gloss's first link, whose soft value falls off around its word
        return jax.grad(lambda glosses: draw(glosses, 0, temperature)[0, 0, 0])(many)

    warm, hot = np.asarray(slope(2.0)), np.asarray(slope(2000.0))
    assert np.abs(warm[0, 0]).max() > 100 * np.abs(hot[0, 0]).max() > 0
    assert (warm[0, 1:] == 0).all()


def test_without_links_positions_stay_and_the_rest_is_fused_with_zeros() -> None:
    layer = graph_layer()

    @jit
    def compiled(layer, nodes):
        zeros = Nodes(*map(jnp.zeros_like, nodes))
        found = layer(nodes, jnp.zeros_like(SPANS), jnp.zeros_like(LINKS))
        glosses = layer.shown_fusion(nodes.glosses, zeros.glosses, None)
        glosses = layer.asked_fusion(glosses, zeros.glosses, None)
        return found, Nodes(glosses, nodes.positions, layer.word_fusion(nodes.words, zeros.words, None))

    assert_close(*compiled(layer, NODES), 1e-6)


def test_the_graph_layer_and_its_gradients_equal_those_of_a_torch_twin() -> None:
    reference = pytest.importorskip("tests.support.gbt_reference")
    torch, layer = reference.torch, graph_layer()
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    weights = Nodes(*(RNG.normal(size=part.shape).astype(np.float32) for part in NODES))

    def ours(params, nodes):
        found = nnx.merge(graphdef, params, rest)(nodes, SPANS, LINKS)
        return sum((one * weight).sum() for one, weight in zip(found, weights)), found

    gradients, found = jit(jax.grad(ours, argnums=(0, 1), has_aux=True))(params, NODES)
    twin = reference.GraphLayer(nnx.to_pure_dict(params))
    nodes = [torch.tensor(part, requires_grad=True) for part in NODES]
    theirs = [twin(*(part[clip] for part in nodes), SPANS[clip], LINKS[clip]) for clip in range(2)]
    expected = [torch.stack(clips) for clips in zip(*theirs)]
    sum((one * torch.tensor(weight)).sum() for one, weight in zip(expected, weights)).backward()
    assert_close(found, Nodes(*(part.detach().numpy() for part in expected)))
    assert_close(gradients[1], Nodes(*(part.grad.numpy() for part in nodes)), 1e-4)
    of_params = nnx.to_pure_dict(gradients[0])
    for name, attention in zip(("shown", "word", "asked"), twin.attentions):
        assert_close(np.asarray(of_params[name]["project"]["kernel"]), attention.w.grad.numpy(), 1e-4)
        assert_close(np.asarray(of_params[name]["query"]), attention.a1.grad.numpy(), 1e-4)
        assert_close(np.asarray(of_params[name]["key"]), attention.a2.grad.numpy(), 1e-4)
    fusion = twin.fusions[0]
    own = torch.cat([fusion.w.grad, fusion.w_gate.grad], dim=1).numpy()
    assert_close(np.asarray(of_params["position_fusion"]["own"]["kernel"]), own, 1e-4)


def test_the_decoder_sums_what_one_attention_finds_in_each_memory_as_its_torch_twin_does() -> None:
    """Leave clip 1 without its first memory, with noise in its place."""
    reference = pytest.importorskip("tests.support.gbt_reference")
    torch, length = reference.torch, 5
    config = TransformerConfig(d_model=D, ffn_dim=12, max_positions=16, dropout=0.0, activation="relu")
    decoder = random_model(
        lambda: Decoder(
            1, HEADS, config, SinusoidalPositions, encoder_attention=MemoryAttention, rngs=nnx.Rngs(0)
        )
    )
    counts = ((2, 0), (6, 3), (4, 1))
    masks = [np.arange(part.shape[1]) < np.array(count)[:, None] for part, count in zip(NODES, counts)]
    memory, mask = join_memories(NODES, masks)
    words = RNG.normal(size=(2, length, D)).astype(np.float32)
    found = jit(lambda decoder, words: decoder(words, np.ones((2, length), bool), memory, mask))(
        decoder, words
    )
    twin = reference.Decoder(nnx.to_pure_dict(nnx.state(decoder)), HEADS)
    for clip in range(2):
        memories = [torch.tensor(part[clip, : count[clip]]) for part, count in zip(NODES, counts)]
        expected = twin(torch.tensor(words[clip]), [memory for memory in memories if len(memory)])
        assert_close(np.asarray(found[clip]), expected.detach().numpy())
