"""Whether a dataset fits a model that was trained earlier, on it or on another dataset."""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import differences
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import Dataset, prepare_command
from sslssaw_jax.data.features import FeatureSet, features_notes
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.errors import printable
from sslssaw_jax.workdir import read_json, write_json

TRIMMED_FOR = "trimmed_for.json"  # in the folder of a trimmed mBART: the texts whose tokens it keeps


def require_fitting_data(
    folder: Path,
    saved: dict[str, Any],
    dataset: Dataset,
    *,
    reads_video: bool,
    reads_frames: bool,
    trains: bool,
) -> None:
    """Raise ConfigError unless a dataset is the run's or fits its model.

    Args:
        folder: The workdir of the run.
        saved: The facts of the run's dataset.
        dataset: The dataset now.
        reads_video: Whether the model reads video.
        reads_frames: Whether it reads video as frames, not as features.
        trains: Whether the run continues; otherwise its model translates, maybe another dataset.
    """
    now = dataset.facts.to_json()
    if now["fingerprint"] == saved["fingerprint"]:
        return
    if trains:
        raise ConfigError(
            f"{folder} was trained on other clips, texts or frames than {dataset.folder} holds now: prepare "
            "the dataset as it was, or choose another --workdir:\n  "
            + "\n  ".join(differences(saved, now, "dataset"))
        )
    decisive = ["language", "resize", "fps"] if reads_video else ["language"]
    # `none` and `short` leave the shape to the videos; a dataset of texts has no shape
    if reads_frames and saved["resize"] == now["resize"] and any(now["frame_size"]):
        decisive.append("frame_size")
    was, is_now = ({key: facts[key] for key in decisive} for facts in (saved, now))
    if changed := differences(was, is_now, "dataset"):
        if dataset.name != "custom_qa":  # the others have one language
            del was["language"]
        shape = was.pop("frame_size", None) != is_now.get("frame_size")
        command = prepare_command(dataset.name, dataset.folder.parents[1], **was)
        raise ConfigError(
            f"{dataset.folder} does not fit the model in {folder}, which would translate it badly:\n  "
            + "\n  ".join(changed)
            + "\n"
            + "crop or resize the videos to the model's height and width; then " * shape
            + f"prepare the clips as the model needs them: `{command} --overwrite`"
        )


def require_fitting_features(
    folder: Path, saved: dict[str, Any], dataset: Dataset, features: Sequence[FeatureSet], *, trains: bool
) -> None:
    """Raise ConfigError unless feature sets are the run's or fit its model.

    Args:
        folder: The workdir of the run.
        saved: The notes of the run's feature sets.
        dataset: The dataset now.
        features: Its feature sets.
        trains: As for `require_fitting_data`.
    """
    now = features_notes(features)
    if not trains:  # maybe for other clips
        saved, now = ({name: each | {"fingerprint": ""} for name, each in x.items()} for x in (saved, now))
    if changed := differences(saved, now, "features"):
        raise ConfigError(
            f"{folder} was trained on other features than {dataset.folder} holds now: bring the run's own "
            f"back{', or choose another --workdir' if trains else ''}:\n  " + "\n  ".join(changed)
        )


def require_written_targets(clips: ClipSource, tokenizer: Tokenizer) -> None:
    """Raise ConfigError if a tokenizer of other texts cannot write the targets.

    Args:
        clips: The train split.
        tokenizer: Of the run; a few unknown characters do not mean that its texts were different ones.
    """
    targets = [clip.target for clip in clips.clips]
    unknown = sum(tokenizer.unk_id in tokenizer.encode(target, sys.maxsize) for target in targets)
    if unknown > 0.1 * len(targets):
        raise ConfigError(
            f"the tokenizer in {tokenizer.folder} is for other texts: it cannot write {unknown:,} of "
            f"{len(targets):,} targets of {clips.split}. Name one of this dataset: config.data.tokenizer, or "
            "config.model.mbart.weights, trimmed for it by `python -m sslssaw_jax.weights trim`"
        )


def write_trimmed_for(folder: Path, dataset: str, texts: Iterable[str]) -> None:
    """Write whose texts a trimmed mBART keeps.

    Args:
        folder: Of the trimmed model.
        dataset: Its name.
        texts: The targets and cleaned questions of train.
    """
    write_json(folder / TRIMMED_FOR, {"dataset": dataset, "texts": _fingerprint(texts)})


def trimmed_for_others(clips: ClipSource, tokenizer: Tokenizer) -> str:
    """Return a line if a tokenizer was trimmed for other texts.

    Args:
        clips: The train split.
        tokenizer: Of the run.
    """
    file = tokenizer.folder / TRIMMED_FOR
    notes = read_json(file) if file.is_file() else {}
    texts = (text for clip in clips.clips for text in (clip.target, clean_question(clip.question)))
    if not notes or notes.get("texts") == _fingerprint(texts):
        return ""
    dataset = clips.dataset
    return printable(
        f"{tokenizer.folder} was trimmed for other texts ({notes.get('dataset')}) than {dataset.folder} "
        "holds, so words may be spelt letter by letter: trim the whole model for these by `python -m "
        f"sslssaw_jax.weights trim --model=MODEL --dataset={dataset.name} "
        f"--data_dir={dataset.folder.parents[1]} --out=FOLDER`"
    )


def _fingerprint(texts: Iterable[str]) -> str:
    """Return the fingerprint of a set of texts, in any order."""
    return hashlib.sha256(json.dumps(sorted(set(texts))).encode()).hexdigest()[:16]


def require_known_characters(name: str, clips: ClipSource, tokenizer: Tokenizer) -> None:
    """Raise ConfigError if a model cannot write the characters of targets.

    Args:
        name: The setting that names the model, for the message.
        clips: The train split.
        tokenizer: Of the model.
    """
    targets = [clip.target for clip in clips.clips]
    characters = sorted(set("".join(targets)) - set(" "))
    unknown = [one for one in characters if tokenizer.unk_id in tokenizer.encode(one, 8)]
    if unknown:
        found = sum(any(one in target for one in unknown) for target in targets)
        raise ConfigError(
            f"{name}, a model that cannot write {' '.join(unknown)}, which {found:,} of {len(targets):,} "
            f"targets of {clips.split} hold: write these targets like the model's own (in lower case?)"
        )
