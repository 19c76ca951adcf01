"""SignBT's chain: positions computed once, clips spliced for sentences; a killed run ends the same."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx, traverse_util

import sslssaw_jax.training.loop
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import to_config_dict
from sslssaw_jax.data.sign_bank import SENTENCES, SIGN_BANK, SignBank
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.systems import read_config
from sslssaw_jax.training.checkpoints import restore_params
from sslssaw_jax.training.stage_folders import plan_stages
from sslssaw_jax.weights.initial_state import variables as named_variables
from sslssaw_jax.workdir import CHECKPOINTS, FINISHED, read_jsonl
from tests.support.toy import (
    TOY_GLOSSES,
    VOCAB_SIZE,
    jit,
    make_stages,
    random_model,
    toy_batch,
    toy_system,
    with_features,
)

STAGES = ("recognize", "text2gloss", "translate")


def configuration(data_dir: Path):
    tree = to_config_dict(toy_system("signbt"))
    tree.data.update({"data_dir": str(data_dir), "max_frames": 32, "num_threads": 1, "max_glosses": 4})
    tree.data.text_only, tree.data.max_target_tokens = 0.25, 16
    tree.decode.update({"beams": 1, "max_new_tokens": 6})
    tree.checkpoint.every_steps, tree.evaluation.num_heatmaps = 4, 0
    for name in STAGES:
        tree[name].update({"epochs": 1, "clips_per_batch": 8, "frame_budget": 160})
    tree.text2gloss.epochs = tree.text2gloss.eval_every = 12
    tree.text2gloss.optim.update({"name": "adam", "learning_rate": 0.02})
    tree.translate.epochs = tree.translate.eval_every = 3
    tree.translate.optim.groups = ("video=0",)
    return read_config(tree)


def variables(folder: Path) -> dict:
    return traverse_util.flatten_dict(restore_params(folder / CHECKPOINTS)[0])


@pytest.mark.slow
def test_a_run_trains_on_spliced_clips_and_ends_the_same_if_killed(tiny_data_dir, tmp_path, monkeypatch):
    config, run, other = configuration(tiny_data_dir), tmp_path / "run", tmp_path / "other"
    shard_batch, steps = sslssaw_jax.training.loop.shard_batch, []

    def kept(batch, mesh):
        steps.append(batch)
        return shard_batch(batch, mesh)

    with monkeypatch.context() as patched:
        patched.setattr(sslssaw_jax.training.loop, "shard_batch", kept)
        Experiment(config, run).run("train")
    folders = {stage.name: folder for stage, folder in plan_stages(config, run)}
    assert tuple(folders) == STAGES
    assert all((folder / FINISHED).exists() for folder in folders.values())
    bank, sentences = SignBank.load(run), read_jsonl(run / SENTENCES)
    assert (bank.clips[:, 1] > 0).sum() == 18 and len(sentences) == 24, "a quarter of 24 is only text"
    whole = set(np.flatnonzero(bank.clips[:, 1]).tolist())
    trained = [batch.index[batch.valid] for batch in steps if batch.features]
    real = {int(index) for batch in trained for index in batch if index < 24}
    assert real == whole and any((batch >= 24).any() for batch in trained)
    for batch in steps:  # of all stages
        assert whole.issuperset(index for index in batch.index[batch.valid].tolist() if index < 24)
    with_video = variables(folders["recognize"])
    for path, value in variables(run).items():
        if path[0] == "video":
            np.testing.assert_array_equal(value, with_video[path])
    assert json.loads((run / "metrics.json").read_text())["test"]["glosses"]["wer"] >= 0

    shutil.copytree(folders["text2gloss"], other / "text2gloss")

    def interrupted(batch, mesh):
        if (other / CHECKPOINTS / "4").exists():
            raise KeyboardInterrupt
        return shard_batch(batch, mesh)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sslssaw_jax.training.loop, "shard_batch", interrupted)
        Experiment(config, other).run("train")
    assert not (other / FINISHED).exists()
    assert (other / SIGN_BANK).read_bytes() == (run / SIGN_BANK).read_bytes(), "made again, it is the same"
    Experiment(config, other).run("train")
    assert (other / SENTENCES).read_text() == (run / SENTENCES).read_text()
    jax.tree.map(np.testing.assert_array_equal, variables(other), variables(run))


def test_the_writer_reads_tokens_and_writes_glosses():
    stages = {stage.name: stage for stage in make_stages(toy_system("signbt"))}
    found = named_variables(stages["text2gloss"].abstract_state())
    assert found["source_embedding", "embedding"].shape[0] == VOCAB_SIZE
    assert found["embedding", "embed", "embedding"].shape[0] == TOY_GLOSSES.size


@pytest.mark.slow
def test_the_tag_stands_before_synthetic_clips_alone():
    stage = make_stages(toy_system("signbt"))[-1]
    model = random_model(lambda: stage.make_model(jax.random.key(0)))
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    batch = with_features(toy_batch(0), 8)
    rows, mask = batch.features[0].values[:6].reshape(2, 3, 8).astype(np.float32), np.ones((2, 3), bool)
    read = jit(lambda model, synthetic: model.read(rows, mask, synthetic, None))
    (tagged, tagged_mask), (plain, _) = read(model, np.array([True, False])), read(model, None)
    assert tagged_mask.sum(axis=1).tolist() == [4, 3]
    np.testing.assert_allclose(tagged[1, :3], plain[1], atol=1e-5)
    assert np.abs(tagged[0, 1:] - plain[0]).max() > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.width": 10}, "width is 10; it must be a multiple of 4"),
        ({"model.reads_question": True}, "reads_question is True; BTT and SignBT read no question"),
        ({"translate.epochs": 1}, "so the video part must stay as it is: add 'video=0'"),
        ({"text2gloss.accumulate": 2}, "config.text2gloss.accumulate is 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        toy_system("signbt", **changes)
