"""Compare model and decoding with PyTorch: `python -m benchmarks.compare [CASE ...]`.

Each side runs in its own process on one core with one thread, in turn; the table has the processor time of
the fastest round. `tests/benchmarks/test_torch_peer.py` shows that both sides compute the same.
"""

import argparse
import functools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.harness import VOCAB_SIZE, compare, keep, serve
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.systems import default_config, read_config

PAD, EOS, LANGUAGE = 1, 2, 2430  # in the vocabulary of VOCAB_SIZE tokens
QUESTION, TARGET = 16, 24  # tokens
POSITIONS = 64  # of the encoder, in decoding
SENTENCE = 30  # tokens found in decoding, out of the 150 that are allowed
SMALL = {"d_model": 256, "ffn_dim": 1024}
FULL = {"d_model": 1024, "ffn_dim": 4096}


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    title: str
    what: str  # evaluate | train | decode
    sizes: dict[str, int]
    image_size: int
    clips: int
    frames: int  # of each clip
    goal: float
    repeat_frames: bool = False  # theirs sends repeated edge frames through the CNN, like the parent project


CASES = {
    "evaluate": Case("forward, d 256, 2 x 48 frames, 112x112", "evaluate", SMALL, 112, 2, 48, 0.85),
    "evaluate_parent": Case(
        "the same, edge frames through their CNN", "evaluate", SMALL, 112, 2, 48, 0.85, True
    ),
    "train": Case("training step, d 256, 2 x 48 frames, 112x112", "train", SMALL, 112, 2, 48, 1.2),
    "train_parent": Case("the same, edge frames through their CNN", "train", SMALL, 112, 2, 48, 1.2, True),
    "evaluate_full": Case("forward, d 1024, 2 x 48 frames, 224x224", "evaluate", FULL, 224, 2, 48, 1.3),
    "train_full": Case("training step, d 1024, 2 x 48 frames, 224x224", "train", FULL, 224, 2, 48, 1.3),
    "decode": Case("beam 4, 8 clips, d 256", "decode", SMALL, 112, 8, 1, 0.85),
    "decode_full": Case("beam 4, 8 clips, d 1024", "decode", FULL, 112, 8, 1, 1.0),
}


def make_config(case: Case) -> Config:
    tree = default_config()
    tree.data.image_size, tree.data.crop_fraction, tree.data.max_frames = case.image_size, 1.0, case.frames
    tree.model.mbart.update(case.sizes)
    tree.model.fusion.ffn_dim = case.sizes["ffn_dim"]
    tree.compute.dtype = "float32"
    tree.translate.label_smoothing = 0.2
    tree.translate.optim.update(name="adamw", learning_rate=1e-4)
    return read_config(tree)


def make_batch(case: Case) -> dict[str, np.ndarray]:
    """Return the fields of a noise `Batch` and of its texts, unpadded."""
    rng = np.random.default_rng(0)

    def text(length: int) -> np.ndarray:
        ids = rng.integers(4, LANGUAGE, (case.clips, length), np.int32)
        ids[:, -2:] = EOS, LANGUAGE
        return ids

    question, target = text(QUESTION), text(TARGET)
    size = (case.clips * case.frames, case.image_size, case.image_size, 3)
    clips = np.arange(case.clips, dtype=np.int32)
    return {
        "frames": rng.integers(0, 256, size, np.uint8),
        "frame_start": clips * case.frames,
        "frame_count": np.full(case.clips, case.frames, np.int32),
        "question": question,
        "question_mask": np.ones_like(question, bool),
        "target": target,
        "target_mask": np.ones_like(target, bool),
        "masked_target": target,
        "masked_target_mask": np.ones_like(target, bool),
        "gloss": np.zeros((case.clips, 1), np.int32),
        "gloss_mask": np.zeros((case.clips, 1), bool),
        "index": clips,
        "valid": np.ones(case.clips, bool),
    }


def make_prompt(case: Case, d_model: int) -> tuple[np.ndarray, np.ndarray]:
    """Return encoder states [B,T,D] and the question with the language code."""
    rng = np.random.default_rng(1)
    prompt = rng.integers(4, LANGUAGE, (case.clips, QUESTION + 1), np.int32)
    prompt[:, [0, -1]] = LANGUAGE
    return rng.standard_normal((case.clips, POSITIONS, d_model)).astype(np.float32), prompt


def our_model(config: Config, *, trained: bool) -> tuple[Any, Any, Any]:
    """Return stage 2, its initial state and its optimizer, equal everywhere."""
    import jax
    import optax

    from sslssaw_jax.stages.stage import StageInputs
    from sslssaw_jax.systems import SYSTEMS
    from sslssaw_jax.training.optimizer import make_optimizer

    stage = SYSTEMS[config.system].make_stages(config, StageInputs(VOCAB_SIZE))[-1]
    optimizer = make_optimizer(config.translate.optim, 1000)[0] if trained else optax.identity()
    return stage, stage.init(jax.random.key(0), optimizer), optimizer


def end_sentences(params: Any) -> None:
    """Make `</s>` certain at a sentence's last token and impossible elsewhere."""
    table = params["embedding"]["embed"]["embedding"]
    bias = params["embedding"]["final_logits_bias"]
    positions = params["decoder"]["input"]["embed_positions"]["embedding"]
    row = QUESTION + SENTENCE - 1 + 2  # two rows are unused
    positions[...] = positions[...].at[row].set(1e4 * table[...][EOS])
    table[...] = table[...].at[EOS].multiply(40)
    bias[...] = bias[...].at[EOS].set(-8 * table.shape[1] ** 0.5)


def ours(case: Case) -> None:
    import jax
    from flax import nnx

    from sslssaw_jax.models.beam_search import EncodedModel, beam_search
    from sslssaw_jax.models.cpu_gradients import compiler_options
    from sslssaw_jax.stages.step import eval_step, train_step
    from sslssaw_jax.training.host_memory import keep_freed_memory
    from sslssaw_jax.types import Batch, Texts

    keep_freed_memory()  # as run.py does
    config = make_config(case)
    stage, state, optimizer = our_model(config, trained=case.what == "train")
    fields = make_batch(case)
    texts = Texts(*(fields.pop(name) for name in Texts._fields))
    batch = jax.device_put(Batch(**fields, decoder_texts=texts, text_tower_texts=texts))
    key = jax.random.key(1)

    def evaluate() -> float:
        return float(compiled(state.params, state.batch_stats, batch)["loss"])

    def train() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(compiled(state, batch, key))
        return float(metrics["loss"])

    def decode() -> list[list[int]]:
        return np.asarray(compiled(state.params, state.batch_stats)).tolist()

    start = time.process_time()
    if case.what == "evaluate":
        step = jax.jit(functools.partial(eval_step, graphdef=stage.eval_def, loss=stage.loss))
        compiled = step.lower(state.params, state.batch_stats, batch).compile()
    elif case.what == "train":
        step = jax.jit(
            functools.partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer),
            donate_argnums=0,
        )
        compiled = step.lower(state, batch, key).compile(compiler_options())  # as in training
    else:
        end_sentences(state.params)
        states, prompt = make_prompt(case, config.model.mbart.d_model)

        @jax.jit
        def search(params: nnx.State, batch_stats: nnx.State) -> jax.Array:
            model = nnx.merge(stage.eval_def, params, batch_stats)
            mask = np.ones(states.shape[:2], bool)
            tokens, _ = beam_search(
                [EncodedModel(model.decoder, model.embedding, model.embedding.logits, states, mask)],
                prompt,
                np.ones(prompt.shape, bool),
                beams=config.decode.beams,
                max_new_tokens=config.decode.max_new_tokens,
                length_penalty=1.0,
                eos_id=EOS,
                pad_id=PAD,
            )
            return tokens[:, 0]

        compiled = search.lower(state.params, state.batch_stats).compile()
    compile_seconds = time.process_time() - start
    serve({"evaluate": evaluate, "train": train, "decode": decode}[case.what], compile=compile_seconds)


def theirs(case: Case) -> None:
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    from benchmarks.torch_peer import Peer, inputs

    torch.set_num_threads(1)
    config = make_config(case)
    peer = Peer(config, VOCAB_SIZE, repeat_frames=case.repeat_frames)
    x = inputs(make_batch(case))
    optim = config.translate.optim
    optimizer = torch.optim.AdamW(
        peer.parameters(), optim.learning_rate, (optim.b1, optim.b2), weight_decay=optim.weight_decay
    )

    @torch.inference_mode()
    def evaluate() -> float:
        return float(peer(x))

    def train() -> float:
        optimizer.zero_grad()
        loss = peer(x)
        loss.backward()
        optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def decode() -> list[list[int]]:
        sequences = peer.mbart.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=torch.ones(states.shape[:2], dtype=torch.long),
            decoder_input_ids=prompt,
            num_beams=config.decode.beams,
            max_new_tokens=config.decode.max_new_tokens,
            eos_token_id=EOS,
            forced_eos_token_id=EOS,
            suppress_tokens=[PAD],
            decoder_start_token_id=LANGUAGE,
            early_stopping=False,
            do_sample=False,
        )
        return sequences[:, prompt.shape[1] :].tolist()

    if case.what != "train":
        peer.eval()
    if case.what == "decode":
        from flax import nnx

        _, state, _ = our_model(config, trained=False)
        end_sentences(state.params)
        peer.load_ours(nnx.to_pure_dict(state.params), nnx.to_pure_dict(state.batch_stats))
        states, prompt = map(torch.from_numpy, make_prompt(case, config.model.mbart.d_model))
    serve({"evaluate": evaluate, "train": train, "decode": decode}[case.what])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds that are measured, after one to warm up"
    )
    parser.add_argument("--core", type=int, default=0, help="the core that both sides run on")
    parser.add_argument("--worker", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown case {', '.join(unknown)}; known: {', '.join(CASES)}")
    if options.worker:
        {"ours": ours, "theirs": theirs}[options.worker](CASES[options.cases[0]])
        return
    rows = []
    for name in options.cases or CASES:
        case = CASES[name]
        found = compare([name, "--worker=ours"], [name, "--worker=theirs"], options.rounds, options.core)
        if case.what == "decode":
            check_sentences(**found.results)
        compile_seconds = found.setup["ours"]["compile"]
        rows.append(
            [
                f"`{name}`: {case.title}",
                *(f"{seconds:.2f}" for seconds in found.seconds.values()),
                f"{found.ratio:.2f}",
                f"{case.goal:.2f}",
                f"{compile_seconds:.0f}",
                *(f"{peak:.2f}" for peak in found.peaks.values()),
                f"{found.peaks['ours'] / found.peaks['theirs']:.2f}" if case.what != "decode" else "",
            ]
        )
    header = ["case", "ours, s", "theirs, s", "ratio", "goal", "compile, s (goal 25)"]
    header += ["ours, GB", "theirs, GB", "ratio (goal 1.5)"]
    keep("model", "Model and decoding against PyTorch, processor time on one core", header, rows)


def check_sentences(ours: list[list[int]], theirs: list[list[int]]) -> None:
    """Raise RuntimeError unless both sides found equal sentences of the intended length."""
    width = max(map(len, theirs))
    if [row[:width] for row in ours] != theirs or width != SENTENCE:
        raise RuntimeError(f"the sentences differ, or have {width} tokens instead of {SENTENCE}")


if __name__ == "__main__":
    main()
