from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.config.experiment import run_differences, to_dict
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.stages.alignment import aligned_cosine
from sslssaw_jax.stages.losses import contrastive_loss, cross_entropy
from sslssaw_jax.stages.video import embed_video
from tests.support.toy import (
    EOS,
    LANGUAGE,
    NO_DROPOUT,
    VOCAB_SIZE,
    assert_close,
    evaluated,
    jit,
    loss_of,
    one_clip,
    padded,
    pretrain_stage,
    sgd_step,
    toy_batch,
    toy_config,
    toy_state,
    with_texts,
)

CONFIG = toy_config(**NO_DROPOUT)
STAGE = pretrain_stage(CONFIG, VOCAB_SIZE)


@pytest.fixture(scope="module")
def state():
    return toy_state(STAGE)


@pytest.fixture(scope="module")
def model(state):
    return evaluated(STAGE, state)


@pytest.fixture(scope="module")
def batch():
    return toy_batch(seed=0, clips=4)


@jit
def compiled_features(model, batch):
    video, _ = model.video_features(*embed_video(model.video, batch, CONFIG.data, None), batch.valid)
    target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
    masked = model.read(batch.masked_target, batch.masked_target_mask)
    restored = model.restore_words(masked, batch.masked_target_mask, target)
    tokens, mask = batch.text_tower_texts.target, batch.text_tower_texts.target_mask
    text, _ = model.text_features(model.read(tokens, mask), mask)
    return video[:, 0], text[:, 0], restored


def features(model, batch):
    """Video features, text features, logits of the restored words."""
    return jax.device_get(compiled_features(model, batch))


def test_features_depend_on_no_other_clip_and_on_no_padding(model, batch):
    video, text, restored = features(model, batch)
    more_video, more_text, more_restored = features(model, padded(batch, rows=2, frames=4, tokens=3))
    assert_close(more_video[:4], video)
    assert_close(more_text[:4], text)
    assert_close(
        more_restored[:4, : restored.shape[1]][batch.decoder_texts.target_mask],
        restored[batch.decoder_texts.target_mask],
    )
    for row in range(4):
        alone = features(model, one_clip(batch, row))
        mask = batch.decoder_texts.target_mask[row]
        assert_close(alone[0][0], video[row])
        assert_close(alone[1][0], text[row])
        assert_close(alone[2][0][mask], restored[row][mask])


def test_the_text_feature_is_the_state_at_the_end_of_the_sentence(model, batch):
    @jit
    def all_features(model, batch):
        texts = batch.text_tower_texts
        states = model.text_encoder(model.embedding(texts.target), texts.target_mask)
        return model.text_projection(states)

    everywhere = jax.device_get(all_features(model, batch))
    _, text, _ = features(model, batch)
    assert_close(text, everywhere[batch.decoder_texts.target == EOS])
    language = everywhere[(batch.decoder_texts.target == LANGUAGE) & batch.decoder_texts.target_mask]
    assert np.abs(text - language).max(axis=1).min() > 0.01


@pytest.mark.slow
def test_rows_without_a_clip_and_padding_change_no_step_of_training(state, batch):
    """The loss with its parts, every gradient and every batch statistic."""
    step = sgd_step(STAGE)
    expected, metrics = step(state, batch)
    found, padded_metrics = step(state, padded(batch, rows=3, frames=5, tokens=2))
    assert_close(padded_metrics, metrics, 1e-4)
    assert_close(found.batch_stats, expected.batch_stats)
    assert_close(found.params, expected.params, 1e-3)


def test_evaluating_a_batch_without_clips_is_finite(model, batch):
    none = padded(batch, rows=1, frames=1)
    texts = none.decoder_texts
    none = with_texts(
        none,
        question_mask=np.zeros_like(texts.question_mask),
        target_mask=np.zeros_like(texts.target_mask),
    ).replace(
        frame_count=np.zeros_like(none.frame_count),
        frame_start=np.zeros_like(none.frame_start),
        masked_target_mask=np.zeros_like(none.masked_target_mask),
        valid=np.zeros_like(none.valid),
    )
    loss, metrics = jit(partial(loss_of, STAGE))(model, none)
    assert np.isfinite(loss)
    assert all(np.isfinite(value) for value in metrics.values())


def test_restoring_words_trains_text_encoder_and_decoder_and_nothing_of_the_video(state, batch):
    """Eq. 2 without Eq. 1, by one step of plain SGD."""
    graphdef = STAGE.train_def

    def restoring(params):
        _, metrics = loss_of(STAGE, nnx.merge(graphdef, params, state.batch_stats, copy=True), batch)
        return metrics["loss_restore"]

    gradients = jit(jax.grad(restoring))(state.params)
    reached = {
        name: max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[name])) for name in gradients
    }
    trained = {name for name, size in reached.items() if size > 1e-4}
    assert trained == {"embedding", "text_encoder", "decoder"}
    assert all(reached[name] == 0 for name in reached.keys() - trained)


def test_restored_words_are_summed_over_a_sentence_if_normalized_by_clips(model, batch):
    by_clips = pretrain_stage(toy_config(**NO_DROPOUT, **{"pretrain.normalize": "clips"}), VOCAB_SIZE)
    losses = jit(lambda model, batch: [loss_of(stage, model, batch) for stage in (STAGE, by_clips)])
    (_, mean), (total, summed) = losses(model, batch)
    tokens = batch.decoder_texts.target_mask.sum() - 4  # the language codes are not scored
    assert_close(summed["loss_restore"], mean["loss_restore"] * np.float32(tokens / 4))
    assert_close(total, mean["loss_similarity"] + summed["loss_restore"])


def test_the_loss_of_restored_words_is_that_of_the_masked_sentence_smoothed_as_configured(model, batch):
    stage = pretrain_stage(toy_config(**NO_DROPOUT, **{"pretrain.label_smoothing": 0.2}), VOCAB_SIZE)
    total, parts = jit(partial(loss_of, stage))(model, batch)
    target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
    restored, count = features(model, batch)[2], target.scored.sum()
    assert_close(parts["loss_restore"], cross_entropy(restored, target.labels, target.scored, count, 0.2))
    assert_close(total, parts["loss_similarity"] + parts["loss_restore"])


def test_rows_without_a_clip_and_padding_change_no_loss_of_aligned_sequences(state, batch):
    stage = pretrain_stage(toy_config(**{"model.alignment": "video_to_text"}), VOCAB_SIZE)
    aligned = evaluated(stage, state)
    loss = jit(partial(loss_of, stage, aligned))
    assert_close(loss(padded(batch, rows=3, frames=5, tokens=2)), loss(batch))


def test_aligned_features_are_all_but_cls_and_the_language_code(state, model, batch):
    """The end of the sentence, the pooled feature, is the last of the states; [CLS] is not one."""
    aligned = evaluated(pretrain_stage(toy_config(**{"model.alignment": "text_to_video"}), VOCAB_SIZE), state)

    @jit
    def aligned_features(model, batch):
        embedded = embed_video(model.video, batch, CONFIG.data, None)
        _, positions = embedded
        video = model.video_features(*embedded, batch.valid)
        tokens, mask = batch.text_tower_texts.target, batch.text_tower_texts.target_mask
        return positions, video, model.text_features(model.read(tokens, mask), mask)

    positions, (_, video_mask), (text, text_mask) = jax.device_get(aligned_features(aligned, batch))
    np.testing.assert_array_equal(video_mask, positions)
    np.testing.assert_array_equal(text_mask.sum(axis=1), batch.decoder_texts.target_mask.sum(axis=1) - 1)
    ends = text[np.arange(4), text_mask.sum(axis=1) - 1]
    assert_close(ends, features(model, batch)[1])


@pytest.mark.parametrize("alignment", ["pooled", "text_to_video", "video_to_text"])
def test_the_loss_is_of_the_alignment_and_of_restored_words_by_their_weight(state, batch, alignment):
    changes = {"model.alignment": alignment, "pretrain.mask_weight": 0.5}
    stage = pretrain_stage(toy_config(**NO_DROPOUT, **changes), VOCAB_SIZE)

    @jit
    def features_and_loss(model, batch):
        video = model.video_features(*embed_video(model.video, batch, CONFIG.data, None), batch.valid)
        tokens, mask = batch.text_tower_texts.target, batch.text_tower_texts.target_mask
        return video, model.text_features(model.read(tokens, mask), mask), loss_of(stage, model, batch)

    aligned = evaluated(stage, state)
    video, text, (total, parts) = features_and_loss(aligned, batch)
    cosine = (
        aligned_cosine(*text, *video).T if alignment == "video_to_text" else aligned_cosine(*video, *text)
    )
    similarity, shares = contrastive_loss(cosine, aligned.logit_scale[...], batch.valid, 4)
    assert_close(total, similarity + 0.5 * parts["loss_restore"])
    assert_close(parts, {"loss_similarity": similarity, "loss_restore": parts["loss_restore"], **shares})


def test_the_contrast_of_a_new_model_is_as_sharp_as_clip_s():
    scale = jit(lambda key: STAGE.make_model(key).logit_scale[...])(jax.random.key(0))
    assert_close(scale, np.float32(np.log(1 / 0.07)))


def test_stage_1_of_another_alignment_is_another():
    pooled, aligned = (
        {"config": to_dict(toy_config(**{"model.alignment": alignment})), "tokenizer": "x"}
        for alignment in ("pooled", "video_to_text")
    )
    told = run_differences(toy_config(), pooled, aligned, "pretrain")
    assert told == ["config.model.alignment: 'pooled' then, 'video_to_text' now"]
