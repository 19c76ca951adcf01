"""A trained model over a whole split: translations, swapped questions and losses."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.evaluation import leakage
from sslssaw_jax.evaluation.predictions import Found, Gate, Prediction, Sentence, score_predictions
from sslssaw_jax.models.beam_search import IMPOSSIBLE
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.step import eval_step
from sslssaw_jax.stages.translation import translate_step
from sslssaw_jax.training.progress import announce, show_progress
from sslssaw_jax.training.sharding import local_frames, replicated, shard_batch
from sslssaw_jax.types import TrainState


class SplitTranslator:
    """A translator of whole splits, compiled once.

    Args:
        stage: A stage that translates.
        config: Of the run.
        tokenizer: Of the dataset.
        mesh: The devices.
        glosses: The vocabulary of a stage that translates from glosses.
    """

    def __init__(
        self,
        stage: Stage,
        config: Config,
        tokenizer: Tokenizer,
        mesh: Mesh,
        glosses: GlossVocabulary | None = None,
    ) -> None:
        assert stage.translation is not None
        self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
        self._glosses, self._reads_question = glosses, stage.reads_question
        self._stage_config = getattr(config, stage.name)
        step = partial(
            translate_step,
            graphdef=stage.eval_def,
            translation=stage.translation,
            decode=config.decode,
            language_id=tokenizer.language_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        )
        self._translate = jax.jit(step, out_shardings=replicated(mesh))
        self._announced = False

    def __call__(
        self, state: TrainState, clips: ClipSource, only: Sequence[int] | None = None, what: str = ""
    ) -> tuple[list[Prediction], list[Gate | None]]:
        """Return predictions and gates in the split's order; show progress.

        Args:
            state: The parameters.
            clips: The split.
            only: Places of the clips to translate; None for all.
            what: Says in the progress what is special about these translations.
        """
        if not self._announced:
            announce("compiling the translation ...")
            self._announced = True
        found = self.search(state, clips, only, f"translating {clips.split}{what}")
        asked = [clips.clips[index] for index in found]
        best = [one.sentences[0] for one in found.values()]
        predictions = [
            Prediction(clip.id, clip.question, clip.target, sentence.text, sentence.score)
            for clip, sentence in zip(asked, best)
        ]
        return predictions, [one.gate for one in found.values()]

    def search(
        self, state: TrainState, clips: ClipSource, only: Sequence[int] | None = None, progress: str = ""
    ) -> dict[int, Found]:
        """Return all sentences found for each clip, by its index in order.

        Args:
            state: The parameters.
            clips: The split.
            only: Places of the clips to translate; None for all.
            progress: Stands before the progress; without it, none is shown.
        """
        tokenizer, mesh = self._tokenizer, self._mesh
        frames = local_frames(mesh, self._stage_config.frame_budget)
        batches = eval_batches(
            clips, tokenizer, self._config.data, self._stage_config, frames, only, self._glosses
        )
        num_clips = len(clips.clips if only is None else only)
        found: dict[int, Found] = {}
        for batch in show_progress(batches, num_clips, progress) if progress else batches:
            on_devices = shard_batch(batch, mesh)
            result = jax.device_get(self._translate(state.eval_params, state.batch_stats, on_devices))
            asked = batch.text_tower_texts
            for row in np.flatnonzero(batch.valid):
                by_text: dict[str, tuple[Sentence, float]] = {}
                for tokens, score, rank in zip(result.tokens[row], result.score[row], result.rank[row]):
                    text = tokenizer.decode(tokens.tolist())
                    if score > IMPOSSIBLE:  # several sequences of tokens may spell one text
                        by_text.setdefault(text, (Sentence(text, float(score)), float(rank)))
                sentences, ranks = map(list, zip(*by_text.values()))
                gate = None
                if result.gate is not None:
                    ids = asked.question[row][asked.question_mask[row] & self._reads_question].tolist()
                    gate = Gate(tokenizer.text_tower.pieces(ids), result.gate[row][result.mask[row]])
                found[int(batch.index[row])] = Found(sentences, gate, ranks)
        return dict(sorted(found.items()))


class SplitLoss:
    """A stage's loss on a split, compiled once.

    Arguments as for `SplitTranslator`, and the glosses of a stage that reads them.
    """

    def __init__(
        self,
        stage: Stage,
        config: Config,
        tokenizer: Tokenizer,
        mesh: Mesh,
        glosses: GlossVocabulary | None = None,
    ) -> None:
        self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
        self._glosses = glosses
        self._stage_config = getattr(config, stage.name)
        step = partial(eval_step, graphdef=stage.eval_def, loss=stage.loss)
        self._step = jax.jit(step, out_shardings=replicated(mesh))

    def __call__(self, state: TrainState, clips: ClipSource) -> dict[str, float]:
        """Return means over batches, which count as their clips."""
        frames = local_frames(self._mesh, self._stage_config.frame_budget)
        parts = []
        batches = eval_batches(
            clips, self._tokenizer, self._config.data, self._stage_config, frames, glosses=self._glosses
        )
        for batch in show_progress(batches, len(clips.clips), f"loss on {clips.split}"):
            values = self._step(state.eval_params, state.batch_stats, shard_batch(batch, self._mesh))
            parts.append((int(batch.valid.sum()), jax.device_get(values)))
        total = sum(count for count, _ in parts)
        return {
            key: sum(count * float(values[key]) for count, values in parts) / total for key in parts[0][1]
        }


def score_swapped_questions(
    translate: SplitTranslator, state: TrainState, clips: ClipSource
) -> dict[str, dict[str, Any]]:
    """Score a split with the questions of other clips, and with none."""
    scores = {}
    for name, questions in leakage.swapped_questions([clip.question for clip in clips.clips]).items():
        predictions, _ = translate(state, clips.asking(questions), what=f", questions {name}")
        scores[name] = score_predictions(predictions)
    return scores
