"""An experiment: the stages of a system, each trained in its folder, and the last one evaluated."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import Batches, cut_questions, cut_targets, unreachable_targets
from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.fitting import trimmed_for_others
from sslssaw_jax.data.glosses import require_glosses
from sslssaw_jax.data.saved_tokenizer import save_tokenizer
from sslssaw_jax.data.sign_bank import BankSource, keep_bank, keep_glosses, read_sentences
from sslssaw_jax.evaluation.metrics import lacks_bleu4
from sslssaw_jax.evaluation.output_folder import remove_results
from sslssaw_jax.evaluation.programs import Programs
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.evaluator import Evaluator
from sslssaw_jax.experiment.run_data import RunData
from sslssaw_jax.experiment.run_notes import (
    require_same_run,
    require_same_scoring,
    run_notes,
    with_earlier_code,
)
from sslssaw_jax.inference.base_model import find_base, require_fitting_base
from sslssaw_jax.report.run_report import write_report
from sslssaw_jax.stages.stage import BackTranslation, Stage
from sslssaw_jax.systems import SYSTEMS
from sslssaw_jax.training.compilation_cache import cache_compilation
from sslssaw_jax.training.faults import explain_device_errors
from sslssaw_jax.training.loop import train
from sslssaw_jax.training.processes import require_alike, wait_for_all
from sslssaw_jax.training.sharding import device_names, make_mesh
from sslssaw_jax.training.signals import StopRequest
from sslssaw_jax.training.stage_folders import stage_folders
from sslssaw_jax.types import BLEU_4, LOSS
from sslssaw_jax.weights.gfslt import gfslt_checkpoint
from sslssaw_jax.weights.initial_state import (
    InitialWeights,
    chain,
    replace_variables,
    whole_model,
    whole_variable,
)
from sslssaw_jax.weights.pretrained import pretrained_parts
from sslssaw_jax.weights.transfer import trained_modules
from sslssaw_jax.workdir import (
    CHECKPOINTS,
    FINISHED,
    locked,
    saved_steps,
    write_json,
)


class Experiment:
    """An experiment's stages, with the configuration, devices, dataset and tokenizer that they share.

    Raises:
        DatasetError: The dataset has not been prepared, or has no such feature set.
        TokenizerError: `data.tokenizer` is not an mBART tokenizer.
        WeightsError: There is no folder for the pretrained weights that bring the tokenizer.
        ConfigError: The mesh does not fit the devices, or the system cannot be made.
    """

    def __init__(self, config: Config, workdir: Path, stop: StopRequest | None = None) -> None:
        self.config, self.workdir, self._stop = config, workdir, stop or StopRequest()
        cache_compilation(config.compilation_cache)
        self._mesh = make_mesh(config.mesh)
        self._base = find_base(config.init_from, workdir)
        self._data = RunData(config, workdir, self._base)
        system = SYSTEMS[config.system]
        if self._base:
            split, dataset = config.data.train_split, self._data.dataset
            # without a train split, clips are only translated
            clips = self._data.clips(split, video=False) if split in dataset.splits else None
            require_fitting_base(self._base, config, dataset, self._data.feature_sets, clips)
            config = replace(config, init_from=None)  # the base has been through the earlier stages
            self._stages = system.make_stages(config, self._data.stage_inputs)[-1:]
        else:
            self._stages = system.make_stages(config, self._data.stage_inputs)
        if config.stage not in [stage.name for stage in self._stages[-1:]]:
            raise ConfigError(
                f"config.stage is {config.stage!r}; the system {config.system!r} has no such stage"
            )
        self._folders = stage_folders(self._stages, workdir, config.init_from)

    def run(
        self, mode: str, clip_ids: Sequence[str] = (), features: str = "", overwrite: bool = False
    ) -> None:
        """Train what is missing and evaluate, or only evaluate or translate.

        Args:
            mode: `train`, `eval` (dev and test), `translate` (test without scores) or `extract`.
            clip_ids: With `translate`, translate and draw only these clips, of any split.
            features: With `extract`, the name of the feature set to write.
            overwrite: With `extract`, whether to replace a set of this name.

        Raises:
            Stopped: A signal asked to stop; starting again continues.
            WorkdirError: Another run writes into the workdir.
        """
        self._require_mode(mode, clip_ids, features, overwrite)
        self._require_alike()
        last = self._stages[-1]
        translates = last.translation is not None
        if mode != "train":
            for folder in self._evaluator.models:
                self._require_same_run(folder, len(self._stages) - 1, trains=False)
        if mode == "extract":
            self._evaluator.extract(features, overwrite=overwrite)
            return
        if clip_ids:
            self._evaluator.translate_clips(clip_ids)
            return
        if mode == "translate":
            self._evaluator.translate_test()
        else:
            if mode == "train":
                if (bank := last.bank) and bank.sentences:
                    read_sentences(bank.sentences)  # a file that cannot be read fails here
                if translates:
                    self._evaluator.question_only_translations()  # a run that cannot be compared fails here
                self._train(len(self._stages) - 1)
            if translates:
                self._evaluator.evaluate()
            elif last.recognition:
                self._evaluator.evaluate_glosses()
        if jax.process_index() == 0:
            print(f"report: {write_report(self._evaluator.output_dir)}")

    def _require_mode(self, mode: str, clip_ids: Sequence[str], features: str, overwrite: bool) -> None:
        """Raise ConfigError unless the stages and the data allow the mode."""
        last = self._stages[-1]
        translates = last.translation is not None
        if mode == "train" and self.config.evaluation.ensemble:
            raise ConfigError(
                "config.evaluation.ensemble names runs that are trained already: use --mode=eval or translate"
            )
        begins = self._base or any(stage.shared or stage.starts_from_file for stage in self._stages)
        if mode == "train" and self.config.init_from and translates and last.reads_video and not begins:
            raise ConfigError(
                f"config.init_from is {self.config.init_from!r}, but it is not a finished translation model, "
                "and no stage of this configuration could start from it: name a finished run, or clear it "
                "with --config.init_from="
            )
        if mode == "train" and self._base and last.bank:
            raise ConfigError(
                f"config.init_from is {self.config.init_from!r}, a finished model, but {last.name} trains on "
                "what a recogniser finds: name the workdir of a recogniser, or clear it with "
                "--config.init_from="
            )
        if mode == "extract" and not features:
            raise ConfigError("--mode=extract needs --features=NAME, the name of the set to write")
        if mode != "extract" and (features or overwrite):
            raise ConfigError(
                "--overwrite and --features are for --mode=extract; to train again, choose another --workdir"
            )
        if mode in ("train", "eval") and self.config.data.train_split not in self._data.dataset.splits:
            raise ConfigError(
                f"{self._data.dataset.folder} has {', '.join(self._data.dataset.splits)}, and no split "
                f"{self.config.data.train_split}: use --mode=translate"
            )
        idle = [stage.name for stage in self._stages if not getattr(self.config, stage.name).epochs]
        if mode == "train" and idle:
            raise ConfigError(
                f"config.{idle[-1]}.epochs is 0: there is nothing to train: set it to 1 or more, or stop "
                "before it with --config.stage"
            )
        if clip_ids and mode != "translate":
            raise ConfigError(f"--mode={mode} is for all clips: use --clip with --mode=translate")
        if (mode == "translate" and not translates) or (
            mode == "eval" and not (translates or last.recognition)
        ):
            remedy = (
                "use --mode=eval"
                if last.recognition
                else f"leave out --config.stage={last.name} or use a configuration of a later stage, or "
                "train by the default mode"
            )
            raise ConfigError(f"--mode={mode} translates, but the stage {last.name} cannot: {remedy}")

    def _require_alike(self) -> None:
        """Raise ConfigError unless all processes have the same settings and data."""
        notes = self._notes(-1)
        config = notes["config"]
        own = dict.fromkeys(("data_dir", "cache_dir", "num_threads"))  # of a machine
        groups = {f"config.{key}": value for key, value in (config | {"data": config["data"] | own}).items()}
        texts = {key: notes.get(key) for key in ("features", "tokenizer", "glosses", "code")}
        require_alike(groups | texts | {"dataset": notes["dataset"]["fingerprint"]})

    def _train(self, place: int) -> None:
        """Train a stage and the stages before it, unless they are finished."""
        stage, workdir = self._stages[place], self._folders[place]
        self._require_same_run(workdir, place)
        mark = workdir / FINISHED
        if mark.exists():
            print(f"{stage.name}: finished in {workdir}")
            return
        require_same_scoring(workdir, self.config, stage)
        if stage.recognition:
            data = self.config.data
            for split in (data.dev_split, data.test_split)[: 2 if place == len(self._stages) - 1 else 1]:
                require_glosses(self._data.clips(split, video=False))
        stage_config = getattr(self.config, stage.name)
        # show mistakes before an earlier stage trains for days; a bank is made by earlier stages
        batches = None if stage.bank else self._train_batches(place)
        begun = bool(saved_steps(workdir / CHECKPOINTS))  # continues, and needs no weights from elsewhere
        start = None if begun else self._initial_weights(place)
        evaluator = self._evaluator if stage is self._stages[-1] else self._make_evaluator(place)
        first = "" if workdir == self.workdir else f", before {self._stages[-1].name}"
        print(f"{stage.name}: training on {device_names(self._mesh)} in {workdir}{first}")
        notes = with_earlier_code(self._notes(place), workdir)
        with locked(workdir), explain_device_errors(stage.name):
            batches = batches or self._train_batches(place)
            self._report_texts(stage, batches.clips)
            if jax.process_index() == 0:
                save_tokenizer(self._data.tokenizer, workdir)
                if stage.reads_gloss:
                    self._data.glosses.save(workdir)
            state = train(
                stage,
                stage_config,
                self.config,
                workdir=workdir,
                mesh=self._mesh,
                batches=batches,
                meta=notes,
                stop=self._stop,
                start=start,
                evaluate=evaluator.programs.dev_scores if stage.selection else None,
            )
            facts = {
                "step": int(state.step),
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
                "reads_video": stage.reads_video,
                "language": self._data.dataset.language,
            }
            remove_results(workdir)  # of a state before the end, which would pass as those of the best
            write_json(mark, facts | notes)
        wait_for_all(f"{stage.name} is finished")

    def _report_texts(self, stage: Stage, clips: Sequence[ClipInfo]) -> None:
        """Print which texts a stage cuts, spells, cannot write or cannot score."""
        data, tokenizer = self.config.data, self._data.tokenizer
        told = [cut_targets(clips, tokenizer, data.max_target_tokens)]
        if stage is self._stages[-1]:
            told.append(trimmed_for_others(self._data.clips(data.train_split, video=False), tokenizer))
        if stage.reads_question:
            told.append(cut_questions(clips, tokenizer, data.max_question_tokens))
        if stage.translation:
            for split in (data.dev_split, data.test_split):
                scored = self._data.clips(split, video=False).clips
                told.append(unreachable_targets(split, scored, tokenizer, self.config.decode.max_new_tokens))
        for line in filter(None, told):
            print(f"{stage.name}: {line}")
        dev = self._data.clips(data.dev_split, video=False)
        if stage.selection is BLEU_4 and lacks_bleu4([clip.target for clip in dev.clips]):
            print(
                f"{stage.name}: no target of {dev.split} has four words (or characters), so BLEU-4 is always "
                "0 and the last state counts as the best: give dev longer sentences, or go by ROUGE-L in the "
                "report"
            )

    def _require_same_run(self, folder: Path, place: int, *, trains: bool = True) -> None:
        own = folder.is_relative_to(self.workdir)
        require_same_run(folder, self.config, self._data, self._stages[: place + 1], own=own, trains=trains)

    def _notes(self, place: int) -> dict[str, Any]:
        return run_notes(self.config, self._data, self._stages[place])

    def _initial_weights(self, place: int) -> InitialWeights:
        """Return the weights that a stage starts from; train earlier stages first."""
        stage, sources = self._stages[place], []
        if self._base:
            return whole_model(self._base.state, stage.counters)
        if stage.starts_from_file:
            sources.append(gfslt_checkpoint(self.config, self._data.tokenizer))
        if stage.starts_pretrained:
            model, data = self.config.model, self.config.data
            mbert = SYSTEMS[self.config.system].text_tower(model)
            sources += pretrained_parts(stage, model, mbert, data, self._data.tokenizer)
        names = [stage.name for stage in self._stages[:place]]
        modules_of = {names.index(name): modules for name, modules in stage.other_modules.items()}
        if place:
            modules_of[place - 1] = stage.modules
        for source, modules in modules_of.items():
            self._train(source)
            if modules:
                donor, directory = self._stages[source], self._folders[source] / CHECKPOINTS
                # the loss of stage 1 on dev does not say which of its states serves stage 2 best
                best_by = None if donor.selection is LOSS else donor.selection
                texts = self._data.tokenizer.fingerprints
                sources.append(trained_modules(directory, modules, tokenizer=texts, best_by=best_by))
        if derived := stage.derived:  # from everything that has its values by then
            tokenizer = self._data.tokenizer
            sources.append(
                lambda state: replace_variables(state, derived(partial(whole_variable, state), tokenizer))
            )
        return chain(sources)

    def _train_batches(self, place: int) -> Batches:
        return self._data.train_batches(self._stages[place], self._train_clips(place), self._mesh)

    def _train_clips(self, place: int) -> ClipSource:
        stage, data = self._stages[place], self.config.data
        if stage.isolated:
            return self._data.clips(data.isolated_split, video=stage.reads_video)
        clips = self._data.clips(data.train_split, video=stage.reads_video)
        if stage.bank:
            return self._bank_clips(place, stage.bank, clips)
        chosen = self._data.whole_clips(clips)
        if stage.reads_gloss and not (stage.reads_video or stage.reads_question):
            chosen = [index for index in chosen if clips.clips[index].gloss]  # it reads nothing else
        return clips.choosing(chosen)

    def _bank_clips(self, place: int, bank: BackTranslation, clips: ClipSource) -> ClipSource:
        """Return real clips as positions, and spliced clips; the workdir keeps both."""
        names = [stage.name for stage in self._stages]

        def earlier(name: str) -> Evaluator:
            return self._make_evaluator(names.index(name))

        folder, sentences = self._folders[place], []
        whole, begun = self._data.whole_clips(clips), bool(saved_steps(folder / CHECKPOINTS))
        signs = keep_bank(folder, lambda: earlier(bank.recognizer).make_bank(clips, whole), begun=begun)
        if bank.ratio:
            own = [clip.target for clip in clips.clips]
            texts = read_sentences(bank.sentences) if bank.sentences else own
            sentences = keep_glosses(
                folder, texts, lambda: earlier(bank.writer).write_glosses(texts), begun=begun
            )
        return BankSource(clips, signs, bank.step, sentences, self._data.glosses, bank.ratio)

    @cached_property
    def _evaluator(self) -> Evaluator:
        """Return the last stage's evaluator, compiled once for training and afterwards."""
        return self._make_evaluator(-1)

    def _make_evaluator(self, place: int) -> Evaluator:
        stage, data = self._stages[place], self._data
        glosses = data.glosses if stage.reads_gloss else None
        runner = Runner(stage, self.config, data.tokenizer, self._mesh, glosses)
        return Evaluator(Programs(runner, data.dataset), self._folders[place], self._notes(place))
