"""What back-translation takes from trained models: a bank of signs from clips, and glosses of sentences."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
from flax import nnx

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.glosses import BLANK, UNKNOWN
from sslssaw_jax.data.sign_bank import Sentences, SignBank, cut_glosses
from sslssaw_jax.evaluation.gloss_decoding import align
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.stages.translation import translate_step
from sslssaw_jax.stages.video import embed_video
from sslssaw_jax.types import Batch, TrainState


def make_bank(runner: Runner, state: TrainState, clips: ClipSource, only: Sequence[int]) -> SignBank:
    """Return a recogniser's positions of clips, cut into their glosses.

    A clip's own glosses are aligned with its positions (Viterbi). A clip without glosses, or with too few
    positions for them, gives no pieces.

    Args:
        runner: Of the recogniser's stage.
        state: Its parameters.
        clips: The train split.
        only: Places of the clips to read.
    """
    glosses, read = runner.glosses, runner.compile(_read, data=runner.config.data)
    assert glosses is not None
    rows: list[np.ndarray] = []
    places_Bx2, pieces, end = np.zeros((len(clips.clips), 2), int), [], 0
    for batch, found in runner.over(clips, read, state, f"positions of {clips.split}", only=only):
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


def write_glosses(runner: Runner, state: TrainState, texts: Sequence[str]) -> list[str]:
    """Return the glosses of sentences, as written by beam search.

    Args:
        runner: Of a stage that writes glosses.
        state: Its parameters.
        texts: The sentences.
    """
    config, glosses = runner.config, runner.glosses
    assert runner.stage.writes_glosses is not None and glosses is not None
    write = runner.compile(
        translate_step,
        translation=runner.stage.writes_glosses,
        decode=replace(config.decode, max_new_tokens=config.data.max_glosses),
        language_id=BLANK,
        eos_id=BLANK,
        pad_id=UNKNOWN,  # so that no unknown gloss is written
    )
    found = [""] * len(texts)
    for batch, result in runner.over(Sentences(texts, "sentences"), write, state, "glosses"):
        for row in np.flatnonzero(batch.valid):
            ids = result.tokens[row, 0].tolist()
            found[batch.index[row]] = glosses.decode(one for one in ids if one != UNKNOWN)
    return found
