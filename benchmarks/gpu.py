"""Both stages at full size on a GPU, ours and PyTorch's: `python -m benchmarks.gpu`.

Each section (`benchmarks/gpu_sections.py`) runs in a process of its own within a time limit and immediately
appends its findings to `--out` as one JSON line; the most valuable come first, and sections that no longer
fit into `--seconds` are left out. Everything together takes at most 9 minutes. `--toy` is the same on a CPU,
in 5 minutes. `--report` prints the tables of `benchmarks/results/gpu.md` from such a file.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_report import report

# most valuable first, with the seconds that each may take
LIMITS = {
    "clips": 60,
    "stage2": 160,
    "stage1": 260,
    "ceilings": 40,
    "beam": 70,
    "check": 90,
    "peer_compiled": 150,
    "peer_eager": 60,
    "stem": 60,
    "peer_parent": 60,
    "init": 90,
}


def run_section(name: str, limit: float, options: argparse.Namespace) -> None:
    """Run a section in its own process and append its findings."""
    command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], f"--section={name}"]
    is_torch = name.startswith("peer")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"} if is_torch else dict(os.environ)
    start = time.perf_counter()
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
        lines, failure = run.stdout.splitlines(), run.stderr[-2000:] if run.returncode else ""
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        lines, failure = output.decode().splitlines(), f"took longer than {limit:.0f} s"
    found = json.loads(next((line for line in reversed(lines) if line.startswith("{")), "{}"))
    if failure:
        found["failure"] = failure
    found = {"section": name, "label": options.label, "seconds": time.perf_counter() - start, **found}
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    shown = {key: value for key, value in found.items() if key not in ("top_ms", "profile_lines", "metrics")}
    print(json.dumps(shown), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="file that findings are added to")
    parser.add_argument("--only", default=",".join(LIMITS), help="sections, separated by commas")
    parser.add_argument("--seconds", type=float, default=540.0, help="time for all sections together")
    parser.add_argument("--label", default="ours", help="name of this version of the code")
    parser.add_argument("--set", action="append", default=[], help="change of the configuration: key=value")
    parser.add_argument("--clips", type=Path, default=Path("/tmp/gpu_clips"), help="folder of rendered clips")
    parser.add_argument("--trace", type=Path, help="folder that profiles go to")
    parser.add_argument("--no-loader", dest="loader", action="store_false", help="leave out the real loader")
    parser.add_argument("--report", type=Path, help="print the tables for such a file, and measure nothing")
    parser.add_argument("--toy", action="store_true", help="small models, for a CPU")
    parser.add_argument("--section", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        from benchmarks.gpu_sections import SECTIONS

        print(json.dumps(SECTIONS[options.section](options)))
        return
    if options.report:
        print(report(options.report))
        return
    start = time.perf_counter()
    for name in options.only.split(","):
        left = options.seconds - (time.perf_counter() - start)
        if left < LIMITS[name] / 2:
            print(f"{name} is left out: {left:.0f} s are left", flush=True)
            continue
        run_section(name, min(LIMITS[name] * (5 if options.toy else 1), left), options)


if __name__ == "__main__":
    main()
