"""The evaluation of a run: the results that a run leaves at its end."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from sslssaw_jax.config.checks import ConfigError, require
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.glosses import has_glosses, require_glosses
from sslssaw_jax.data.sign_bank import SignBank
from sslssaw_jax.errors import printable
from sslssaw_jax.evaluation.choices import require_choices
from sslssaw_jax.evaluation.extraction import write_features
from sslssaw_jax.evaluation.output_folder import output_folder, remove_other_results
from sslssaw_jax.evaluation.predictions import (
    Gate,
    Prediction,
    evaluate_predictions,
    read_question_only,
    worst_and_best,
    write_predictions,
)
from sslssaw_jax.evaluation.programs import Programs
from sslssaw_jax.evaluation.sign_bank import make_bank, write_glosses
from sslssaw_jax.evaluation.split_recognizer import (
    score_gloss_predictions,
    write_gloss_predictions,
)
from sslssaw_jax.evaluation.split_translator import score_swapped_questions
from sslssaw_jax.evaluation.understanding import UNDERSTANDING, find_understanding
from sslssaw_jax.evaluation.wer import GLOSS_SCORES
from sslssaw_jax.report.clip_pictures import draw_clip
from sslssaw_jax.report.score_table import format_gloss_table, format_table
from sslssaw_jax.training.progress import announce
from sslssaw_jax.training.sharding import with_shardings
from sslssaw_jax.training.stage_folders import announce_unfinished
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.gfslt import gfslt_checkpoint
from sslssaw_jax.weights.transfer import trained_modules
from sslssaw_jax.workdir import CHECKPOINTS, EVALUATED, METRICS, locked, saved_steps, write_json


class Evaluator:
    """An evaluator of a stage's best checkpoint, which leaves its files in the workdir.

    Args:
        programs: Of the stage; most methods need one that translates.
        workdir: Of the stage.
        notes: Of the run: configuration, tokenizer and dataset.
    """

    def __init__(self, programs: Programs, workdir: Path, notes: dict[str, Any]) -> None:
        self.programs, self._workdir, self._notes = programs, workdir, notes
        self._runner, self._dataset = programs.runner, programs.dataset
        self._stage, self._config = programs.runner.stage, programs.runner.config

    @property
    def models(self) -> list[Path]:
        """Return the workdirs of the models that translate."""
        ensemble = [self._workdir.parent / name for name in self._config.evaluation.ensemble]
        return ensemble or [self._workdir]

    @property
    def output_dir(self) -> Path:
        """Return the folder of the evaluation's files."""
        return output_folder(self._workdir, self._config, self._dataset, self._notes)

    def evaluate(self) -> None:
        """Translate dev and test with the best checkpoint, write and print metrics.

        Raises:
            CheckpointError: The workdir holds no checkpoint of this model.
            ConfigError: `question_only_run` names a run that cannot be compared with this one.
        """
        state, test = self._load_best(), self._config.data.test_split
        language = self._dataset.language
        with locked(self._workdir):
            self._note_settings()
            announce(f"{self._stage.name}: evaluating the best checkpoint in {self._workdir}")
            baselines = self.question_only_translations()
            scores: dict[str, dict[str, Any]] = {}
            for split, question_only in baselines.items():
                predictions = self._translate_split(state, split)
                announce(f"scores, intervals and p-values of {split} ...")
                name = self._dataset.name
                scores[split] = evaluate_predictions(predictions, name, language, question_only)
                if split == self._config.data.dev_split and self._stage.reads_video:
                    scores[split][UNDERSTANDING] = self._find_understanding(state, predictions)
                if self._stage.recognition and not self._config.evaluation.ensemble:
                    scores[split] |= self._recognize_split(state, split)
            scores[test]["questions"] = {}
            reads_both = self._stage.reads_video and self._stage.reads_question
            if self._config.evaluation.swap_questions and reads_both:
                clips = self.programs.clips(test)
                scores[test]["questions"] = score_swapped_questions(self.programs.translate, state, clips)
            write_json(self.output_dir / METRICS, scores)
            print(format_table(scores))
            print(format_gloss_table(scores), end="")
            if (run := self._question_only_run) and baselines[test] is None:
                print(f"question only: none in {run}; {self._how_to_train(run)}")

    def evaluate_glosses(self) -> None:
        """Recognise dev and test with the best checkpoint; write and print scores.

        Raises:
            CheckpointError: The workdir holds no checkpoint of this model.
            ConfigError: An ensemble was asked for.
            DatasetError: A split has no glosses.
        """
        if self._config.evaluation.ensemble:
            raise ConfigError(
                "config.evaluation.ensemble is for translating together; recognisers are evaluated alone: "
                "clear it with --config.evaluation.ensemble="
            )
        splits = self._config.data.dev_split, self._config.data.test_split
        for split in splits:
            require_glosses(self.programs.clips(split, video=False))
        state = self._load_best()
        with locked(self._workdir):
            self._note_settings()
            announce(f"{self._stage.name}: evaluating the best checkpoint in {self._workdir}")
            scores = {split: self._recognize_split(state, split) for split in splits}
            write_json(self.output_dir / METRICS, scores)
            print(format_gloss_table(scores), end="")

    def _recognize_split(self, state: TrainState, split: str) -> dict[str, Any]:
        """Recognise a split and write its glosses; return scores, if any."""
        clips = self.programs.clips(split)
        predictions = self.programs.recognize(state, clips)
        write_gloss_predictions(self.output_dir, split, predictions)
        return (
            {GLOSS_SCORES: score_gloss_predictions(predictions, self._dataset.name)}
            if has_glosses(clips)
            else {}
        )

    def translate_test(self) -> None:
        """Write predictions and pictures of test.

        Raises:
            CheckpointError: The workdir holds no checkpoint of this model.
        """
        state = self._load_best()
        with locked(self._workdir):
            self._note_settings()
            self._translate_split(state, self._config.data.test_split)

    def translate_clips(self, clip_ids: Sequence[str]) -> None:
        """Translate only these clips, from any split; print and draw each.

        Raises:
            ConfigError: The dataset has no such clip.
        """
        data = self._config.data
        names = (data.test_split, data.dev_split, data.train_split)
        splits = {split: self.programs.clips(split) for split in names if split in self._dataset.splits}
        known = {clip.id for clips in splits.values() for clip in clips.clips}
        if missing := sorted(set(clip_ids) - known):
            raise ConfigError(
                f"{self._dataset.folder} has no clip {', '.join(missing)} in {', '.join(splits)}; there is "
                f"{min(known)}, and {self._dataset.clips_file(next(iter(splits)))} lists more"
            )
        state = self._load_best()
        self._note_settings()
        for clips in splits.values():
            indices = [index for index, clip in enumerate(clips.clips) if clip.id in clip_ids]
            if not indices:
                continue
            predictions, gates = self.programs.translate(state, clips, indices)
            for index, row, gate in zip(indices, predictions, gates):
                print(printable(f"{row.id}\n  {row.question}\n  {row.target}\n  {row.prediction}"))
                self._draw(state, clips, index, row, gate)
        if self._draws:
            print(f"pictures: {self.output_dir}")

    def extract(self, name: str, *, overwrite: bool) -> None:
        """Write all clips' features, by CNN or S3D; continue after a kill.

        Raises:
            DatasetError: The set exists.
            ConfigError: The model has neither, or there are several processes.
        """
        require(jax.process_count() == 1, "--mode=extract is for a single process")
        ensemble = self._config.evaluation.ensemble
        require(
            not ensemble, f"config.evaluation.ensemble is {ensemble}: features come from one model: clear it"
        )
        state, run = self._load_best(), self._workdir.name
        written = write_features(self._runner, state, self._dataset, name, run=run, overwrite=overwrite)
        print(f"{written}: --config.data.features={name}")

    def make_bank(self, clips: ClipSource, only: Sequence[int]) -> SignBank:
        """Return the positions of clips by the best recogniser; see `make_bank`."""
        return make_bank(self._runner, self._load_best(), clips, only)

    def write_glosses(self, texts: Sequence[str]) -> list[str]:
        """Return the glosses that the best model writes for sentences."""
        return write_glosses(self._runner, self._load_best(), texts)

    def question_only_translations(self) -> dict[str, list[str] | None]:
        """Return the question-only run's translations of dev and test, if any.

        Raises:
            ConfigError: That run cannot be compared with this one.
        """
        run, splits = self._question_only_run, (self._config.data.dev_split, self._config.data.test_split)
        if run is None:
            return dict.fromkeys(splits)
        return {
            split: read_question_only(run, split, self.programs.clips(split, video=False).clips)
            for split in splits
        }

    def _note_settings(self) -> None:
        """Keep the notes with the results where no training keeps them."""
        if self.output_dir != self._workdir or not saved_steps(self._workdir / CHECKPOINTS):
            remove_other_results(self.output_dir, self._notes)
            write_json(self.output_dir / EVALUATED, self._notes)

    @property
    def _question_only_run(self) -> Path | None:
        run = self._config.evaluation.question_only_run
        return self._workdir.parent / run if run and self._stage.reads_video else None

    def _how_to_train(self, question_only: Path) -> str:
        """Return how to train the question-only run that is missing."""
        name, base = self._config.name, question_only.name.removesuffix("_question")
        if self._dataset.name == "custom_qa":  # configurations name the run of their own dataset
            return "docs/own_data.md says how to train one"
        if base != question_only.name and f"{name}_".startswith(f"{base}_"):  # names of configs/
            own = f"--config.seed={self._config.seed} --config.data.data_dir={self._config.data.data_dir}"
            file, flags = f"configs/ablations.py:{base}/question", f"--workdir={question_only} {own}"
            how = f"`python run.py --config={file} {flags}` trains it"
        else:
            of = (
                "this run's command"
                if self._config.system == "ssl_ssaw"
                else "the command of a run of ssl_ssaw"
            )
            how = f"{of} with --config.model.inputs=question --workdir={question_only} trains it"
        return f"{how}; then --mode=eval of this run compares the two"

    @property
    def _draws(self) -> bool:
        """Return whether clips are drawn; features show nothing."""
        return self._stage.reads_video and not self._config.data.features

    def _translate_split(self, state: TrainState, split: str) -> list[Prediction]:
        """Translate a split, write its predictions and draw chosen clips of test."""
        clips = self.programs.clips(split)
        predictions, gates = self.programs.translate(state, clips)
        write_predictions(self.output_dir, split, predictions)
        if split == self._config.data.test_split:
            for index in worst_and_best(predictions)[: self._config.evaluation.num_heatmaps]:
                self._draw(state, clips, index, predictions[index], gates[index])
        return predictions

    def _find_understanding(self, state: TrainState, predictions: Sequence[Prediction]) -> dict[str, Any]:
        black, _ = self.programs.translate(state, self.programs.dev.without_video(), what=", without video")
        data = self._config.data
        known = {data.train_split, data.dev_split} & {*self._dataset.splits}
        num_frames = [
            clip.num_frames for split in known for clip in self.programs.clips(split, video=False).clips
        ]
        return dataclasses.asdict(find_understanding(predictions, black, num_frames))

    def _draw(
        self, state: TrainState, clips: ClipSource, index: int, row: Prediction, gate: Gate | None
    ) -> None:
        if not self._draws:
            return
        explanation = self.programs.explain(state, clips, index, row.prediction)  # by all processes together
        if jax.process_index() == 0:
            shown = gate if self._stage.reads_question else None  # otherwise nothing to weigh against
            draw_clip(self.output_dir, clips[index], row, shown, explanation, self._config.data.max_frames)

    def _load_best(self) -> TrainState:
        """Load the best checkpoint; an ensemble's parameters are tuples over its members."""
        members = [self._load_best_of(folder) for folder in self.models]
        if not self._config.evaluation.ensemble:
            return members[0]
        return members[0].replace(  # type: ignore[attr-defined]
            params=tuple(member.eval_params for member in members),
            batch_stats=tuple(member.batch_stats for member in members),
            ema=None,
        )

    def _load_best_of(self, workdir: Path) -> TrainState:
        state = with_shardings(self._stage.abstract_state(), self._runner.mesh)
        if self._stage.starts_from_file and not saved_steps(workdir / CHECKPOINTS):
            return gfslt_checkpoint(self._config, self._runner.tokenizer, whole=True)(state)
        require_choices(self._stage, workdir)
        announce_unfinished(workdir)
        tokenizer, best_by = self._runner.tokenizer.fingerprints, self._stage.selection
        load = trained_modules(workdir / CHECKPOINTS, tokenizer=tokenizer, best_by=best_by)
        return load(state)
