"""Ours against PyTorch, model and decoding: `python -m benchmarks.compare [CASE ...]`.

Each side in its own process on one core with one thread, alternately; processor time, minimum over rounds.
Both have the same weights and the same batch, and the results are compared.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import compare, keep, serve
from sslssaw_jax.config import Config, default, from_config_dict
from sslssaw_jax.types import Batch

VOCAB_SIZE, EOS, LANGUAGE = 2454, 2, 2430  # as mBART trimmed to PHOENIX-2014T
QUESTION, TARGET = 16, 24  # tokens
SMALL = {"d_model": 256, "ffn_dim": 1024}
FULL = {"d_model": 1024, "ffn_dim": 4096}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    title: str
    what: str  # evaluate | train | decode
    sizes: dict[str, int]
    image_size: int
    clips: int
    frames: int  # of each clip
    goal: float
    repeat_frames: bool = False
    steps: int = 1  # in a round


CASES = {
    "evaluate": Case("evaluation forward, d 256, 112x112", "evaluate", SMALL, 112, 2, 48, 0.85),
    "evaluate_parent": Case(
        "the same, their edge frames through the CNN", "evaluate", SMALL, 112, 2, 48, 0.85, repeat_frames=True
    ),
    "train": Case("training step, d 256, 112x112", "train", SMALL, 112, 2, 48, 1.2),
    "evaluate_full": Case("evaluation forward, d 1024, 224x224", "evaluate", FULL, 224, 2, 48, 1.3),
    "train_full": Case("training step, d 1024, 224x224", "train", FULL, 224, 2, 48, 1.3),
    "decode": Case("beam 4, batch 8, d 256", "decode", SMALL, 112, 8, 8, 0.85),
    "decode_full": Case("beam 4, batch 8, d 1024", "decode", FULL, 112, 8, 8, 1.0),
}


def make_config(case: Case) -> Config:
    tree = default()
    tree.data.image_size, tree.data.crop_fraction, tree.data.max_frames = case.image_size, 1.0, case.frames
    tree.model.mbart.update(case.sizes)
    tree.model.fusion.ffn_dim = case.sizes["ffn_dim"]
    tree.model.compute_dtype = "float32"
    tree.translate.label_smoothing = 0.2
    tree.translate.optim.update(name="adamw", learning_rate=1e-4)
    tree.decode.max_new_tokens = 32
    return from_config_dict(tree)


def make_batch(case: Case) -> Batch:
    """Noise: clips of one length, texts without padding."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (case.clips * case.frames, case.image_size, case.image_size, 3), np.uint8)

    def text(length: int) -> tuple[np.ndarray, np.ndarray]:
        ids = rng.integers(4, LANGUAGE, (case.clips, length), np.int32)
        ids[:, -2:] = EOS, LANGUAGE
        return ids, np.ones_like(ids, bool)

    question, question_mask = text(QUESTION)
    target, target_mask = text(TARGET)
    return Batch(
        frames=frames,
        frame_start=np.arange(case.clips, dtype=np.int32) * case.frames,
        frame_count=np.full(case.clips, case.frames, np.int32),
        question=question,
        question_mask=question_mask,
        target=target,
        target_mask=target_mask,
        masked_target=target,
        masked_target_mask=target_mask,
        index=np.arange(case.clips, dtype=np.int32),
        valid=np.ones(case.clips, bool),
    )


@dataclass(frozen=True)
class Decoding:
    """What beam search starts from. Sentences end after 30 tokens of the 150 that are allowed."""

    states: np.ndarray  # f32[B, T, D]
    prompt: np.ndarray  # i32[B, P], the question and the language code
    position: int  # whose embedding ends the sentence
    options: dict[str, Any]


def make_decoding(config: Config, case: Case) -> Decoding:
    rng = np.random.default_rng(1)
    prompt = rng.integers(4, LANGUAGE, (case.clips, QUESTION + 1), np.int32)
    prompt[:, [0, -1]] = LANGUAGE
    states = rng.standard_normal((case.clips, 64, config.model.mbart.d_model)).astype(np.float32)
    return Decoding(states, prompt, QUESTION + 29, {})


def our_state(config: Config) -> tuple[Any, Any]:
    """Stage 2 and its state before the first step, the same in each process."""
    import jax

    from sslssaw_jax.optim import make_optimizer
    from sslssaw_jax.stages.translate import translate_stage

    stage = translate_stage(config, VOCAB_SIZE)
    optimizer, _ = make_optimizer(config.translate.optim, 1000)
    return stage, stage.init(jax.random.key(0), optimizer), optimizer


def ours(case: Case) -> None:
    import jax

    from sslssaw_jax.stages.step import eval_step, train_step

    config = make_config(case)
    stage, state, optimizer = our_state(config)
    batch = jax.device_put(make_batch(case))
    key = jax.random.key(1)
    start = time.process_time()
    if case.what == "evaluate":
        step = jax.jit(functools.partial(eval_step, graphdef=stage.eval_def, loss=stage.loss))
        compiled = step.lower(state.params, state.batch_stats, batch).compile()

        def run():
            return float(compiled(state.params, state.batch_stats, batch)["loss"])
    else:
        step = jax.jit(
            functools.partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer),
            donate_argnums=0,
        )
        compiled = step.lower(state, batch, key).compile()

        def run():
            nonlocal state
            state, metrics = compiled(state, batch, key)
            return float(jax.block_until_ready((state, metrics))[1]["loss"])
    serve(run, compile=time.process_time() - start)


def theirs(case: Case) -> None:
    import torch

    from benchmarks.torch_peer import Peer, inputs

    torch.set_num_threads(1)
    config = make_config(case)
    peer = Peer(config, VOCAB_SIZE, repeat_frames=case.repeat_frames)
    x = inputs(make_batch(case))
    if case.what == "evaluate":
        peer.eval()

        @torch.inference_mode()
        def run():
            return float(peer(x))
    else:
        optim = config.translate.optim
        optimizer = torch.optim.AdamW(
            peer.parameters(), optim.learning_rate, (optim.b1, optim.b2), weight_decay=optim.weight_decay
        )

        def run():
            optimizer.zero_grad()
            loss = peer(x)
            loss.backward()
            optimizer.step()
            return float(loss)

    serve(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[*CASES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        {"ours": ours, "theirs": theirs}[options.worker](CASES[options.cases[0]])
        return
    rows = []
    for name in options.cases:
        found = compare(
            [name, "--worker=ours"], [name, "--worker=theirs"], options.rounds, options.core
        )
        print(name, found)


if __name__ == "__main__":
    main()
