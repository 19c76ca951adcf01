"""Text to gloss, the reverse of `stages/gloss2text.py`: a transformer writes the glosses of a sentence.

The blank begins and ends what it writes, so its vocabulary is the recogniser's.

B clips, G glosses, L tokens.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.glosses import BLANK, UNKNOWN
from sslssaw_jax.models.decoder_inputs import Stream, text_stream
from sslssaw_jax.models.mbart_writer import Rewriter
from sslssaw_jax.stages.gloss2text import encoded
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import LossCounts, Stage, Translation
from sslssaw_jax.stages.translation import language_prompt
from sslssaw_jax.stages.video import split_key
from sslssaw_jax.types import LOSS, Batch, Metrics


def text2gloss_stage(config: Config, make_model: Callable[[jax.Array], Rewriter]) -> Stage:
    """Make the stage, trained by `config.text2gloss`."""

    def read(model: Rewriter, batch: Batch, rngs: Any = None) -> tuple[jax.Array, jax.Array]:
        texts = batch.decoder_texts
        return model.read_ids(texts.target, texts.target_mask, batch.valid, rngs)

    def loss(
        model: Rewriter, batch: Batch, key: jax.Array | None, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        rngs, glosses = split_key(key)[1], gloss_stream(batch)
        logits_BxLxG = model.write(glosses, *read(model, batch, rngs), rngs)
        clips, tokens = glosses.scored.any(axis=1).sum(), glosses.scored.sum()  # a step is one batch
        counts = counts._replace(clips=clips, target_tokens=tokens)
        return translation_loss(glosses, logits_BxLxG, counts, config.text2gloss)

    return Stage(
        "text2gloss",
        make_model,
        loss,
        reads_question=False,
        reads_video=False,
        reads_gloss=True,
        selection=LOSS,
        writes_glosses=Translation(lambda model, batch: encoded(model, *read(model, batch)), language_prompt),
        remat=config.compute.remat,
    )


def gloss_stream(batch: Batch) -> Stream:
    """Return a batch's glosses as a decoder reads them, between two blanks.

    Clips without glosses, and glosses that do not occur in train, are not scored.
    """
    count_Bx1 = batch.gloss_mask.sum(axis=1, keepdims=True)
    ids_BxL = jnp.pad(jnp.where(batch.gloss_mask, batch.gloss, BLANK), ((0, 0), (0, 2)))
    mask_BxL = (jnp.arange(ids_BxL.shape[1]) < count_Bx1 + 2) & (count_Bx1 > 0)
    stream = text_stream(ids_BxL, mask_BxL)
    return stream._replace(scored=stream.scored & (stream.labels != UNKNOWN))
