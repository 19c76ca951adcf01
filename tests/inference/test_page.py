import importlib
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from sslssaw_jax.data.clips import Clip
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.video import Resize, encode_frames
from sslssaw_jax.errors import UserError
from sslssaw_jax.evaluation.explanation import Explanation, StretchDrop, WordDrop
from sslssaw_jax.evaluation.predictions import Sentence
from sslssaw_jax.inference import app
from sslssaw_jax.inference.demo import EXAMPLES
from sslssaw_jax.inference.examples import find_examples, write_webm
from sslssaw_jax.inference.translator import Answer
from sslssaw_jax.inference.videos import make_clip, read_frames
from sslssaw_jax.training import compilation_cache
from sslssaw_jax.workdir import write_jsonl
from tests.support.tiny_dataset import FACTS
from tests.support.toy import toy_config

WHY = Explanation(
    sentence="7 frames",
    log_prob=-1.0,
    words=[WordDrop("<Why>", 2.0), WordDrop("not", 1.0), WordDrop("?", -1.0)],
    stretches=[StretchDrop(0.0, 0.5, 0.0), StretchDrop(0.5, 1.0, 0.0)],
)


@pytest.fixture(scope="module")
def page() -> ModuleType:
    """Import Gradio, which takes seconds, only where its tests run."""
    pytest.importorskip("gradio")
    return importlib.import_module("sslssaw_jax.inference.page")


class Counter:
    """A translator that reports how many frames it read."""

    def __init__(self, max_frames: int = 60, data_dir: str = "absent") -> None:
        config = toy_config(**{"data.max_frames": max_frames, "data.data_dir": data_dir})
        self.model = SimpleNamespace(facts=SimpleNamespace(**FACTS), config=config)
        self.explained: list[bool] = []

    def tokens_not_read(self, question: str) -> int:
        return max(len(question.split()) - 9, 0)

    def read(self, video: Any, question: str, *, most_frames: int) -> list[Any]:
        return [make_clip(0, read_frames(video, self.model.facts, most_frames), question)]

    def answer(self, clips: list[Any], *, explain: bool) -> list[Answer]:
        self.explained.append(explain)
        others, why = (Sentence("four frames", -1.0),), WHY if explain else None
        return [
            Answer(clip.question, f"{clip.num_frames} frames", -0.5, others, None, True, why)
            for clip in clips
        ]


def write_video(path: Path, num_frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for _ in range(num_frames):
        writer.write(np.full((48, 64, 3), 128, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    "question, file, message",
    [
        (" ", "right.mp4", "The question is missing"),
        ("Why? " * 101, "right.mp4", "The question is too long: it may have 500 characters"),
        ("Why? " * 10, "right.mp4", "The question is too long: the model would not read its end"),
        ("Why?", None, "The video is missing"),
        ("Why?", "text.mp4", "^text.mp4 cannot be translated: no readable video$"),
        ("Why?", "long.mp4", r"^The video is longer than 0\.4 seconds\. Cut it, or record again"),
    ],
)
def test_what_cannot_be_translated_is_a_message_for_the_page(question, file, message, tmp_path, page):
    write_video(tmp_path / "right.mp4", 5)
    write_video(tmp_path / "long.mp4", 30)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(UserError, match=message):
        page._ask(Counter(max_frames=5), question, file and str(tmp_path / file), explain=True)


def test_a_video_is_translated_as_the_translator_would(tmp_path, page):
    video = write_video(tmp_path / "right.mp4", 7)
    found = page._ask(Counter(), " Why? ", str(video), explain=True)
    assert (found.question, found.text, found.explanation) == ("Why?", "7 frames", WHY)


def test_what_visitors_type_is_text_and_no_html(page):
    turns = [page.Turn("<script>", "a < b", True), page.Turn("Where?", "gone", False)]
    answer, dialogue, _ = page._shown(turns, "en")
    assert "&lt;script&gt;" in dialogue and "a &lt; b" in dialogue and "<script>" not in dialogue
    assert "Not understood" in answer and "gone" not in answer


def test_question_and_sentence_are_marked_as_the_models_language(page):
    """The page around them is English."""
    shown = page._shown([page.Turn("Warum?", "so", True)], "de")[:2]
    why = page._html("why", of=Answer("Warum?", "so", -0.5, (), None, True, WHY), language="de")
    marked = [re.findall(r'lang="de">([^<]*)<', text) for text in (*shown, why)]
    assert marked == [["Warum?", "so"], ["Warum?", "so"], ["&lt;Why&gt;", ""]]
    assert '<p class="parts" lang="de"><span class="small" lang="en">Question' in why


def test_enter_in_the_question_does_not_translate_the_last_video(page):
    asked = [one for one in page.make_page(Counter()).fns.values() if one.name == "ask"]
    assert {event for one in asked for _, event in one.targets} == {"click", "stop_recording", "then"}


def test_the_page_says_what_its_model_cannot_do(page):
    names = "avatar_qa", "csl_daily_qa", "own"
    demo, csl, own = (page._html("top", data=page.DATA.get(name)) for name in names)
    assert "it cannot translate people" in demo
    assert "answered in Chinese Sign Language (CSL)" in csl
    assert "answered in sign language" in own and "<strong>" not in own


def test_a_sentence_that_is_chosen_after_the_dialogue_is_forgotten_shows_an_empty_page(page):
    functions = page.make_page(Counter()).fns.values()
    [choose] = [one.fn for one in functions if one.name == "choose"]
    turn = page.Turn("Why?", "gone", False)
    assert choose("here", [turn]) == page._shown([page.Turn("Why?", "here", True, chosen=True)], "en")
    assert choose("here", []) == page._shown([], "en")


def test_a_sentence_that_is_not_understood_is_offered_first(tmp_path, page):
    class Unsure(Counter):
        understands = True

        def answer(self, clips, **options):
            return [replace(one, understood=self.understands) for one in super().answer(clips, **options)]

    translator, video = Unsure(), str(write_video(tmp_path / "right.mp4", 5))
    ask = next(one.fn for one in page.make_page(translator).fns.values() if one.name == "ask")
    for understood, label, meant in (
        (True, "Or did you mean", ["four frames"]),
        (False, "Did you mean", ["5 frames", "four frames"]),
    ):
        translator.understands = understood
        *_, turns, choice, _ = ask("Why?", video, [])
        assert [text for text, _ in choice.choices] == meant and choice.label == label
        assert turns == [page.Turn("Why?", "5 frames", understood)]


def test_the_command_compiles_what_the_first_visitor_needs(tmp_path, monkeypatch, page):
    done = []
    load = SimpleNamespace(
        from_pretrained=lambda name: SimpleNamespace(compile=lambda: done.append("compiled"))
    )
    monkeypatch.setattr("sslssaw_jax.inference.translator.Translator", load)
    monkeypatch.setattr(compilation_cache, "cache_compilation", done.append)
    monkeypatch.setattr("sslssaw_jax.inference.examples.find_examples", lambda *_: [])
    monkeypatch.setattr(page, "make_page", lambda *_: None)
    monkeypatch.setattr(page, "launch", lambda *_, **__: done.append("served"))
    app.main([])
    assert done == ["auto", "compiled", "served"]


def test_programs_translate_by_the_documented_call_and_nothing_is_kept(tmp_path, monkeypatch, page):
    from gradio_client import Client, handle_file

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "sent"))
    video = write_video(tmp_path / "right.mp4", 7)
    translator = Counter()
    blocks = page.make_page(translator)
    _, url, _ = page.launch(blocks, prevent_thread_lock=True, quiet=True)
    try:
        client = Client(url, verbose=False)
        assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/translate"]
        found = client.predict(video=handle_file(str(video)), question="Why?", api_name="/translate")
        (tmp_path / "text.mp4").write_text("no video")
        with pytest.raises(Exception, match=r"text\.mp4 cannot be translated"):
            client.predict(
                video=handle_file(str(tmp_path / "text.mp4")), question="Why?", api_name="/translate"
            )
        away = {"path": f"{url}video.mp4", "meta": {"_type": "gradio.FileData"}}
        for sent in (
            {"video": away, "question": "Why?"},
            {"video": handle_file(str(video)), "question": away},
        ):
            with pytest.raises(Exception, match="addresses are not opened"):
                client.predict(**sent, api_name="/translate")
        assert len([file for file in (tmp_path / "sent").rglob("*") if file.is_file()]) >= 1
    finally:
        blocks.close()
    assert found == {
        "text": "7 frames",
        "understood": True,
        "score": -0.5,
        "alternatives": [{"text": "four frames", "score": -1.0}],
    }
    assert translator.explained == [False], "the answer holds no explanation"
    assert [file for file in (tmp_path / "sent").rglob("*") if file.is_file()] == []


def test_words_and_stretches_are_as_dark_as_the_sentence_hangs_on_them(page):
    answer = Answer("<Why> not?", "7 frames", -0.5, (), None, True, WHY)
    shown = page._html("why", of=answer, language="en")
    found = re.findall(r"--share: ([\d.]+)\">([^<]*)<", shown)
    shades = [(float(share), text) for share, text in found]
    assert shades == [(1, "&lt;Why&gt;"), (0.5, "not"), (0, "?"), (0, "0.0"), (0, "0.5")]
    assert re.findall(r'class="most"[^>]*>([^<]*)<', shown) == ["&lt;Why&gt;"], "no stretch of video matters"
    assert "In the video" not in shown
    late = replace(WHY, stretches=[StretchDrop(0.0, 0.5, 0.1), StretchDrop(0.5, 1.0, 3.0)])
    shown = page._html("why", of=replace(answer, explanation=late), language="en")
    assert re.findall(r'class="most"[^>]*>([^<]*)<', shown) == ["&lt;Why&gt;", "0.5"]
    assert "In the video, most on second 0.5 to 1.0." in " ".join(shown.split())


def test_examples_of_a_run_are_test_clips_and_the_first_has_two_questions(tiny_data_dir, tmp_path):
    translator = Counter(data_dir=str(tiny_data_dir))
    (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
    first, again, second, third = find_examples(tmp_path / "run", translator, tmp_path / "examples")
    assert first.video == again.video != second.video
    rows = find_dataset(tiny_data_dir, "avatar_qa").clips_file("test").read_text().splitlines()
    assert all(f'"{one.video.stem}"' in row for one, row in zip((first, second, third), rows))
    assert all(one.text in row for one, row in zip((first, second, third), rows))
    capture = cv2.VideoCapture(str(third.video))
    assert capture.get(cv2.CAP_PROP_FPS) == 25 and capture.get(cv2.CAP_PROP_FRAME_WIDTH) == 384


def test_a_model_that_is_not_a_run_here_chooses_no_dataset(tiny_data_dir, tmp_path):
    translator = Counter(data_dir=str(tiny_data_dir))
    assert find_examples("user/model", translator, tmp_path / "hub") == []
    (tmp_path / "saved").mkdir()
    assert find_examples(tmp_path / "saved", translator, tmp_path / "examples") == []


def test_an_example_has_the_colours_of_its_clip(tmp_path):
    red_on_the_left = np.zeros((5, 48, 48, 3), np.uint8)
    red_on_the_left[:, :, :24, 0] = 255
    clip = Clip(
        id="a",
        num_frames=5,
        question="",
        target="",
        gloss="",
        signer="",
        video=encode_frames(red_on_the_left, Resize(0)),
    )
    write_webm(clip, tmp_path / "a.webm", 25.0)
    _, shown = cv2.VideoCapture(str(tmp_path / "a.webm")).read()
    blue, green, red = shown[:, : shown.shape[1] // 3].mean(axis=(0, 1))
    assert red > 150 and max(blue, green) < 100
    assert shown[:, 2 * shown.shape[1] // 3 :].mean() < 60


def test_examples_that_come_with_a_model_are_taken_and_none_without_a_dataset(tmp_path, monkeypatch):
    (tmp_path / "a.webm").write_bytes(b"video")
    write_jsonl(tmp_path / EXAMPLES, [{"video": "a.webm", "question": "Why?", "text": "so"}])
    [example] = find_examples(tmp_path, Counter(), tmp_path / "examples")
    assert example.video.read_bytes() == b"video" and example.video.parent == tmp_path / "examples"
    (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
    assert find_examples(tmp_path / "run", Counter(), tmp_path / "others") == []
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(find_examples("~", Counter(), tmp_path / "of the home")) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"video": "/etc/passwd"}, "line 1: '/etc/passwd' is not a file in"),
        ({"video": "../secret.txt"}, "is not a file in"),
        ({"video": "link.webm"}, "is not a file in"),
        ({"video": "absent.webm"}, "is not a file in"),
        ({"video": "a\0.webm"}, "is not a file in"),
        ({"text": None}, "line 1 has no text text"),
        ({"video": 3, "question": None}, "has no text video, question"),
    ],
)
def test_an_example_that_is_no_video_of_the_model_is_refused(tmp_path, row, message):
    model, whole = tmp_path / "model", {"video": "a.webm", "question": "Why?", "text": "so"}
    (tmp_path / "secret.txt").write_text("of the user")
    model.mkdir()
    (model / "a.webm").write_bytes(b"video")
    (model / "link.webm").symlink_to(tmp_path / "secret.txt")
    write_jsonl(model / EXAMPLES, [whole | row])
    with pytest.raises(UserError, match=message):
        find_examples(model, Counter(), tmp_path / "examples")
    assert not list((tmp_path / "examples").iterdir())


def test_the_command_says_what_is_missing(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    with pytest.raises(SystemExit, match=r"^error: there is no model"):
        app.main([f"--model={tmp_path / 'absent'}"])
    monkeypatch.delitem(sys.modules, "sslssaw_jax.inference.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match=r"^error: the page needs gradio: pip install"):
        app.main([f"--model={tmp_path / 'absent'}"])


def test_the_page_is_not_asked_for_through_a_proxy(tmp_path, monkeypatch):
    """One of the names is read: what the other says must not be lost."""
    cases = (
        ("inside.example", "", "inside.example,localhost,127.0.0.1,10.0.0.5"),
        ("", "inside.example", "inside.example,localhost,127.0.0.1,10.0.0.5"),
        ("", "", "localhost,127.0.0.1,10.0.0.5"),
        ("*", "", "*"),
    )
    for lower, upper, direct in cases:
        monkeypatch.setenv("no_proxy", lower)
        monkeypatch.setenv("NO_PROXY", upper)
        with pytest.raises(SystemExit):
            app.main([f"--model={tmp_path / 'absent'}", "--host=10.0.0.5"])
        assert os.environ["no_proxy"] == direct


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port=99999"], "'99999' is not a port"),
        (["--ssl_keyfile=absent.pem"], "there is no file absent.pem"),
        ([f"--ssl_certfile={__file__}"], "https needs --ssl_certfile and --ssl_keyfile"),  # would serve http
    ],
)
def test_a_wrong_argument_is_told_before_a_model_is_loaded(arguments, told, capsys):
    with pytest.raises(SystemExit):
        app.main(arguments)
    assert told in capsys.readouterr().err
