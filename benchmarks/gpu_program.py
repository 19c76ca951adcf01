"""What a training step needs from a GPU, counted without one: `python -m benchmarks.gpu_program`.

XLA compiles a configuration's step for the card, and the optimised program is counted kernel by kernel,
without cuDNN's workspaces and without autotuning, so that cuBLAS takes every matrix product. A kernel's floor
is the longer of its FLOP and its bytes at the ceilings of the card's data sheet; a real step takes one and a
half to two times the sum. This needs two more packages, in JAX's own version:

    pip install --no-deps jax-cuda13-plugin==VERSION jax-cuda13-pjrt==VERSION
"""

import argparse
import ast
import contextlib
import functools
import json
import math
import os
import re
import runpy
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import VOCAB_SIZE, keep

STORED = 256  # pixels a side of a stored frame
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8}


@dataclass(frozen=True)
class Card:
    """A GPU as described by its data sheet."""

    name: str
    dtype: str  # of matrix products
    tflops: float  # dense, in this format
    terabytes: float  # a second
    gigabytes: float
    capability: tuple[int, int]
    cores: int
    lanes: int  # of float32 on a core
    threads: int  # at once on a core
    shared: int  # bytes on a core
    l2: int  # bytes
    clock: float  # GHz

    @property
    def target(self) -> str:
        """Return XLA's description of the card."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {self.threads}
  core_count: {self.cores} fpus_per_core: {self.lanes} clock_rate_ghz: {self.clock}
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {self.shared - 1024}
  shared_memory_per_core: {self.shared} l2_cache_size: {self.l2}
  memory_bandwidth: {self.terabytes * 1e12:.0f} device_memory_size: {self.gigabytes * 1e9:.0f}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 device_address_bits: 64
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  device_vendor: "NVIDIA Corporation" name: "{self.name}" pcie_bandwidth: 31500000000
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{self.name}"
"""


CARDS = {
    "h100": Card("H100 SXM", "bfloat16", 989, 3.35, 85, (9, 0), 132, 128, 2048, 233472, 50 << 20, 1.98),
    "a100": Card("A100 SXM 40 GB", "bfloat16", 312, 1.56, 42, (8, 0), 108, 64, 2048, 167936, 40 << 20, 1.41),
    "4090": Card("RTX 4090", "bfloat16", 165, 1.01, 25, (8, 9), 128, 128, 1536, 102400, 72 << 20, 2.52),
    "t4": Card("T4", "float32", 8.1, 0.32, 16, (7, 5), 40, 64, 1024, 65536, 4 << 20, 1.59),
}


@dataclass(frozen=True)
class Instruction:
    """A line of XLA's text."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    line: str

    def attribute(self, pattern: str) -> str:
        found = re.search(pattern, self.line)
        return found[1] if found else ""


@dataclass(frozen=True)
class Kernel:
    """A kernel of a step."""

    group: str
    gigabytes: float  # read and written
    tflop: float


@dataclass
class Group:
    """Kernels of one kind."""

    kernels: int = 0
    gigabytes: float = 0.0
    tflop: float = 0.0
    milliseconds: float = 0.0  # the floor


@dataclass(frozen=True)
class Program:
    """What a compiled step needs."""

    groups: dict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    gigabytes: float = 0.0  # of memory, at most
    state: float = 0.0  # gigabytes of it


_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id"}


def dims(shape: str) -> list[tuple[str, list[int]]]:
    """Return format and sides of each array in a shape."""
    found = re.findall(rf"\b({'|'.join(BYTES)})\[([\d,]*)\]", shape)
    return [(kind, [int(side) for side in sides.split(",") if side]) for kind, sides in found]


def size(shape: str) -> float:
    """Return a shape's gigabytes; int8 of a tuple is a workspace."""
    arrays = dims(shape)
    return (
        sum(math.prod(sides) * BYTES[kind] for kind, sides in arrays if kind != "s8" or len(arrays) == 1)
        * 1e-9
    )


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Return an optimised program's computations, and the name of the first."""
    computations: dict[str, list[Instruction]] = {}
    entry, body = "", []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            body = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, shape, op, rest = found.groups()
            operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
            body.append(Instruction(name, shape, op, tuple(operands), line))
    return computations, entry


def kernels(computations: dict[str, list[Instruction]], name: str, times: int = 1) -> Iterator[Kernel]:
    """Yield a computation's kernels; those in loops as often as they run."""
    shapes = {one.name: one.shape for one in computations[name]}
    for one in computations[name]:
        if one.op in _NO_KERNEL or one.op.endswith("-done"):
            continue
        if one.op in ("while", "conditional", "call"):
            turns = int(one.attribute(r'"known_trip_count":\{"n":"(\d+)"') or 1)
            inside = re.findall(r"(?:body|to_apply|true_computation)=%?([\w.-]+)", one.line)
            inside += re.findall(r"branch_computations=\{%?([\w.-]+)", one.line)
            for other in inside:
                yield from kernels(computations, other, times * turns)
            continue
        read = sum(size(shapes[operand]) for operand in one.operands if not shapes[operand].startswith("("))
        kernel = Kernel(_group(one, computations), read + size(one.shape), _tflop(one, shapes))
        yield from [kernel] * times


def _group(one: Instruction, computations: dict[str, list[Instruction]]) -> str:
    target = one.attribute(r'custom_call_target="([^"]+)"')
    if "cudnn" in target:
        return "convolutions"
    if "cublas" in target or one.op == "dot":
        return "matrix products"
    fused = computations.get(one.attribute(r"calls=%?([\w.-]+)"), [])
    ops = {other.op for other in fused} | {one.op}
    if ops & {"scatter"}:
        return "scatter"
    if ops <= {
        "parameter",
        "constant",
        "fusion",
        "copy",
        "transpose",
        "bitcast",
        "copy-start",
        "memset",
        "pad",
    }:
        return "copies"
    return "pointwise, reductions"


def _tflop(one: Instruction, shapes: dict[str, str]) -> float:
    target = one.attribute(r'custom_call_target="([^"]+)"')
    if "cudnn$conv" in target:
        arrays = [dims(shape)[0][1] for shape in (one.shape, *(shapes[name] for name in one.operands[:2]))]
        # result, left, right; output and kernel of the convolution that is run forward or differentiated
        output, kernel = {"Input": (1, 2), "Filter": (2, 0)}.get(target.partition("Backward")[2], (0, 2))
        features = one.attribute(r"dim_labels=\S+->(\w+)").index("f")
        positions = math.prod(arrays[output]) / arrays[output][features]
        return 2e-12 * positions * math.prod(arrays[kernel])
    if "cublas" in target:
        left = dims(shapes[one.operands[0]])[0][1]
        contracted = one.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]').replace('"', "").split(",")
        depth = math.prod(left[int(axis)] for axis in contracted if axis)
        return 2e-12 * depth * math.prod(dims(one.shape)[0][1])
    return 0.0


def count(text: str, card: Card, program: Program) -> Program:
    """Add the kernels of an optimised program to its groups."""
    for kernel in kernels(*parse(text)):
        group = program.groups[kernel.group]
        group.kernels += 1
        group.gigabytes += kernel.gigabytes
        group.tflop += kernel.tflop
        group.milliseconds += 1e3 * max(kernel.tflop / card.tflops, 1e-3 * kernel.gigabytes / card.terabytes)
    return program


def make_config(options: argparse.Namespace, card: Card) -> Any:
    """Return the configuration, with `--set` applied."""
    from sslssaw_jax.systems import read_config

    path, _, variant = options.config.partition(":")
    tree = runpy.run_path(path)["get_config"](*[variant] * bool(variant))
    tree.compute.dtype = card.dtype
    for change in options.set:
        key, value = change.split("=")
        with contextlib.suppress(ValueError):  # of a word
            value = ast.literal_eval(value)
        tree.update_from_flattened_dict({key: value})
    return read_config(tree)


def abstract_batch(config: Any, frames: int, clips: int) -> Any:
    """Return the shapes of a batch."""
    import jax
    import jax.numpy as jnp

    from sslssaw_jax.types import Batch, Texts

    def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def text(tokens: int) -> tuple[Any, Any]:
        return array(jnp.int32, clips, tokens), array(jnp.bool_, clips, tokens)

    target, gloss = text(config.data.max_target_tokens), text(config.data.max_glosses)
    texts = Texts(*text(config.data.max_question_tokens), *target)
    return Batch(
        frames=array(jnp.uint8, frames, STORED, STORED, 3),
        frame_start=array(jnp.int32, clips),
        frame_count=array(jnp.int32, clips),
        decoder_texts=texts,
        text_tower_texts=texts,
        masked_target=target[0],
        masked_target_mask=target[1],
        gloss=gloss[0],
        gloss_mask=gloss[1],
        index=array(jnp.int32, clips),
        valid=array(jnp.bool_, clips),
    )


def compile_step(config: Any, card: Card) -> tuple[str, Program]:
    """Return the text of a configuration's optimised step, and its memory."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    from sslssaw_jax.stages.stage import StageInputs
    from sslssaw_jax.stages.step import train_step
    from sslssaw_jax.systems import SYSTEMS
    from sslssaw_jax.training.optimizer import make_optimizer

    jax.devices()  # a topology is found only after this
    [device] = topologies.get_topology_desc("1", "cuda", target_config=card.target, topology="1x1x1").devices
    stage = SYSTEMS[config.system].make_stages(config, StageInputs(VOCAB_SIZE))[-1]
    stage_config = getattr(config, stage.name)
    optimizer, _ = make_optimizer(stage_config.optim, num_steps=1000)
    init = functools.partial(stage.init, optimizer=optimizer, averaged=stage_config.ema_decay > 0)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(init, key)
    batch = abstract_batch(config, stage_config.frame_budget, stage_config.clips_per_batch)
    sharding = SingleDeviceSharding(device)
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), (state, batch, key)
    )
    step = functools.partial(
        train_step,
        graphdef=stage.train_def,
        loss=stage.loss,
        optimizer=optimizer,
        ema_decay=stage_config.ema_decay,
    )
    lowered = jax.jit(step, donate_argnums=0).trace(*arguments).lower(lowering_platforms=("cuda",))
    compiled = lowered.compile({"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False})
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    leaves = jax.tree.leaves(state)
    return compiled.as_text(), Program(
        gigabytes=1e-9 * (held + memory.temp_size_in_bytes),
        state=1e-9 * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="configs/phoenix_stage2.py", help="with its variant, if any")
    parser.add_argument("--set", action="append", default=[], help="change of the configuration: key=value")
    parser.add_argument("--cards", nargs="+", choices=CARDS, default=["h100"], help="GPUs to compile for")
    parser.add_argument("--text", help="file that the optimised program is written to")
    parser.add_argument("--json", action="store_true", help="print one JSON line per card, and keep no table")
    options = parser.parse_args()
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # there is no driver
    header = ("", "kernels", "GB", "TFLOP", "floor, ms")
    for card in (CARDS[name] for name in options.cards):
        config, start = make_config(options, card), time.perf_counter()
        text, program = compile_step(config, card)
        seconds = time.perf_counter() - start
        if options.text:
            with open(options.text, "w", encoding="utf-8") as file:
                file.write(text)
        count(text, card, program)
        groups = dict(sorted(program.groups.items(), key=lambda group: -group[1].milliseconds))
        groups["step"] = Group(
            *(sum(column) for column in zip(*(vars(one).values() for one in groups.values())))
        )
        if options.json:
            shown = {name: vars(group) for name, group in groups.items()}
            print(json.dumps({"card": card.name, "gigabytes": program.gigabytes, "groups": shown}))
            continue
        keep(
            "gpu_program",
            f"{' '.join([options.config, *options.set])} on one {card.name}, {card.dtype}: "
            f"{program.gigabytes:.1f} of {card.gigabytes:.0f} GB, {program.state:.1f} of them the state "
            f"(compiled in {seconds:.0f} s)",
            header,
            [
                (
                    name,
                    str(one.kernels),
                    f"{one.gigabytes:.1f}",
                    f"{one.tflop:.2f}",
                    f"{one.milliseconds:.1f}",
                )
                for name, one in groups.items()
            ],
        )


if __name__ == "__main__":
    main()
