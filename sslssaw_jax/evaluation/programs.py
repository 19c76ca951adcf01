"""The programs that evaluate a stage with any state, during and after training, and the scores on dev."""

from functools import cached_property

from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import Dataset
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.evaluation.choices import Chooser
from sslssaw_jax.evaluation.occlusion import Explainer
from sslssaw_jax.evaluation.predictions import score_predictions
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.evaluation.split_recognizer import (
    SplitRecognizer,
    score_gloss_predictions,
)
from sslssaw_jax.evaluation.split_translator import SplitLoss, SplitTranslator
from sslssaw_jax.types import TrainState


class Programs:
    """The programs of a stage, each compiled on first use.

    Args:
        runner: Of the stage, in most methods one that translates.
        dataset: The prepared dataset.
    """

    def __init__(self, runner: Runner, dataset: Dataset) -> None:
        self.runner, self.dataset = runner, dataset

    @cached_property
    def translate(self) -> SplitTranslator:
        """Return the stage's translator of splits."""
        return SplitTranslator(self.runner)

    @cached_property
    def explain(self) -> Explainer:
        """Return the stage's explainer of sentences."""
        return Explainer(self.runner, self.dataset.facts.fps)

    @cached_property
    def _choose(self) -> Chooser:
        return Chooser(self.runner, self.translate)

    @cached_property
    def _loss(self) -> SplitLoss:
        return SplitLoss(self.runner)

    @cached_property
    def recognize(self) -> SplitRecognizer:
        """Return the stage's recogniser of splits."""
        return SplitRecognizer(self.runner, self.dataset.facts.fps)

    def dev_scores(self, state: TrainState) -> dict[str, float]:
        """Return BLEU-4, ROUGE-L, WER and choices on dev; otherwise the loss."""
        stage, scores = self.runner.stage, dict[str, float]()
        if stage.existence is not None:
            state, scores = self._choose(state, self.dev)
        if stage.translation is not None:
            found = score_predictions(self.translate(state, self.dev)[0])
            scores |= {key: found[key] for key in ("bleu4", "rouge_l")}
        if stage.recognition is not None:
            glosses = self.recognize(state, self.dev)
            scores["wer"] = score_gloss_predictions(glosses, self.dataset.name)["wer"]
        return scores or self._loss(state, self.dev)

    @cached_property
    def dev(self) -> ClipSource:
        """Return the dev split, opened once."""
        return self.clips(self.runner.config.data.dev_split)

    def clips(self, split: str, *, video: bool | None = None) -> ClipSource:
        """Open a split, with its frames if the stage reads them."""
        video = self.runner.stage.reads_video if video is None else video
        return open_clips(self.dataset, self.runner.config.data, split, video=video)
