"""The table command, with a substitute for processes of `run.py` that trains nothing."""

import csv
import io
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import to_dict
from sslssaw_jax.evaluation.metrics import LABELS, score
from sslssaw_jax.evaluation.predictions import Prediction, read_predictions, write_predictions
from sslssaw_jax.evaluation.significance import compare, confidence_interval
from sslssaw_jax.systems import read_config
from sslssaw_jax.tables import PAPER
from sslssaw_jax.tables import rows as table_rows
from sslssaw_jax.tables.__main__ import main
from sslssaw_jax.tables.child_process import child_processes
from sslssaw_jax.tables.layout import WITH_PERIOD, Row, Run, draw, to_csv, to_markdown
from sslssaw_jax.tables.rows import TableError, make_table
from sslssaw_jax.training.signals import Stopped
from sslssaw_jax.workdir import (
    FINISHED,
    METRICS,
    WorkdirError,
    locked,
    predictions_file,
    write_json,
    write_jsonl,
)

SHARED = ["seed0/demo_stage1", "seed1/demo_stage1"]


WORDS = ["rain", "snow", "wind", "fog", "sun", "hail", "north", "south", "east", "west", "today", "tomorrow"]


class Runs:
    """A substitute for processes of `run.py` that notes its calls and does what it is told."""

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self._told: tuple[str, ...] = ()
        self._calls: list[str] = []

    def tell(self, *what: str) -> None:
        self._told = what

    def called(self) -> list[str]:
        """The workdirs of the calls since the last request, in order."""
        calls, self._calls = self._calls, []
        return calls

    def __call__(self, command: Sequence[str], log: Path) -> int:
        """Read the flags as `run.py` does, and write the files that a run leaves."""
        _, *argv = command
        values = flags.FlagValues()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", argv)  # where a configuration file's flags look for their values
            config_flags.DEFINE_config_file("config", flag_values=values)
            flags.DEFINE_string("workdir", None, "", flag_values=values)
            values(argv)
        config, workdir = read_config(values.config), Path(values.workdir)
        name = f"{workdir.parent.name}/{workdir.name}"
        self._calls.append(name)
        ends = (
            ("fail", 1, "error: out of luck"),
            ("stop", 143, "stopped by SIGTERM"),
            ("kill", -9, "training on cpu"),
        )
        for what, status, output in ends:
            if f"{what}:{name}" in self._told:
                log.write_text(output)
                return status
        notes = {"config": to_dict(config), "tokenizer": None, "language": "en_XX", "parameters": 1234567}
        notes |= {"dataset": {"fingerprint": "0"}, "features": {}}
        write_json(workdir / FINISHED, notes)
        steps = [{"step": step, "stage": config.stage, "step_time": 0.5} for step in (10, 20, 30)]
        write_jsonl(workdir / "log.jsonl", [*steps, {"step": 30, "stage": config.stage, "dev_bleu4": 1.0}])
        if config.stage == "pretrain":
            return 0
        rng = random.Random(1)
        targets = [" ".join(rng.choices(WORDS, k=8)) for _ in range(30)]
        rng = random.Random(workdir.name + str(config.seed))
        # close, so that the p-values of two seeds differ
        share = 0.85 if getattr(config.model, "inputs", "both") == "both" else 0.9
        rows = []
        for target in targets:
            words = [word if rng.random() < share else rng.choice(WORDS) for word in target.split()]
            rows.append(Prediction(str(len(rows)), "", target, " ".join(words), 0.0))
        write_predictions(workdir, "test", rows)
        scores = {f"bleu{n}": 50 / n + config.seed**2 + len(workdir.name) for n in (1, 2, 3, 4)}
        write_json(workdir / METRICS, {"test": {**scores, "rouge_l": 40.5}})
        return 0


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs(tmp_path / "W")
    monkeypatch.setattr(table_rows, "child_processes", lambda: nullcontext(runs))
    return runs


def predictions(run: Path) -> tuple[list[str], list[str]]:
    rows = read_predictions(run / predictions_file("test"))
    return [row.prediction for row in rows], [row.target for row in rows]


def test_what_is_missing_is_trained_what_failed_is_tried_again_and_what_is_finished_is_left_alone(runs):
    runs.tell("fail:seed1/demo_video", "stop:seed0/demo_question")
    rows = make_table(7, "avatar_qa", runs.workdir, seeds=2)
    table = [f"seed{seed}/demo_{row}" for seed in (0, 1) for row in ("question", "video", "ssl_ssaw")]
    assert runs.called() == [SHARED[0], *table[:3], SHARED[1], *table[3:]]
    assert [(len(row.runs), row.failed) for row in rows] == [(1, 1), (1, 1), (2, 0)]
    told = (runs.workdir / "table7.avatar_qa.md").read_text()
    assert "Question (question): 1 of 2 runs, 1 failed (stopped by SIGTERM)." in told
    assert "Sign (video): 1 of 2 runs, 1 failed (error: out of luck)." in told

    runs.tell()
    (runs.workdir / "seed1/demo_question/metrics.json").unlink()  # killed before its evaluation ended
    rows = make_table(7, "avatar_qa", runs.workdir, seeds=2)
    assert sorted(runs.called()) == ["seed0/demo_question", "seed1/demo_question", "seed1/demo_video"]
    assert [(len(row.runs), row.failed) for row in rows] == [(2, 0)] * 3
    for row in rows:
        reached = [50 / 4 + seed**2 + len(f"demo_{row.experiment}") for seed in (0, 1)]
        assert row.mean("bleu4") == pytest.approx(statistics.mean(reached))
        assert row.deviation("bleu4") == pytest.approx(statistics.stdev(reached))
    told = (runs.workdir / "table7.avatar_qa.md").read_text()
    assert "runs" not in told
    assert "| yes |  | 63.50 ± 0.71 |" in told and "(46.82)" not in told
    assert told.count("| 1.2 M | 30 |") == 3, "15 seconds of each stage"

    written = sorted(runs.workdir.glob("table7.*"))
    assert [path.suffix for path in written] == [".csv", ".md", ".png"]
    assert make_table(7, "avatar_qa", runs.workdir, seeds=2) == rows
    assert runs.called() == []
    make_table(5, "avatar_qa", runs.workdir, only=["lstm", "ssl_ssaw"])  # the other tables' rows and stage 1
    assert runs.called() == ["seed0/demo_lstm"]
    assert (runs.workdir / "table5.avatar_qa.md").read_text().count("| – ") == 2 * len(LABELS)


def test_each_seed_is_tested_against_the_same_seed_of_the_last_row(runs):
    question, sign, full = make_table(7, "avatar_qa", runs.workdir, seeds=2)
    for seed in range(2):
        folders = [runs.workdir / f"seed{seed}" / f"demo_{row.experiment}" for row in (question, sign, full)]
        translated, targets = zip(*map(predictions, folders))
        for row, system in zip((question, sign), translated):
            run, last = row.runs[seed], full.runs[seed]
            assert run.p_values == compare(system, translated[2], targets[0])
            assert run.gains["bleu4"] == run.scores["bleu4"] - last.scores["bleu4"]
            assert run.intervals == confidence_interval(system, targets[0])
        assert last.p_values == {}
    assert full.p_value("bleu4") is None

    (runs.workdir / "seed0/demo_ssl_ssaw/metrics.json").unlink()
    runs.tell("fail:seed0/demo_ssl_ssaw")
    *others, full = make_table(7, "avatar_qa", runs.workdir)
    assert [row.p_value("bleu4") for row in others] == [None, None] and full.failed == 1
    assert others[0].interval("bleu4") == question.runs[0].intervals["bleu4"]

    file = runs.workdir / "seed0/demo_question" / predictions_file("test")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    runs.tell()
    with pytest.raises(TableError, match=r"demo_question and .*demo_ssl_ssaw hold predictions of different"):
        make_table(7, "avatar_qa", runs.workdir)


def test_rows_in_chinese_are_compared_by_their_characters(runs):
    make_table(7, "avatar_qa", runs.workdir)
    characters = dict(zip(WORDS, "雨雪风雾日雹北南东西今明"))
    folders = [runs.workdir / "seed0" / f"demo_{name}" for name in ("question", "ssl_ssaw")]
    for folder in (*folders, runs.workdir / "seed0/demo_video"):
        texts = [
            ["".join(map(characters.get, text.split())) for text in part] for part in predictions(folder)
        ]
        written = [Prediction("", "", target, found, 0.0) for found, target in zip(*texts)]
        write_predictions(folder, "test", written)
    question, *_ = make_table(7, "avatar_qa", runs.workdir)
    (own, targets), (full, _) = map(predictions, folders)
    assert question.runs[0].p_values == compare(own, full, targets, characters=True)
    assert question.runs[0].intervals == confidence_interval(own, targets, characters=True)


def test_a_row_that_was_killed_is_named_so(runs):
    runs.tell("kill:seed0/demo_question")
    question, *_ = make_table(7, "avatar_qa", runs.workdir)
    assert (question.failed, question.reason) == (1, "killed: Killed")


def test_a_stage_1_that_fails_is_tried_once_and_the_table_names_its_rows(runs, capsys):
    runs.tell("fail:seed0/demo_stage1")
    with pytest.raises(SystemExit, match="error: question, video, ssl_ssaw failed"):
        main(["--table=7", "--dataset=avatar_qa", f"--workdir={runs.workdir}"])
    assert runs.called() == [SHARED[0]]
    shown, failures = capsys.readouterr()
    assert "out of luck" in failures
    assert f"job 1 of 4: stage 1 in {runs.workdir}/seed0/demo_stage1\n" in shown
    assert f"to follow it: tail -f {runs.workdir}/seed0/demo_stage1/run.log\n" in shown
    assert f"job 4 of 4: training and evaluation in {runs.workdir}/seed0/demo_ssl_ssaw\n" in shown
    told = (runs.workdir / "table7.avatar_qa.md").read_text()
    assert told.count("| failed ") == 3 * len(LABELS) and "0 of 1 runs, 1 failed (not started, since" in told


def test_rows_are_trained_side_by_side_after_the_stage_they_share(runs, monkeypatch):
    meeting, alone = threading.Barrier(3), threading.Lock()

    def run(command: Sequence[str], log: Path) -> int:
        if "stage1" not in str(log):
            meeting.wait(timeout=60)  # fails unless all three rows are there
        with alone:
            return runs(command, log)

    monkeypatch.setattr(table_rows, "child_processes", lambda: nullcontext(run))
    rows = make_table(7, "avatar_qa", runs.workdir, at_once=3)
    first, *others = runs.called()
    assert first == SHARED[0] and len(others) == 3
    assert [(len(row.runs), row.failed) for row in rows] == [(1, 0)] * 3


def test_rows_of_different_preparations_of_a_dataset_are_refused(runs):
    make_table(7, "avatar_qa", runs.workdir, only=["video", "question"])
    for row, fingerprint in {"video": "a", "question": "b"}.items():
        mark = runs.workdir / "seed0" / f"demo_{row}" / "finished.json"
        notes = json.loads(mark.read_text()) | {"dataset": {"fingerprint": fingerprint}}
        mark.write_text(json.dumps(notes))
    with pytest.raises(TableError, match=r"demo_question and .*demo_video were trained on different clips"):
        make_table(7, "avatar_qa", runs.workdir, only=["video", "question"])


def test_rows_and_seeds_on_different_features_of_one_name_are_refused(runs):
    make_table(7, "avatar_qa", runs.workdir, seeds=2, only=["video", "question"])

    def note(run: str, **fingerprints: str) -> None:
        mark = runs.workdir / run / "finished.json"
        sets = {name: {"fingerprint": one} for name, one in fingerprints.items()}
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"features": sets}))

    note("seed0/demo_video", s3d="a", points="p")
    note("seed1/demo_video", s3d="a", cnn="b")
    make_table(7, "avatar_qa", runs.workdir, seeds=2, only=["video", "question"])
    for name in ("s3d", "points"):
        note("seed1/demo_video", **{name: "z"})
        told = rf"seed0/demo_video and .*seed1/demo_video were .* feature set {name}, .* another --workdir"
        with pytest.raises(TableError, match=told):
            make_table(7, "avatar_qa", runs.workdir, seeds=2, only=["video", "question"])


def test_a_table_names_the_code_of_rows_that_different_code_trained(runs):
    def note(**code: list[str]) -> str:
        for run, found in code.items():
            mark = runs.workdir / "seed0" / f"demo_{run}" / "finished.json"
            mark.write_text(json.dumps(json.loads(mark.read_text()) | {"code": found}))
        make_table(7, "avatar_qa", runs.workdir)
        told = (runs.workdir / "table7.avatar_qa.md").read_text().splitlines()
        return "".join(line for line in told if "different code" in line)

    make_table(7, "avatar_qa", runs.workdir)
    assert note() == "", "all unknown"
    without_code = json.loads((runs.workdir / "seed0/demo_question/finished.json").read_text())
    assert note(stage1=["a"], question=["b"], video=["b"], ssl_ssaw=["b"]) == "", "all alike"
    assert note(video=["b", "c"]).endswith(": Question by a, b; Sign by a, b, c; Question + Sign by a, b.")
    (runs.workdir / "seed0/demo_stage1/finished.json").unlink()
    write_json(runs.workdir / "seed0/demo_question/finished.json", without_code)
    assert note().endswith(": Question by unknown; Sign by b, c; Question + Sign by b.")


def test_finished_runs_of_other_settings_are_refused_before_anything_is_trained(runs):
    make_table(7, "avatar_qa", runs.workdir, only=["video"])
    assert runs.called() == [SHARED[0], "seed0/demo_video"]
    for flag, folder, words in (
        ("--config.translate.epochs=1", "demo_video", "config.translate.epochs: 5 then, 1 now"),
        ("--config.decode.beams=1", "demo_video", "config.decode.beams: 4 then, 1 now"),
        ("--config.pretrain.epochs=3", "demo_stage1", "config.pretrain.epochs: 1 then, 3 now"),
        ("--config.warm_start.epochs=1", "demo_stage1", "config.warm_start.epochs: 5 then, 1 now"),
    ):
        with pytest.raises(TableError, match=f"{folder} is finished with other settings") as refused:
            make_table(7, "avatar_qa", runs.workdir, run_flags=[flag])
        assert words in str(refused.value)
    make_table(7, "avatar_qa", runs.workdir, only=["video"], run_flags=["--config.data.num_threads=1"])
    assert runs.called() == []


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.model.fusion.knid=lstm", r"knid is unknown; did you mean --config\.model\.fusion\.kind\?"),
        ("--config.seed=x", "seed"),
        ("--mode=eval", "^--mode is no setting: only --config.KEY=VALUE may follow --$"),
        ("lstm", "unknown argument 'lstm'"),
    ],
)
def test_a_wrong_flag_is_told_once_and_trains_nothing(runs, flag, words):
    with pytest.raises(ConfigError, match=words):
        make_table(7, "avatar_qa", runs.workdir, run_flags=[flag])
    assert runs.called() == [] and not runs.workdir.exists()


def test_two_tables_at_once_in_one_workdir_are_refused(runs):
    with (
        locked(runs.workdir),
        pytest.raises(WorkdirError, match=r"W is in use by process .* another --workd"),
    ):
        make_table(7, "avatar_qa", runs.workdir)
    assert runs.called() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_goes_to_the_child_and_stops_after_it(tmp_path, number):
    log, ready = tmp_path / "log", tmp_path / "ready"
    child = (
        "import signal, sys, time\n"
        "def stop(number, frame): print(f'saved at {number}'); sys.exit(0)\n"
        f"signal.signal({int(number)}, stop)\n"
        f"open({str(ready)!r}, 'w').close()\n"
        "while True: time.sleep(1)\n"
    )

    def interrupt() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Stopped, match=number.name), child_processes() as run:
        run([sys.executable, "-c", child], log)
    thread.join()
    assert log.read_text() == f"saved at {int(number)}\n"
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def row(
    experiment: str, paper_bleu4: float | None, *bleu4: float, p: float | None = None, full: float = 90.0
) -> Row:
    runs = [
        Run(
            dict.fromkeys((*LABELS, WITH_PERIOD), score),
            {"bleu4": (score - 2, score + 1), "rouge_l": (score - 1, score + 1)},
            {} if p is None else {"bleu4": p / (1 + place), "rouge_l": p},
            {} if p is None else {"bleu4": score - full, "rouge_l": score - full},
        )
        for place, score in enumerate(bleu4)
    ]
    printed = None if paper_bleu4 is None else [60.0, 50.0, 40.0, paper_bleu4, 55.0]
    return Row([experiment], experiment, printed, runs)


def test_seeds_that_differ_in_direction_show_no_difference():
    assert row("qb", None, 40.0, 43.0, p=0.02).p_value("bleu4") == 0.02
    assert row("qb", None, 40.0, 43.0, p=0.02, full=30.0).p_value("bleu4") == 0.02
    assert row("qb", None, 40.0, 43.0, p=0.02, full=41.0).p_value("bleu4") == 1


def test_a_row_without_published_figures_has_dashes_in_their_places():
    rows = [row("slrt", None, 10.0), row("gaslt", 15.74, 9.0), row("ssl_ssaw", 35.42, 30.0)]
    told = to_markdown(1, "phoenix2014t_qa", rows, seeds=1)
    assert "| slrt | 10.00 (–) |" in told and "9.00 (15.74)" in told
    assert "By BLEU-4: gaslt < slrt < ssl_ssaw.\n- The paper has the same order." in told
    assert "| slrt | – | – | – | – | – |" in to_markdown(1, "avatar_qa", rows, seeds=1)
    line = next(csv.DictReader(io.StringIO(to_csv(1, rows))))
    assert (line["bleu4_mean"], line["bleu4_paper"]) == ("10.0", "")
    (axes,) = draw(1, "phoenix2014t_qa", rows).axes
    assert [drawn.get_marker() for drawn in axes.lines].count("D") == 2


def test_a_table_says_what_its_published_rows_are():
    names = [line["experiment"] for line in PAPER["1"]["rows"]]
    lines = to_markdown(1, "phoenix2014t_qa", [row(name, 20.0, 10.0) for name in names], seeds=1).splitlines()
    assert lines[2].endswith("| BLEU-4 with final period | parameters | seconds |")
    assert all(f"- {note}" in lines for note in PAPER["1"]["notes"])
    assert any(line.startswith("- gaslt: ") and "reconstruction" in line for line in lines)
    assert "final period" not in to_markdown(1, "avatar_qa", [row("gaslt", 20.0)], 1).splitlines()[2]


def test_markdown_has_mean_deviation_paper_widest_interval_and_largest_p():
    rows = [row("qb_ssl", 25.75, 20.0, 24.0, p=0.04), row("lstm", 34.08, 18.0, 19.0), row("ssl_ssaw", 35.42)]
    lines = to_markdown(5, "phoenix2014t_qa", rows, seeds=2).splitlines()
    assert lines[2].startswith("| Fusion | BLEU-1 | BLEU-2 | BLEU-3 | BLEU-4 | ROUGE-L | BLEU-4 95 % | p |")
    cells = [cell.strip() for cell in lines[4].split("|")[1:-1]]
    assert cells[0] == "qb_ssl"
    assert cells[4:6] == ["22.00 ± 2.83 (25.75)", "22.00 ± 2.83 (55.00)"]
    assert cells[6:] == ["18.00 to 25.00", "0.040", "19.00 to 25.00", "0.040", "22.00", "", ""]
    assert "| – (35.42) |" in lines[6]
    assert lines[-1] == f"- {PAPER['5']['notes'][0]}"
    assert not any("By BLEU-4" in line for line in lines)  # not all rows are there

    rows[2] = row("ssl_ssaw", 35.42, 21.0, 21.5)
    told = to_markdown(5, "phoenix2014t_qa", rows, seeds=2)
    assert "By BLEU-4: lstm < ssl_ssaw < qb_ssl.\n- In the paper: qb_ssl < lstm < ssl_ssaw." in told


@pytest.mark.parametrize(("dataset", "toy"), [("avatar_qa", False), ("phoenix2014t_qa", True)])
def test_figures_that_cannot_be_compared_stand_in_tables_of_their_own(dataset: str, toy: bool):
    rows = [row("qb_ssl", 25.75, 4.0, p=0.04), row("ssl_ssaw", 35.42, 5.0)]
    told = to_markdown(5, dataset, rows, seeds=1, toy=toy)
    ours, papers = told.split("The paper's figures, on phoenix2014t_qa with full-size models")
    assert "| 4.00 |" in ours and "(" not in ours and "25.75" not in ours
    assert "| qb_ssl | 60.00 | 50.00 | 40.00 | 25.75 | 55.00 |" in papers
    assert ("small models" in ours) == toy
    (axes,) = draw(5, dataset, rows, toy=toy).axes
    markers = [line.get_marker() for line in axes.lines]
    assert "D" not in markers and "diamonds" not in axes.get_xlabel()
    (axes,) = draw(5, "phoenix2014t_qa", rows).axes
    assert [line.get_marker() for line in axes.lines].count("D") == 2


@pytest.mark.parametrize(
    ("jobs", "given", "found"), [(1, None, None), (2, None, "false"), (2, "true", "true")]
)
def test_runs_at_the_same_time_take_a_gpus_memory_as_they_need_it(jobs, given, found, runs, monkeypatch):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    runs.tell("fail:seed0/demo_stage1")
    with pytest.raises(SystemExit):
        main(["--table=7", "--dataset=avatar_qa", f"--workdir={runs.workdir}", f"--jobs={jobs}"])
    assert os.environ.get(name) == found


def test_a_table_is_rehearsed_with_small_models(runs):
    _, video, _ = make_table(7, "phoenix2014t_qa", runs.workdir, only=["video"], toy=True)
    assert runs.called()[-1] == "seed0/phoenix_toy_video"
    ended = score(*predictions(runs.workdir / "seed0/phoenix_toy_video"), period=True)
    assert video.runs[0].scores[WITH_PERIOD] == ended["bleu4"]
    assert {path.name for path in runs.workdir.glob("table7.*")} == {
        f"table7.phoenix2014t_qa_toy.{end}" for end in ("md", "csv", "png")
    }
    with pytest.raises(SystemExit):
        main(["--table=7", "--dataset=avatar_qa", f"--workdir={runs.workdir}", "--toy"])


def test_csv_has_every_figure_in_full():
    rows = [row("qb_ssl", 25.75, 20.0, 24.5, p=0.04), row("ssl_ssaw", 35.42)]
    first, last = csv.DictReader(io.StringIO(to_csv(5, rows)))
    assert first["Fusion"] == "qb_ssl" and first["runs"] == "2"
    assert float(first["bleu4_mean"]) == 22.25 and float(first["bleu4_paper"]) == 25.75
    assert float(first["bleu4_std"]) == pytest.approx(4.5 / 2**0.5)
    assert [float(first[f"bleu4_{what}"]) for what in ("low", "high", "p")] == [18.0, 25.5, 0.04]
    assert (
        last["runs"] == "0"
        and last["bleu4_mean"] == last["rouge_l_p"] == ""
        and last["bleu4_paper"] == "35.42"
    )


def test_a_stage_is_shared_only_where_rows_name_its_folder(tmp_path: Path) -> None:
    """MMTLB's recogniser could be shared; in a table it is the row's own."""
    assert table_rows._job("demo/mmtlb", tmp_path, 0, []).shared is None
    assert table_rows._job("demo/qb", tmp_path, 0, []).shared == ("pretrain", tmp_path / "demo_stage1")
    named = table_rows._job("demo/mmtlb", tmp_path, 0, ["--config.init_from=signs"])
    assert named.shared == ("recognize", tmp_path / "signs")


def test_a_table_of_another_dataset_is_refused(tmp_path: Path) -> None:
    """Its title and the paper's figures would be those of the named one."""
    given = ["--config.data.dataset=custom_qa"]
    with pytest.raises(
        ConfigError, match=r"data\.dataset is custom_qa, but this table is of phoenix2014t_qa"
    ):
        table_rows._job("phoenix_toy/qb", tmp_path, 0, given)


def test_each_seed_of_a_table_is_another_run_whatever_the_flags_say(tmp_path: Path) -> None:
    seeds = [table_rows._job("demo/qb", tmp_path, seed, ["--config.seed=7"]).config.seed for seed in (0, 1)]
    assert seeds == [0, 1]
