"""Stage 1 (Sec. 3.2): the towers learn to tell a clip's sentence from others, and to restore masked words."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import jax
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbert import MBertConfig
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.two_towers import TwoTowers
from sslssaw_jax.models.video_embedding import VideoEmbedding
from sslssaw_jax.stages.alignment import aligned_cosine
from sslssaw_jax.stages.losses import contrastive_loss, cross_entropy
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs
from sslssaw_jax.stages.video import embed_video, split_key
from sslssaw_jax.types import LOSS, Batch, Metrics

Alignment = Literal["pooled", "text_to_video", "video_to_text"]  # what stage 1 compares (Table 3)


def pretrain_stage(
    config: Config,
    inputs: StageInputs,
    make_video: Callable[[nnx.Rngs], VideoEmbedding],
    *,
    mbert: tuple[MBertConfig, int] | None = None,
    alignment: Alignment = "pooled",
    modules: Mapping[str, str],
) -> Stage:
    """Make stage 1, which runs may share.

    Args:
        config: The run's configuration; its model has an `mbart`.
        inputs: The facts of the data.
        make_video: Makes the video embedding.
        mbert: The text tower in place of mBART, and its vocabulary size, if any.
        alignment: What the contrast compares.
        modules: The modules that the stage takes from the one before it.
    """

    def make_model(key: jax.Array) -> TwoTowers:
        return TwoTowers(
            config.model.mbart,
            inputs.vocab_size,
            make_video,
            mbert=mbert,
            pooled=alignment == "pooled",
            dtype=compute_dtype(config.compute.dtype),
            rngs=Keys(key),
        )

    return Stage(
        "pretrain",
        make_model,
        partial(pretrain_loss, config=config, alignment=alignment),
        reads_question=False,
        shared=True,
        starts_pretrained=True,
        modules=modules,
        selection=LOSS,
        remat=config.compute.remat,
    )


def contrast(
    model: TwoTowers,
    video: tuple[jax.Array, jax.Array],
    text_BxLxD: jax.Array,
    batch: Batch,
    counts: LossCounts,
    rngs: nnx.Rngs | None,
    alignment: Alignment = "pooled",
) -> tuple[jax.Array, Metrics]:
    """Return the contrast of clips and sentences (Eq. 1), with its parts.

    The metrics include the shares of clips and sentences whose counterpart is the nearest in the batch.

    Args:
        model: The towers.
        video: The embedded clips, `(video_BxTxD, mask_BxT)`.
        text_BxLxD: The text tower's states of the sentences.
        batch: The batch of the clips.
        counts: The counts of all micro-batches of a step.
        rngs: The random streams of the dropout, if any.
        alignment: What is compared.
    """
    video = model.video_features(*video, batch.valid, rngs=rngs)
    text = model.text_features(text_BxLxD, batch.text_tower_texts.target_mask)
    if alignment == "video_to_text":
        cosine_BxB = aligned_cosine(*text, *video).T
    else:
        cosine_BxB = aligned_cosine(*video, *text)
    return contrastive_loss(cosine_BxB, model.logit_scale[...], batch.valid, counts.clips)


def pretrain_loss(
    model: TwoTowers,
    batch: Batch,
    key: jax.Array | None,
    counts: LossCounts,
    *,
    config: Config,
    alignment: Alignment,
) -> tuple[jax.Array, Metrics]:
    """Return `L1 = L_sim + lambda*L_R` (Eq. 1, 2) with its parts."""
    augment_key, rngs = split_key(key)
    video = embed_video(model.video, batch, config.data, augment_key)
    tower, masked = batch.text_tower_texts, (batch.masked_target, batch.masked_target_mask)
    text_BxLxD, masked_BxLxD = model.read_both((tower.target, tower.target_mask), masked, rngs)
    l_sim, metrics = contrast(model, video, text_BxLxD, batch, counts, rngs, alignment)
    target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
    logits_BxLxV = model.restore_words(masked_BxLxD, batch.masked_target_mask, target, rngs=rngs)
    count = counts.target_tokens if config.pretrain.normalize == "tokens" else counts.clips
    l_r = cross_entropy(logits_BxLxV, target.labels, target.scored, count, config.pretrain.label_smoothing)
    total = l_sim + config.pretrain.mask_weight * l_r
    return total, {"loss_similarity": l_sim, "loss_restore": l_r, **metrics}
