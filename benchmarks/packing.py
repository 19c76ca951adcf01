"""Frames computed for each real frame of an epoch: `python -m benchmarks.packing [--counts=FILE.csv]`.

`FILE` has a column `num_frames`; without it the counts are drawn, alike in number, mean and range to
PHOENIX-2014T's train split.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from benchmarks.harness import keep
from configs import phoenix_stage2
from sslssaw_jax.data.epoch_plan import plan_epoch

GOAL = 1.02
# the second and the third bind clips and frames at once, and waste: the cap on clips needs some room
SETTINGS = ((16, 1792), (16, 1920), (8, 960), (8, 832), (18, 1872), (9, 936))
EPOCHS = 3


def frame_counts(file: Path | None, max_frames: int) -> tuple[str, np.ndarray]:
    """What they are, and i[clips], limited to what is kept of a clip."""
    if file:
        with file.open(encoding="utf-8") as lines:
            counts = np.array([int(row["num_frames"]) for row in csv.DictReader(lines)])
        return f"{file.name}, mean {counts.mean():.0f}", np.minimum(counts, max_frames)
    counts = np.random.default_rng(0).gamma(5.3, 22.0, 7096).astype(int).clip(16, max_frames)
    return f"drawn, mean {counts.mean():.0f}", counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=Path)
    options = parser.parse_args()
    config = phoenix_stage2.get_config()
    name, counts = frame_counts(options.counts, config.data.max_frames)
    shipped = {(stage.clips_per_batch, stage.frame_budget) for stage in (config.pretrain, config.translate)}
    rows = []
    for clips, budget in sorted({*SETTINGS, *shipped}, reverse=True):
        plans = [plan_epoch(counts, clips, budget, seed=0, epoch=epoch) for epoch in range(EPOCHS)]
        steps = np.mean([len(plan) for plan in plans])
        rows.append(
            [
                f"{clips}",
                f"{budget}" + " (shipped)" * ((clips, budget) in shipped),
                f"{steps:,.0f}",
                f"{counts.size / steps:.2f}",
                f"{budget * steps / counts.sum():.4f}",
                f"{GOAL}",
            ]
        )
    header = ["clips_per_batch", "frame_budget", "steps an epoch", "clips a step", "computed / real", "goal"]
    keep("packing", f"Frames computed for each real frame ({name})", header, rows)


if __name__ == "__main__":
    main()
