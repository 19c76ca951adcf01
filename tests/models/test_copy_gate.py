import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.models.copy_gate import CopyGate
from tests.support.toy import assert_close

CLIPS, BEAMS, LENGTH, TOKENS, D, VOCAB = 3, 2, 4, 5, 8, 12


@pytest.fixture
def gate():
    return CopyGate(D, dtype=jnp.float32, rngs=nnx.Rngs(0))


@pytest.fixture
def given():
    """Random states, logits and questions; the last clip has no question."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(CLIPS * BEAMS, LENGTH, D)).astype(np.float32)
    logits = 3 * rng.normal(size=(CLIPS * BEAMS, LENGTH, VOCAB)).astype(np.float32)
    states = rng.normal(size=(CLIPS, TOKENS, D)).astype(np.float32)
    tokens = rng.integers(0, VOCAB, (CLIPS, TOKENS))
    tokens[0, 1] = tokens[0, 0]  # a token that occurs twice
    return hidden, logits, states, tokens, np.arange(TOKENS) < np.array([[5], [2], [0]])


def test_the_mixture_is_a_distribution(gate, given):
    assert_close(np.exp(gate(*given)).sum(axis=-1), np.ones((CLIPS * BEAMS, LENGTH)))


def test_a_closed_gate_gives_weight_to_the_question_s_tokens_alone(gate, given):
    gate.gate.bias[...] = jnp.full(1, -50.0)
    probs = np.exp(gate(*given)).reshape(CLIPS, BEAMS, LENGTH, VOCAB)
    for clip in (0, 1):
        asked = np.unique(given[3][clip][given[4][clip]])
        assert_close(probs[clip][..., asked].sum(axis=-1), np.ones((BEAMS, LENGTH)))


def test_an_open_gate_and_a_clip_without_a_question_leave_the_vocabulary_s_choice(gate, given):
    expected = np.asarray(jax.nn.softmax(given[1]))
    assert_close(np.exp(gate(*given))[2 * BEAMS :], expected[2 * BEAMS :])
    gate.gate.bias[...] = jnp.full(1, 50.0)
    assert_close(np.exp(gate(*given)), expected)


def test_what_is_copied_follows_the_attention(gate, given):
    """With a query that finds only one place of the question."""
    hidden, logits, _, tokens, mask = given
    gate.query.kernel[...] = gate.key.kernel[...] = 20 * jnp.eye(D)
    gate.gate.bias[...] = jnp.full(1, -500.0)
    states = np.eye(TOKENS, D, dtype=np.float32)[None].repeat(CLIPS, axis=0)
    hidden[: 2 * BEAMS] = states[0, 1]
    found = np.asarray(gate(hidden, logits, states, tokens, mask)).argmax(axis=-1)
    np.testing.assert_array_equal(found[:BEAMS], tokens[0, 1])
    np.testing.assert_array_equal(found[BEAMS : 2 * BEAMS], tokens[1, 1])


def test_padding_of_the_question_changes_nothing(gate, given):
    hidden, logits, states, tokens, mask = given
    more = [np.pad(x, ((0, 0), (0, 3)) + ((0, 0),) * (x.ndim - 2)) for x in (states, tokens, mask)]
    more[0][:, TOKENS:] = 7.0
    assert_close(gate(hidden, logits, *more), gate(*given))
