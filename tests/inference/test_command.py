import json
from dataclasses import replace

import numpy as np
import pytest

from sslssaw_jax.errors import printable
from sslssaw_jax.evaluation.predictions import Gate, Sentence
from sslssaw_jax.inference import translator
from sslssaw_jax.inference.__main__ import main
from sslssaw_jax.inference.videos import VideoError, make_clip
from sslssaw_jax.training import compilation_cache

ANSWER = translator.Answer(
    question="Why?",
    text="weil es regnet – jörg",
    score=-0.5,
    alternatives=(Sentence("weil", -1.5),),
    gate=Gate(["why", "</s>"], np.array([0.25, 0.5, 0.75], np.float32)),
    understood=True,
)


class Repeater:
    """A translator whose answers name the question."""

    def read(self, video, questions):
        if video == "absent.mp4":
            raise VideoError("there is no video absent.mp4")
        return questions

    def answer(self, clips, explain):
        return [replace(ANSWER, question=question) for question in clips]


@pytest.fixture(autouse=True)
def repeater(monkeypatch):
    loaded = []
    monkeypatch.setattr(compilation_cache, "cache_compilation", lambda folder: None)
    monkeypatch.setattr(
        translator.Translator, "from_pretrained", lambda name: loaded.append(name) or Repeater()
    )
    return loaded


def test_each_question_is_printed_with_its_sentence(repeater, capsys):
    main(["a.mp4", "--question", "Why?", "--question=Where?", "--model=runs/demo"])
    lines = ["Why?", "  weil es regnet – jörg", "Where?", "  weil es regnet – jörg"]
    assert capsys.readouterr().out.splitlines() == lines
    assert repeater == ["runs/demo"]


def test_json_holds_all_that_was_found(capsys):
    main(["a.mp4", "--question=Why?", "--model=m", "--json"])
    printed = capsys.readouterr().out
    assert "jörg" in printed
    assert json.loads(printed) == {
        "video": "a.mp4",
        "question": "Why?",
        "text": "weil es regnet – jörg",
        "score": -0.5,
        "alternatives": [{"text": "weil", "score": -1.5}],
        "gate": {"tokens": ["why", "</s>"], "weights": [0.25, 0.5, 0.75]},
        "understood": True,
        "explanation": None,
    }


def test_what_a_model_writes_cannot_steer_the_terminal(monkeypatch, capsys):
    text = "\x1b]0;title\x07 \x9b31m jörg\u202e"
    monkeypatch.setattr(Repeater, "answer", lambda self, clips, explain: [replace(ANSWER, text=text)])
    main(["a.mp4", "--question=Why?"])
    assert capsys.readouterr().out == "Why?\n  " + r"\x1b]0;title\x07 \x9b31m jörg\u202e" + "\n"
    main(["a.mp4", "--question=Why?", "--json"])
    printed = capsys.readouterr().out
    assert printable(printed) == printed and json.loads(printed)["text"] == text


@pytest.mark.parametrize(("name", "told"), [("x", "must end in .png"), ("none/x.png", "no folder")])
def test_a_picture_that_cannot_be_written_is_refused_before_the_translation(
    name, told, repeater, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        main(["a.mp4", "--question=Why?", f"--explain={tmp_path / name}"])
    assert told in capsys.readouterr().err and not repeater


def test_a_picture_shows_the_answers_with_what_they_depend_on(monkeypatch, tmp_path, capsys):
    drawn, answered = [], []

    class Painter(Repeater):
        def answer(self, clips, explain):
            answered.append(explain)
            return super().answer(clips, explain)

        def draw(self, clip, answers, path):
            drawn.append((clip, [answer.question for answer in answers], path))

    monkeypatch.setattr(translator.Translator, "from_pretrained", lambda name: Painter())
    picture = tmp_path / "why.png"
    main(["a.mp4", "--question=Why?", "--question=Where?", "--json", f"--explain={picture}"])
    assert drawn == [("Why?", ["Why?", "Where?"], picture)]
    main(["a.mp4", "--question=Why?", "--json"])
    assert len(drawn) == 1 and answered == [True, False]


def test_a_question_of_another_encoding_is_named():
    with pytest.raises(VideoError, match="is not UTF-8"):  # as Python reads such an argument
        make_clip(0, [b""], "gr\udcfcn?")


def test_an_error_is_one_line():
    with pytest.raises(SystemExit, match=r"^error: there is no video absent.mp4$"):
        main(["absent.mp4", "--model=m"])
