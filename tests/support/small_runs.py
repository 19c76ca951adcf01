"""Runs of small versions of the shipped configurations, and of toys, on the miniature dataset."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from sslssaw_jax.config.experiment import Config, to_dict
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.data.saved_tokenizer import save_tokenizer
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.systems import SYSTEMS, read_config
from sslssaw_jax.training.checkpoints import Checkpointer
from sslssaw_jax.weights.mbert import bert_tokenizer
from sslssaw_jax.workdir import CHECKPOINTS
from tests.support.toy import toy_state, toy_system, translate_stage

ROOT = Path(__file__).parents[2]
SIZES = {
    "translate.clips_per_batch": 4,
    "translate.frame_budget": 80,
    "data.max_frames": 24,
    "data.max_question_tokens": 16,
    "data.max_target_tokens": 16,
}


def shipped(name: str, *variant: str) -> ml_collections.ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(*variant)


def shrink(config: ml_collections.ConfigDict, data_dir: Path) -> ml_collections.ConfigDict:
    """Take the miniature dataset and a tiny model; the recipe stays the configuration's."""
    config.data.update({"data_dir": str(data_dir), "dataset": "avatar_qa"})
    config.data.update({"image_size": 24, "max_frames": 32, "num_threads": 2})
    config.data.update({"max_question_tokens": 16, "max_target_tokens": 16})
    transformer = {"d_model": 16, "ffn_dim": 32, "max_positions": 64, "decoder_layers": 1}
    if "cnn" in config.model:
        config.model.cnn.weights = None
        config.model.cnn.resnet.update({"depths": (1, 1), "width": 4, "stem": "conv7_stride4"})
    if config.system in ("mmtlb", "ts_slt"):
        config.model.mbart.update(transformer | {"encoder_layers": 1, "heads": 2, "weights": None})
        config.model.s3d.update({"width": 1 / 32, "weights": None})
    elif "mbart" in config.model:
        config.model.mbart.update(transformer | {"text_layers": 1, "text_heads": 2, "weights": None})
        config.model.mbart.update({"video_layers": 1, "video_heads": 2, "decoder_heads": 2})
        config.model.fusion.update({"heads": 2, "ffn_dim": 32})
    else:
        config.model.update(transformer | {"encoder_layers": 1, "heads": 2})
    if config.system == "gbt":
        config.model.update({"encoder_heads": 2, "encoder_ffn_dim": 32, "graph_layers": 1})
    config.decode.update({"beams": 2, "max_new_tokens": 8})
    config.logging.every_steps, config.evaluation.num_heatmaps = 1, 2
    if "gloss_head" in config.model:
        config.model.gloss_head.update({"d_model": 16, "ffn_dim": 12})
    for stage in (
        config.warm_start,
        config.recognize,
        config.gloss2text,
        config.pretrain,
        config.translate,
    ):
        stage.update({"epochs": min(stage.epochs, 1), "clips_per_batch": 8, "frame_budget": 160})
        stage.optim.warmup_steps = 0
    return config


def run(
    config: ml_collections.ConfigDict, workdir: Path, mode: str = "train", clips: Sequence[str] = ()
) -> None:
    Experiment(read_config(config), workdir).run(mode, clips)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_run(
    workdir: Path, data_dir: Path, system: str = "ssl_ssaw", base: str | None = None, **changes: Any
) -> Config:
    """Leave the files of a finished run of a random model, maybe one that continued from a base."""
    config = toy_system(system, **SIZES | {"data.data_dir": str(data_dir)} | changes)
    dataset = find_dataset(data_dir, "avatar_qa")
    mbert = SYSTEMS[system].text_tower(config.model)
    tower = bert_tokenizer(mbert, ClipSource(dataset, "train")) if mbert else None
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language, tower)
    stage = translate_stage(config, tokenizer.vocab_size, tokenizer.text_tower.vocab_size)
    meta = {
        "stage": stage.name,
        "config": to_dict(config) | {"init_from": base},
        "tokenizer": tokenizer.fingerprints,
        "dataset": dataset.facts.to_json(),
        "features": {},
    }
    save_tokenizer(tokenizer, workdir)
    with Checkpointer(workdir / CHECKPOINTS) as checkpoints:
        checkpoints.save(toy_state(stage), data={}, meta=meta)
    return config
