"""The page in Chromium, with the demo that comes with the package and a camera that plays a clip."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sslssaw_jax.inference.demo import DEMO, EXAMPLES, read_examples
from sslssaw_jax.inference.translator import Answer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 3_600_000  # milliseconds, for a busy machine
RECORDINGS = 10  # at most: a busy machine drops frames from some
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium"),
    pytest.mark.skipif(not (DEMO / EXAMPLES).exists(), reason="needs the demo model"),
]
# Records from the moment at which the camera's edge turns white until it turns dark again.
RECORD = """async () => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const edge = async (white) => {
    while (true) {
      canvas.drawImage(document.querySelector("#video video"), 0, 0, 8, 8, 0, 0, 1, 1);
      if (canvas.getImageData(0, 0, 1, 1).data[0] > 128 === white) return;
      await new Promise((done) => setTimeout(done, 10));
    }
  };
  const button = () => document.querySelector("#video .capture-button").click();
  await edge(false); await edge(true); button();
  await edge(false); button();
}"""


def write_camera(video: Path, path: Path, rest: int = 25) -> None:
    """Write a clip between two rests; the edges are white from just before the clip until just after."""
    capture, frames = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    height, width = frames[0].shape[:2]
    shown = [(frames[0], 0)] * rest + [(frames[0], 255)] * 5
    shown += [(frame, 255) for frame in frames] + [(frames[-1], 255)] * 3 + [(frames[-1], 0)] * rest
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width + 128} H{height} F25:1 Ip A1:1 C420jpeg\n".encode())
        for frame, edge in shown:
            seen = cv2.copyMakeBorder(frame, 0, 0, 64, 64, cv2.BORDER_CONSTANT, value=(edge,) * 3)
            file.write(
                b"FRAME\n" + np.ascontiguousarray(cv2.cvtColor(seen, cv2.COLOR_BGR2YUV_I420)).tobytes()
            )


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    """Return what the translator has answered so far."""
    return []


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, answers: list[Answer]) -> Iterator[str]:
    pytest.importorskip("gradio")  # here: the import takes seconds
    from sslssaw_jax import Translator
    from sslssaw_jax.inference.examples import find_examples
    from sslssaw_jax.inference.page import launch, make_page

    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "sent"))
        translator = Translator.from_pretrained(DEMO)
        answer = translator.answer

        def noted(*args: Any, **more: Any) -> list[Answer]:
            answers.extend(found := answer(*args, **more))
            return found

        patch.setattr(translator, "answer", noted)
        blocks = make_page(translator, find_examples(DEMO, translator, folder / "examples"))
        _, address, _ = launch(blocks, prevent_thread_lock=True, quiet=True)
        yield address
        blocks.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    camera = tmp_path_factory.mktemp("camera") / "clip.y4m"
    write_camera(read_examples()[0].video, camera)
    options = [
        "--no-sandbox",
        "--disable-background-networking",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with playwright.sync_playwright() as start:
        chromium = start.chromium.launch(executable_path=CHROMIUM, args=options, timeout=PATIENCE)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    """Open the page; nothing may be requested from another host."""
    page, elsewhere = browser.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((url, "data:", "blob:")) else elsewhere.append(request.url)
        ),
    )
    page.goto(url)
    yield page
    page.close()
    assert elsewhere == []


def sentence(page: Any, text: str) -> Any:
    return page.locator("#answer .sentence", has_text=text)


def dialogue(page: Any) -> Any:
    return page.get_by_label("dialogue").locator("li")


def record(page: Any, question: str) -> str:
    """Ask and sign in front of the camera; return the answer."""
    page.reload()
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.get_by_role("button", name="Record", exact=True).wait_for()
    page.evaluate(RECORD)
    return page.locator("#answer .sentence, #answer .problem").inner_text()


def test_a_clip_before_the_camera_becomes_its_sentence(page):
    example = read_examples()[0]
    assert any(example.text in record(page, example.question) for _ in range(RECORDINGS))
    dialogue(page).filter(has_text=example.text).wait_for()


def test_a_recording_stops_by_itself_and_sign_again_shows_the_camera(page):
    page.get_by_label("Question").fill("Why?")
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.locator("#video.recording").wait_for()
    page.locator("#video:not(.recording)").wait_for()
    asked = page.locator("#answer .asked, #answer .problem")
    asked.wait_for()
    assert "Asked: Why?" in asked.inner_text(), "the recording was too long"
    page.get_by_role("button", name="Sign again").click()
    page.get_by_role("button", name="Record", exact=True).wait_for()
    live = page.locator("#video video")
    assert live.evaluate("(video) => getComputedStyle(video).transform") == "matrix(-1, 0, 0, 1, 0, 0)"


def test_one_clip_and_two_questions_by_keyboard_alone(page, answers):
    from playwright.sync_api import expect

    first, second, *_ = read_examples()
    assert first.video == second.video

    def press(key: str, name: str) -> None:
        """Go to the button or choice of this name by Tab, and press a key there."""
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.evaluate("[document.activeElement.innerText, document.activeElement.value].join()")
            if name in focused:
                page.keyboard.press(key)
                return
        raise AssertionError(f"Tab never comes to {name}")

    page.get_by_role("button", name=f"Clip 1: {first.question}").wait_for()
    for example in (first, second):
        press("Enter", example.question)
        sentence(page, example.text).wait_for()
    flips = "(video) => [video, video.parentElement].map((one) => getComputedStyle(one).transform)"
    assert page.locator("#video video").evaluate(flips) == ["none", "none"], "an example is no mirror"
    assert sentence(page, second.text).get_attribute("lang") == "en"
    answered = len(answers)
    page.get_by_label("Question").press("Enter")
    expect(dialogue(page)).to_contain_text([first.text, second.text], timeout=PATIENCE)
    other = answers[-1].alternatives[0].text  # the page shows those of the second question a moment later
    page.get_by_role("radio", name=other, exact=True).press("Space")
    sentence(page, other).wait_for()
    dialogue(page).get_by_text("Answer, chosen").wait_for()
    press("Enter", "Start over")
    page.get_by_text("Nothing was asked yet.").wait_for()
    assert len(answers) == answered, "Enter in the question asks nothing of the old video"


def test_a_file_that_is_no_video_gets_a_message_in_the_page(page, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    page.get_by_role("button", name="Translate").click()
    page.get_by_role("alert").filter(has_text="The question is missing").wait_for()
    page.get_by_label("Question").fill("Why?")
    page.get_by_role("button", name="Upload file").click()
    page.locator("#video input[type=file]").set_input_files(tmp_path / "text.mp4")
    page.locator("#video video, #video .error").first.wait_for(state="attached")
    page.get_by_role("button", name="Translate").click()
    refused = page.get_by_role("alert").filter(has_text="cannot be translated")
    refused.wait_for()
    assert "text.mp4 cannot be translated: no readable video" in refused.inner_text()
    assert "Nothing was asked yet." in page.get_by_label("dialogue").inner_text()
