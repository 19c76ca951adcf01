"""What back-translation takes of trained models: a bank of signs from clips, and glosses of sentences."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.glosses import BLANK, UNKNOWN, GlossVocabulary
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.data.sign_bank import Sentences, SignBank, cut_glosses
from sslssaw_jax.evaluation.gloss_decoding import align
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.translation import translate_step
from sslssaw_jax.stages.video import embed_video
from sslssaw_jax.training.progress import show_progress
from sslssaw_jax.training.sharding import local_frames, replicated, shard_batch
from sslssaw_jax.types import Batch, TrainState


def make_bank(
    stage: Stage,
    state: TrainState,
    clips: ClipSource,
    config: Config,
    tokenizer: Tokenizer,
    glosses: GlossVocabulary,
    mesh: Mesh,
    only: Sequence[int],
) -> SignBank:
    """Return a recogniser's positions of clips, cut into their glosses.

    A clip's own glosses are aligned with its positions (Viterbi). A clip without glosses, or with too few
    positions for these, gives no pieces.

    Args:
        stage: The recogniser's stage.
        state: Its parameters.
        clips: The train split.
        config: Of the run.
        tokenizer: Of the run.
        glosses: The recogniser's vocabulary.
        mesh: The devices.
        only: Places of the clips to read.
    """
    stage_config = getattr(config, stage.name)
    read = partial(_read, graphdef=stage.eval_def, data=config.data)
    step = jax.jit(read, out_shardings=replicated(mesh))
    frames = local_frames(mesh, stage_config.frame_budget)
    batches = eval_batches(clips, tokenizer, config.data, stage_config, frames, only)
    rows: list[np.ndarray] = []
    places_Bx2, pieces, end = np.zeros((len(clips.clips), 2), int), [], 0
    for batch in show_progress(batches, len(only), f"positions of {clips.split}"):
        found = jax.device_get(step(state.eval_params, state.batch_stats, shard_batch(batch, mesh)))
        for row in np.flatnonzero(batch.valid):
            index, mask_T = batch.index[row], found[1][row]
            rows.append(found[0][row][mask_T].astype(np.float16))
            places_Bx2[index] = end, len(rows[-1])
            ids = glosses.encode(clips.clips[index].gloss)
            repeats = sum(one == other for one, other in pairwise(ids))
            if 0 < len(ids) + repeats <= len(rows[-1]):
                path_T = align(found[2][row][mask_T], ids)
                pieces += [(ids[place], end + first, count) for place, first, count in cut_glosses(path_T)]
            end += len(rows[-1])
    return SignBank(np.concatenate(rows), places_Bx2, np.array(sorted(pieces), int).reshape(-1, 3))


def _read(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, data: DataConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return a recogniser's positions [B, T, C], mask and log-probabilities."""
    model = nnx.merge(graphdef, params, batch_stats)
    video_BxTxC, mask_BxT = embed_video(model.video, batch, data, None)
    return video_BxTxC, mask_BxT, jax.nn.log_softmax(model.head(video_BxTxC, mask_BxT)[0])


def write_glosses(
    stage: Stage,
    state: TrainState,
    texts: Sequence[str],
    config: Config,
    tokenizer: Tokenizer,
    glosses: GlossVocabulary,
    mesh: Mesh,
) -> list[str]:
    """Return the glosses of sentences, as beam search writes these.

    Args:
        stage: A stage that writes glosses.
        state: Its parameters.
        texts: The sentences.
        config: Of the run.
        tokenizer: Of the run.
        glosses: The vocabulary that is written.
        mesh: The devices.
    """
    assert stage.writes_glosses is not None
    step = partial(
        translate_step,
        graphdef=stage.eval_def,
        translation=stage.writes_glosses,
        decode=replace(config.decode, max_new_tokens=config.data.max_glosses),
        language_id=BLANK,
        eos_id=BLANK,
        pad_id=UNKNOWN,  # so that no unknown gloss is written
    )
    write = jax.jit(step, out_shardings=replicated(mesh))
    source = Sentences(texts, "sentences")
    found = [""] * len(texts)
    for batch in show_progress(
        eval_batches(source, tokenizer, config.data, getattr(config, stage.name)), len(texts), "glosses"
    ):
        tokens = jax.device_get(write(state.eval_params, state.batch_stats, shard_batch(batch, mesh)).tokens)
        for row in np.flatnonzero(batch.valid):
            ids = tokens[row, 0].tolist()
            found[batch.index[row]] = glosses.decode(one for one in ids if one != UNKNOWN)
    return found
