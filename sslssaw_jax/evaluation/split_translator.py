"""A trained model over a whole split: translations, swapped questions and losses."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.evaluation import leakage
from sslssaw_jax.evaluation.predictions import Found, Gate, Prediction, Sentence, score_predictions
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.models.beam_search import IMPOSSIBLE
from sslssaw_jax.stages.step import eval_step
from sslssaw_jax.stages.translation import translate_step
from sslssaw_jax.training.progress import announce
from sslssaw_jax.types import TrainState


class SplitTranslator:
    """A translator of whole splits, compiled once.

    Args:
        runner: Of a stage that translates.
    """

    def __init__(self, runner: Runner) -> None:
        stage, tokenizer = runner.stage, runner.tokenizer
        assert stage.translation is not None
        self._runner = runner
        # only the loss reads these, translation does not
        self._glosses = None if stage.reads_video else runner.glosses
        self._translate = runner.compile(
            translate_step,
            translation=stage.translation,
            decode=runner.config.decode,
            language_id=tokenizer.language_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
        )
        self._announced = False

    def __call__(
        self, state: TrainState, clips: ClipSource, only: Sequence[int] | None = None, what: str = ""
    ) -> tuple[list[Prediction], list[Gate | None]]:
        """Return predictions and gates in the split's order; show progress.

        Args:
            state: The parameters.
            clips: The split.
            only: Places of the clips to translate; None for all.
            what: What is special about these translations, for the progress.
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
            progress: The text before the progress; without it, no progress is shown.
        """
        tokenizer, reads_question = self._runner.tokenizer, self._runner.stage.reads_question
        found: dict[int, Found] = {}
        for batch, result in self._runner.over(
            clips, self._translate, state, progress, only=only, glosses=self._glosses
        ):
            asked = batch.text_tower_texts
            for row in np.flatnonzero(batch.valid):
                by_text: dict[str, tuple[Sentence, float]] = {}
                for tokens, score, rank in zip(result.tokens[row], result.score[row], result.rank[row]):
                    text = tokenizer.decode(tokens.tolist())
                    if score > IMPOSSIBLE:  # several token sequences may spell the same text
                        by_text.setdefault(text, (Sentence(text, float(score)), float(rank)))
                sentences, ranks = map(list, zip(*by_text.values()))
                gate = None
                if result.gate is not None:
                    ids = asked.question[row][asked.question_mask[row] & reads_question].tolist()
                    gate = Gate(tokenizer.text_tower.pieces(ids), result.gate[row][result.mask[row]])
                found[int(batch.index[row])] = Found(sentences, gate, ranks)
        return dict(sorted(found.items()))


class SplitLoss:
    """A stage's loss on a split, compiled once."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._step = runner.compile(eval_step, loss=runner.stage.loss)

    def __call__(self, state: TrainState, clips: ClipSource) -> dict[str, float]:
        """Return means over batches, weighted by their numbers of clips."""
        batches = self._runner.over(
            clips, self._step, state, f"loss on {clips.split}", glosses=self._runner.glosses
        )
        parts = [(int(batch.valid.sum()), values) for batch, values in batches]
        total = sum(count for count, _ in parts)
        return {
            key: sum(count * float(values[key]) for count, values in parts) / total for key in parts[0][1]
        }


def score_swapped_questions(
    translate: SplitTranslator, state: TrainState, clips: ClipSource
) -> dict[str, dict[str, Any]]:
    """Score a split with the questions of other clips, and without questions."""
    scores = {}
    for name, questions in leakage.swapped_questions([clip.question for clip in clips.clips]).items():
        predictions, _ = translate(state, clips.asking(questions), what=f", questions {name}")
        scores[name] = score_predictions(predictions)
    return scores
