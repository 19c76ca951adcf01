"""The programs that evaluate a stage with any state, in training and after it, and the scores of dev."""

from collections.abc import Sequence
from functools import cached_property

from jax.sharding import Mesh

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import Dataset
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.evaluation.choices import Chooser
from sslssaw_jax.evaluation.occlusion import Explainer
from sslssaw_jax.evaluation.predictions import Gate, Prediction, score_predictions
from sslssaw_jax.evaluation.split_recognizer import (
    GlossPrediction,
    SplitRecognizer,
    score_gloss_predictions,
)
from sslssaw_jax.evaluation.split_translator import SplitLoss, SplitTranslator
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.faults import explain_out_of_memory
from sslssaw_jax.types import TrainState


class Programs:
    """The programs of a stage, each compiled at its first use.

    Args:
        stage: The stage, in most methods one that translates.
        config: Of the run.
        dataset: The prepared dataset.
        tokenizer: Of the dataset.
        mesh: The devices.
        glosses: Of the run, if the stage reads glosses.
    """

    def __init__(
        self,
        stage: Stage,
        config: Config,
        dataset: Dataset,
        tokenizer: Tokenizer,
        mesh: Mesh,
        glosses: GlossVocabulary | None,
    ) -> None:
        self._stage, self._config, self._dataset = stage, config, dataset
        self._tokenizer, self._mesh, self._glosses = tokenizer, mesh, glosses

    @cached_property
    def translate(self) -> SplitTranslator:
        """Return the stage's translator of splits."""
        read = None if self._stage.reads_video else self._glosses  # what the loss reads, translation does not
        return SplitTranslator(self._stage, self._config, self._tokenizer, self._mesh, read)

    @cached_property
    def explain(self) -> Explainer:
        """Return the stage's explainer of sentences."""
        return Explainer(self._stage, self._config, self._tokenizer, self._mesh, self._dataset.facts.fps)

    @cached_property
    def _choose(self) -> Chooser:
        assert self._glosses is not None
        parts = self._stage, self._config, self._tokenizer, self._mesh
        return Chooser(*parts, self._glosses, self.translate)

    @cached_property
    def _loss(self) -> SplitLoss:
        return SplitLoss(self._stage, self._config, self._tokenizer, self._mesh, self._glosses)

    @cached_property
    def _recognize(self) -> SplitRecognizer:
        assert self._glosses is not None
        fps = self._dataset.facts.fps
        return SplitRecognizer(self._stage, self._config, self._tokenizer, self._glosses, self._mesh, fps)

    def translations(
        self, state: TrainState, clips: ClipSource, only: Sequence[int] | None = None
    ) -> tuple[list[Prediction], list[Gate | None]]:
        """Translate a split, or the clips at the places `only`."""
        with explain_out_of_memory(self._stage.name):
            return self.translate(state, clips, only)

    def glosses(self, state: TrainState, clips: ClipSource) -> list[GlossPrediction]:
        """Recognise the glosses of a split."""
        with explain_out_of_memory(self._stage.name):
            return self._recognize(state, clips)

    def dev_scores(self, state: TrainState) -> dict[str, float]:
        """Return BLEU-4, ROUGE-L, WER and choices on dev; otherwise the loss."""
        scores: dict[str, float] = {}
        if self._stage.existence is not None:
            with explain_out_of_memory(self._stage.name):
                state, scores = self._choose(state, self.dev)
        if self._stage.translation is not None:
            found = score_predictions(self.translations(state, self.dev)[0])
            scores |= {key: found[key] for key in ("bleu4", "rouge_l")}
        if self._stage.recognition is not None:
            glosses = self.glosses(state, self.dev)
            scores["wer"] = score_gloss_predictions(glosses, self._dataset.name)["wer"]
        return scores or self._loss(state, self.dev)

    @cached_property
    def dev(self) -> ClipSource:
        """Return the dev split, opened once."""
        return self.clips(self._config.data.dev_split)

    def clips(self, split: str, *, video: bool | None = None) -> ClipSource:
        """Open a split, with its frames if the stage reads them."""
        video = self._stage.reads_video if video is None else video
        return open_clips(self._dataset, self._config.data, split, video=video)
