"""The page to ask, sign and read, and its API, which gradio makes."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
import jinja2

from sslssaw_jax.errors import UserError
from sslssaw_jax.inference.card import DATA
from sslssaw_jax.inference.demo import Example
from sslssaw_jax.inference.videos import TOO_LONG, TooLongError

if TYPE_CHECKING:
    from sslssaw_jax.inference.translator import Answer, Translator

KEPT_SECONDS = 600  # what visitors send is deleted after that
_SPARE_SECONDS = 0.3  # by which a recording stops before its limit
MOST_CHARACTERS = 500  # of a question; the cost of explaining an answer grows with their square
TEMPLATES = Path(__file__).parent / "templates"
_HTML = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
# what a screen reader and a signer need and gradio has no parameter for
_START = """(seconds, language) => {
  for (const id of ["answer", "dialogue"]) {
    document.getElementById(id).setAttribute("role", "region");
    document.getElementById(id).setAttribute("aria-label", id);
  }
  document.getElementById("answer").setAttribute("aria-live", "polite");
  document.querySelector("#question :is(textarea, input)").lang = language;
  const video = document.getElementById("video");
  video.style.setProperty("--seconds", `${seconds}s`);
  let stop = 0;
  new MutationObserver(() => {
    const button = video.querySelector(".capture-button");
    // gradio's button is called "start recording" while it stops
    button?.setAttribute("aria-label", button.innerText.trim());
    const recording = !!button?.querySelector('[title="stop recording"]');
    video.classList.toggle("recording", recording);
    if (recording) stop ||= setTimeout(() => button.click(), seconds * 1000);
    else stop = clearTimeout(stop);
  }).observe(video, {childList: true, subtree: true});
}"""
_SHOW = """() => document.getElementById("answer").scrollIntoView({
  behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "nearest"
})"""
_CAMERA = """() => {
  document.querySelector("#video [title='grant webcam access'] button")?.click();
  document.getElementById("video").scrollIntoView({block: "nearest"});
}"""


class Turn(NamedTuple):
    """A question of the dialogue, and the sentence that answered it."""

    question: str
    sentence: str
    understood: bool
    chosen: bool = False  # by a person, from the alternatives


async def _refuse_address(address: str, *_: Any, **__: Any) -> str:
    raise gr.Error("Send the video as a file: addresses are not opened.")


# gradio would download whatever address a visitor sends in place of any input
assert hasattr(gr.processing_utils, "async_ssrf_protected_download"), gr.__version__
gr.processing_utils.async_ssrf_protected_download = _refuse_address


class PageError(UserError):
    """An error in what a visitor sent, shown on the page."""


def make_page(translator: "Translator", examples: Sequence[Example] = ()) -> gr.Blocks:
    """Return the page of a translator."""
    model = translator.model
    seconds = TOO_LONG * model.config.data.max_frames / model.facts.fps
    language = model.facts.language.split("_")[0]

    def ask(question: str, video: str | None, turns: list[Turn]) -> tuple[Any, ...]:
        try:
            found = _ask(translator, question, video, explain=True)
        except UserError as error:
            return _html("answer", problem=str(error)), gr.skip(), turns, gr.Radio(visible=False), ""
        turns = [*turns, Turn(found.question, found.text, found.understood)]
        meant = [one.text for one in found.alternatives]
        if not found.understood:
            meant.insert(0, found.text)
        label = "Or did you mean" if found.understood else "Did you mean"
        choice = gr.Radio(meant, value=None, label=label, visible=bool(meant))
        return *_shown(turns, language), choice, _html("why", of=found, language=language)

    def choose(sentence: str, turns: list[Turn]) -> tuple[Any, ...]:
        if not turns:  # forgotten, see time_to_live
            return _shown([], language)
        last = turns[-1]._replace(sentence=sentence, understood=True, chosen=True)
        return _shown([*turns[:-1], last], language)

    def translate(video: str | None, question: str) -> dict[str, Any]:
        """Translate a video as the answer to a question."""
        try:
            found = _ask(translator, question, video, explain=False)
        except UserError as error:
            raise gr.Error(str(error)) from error
        alternatives = [asdict(one) for one in found.alternatives]
        return {
            "text": found.text,
            "understood": found.understood,
            "score": found.score,
            "alternatives": alternatives,
        }

    videos = dict.fromkeys(one.video for one in examples)
    clips = {video: number for number, video in enumerate(videos, 1)}
    with gr.Blocks(title="Ask, sign, read", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        turns = gr.State([], time_to_live=3600)
        gr.HTML(_html("top", data=DATA.get(model.config.data.dataset)))
        with gr.Row():
            with gr.Column():
                gr.HTML(_html("step", number=1, name="Ask"))
                question = gr.Textbox(
                    label="Question",
                    placeholder="Type what you want to know",
                    max_length=MOST_CHARACTERS,
                    elem_id="question",
                )
                gr.HTML(_html("step", number=2, name="Sign", seconds=seconds))
                video = gr.Video(
                    label="Signed answer",
                    show_label=False,  # it would hide the signer's head
                    sources=["webcam", "upload"],
                    include_audio=False,
                    webcam_options=gr.WebcamOptions(mirror=False),  # page.css mirrors the live picture only
                    elem_id="video",
                )
                # gradio would call ffmpeg to leave out the sound
                video.preprocess = lambda sent: sent and sent.path  # type: ignore[method-assign]
                gr.HTML(_html("consent", minutes=KEPT_SECONDS // 60))
                with gr.Row():
                    button = gr.Button("Translate", variant="primary", min_width=120)
                    repeat = gr.Button("Sign again", min_width=120)
                shelf = gr.Dataset(
                    label="Or try an example",
                    components=[question, video],
                    samples=[[one.question, str(one.video)] for one in examples],
                    sample_labels=[f"Clip {clips[one.video]}: {one.question}" for one in examples],
                    type="index",
                    visible=bool(examples),
                )
            with gr.Column():
                gr.HTML(_html("step", number=3, name="Read"))
                answer = gr.HTML(_html("answer"), elem_id="answer")
                choice = gr.Radio([], label="Did you mean", visible=False)
                why = gr.HTML(elem_id="why")
                gr.HTML("<h2>The dialogue so far</h2>")
                dialogue = gr.HTML(_html("dialogue"), elem_id="dialogue")
                again = gr.Button("Start over")
        spoken = [answer, dialogue, turns]
        asked = {
            "fn": ask,
            "inputs": [question, video, turns],
            "outputs": [*spoken, choice, why],
            "api_visibility": "private",
        }
        taken = shelf.click(
            lambda number: (examples[number].question, str(examples[number].video)),
            shelf,
            [question, video],
            api_visibility="private",
        )
        for event in (
            gr.on([button.click, video.stop_recording], **asked),
            taken.then(**asked),
        ):
            event.then(None, js=_SHOW)
        repeat.click(None, None, video, js="() => null").then(None, js=_CAMERA)
        choice.input(choose, [choice, turns], spoken, api_visibility="private")
        again.click(
            lambda: (*_shown([], language), gr.Radio(visible=False), "", "", None),
            None,
            [*spoken, choice, why, question, video],
            api_visibility="private",
        )
        gr.Button(visible=False).click(
            translate, [video, question], gr.JSON(visible=False), api_name="translate"
        )
        page.load(None, js=f"() => ({_START})({seconds - _SPARE_SECONDS}, {json.dumps(language)})")
    return page


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serve a page; options as for `gradio.Blocks.launch`."""
    theme = gr.themes.Base(  # the system's fonts, since others would be downloaded
        primary_hue="blue",
        neutral_hue="slate",
        text_size="lg",
        radius_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")
    return page.launch(
        theme=theme,
        css=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        footer_links=["api"],
        run_history=False,  # a history would keep questions and videos in the browser
        max_file_size="200mb",
        **options,
    )


def _ask(translator: "Translator", question: str, video: str | None, *, explain: bool) -> "Answer":
    """Translate what a visitor sent.

    Raises:
        UserError: Question or video is missing or too long, or the video cannot be read.
    """
    if not question.strip():
        raise PageError("The question is missing. Type what was asked, then press Translate.")
    if len(question) > MOST_CHARACTERS:
        raise PageError(f"The question is too long: it may have {MOST_CHARACTERS} characters. Shorten it.")
    if translator.tokens_not_read(question):
        raise PageError("The question is too long: the model would not read its end. Shorten it.")
    if not video:
        raise PageError(
            "The video is missing. Record the signed answer or choose a file, then press Translate."
        )
    longest = TOO_LONG * translator.model.config.data.max_frames
    try:
        clips = translator.read(video, question.strip(), most_frames=longest)
    except TooLongError as error:
        seconds = longest / translator.model.facts.fps
        raise PageError(
            f"The video is longer than {seconds:.1f} seconds. Cut it, or record again: one sentence only."
        ) from error
    except UserError as error:
        raise PageError(str(error).replace(video, Path(video).name)) from error
    return translator.answer(clips, explain=explain)[0]


def _shown(turns: list[Turn], language: str) -> tuple[str, str, list[Turn]]:
    """Return the last answer and the dialogue, as the page shows both."""
    answer = _html("answer", turn=turns[-1] if turns else None, language=language)
    return answer, _html("dialogue", turns=turns, language=language), turns


def _html(template: str, **values: Any) -> str:
    return _HTML.get_template(f"{template}.html").render(values)
