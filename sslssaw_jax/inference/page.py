"""The page to ask, sign and read, and its API, which gradio makes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
import jinja2

from sslssaw_jax.errors import UserError
from sslssaw_jax.inference.demo import Example
from sslssaw_jax.inference.videos import TOO_LONG

if TYPE_CHECKING:
    from sslssaw_jax.inference.translator import Answer, Translator

KEPT_SECONDS = 600  # what visitors send is deleted after that
MOST_CHARACTERS = 500  # of a question; the cost of explaining an answer grows with their square
TEMPLATES = Path(__file__).parent / "templates"
_HTML = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
# what a screen reader needs and gradio has no parameter for
_LIVE = """() => {
  for (const id of ["answer", "dialogue"]) {
    const place = document.getElementById(id);
    place.setAttribute("role", "region");
    place.setAttribute("aria-label", id);
    place.setAttribute("aria-live", "polite");
  }
  // gradio's button is called "start recording" while it stops
  const name = () => document.querySelectorAll("#video .capture-button")
    .forEach((button) => button.setAttribute("aria-label", button.innerText.trim()));
  new MutationObserver(name).observe(document.getElementById("video"), {childList: true, subtree: true});
}"""

_SHOW = "() => document.getElementById('answer').scrollIntoView({behavior: 'smooth', block: 'nearest'})"


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
        return *_shown(turns), choice, _html("why", of=found)

    def choose(sentence: str, turns: list[Turn]) -> tuple[Any, ...]:
        if not turns:  # forgotten, see time_to_live
            return _shown([])
        return _shown([*turns[:-1], turns[-1]._replace(sentence=sentence, understood=True, chosen=True)])

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
        gr.HTML(_html("top"))
        with gr.Row():
            with gr.Column():
                gr.HTML(_html("step", number=1, name="Ask"))
                question = gr.Textbox(
                    label="Question",
                    placeholder="Type what you want to know",
                    max_length=MOST_CHARACTERS,
                    elem_id="question",
                )
                gr.HTML(_html("step", number=2, name="Sign"))
                video = gr.Video(
                    label=f"Signed answer: one sentence of at most {seconds:.1f} seconds",
                    sources=["webcam", "upload"],
                    include_audio=False,
                    elem_id="video",
                )
                # gradio would call ffmpeg to leave out the sound
                video.preprocess = lambda sent: sent and sent.path  # type: ignore[method-assign]
                gr.HTML(_html("consent", minutes=KEPT_SECONDS // 60))
                button = gr.Button("Translate", variant="primary")
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
            gr.on([button.click, question.submit, video.stop_recording], **asked),
            taken.then(**asked),
        ):
            event.then(None, js=_SHOW)
        choice.input(choose, [choice, turns], spoken, api_visibility="private")
        again.click(
            lambda: (*_shown([]), gr.Radio(visible=False), "", "", None),
            None,
            [*spoken, choice, why, question, video],
            api_visibility="private",
        )
        gr.Button(visible=False).click(
            translate, [video, question], gr.JSON(visible=False), api_name="translate"
        )
        page.load(None, js=_LIVE)
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
    try:
        longest = TOO_LONG * translator.model.config.data.max_frames
        clips = translator.read(video, question.strip(), most_frames=longest)
    except UserError as error:
        raise PageError(str(error).replace(video, Path(video).name)) from error
    return translator.answer(clips, explain=explain)[0]


def _shown(turns: list[Turn]) -> tuple[str, str, list[Turn]]:
    """Return the last answer and the dialogue, as the page shows both."""
    return _html("answer", turn=turns[-1] if turns else None), _html("dialogue", turns=turns), turns


def _html(template: str, **values: Any) -> str:
    return _HTML.get_template(f"{template}.html").render(values)
