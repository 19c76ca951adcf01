"""Gains over the question alone: BLEU-4 equals the scores', and gains appear where they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import question_only, rehearsal
from sslssaw_jax.evaluation.metrics import score
from sslssaw_jax.evaluation.predictions import Prediction

WORDS = ["am", "tag", "scheint", "im", "norden", "die", "sonne", "und", "in", "der", "nacht", "regnet"]


def run(change: float, seed: int = 0, clips: int = 40) -> rehearsal.Run:
    """Translations of random sentences with a share of the words changed."""
    sentences, noise = np.random.default_rng(0), np.random.default_rng([1, seed])
    rows = []
    for clip in range(clips):
        target = sentences.choice(WORDS, 9).tolist()
        asked = target[: clip % 10]  # overlaps of all sizes
        text = [word if noise.random() > change else "wind" for word in target]
        rows.append(Prediction(str(clip), " ".join(asked), " ".join(target), " ".join(text), -1.0))
    return rehearsal.Run(rows)


@pytest.mark.parametrize("clips", [range(40), range(3, 17), [5]])
def test_bleu_of_counts_is_the_score(clips):
    one = run(0.2)
    rows = [one.predictions[clip] for clip in clips]
    expected = score([row.prediction for row in rows], [row.target for row in rows])["bleu4"]
    found = rehearsal.bleu4(one.counts[clips].sum(axis=0, keepdims=True))
    assert found[0] == pytest.approx(expected)


def test_unpenalised_is_bleu_without_the_penalty_for_short_translations():
    exact = run(0.0)
    shorter = rehearsal.Run(
        [replace(row, prediction=row.prediction.rsplit(" ", 3)[0]) for row in exact.predictions]
    )
    counts = [one.counts.sum(axis=0, keepdims=True) for one in (exact, shorter)]
    assert [rehearsal.unpenalised(count)[0] for count in counts] == [100, 100]
    assert [rehearsal.relative_length(count)[0] for count in counts] == [1, 6 / 9]
    assert rehearsal.bleu4(counts[1])[0] == pytest.approx(100 * np.exp(1 - 9 / 6))


def test_a_gain_has_the_sign_of_the_difference_and_lies_in_its_interval():
    better, worse = {"seed0": run(0.1, 0), "seed1": run(0.1, 1)}, {"seed0": run(0.4, 2), "seed1": run(0.4, 3)}
    found = rehearsal.gain(better, worse, range(40))
    assert 0 < found.low < found.mean < found.high
    other_way = rehearsal.gain(worse, better, range(40))
    assert (other_way.mean, other_way.low) == pytest.approx((-found.mean, -found.high))
    assert rehearsal.gain(better, better, range(40)) == rehearsal.Gain([0, 0], 0, 0)


def test_only_seeds_that_both_rows_have_are_compared():
    one, other = {"seed1": run(0.1, 1), "seed2": run(0.9, 2)}, {"seed0": run(0.9, 3), "seed1": run(0.4, 4)}
    found = rehearsal.gain(one, other, range(40))
    only = rehearsal.gain({"seed1": one["seed1"]}, {"seed1": other["seed1"]}, range(40))
    assert found == only
    assert found.by_seed == [found.mean]
    assert rehearsal.gain({"seed2": one["seed2"]}, other, range(40)) is None


def test_a_run_that_was_evaluated_before_its_end_is_left_out(tmp_path: Path):
    for seed in ("seed0", "seed1"):
        folder = tmp_path / seed / "rehearsal_qb"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
        rows = [json.dumps(vars(row)) for row in run(0.1, 0, 5).predictions]
        (folder / "predictions.test.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "seed1" / "rehearsal_qb" / "finished.json").write_text("{}")
    assert list(rehearsal.read_runs(tmp_path, "rehearsal_qb", "test")) == ["seed1"]


def test_a_row_evaluated_with_another_decoding_is_a_row_of_its_own(tmp_path: Path):
    longer = tmp_path / "seed1" / "rehearsal_ssl_ssaw" / rehearsal.LONGER
    longer.mkdir(parents=True)
    for folder, change in ((longer, 0.1), (longer.parent, 0.4)):
        (folder / "metrics.json").write_text("{}")
        rows = [json.dumps(vars(row)) for row in run(change, 0, 5).predictions]
        (folder / "predictions.test.jsonl").write_text("\n".join(rows) + "\n")
    assert rehearsal.row_names(tmp_path) == []  # its training has not ended
    (longer.parent / "finished.json").write_text("{}")
    names = ["rehearsal_ssl_ssaw", f"rehearsal_ssl_ssaw/{rehearsal.LONGER}"]
    assert rehearsal.row_names(tmp_path) == names
    of_row, of_longer = (rehearsal.read_runs(tmp_path, name, "test") for name in names)
    assert of_row.keys() == of_longer.keys() == {"seed1"}
    assert of_row["seed1"].predictions != of_longer["seed1"].predictions


def test_the_command_prints_every_row_draws_and_keeps_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    changes = {
        "rehearsal_question": 0.4,
        "rehearsal_qb": 0.3,
        "rehearsal_qb_ssl": 0.25,
        "rehearsal_ssl_ssaw": 0.1,
        "rehearsal_full_gate": 0.2,
        "rehearsal_poor_ssl_ssaw": 0.35,
    }
    for seed in (0, 1):
        for name, change in changes.items():
            folder = tmp_path / f"seed{seed}" / name
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text("{}")
            (folder / "finished.json").write_text('{"config": {"translate": {"eval_every": 4}}}')
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / "scores.json").write_text('{"9": {"bleu4": 1.0}, "18": {"bleu4": 3.5}}')
            for split in ("dev", "test"):
                rows = [json.dumps(vars(row)) for row in run(change, seed, 400).predictions]
                (folder / f"predictions.{split}.jsonl").write_text("\n".join(rows) + "\n")
    figure = tmp_path / "gains.png"
    monkeypatch.setattr(question_only, "RESULTS", tmp_path)
    rehearsal.main([f"--tables={tmp_path}", f"--figure={figure}", "--write"])
    lines = capsys.readouterr().out.splitlines()
    scores, found = ([line.split(" | ")[0][2:] for line in lines if line.count("|") == n] for n in (14, 11))
    assert [name for name in scores if name.startswith("rehearsal")] == sorted(changes)
    assert [name for name in found if name.startswith("rehearsal")] == sorted(
        {*changes} - {"rehearsal_question"}
    )
    added = [line for line in lines if line.startswith(("| both", "| video"))]
    assert [line.count("|") for line in added] == [11, 11, 6, 6, 11, 6], "two of good seeing, one of poor"
    assert all("-" not in line.split("|")[3] for line in added), "all of test gains, in each seed, too"
    changed = [line.split("|")[3].split()[0] for line in lines if line.startswith("| the gate times two")]
    assert len(changed) == 2 and all(gain.startswith("-") for gain in changed), "worse than the full system"
    assert "| dev after epochs | 4 | 8 |" in lines and lines[-1] == "| rehearsal_ssl_ssaw | 1.00 | 3.50 |"
    assert figure.read_bytes().startswith(b"\x89PNG")
    kept = {path.name for path in tmp_path.glob("*.tsv")}
    decisive = changes.keys() - {"rehearsal_full_gate"}
    assert kept == {f"{name}{seed}.predictions.tsv" for name in decisive for seed in ("", "_seed1")}
    second = question_only.kept_predictions(tmp_path / "rehearsal_qb_seed1.predictions.tsv")
    assert second == {row.id: row.prediction for row in run(0.3, 1, 400).predictions}


def test_without_the_question_alone_nothing_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        rehearsal.main([f"--tables={tmp_path}"])
    assert "rehearsal_question" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rehearsal.main([f"--tables={tmp_path}", f"--figure={tmp_path / 'gains.txt'}"])
    assert "gains.txt must end in .png" in capsys.readouterr().err, "before any run is read"
