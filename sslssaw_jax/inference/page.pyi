"""The page: ask, sign, read; and its API, which gradio makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
import jinja2

from sslssaw_jax.errors import UserError
from sslssaw_jax.inference.examples import Example

if TYPE_CHECKING:
    from sslssaw_jax.inference.translator import Answer, Translator

KEPT_SECONDS = 600  # what visitors send is deleted after that
TOO_LONG = 2  # times as many frames as the model reads; up to that, frames are left out evenly
TEMPLATES = Path(__file__).parent / "templates"
_HTML = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)
# a screen reader says what comes into these; gradio has no parameter for that
_LIVE = """() => {
  for (const id of ["answer", "dialogue"]) {
    const place = document.getElementById(id);
    place.setAttribute("role", "region");
    place.setAttribute("aria-label", id);
    place.setAttribute("aria-live", "polite");
  }
}"""


class Turn(NamedTuple):
    """A question of the dialogue, and the sentence that answered it."""

    question: str
    sentence: str
    understood: bool
    chosen: bool = False  # by a person, from the alternatives


class PageError(UserError):
    """An error of what a visitor sent, shown in the page."""

from gradio.events import Dependency

class _Video(gr.Video):
    """A video as it was sent; gradio's own needs ffmpeg to leave out the sound."""

    def preprocess(self, payload: Any) -> str | None:
        """Return the path of the file."""
        return payload.path if payload else None
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


def make_page(translator: "Translator", examples: Sequence[Example] = ()) -> gr.Blocks:
    """Return the page of a translator."""

    def translate(question: str, video: str | None, turns: list[Turn]) -> tuple[Any, ...]:
        try:
            found = _ask(translator, question, video)
        except UserError as error:
            return _html("answer", problem=str(error)), gr.skip(), turns, gr.skip()
        turns = [*turns, Turn(found.question, found.text, understood=True)]
        others = [one.text for one in found.alternatives]
        return *_shown(turns), gr.Radio(others, value=None, visible=bool(others))

    def choose(sentence: str, turns: list[Turn]) -> tuple[Any, ...]:
        return _shown([*turns[:-1], turns[-1]._replace(sentence=sentence, understood=True, chosen=True)])

    def translate_for_programs(video: str | None, question: str) -> dict[str, Any]:
        """Translate a video as the answer to a question."""
        try:
            found = _ask(translator, question, video)
        except UserError as error:
            raise gr.Error(str(error)) from error
        return {"text": found.text, "score": found.score}

    with gr.Blocks(
        title="Ask, sign, read", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)
    ) as page:
        turns = gr.State([], time_to_live=3600)
        gr.HTML(_html("top"))
        with gr.Row():
            with gr.Column():
                gr.HTML(_html("step", number=1, name="Ask"))
                question = gr.Textbox(
                    label="Question", placeholder="Type what you want to know", max_length=500, elem_id="question"
                )
                gr.HTML(_html("step", number=2, name="Sign"))
                video = _Video(
                    label="Signed answer",
                    sources=["webcam", "upload"],
                    include_audio=False,
                    height=360,
                    elem_id="video",
                )
                gr.HTML(_html("consent", minutes=KEPT_SECONDS // 60))
                button = gr.Button("Translate", variant="primary")
            with gr.Column():
                gr.HTML(_html("step", number=3, name="Read"))
                answer = gr.HTML(_html("answer"), elem_id="answer")
                choice = gr.Radio([], label="Or did you mean", visible=False)
                gr.HTML("<h2>The dialogue so far</h2>")
                dialogue = gr.HTML(_html("dialogue"), elem_id="dialogue")
                again = gr.Button("Start over")
        if examples:
            gr.HTML("<h2>Or try an example</h2>")
            gr.Examples(
                [[one.question, str(one.video)] for one in examples],
                [question, video],
                example_labels=[f"{one.video.stem}: {one.question}" for one in examples],
            )
        spoken = [answer, dialogue, turns]
        gr.on(
            [button.click, question.submit, video.stop_recording],
            translate,
            [question, video, turns],
            [*spoken, choice],
            api_visibility="private",
        )
        choice.input(choose, [choice, turns], spoken, api_visibility="private")
        again.click(
            lambda: (*_shown([]), gr.Radio(visible=False), "", None),
            None,
            [*spoken, choice, question, video],
            api_visibility="private",
        )
        gr.Button(visible=False).click(
            translate_for_programs, [video, question], gr.JSON(visible=False), api_name="translate"
        )
        page.load(None, js=_LIVE)
    return page


def launch(page: gr.Blocks, **options: Any) -> Any:
    """Serve a page; options as for `gradio.Blocks.launch`."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return page.launch(
        theme=gr.themes.Base(primary_hue="blue", text_size="lg", **fonts),
        css=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        footer_links=["api"],
        run_history=False,  # which would keep questions and videos in the browser
        max_file_size="200mb",
        **options,
    )


def _ask(translator: "Translator", question: str, video: str | None) -> "Answer":
    """Translate what a visitor sent.

    Raises:
        UserError: Question or video is missing; the video cannot be read, or is too long.
    """
    if not question.strip():
        raise PageError("The question is missing. Type what was asked, then press Translate.")
    if not video:
        raise PageError("The video is missing. Record the signed answer or choose a file, then press Translate.")
    try:
        [clip] = translator.read(video, question.strip())
    except UserError as error:
        raise PageError(str(error).replace(video, Path(video).name)) from error
    fps, longest = translator.model.facts.fps, translator.model.config.data.max_frames
    if clip.num_frames > TOO_LONG * longest:
        raise PageError(
            f"The video is too long: {clip.num_frames / fps:.0f} seconds, and the model reads at most "
            f"{TOO_LONG * longest / fps:.0f}. Sign one sentence, or cut the video."
        )
    return translator.answer([clip])[0]


def _shown(turns: list[Turn]) -> tuple[str, str, list[Turn]]:
    """Return what the page shows of a dialogue: the last answer and all turns."""
    return _html("answer", turn=turns[-1] if turns else None), _html("dialogue", turns=turns), turns


def _html(name: str, **values: Any) -> str:
    return _HTML.get_template(f"{name}.html").render(values)