"""Training runs of a model of one weight on the miniature dataset."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.experiment import CheckpointConfig, Config, LoggingConfig, to_dict
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.batches import Batches, eval_batches, train_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.loop import train
from sslssaw_jax.training.sharding import make_mesh
from sslssaw_jax.training.signals import StopRequest
from sslssaw_jax.types import TrainState

STEPS_AN_EPOCH = 6  # 24 clips, 4 per batch
LOGGING = LoggingConfig(every_steps=1)


class Brightness(nnx.Module):
    """A model of one weight, which compiles in no time."""

    def __init__(self, key: jax.Array) -> None:
        self.weight = nnx.Param(jnp.ones(()))


def brightness_loss(model: Any, batch: Any, key: Any, counts: Any) -> Any:
    return model.weight[...] * batch.frames.astype(jnp.float32).mean(), {}


STAGE = Stage("translate", Brightness, brightness_loss)


class Run:
    """A training run of `STAGE` in a folder; `changes` change its stage's configuration."""

    def __init__(self, source: ClipSource, workdir: Path, skip_broken: int = 0, **changes: Any) -> None:
        defaults = {"epochs": 2, "clips_per_batch": 4, "frame_budget": 128}
        self.stage_config = StageConfig(**defaults | changes)
        data = DataConfig(num_threads=1, skip_broken=skip_broken)
        self.config = Config(data=data, checkpoint=CheckpointConfig(every_steps=4), logging=LOGGING)
        self.source, self.workdir = source, workdir
        self.tokenizer = load_tokenizer(source.dataset.tokenizer_folder, "en_XX")
        self.stop = StopRequest()
        self.evaluations = 0
        self.scores = iter(range(100))

    def evaluate(self, state: TrainState) -> dict[str, float]:
        self.evaluations += 1
        return {"bleu4": float(next(self.scores))}

    def batches(self, evaluation: bool = False) -> Batches:
        if evaluation:
            return eval_batches(self.source, self.tokenizer, self.config.data, self.stage_config)
        return train_batches(self.source, self.tokenizer, self.config.data, self.stage_config, seed=0)

    def __call__(self, stage: Stage = STAGE) -> TrainState:
        return train(
            stage,
            self.stage_config,
            self.config,
            workdir=self.workdir,
            mesh=make_mesh(self.config.mesh),
            batches=self.batches(),
            meta={"config": to_dict(self.config), "tokenizer": ""},
            stop=self.stop,
            evaluate=self.evaluate,
        )

    @property
    def logged(self) -> list[dict]:
        return [json.loads(line) for line in (self.workdir / "log.jsonl").read_text().splitlines()]
