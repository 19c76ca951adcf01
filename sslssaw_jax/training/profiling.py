"""The speed of a step: FLOPs, peak of the devices, and traces."""

import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import jax

# Dense bfloat16 TFLOP/s (float16 on devices without bfloat16) from the vendors' data sheets. The first entry
# whose words are all in the device's name counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "V100": 125.0,
    "T4": 65.0,
}


def peak_flops(configured_tflops: float) -> float:
    """Return the peak FLOP/s of all devices together; 0 if unknown.

    Args:
        configured_tflops: Peak of one device; 0 looks it up by the device's name.
    """
    words = set(re.split(r"[\s-]+", jax.devices()[0].device_kind))
    known = next((peak for name, peak in PEAK_TFLOPS.items() if words.issuperset(name.split())), 0.0)
    return (configured_tflops or known) * 1e12 * jax.device_count()


def count_flops(jaxpr: Any) -> float:
    """Return the FLOPs of a traced program's matrix products and convolutions.

    The body of a loop of known length counts each time, that of any other loop once; of several branches, the
    first counts. A step along a dilated input counts only where the input has a number.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        params, shapes = equation.params, [variable.aval.shape for variable in equation.invars]
        name = equation.primitive.name
        if name == "dot_general":
            ((contracted, _), _) = params["dimension_numbers"]
            total += 2 * equation.outvars[0].aval.size * math.prod(shapes[0][axis] for axis in contracted)
        elif name == "conv_general_dilated":
            outputs = shapes[1][params["dimension_numbers"].rhs_spec[0]]
            taps = math.prod(shapes[1]) / outputs / math.prod(params["lhs_dilation"])
            total += 2 * equation.outvars[0].aval.size * taps
        elif name == "cond":
            total += count_flops(params["branches"][0])
        else:
            once = sum(count_flops(inner) for inner in params.values() if hasattr(inner, "eqns"))
            total += once * (params["length"] if name == "scan" else 1)
    return total


class CountedStep:
    """A jitted function, compiled once for each batch length, that knows its FLOPs.

    Args:
        jitted: What `jax.jit` returns.
        compiling: Makes the context in which the function is compiled, from all arguments but the state.
    """

    def __init__(
        self, jitted: Any, compiling: Callable[..., AbstractContextManager[None]] = lambda *_: nullcontext()
    ) -> None:
        self._jitted, self._compiling = jitted, compiling
        self._compiled: dict[Any, tuple[Callable[..., Any], float]] = {}
        self.flops = 0.0  # of the last call, on all devices together

    def __call__(self, *args: Any) -> Any:
        """Call the function, compiled once for each batch length."""
        _, *others = args  # the state has the same shapes in all calls
        arrays, structure = jax.tree.flatten(others)
        key = structure, *(array.shape for array in arrays)
        if key not in self._compiled:
            with self._compiling(*others):
                traced = self._jitted.trace(*args)
                self._compiled[key] = traced.lower().compile(), count_flops(traced.jaxpr)
        compiled, self.flops = self._compiled[key]
        return compiled(*args)


class Trace:
    """A `jax.profiler` trace of the steps in `steps`."""

    def __init__(self, steps: range, directory: Path) -> None:
        self._steps, self._directory = steps, directory
        self._running = False

    def before(self, step: int) -> None:
        """Start the trace before its first step."""
        if step in self._steps and not self._running:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Stop the trace after its last step, once `result` is computed."""
        if self._running and step + 1 not in self._steps:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
