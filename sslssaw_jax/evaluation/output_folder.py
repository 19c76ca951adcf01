"""The folder that an evaluation writes into, so that it never overwrites the scores of another."""

import re
import shutil
from pathlib import Path
from typing import Any

from sslssaw_jax.config.experiment import Config, scored_differences
from sslssaw_jax.data.dataset import Dataset
from sslssaw_jax.workdir import HEATMAPS, METRICS, REPORT, glosses_file, predictions_file, read_notes


def output_folder(workdir: Path, config: Config, dataset: Dataset, notes: dict[str, Any]) -> Path:
    """Return the workdir, or its folder for other data or decoding.

    Args:
        workdir: Of the run.
        config: Of this evaluation.
        dataset: The dataset to translate.
        notes: Of this evaluation: configuration, tokenizer and dataset.
    """
    saved, fingerprint = read_notes(workdir) or notes, notes["dataset"]["fingerprint"]
    changed = scored_differences(saved["config"], notes["config"], config)
    settings = re.sub(r"[^\w.=,+-]+", "_", ",".join(f"{key}={value}" for key, value in changed.items()))
    anew = workdir / f"{dataset.name}-{fingerprint}" / settings  # prepared again, or in another place
    trains = config.data.train_split in dataset.splits
    if not trains or dataset.name != saved["config"]["data"]["dataset"]:
        folder = workdir / dataset.name / settings
        before = read_notes(folder) or notes
        moved = before["config"]["data"]["data_dir"] != config.data.data_dir
        others = before["dataset"]["fingerprint"] != fingerprint
        return anew if moved and others else folder
    if saved["dataset"]["fingerprint"] != fingerprint:
        return anew
    return workdir / settings


def remove_other_results(folder: Path, notes: dict[str, Any]) -> None:
    """Remove results of an earlier preparation of the dataset.

    Pictures and scores of the earlier videos would otherwise appear next to the new sentences.

    Args:
        folder: Of this evaluation.
        notes: Of this evaluation.
    """
    before = read_notes(folder) or notes
    if before["dataset"]["fingerprint"] != notes["dataset"]["fingerprint"]:
        remove_results(folder)


def remove_results(folder: Path) -> None:
    """Remove the scores, predictions, pictures and report of a folder."""
    shutil.rmtree(folder / HEATMAPS, ignore_errors=True)
    for name in (METRICS, REPORT, predictions_file("*"), glosses_file("*")):
        for file in folder.glob(name):
            file.unlink(missing_ok=True)  # by another process of this run
