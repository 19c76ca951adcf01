"""What is kept with a run, so that no other run is mistaken for it."""

import hashlib
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config, differences, run_differences, to_dict
from sslssaw_jax.data.features import features_notes
from sslssaw_jax.data.fitting import require_fitting_data, require_fitting_features
from sslssaw_jax.experiment.run_data import RunData
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.stage_folders import announce_other_clips
from sslssaw_jax.types import BLEU_4, LOSS, WER
from sslssaw_jax.workdir import CHECKPOINTS, UNKNOWN_CODE, read_notes, read_scores

# what decides a score on dev besides the split; words of a gloss have no length to choose
_DECODING = {LOSS: (), WER: ("config.decode.beams:",), BLEU_4: ("config.decode.",), None: ()}
# the same for all runs of an ensemble, which may be trained in different ways
_OF_THE_MODEL = ("config.system:", "config.data.", "config.model.", "config.compute.", "config.glosses:")


def run_notes(config: Config, data: RunData, stage: Stage) -> dict[str, Any]:
    """Return what is kept with a run: stage, configuration, texts, data, code."""
    notes = {
        "stage": stage.name,
        "config": to_dict(config),
        "tokenizer": data.tokenizer.fingerprints,
        "dataset": data.dataset.facts.to_json(),
        "features": features_notes(data.feature_sets),
        "code": [code()],
    }
    return notes | ({"glosses": data.glosses.fingerprint} if stage.reads_gloss else {})


@cache  # files may change while a run trains by what it has imported
def code() -> str:
    """Return version and digest of the package: `0.2.0+1234567890ab`."""
    folder, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return f"{sys.modules['sslssaw_jax'].__version__}+{digest.hexdigest()[:12]}"


def with_earlier_code(notes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return notes that name all code by which a run was trained."""
    earlier = read_notes(folder)
    before = earlier.get("code", [UNKNOWN_CODE]) if earlier else []
    return notes | {"code": [*dict.fromkeys([*before, *notes["code"]])]}


def require_same_run(
    folder: Path, config: Config, data: RunData, stages: Sequence[Stage], *, own: bool, trains: bool
) -> None:
    """Raise ConfigError if a folder holds a run with other settings.

    Args:
        folder: The workdir of the run, if it has begun.
        config: The configuration that should have trained it.
        data: The data that it should have read.
        stages: The stages up to the one that it trains or has trained.
        own: Whether the folder is the workdir of this run, or inside it, and not of another run.
        trains: Whether the run continues, or is finished, as this one; otherwise its model translates,
            maybe another dataset or in an ensemble.
    """
    stage = stages[-1]
    saved, now = read_notes(folder), run_notes(config, data, stage)
    if not saved:
        return
    if not trains:  # loading compares the tokenizers
        any_dataset = now["config"]["data"] | {"dataset": saved["config"]["data"]["dataset"]}
        now = now | {"config": now["config"] | {"data": any_dataset}, "tokenizer": saved["tokenizer"]}
    # a warm start that the run had is missing among the stages if the setting now leaves it out
    changed = run_differences(config, saved, now, "warm_start", *(each.name for each in stages))
    if not trains:  # in other batches, the translations are the same
        batches = tuple(f"config.{stage.name}.{key}:" for key in ("clips_per_batch", "frame_budget"))
        changed = [line for line in changed if not line.startswith(batches)]
    if not trains and config.evaluation.ensemble:
        changed = [line for line in changed if line.startswith(_OF_THE_MODEL)]
    if changed:
        if own:
            other = "--workdir"
        elif trains:
            other = "--config.init_from (a new stage 1 must be named after the workdir: WORKDIR_stage1)"
        else:
            other = "--config.evaluation.ensemble"
        raise ConfigError(
            f"{folder} holds a run with another configuration; continue with that one, or choose another "
            f"{other}:\n  " + "\n  ".join(changed)
        )
    require_fitting_data(
        folder,
        saved["dataset"],
        data.dataset,
        reads_video=stage.reads_video,
        reads_frames=stage.reads_video and not config.data.features,
        trains=trains,
    )
    name, fingerprint = saved["config"]["data"]["dataset"], saved["dataset"]["fingerprint"]
    announce_other_clips(folder, name, fingerprint, data.dataset, config.data)
    if stage.reads_video:
        require_fitting_features(folder, saved["features"], data.dataset, data.feature_sets, trains=trains)


def require_same_scoring(folder: Path, config: Config, stage: Stage) -> None:
    """Raise ConfigError if a training would score dev in another way.

    Best state, patience and plateau follow from all scores of a run together.

    Args:
        folder: The workdir of the stage.
        config: The configuration with which its training continues.
        stage: The stage.
    """
    saved = read_notes(folder)
    if not (saved and read_scores(folder / CHECKPOINTS)):
        return
    decides = ["config.data.dev_split:", *_DECODING[stage.selection]]
    every = differences(saved["config"], to_dict(config))
    if changed := [line for line in every if line.startswith(tuple(decides))]:
        raise ConfigError(
            f"{folder} has scores on dev that cannot be compared with those to come; continue with the same "
            "settings (--mode=eval takes others), or choose another --workdir:\n  " + "\n  ".join(changed)
        )
