"""Stage 1 (Sec. 3.2): L1 = L_sim (Eq. 1) + lambda * L_R (Eq. 2)."""

from functools import partial

import jax
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.pretrain import PretrainModel
from sslssaw_jax.stages.alignment import aligned_cosine
from sslssaw_jax.stages.losses import contrastive_loss, cross_entropy
from sslssaw_jax.stages.step import OWN, Counts, Stage
from sslssaw_jax.types import Batch, Metrics


def pretrain_stage(config: Config, vocab_size: int, bert_vocab_size: int = 0) -> Stage:
    """Contrast of video and sentence over the global batch, and masked words restored."""

    def make_model(key: jax.Array) -> nnx.Module:
        dtype = compute_dtype(config.model.compute_dtype)
        sizes = (vocab_size, bert_vocab_size)
        return PretrainModel(config.model, config.data, *sizes, dtype=dtype, rngs=nnx.Rngs(key))

    return Stage("pretrain", make_model, partial(loss, config=config), config.model.remat == "blocks")


def loss(
    model: PretrainModel, batch: Batch, key: jax.Array | None, counts: Counts = OWN, *, config: Config
) -> tuple[jax.Array, Metrics]:
    """L1 with its two parts and the share of clips whose own sentence is the nearest."""
    augment_key, dropout_key = (None, None) if key is None else jax.random.split(key)
    rngs = None if dropout_key is None else nnx.Rngs(dropout=dropout_key)
    frames_NxHxWx3, frame_mask_N = prepare_frames(batch, config.data, augment_key)
    video = model.video_features(
        frames_NxHxWx3, frame_mask_N, batch.frame_start, batch.frame_count, batch.valid, rngs=rngs
    )
    text = model.text_features(batch.text_tower_texts.target, batch.text_tower_texts.target_mask, rngs=rngs)
    if config.model.alignment == "video_to_text":
        cosine_BxB = aligned_cosine(*text, *video).T
    else:
        cosine_BxB = aligned_cosine(*video, *text)
    l_sim, metrics = contrastive_loss(cosine_BxB, model.logit_scale[...], batch.valid, counts.clips)
    target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
    logits_BxLxV = model.restore_words(batch.masked_target, batch.masked_target_mask, target, rngs=rngs)
    l_r = cross_entropy(
        logits_BxLxV, target.labels, target.scored, config.pretrain.label_smoothing, counts.target_tokens
    )
    total = l_sim + config.pretrain.mask_weight * l_r
    return total, {"loss_similarity": l_sim, "loss_restore": l_r, **metrics}
