"""Gloss recognition: a video part learns to name glosses in their order, by CTC (Graves et al. 2006)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.gloss_head import GLOSS_HEADS, GlossHeadConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.stages.losses import ctc_loss, masked_mean, needed_positions
from sslssaw_jax.stages.stage import LossCounts, Recognition, Stage, StageInputs
from sslssaw_jax.stages.video import VideoPart, embed_video, split_key
from sslssaw_jax.stages.warm_start import CNN_MODULES, warm_start_stages
from sslssaw_jax.types import WER, Batch, Metrics

RECOGNIZER_MODULES = {"video": "video"}  # what a later stage takes; stages with glosses also take `head`


class Recognizer(nnx.Module):
    """A video part with a head that names glosses."""

    def __init__(
        self,
        video: VideoPart,
        inputs: int,
        config: GlossHeadConfig,
        num_glosses: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.video = video
        self.head = GLOSS_HEADS[config.kind](config, inputs, num_glosses, dtype=dtype, rngs=rngs)


def recognize_stage(
    config: Config,
    inputs: StageInputs,
    head: GlossHeadConfig,
    make_video: Callable[[nnx.Rngs], VideoPart],
    width: int,
    *,
    shared: bool = False,
) -> Stage:
    """Make the stage that trains a video part to name glosses.

    A later stage takes `RECOGNIZER_MODULES` from its model.

    Args:
        config: The run's configuration; its `recognize` has the recipe.
        inputs: The facts of the data.
        head: The kind and sizes of the head.
        make_video: Makes the video part.
        width: The features of a position of the video.
        shared: Whether the stage is trained once for several runs, in the folder `config.init_from`.
    """
    dtype = compute_dtype(config.compute.dtype)

    def make_model(key: jax.Array) -> Recognizer:
        rngs, num_glosses = Keys(key), inputs.glosses().size
        return Recognizer(make_video(rngs), width, head, num_glosses, dtype=dtype, rngs=rngs)

    def loss(
        model: Recognizer, batch: Batch, key: jax.Array | None, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        logits_BxTxG, mask_BxT = gloss_logits(model, batch, config.data, *split_key(key))
        return gloss_loss(logits_BxTxG, mask_BxT, batch, counts)

    return Stage(
        "recognize",
        make_model,
        loss,
        reads_question=False,
        reads_gloss=True,
        shared=shared,
        starts_pretrained=True,
        modules=CNN_MODULES,
        selection=WER,
        recognition=partial(gloss_logits, data=config.data),
        remat=config.compute.remat,
    )


def gloss_logits(
    model: Any, batch: Batch, data: DataConfig, augment_key: jax.Array | None = None, rngs: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Return gloss logits `[B, T, G]`, and the positions' mask.

    The model has a part `video` and a `head` on it.
    """
    video_BxTxC, mask_BxT = embed_video(model.video, batch, data, augment_key)
    return model.head(video_BxTxC, mask_BxT, rngs)[0], mask_BxT


def early_stages(
    config: Config,
    inputs: StageInputs,
    make_video: Callable[[nnx.Rngs], VideoPart],
    width: int,
    *,
    shared: bool,
) -> list[Stage]:
    """Make a video embedding's warm start and recogniser, if any.

    The next stage takes the modules that `early_modules` returns.

    Args:
        config: The run's configuration; its model has a `cnn` and a `gloss_head`.
        inputs: The facts of the data.
        make_video: Makes the video embedding.
        width: The features of a position of the video.
        shared: Whether the recogniser is trained once for several runs, in the folder `config.init_from`.
    """
    stages = warm_start_stages(config, inputs)
    if config.recognize.epochs or config.stage == "recognize":
        head = config.model.gloss_head
        stages.append(recognize_stage(config, inputs, head, make_video, width, shared=shared))
    return stages


def early_modules(early: Sequence[Stage]) -> Mapping[str, str]:
    """Return the modules that the stage after warm start or recogniser takes."""
    return RECOGNIZER_MODULES if "recognize" in [stage.name for stage in early] else CNN_MODULES


def gloss_loss(
    logits_BxTxG: jax.Array,
    mask_BxT: jax.Array,
    batch: Batch,
    counts: LossCounts,
    *,
    per_gloss: bool = False,
) -> tuple[jax.Array, Metrics]:
    """Return the CTC loss of a batch's glosses, a mean over clips.

    A clip without glosses costs nothing. The metrics give the share of clips that have too few positions for
    their glosses, and so cost nothing either.

    Args:
        logits_BxTxG: The gloss logits at each position of a clip.
        mask_BxT: The positions, with the clip's own positions first.
        batch: Has the glosses.
        counts: The counts of all micro-batches of a step.
        per_gloss: Whether a clip's loss is divided by the number of its glosses.
    """
    length_B = jnp.where(batch.gloss_mask.any(axis=1), mask_BxT.sum(axis=1), 0)
    loss = ctc_loss(logits_BxTxG, length_B, batch.gloss, batch.gloss_mask, counts.clips, per_gloss=per_gloss)
    short_B = length_B < needed_positions(batch.gloss, batch.gloss_mask)
    return loss, {"loss_gloss": loss, "too_short": masked_mean(short_B, batch.valid, counts.clips)}


class Recognized(NamedTuple):
    """A model's gloss probabilities for a batch."""

    log_probs: jax.Array  # f32[B, T, G]
    mask: jax.Array  # bool[B, T]


def recognize_step(
    params: nnx.State,
    batch_stats: nnx.State,
    batch: Batch,
    *,
    graphdef: nnx.GraphDef,
    recognition: Recognition,
) -> Recognized:
    """Return each position's gloss probabilities."""
    logits_BxTxG, mask_BxT = recognition(nnx.merge(graphdef, params, batch_stats), batch)
    return Recognized(jax.nn.log_softmax(logits_BxTxG.astype(jnp.float32)), mask_BxT)
