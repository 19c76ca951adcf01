"""An experiment from its configuration: which stages run, in which folders, and what is left behind."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import jax
from jax.sharding import Mesh

from sslssaw_jax.config.experiment import Config, ConfigError, StageConfig, to_dict
from sslssaw_jax.data.batches import train_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer
from sslssaw_jax.evaluation.predictions import (
    mean_loss,
)
from sslssaw_jax.evaluator import Evaluator
from sslssaw_jax.report.run_report import write_report
from sslssaw_jax.stages.pretrain import pretrain_stage
from sslssaw_jax.stages.step import Stage
from sslssaw_jax.stages.warm_start import warm_start_stage
from sslssaw_jax.systems.target_noise import ask_noisy_targets
from sslssaw_jax.training.faults import device_memory_told
from sslssaw_jax.training.loop import run_differences, train
from sslssaw_jax.training.sharding import make_mesh, own_frames
from sslssaw_jax.training.signals import StopRequest
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.cnn import pretrained_cnn
from sslssaw_jax.weights.gfslt import gfslt_checkpoint, is_gfslt
from sslssaw_jax.weights.mbart import pretrained_mbart, weights_folder
from sslssaw_jax.weights.mbert import bert_tokenizer, pretrained_mbert
from sslssaw_jax.weights.transfer import CNN_ALONE, STAGE_2_OF_STAGE_1, transfer
from sslssaw_jax.workdir import CHECKPOINTS, FINISHED, locked, read_json, saved_steps, write_json


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
        self._dataset = find_dataset(config.data.data_dir, config.data.dataset)
        folder: str | Path = config.data.tokenizer or self._dataset.tokenizer_folder
        if folder == config.model.mbart.weights:  # one folder for both: where it is absent, both are
            folder = weights_folder(config)
        text_tower = bert_tokenizer(config, self.train_clips) if config.model.text == "mbert" else None
        self.tokenizer: Tokenizer = load_tokenizer(folder, config.data.language, text_tower)

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
            self.evaluator.translate_clips(clip_ids)
            return
        elif mode == "translate":
            self.evaluator.translate_test()
        else:
            if mode == "train":
                self.evaluator.question_only()  # what cannot stand beside the scores is told before training
                self.train_translator()
            self.evaluator.evaluate()
        if jax.process_index() == 0:
            print(f"report: {write_report(self.evaluator.output_dir)}")

    def warm_start(self, workdir: Path) -> None:
        """Trains the CNN on isolated signs."""
        clips = self._clips(self.config.data.isolated_split)
        stage = warm_start_stage(self.config, [clip.gloss for clip in clips.clips])
        self._train(stage, self.config.warm_start, clips, workdir)

    def pretrain(self, workdir: Path) -> None:
        """Stage 1, from pretrained weights and the warm start where the configuration has them."""
        stage = pretrain_stage(self.config, self.tokenizer.vocab_size, self.tokenizer.text_tower.vocab_size)
        dev = self._clips(self.config.data.dev_split)
        evaluate = mean_loss(stage, dev, self.tokenizer, self.config, self.mesh)
        start = self._pretrained(workdir)
        self._train(stage, self.config.pretrain, self.train_clips, workdir, start=start, evaluate=evaluate)

    def train_translator(self) -> None:
        """Stage 2, from stage 1 (trained first where `init_from` holds none that is finished)."""
        config = self.config
        begun = bool(saved_steps(self.workdir / CHECKPOINTS))  # goes on, and needs no stage 1
        start = None if begun else self._start_of_translator()
        train = open_clips(self._dataset, config.data, config.data.train_split, video=self._reads_video)
        stage, evaluate = self.evaluator.stage, self.evaluator.dev_scores
        self._train(stage, config.translate, train, self.workdir, start=start, evaluate=evaluate)

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
            changed = run_differences(read_json(mark), meta, stage.name)
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
                    ask_noisy_targets(clips.clips, self.config.data.denoise_targets),
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
            sources.append(pretrained_mbert(self.config, self.tokenizer.text_tower.vocab_size))
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
    def evaluator(self) -> Evaluator:
        """Compiled once for the evaluations in training and after it."""
        return Evaluator(self.config, self.workdir, self.tokenizer, self.mesh)

    @property
    def _reads_video(self) -> bool:
        """Whether stage 2 does; the stages before it always do."""
        return self.config.model.inputs != "question"

    def _clips(self, split: str) -> ClipSource:
        return open_clips(self._dataset, self.config.data, split)


def stage_1_workdir(config: Config, workdir: Path) -> Path | None:
    """Where the stage 1 of a stage 2 in `workdir` is trained; None where it starts from none of ours."""
    if config.init_from == "none" or is_gfslt(config.init_from) or not config.pretrain.epochs:
        return None
    return workdir.parent / config.init_from


def _cache_compilation(parent: Path, folder: str) -> None:
    """Keeps what is compiled in `PARENT/FOLDER`, unless `folder` is "" or the environment names another."""
    if folder and not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str((parent / folder).absolute()))
