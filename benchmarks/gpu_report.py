"""Tables of the findings of `benchmarks.gpu`: ceilings, steps, and each step's distance from its floor."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# TFLOP and GB of a step's program, by group of kernels, from `benchmarks/results/gpu_program.md`
FLOORS = {
    "stage2": {"convolution": (10.53, 25.1), "product": (1.38, 4.1), "pointwise, reduction": (0.0, 53.9)},
    "stage1": {"convolution": (20.82, 49.5), "product": (3.74, 9.2), "pointwise, reduction": (0.0, 107.4)},
}


def report(file: Path) -> str:
    """Return Markdown tables of the findings in a file."""
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    ceilings = next(section for section in found if section["section"] == "ceilings")
    parts = [f"### Ceilings ({ceilings['device']}, jax {ceilings['jax']})", _ceilings(ceilings)]
    parts += ["### A step", _steps(found)]
    for section in found:
        if section.get("groups_ms"):
            parts.append(f"### {section['label']}, {section['section']}: where the milliseconds go")
            parts += [_gap(section, ceilings), "The slowest kernels:", _slowest(section)]
    parts += ["### The rest", _rest(found)]
    return "\n\n".join(parts) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ceilings(found: dict[str, Any]) -> str:
    shown = [key for key in found if key not in ("section", "label", "seconds", "device", "jax")]
    return _table(("", "measured"), [(key, _shown(found[key])) for key in shown])


def _steps(found: list[dict[str, Any]]) -> str:
    rows = []
    for section in found:
        if "resident_ms" not in section:
            continue
        milliseconds = section["resident_ms"][1]
        loops = [section.get(f"loop_{ahead}_ahead", []) for ahead in (0, 1)]
        rows.append(
            (
                f"{section['section']}, {section['label']}",
                " ".join(f"{value:.1f}" for value in section["resident_ms"]),
                f"{1e3 * section['clips'] / milliseconds:.0f}",
                *(" ".join(f"{row['ms']:.1f} ({row['wait']:.0%})" for row in loop) for loop in loops),
                f"{section.get('kernels', 0):.0f}",
                f"{section.get('compile_s', section.get('warm_up_s', 0)):.0f}",
                f"{section['peak_gb']:.1f}",
            )
        )
    header = "|resident, ms|clips/s|loop, ms (wait)|sent a step ahead|kernels|compile, s|peak, GB"
    return _table(header.split("|"), rows)


def _gap(section: dict[str, Any], ceilings: dict[str, Any]) -> str:
    """Compare each group with its floor, the largest gap first."""
    groups = dict(section["groups_ms"])
    milliseconds = section["resident_ms"][0]  # the fastest row: the profile's kernels add up to it
    groups["pointwise, reduction"] = groups.pop("pointwise", 0) + groups.pop("reduction", 0)
    groups["no kernel runs"] = milliseconds - sum(groups.values())
    rows = []
    for name, measured in groups.items():
        tflop, gigabytes = FLOORS[section["section"]].get(name, (0.0, 0.0))
        floor = max(1e3 * tflop / ceilings["matmul_tflops"], gigabytes / ceilings["copy_tb_s"])
        rows.append((name, measured, floor, measured - floor))
    rows.sort(key=lambda row: -row[-1])
    floor = sum(row[2] for row in rows)
    rows.append(("step", milliseconds, floor, milliseconds - floor))
    return _table(("", "ms", "floor", "gap"), [(name, *(f"{x:.1f}" for x in row)) for name, *row in rows])


def _slowest(section: dict[str, Any]) -> str:
    rows = [(f"`{name}`", f"{ms:.2f}", f"{count:.0f}") for name, ms, count in section["top_ms"][:12]]
    return _table(("kernel", "ms a step", "launches"), rows)


def _rest(found: list[dict[str, Any]]) -> str:
    rows = []
    for section in found:
        if "failure" in section:
            rows.append((section["section"], section["label"], section["failure"][-200:].replace("\n", " ")))
        elif section["section"] in ("check", "beam", "init"):
            values = {key: value for key, value in section.items() if key not in ("section", "label")}
            rows.append((section["section"], section["label"], _shown(values)))
    return _table(("section", "version", "found"), rows)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value)
