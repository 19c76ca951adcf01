"""A run of the recogniser, from its training to its report."""

import json
import shutil
from pathlib import Path

import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.dataset import DatasetError
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.systems import read_config
from sslssaw_jax.weights.pretrained import pretrained_parts
from sslssaw_jax.workdir import read_jsonl, write_jsonl
from tests.support.small_runs import rows, run, shipped, shrink


def small(data_dir: Path):
    config = shrink(shipped("recognize"), data_dir)
    config.warm_start.epochs = 0
    return config


@pytest.fixture(scope="module")
def finished(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "signs"
    run(small(tiny_data_dir), workdir)
    return workdir


@pytest.mark.slow
def test_a_recognizer_leaves_scores_glosses_and_a_report(finished: Path, tiny_data_dir: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    glosses = metrics["test"]["glosses"]
    assert glosses["num_clips"] == 6 and glosses["num_glosses"] == 18
    assert glosses["wer"] == pytest.approx(
        glosses["substitutions"] + glosses["deletions"] + glosses["insertions"]
    )
    found = rows(finished / "glosses.test.jsonl")
    clips = read_jsonl(tiny_data_dir / "avatar_qa/1.0.0/clips.test.jsonl")
    assert [(row["id"], row["glosses"]) for row in found] == [(clip["id"], clip["gloss"]) for clip in clips]
    for row, clip in zip(found, clips):
        assert len(row["times"]) == len(row["prediction"].split())
        assert all(0 <= start < end <= clip["num_frames"] / 25 + 0.01 for start, end in row["times"])
    [(_, scores)] = json.loads((finished / "checkpoints/scores.json").read_text()).items()
    assert scores == {"wer": metrics["dev"]["glosses"]["wer"]}
    assert "word error rate" in (finished / "report.html").read_text()
    assert len(json.loads((finished / "glosses.json").read_text())["glosses"]) == 13


@pytest.mark.slow
def test_the_run_s_glosses_stay_those_of_its_model(
    finished: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "signs"
    shutil.copytree(finished, workdir)
    before = (workdir / "metrics.json").read_text()
    config = small(tiny_data_dir)
    run(config, workdir, "eval")
    assert (workdir / "metrics.json").read_text() == before
    config.decode.beams = 1
    run(config, workdir, "eval")
    assert len(rows(workdir / "decode.beams=1/glosses.dev.jsonl")) == 6
    with pytest.raises(ConfigError, match="translates, but the stage recognize cannot"):
        run(config, workdir, "translate")
    (workdir / "glosses.json").write_text('{"glosses": ["RAIN"]}')
    with pytest.raises(ConfigError, match=r"config\.glosses: '\w+' then, '\w+' now"):
        run(small(tiny_data_dir), workdir, "eval")


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_without_glosses_is_named_before_anything_is_trained(
    split: str, tiny_data_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_data_dir, tmp_path / "data")
    file = tmp_path / f"data/avatar_qa/1.0.0/clips.{split}.jsonl"
    write_jsonl(file, [row | {"gloss": ""} for row in read_jsonl(file)])
    with pytest.raises(DatasetError, match=rf"the split {split} of \S+ has no glosses"):
        run(small(tmp_path / "data"), tmp_path / "signs")
    assert not (tmp_path / "signs/checkpoints").exists()


def test_a_recognizer_needs_no_weights_of_texts(tiny_data_dir: Path, tmp_path: Path) -> None:
    config = small(tiny_data_dir)
    config.model.mbart.weights = "nowhere"
    config.data.tokenizer = str(tiny_data_dir / "avatar_qa/1.0.0/tokenizer")
    checked = read_config(config)
    experiment = Experiment(checked, tmp_path)
    stage, tokenizer = experiment._stages[-1], experiment._data.tokenizer
    assert pretrained_parts(stage, checked.model, None, checked.data, tokenizer) == []
