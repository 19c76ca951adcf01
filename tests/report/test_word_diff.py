import json
import random
from pathlib import Path

import pytest

from sslssaw_jax.evaluation.predictions import Prediction, write_predictions
from sslssaw_jax.report.word_diff import CORRECT, MISS, main, word_diff


def shown(reference: str, prediction: str) -> str:
    """Wrong words in braces."""
    diff = word_diff(reference.split(), prediction.split())
    return " ".join(f"{{{word.text}}}" if word.kind == "wrong" else word.text for word in diff)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("a b c d e f", "a b c d e f"),
        ("a b x f", f"a b {{x}} {MISS} {MISS} f"),
        ("d e a b c f", f"{{d}} {{e}} a b c {MISS} {MISS} f"),  # moved words are wrong where they stand
        ("c d e x y z f g", f"{MISS} {MISS} c d e {{x}} {{y}} {{z}} f {{g}}"),
        ("", " ".join([MISS] * 6)),
        ("x", "{x} " + " ".join([MISS] * 5)),
    ],
)
def test_a_written_example(prediction: str, expected: str) -> None:
    assert shown("a b c d e f", prediction) == expected


def test_correct_words_are_a_longest_common_subsequence() -> None:
    """Against every subset of the reference."""
    rng = random.Random(0)
    for _ in range(50):
        reference, prediction = (rng.choices("abc", k=rng.randrange(7)) for _ in range(2))
        longest = 0
        for chosen in range(2 ** len(reference)):
            words = iter(prediction)
            kept = [word for i, word in enumerate(reference) if chosen >> i & 1]
            if all(word in words for word in kept):
                longest = max(longest, len(kept))
        diff = word_diff(reference, prediction)
        assert sum(word.kind == CORRECT for word in diff) == longest
        assert [word.text for word in diff if word.text != MISS] == prediction


@pytest.fixture
def systems(tmp_path: Path) -> list[str]:
    arguments = []
    for name, words in (("ours", "a <b> c"), ("concat", "a x|y")):
        rows = [
            {"id": f"clip{i}", "question": "q?", "target": "a <b> c", "prediction": words, "score": 0.0}
            for i in range(5)
        ]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        arguments.append(f"{name}={path}")
    return arguments


def test_both_pages_show_every_system_with_what_is_right_and_wrong(
    tmp_path: Path, systems: list[str]
) -> None:
    main([*systems, f"--out={tmp_path / 'diff'}", "--clips=3"])
    page = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert page.count("<table") == 3
    assert page.count('<span class="correct">a &lt;b&gt; c</span>') == 3
    assert page.count('<span class="wrong">x|y</span> <span class="missed">[Miss]</span>') == 3
    markdown = (tmp_path / "diff.md").read_text(encoding="utf-8")
    assert markdown.count(r"| ours | **a \<b\> c** |") == 3
    assert markdown.count(r"| concat | **a** ~~x\|y~~ [Miss] |") == 3


def test_predictions_of_other_clips_and_absent_files_are_told(tmp_path: Path, systems: list[str]) -> None:
    other = tmp_path / "other.jsonl"
    line = {"id": "else", "question": "", "target": "a", "prediction": "a", "score": -1}
    other.write_text(json.dumps(line), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"other.jsonl and .*ours.jsonl hold predictions of different clips"):
        main([*systems, f"other={other}", f"--out={tmp_path / 'diff'}"])
    other.write_text(json.dumps(line | {"prediction": 3}), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"other\.jsonl, line 1 is damaged: a prediction has id, question, "):
        main([f"other={other}", f"--out={tmp_path / 'diff'}"])
    with pytest.raises(SystemExit, match=r"absent.jsonl"):
        main([f"ours={tmp_path / 'absent.jsonl'}", f"--out={tmp_path / 'diff'}"])
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(SystemExit, match=r"empty\.jsonl holds no prediction"):
        main([f"ours={tmp_path / 'empty.jsonl'}", f"--out={tmp_path / 'diff'}"])
    with pytest.raises(SystemExit, match=r"error: .*other\.jsonl"):  # a file in place of the folder
        main([*systems, f"--out={other / 'diff'}"])
    assert not (tmp_path / "diff.html").exists()


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("ours=x.jsonl", "two systems have the same name"),
        ("--clips=-1", "one"),
        ("--out=.", "--out=. names no file"),
    ],
)
def test_a_wrong_argument_is_told(
    flag: str, told: str, tmp_path: Path, systems: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"--out={tmp_path / 'diff'}", *systems, flag])
    assert told in capsys.readouterr().err


def test_texts_are_compared_in_normal_form_and_shown_by_words_in_korean(tmp_path: Path) -> None:
    texts = {"fu\u0308r … ﬁnal": "für ... final", "내일은 비가 옵니다": "내일은 눈이 옵니다"}
    rows = [Prediction(str(number), "", *pair, 0.0) for number, pair in enumerate(texts.items())]
    write_predictions(tmp_path, "test", rows)
    main([f"ours={tmp_path / 'predictions.test.jsonl'}", f"--out={tmp_path / 'diff'}"])
    page = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert '<span class="correct">für ... final</span>' in page
    assert '<span class="correct">내일은</span> <span class="wrong">눈이</span>' in page
