import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.models.beam_search import IMPOSSIBLE, EncodedModel, beam_search
from sslssaw_jax.models.transformer import Decoder
from tests.support.mbart_reference import CONFIG, EOS, LANGUAGE, PAD, VOCAB_SIZE, random_pair
from tests.support.pytorch import torch

NEW_TOKENS = 12
BATCH, POSITIONS = 200, 6


@pytest.fixture(scope="module")
def pair():
    return random_pair(seed=4, special_bias=3.5)


@pytest.fixture(scope="module")
def encoded():
    rng = np.random.default_rng(1)
    mask = np.arange(POSITIONS) < rng.integers(1, POSITIONS + 1, (BATCH, 1))
    return rng.normal(size=(BATCH, POSITIONS, CONFIG.d_model)).astype(np.float32), mask


@functools.partial(jax.jit, static_argnames=("beams", "max_new_tokens"))
def search(models, encoded, prompt, prompt_mask, beams, length_penalty=1.0, max_new_tokens=NEW_TOKENS):
    return beam_search(
        [EncodedModel(one.decoder, one.embedding, one.embedding.logits, *encoded) for one in models],
        prompt,
        prompt_mask,
        beams=beams,
        max_new_tokens=max_new_tokens,
        length_penalty=length_penalty,
        eos_id=EOS,
        pad_id=PAD,
    )


def prompts(length):
    """Prompts of ordinary words that end in the language code."""
    prompt = np.random.default_rng(length).integers(5, VOCAB_SIZE, (BATCH, length))
    prompt[:, -1] = LANGUAGE
    return prompt, np.ones_like(prompt, bool)


def generate(pair, encoded, prompt, beams, length_penalty):
    """Hugging Face's tokens [B, K, N] and scores [B, K] (None for one beam), best first."""
    states, mask = encoded
    result = pair.theirs.generate(
        encoder_outputs=transformers.modeling_outputs.BaseModelOutput(last_hidden_state=torch.tensor(states)),
        attention_mask=torch.tensor(mask).long(),
        decoder_input_ids=torch.tensor(prompt),
        decoder_start_token_id=int(prompt[0, 0]),  # all rows' first token, or it is put before the prompt
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=length_penalty,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=EOS,
        forced_eos_token_id=EOS,
        suppress_tokens=[PAD],
        early_stopping=False,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    tokens = np.full((BATCH, beams, NEW_TOKENS), PAD)
    generated = result.sequences.numpy()[:, prompt.shape[1] :]
    tokens[..., : generated.shape[1]] = generated.reshape(BATCH, beams, -1)
    scores = result.get("sequences_scores")
    return tokens, None if scores is None else scores.reshape(BATCH, beams)


@pytest.mark.parametrize(("beams", "length_penalty"), [(1, 1.0), (4, 0.6), (4, 1.0), (5, 1.5)])
def test_beam_search_equals_hugging_face_generate(pair, encoded, beams, length_penalty):
    prompt, mask = prompts(length=1)
    tokens, scores = search([pair.ours], encoded, prompt, mask, beams=beams, length_penalty=length_penalty)
    expected_tokens, expected_scores = generate(pair, encoded, prompt, beams, length_penalty)
    np.testing.assert_array_equal(tokens, expected_tokens)
    if expected_scores is not None:
        np.testing.assert_allclose(scores, expected_scores, atol=1e-4)
    lengths = (np.asarray(tokens) != PAD).sum(axis=-1).ravel()
    assert len(set(lengths)) > 3, "if all sentences had the same length, the comparison would say little"


@pytest.mark.parametrize("length_norm", ["power", "gnmt"])
def test_beam_search_with_a_beam_for_each_sentence_finds_them_all_in_order(pair, encoded, length_norm):
    """Enumerate the sentences of at most 3 tokens of a vocabulary of 5 words and </s>."""
    words, clips = range(5, 10), 3
    encoded, prompt = tuple(array[:clips] for array in encoded), np.full((clips, 1), LANGUAGE)

    def logits(hidden):
        every = np.arange(VOCAB_SIZE)
        known = np.isin(every, [EOS, *words])
        return jnp.where(known, pair.ours.embedding.logits(hidden), -1e9)

    @jax.jit
    def log_probs(tokens):
        hidden = pair.ours.decoder(pair.ours.embedding(tokens), jnp.ones(tokens.shape, bool), *encoded)
        return jax.nn.log_softmax(logits(hidden))

    found = {}
    for first in words:
        after = np.asarray(log_probs(np.append(prompt, np.full((clips, 1), first), axis=1)))
        found[EOS,] = after[:, 0, EOS]
        found[first, EOS] = after[:, 0, first] + after[:, 1, EOS]
        for second in words:  # the third is forced
            found[first, second, EOS] = after[:, 0, first] + after[:, 1, second]
    tokens, scores = beam_search(
        [EncodedModel(pair.ours.decoder, pair.ours.embedding, logits, *encoded)],
        prompt,
        np.ones_like(prompt, bool),
        beams=len(found),
        max_new_tokens=3,
        length_penalty=1.7,
        length_norm=length_norm,
        eos_id=EOS,
        pad_id=PAD,
    )
    for clip in range(clips):
        norms = [len(one) if length_norm == "power" else (5 + len(one)) / 6 for one in found]
        divided = {one: found[one][clip] / norm**1.7 for one, norm in zip(found, norms)}
        best = sorted(divided, key=divided.__getitem__, reverse=True)
        assert [tuple(row[row != PAD]) for row in np.asarray(tokens[clip])] == best
        np.testing.assert_allclose(scores[clip], [divided[one] for one in best], atol=1e-4)


def test_beam_search_after_a_longer_prompt_equals_hugging_face_generate(pair, encoded):
    prompt, mask = prompts(length=4)
    prompt[:, 0] = LANGUAGE
    tokens, scores = search([pair.ours], encoded, prompt, mask, beams=4)
    expected_tokens, expected_scores = generate(pair, encoded, prompt, beams=4, length_penalty=1.0)
    np.testing.assert_array_equal(tokens, expected_tokens)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-4)


def test_padding_in_the_prompt_changes_nothing(pair, encoded):
    prompt, mask = prompts(length=4)
    spread_prompt = np.insert(prompt, [0, 2, 3, 3], 9, axis=1)
    spread_mask = np.insert(mask, [0, 2, 3, 3], False, axis=1)
    tokens, scores = search([pair.ours], encoded, prompt, mask, beams=4)
    spread_tokens, spread_scores = search([pair.ours], encoded, spread_prompt, spread_mask, beams=4)
    np.testing.assert_array_equal(spread_tokens, tokens)
    np.testing.assert_allclose(spread_scores, scores, atol=1e-5)


def test_one_beam_of_two_models_equals_a_greedy_loop_without_cache(pair, encoded):
    states, states_mask = encoded
    prompt, mask = prompts(length=4)
    models = [pair.ours, random_pair(seed=5, special_bias=3.5).ours]

    @jax.jit
    def best_next(sequence):
        probs = 0
        for model in models:
            embedded, seen = model.embedding(sequence), jnp.ones(sequence.shape, bool)
            probs += jax.nn.softmax(
                model.embedding.logits(model.decoder(embedded, seen, states, states_mask))
            )
        return probs.at[..., PAD].set(0).argmax(axis=-1)

    sequence = np.pad(prompt, ((0, 0), (0, NEW_TOKENS)), constant_values=PAD)
    ended = np.zeros(BATCH, bool)
    for slot in range(prompt.shape[1], sequence.shape[1]):
        last = slot == sequence.shape[1] - 1
        token = EOS if last else np.asarray(best_next(sequence))[:, slot - 1]
        sequence[:, slot] = np.where(ended, PAD, token)
        ended |= sequence[:, slot] == EOS
    tokens, _ = search(models, encoded, prompt, mask, beams=1)
    np.testing.assert_array_equal(tokens[:, 0], sequence[:, prompt.shape[1] :])


def test_a_row_without_a_clip_gets_padding_and_leaves_the_others_alone(pair, encoded):
    states, states_mask = encoded
    prompt, mask = prompts(length=4)
    has_clip = np.arange(BATCH) % 3 > 0
    expected, _ = search([pair.ours], encoded, prompt, mask, beams=4)
    tokens, scores = search(
        [pair.ours],
        (states, states_mask & has_clip[:, None]),
        prompt,
        mask & has_clip[:, None],
        beams=4,
    )
    np.testing.assert_array_equal(tokens[has_clip], expected[has_clip])
    assert (tokens[~has_clip] == PAD).all()
    assert (scores[~has_clip] == IMPOSSIBLE).all()


def test_a_clip_of_which_nothing_was_read_gets_a_sentence(pair, encoded):
    """For example a clip without a question, in a model that reads only the question."""
    states, states_mask = encoded
    prompt, mask = prompts(length=4)
    tokens, scores = search(
        [pair.ours], (states, states_mask & (np.arange(BATCH) > 0)[:, None]), prompt, mask, beams=4
    )
    assert (scores[0] > IMPOSSIBLE).all() and (tokens[0] == EOS).any(axis=-1).all()


def test_a_beam_for_which_there_is_no_sentence_is_impossible(pair, encoded):
    tokens, scores = search([pair.ours], encoded, *prompts(length=1), beams=3, max_new_tokens=1)
    assert (tokens[:, 0, 0] == EOS).all() and (scores[:, 0] > IMPOSSIBLE).all()
    assert (scores[:, 1:] == IMPOSSIBLE).all()


def test_search_stops_once_no_result_can_change(encoded, monkeypatch):
    pair = random_pair(seed=4, special_bias=30.0)  # ends at once
    steps: list[int] = []
    extend = Decoder.extend

    def counted(*arguments):
        jax.debug.callback(lambda: steps.append(1))
        return extend(*arguments)

    monkeypatch.setattr(Decoder, "extend", counted)
    tokens, _ = search([pair.ours], encoded, *prompts(length=1), beams=1, max_new_tokens=NEW_TOKENS - 1)
    jax.block_until_ready(tokens)
    jax.effects_barrier()
    assert (tokens[:, 0, 0] == EOS).all()
    assert len(steps) == 1


def test_more_new_tokens_than_positions_are_refused(pair, encoded):
    with pytest.raises(ConfigError, match=r"positions of the model: raise max_positions in config\.model"):
        search([pair.ours], encoded, *prompts(length=1), beams=1, max_new_tokens=CONFIG.max_positions)
