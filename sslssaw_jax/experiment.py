"""An experiment from its configuration: which stages run, in which folders, and what is left behind."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh

from sslssaw_jax.checkpointing import SCORE, saved_steps
from sslssaw_jax.config import Config, ConfigError, StageConfig, to_dict
from sslssaw_jax.data.cache import open_clips
from sslssaw_jax.data.pipeline import train_batches
from sslssaw_jax.data.source import ClipSource, newest_version
from sslssaw_jax.data.tokenizer import Tokenizer, load_tokenizer
from sslssaw_jax.evaluation import (
    Gate,
    Prediction,
    Translate,
    draw_clip,
    evaluate_predictions,
    make_translate,
    mean_loss,
    read_question_only,
    score_predictions,
    score_swapped_questions,
    translate_split,
    worst_and_best,
    write_predictions,
)
from sslssaw_jax.faults import device_memory_told
from sslssaw_jax.logs import write_json
from sslssaw_jax.report import write_report
from sslssaw_jax.score_table import format_table
from sslssaw_jax.sharding import abstract_state, make_mesh, own_frames
from sslssaw_jax.stages.pretrain import pretrain_stage
from sslssaw_jax.stages.step import Stage
from sslssaw_jax.stages.translate import translate_stage
from sslssaw_jax.stages.warm_start import warm_start_stage
from sslssaw_jax.stopping import StopRequest
from sslssaw_jax.train import CHECKPOINTS, run_differences, train
from sslssaw_jax.transfer import CNN_ALONE, STAGE_2_OF_STAGE_1, transfer
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.cnn import pretrained_cnn
from sslssaw_jax.weights.gfslt import gfslt_checkpoint, is_gfslt
from sslssaw_jax.weights.mbart import pretrained_mbart, weights_folder
from sslssaw_jax.weights.mbert import bert_tokenizer, pretrained_mbert
from sslssaw_jax.workdir import FINISHED, locked


class Experiment:
    """What all stages of one experiment share: configuration, devices, tokenizer and clips.

    Raises:
        DatasetError: the dataset has not been prepared.
        TokenizerError: `data.tokenizer` is no mBART tokenizer of `data.language`.
        WeightsError: `data.tokenizer` and `model.mbart.weights` are one folder, and it is absent; or
            `model.mbert.weights`, which holds mBERT's tokenizer, is.
        ConfigError: the mesh does not fit the devices.
    """

    def __init__(self, config: Config, workdir: Path) -> None:
        self.config, self.workdir = config, workdir
        self.stop = StopRequest()
        _cache_compilation(workdir.parent, config.compilation_cache)
        self.mesh: Mesh = make_mesh(config.mesh)
        self._dataset = newest_version(Path(config.data.data_dir), config.data.dataset)
        folder: str | Path = config.data.tokenizer or self._dataset / "tokenizer"
        if folder == config.model.mbart.weights:  # one folder for both: where it is absent, both are
            folder = weights_folder(config)
        reader = bert_tokenizer(config, self.train_clips) if config.model.text == "mbert" else None
        self.tokenizer: Tokenizer = load_tokenizer(folder, config.data.language, reader)

    def run(self, mode: str, clip_ids: Sequence[str] = ()) -> None:
        """`train` trains what is missing and evaluates; `eval` evaluates; `translate` translates test.

        With `clip_ids`, `translate` translates and draws no others than those clips, of any split.

        Raises:
            Stopped: by a signal; starting again goes on.
            WorkdirError: another run writes into the workdir.
        """
        with self.stop:
            self._run(mode, clip_ids)

    def _run(self, mode: str, clip_ids: Sequence[str]) -> None:
        stage_config = getattr(self.config, self.config.stage)
        if mode == "train" and self.config.ensemble:
            raise ConfigError("ensemble names runs that are trained already: use --mode=eval or translate")
        if mode == "train" and not stage_config.epochs:
            raise ConfigError(f"{self.config.stage}.epochs is 0: there is nothing to train")
        if clip_ids and mode != "translate":
            raise ConfigError(f"--mode={mode} is about all clips: use --clip with --mode=translate")
        if self.config.stage == "pretrain":
            if mode != "train":
                raise ConfigError(f"--mode={mode} translates, and stage 1 cannot: use a config of stage 2")
            self.pretrain(self.workdir)
        elif clip_ids:
            self._translate_clips(clip_ids)
            return
        elif mode == "translate":
            state = self._load_best()
            with locked(self.workdir):
                self._translate(state, self.config.data.test_split)
        else:
            if mode == "train":
                self._question_only()  # what cannot stand beside the scores is told before the training
                self.train_translator()
            self.report()
        if jax.process_index() == 0:
            print(f"report: {write_report(self._output_dir)}")

    def warm_start(self, workdir: Path) -> None:
        """Trains the CNN on isolated signs."""
        clips = self._clips(self.config.data.isolated_split)
        stage = warm_start_stage(self.config, [clip.gloss for clip in clips.clips])
        self._train(stage, self.config.warm_start, clips, workdir)

    def pretrain(self, workdir: Path) -> None:
        """Stage 1, from pretrained weights and the warm start where the configuration has them."""
        stage = pretrain_stage(self.config, self.tokenizer.vocab_size, self.tokenizer.reader.vocab_size)
        dev = self._clips(self.config.data.dev_split)
        evaluate = mean_loss(stage, dev, self.tokenizer, self.config, self.mesh)
        start = self._pretrained(workdir)
        self._train(stage, self.config.pretrain, self.train_clips, workdir, start=start, evaluate=evaluate)

    def train_translator(self) -> None:
        """Stage 2, from stage 1 (trained first where `init_from` holds none that is finished)."""
        config = self.config
        begun = bool(saved_steps(self.workdir / CHECKPOINTS))  # goes on, and needs no stage 1
        start = None if begun else self._start_of_translator()
        stage, translate = self._translator
        train, dev = (
            self._clips(split, self._reads_video)
            for split in (config.data.train_split, config.data.dev_split)
        )

        def evaluate(state: TrainState) -> dict[str, float]:
            predictions, _ = translate_split(translate, state, dev, self.tokenizer, config, self.mesh)
            scores = score_predictions(predictions, config)
            return {key: scores[key] for key in (SCORE, "rouge_l")}

        self._train(stage, config.translate, train, self.workdir, start=start, evaluate=evaluate)

    def report(self) -> None:
        """Translates dev and test with the best checkpoint, writes `metrics.json` and prints its table.

        Raises:
            CheckpointError: the workdir holds no checkpoint of this model.
            ConfigError: `question_only` names a run that cannot stand beside this one.
        """
        state, test = self._load_best(), self.config.data.test_split
        with locked(self.workdir):
            beside = self._question_only()
            scores = {
                split: evaluate_predictions(self._translate(state, split), self.config, question_only)
                for split, question_only in beside.items()
            }
            scores[test]["questions"] = score_swapped_questions(
                self._translator[1],
                state,
                self._clips(test, self._reads_video),
                self.tokenizer,
                self.config,
                self.mesh,
            )
            if jax.process_index() == 0:
                write_json(self._output_dir / "metrics.json", scores)
                print(format_table(scores))
                if (run := self._question_only_run) and beside[test] is None:
                    print(
                        f"question-only: none in {run}; this run's command with "
                        f"--config.model.inputs=question --workdir={run} trains it, and --mode=eval then "
                        "sets its scores beside these"
                    )

    @property
    def _question_only_run(self) -> Path | None:
        """The workdir of the run whose scores stand beside this one's."""
        beside = self.config.question_only
        return self.workdir.parent / beside if beside and self._reads_video else None

    def _question_only(self) -> dict[str, list[str] | None]:
        """Its translations of dev and test; None where it has left none."""
        run, splits = self._question_only_run, (self.config.data.dev_split, self.config.data.test_split)
        if not run:
            return dict.fromkeys(splits)
        return {split: read_question_only(run, split, self._clips(split, False).clips) for split in splits}

    def _translate(self, state: TrainState, split: str) -> list[Prediction]:
        """The predictions of a split, written down; the worst and the best of test are drawn."""
        clips = self._clips(split, self._reads_video)
        predictions, gates = self._translations(state, clips)
        if jax.process_index() == 0:
            write_predictions(self._output_dir, split, predictions)
            if split == self.config.data.test_split:
                for index in worst_and_best(predictions)[: self.config.num_heatmaps]:
                    self._draw(clips, index, predictions[index], gates[index])
        return predictions

    def _translate_clips(self, clip_ids: Sequence[str]) -> None:
        """Translates these clips alone, of whichever splits; prints and draws each.

        Raises:
            ConfigError: the dataset has no such clip.
        """
        data = self.config.data
        splits = {
            split: self._clips(split, self._reads_video)
            for split in (data.test_split, data.dev_split, data.train_split)
            if (self._dataset / f"clips.{split}.jsonl").exists()
        }
        known = {clip.id for clips in splits.values() for clip in clips.clips}
        if missing := sorted(set(clip_ids) - known):
            raise ConfigError(f"{self._dataset} has no clip {', '.join(missing)} in {', '.join(splits)}")
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
        print(f"pictures: {self._output_dir}")

    def _draw(self, clips: ClipSource, index: int, row: Prediction, gate: Gate) -> None:
        """What the model saw of a clip, and what its gate let through where it has one."""
        if not self._reads_video:
            return
        model = self.config.model
        has_gate = model.fusion.kind == "ssaw" and model.inputs == "both"
        draw_clip(
            self._output_dir, clips[index], row, gate if has_gate else None, self.config.data.max_frames
        )

    def _translations(
        self, state: TrainState, clips: ClipSource, only: Sequence[int] | None = None
    ) -> tuple[list[Prediction], list[Gate]]:
        """See `translate_split`."""
        _, translate = self._translator
        with device_memory_told("translate"):
            return translate_split(translate, state, clips, self.tokenizer, self.config, self.mesh, only=only)

    @property
    def _output_dir(self) -> Path:
        """The workdir; for a dataset that nothing can be trained on, a folder there of its name."""
        data = self.config.data
        trains = (self._dataset / f"clips.{data.train_split}.jsonl").exists()
        return self.workdir if trains else self.workdir / data.dataset

    def _train(
        self,
        stage: Stage,
        stage_config: StageConfig,
        clips: ClipSource,
        workdir: Path,
        *,
        start: Callable[[TrainState], TrainState] | None = None,
        evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    ) -> None:
        """Trains a stage in `workdir` unless it is finished there."""
        mark = workdir / FINISHED
        meta = {"config": to_dict(self.config), "tokenizer": self.tokenizer.fingerprints}
        if mark.exists():
            changed = run_differences(json.loads(mark.read_text(encoding="utf-8")), meta, stage.name)
            print(f"{stage.name}: finished in {workdir}" + ", with other settings:" * bool(changed))
            for line in changed:
                print(f"  {line}")
            return
        print(f"{stage.name}: training in {workdir}")
        with locked(workdir), device_memory_told(stage.name):
            state = train(
                stage,
                stage_config,
                self.config,
                workdir=workdir,
                mesh=self.mesh,
                batches=train_batches(
                    clips,
                    self.tokenizer,
                    self.config.data,
                    stage_config,
                    self.config.seed,
                    own_frames(self.mesh, stage_config.frame_budget),
                ),
                meta=meta,
                stop=self.stop,
                start=start,
                evaluate=evaluate,
            )
            if jax.process_index() == 0:
                write_json(mark, {"stage": stage.name, "step": int(state.step), **meta})

    def _start_of_translator(self) -> Callable[[TrainState], TrainState] | None:
        if is_gfslt(self.config.init_from):
            return gfslt_checkpoint(self.config, self.tokenizer)
        stage_1 = stage_1_workdir(self.config, self.workdir)
        if stage_1 is None:
            return self._pretrained(self.workdir, reads_sign=self._reads_video)
        self.pretrain(stage_1)
        return partial(
            transfer,
            directory=stage_1 / CHECKPOINTS,
            modules=STAGE_2_OF_STAGE_1,
            tokenizer=self.tokenizer.fingerprints,
        )

    def _pretrained(
        self, workdir: Path, *, reads_sign: bool = True
    ) -> Callable[[TrainState], TrainState] | None:
        """Puts pretrained weights, or the CNN of the warm start (trained first), into a fresh state.

        None where training goes on from a checkpoint, which needs none of them.
        """
        if saved_steps(workdir / CHECKPOINTS):
            return None
        sources: list[Callable[[TrainState], TrainState]] = []
        if self.config.model.mbart.weights:
            sources.append(pretrained_mbart(self.config, self.tokenizer))
        if self.config.model.text == "mbert" and self.config.model.mbert.weights:
            sources.append(pretrained_mbert(self.config, self.tokenizer.reader.vocab_size))
        if reads_sign and self.config.model.cnn_weights:
            sources.append(pretrained_cnn(self.config))
        if reads_sign and self.config.warm_start.epochs:
            self.warm_start(workdir / "warm_start")
            directory = workdir / "warm_start" / CHECKPOINTS
            sources.append(partial(transfer, directory=directory, modules=CNN_ALONE))

        def start(state: TrainState) -> TrainState:
            for source in sources:
                state = source(state)
            return state

        return start

    @cached_property
    def train_clips(self) -> ClipSource:
        """Opened where there is something to train: clips to translate need no train split."""
        return self._clips(self.config.data.train_split)

    @cached_property
    def _translator(self) -> tuple[Stage, Translate]:
        """Stage 2 and its compiled translation: the same for evaluation in training and after it."""
        stage = translate_stage(self.config, self.tokenizer.vocab_size, self.tokenizer.reader.vocab_size)
        return stage, make_translate(stage, self.config, self.tokenizer, self.mesh)

    def _load_best(self) -> TrainState:
        """What translates; the members' parameters as tuples where it is an ensemble."""
        folders = [self.workdir.parent / name for name in self.config.ensemble]
        if not folders:
            return self._load_best_of(self.workdir)
        members = [self._load_best_of(folder) for folder in folders]
        return members[0].replace(  # type: ignore[attr-defined]
            params=tuple(member.eval_params for member in members),
            batch_stats=tuple(member.batch_stats for member in members),
            ema=None,
        )

    def _load_best_of(self, workdir: Path) -> TrainState:
        stage, _ = self._translator
        state = abstract_state(partial(stage.init, optimizer=optax.identity()), self.mesh)
        if is_gfslt(self.config.init_from) and not saved_steps(workdir / CHECKPOINTS):
            return gfslt_checkpoint(self.config, self.tokenizer, whole=True)(state)
        return transfer(
            state,
            workdir / CHECKPOINTS,
            {name: name for name in state.params},
            tokenizer=self.tokenizer.fingerprints,
            best=True,
        )

    @property
    def _reads_video(self) -> bool:
        """Whether stage 2 does; the stages before it always do."""
        return self.config.model.inputs != "question"

    def _clips(self, split: str, video: bool = True) -> ClipSource:
        return open_clips(self.config.data, split, video=video)


def stage_1_workdir(config: Config, workdir: Path) -> Path | None:
    """Where the stage 1 of a stage 2 in `workdir` is trained; None where it starts from none of ours."""
    if config.init_from == "none" or is_gfslt(config.init_from) or not config.pretrain.epochs:
        return None
    return workdir.parent / config.init_from


def _cache_compilation(parent: Path, folder: str) -> None:
    """Keeps what is compiled in `PARENT/FOLDER`, unless `folder` is "" or the environment names another."""
    if folder and not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str((parent / folder).absolute()))
