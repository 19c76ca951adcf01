"""Measure the spread of SSAW's gate on dev: `python -m benchmarks.gate runs/NAME ...`.

The gate weighs each feature of each position (Eq. 3-4). The table has a row for the questions' positions of a
run and one for the videos': the mean of all gates; the means of the middle 90 % of the positions, which the
heat map shows; the standard deviation of all gates, and the share of their variance that is the same at every
position, as that of a constant factor of each feature would be; and how many are nearly closed or open.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from benchmarks.harness import keep
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.evaluation.programs import Programs
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.inference.trained_model import load_workdir
from sslssaw_jax.systems.ssl_ssaw import SSLSSAWConfig, join_batch
from sslssaw_jax.training.sharding import make_mesh
from sslssaw_jax.types import Batch
from sslssaw_jax.workdir import user_path

HEADER = ["run", "positions", "mean", "mean of a position", "deviation", "constant", "below 0.1", "above 0.9"]


def gates_step(
    params: nnx.State, batch_stats: nnx.State, batch: Batch, *, graphdef: nnx.GraphDef, config: Config
) -> tuple[jax.Array, jax.Array]:
    """Return a batch's gates [B, T, D] and their mask."""
    model = nnx.merge(graphdef, params, batch_stats)
    joint, mask = join_batch(model, batch, config)
    return model.fusion.gate(joint, mask), mask


def gates_of(workdir: Path, data_dir: str) -> dict[str, np.ndarray]:
    """Return the gates of dev's questions and videos, each f32[positions, D].

    Raises:
        SystemExit: The run has no gate.
    """
    model = load_workdir(workdir)
    if not (isinstance(model.config.model, SSLSSAWConfig) and model.config.model.fusion.kind == "ssaw"):
        raise SystemExit(f"error: {workdir} has no gate: only SSL-SSAW with the fusion SSAW has one")
    runner = Runner(model.stage, model.config, model.tokenizer, make_mesh(model.config.mesh))
    programs = Programs(runner, find_dataset(data_dir, model.config.data.dataset))
    step = runner.compile(gates_step, config=model.config)
    found: dict[str, list[np.ndarray]] = {"question": [], "video": []}
    for batch, (gate_BxTxD, mask_BxT) in runner.over(programs.dev, step, model.state, "gates of dev"):
        length_B = batch.text_tower_texts.question_mask.sum(axis=1) * model.stage.reads_question
        is_question_BxT = np.arange(mask_BxT.shape[1]) < length_B[:, None]
        found["question"].append(gate_BxTxD[mask_BxT & is_question_BxT])
        found["video"].append(gate_BxTxD[mask_BxT & ~is_question_BxT])
    return {part: np.concatenate(gates) for part, gates in found.items()}


def row_of(run: str, part: str, gate_PxD: np.ndarray) -> list[str]:
    """Return a row of the table."""
    low, high = np.quantile(gate_PxD.mean(axis=1), (0.05, 0.95))
    spread = [f"{gate_PxD.mean():.3f}", f"{low:.3f} to {high:.3f}", f"{gate_PxD.std():.3f}"]
    shares = gate_PxD.mean(axis=0).var() / gate_PxD.var(), (gate_PxD < 0.1).mean(), (gate_PxD > 0.9).mean()
    return [run, f"{part}, {len(gate_PxD):,}", *spread, *(f"{100 * share:.1f} %" for share in shares)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=user_path, help="workdirs of SSL-SSAW with SSAW")
    parser.add_argument("--data_dir", default="data", help="folder of the prepared dataset")
    options = parser.parse_args(arguments)
    table = [
        row_of(run.name, part, gates)
        for run in options.runs
        for part, gates in gates_of(run, options.data_dir).items()
        if len(gates)
    ]
    keep("gate", "The spread of SSAW's gate on dev", HEADER, table)


if __name__ == "__main__":
    main()
