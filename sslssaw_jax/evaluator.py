"""Stage 2 at work: its scores during training, and what a run leaves behind at its end."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh

from sslssaw_jax.config.experiment import Config, ConfigError
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.evaluation.predictions import (
    Gate,
    Prediction,
    Translate,
    evaluate_predictions,
    make_translate,
    read_question_only,
    score_predictions,
    score_swapped_questions,
    translate_split,
    worst_and_best,
    write_predictions,
)
from sslssaw_jax.report.clip_pictures import draw_clip
from sslssaw_jax.report.score_table import format_table
from sslssaw_jax.stages.translate import translate_stage
from sslssaw_jax.training.checkpoints import SCORE
from sslssaw_jax.training.faults import device_memory_told
from sslssaw_jax.training.sharding import abstract_state
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.gfslt import gfslt_checkpoint, is_gfslt
from sslssaw_jax.weights.transfer import transfer
from sslssaw_jax.workdir import CHECKPOINTS, METRICS, locked, saved_steps, write_json


class Evaluator:
    """Translates with a state in training, and with the best checkpoint after it.

    Args:
        config: of the run.
        workdir: of its stage 2.
        tokenizer: of the dataset.
        mesh: the devices.
    """

    def __init__(self, config: Config, workdir: Path, tokenizer: Tokenizer, mesh: Mesh) -> None:
        self._config, self._workdir, self._tokenizer, self._mesh = config, workdir, tokenizer, mesh
        self._dataset = find_dataset(config.data.data_dir, config.data.dataset)
        self.stage = translate_stage(config, tokenizer.vocab_size, tokenizer.text_tower.vocab_size)

    @cached_property
    def _translate(self) -> Translate:
        return make_translate(self.stage, self._config, self._tokenizer, self._mesh)

    @property
    def output_dir(self) -> Path:
        """The workdir; for a dataset that nothing can be trained on, a folder there of its name."""
        data = self._config.data
        trains = data.train_split in self._dataset.splits
        return self._workdir if trains else self._workdir / data.dataset

    def dev_scores(self, state: TrainState) -> dict[str, float]:
        """BLEU-4 and ROUGE-L on dev."""
        predictions, _ = self._translations(state, self._dev)
        scores = score_predictions(predictions, self._config)
        return {key: scores[key] for key in (SCORE, "rouge_l")}

    def evaluate(self) -> None:
        """Translates dev and test with the best checkpoint, writes `metrics.json` and prints its table.

        Raises:
            CheckpointError: the workdir holds no checkpoint of this model.
            ConfigError: `question_only` names a run that cannot stand beside this one.
        """
        state, test = self._load_best(), self._config.data.test_split
        with locked(self._workdir):
            beside = self.question_only()
            scores = {
                split: evaluate_predictions(self._translate_split(state, split), self._config, question_only)
                for split, question_only in beside.items()
            }
            scores[test]["questions"] = score_swapped_questions(
                self._translate, state, self._clips(test), self._tokenizer, self._config, self._mesh
            )
            if jax.process_index() == 0:
                write_json(self.output_dir / METRICS, scores)
                print(format_table(scores))
                if (run := self._question_only_run) and beside[test] is None:
                    print(
                        f"question-only: none in {run}; this run's command with "
                        f"--config.model.inputs=question --workdir={run} trains it, and --mode=eval then "
                        "sets its scores beside these"
                    )

    def translate_test(self) -> None:
        """Writes predictions and pictures of test.

        Raises:
            CheckpointError: the workdir holds no checkpoint of this model.
        """
        state = self._load_best()
        with locked(self._workdir):
            self._translate_split(state, self._config.data.test_split)

    def translate_clips(self, clip_ids: Sequence[str]) -> None:
        """Translates these clips alone, of whichever splits; prints and draws each.

        Raises:
            ConfigError: the dataset has no such clip.
        """
        data = self._config.data
        splits = {
            split: self._clips(split)
            for split in (data.test_split, data.dev_split, data.train_split)
            if split in self._dataset.splits
        }
        known = {clip.id for clips in splits.values() for clip in clips.clips}
        if missing := sorted(set(clip_ids) - known):
            raise ConfigError(
                f"{self._dataset.folder} has no clip {', '.join(missing)} in {', '.join(splits)}"
            )
        state = self._load_best()
        for clips in splits.values():
            indices = [index for index, clip in enumerate(clips.clips) if clip.id in clip_ids]
            if not indices:
                continue
            predictions, gates = self._translations(state, clips, indices)
            if jax.process_index() == 0:
                for index, row, gate in zip(indices, predictions, gates):
                    print(f"{row.id}\n  {row.question}\n  {row.target}\n  {row.prediction}")
                    self._draw(clips, index, row, gate)
        print(f"pictures: {self.output_dir}")

    def question_only(self) -> dict[str, list[str] | None]:
        """The translations of dev and test that the run named by `question_only` has left; None without them.

        Raises:
            ConfigError: that run cannot stand beside this one.
        """
        run, splits = self._question_only_run, (self._config.data.dev_split, self._config.data.test_split)
        if not run:
            return dict.fromkeys(splits)
        return {
            split: read_question_only(run, split, self._clips(split, video=False).clips) for split in splits
        }

    @property
    def _question_only_run(self) -> Path | None:
        """The workdir of the run whose scores stand beside this one's."""
        beside = self._config.question_only
        return self._workdir.parent / beside if beside and self._reads_video else None

    def _translate_split(self, state: TrainState, split: str) -> list[Prediction]:
        """The predictions of a split, written down; the worst and the best of test are drawn."""
        clips = self._clips(split)
        predictions, gates = self._translations(state, clips)
        if jax.process_index() == 0:
            write_predictions(self.output_dir, split, predictions)
            if split == self._config.data.test_split:
                for index in worst_and_best(predictions)[: self._config.num_heatmaps]:
                    self._draw(clips, index, predictions[index], gates[index])
        return predictions

    def _draw(self, clips: ClipSource, index: int, row: Prediction, gate: Gate) -> None:
        """What the model saw of a clip, and what its gate let through where it has one."""
        if not self._reads_video:
            return
        model = self._config.model
        has_gate = model.fusion.kind == "ssaw" and model.inputs == "both"
        draw_clip(
            self.output_dir, clips[index], row, gate if has_gate else None, self._config.data.max_frames
        )

    def _translations(
        self, state: TrainState, clips: ClipSource, only: Sequence[int] | None = None
    ) -> tuple[list[Prediction], list[Gate]]:
        """See `translate_split`."""
        with device_memory_told("translate"):
            return translate_split(
                self._translate, state, clips, self._tokenizer, self._config, self._mesh, only=only
            )

    def _load_best(self) -> TrainState:
        """What translates; the members' parameters as tuples where it is an ensemble."""
        folders = [self._workdir.parent / name for name in self._config.ensemble]
        if not folders:
            return self._load_best_of(self._workdir)
        members = [self._load_best_of(folder) for folder in folders]
        return members[0].replace(  # type: ignore[attr-defined]
            params=tuple(member.eval_params for member in members),
            batch_stats=tuple(member.batch_stats for member in members),
            ema=None,
        )

    def _load_best_of(self, workdir: Path) -> TrainState:
        state = abstract_state(partial(self.stage.init, optimizer=optax.identity()), self._mesh)
        if is_gfslt(self._config.init_from) and not saved_steps(workdir / CHECKPOINTS):
            return gfslt_checkpoint(self._config, self._tokenizer, whole=True)(state)
        return transfer(
            state,
            workdir / CHECKPOINTS,
            {name: name for name in state.params},
            tokenizer=self._tokenizer.fingerprints,
            best=True,
        )

    @cached_property
    def _dev(self) -> ClipSource:
        return self._clips(self._config.data.dev_split)

    @property
    def _reads_video(self) -> bool:
        return self._config.model.inputs != "question"

    def _clips(self, split: str, *, video: bool | None = None) -> ClipSource:
        video = self._reads_video if video is None else video
        return open_clips(self._dataset, self._config.data, split, video=video)
