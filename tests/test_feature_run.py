"""A run on texts and features alone: no frame is read from the import to the report."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.features import FEATURES
from sslssaw_jax.inference.trained_model import ModelError
from sslssaw_jax.inference.translator import Translator
from sslssaw_jax.workdir import METRICS, read_json, read_jsonl, write_json, write_jsonl
from tests.support.small_runs import run, shipped, shrink
from tfds_builders.features import main as import_features

pytestmark = pytest.mark.slow


def feature_config(data_dir: Path) -> Any:
    tree = shrink(shipped("demo"), data_dir)
    tree.data.features, tree.init_from, tree.compilation_cache = ("own",), None, None
    tree.warm_start.epochs = tree.pretrain.epochs = 0
    tree.evaluation.question_only_run, tree.evaluation.swap_questions = None, False
    return tree


def import_own(data_dir: Path, folder: Path, seed: int, *more: str) -> None:
    rng = np.random.default_rng(seed)
    for split in ("train", "dev", "test"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for clip in read_jsonl(data_dir / "avatar_qa" / "1.0.0" / f"clips.{split}.jsonl"):
            np.save(folder / split / f"{clip['id']}.npy", rng.normal(size=(int(rng.integers(3, 20)), 6)))
    where = ["--dataset=avatar_qa", f"--data_dir={data_dir}", str(folder)]
    import_features(["--format=npy", "--name=own", "--stride=2", *more, *where])


def test_texts_and_features_train_translate_and_report(tiny_data_dir: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(tiny_data_dir, data_dir, ignore=shutil.ignore_patterns("*.array_record-*"))
    folder = data_dir / "avatar_qa" / "1.0.0"
    for rows in folder.glob("clips.*.jsonl"):  # as --text_only leaves them
        write_jsonl(rows, [clip | {"num_frames": 0} for clip in read_jsonl(rows)])
    write_json(folder / "dataset.json", read_json(folder / "dataset.json") | {"text_only": True})
    import_own(data_dir, tmp_path / "own", seed=0)
    workdir = tmp_path / "runs" / "features"
    run(feature_config(data_dir), workdir)
    scores = read_json(workdir / METRICS)
    assert {"dev", "test"} <= scores.keys() and (workdir / "report.html").is_file()
    assert len(read_jsonl(workdir / "predictions.test.jsonl")) == 6

    with pytest.raises(ModelError, match="the model reads the features own in place of videos"):
        Translator.from_pretrained(workdir)
    before = json.loads((folder / FEATURES / "own" / "train.json").read_text())
    import_own(data_dir, tmp_path / "own", 1, "--overwrite")
    assert json.loads((folder / FEATURES / "own" / "train.json").read_text()) != before
    with pytest.raises(ConfigError, match=r"trained on other features than .*\n  features.own.fingerprint: "):
        run(feature_config(data_dir), workdir)
    run(feature_config(data_dir), workdir, "translate")
