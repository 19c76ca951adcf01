"""A workdir belongs to one configuration; nothing here compiles a model."""

import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sslssaw_jax
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.fitting import require_fitting_data, write_trimmed_for
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.data.mbart_tokenizer import train_tokenizer
from sslssaw_jax.errors import UserError
from sslssaw_jax.evaluation.predictions import Prediction
from sslssaw_jax.evaluation.programs import Programs
from sslssaw_jax.evaluation.split_translator import SplitTranslator
from sslssaw_jax.evaluation.understanding import find_understanding
from sslssaw_jax.evaluator import Evaluator
from sslssaw_jax.experiment import Experiment, run_notes
from sslssaw_jax.systems import read_config
from sslssaw_jax.training.checkpoints import Checkpointer, CheckpointError
from sslssaw_jax.training.stage_folders import require_source
from sslssaw_jax.types import BLEU_4, LOSS
from sslssaw_jax.workdir import (
    CHECKPOINTS,
    FINISHED,
    HEATMAPS,
    METRICS,
    REPORT,
    SCORES,
    checkpoint_notes,
    read_json,
    read_jsonl,
    read_notes,
    user_path,
    write_json,
    write_jsonl,
)
from tests.support.small_runs import shipped, shrink
from tests.support.toy import assert_close, toy_state, toy_system

# key, value, what the error says
OTHER_RUNS = [
    ("model.fusion.kind", "concat", "config.model.fusion.kind: 'ssaw' then, 'concat' now"),
    ("model.ssl", "off", "config.model.ssl: 'prefix' then, 'off' now"),
    ("seed", 2, "config.seed: 0 then, 2 now"),
    ("translate.epochs", 12, "config.translate.epochs: 1 then, 12 now"),
    ("pretrain.mask_weight", 0.5, "config.pretrain.mask_weight: 1.0 then, 0.5 now"),
    ("warm_start.epochs", 0, "config.warm_start.epochs: 1 then, 0 now"),
    ("init_from", None, "config.init_from: 'demo_stage1' then, None now"),
    ("init_from", "other", "config.init_from: 'demo_stage1' then, 'other' now"),
]


@pytest.fixture(scope="module")
def data_dir(tiny_data_dir: Path) -> Path:
    return tiny_data_dir


def experiment(data_dir: Path, workdir: Path, **changes: Any) -> Experiment:
    tree = shrink(shipped("demo"), data_dir)
    tree.compilation_cache, tree.evaluation.num_heatmaps = None, 0
    for key, value in changes.items():
        group, _, name = key.replace("__", ".").rpartition(".")
        target = tree
        for part in filter(None, group.split(".")):
            target = target[part]
        with target.unlocked(), target.ignore_type():
            target[name] = value
    return Experiment(read_config(tree), workdir)


@pytest.fixture
def finished(data_dir: Path, tmp_path: Path) -> Path:
    """Return a workdir with the mark and the scores of a finished run."""
    workdir = tmp_path / "runs" / "demo"
    run = experiment(data_dir, workdir)
    write_json(workdir / FINISHED, run._notes(len(run._stages) - 1))
    write_json(workdir / METRICS, {"dev": {}, "test": {}})
    return workdir


@pytest.mark.parametrize("mode", ["train", "eval", "translate"])
def test_a_finished_run_of_other_settings_is_refused_and_kept(mode, finished, data_dir) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    for key, value, told in OTHER_RUNS:
        run = experiment(data_dir, finished, **{key.replace(".", "__"): value})
        with pytest.raises(ConfigError) as refused:
            run.run(mode)
        first, *lines = str(refused.value).splitlines()
        assert first.endswith(
            "holds a run with another configuration; continue with that one, or choose another --workdir:"
        )
        assert f"  {told}" in lines
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_workdir_of_another_stage_is_refused(finished, data_dir) -> None:
    with pytest.raises(ConfigError, match=r"config\.stage: 'translate' then, 'pretrain' now"):
        experiment(data_dir, finished, stage="pretrain").run("train")


def test_a_checkpoint_counts_as_a_run_before_there_is_a_mark(finished, data_dir) -> None:
    notes = finished / "checkpoints" / "3" / "meta" / "metadata"
    notes.parent.mkdir(parents=True)
    (finished / FINISHED).rename(notes)
    with pytest.raises(ConfigError, match=r"config\.seed: 0 then, 2 now"):
        experiment(data_dir, finished, seed=2).run("train")


def test_a_training_goes_on_only_where_its_scores_on_dev_can_be_compared(
    data_dir, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sslssaw_jax.experiment.experiment.train", lambda *_, **__: SimpleNamespace(step=3, params={})
    )
    decoding = {"decode__beams": 7, "decode__length_penalty": 0.5}
    lines = [
        "  config.data.dev_split: 'dev' then, 'test' now",
        "  config.decode.beams: 2 then, 7 now",
        "  config.decode.length_penalty: 1.0 then, 0.5 now",
    ]
    for stage, refused in (("translate", lines), ("pretrain", lines[:1])):  # the loss needs no decoding
        run = experiment(data_dir, tmp_path / stage, stage=stage)
        place, checkpoints = len(run._stages) - 1, run.workdir / CHECKPOINTS
        write_json(checkpoint_notes(checkpoints / "3"), run._notes(place))
        write_json(checkpoints / SCORES, {"2": {"bleu4": 1.0}})
        other = experiment(data_dir, run.workdir, stage=stage, data__dev_split="test", **decoding)
        with pytest.raises(ConfigError, match=r"scores on dev that .* choose another --workdir") as told:
            other._train(place)
        assert str(told.value).splitlines()[1:] == refused
        (checkpoints / SCORES).unlink()
        other._train(place)
        assert (run.workdir / FINISHED).exists()


def test_a_stage_1_of_other_settings_is_refused_unless_they_are_of_stage_2(finished, data_dir) -> None:
    stage_1, workdir = finished.parent / "demo_stage1", finished.parent / "new"
    write_json(stage_1 / FINISHED, experiment(data_dir, workdir)._notes(1))
    other = experiment(data_dir, workdir, pretrain__mask_weight=0.5, model__fusion__kind="concat")
    with pytest.raises(
        ConfigError, match=r"demo_stage1 holds .* another --config\.init_from .*: WORKDIR_stage1\):\n.*"
    ) as refused:
        other.run("train")
    assert str(refused.value).splitlines()[1:] == ["  config.pretrain.mask_weight: 1.0 then, 0.5 now"]
    own = experiment(data_dir, workdir, init_from=None)  # whose first stage is inside the workdir
    write_json(workdir / "warm_start" / FINISHED, own._notes(0))
    with pytest.raises(ConfigError, match=r"new/warm_start holds .* another --workdir:\n"):
        experiment(data_dir, workdir, init_from=None, seed=2)._train(0)


@pytest.mark.parametrize(
    ("mode", "changes", "flags", "message"),
    [
        ("train", {}, {"overwrite": True}, "^--overwrite and --features are for --mode=extract"),
        ("extract", {}, {}, "^--mode=extract needs --features=NAME"),
        ("eval", {"stage": "pretrain"}, {}, "pretrain cannot: leave out --config.stage=pretrain"),
    ],
)
def test_a_mode_that_cannot_be_is_refused_with_the_flag(
    mode, changes, flags, message, data_dir, tmp_path
) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(data_dir, tmp_path / "demo", **changes).run(mode, **flags)


@pytest.fixture
def all_rain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every model translate every clip alike, without weights."""

    def translate(self: SplitTranslator, state: None, clips: Any) -> Any:
        rows = [Prediction(clip.id, clip.question, clip.target, "rain", -1.0) for clip in clips.clips]
        return rows, [None] * len(rows)

    monkeypatch.setattr(Evaluator, "_load_best", lambda self: None)
    monkeypatch.setattr(SplitTranslator, "__call__", translate)


@pytest.mark.parametrize("changes", [{}, {"decode__beams": 1}])
def test_results_of_two_own_datasets_stand_side_by_side(
    changes, finished, data_dir, tmp_path, all_rain
) -> None:
    places = {"a": "custom_qa", "b": "custom_qa-second"}
    folders = {name: finished / place for name, place in places.items()}
    if changes:
        folders = {name: folder / "decode.beams=1" for name, folder in folders.items()}
    for name, fingerprint in (("a", "first"), ("b", "second"), ("a", "first")):
        prepared = tmp_path / name / "custom_qa"
        shutil.copytree(data_dir / "avatar_qa", prepared, dirs_exist_ok=True)
        facts = prepared / "1.0.0" / "dataset.json"
        write_json(facts, read_json(facts) | {"fingerprint": fingerprint})
        data = {"data__dataset": "custom_qa", "data__data_dir": str(tmp_path / name)}
        experiment(data_dir, finished, **data, **changes).run("translate")
        assert read_notes(folders[name])["dataset"]["fingerprint"] == fingerprint
        assert all((folders[one] / "predictions.test.jsonl").exists() for one in {"a", name})


def test_other_decoding_is_scored_in_a_folder_of_its_name(
    finished, data_dir, all_rain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        Evaluator,
        "_find_understanding",
        lambda self, state, rows: asdict(find_understanding(rows, rows, [9])),
    )
    before = {path: path.read_bytes() for path in finished.iterdir()}
    changes = {"decode__beams": 1, "decode__length_penalty": 0.5, "data__num_threads": 1, "name": "x"}
    changes |= {"translate__clips_per_batch": 2, "translate__frame_budget": 128}  # for a smaller device
    experiment(data_dir, finished, evaluation__swap_questions=False, **changes).run("eval")
    folder = finished / "decode.beams=1,decode.length_penalty=0.5,evaluation.swap_questions=False"
    assert f"report: {folder / 'report.html'}" in capsys.readouterr().out
    assert read_notes(folder)["config"]["decode"]["beams"] == 1
    assert json.loads((folder / METRICS).read_text())["test"]["num_clips"] == 6
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in finished.iterdir()} == {
        FINISHED,
        METRICS,
        folder.name,
        "lock",
        "lock.holder",
    }
    assert f"<h1>demo/{folder.name}" in (folder / "report.html").read_text()


def test_dev_is_translated_without_video_too_and_test_with_other_questions(
    finished, data_dir, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows_something = {}

    def translate(self: SplitTranslator, state: None, clips: Any, only: Any = None, what: str = "") -> Any:
        frame = np.ones((1, *clips.frame_size, 3), np.uint8)
        clips.read_frames(0, np.array([0]), frame)
        shows_something[clips.split + what] = bool(frame.any())
        rows = [Prediction(clip.id, clip.question, clip.target, "rain", -1.0) for clip in clips.clips]
        return rows, [None] * len(rows)

    monkeypatch.setattr(Evaluator, "_load_best", lambda self: None)
    monkeypatch.setattr(SplitTranslator, "__call__", translate)
    experiment(data_dir, finished).run("eval")
    assert shows_something == {
        "dev": True,
        "dev, without video": False,
        "test": True,
        "test, questions shuffled": True,
        "test, questions blanked": True,
    }


def test_runs_translate_together_if_their_models_are_alike(finished, data_dir) -> None:
    together = finished.parent / "together"
    names = ("demo", "seed2")
    for folder, changes in {
        "seed2": {"seed": 2, "translate__epochs": 3},
        "lstm": {"model__fusion__kind": "lstm"},
    }.items():
        run = experiment(data_dir, finished.parent / folder, **changes)
        write_json(finished.parent / folder / FINISHED, run._notes(len(run._stages) - 1))
    alike = experiment(data_dir, together, evaluation__ensemble=names)
    with pytest.raises(CheckpointError, match="no checkpoint"):  # refused only where weights are missing
        alike.run("translate")
    unlike = experiment(data_dir, together, evaluation__ensemble=("demo", "lstm"))
    with pytest.raises(
        ConfigError, match=r"lstm holds .* another --config\.evaluation\.ensemble:\n.*'lstm' then"
    ):
        unlike.run("translate")


def with_dataset_of(run: Path, **facts: Any) -> None:
    """Change what a run says about its dataset, as if the dataset had been prepared differently."""
    notes = read_notes(run)
    write_json(run / FINISHED, notes | {"dataset": notes["dataset"] | facts})


def test_a_run_does_not_go_on_when_its_dataset_was_prepared_anew(finished, data_dir) -> None:
    with_dataset_of(finished, fingerprint="older", vocab_size=7)
    run = experiment(data_dir, finished)
    told = (
        r"trained on other clips.*\n  dataset\.fingerprint: 'older' then, .*\n  dataset\.vocab_size: 7 then, "
    )
    with pytest.raises(ConfigError, match=told):
        run.run("train")
    fingerprint = find_dataset(data_dir, "avatar_qa").facts.fingerprint
    assert run._evaluator.output_dir == finished / f"avatar_qa-{fingerprint}"


@pytest.mark.parametrize("mode", ["eval", "translate"])
def test_a_model_of_another_preparation_may_have_seen_the_test_clips(
    mode, finished, data_dir, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(**changes: Any) -> str:
        with pytest.raises(CheckpointError, match="no checkpoint"):
            experiment(data_dir, finished.parent / "demo", **changes).run(mode)
        return capsys.readouterr().err

    assert "other clips of" not in told()
    with_dataset_of(finished, fingerprint="older")
    line = f"{finished} was trained on other clips of avatar_qa than "
    assert line in told() and "clips of test here may have been in its train" in told()
    assert line in told(evaluation__ensemble=("demo",))
    notes = read_notes(finished)
    notes["config"]["data"]["dataset"] = "custom_qa"
    write_json(finished / FINISHED, notes)
    assert "other clips of" not in told()


@pytest.mark.parametrize("fact", [("resize", "crop:96"), ("fps", 30.0), ("language", "de_DE")])
def test_clips_that_were_prepared_otherwise_than_the_models_are_refused(fact, finished, data_dir) -> None:
    key, value = fact
    with_dataset_of(finished, fingerprint="another dataset", **{key: value})
    with pytest.raises(ConfigError, match=rf"does not fit the model in .*\n  dataset\.{key}: ") as refused:
        experiment(data_dir, finished).run("translate")
    command = str(refused.value).splitlines()[-1]
    option = "" if key == "language" else f" --{key}={value} "
    assert option in command and f"prepare avatar_qa --data_dir={data_dir} " in command


def test_frames_of_another_shape_than_the_models_are_refused(finished, data_dir) -> None:
    with_dataset_of(finished, fingerprint="another dataset", frame_size=[48, 85])
    told = r"does not fit .*\n  dataset\.frame_size: \[48, 85\] then, .*\ncrop or resize the videos to "
    with pytest.raises(ConfigError, match=told):
        experiment(data_dir, finished).run("translate")


def test_only_a_model_that_reads_frames_minds_their_shape(data_dir) -> None:
    dataset = find_dataset(data_dir, "avatar_qa")
    saved = dataset.facts.to_json() | {"fingerprint": "another dataset", "frame_size": [48, 85]}
    check = partial(require_fitting_data, Path("run"), saved, dataset, reads_video=True, trains=False)
    with pytest.raises(ConfigError, match=r"dataset\.frame_size: \[48, 85\] then"):
        check(reads_frames=True)
    assert check(reads_frames=False) is None


def test_a_source_that_does_not_exist_is_refused_unless_it_is_the_workdirs_own_stage_1(tmp_path) -> None:
    write_json(tmp_path / "phoenix_stage1_toy" / FINISHED, {})
    for good in (None, "mine_stage1", "phoenix_stage1_toy", str(tmp_path)):
        require_source(tmp_path / "mine", good)
    with pytest.raises(
        ConfigError, match=r"is 'phoenix_stage1', .* there: phoenix_stage1_toy\. .* mine_stage1"
    ):
        require_source(tmp_path / "mine", "phoenix_stage1")


def test_the_home_is_no_folder_named_tilde(data_dir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(data_dir.parent))
    assert user_path("~/runs") == data_dir.parent / "runs"
    assert user_path("~nobody.mp4") == Path("~nobody.mp4"), "a file, and nobody's home"
    with pytest.raises(UserError, match="~no-one/runs: ~no-one has no home folder here"):
        user_path("~no-one/runs")
    run = experiment(data_dir, data_dir, data__data_dir=f"~/{data_dir.name}", data__cache_dir="~")
    assert run.config.data.data_dir == str(data_dir) and run.config.data.cache_dir == str(data_dir.parent)


def test_the_best_state_of_a_stage_is_evaluated_and_goes_on(data_dir, tmp_path) -> None:
    """Leave two states each of recogniser and translation, where the second is worse."""
    changes = {"init_from": None, "warm_start__epochs": 0, "recognize__epochs": 1}
    run = experiment(data_dir, tmp_path / "demo", **changes)
    best = []
    for place, better, worse in ((0, {"wer": 1.0}, {"wer": 2.0}), (1, {"bleu4": 2.0}, {"bleu4": 1.0})):
        states = [toy_state(run._stages[place], seed).replace(step=seed) for seed in (1, 2)]
        with Checkpointer(run._folders[place] / CHECKPOINTS, selection=None) as checkpointer:
            for state, scores in zip(states, (better, worse)):
                checkpointer.save(state, data={}, meta=run._notes(place))
                checkpointer.add_scores(state.step, scores)
        best.append(states[0].params)
    write_json(run._folders[0] / FINISHED, run._notes(0))
    start = run._initial_weights(1)(toy_state(run._stages[1], 3)).params
    assert_close(start["video"], best[0]["video"], 0)
    assert_close(run._evaluator._load_best().params, best[1], 0)


def test_stage_2_goes_on_from_the_last_state_of_stage_1_whatever_its_loss_on_dev(
    data_dir, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []
    monkeypatch.setattr(Experiment, "_train", lambda self, place: None)
    monkeypatch.setattr(
        "sslssaw_jax.experiment.experiment.trained_modules",
        lambda *_, best_by, **__: chosen.append(best_by),
    )
    run = experiment(data_dir, tmp_path / "demo", warm_start__epochs=0)
    assert [stage.selection for stage in run._stages] == [LOSS, BLEU_4]
    run._initial_weights(1)
    assert chosen == [None]


def test_each_stage_trains_on_clips_that_it_can_learn_from(data_dir, tmp_path) -> None:
    """The warm start on isolated signs, a stage of glosses on clips that have some, others on train."""
    run = experiment(data_dir, tmp_path / "demo")
    assert [stage.name for stage in run._stages] == ["warm_start", "pretrain", "translate"]
    assert [run._train_clips(place).split for place in range(3)] == ["isolated", "train", "train"]

    shutil.copytree(data_dir, tmp_path / "data")
    file = tmp_path / "data/avatar_qa/1.0.0/clips.train.jsonl"
    rows = read_jsonl(file)
    write_jsonl(file, [row | {"gloss": row["gloss"] * (place % 3 == 0)} for place, row in enumerate(rows)])
    config = toy_system("mmtlb", **{"data.data_dir": str(tmp_path / "data")})
    run = Experiment(replace(config, compilation_cache=None), tmp_path / "mmtlb")
    indices = [run._train_clips(place).of_epoch(32, 0, 0)[0].tolist() for place in range(3)]
    assert [stage.name for stage in run._stages] == ["recognize", "gloss2text", "translate"]
    assert indices == [[*range(24)], [*range(0, 24, 3)], [*range(24)]]


def test_a_run_of_other_glosses_is_refused(data_dir, tmp_path) -> None:
    tree = shrink(shipped("recognize"), data_dir)
    tree.compilation_cache = None
    run = Experiment(read_config(tree), tmp_path)
    notes = run._notes(len(run._stages) - 1)
    write_json(tmp_path / FINISHED, notes | {"glosses": "of another train split"})
    with pytest.raises(
        ConfigError, match=rf"config\.glosses: 'of another .*' then, '{notes['glosses']}' now"
    ):
        run.run("eval")


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str, int]]:
    """Replace pictures of clips by their facts: clip, sentence, gate, and the place that is explained.

    Each clip's sentence and gate are its id.
    """
    drawn: list[tuple[str, str, str, int]] = []

    def translate(self: SplitTranslator, state: None, clips: Any, only: Any = None, what: str = "") -> Any:
        chosen = [clips.clips[place] for place in (range(len(clips)) if only is None else only)]
        rows = [
            Prediction(clip.id, "", clip.target, f"{clip.target[: 20 - place]} {clip.id}", -1.0)
            for place, clip in enumerate(chosen)
        ]
        return rows, [clip.id for clip in chosen]

    def explain(state: None, clips: Any, index: int, sentence: str) -> tuple[int, str]:
        return index, sentence

    def draw(folder: Path, clip: Any, row: Prediction, gate: Any, explanation: Any, most: int) -> None:
        index, sentence = explanation
        assert sentence == row.prediction
        drawn.append((clip.id, row.id, gate, index))

    monkeypatch.setattr(Evaluator, "_load_best", lambda self: None)
    monkeypatch.setattr(SplitTranslator, "__call__", translate)
    monkeypatch.setattr(Programs, "explain", staticmethod(explain))
    monkeypatch.setattr("sslssaw_jax.evaluator.draw_clip", draw)
    return drawn


def test_each_picture_shows_one_clip_with_its_own_sentence_gate_and_explanation(
    finished, data_dir, pictures, capsys: pytest.CaptureFixture[str]
) -> None:
    run = experiment(data_dir, finished, evaluation__num_heatmaps=3)
    run.run("translate")
    places = [index for *_, index in pictures]
    assert len(set(places)) == 3 and places[0] != 0
    assert pictures == [(f"test-{place:03d}",) * 3 + (place,) for place in places]
    pictures.clear()
    capsys.readouterr()
    run.run("translate", clip_ids=["dev-002", "test-004", "dev-005"])
    assert pictures == [
        ("test-004", "test-004", "test-004", 4),
        ("dev-002", "dev-002", "dev-002", 2),
        ("dev-005", "dev-005", "dev-005", 5),
    ]
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if not line.startswith(" ")][:3] == ["test-004", "dev-002", "dev-005"]
    assert told[3].endswith(" test-004")


def test_no_process_goes_on_before_the_mark_of_a_finished_stage_is_there(
    data_dir, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, waited = experiment(data_dir, tmp_path / "demo"), []
    mark = run._folders[0] / FINISHED
    monkeypatch.setattr(
        "sslssaw_jax.experiment.experiment.train", lambda *_, **__: SimpleNamespace(step=1, params={})
    )
    monkeypatch.setattr(
        "sslssaw_jax.experiment.experiment.wait_for_all", lambda what: waited.append(mark.exists())
    )
    run._train(0)
    assert waited == [True]
    assert capsys.readouterr().out.startswith("warm_start: training on cpu in ")


@pytest.mark.parametrize(("earlier", "kept"), [(["a"], ["a", "b"]), (["b"], ["b"]), (None, ["unknown", "b"])])
def test_a_run_names_all_code_that_trained_it(
    earlier, kept, data_dir, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, meta = experiment(data_dir, tmp_path / "demo"), []

    def train(*_: Any, **given: Any) -> SimpleNamespace:
        meta.append(given["meta"])
        return SimpleNamespace(step=1, params={})

    monkeypatch.setattr("sslssaw_jax.experiment.run_notes.code", lambda: "b")
    monkeypatch.setattr("sslssaw_jax.experiment.experiment.train", train)
    folder = run._folders[0]
    notes = {key: value for key, value in run._notes(0).items() if key != "code"}
    begun = notes | ({"code": earlier} if earlier else {})
    write_json(checkpoint_notes(folder / CHECKPOINTS / "1"), begun)
    run._train(0)
    assert [read_json(folder / FINISHED)["code"], meta[0]["code"]] == [kept, kept]


def test_code_is_told_apart_by_the_text_of_its_files(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_notes, "__file__", str(tmp_path / "experiment" / "run_notes.py"))
    file, digest, found = tmp_path / "models" / "fusion.py", run_notes.code.__wrapped__, []
    file.parent.mkdir()
    for text in ("gate = 1\n", "gate = 2\n", "gate = 1\n"):
        file.write_text(text)
        found.append(digest())
    found.append((file.rename(file.with_name("fusions.py")), digest())[1])
    first, changed, again, renamed = found
    assert first == again and len({first, changed, renamed}) == 3
    assert all(one.startswith(f"{sslssaw_jax.__version__}+") for one in found)


def test_results_of_a_state_before_the_end_are_gone_when_the_training_is_finished(
    data_dir, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, place = experiment(data_dir, tmp_path / "demo"), "sslssaw_jax.experiment.experiment"
    folder = run._folders[0]
    results = (METRICS, REPORT, "predictions.dev.jsonl", "glosses.test.jsonl", f"{HEATMAPS}/test-000.png")

    def train(*_: Any, **__: Any) -> SimpleNamespace:
        for name in results:
            write_json(folder / name, {})
        return SimpleNamespace(step=1, params={})

    def killed(path: Path, obj: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{place}.train", train)
    monkeypatch.setattr(f"{place}.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run._train(0)
    assert not [name for name in results if (folder / name).exists()], "no mark can be next to old scores"


@pytest.mark.parametrize(("target", "told"), [("rain in the", True), ("rain in the north", False)])
def test_targets_that_bleu_4_cannot_score_are_reported(
    target, told, data_dir, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data_dir, tmp_path / "data")
    file = tmp_path / "data/avatar_qa/1.0.0/clips.dev.jsonl"
    write_jsonl(file, [row | {"target": target} for row in read_jsonl(file)])
    monkeypatch.setattr(
        "sslssaw_jax.experiment.experiment.train", lambda *_, **__: SimpleNamespace(step=1, params={})
    )
    changes = {"init_from": None, "warm_start__epochs": 0, "pretrain__epochs": 0}
    experiment(tmp_path / "data", tmp_path / "demo", **changes)._train(0)
    line = "translate: no target of dev has four words (or characters), so BLEU-4 is always 0"
    assert (line in capsys.readouterr().out) == told


def test_targets_that_no_translation_can_reach_are_reported(
    data_dir, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sslssaw_jax.experiment.experiment.train", lambda *_, **__: SimpleNamespace(step=1, params={})
    )
    changes = {"init_from": None, "warm_start__epochs": 0, "pretrain__epochs": 0}
    experiment(data_dir, tmp_path / "demo", **changes, decode__max_new_tokens=1)._train(0)
    told = capsys.readouterr().out
    for split in ("dev", "test"):
        assert f"targets of {split} are longer than any translation can be, config.decode.max_new" in told


def test_a_tokenizer_trimmed_for_other_texts_is_reported(
    data_dir, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sslssaw_jax.experiment.experiment.train", lambda *_, **__: SimpleNamespace(step=1, params={})
    )
    trimmed = shutil.copytree(data_dir / "avatar_qa/1.0.0/tokenizer", tmp_path / "trimmed")
    write_trimmed_for(trimmed, "other_qa", [])
    changes = {"init_from": None, "warm_start__epochs": 0, "pretrain__epochs": 0}
    experiment(data_dir, tmp_path / "demo", **changes, data__tokenizer=str(trimmed))._train(0)
    told = capsys.readouterr().out
    assert f"translate: {trimmed} was trimmed for other texts (other_qa) than {data_dir}" in told


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("translate__frame_budget", 8, r"translate: clip .* raise .*frame_budget, or .*data\.max_frames=8"),
        ("translate__optim__warmup_steps", 10**6, r"config\.translate\.optim\.warmup_steps is 1000000"),
        ("translate__optim__groups", ("video.cn=0",), r"config\.translate\.optim\.groups"),
        ("model__inputs", "video", r"config\.translate\.drop_words is 0\.2, but .* reads no question"),
        ("data__tokenizer", "OTHER", r"tokenizer in .*other is for other texts: .* 24 of 24 targets"),
    ],
)
def test_a_mistake_in_the_last_stage_shows_before_the_first_is_trained(
    key, value, message, data_dir, tmp_path
) -> None:
    if value == "OTHER":
        value = str(tmp_path / "other")
        train_tokenizer(["今天下雨", "明天有雪"], Path(value), vocab_size=40)
    changes = {key: value}
    if value == "video":
        changes |= {"model__ssl": "off", "translate__drop_words": 0.2}
    before = list(tmp_path.iterdir())
    run = experiment(data_dir, tmp_path / "demo", **changes)
    with pytest.raises(ConfigError, match=message):
        run.run("train")
    assert list(tmp_path.iterdir()) == before


def test_a_model_that_would_meet_its_first_question_on_dev_is_refused(data_dir, tmp_path) -> None:
    shutil.copytree(data_dir, tmp_path / "data")
    file = tmp_path / "data/avatar_qa/1.0.0/clips.train.jsonl"
    write_jsonl(file, [row | {"question": ""} for row in read_jsonl(file)])
    run = experiment(tmp_path / "data", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no clip of train .* has a question, .*model\.inputs=video"):
        run.run("train")
    alone = experiment(tmp_path / "data", tmp_path / "run", model__inputs="video", model__ssl="off")
    alone._train_batches(-1)


def test_the_seed_draws_the_batches_whose_questions_lose_words_if_asked_to(data_dir, tmp_path) -> None:
    first, other, fewer = (
        list(experiment(data_dir, tmp_path, **changes)._train_batches(-1))
        for changes in ({"seed": 0}, {"seed": 1}, {"translate__drop_words": 0.9})
    )
    assert [each.index.tolist() for each in first] != [each.index.tolist() for each in other]
    asked, kept = (sum(each.decoder_texts.question_mask.sum() for each in one) for one in (first, fewer))
    assert kept < asked


def test_a_cache_is_built_before_the_first_step(data_dir, tmp_path) -> None:
    changes = {"data__cache": True, "data__cache_dir": str(tmp_path / "cache")}
    experiment(data_dir, tmp_path / "demo", **changes)._train_batches(-1)
    assert [path.name.split(".")[2] for path in (tmp_path / "cache").glob("*.npy")] == ["train"]


def test_glosses_of_a_run_that_never_began_are_read_anew(data_dir, tmp_path) -> None:
    run = experiment(data_dir, tmp_path / "demo")
    GlossVocabulary(("OLD",)).save(run.workdir)
    assert "OLD" not in run._data.glosses.glosses
    write_json(run.workdir / FINISHED, run._notes(len(run._stages) - 1))
    assert experiment(data_dir, tmp_path / "demo")._data.glosses.glosses == ("OLD",)


def test_a_source_that_no_stage_begins_with_is_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"init_from is 'demo_stage1', but .* no stage .* could start from"):
        experiment(data_dir, tmp_path / "demo", pretrain__epochs=0).run("train")
