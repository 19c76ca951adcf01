"""The CNN's features of every frame, written as a set, tell a model the same as the frames."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.batches import eval_batches
from sslssaw_jax.data.dataset import Dataset, DatasetError, find_dataset
from sslssaw_jax.data.feature_writer import FeatureWriter
from sslssaw_jax.data.features import FeatureSource, features_folder, find_features
from sslssaw_jax.data.frame_cache import open_clips
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.evaluation.programs import Programs
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.evaluator import Evaluator
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.models import s3d
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.systems import SYSTEMS
from sslssaw_jax.training.sharding import one_device
from sslssaw_jax.types import TrainState
from tests.support.small_runs import make_run
from tests.support.toy import (
    TOY_GLOSSES,
    QuickS3D,
    assert_close,
    evaluated,
    jit,
    make_stages,
    toy_config,
    toy_state,
    toy_system,
)

SIZES = {"data.max_frames": 12, "translate.frame_budget": 16, "translate.clips_per_batch": 2}
CONFIG = toy_config(**SIZES, **{"data.max_question_tokens": 16, "data.max_target_tokens": 24})
CLIPS = [f"dev-{number:03d}" for number in range(6)]


@pytest.fixture(scope="module")
def dataset(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset with only dev, whose folder may be written into."""
    folder = tmp_path_factory.mktemp("extract") / "data"
    others = [f"*{split}*" for split in ("train", "test", "isolated")]
    shutil.copytree(tiny_data_dir, folder, ignore=shutil.ignore_patterns(*others))
    return find_dataset(folder, "avatar_qa")


def stage_of(config: Any, tiny_data_dir: Path, features: Any = ()) -> tuple[Stage, Any]:
    dataset = find_dataset(tiny_data_dir, "avatar_qa")
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language)
    inputs = StageInputs(tokenizer.vocab_size, tokenizer.vocab_size, features=features)
    return SYSTEMS["ssl_ssaw"].make_stages(replace(config, init_from=None), inputs)[-1], tokenizer


def evaluator_of(stage: Stage, config: Any, workdir: Path, dataset: Dataset, tokenizer: Any) -> Evaluator:
    return Evaluator(Programs(Runner(stage, config, tokenizer, one_device()), dataset), workdir, {})


@pytest.fixture
def evaluator(
    dataset: Dataset, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Evaluator:
    stage, tokenizer = stage_of(CONFIG, tiny_data_dir)
    monkeypatch.setattr(Evaluator, "_load_best", lambda self: toy_state(stage))
    return evaluator_of(stage, CONFIG, tmp_path / "run", dataset, tokenizer)


def states(stage: Stage, state: TrainState, clips: Any, config: Any, tokenizer: Any) -> dict[int, np.ndarray]:
    """Return the encoder's states of each clip."""
    encode = jit(lambda model, batch: stage.translation.encode(model, batch)[3:5])
    found = {}
    for batch in eval_batches(clips, tokenizer, config.data, config.translate):
        states_BxTxD, mask_BxT = jax.device_get(encode(evaluated(stage, state), batch))
        for row in np.flatnonzero(batch.valid):
            found[int(batch.index[row])] = states_BxTxD[row][mask_BxT[row]]
    return found


def begin(evaluator: Evaluator, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Extract three clips like a killed process; return the clips extracted so far, and later ones."""
    whole_add, added = FeatureWriter.add, []

    def add(self: FeatureWriter, *arguments: Any) -> None:
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(arguments[1].id)
        whole_add(self, *arguments)

    monkeypatch.setattr(FeatureWriter, "add", add)
    with pytest.raises(KeyboardInterrupt):
        evaluator.extract(name, overwrite=False)
    monkeypatch.setattr(FeatureWriter, "add", lambda self, *x: added.append(x[1].id) or whole_add(self, *x))
    return added


def test_features_of_other_weights_are_extracted_anew(
    evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = begin(evaluator, "begun", monkeypatch)
    monkeypatch.setattr(Evaluator, "_load_best", lambda self: toy_state(self._stage, seed=1))
    evaluator.extract("begun", overwrite=False)
    assert sorted(added[3:]) == CLIPS


def test_a_model_of_extracted_features_equals_the_model_of_frames(
    evaluator: Evaluator, dataset: Dataset, tiny_data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    added = begin(evaluator, "cnn", monkeypatch)
    assert not features_folder(dataset, "cnn").exists()
    evaluator.extract("cnn", overwrite=False)
    assert sorted(added) == CLIPS, "a clip is extracted once"
    assert "cnn: 6 clips of dev, " in capsys.readouterr().out
    with pytest.raises(DatasetError, match="cnn exists: add --overwrite"):
        evaluator.extract("cnn", overwrite=False)

    reads = replace(CONFIG, data=replace(CONFIG.data, features=("cnn",)))
    stage, tokenizer = stage_of(reads, tiny_data_dir, find_features(dataset, ["cnn"]))
    of_frames = evaluator._stage
    state = toy_state(of_frames)
    features_state = toy_state(stage)
    model, reader = evaluated(of_frames, state), evaluated(stage, features_state)
    assert reader.video.cnn is None
    del model.video.cnn
    assert len(jax.tree.leaves(nnx.state(model))) == len(jax.tree.leaves(nnx.state(reader)))
    nnx.update(reader, nnx.state(model))
    _, params, batch_stats = nnx.split(reader, nnx.Param, ...)
    same = features_state.replace(params=params, batch_stats=batch_stats)
    clips = open_clips(dataset, CONFIG.data, "dev")
    theirs = states(of_frames, state, clips, CONFIG, tokenizer)
    ours = states(stage, same, FeatureSource(dataset, "dev", ["cnn"]), reads, tokenizer)
    for index, expected in theirs.items():
        assert_close(ours[index], expected, 2e-3)  # float16


@pytest.mark.slow
def test_a_finished_run_extracts_by_its_mode(dataset: Dataset, tmp_path: Path, capsys: Any) -> None:
    data_dir = dataset.folder.parents[1]
    config = make_run(tmp_path / "run", data_dir, **SIZES, compilation_cache=None)
    before = sorted(tmp_path.rglob("*"))
    Experiment(config, tmp_path / "run").run("extract", features="own")
    assert capsys.readouterr().out.endswith(": --config.data.features=own\n")
    assert sorted(tmp_path.rglob("*")) == before, "neither scores nor a report"
    assert len(FeatureSource(find_dataset(data_dir, "avatar_qa"), "dev", ["own"])) == 6


def test_a_recognizer_of_extracted_s3d_features_equals_that_of_frames(
    dataset: Dataset, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some clips are longer than `max_frames`: both see the same part of them."""
    monkeypatch.setattr(s3d, "S3D", QuickS3D)
    budget = {"recognize.frame_budget": 32, "recognize.clips_per_batch": 2}
    texts = {"data.max_question_tokens": 16, "data.max_target_tokens": 24}
    config = toy_system("mmtlb", **{"model.visual": "s3d", "stage": "recognize"}, **budget, **texts)
    stage, tokenizer = make_stages(config)[-1], stage_of(CONFIG, tiny_data_dir)[1]
    state = toy_state(stage)
    monkeypatch.setattr(Evaluator, "_load_best", lambda self: state)
    evaluator_of(stage, config, tmp_path, dataset, tokenizer).extract("s3d", overwrite=False)

    clips = open_clips(dataset, config.data, "dev")
    assert clips.num_frames.max() > config.data.max_frames
    reads = replace(config, data=replace(config.data, features=("s3d",)))
    inputs = StageInputs(features=find_features(dataset, ["s3d"]), glosses=lambda: TOY_GLOSSES)
    reading = SYSTEMS["mmtlb"].make_stages(reads, inputs)[-1]
    model, reader = evaluated(stage, state), evaluated(reading, toy_state(reading))
    nnx.update(reader.head, nnx.state(model.head))

    def logits(model: Any, stage: Stage, clips: Any, config: Any) -> dict[int, np.ndarray]:
        found, recognize = {}, jit(stage.recognition)
        for batch in eval_batches(clips, tokenizer, config.data, config.recognize):
            logits_BxTxG, mask_BxT = jax.device_get(recognize(model, batch))
            for row in np.flatnonzero(batch.valid):
                found[int(batch.index[row])] = logits_BxTxG[row][mask_BxT[row]]
        return found

    theirs = logits(model, stage, clips, config)
    ours = logits(reader, reading, FeatureSource(dataset, "dev", ["s3d"]), reads)
    assert_close(ours, theirs, 2e-3)  # float16


def test_a_model_without_a_cnn_has_nothing_to_extract(
    dataset: Dataset, tmp_path: Path, tiny_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_config(**{"model.inputs": "question", "init_from": None})
    stage, tokenizer = stage_of(config, tiny_data_dir)
    monkeypatch.setattr(Evaluator, "_load_best", lambda self: toy_state(stage))
    evaluator = evaluator_of(stage, config, tmp_path, dataset, tokenizer)
    with pytest.raises(ConfigError, match="the model of the stage translate of 'ssl_ssaw' has no CNN"):
        evaluator.extract("none", overwrite=False)
