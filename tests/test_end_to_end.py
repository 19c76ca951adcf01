"""Whole runs of small versions of the shipped configurations."""

import json
import shutil
from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.evaluation.predictions import Prediction, worst_and_best
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.systems import read_config
from sslssaw_jax.training import loop
from sslssaw_jax.training.checkpoints import CheckpointError, restore_params
from sslssaw_jax.training.stage_folders import plan_stages
from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.workdir import CHECKPOINTS
from tests.support.small_runs import rows, run, shipped, shrink
from tests.support.toy import toy_state
from tfds_builders.prepare import PrepareError, prepare

pytestmark = pytest.mark.slow
SCORES = {
    "bleu1",
    "bleu2",
    "bleu3",
    "bleu4",
    "rouge_l",
    "chrf",
    "sacrebleu",
    "sacrebleu_signature",
    "num_clips",
}


@pytest.fixture(scope="module")
def finished(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the demo to its end; return its workdir."""
    workdir = tmp_path_factory.mktemp("runs") / "demo"
    run(shrink(shipped("demo"), tiny_data_dir), workdir)
    return workdir


@pytest.fixture(scope="module")
def compiled(finished: Path, tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Make an experiment, compiled once for several tests, in a folder without other runs next to it."""
    workdir = tmp_path_factory.mktemp("copies") / "demo"
    workdir.mkdir()
    (workdir / CHECKPOINTS).symlink_to(finished / CHECKPOINTS)
    return Experiment(read_config(shrink(shipped("demo"), tiny_data_dir)), workdir)


@pytest.fixture
def copy(compiled: Experiment) -> Experiment:
    """Return the experiment in a workdir that holds only its checkpoints."""
    for path in compiled.workdir.iterdir():
        if path.is_symlink():
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return compiled


def test_a_run_leaves_all_that_it_promises(finished: Path, tiny_data_dir: Path) -> None:
    for split in ("dev", "test"):
        predictions = rows(finished / f"predictions.{split}.jsonl")
        assert [row["id"] for row in predictions] == [f"{split}-{i:03d}" for i in range(6)]
        assert predictions[0].keys() == {"id", "question", "target", "prediction", "score"}
    metrics = json.loads((finished / "metrics.json").read_text())
    for split in ("dev", "test"):
        assert metrics[split].keys() > SCORES
        assert metrics[split]["baselines"].keys() == {"copy_question"}
        assert metrics[split]["baselines"]["copy_question"].keys() == SCORES | {"intervals", "p_value"}
        assert metrics[split]["num_clips"] == 6
    dataset = find_dataset(tiny_data_dir, "avatar_qa")
    lengths = [clip.num_frames for split in ("train", "dev") for clip in ClipSource(dataset, split).clips]
    assert metrics["dev"]["understanding"]["shortest"] == min(lengths)
    assert metrics["test"]["questions"].keys() == {"shuffled", "blanked"}
    assert all(scores.keys() == SCORES for scores in metrics["test"]["questions"].values())
    predictions = [Prediction(**row) for row in rows(finished / "predictions.test.jsonl")]
    worst, best, *_ = (predictions[i].id for i in worst_and_best(predictions))
    assert {path.stem for path in (finished / "heatmaps").iterdir()} == {worst, best}
    report = (finished / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png") == 2 and f"{metrics['test']['bleu4']:.2f}" in report


def test_clips_of_any_split_are_translated_and_drawn_alone(
    finished: Path, copy: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="has no clip nobody in test, dev, train"):
        copy.run("translate", ["dev-003", "nobody"])
    copy.run("translate", ["train-011", "dev-003"])
    assert {path.stem for path in (copy.workdir / "heatmaps").iterdir()} == {"train-011", "dev-003"}
    assert {path.name for path in copy.workdir.iterdir()} == {CHECKPOINTS, "heatmaps"}
    row = next(row for row in rows(finished / "predictions.dev.jsonl") if row["id"] == "dev-003")
    told = "\n  ".join(row[key] for key in ("id", "question", "target", "prediction"))
    assert told in capsys.readouterr().out


def test_an_interrupted_run_ends_as_one_that_was_not(
    finished: Path, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cover what test_resume's toy lacks: augmentation, a CNN and SSL with the demo's optimizer."""
    config = shrink(shipped("demo"), tiny_data_dir)
    config.checkpoint.every_steps = 1
    config = read_config(config)
    workdir = tmp_path / "demo"
    *early, _ = zip(plan_stages(config, finished), plan_stages(config, workdir))
    for (_, folder), (_, place) in early:
        shutil.copytree(folder, place, dirs_exist_ok=True)
    counted_step, steps = loop.CountedStep.__call__, []

    def interrupted(*arguments):
        steps.append(len(steps) + 1)
        if steps[-1] == 3:
            raise KeyboardInterrupt
        return counted_step(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop.CountedStep, "__call__", interrupted)
        Experiment(config, workdir).run("train")
    assert (workdir / CHECKPOINTS / "2").exists()
    Experiment(config, workdir).run("train")
    ends = [restore_params(folder / CHECKPOINTS)[0] for folder in (finished, workdir)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    for file in ("predictions.dev.jsonl", "predictions.test.jsonl"):
        assert (finished / file).read_bytes() == (workdir / file).read_bytes()


def test_a_stage_1_of_its_own_is_the_one_that_stage_2_trains_first(
    finished: Path, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration differs from that of stage 2 as `configs/phoenix_stage1.py` does."""
    config, alone = (shrink(shipped("demo"), tiny_data_dir) for _ in range(2))
    inside, stage_1 = (folder / "demo_stage1" for folder in (finished.parent, tmp_path))
    alone.update({"name": config.init_from, "stage": "pretrain"})
    shutil.copytree(inside / "warm_start", stage_1 / "warm_start")
    run(alone, stage_1)
    ends = [restore_params(folder / CHECKPOINTS)[0] for folder in (inside, stage_1)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert (stage_1 / "report.html").exists()

    monkeypatch.setattr("sslssaw_jax.experiment.experiment.train", None)  # nothing is trained again
    runs = [Experiment(read_config(config), workdir) for workdir in (finished, tmp_path / "demo")]
    jax.tree.map(
        np.testing.assert_array_equal,
        *(run._initial_weights(2)(toy_state(run._stages[2])).params for run in runs),
    )


def test_the_log_names_each_step_with_its_losses_and_rates(finished: Path) -> None:
    stages = {
        "translate": (finished, {"loss_sentence", "loss_question"}),
        "pretrain": (finished.parent / "demo_stage1", {"loss_similarity", "loss_restore"}),
        "warm_start": (finished.parent / "demo_stage1" / "warm_start", {"accuracy"}),
    }
    for stage, (workdir, parts) in stages.items():
        log = rows(workdir / "log.jsonl")
        assert [row["step"] for row in log] == list(range(1, len(log) + 1))
        for row in log:
            assert row["stage"] == stage
            assert row.keys() >= {"loss", "lr", "clips_per_s", "frames_per_s", "input_wait"} | parts
            assert np.isfinite(row["loss"]) and row["clips_per_s"] > 0 and 0 <= row["input_wait"] <= 1
        assert list((workdir / "tensorboard" / stage).iterdir())


def test_a_finished_run_is_not_trained_again(
    finished: Path, tiny_data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("sslssaw_jax.experiment.experiment.train", refuse)
    before = (finished / "metrics.json").read_text()
    (finished / "metrics.json").unlink()
    stage_1, away = finished.parent / "demo_stage1", finished.parent / "away"
    stage_1.rename(away)  # stage 2 has begun: it no longer needs stage 1
    run(shrink(shipped("demo"), tiny_data_dir), finished)
    away.rename(stage_1)
    assert (finished / "metrics.json").read_text() == before
    hint = f"ablations.py:demo/question --workdir={finished.parent / 'demo_question'} --config.seed="
    out, shown = capsys.readouterr()
    assert hint in out
    steps = [
        "evaluating the best checkpoint",
        "compiling the translation",
        "p-values of dev",
        "p-values of test",
    ]
    assert sorted(steps, key=shown.index) == steps


def test_a_question_only_run_stands_beside_the_scores(
    finished: Path, tiny_data_dir: Path, copy: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    beside, new = (copy.workdir.parent / name for name in ("demo_question", "new"))
    beside.mkdir()
    (beside / "finished.json").write_text(json.dumps({"reads_video": False}))
    for split in ("dev", "test"):  # as if it translated everything right
        right = [row | {"prediction": row["target"]} for row in rows(finished / f"predictions.{split}.jsonl")]
        (beside / f"predictions.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in right))
    copy.run("eval")
    metrics = json.loads((copy.workdir / "metrics.json").read_text())
    for split in ("dev", "test"):
        assert metrics[split]["baselines"]["question_only"]["bleu4"] == pytest.approx(100)
    out = capsys.readouterr().out
    assert "question only  " in out and "trains it" not in out

    (beside / "predictions.test.jsonl").write_text("")
    with pytest.raises(ConfigError, match="not for the 6 clips that test has"):
        run(shrink(shipped("demo"), tiny_data_dir), new)
    assert not new.exists(), "told before anything is trained"


def test_translate_writes_predictions_for_test_alone(finished: Path, copy: Experiment) -> None:
    copy.run("translate")
    assert not {"predictions.dev.jsonl", "metrics.json"} & {path.name for path in copy.workdir.iterdir()}
    assert rows(copy.workdir / "predictions.test.jsonl") == rows(finished / "predictions.test.jsonl")


def test_an_ensemble_translates_with_the_checkpoints_of_its_runs(finished: Path, tiny_data_dir: Path) -> None:
    config = shrink(shipped("demo"), tiny_data_dir)
    config.evaluation.ensemble = (finished.name, finished.name)
    together = finished.parent / "ensemble"
    with pytest.raises(ConfigError, match="--mode=eval"):
        run(config, together)
    run(config, together, "translate")
    alone = rows(finished / "predictions.test.jsonl")
    for row, other in zip(rows(together / "predictions.test.jsonl"), alone, strict=True):
        assert row["prediction"] == other["prediction"]
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)


def test_own_videos_without_a_train_split_are_translated_beside_the_runs_own_clips(
    finished: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "clips.csv").write_text(
        "id,video,question,target,split\nmine,videos/mine,what comes ?,,test\nyours,videos/yours,,,test\n"
    )
    for folder, shade in {"mine": 50, "yours": 200}.items():
        (tmp_path / "videos" / folder).mkdir(parents=True)
        for number in range(9):
            picture = np.full((60, 80, 3), shade + 5 * number, np.uint8)
            cv2.imwrite(str(tmp_path / "videos" / folder / f"{number}.png"), picture)
    prepare(
        "custom_qa", tmp_path / "data", manual_dir=tmp_path, language="en_XX", resize="crop:48", num_workers=1
    )
    config = shrink(shipped("demo"), tmp_path / "data")
    config.data.dataset = "custom_qa"
    before = (finished / "predictions.test.jsonl").read_bytes()
    run(config, finished, "translate")
    assert [row["id"] for row in rows(finished / "custom_qa" / "predictions.test.jsonl")] == ["mine", "yours"]
    assert len(list((finished / "custom_qa" / "heatmaps").glob("*.png"))) == 2
    assert (finished / "predictions.test.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match=r"has test, and no split train: use --mode=translate"):
        run(config, finished)

    again = partial(
        prepare, "custom_qa", tmp_path / "data", manual_dir=tmp_path, language="en_XX", resize="crop:48"
    )
    cv2.imwrite(str(tmp_path / "videos" / "mine" / "4.png"), np.zeros((60, 80, 3), np.uint8))  # in place
    with pytest.raises(PrepareError, match=r"videos: .*changed\nprepare it again with --overwrite"):
        again(num_workers=1)
    again(num_workers=1, overwrite=True)
    config.evaluation.num_heatmaps = 1
    run(config, finished, "translate")
    assert [picture.stem for picture in (finished / "custom_qa" / "heatmaps").iterdir()] == ["mine"]


def test_evaluation_without_a_checkpoint_says_so(tiny_data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        run(shrink(shipped("demo"), tiny_data_dir), tmp_path / "empty", "eval")


def test_missing_weights_are_told_before_anything_is_written(tiny_data_dir: Path, tmp_path: Path) -> None:
    config = shrink(shipped("phoenix_stage2"), tiny_data_dir)
    config.model.cnn.resnet.stem = "conv7_pool"
    config.model.cnn.weights = "nobody/resnet-0"
    with pytest.raises(WeightsError, match=r"nobody/resnet-0.*--config\.model\.cnn\.weights= trains"):
        run(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be_written_is_told(tiny_data_dir: Path) -> None:
    config = shrink(shipped("demo"), tiny_data_dir)
    config.init_from = None
    config.warm_start.epochs = 0
    with pytest.raises(OSError, match="/proc/run"):
        run(config, Path("/proc/run"))
