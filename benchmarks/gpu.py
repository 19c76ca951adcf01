"""Stage 2 at full size on an accelerator, ours and PyTorch's: `python -m benchmarks.gpu`.

Ours is a run's own loop: rendered clips are read, decoded, augmented on the device, and the step is that of
`configs/phoenix_stage2.py`, in bfloat16. PyTorch runs the same model under autocast on one batch that already
lies on the device, normalised: it waits for no input. Each in its own process, one after the other.
`--toy` is the same at a size for a CPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import keep
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.systems import read_config

VOCAB_SIZE = 2454  # of mBART trimmed to PHOENIX-2014T
WARM_UP = 5  # steps that are not counted
THEIRS = {
    "parent": "PyTorch, edge frames through the CNN as the parent project",
    "tuned": "PyTorch, channels last, edge features repeated",
}


def make_config(folder: Path, options: argparse.Namespace) -> Config:
    """Stage 2 as shipped, from scratch, on `prepare`'s clips; every step is an epoch."""
    from benchmarks.loader import DATASET
    from configs import phoenix_stage2

    config = phoenix_stage2.get_config()
    config.data.dataset, config.data.data_dir = DATASET, str(folder)
    config.data.tokenizer = config.model.mbart.weights = config.model.cnn.weights = ""
    config.data.cache, config.data.num_threads = options.cache, options.threads
    config.data.mask_rate = 0.0
    config.data.max_frames = max(options.frames, 300 * (not options.toy))
    config.compute.dtype = "float32" if options.toy else "bfloat16"
    config.translate.clips_per_batch = options.clips
    config.translate.frame_budget = options.clips * options.frames
    config.translate.epochs = WARM_UP + options.steps
    if options.toy:
        config.data.image_size = 32
        config.model.cnn.resnet.width = 8
        config.model.mbart.update(d_model=32, ffn_dim=64, video_layers=1, decoder_layers=1)
        config.model.fusion.ffn_dim = 64
    return read_config(config)


def timed(step: Callable[[], Any], wait: Callable[[], None], steps: int) -> float:
    """Seconds of `steps` steps, after those that are not counted."""
    for _ in range(WARM_UP):
        step()
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return time.perf_counter() - start


def ours(config: Config, steps: int) -> dict[str, Any]:
    from functools import partial

    import jax

    from sslssaw_jax.data.batches import train_batches
    from sslssaw_jax.data.dataset import find_dataset
    from sslssaw_jax.data.frame_cache import open_clips
    from sslssaw_jax.data.mbart_tokenizer import load_tokenizer
    from sslssaw_jax.stages.stage import StageInputs
    from sslssaw_jax.stages.step import train_step
    from sslssaw_jax.systems import SYSTEMS
    from sslssaw_jax.training.optimizer import make_optimizer

    dataset = find_dataset(config.data.data_dir, config.data.dataset)
    source = open_clips(dataset, config.data, "train")
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language)
    iterator = train_batches(source, tokenizer, config.data, config.translate, seed=0).iterator()
    optimizer, _ = make_optimizer(config.translate.optim, config.translate.epochs)
    stage = SYSTEMS[config.system].make_stages(config, StageInputs(VOCAB_SIZE))[-1]
    state = stage.init(jax.random.key(0), optimizer)
    batch, key = next(iterator), jax.random.key(1)
    lowered = jax.jit(
        partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer), donate_argnums=0
    ).lower(state, batch, key)
    flops = (lowered.cost_analysis() or {}).get("flops", 0.0)
    start = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start
    metrics, waits = None, []

    def step() -> None:
        nonlocal state, batch, metrics
        last = metrics
        state, metrics = compiled(state, jax.device_put(batch), key)
        if last:
            jax.device_get(last)  # one step late, as in training: the host runs no further ahead
        start = time.perf_counter()
        batch = next(iterator, batch)  # the last step asks for one more than there are
        waits.append(time.perf_counter() - start)

    seconds = timed(step, lambda: jax.block_until_ready(state), steps)
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "device": jax.devices()[0].device_kind,
        "seconds": seconds,
        "wait": sum(waits[WARM_UP:]) / seconds,
        "flops": flops,
        "compile": compile_seconds,
        "memory": memory.get("peak_bytes_in_use", 0) / 1e9,
    }


def theirs(config: Config, steps: int, kind: str) -> dict[str, Any]:
    import torch

    from benchmarks.torch_peer import Peer, inputs
    from sslssaw_jax.data.batches import train_batches
    from sslssaw_jax.data.clips import ClipSource
    from sslssaw_jax.data.dataset import find_dataset
    from sslssaw_jax.data.mbart_tokenizer import load_tokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = find_dataset(config.data.data_dir, config.data.dataset)
    source = ClipSource(dataset, "train")
    tokenizer = load_tokenizer(dataset.tokenizer_folder, dataset.language)
    batch = next(iter(train_batches(source, tokenizer, config.data, config.translate, seed=0)))
    x = inputs(vars(batch) | batch.decoder_texts._asdict(), device)
    size = (config.data.image_size,) * 2
    x = x._replace(frames=torch.nn.functional.interpolate(x.frames, size, mode="bilinear"))
    peer = Peer(config, VOCAB_SIZE, repeat_frames=kind == "parent").to(device)
    if kind == "tuned":
        peer.cnn = peer.cnn.to(memory_format=torch.channels_last)
        x = x._replace(frames=x.frames.contiguous(memory_format=torch.channels_last))
        torch.backends.cudnn.benchmark = True
    optim = config.translate.optim
    optimizer = torch.optim.SGD(
        peer.parameters(), optim.learning_rate, optim.momentum, weight_decay=optim.weight_decay
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=config.compute.dtype == "bfloat16"):
            loss = peer(x)
        loss.backward()
        optimizer.step()

    seconds = timed(step, torch.cuda.synchronize if device == "cuda" else lambda: None, steps)
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0
    return {"seconds": seconds, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--clips", type=int, default=8, help="of a batch")
    parser.add_argument("--frames", type=int, default=116, help="of each clip; PHOENIX-2014T's mean")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=16, help="that read and decode")
    parser.add_argument("--cache", action="store_true", help="read decoded frames")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the device, dense; H100, H200")
    parser.add_argument("--worker", choices=("ours", *THEIRS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        config = make_config(options.folder, options)
        own = options.worker == "ours"
        found = ours(config, options.steps) if own else theirs(config, options.steps, options.worker)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        from benchmarks.loader import prepare

        prepare(Path(folder), options.clips, options.frames)
        command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], f"--folder={folder}"]
        found = {}
        for worker in ("ours", *THEIRS):
            run = subprocess.run(
                [*command, f"--worker={worker}"], stdout=subprocess.PIPE, text=True, check=True
            )
            found[worker] = json.loads(run.stdout.splitlines()[-1])
    rows = []
    for worker, values in found.items():
        rate = options.steps / values["seconds"]
        rows.append(
            [
                THEIRS.get(worker, "ours"),
                f"{rate * options.clips:,.1f}",
                f"{rate * options.clips * options.frames:,.0f}",
                f"{1e3 / rate:,.1f}",
                # of the same FLOPs for all, those of our step: work done twice is no use
                f"{rate * found['ours']['flops'] / (options.peak_tflops * 1e12):.1%}",
                f"{values['memory']:.1f}",
                f"{values['wait']:.1%}" if "wait" in values else "",
                f"{values['compile']:.0f}" if "compile" in values else "",
            ]
        )
    header = ["", "clips/s", "frames/s", "step, ms", "MFU", "peak, GB", "input wait", "compile, s"]
    keep("gpu", f"Stage 2{' (toy)' * options.toy} on {found['ours']['device']}", header, rows)


if __name__ == "__main__":
    main()
