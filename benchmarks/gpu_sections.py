"""The sections of `benchmarks.gpu`: each function measures one thing and returns its findings."""

import argparse
import collections
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_setup import (
    draw_state,
    make_batches,
    make_config,
    make_stage,
    render_clips,
)
from benchmarks.harness import VOCAB_SIZE
from sslssaw_jax.types import Batch

Findings = dict[str, Any]


def seconds_of(function: Callable[..., Any], *arguments: Any, repeats: int = 10) -> float:
    """Return the seconds of a call, from the best of three rows."""
    import jax

    times = []
    for _ in range(4):  # the first row also compiles
        start = time.perf_counter()
        for _ in range(repeats):
            result = function(*arguments)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / repeats)
    return min(times)


def ceilings(options: argparse.Namespace) -> Findings:
    """Measure what the machine can do: products, copies, transfers, JPEGs."""
    import cv2
    import jax
    import jax.numpy as jnp

    from benchmarks.loader import encoded_clip

    side, frames = (256, 16) if options.toy else (8192, 944)
    found: Findings = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    square = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    found["matmul_tflops"] = 2e-12 * side**3 / seconds_of(jax.jit(jnp.matmul), square, square, repeats=30)
    line = jnp.ones(16 * side**2, jnp.float32)
    found["copy_tb_s"] = 2e-12 * line.nbytes / seconds_of(jax.jit(lambda x: x + 1), line)
    pixels = np.random.default_rng(0).integers(0, 255, (frames, 256, 256, 3), np.uint8)
    found["to_device_gb_s"] = 1e-9 * pixels.nbytes / seconds_of(jax.device_put, pixels)
    # whether a transfer waits for a computation that was enqueued before
    compute = jax.jit(lambda x: jax.lax.fori_loop(0, 100, lambda _, y: 1e-4 * (y @ x), x))
    found["compute_ms"] = 1e3 * seconds_of(compute, square, repeats=1)
    for name, running in (("alone", False), ("behind_compute", True)):
        fresh = np.array(pixels)
        computed = compute(square) if running else square
        start = time.perf_counter()
        placed = jax.device_put(fresh)
        called = time.perf_counter()
        jax.block_until_ready(placed)
        found[f"to_device_{name}_ms"] = [1e3 * (at - start) for at in (called, time.perf_counter())]
        jax.block_until_ready(computed)

    cv2.setNumThreads(1)
    jpegs = encoded_clip(0, 32 if options.toy else 232, (256, 256), "jpg")

    def decode(_: int) -> None:
        for jpeg in jpegs:
            cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)

    for threads in (1, 4, 8, 16):
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            list(pool.map(decode, range(2 * threads)))
        found[f"jpegs_s_{threads}_threads"] = 2 * threads * len(jpegs) / (time.perf_counter() - start)
    return found


def stem(options: argparse.Namespace) -> Findings:
    """Measure the first convolution by the layout of its input.

    Pixels have 3 channels, or with zeros 4 and 8; 2 x 2 of them laid out as channels have 12, or 16.
    """
    import jax
    import jax.numpy as jnp

    frames, side = (16, 32) if options.toy else (944, 224)
    layouts = {"3": (side, 3, 7, 2, (3, 3)), "4": (side, 4, 7, 2, (3, 3)), "8": (side, 8, 7, 2, (3, 3))}
    layouts |= {"2x2x3": (side // 2, 12, 4, 1, (2, 1)), "2x2x3+4": (side // 2, 16, 4, 1, (2, 1))}
    found: Findings = {}
    for name, (side, channels, kernel_side, stride, padding) in layouts.items():
        x = jax.random.normal(jax.random.key(1), (frames, side, side, channels), jnp.bfloat16)
        kernel = jax.random.normal(jax.random.key(2), (kernel_side, kernel_side, channels, 64), jnp.bfloat16)
        convolve = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(stride, stride),
            padding=(padding, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        gradient = jax.jit(lambda x, y, k, f=convolve: jax.vjp(functools.partial(f, x), k)[1](y)[0])
        y = jax.jit(convolve)(x, kernel)
        forward_ms = 1e3 * seconds_of(jax.jit(convolve), x, kernel)
        found[f"stem_{name}_ms"] = [forward_ms, 1e3 * seconds_of(gradient, x, y, kernel)]
    return found


def check(options: argparse.Namespace) -> Findings:
    """Compare a small model's first steps with those on a CPU."""
    import jax

    from sslssaw_jax.data.augment import prepare_frames
    from sslssaw_jax.stages.step import train_step

    options.toy, found = True, {}
    batch = None
    for name, device, dtype, precision in (
        ("cpu", jax.local_devices(backend="cpu")[0], "float32", "highest"),
        ("float32", jax.devices()[0], "float32", "highest"),
        ("bfloat16", jax.devices()[0], "bfloat16", "default"),
    ):
        config = make_config(options, "stage2")
        config = dataclasses.replace(config, compute=dataclasses.replace(config.compute, dtype=dtype))
        batch = batch or next(make_batches(config, threads=1))
        stage, optimizer = make_stage(config)
        with jax.default_device(device), jax.default_matmul_precision(precision):
            full_size = dataclasses.replace(config.data, image_size=224)
            prepare = jax.jit(functools.partial(prepare_frames, config=full_size))
            pixels = np.asarray(prepare(batch, key=jax.random.key(1))[0])
            step = jax.jit(
                functools.partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer)
            )
            state, values = draw_state(stage, optimizer), []
            for _ in range(3):
                state, metrics = step(state, batch, jax.random.key(2))
                values += [float(metrics["loss"]), float(metrics["grad_norm"])]
        if name == "cpu":
            exact = (pixels, np.array(values))
        found[name] = {
            "values": values,
            "largest_relative_error": float(np.abs(np.array(values) / exact[1] - 1).max()),
            "largest_pixel_error": float(np.abs(pixels - exact[0]).max()),
        }
    return found


def step(options: argparse.Namespace, stage_name: str) -> Findings:
    """Measure a training step: resident, by kernel, and fed by the loader.

    The loops fed by the loader send batches 0 steps and 1 step ahead; stage 2 measures each twice.
    """
    import jax

    from sslssaw_jax.stages.step import train_step
    from sslssaw_jax.training.sharding import make_mesh, shard_batch

    config, steps = make_config(options, stage_name), 3 if options.toy else 30
    mesh, key = make_mesh(config.mesh), jax.random.key(1)
    stage, optimizer = make_stage(config)
    start = time.perf_counter()
    state = jax.block_until_ready(jax.device_put(draw_state(stage, optimizer)))
    host_batch = next(make_batches(config, threads=1))
    batch = shard_batch(host_batch, mesh)
    clips, frames = int(host_batch.valid.sum()), int(host_batch.frame_count.sum())
    found: Findings = {"clips": clips, "frames": frames, "start_s": time.perf_counter() - start}
    print(json.dumps(found), flush=True)  # what is known if the time runs out
    function = functools.partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer)
    start = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=0).lower(state, batch, key)
    found["lower_s"] = time.perf_counter() - start
    print(json.dumps(found), flush=True)
    start = time.perf_counter()
    compiled = lowered.compile()
    found["compile_s"] = time.perf_counter() - start
    found["temporaries_gb"] = 1e-9 * compiled.memory_analysis().temp_size_in_bytes
    print(json.dumps(found), flush=True)

    def run(next_batch: Callable[[], Any]) -> dict[str, float]:
        """Return a step's milliseconds and its parts; metrics are read late."""
        nonlocal state
        last, times = None, [time.perf_counter()]
        for _ in range(steps):
            batch = next_batch()
            times.append(time.perf_counter())
            state, metrics = compiled(state, batch, key)
            times.append(time.perf_counter())
            if last:
                jax.device_get(last)
            times.append(time.perf_counter())
            last = metrics
        found["metrics"] = {name: float(value) for name, value in jax.device_get(last).items()}
        parts = 1e3 * np.diff(times).reshape(steps, 3).mean(axis=0)
        whole = 1e3 * (time.perf_counter() - times[0]) / steps
        return {"ms": whole, **dict(zip(("batch_ms", "enqueue_ms", "read_ms"), parts.tolist()))}

    run(lambda: batch)
    found["resident_ms"] = sorted(run(lambda: batch)["ms"] for _ in range(3))
    print(json.dumps(found), flush=True)
    if options.trace:
        folder = options.trace / f"{options.label}_{stage_name}"
        with jax.profiler.trace(str(folder)):
            for _ in range(3):
                state, _ = compiled(state, batch, key)
            jax.block_until_ready(state)
        found |= kernel_table(next(folder.rglob("*.xplane.pb")), steps=3)
        print(json.dumps(found), flush=True)

    def sent(batches: Iterator[Batch], ahead: int, waits: list[float]) -> Iterator[Batch]:
        """Yield the loader's batches, each sent to the device some steps ahead."""
        queue: collections.deque[Batch] = collections.deque()
        while True:
            start = time.perf_counter()
            host_batch = next(batches)
            waits.append(time.perf_counter() - start)
            queue.append(shard_batch(host_batch, mesh))
            if len(queue) > ahead:
                yield queue.popleft()

    loops = (0, 1, 0, 1) if stage_name == "stage2" else (0, 1)
    for ahead in loops if options.loader else ():
        waits: list[float] = []
        batches = sent(make_batches(config, threads=16), ahead, waits)
        run(functools.partial(next, batches))  # uses up the batches that were ready
        waits.clear()
        row = run(functools.partial(next, batches))
        row["wait"] = 1e3 * sum(waits) / steps / row["ms"]
        found.setdefault(f"loop_{ahead}_ahead", []).append(row)
        print(json.dumps(found), flush=True)
    found["peak_gb"] = 1e-9 * (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return found


KERNEL_GROUPS = {
    "copy": ("memcpy", "memset"),
    "convolution": ("cudnn", "fprop", "dgrad", "wgrad", "nhwcaddpadding"),
    "product": ("gemm", "cublas", "cutlass", "nvjet"),
    "scatter": ("scatter",),
    "reduction": ("reduce",),
}  # by words of a kernel's name; the others are pointwise


def kernel_table(profile: Path, steps: int) -> Findings:
    """Return a step's milliseconds by kind of kernel, and slow kernels."""
    import jax

    total: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    lines = []
    for plane in jax.profiler.ProfileData.from_file(str(profile)).planes:
        for line in plane.lines:
            lines.append(f"{plane.name}: {line.name}")
            if "/device:GPU" in plane.name and "Stream" in line.name:
                for event in line.events:
                    total[event.name] += event.duration_ns * 1e-6 / steps
                    count[event.name] += 1
    groups: collections.Counter[str] = collections.Counter()
    for name, milliseconds in total.items():
        low = name.lower()
        kind = next((k for k, words in KERNEL_GROUPS.items() if any(w in low for w in words)), "pointwise")
        groups[kind] += milliseconds
    return {
        "kernels": sum(count.values()) / steps,
        "groups_ms": dict(groups),
        "top_ms": [(name[:100], ms, count[name] / steps) for name, ms in total.most_common(40)],
        "profile_lines": lines[:40],
    }


def beam(options: argparse.Namespace) -> Findings:
    """Measure beam search on one batch, to the last position."""
    import jax

    from sslssaw_jax.stages.translation import translate_step

    config = make_config(options, "stage2")
    stage, optimizer = make_stage(config)
    state = jax.device_put(draw_state(stage, optimizer))
    batch = jax.device_put(next(make_batches(config, threads=1)))
    translate = jax.jit(
        functools.partial(
            translate_step,
            graphdef=stage.eval_def,
            translation=stage.translation,
            decode=config.decode,
            language_id=5,
            eos_id=2,
            pad_id=1,
        )
    )
    start = time.perf_counter()
    result = jax.block_until_ready(translate(state.params, state.batch_stats, batch))
    found = {"compile_s": time.perf_counter() - start}
    found["batch_ms"] = 1e3 * seconds_of(translate, state.params, state.batch_stats, batch, repeats=5)
    return found | {"tokens": int((result.tokens != 1).sum(-1).max())}


def init(options: argparse.Namespace) -> Findings:
    """Measure how long a run's own first draw of the parameters takes."""
    import jax

    stage, optimizer = make_stage(make_config(options, "stage2"))
    start = time.perf_counter()
    jax.block_until_ready(stage.init(jax.random.key(0), optimizer))
    return {"init_s": time.perf_counter() - start}


def peer(options: argparse.Namespace, kind: str) -> Findings:
    """Measure PyTorch's step of stage 2 on one resident batch.

    Args:
        options: The command's options.
        kind: "eager" (channels last), "compiled" (the same by torch.compile, with a fused optimizer) or
            "parent" (edge frames through the CNN, as the parent project has it).
    """
    import torch

    from benchmarks.torch_peer import Peer, inputs

    config, steps = make_config(options, "stage2"), 3 if options.toy else 30
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = next(make_batches(config, threads=1))
    x = inputs(vars(batch) | batch.decoder_texts._asdict(), device)
    low, size = (256 - config.data.image_size) // 2, config.data.image_size
    x = x._replace(frames=x.frames[:, :, low : low + size, low : low + size].contiguous())
    model = Peer(config, VOCAB_SIZE, repeat_frames=kind == "parent").to(device).train()
    torch.set_float32_matmul_precision("high")
    if kind != "parent":
        torch.backends.cudnn.benchmark = True
        model.cnn = model.cnn.to(memory_format=torch.channels_last)
        x = x._replace(frames=x.frames.contiguous(memory_format=torch.channels_last))
    optim = config.translate.optim
    optimizer = torch.optim.SGD(
        model.parameters(),
        optim.learning_rate,
        optim.momentum,
        weight_decay=optim.weight_decay,
        fused=kind == "compiled",
    )
    if kind == "compiled":  # in parts: lists of lengths between them would break the graph
        compiled = functools.partial(torch.compile, dynamic=False)
        model.cnn = compiled(model.cnn)
        model.mbart.model.encoder = compiled(model.mbart.model.encoder)
        model.mbart.model.decoder = compiled(model.mbart.model.decoder)

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                loss = model(x)
            loss.backward()
            optimizer.step()
        found["loss"] = float(loss)  # waits for the device
        return 1e3 * (time.perf_counter() - start) / steps

    found: Findings = {"torch": torch.__version__, "clips": len(x.lengths)}
    found["warm_up_s"] = 5e-3 * run(5)
    found["resident_ms"] = sorted(run(steps) for _ in range(3))
    found["peak_gb"] = 1e-9 * torch.cuda.max_memory_allocated() if device == "cuda" else 0.0
    return found


SECTIONS: dict[str, Callable[[argparse.Namespace], Findings]] = {
    "clips": render_clips,
    "ceilings": ceilings,
    "stem": stem,
    "check": check,
    "stage2": functools.partial(step, stage_name="stage2"),
    "stage1": functools.partial(step, stage_name="stage1"),
    "beam": beam,
    "init": init,
    **{f"peer_{kind}": functools.partial(peer, kind=kind) for kind in ("eager", "compiled", "parent")},
}
