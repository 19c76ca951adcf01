"""MMTLB's chain: Sign2Text takes its video part from one stage and its words from another."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

import sslssaw_jax.training.loop
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import to_config_dict
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.systems import read_config
from sslssaw_jax.training.checkpoints import restore_params
from sslssaw_jax.training.stage_folders import plan_stages
from sslssaw_jax.workdir import CHECKPOINTS, FINISHED
from tests.support.toy import (
    make_stages,
    toy_batch,
    toy_system,
)

STAGES = ("recognize", "gloss2text", "translate")
FROZEN = ("video", "head", "embedding", "ending", "encoder", "decoder")


def configuration(data_dir: Path):
    tree = to_config_dict(toy_system("mmtlb", **{"model.mapper": "embedding"}))
    tree.data.update({"data_dir": str(data_dir), "max_frames": 32, "num_threads": 1, "max_glosses": 4})
    tree.decode.update({"beams": 2, "max_new_tokens": 8})
    tree.checkpoint.every_steps, tree.evaluation.num_heatmaps = 1, 0
    for name in STAGES:
        tree[name].update({"epochs": 1, "clips_per_batch": 8, "frame_budget": 160})
    # only the mapper learns, so the rest must be as in the earlier stages
    tree.translate.optim.groups = tuple(f"{module}=0" for module in FROZEN)
    return read_config(tree)


@pytest.mark.slow
def test_three_stages_train_resume_and_translate(tiny_data_dir, tmp_path, monkeypatch):
    config = configuration(tiny_data_dir)
    shard_batch, steps = sslssaw_jax.training.loop.shard_batch, []

    def interrupted(batch, mesh):
        steps.append(batch)
        if (tmp_path / "run" / CHECKPOINTS).exists() and len(steps) > 8:
            raise KeyboardInterrupt
        return shard_batch(batch, mesh)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sslssaw_jax.training.loop, "shard_batch", interrupted)
        Experiment(config, tmp_path / "run").run("train")
    folders = {stage.name: folder for stage, folder in plan_stages(config, tmp_path / "run")}
    assert tuple(folders) == STAGES
    finished = {name: folders[name] / FINISHED for name in STAGES}
    assert [name for name in STAGES if finished[name].exists()] == ["recognize", "gloss2text"]
    before = {name: mark.stat().st_mtime_ns for name, mark in finished.items() if mark.exists()}
    Experiment(config, tmp_path / "run").run("train")
    assert before == {name: finished[name].stat().st_mtime_ns for name in before}, "trained twice"

    found = {name: restore_params(folder / CHECKPOINTS)[:2] for name, folder in folders.items()}
    flat = {
        name: traverse_util.flatten_dict(params) | traverse_util.flatten_dict(statistics)
        for name, (params, statistics) in found.items()
    }
    for path, value in flat["translate"].items():
        if path[0] in FROZEN:
            source = "recognize" if path[0] in ("video", "head") else "gloss2text"
            np.testing.assert_array_equal(value, flat[source][path], err_msg=".".join(map(str, path)))
    start = flat["gloss2text"]["source_embedding", "embedding"]
    mapper = flat["translate"]["mapper", "kernel"]
    assert 0 < np.abs(mapper - start).max() < 0.1 * np.abs(start).max()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["num_clips"] == 6
    assert jax.tree.leaves(found["translate"])


def test_a_stage_without_epochs_is_refused_before_anything_is_trained(tiny_data_dir, tmp_path):
    config = configuration(tiny_data_dir)
    config = replace(config, gloss2text=replace(config.gloss2text, epochs=0))
    with pytest.raises(ConfigError, match=r"config\.gloss2text\.epochs is 0: there is nothing to train"):
        Experiment(config, tmp_path / "run").run("train")


@pytest.mark.slow
def test_s3d_reads_frames_and_its_first_block_may_be_frozen():
    """Trace without compiling; `tests/models/test_s3d.py` compares the numbers with PyTorch's."""
    stage = make_stages(toy_system("mmtlb", **{"model.visual": "s3d"}))[-1]
    factors, optimizer = {"video.s3d.stem": 0.0}, optax.sgd(1.0)
    step = partial(
        train_step,
        graphdef=stage.freezing_def(factors),
        loss=stage.loss,
        optimizer=optimizer,
        factors=factors,
    )
    state = stage.abstract_state(optimizer)
    after, metrics = jax.eval_shape(step, state, toy_batch(0), jax.random.key(1))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss_gloss"].shape == ()


def test_a_recogniser_may_be_shared_by_several_runs(tmp_path):
    tree = to_config_dict(toy_system("mmtlb"))
    for name in ("warm_start", *STAGES):
        tree[name].epochs = 1
    tree.init_from = "recogniser"
    names = [stage.name for stage, _ in plan_stages(read_config(tree), tmp_path / "run")]
    folders = dict(zip(names, (folder for _, folder in plan_stages(read_config(tree), tmp_path / "run"))))
    assert names == ["warm_start", *STAGES]
    assert folders["recognize"] == tmp_path / "recogniser"
    assert folders["warm_start"] == tmp_path / "recogniser" / "warm_start"
    assert folders["gloss2text"] == tmp_path / "run" / "gloss2text"
    tree.stage = "recognize"
    assert [stage.name for stage, _ in plan_stages(read_config(tree), tmp_path / "r")] == names[:2]
