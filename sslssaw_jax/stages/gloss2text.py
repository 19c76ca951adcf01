"""Gloss2Text of MMTLB (Chen et al. 2022): mBART learns to write a sentence from its glosses.

A gloss's embedding starts as the mean of mBART's embeddings of its lower-case pieces; `</s>` and the language
are mBART's own.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.config.stages import SentenceConfig
from sslssaw_jax.data.glosses import SPECIALS
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart_writer import MBartWriter, Rewriter
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, Translation
from sslssaw_jax.stages.translation import language_prompt
from sslssaw_jax.stages.video import split_key
from sslssaw_jax.types import Batch, Metrics

GLOSS_EMBEDDING, ENDING = ("source_embedding", "embedding"), ("ending",)
_EMBEDDING = ("embedding", "embed", "embedding")
_MOST_PIECES = 1000  # of a gloss


def gloss2text_stage(config: Config, inputs: StageInputs) -> Stage:
    """Make the stage of `config.model.mbart`, trained by `config.gloss2text`."""

    def make_model(key: jax.Array) -> Rewriter:
        sizes, dtype = (inputs.vocab_size, inputs.glosses().size), compute_dtype(config.compute.dtype)
        return Rewriter(config.model.mbart, *sizes, dtype=dtype, rngs=Keys(key))

    def read(model: Rewriter, batch: Batch, rngs: Any = None) -> tuple[jax.Array, jax.Array]:
        return model.read_ids(batch.gloss, batch.gloss_mask, batch.valid, rngs)

    def loss(
        model: Rewriter, batch: Batch, key: jax.Array | None, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        rngs = split_key(key)[1]
        return sentence_loss(model, *read(model, batch, rngs), batch, counts, config.gloss2text, rngs)

    def start(value: Callable[[Any], np.ndarray], tokenizer: Tokenizer) -> Iterable[tuple[Any, Any]]:
        table_VxD = value(_EMBEDDING)
        yield GLOSS_EMBEDDING, embed_glosses(inputs.glosses().glosses, table_VxD, tokenizer)
        yield ENDING, table_VxD[[tokenizer.eos_id, tokenizer.language_id]]

    return Stage(
        "gloss2text",
        make_model,
        loss,
        reads_question=False,
        reads_video=False,
        reads_gloss=True,
        starts_pretrained=True,
        derived=start,
        translation=Translation(lambda model, batch: encoded(model, *read(model, batch)), language_prompt),
        remat=config.compute.remat,
    )


def embed_glosses(glosses: Sequence[str], table_VxD: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """Return the mean embedding of each gloss's pieces, after special rows.

    The blank has zeros, and an unknown gloss the embedding of an unknown piece.
    """
    special_SxD = np.zeros((len(SPECIALS), table_VxD.shape[1]), table_VxD.dtype)
    special_SxD[1] = table_VxD[tokenizer.unk_id]
    pieces = [tokenizer.encode(gloss.lower(), _MOST_PIECES)[:-2] for gloss in glosses]
    return np.stack([*special_SxD, *(table_VxD[ids or [tokenizer.unk_id]].mean(axis=0) for ids in pieces)])


def sentence_loss(
    model: MBartWriter,
    states_BxTxD: jax.Array,
    mask_BxT: jax.Array,
    batch: Batch,
    counts: LossCounts,
    config: SentenceConfig,
    rngs: Any,
) -> tuple[jax.Array, Metrics]:
    """Return the loss of a batch's sentences, and its parts."""
    target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
    logits_BxLxV = model.write(target, states_BxTxD, mask_BxT, rngs)
    return translation_loss(target, logits_BxLxV, counts, config)


def encoded(model: MBartWriter, states_BxTxD: jax.Array, mask_BxT: jax.Array) -> EncodedModel:
    """Return what beam search needs from an encoded batch."""
    return EncodedModel(model.decoder, model.embedding, model.embedding.logits, states_BxTxD, mask_BxT)
