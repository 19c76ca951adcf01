import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sslssaw_jax.evaluation.explanation import Explanation, StretchDrop, WordDrop
from sslssaw_jax.evaluation.predictions import Gate
from sslssaw_jax.report.clip_pictures import DPI
from sslssaw_jax.report.drops import HIGHLIGHT, draw_explanations
from sslssaw_jax.report.heatmap import draw_heatmap, highest, word_weights, words_of

LONG_WORDS = ["wird", "es", "donnerstag", "im", "norden", "in", "den", "mittelgebirgen", "auch", "gewittern"]
LONG = ["▁wird", "▁es", "▁donner", "stag", "▁im", "▁norden", "▁in", "▁den", "▁mittel", "gebirgen"]


def arguments(num_tokens: int = 40, num_positions: int = 60, **changes) -> dict:
    """A clip with a long German question, as in PHOENIX."""
    rng = np.random.default_rng(0)
    tokens = [*(LONG * 10)[: num_tokens - 2], "</s>", "de_DE"]
    weights = rng.uniform(0.4, 0.6, num_tokens + num_positions).astype(np.float32)
    gate = Gate(changes.pop("tokens", tokens), changes.pop("weights", weights))
    words = [word.text for word in words_of(gate.tokens) if not word.is_marker]
    return {
        "gate": gate,
        "explanation": explanation(words),
        "frames": rng.integers(0, 256, (8, 52, 42, 3), np.uint8),
        "question": "Wird es am Donnerstag im Norden und in den Mittelgebirgen gewittern? " * 5,
        "target": "im norden und in den mittelgebirgen schauer und gewitter",
        "prediction": "am donnerstag schauer",
    } | changes


def explanation(words: list[str], stretches: int = 8) -> Explanation:
    """Drops that rise from word to word and from stretch to stretch, the first ones below 0."""
    return Explanation(
        "am donnerstag schauer",
        -1.5,
        [WordDrop(word, 12.5 * place - 1) for place, word in enumerate(words)],
        [StretchDrop(1.5 * place, 1.5 * (place + 1), 10.0 * place - 2) for place in range(stretches)],
    )


CHINESE = {
    "tokens": ["▁", "明天", "下午", "三点", "在", "哪里", "见面", "</s>"],
    "question": "明天下午三点我们在哪里见面？" * 8,
    "target": "明天下午三点在学校门口见面。",
}


@pytest.mark.parametrize(
    ("num_tokens", "num_positions", "changes"),
    [(40, 60, {}), (64, 79, {}), (8, 10, {}), (8, 10, CHINESE), (8, 10, {"target": "", "question": ""})],
    ids=["common", "long", "short", "Chinese", "no question, no reference"],
)
@pytest.mark.filterwarnings("ignore:Glyph")  # a box is as wide as the character
def test_no_text_leaves_the_picture_or_lies_on_another(num_tokens, num_positions, changes):
    figure = draw_heatmap(**arguments(num_tokens, num_positions, **changes))
    assert_texts_are_apart(figure)


@pytest.mark.parametrize("words", [4, 10, 0])
def test_no_text_of_several_explanations_lies_on_another(words: int) -> None:
    shown = arguments()
    answers = [(shown["question"], explanation(LONG_WORDS[:words])), ("", explanation(["wann"]))]
    assert_texts_are_apart(draw_explanations(answers, shown["frames"]))
    assert_texts_are_apart(
        draw_explanations([(shown["question"], explanation(["wann"], 0))], shown["frames"][:0])
    )


def assert_texts_are_apart(figure: Figure) -> None:
    FigureCanvasAgg(figure).draw()
    places = [axes for axes in figure.axes if axes.axison]
    texts = [
        text for axes in places for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels())
    ]
    texts = [text for text in (*figure.texts, *texts) if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    pictures = [axes.get_window_extent() for axes in figure.axes if axes.images]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, texts[i]
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, texts[i]
        assert not any(box.overlaps(other) for other in boxes[i + 1 :]), texts[i]
        assert not any(box.overlaps(picture) for picture in pictures), texts[i]


def test_the_highest_word_and_the_highest_stretch_are_red() -> None:
    drops = Explanation(
        "", -1.0, [WordDrop("a", 3.0), WordDrop("b", 1.0)], [StretchDrop(0, 2, 0.5), StretchDrop(2, 4, 0.7)]
    )
    figure = draw_heatmap(**arguments(gate=None, explanation=drops))
    words, video = figure.axes[:2]
    red = [[to_hex(bar.get_facecolor()) == HIGHLIGHT for bar in axes.patches] for axes in (words, video)]
    assert red == [[True, False], [False, True]]
    assert [bar.get_height() for bar in (*words.patches, *video.patches)] == [3.0, 1.0, 0.5, 0.7]
    assert [label.get_text() for label in words.get_xticklabels()] == ["a", "b"]


def test_a_higher_gate_is_brighter_at_its_own_position():
    gate = np.full(100, 0.5, np.float32)
    gate[[7, 70]] = 0.9, 0.1  # both are words or positions of one token
    figure = draw_heatmap(**arguments(weights=gate))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].sum(-1)
    middle = figure.axes[0].transData.transform([(position, 0) for position in range(100)]).astype(int)
    brightness = pixels[pixels.shape[0] - middle[:, 1], middle[:, 0]]
    assert brightness.argmax() == 7 and brightness.argmin() == 70
    assert len(set(brightness)) == 3


def test_words_are_labelled_in_order_and_the_dashed_line_follows_them():
    figure = draw_heatmap(**arguments())
    strip = figure.axes[0]
    labels = [label.get_text() for label in strip.get_xticklabels()]
    assert labels[:4] == ["wird", "es", "donnerstag", "im"] and labels[-1] == "de_DE"
    assert strip.get_xticks()[:4].tolist() == [0, 1, 2.5, 4]
    (line,) = strip.lines
    assert line.get_linestyle() == "--" and set(line.get_xdata()) == {39.5}


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("▁wird ▁es ▁donner stag ? </s> de_DE", "wird es donnerstag? </s> de_DE"),
        ("▁ nieder schlag ▁am </s> de_DE", "niederschlag am </s> de_DE"),
        ("▁ 明天 下午 3 点 ? </s> zh_CN", "明天 下午 3 点 ? </s> zh_CN"),
        ("▁in 北京 ▁park en", "in 北京 parken"),
        ("[CLS] donner ##stag im nor ##den ? [SEP]", "[CLS] donnerstag im norden ? [SEP]"),
        ("[CLS] 明 天 [SEP]", "[CLS] 明 天 [SEP]"),
        ("", ""),
    ],
)
def test_words_are_what_their_tokens_spell(tokens, words):
    found = words_of(tokens.split())
    assert " ".join(word.text for word in found) == words
    assert sum(word.num_tokens for word in found) == len(tokens.split())


def test_a_word_has_the_mean_weight_of_its_tokens():
    words = words_of(["▁a", "▁b", "b", "b", "▁c", "c", "</s>"])
    weights = np.array([1, 2, 3, 7, 10, 20, 5], np.float32)
    np.testing.assert_array_equal(word_weights(words, weights), [1, 4, 4, 4, 15, 15, 5])
    assert word_weights([], weights[:0]).size == 0


def test_the_highest_stretches_are_those_in_the_upper_quarter():
    assert highest(np.array([0.0, 1, 0.74, 0.76, 0.9, 0.5, 0.8])) == [range(1, 2), range(3, 5), range(6, 7)]
    assert highest(np.full(5, 0.3)) == highest(np.zeros(0)) == []


def test_boxes_stand_around_the_highest_words_and_the_highest_video_but_no_marker():
    tokens = ["▁wird", "▁es", "▁donner", "stag", "▁im", "</s>", "de_DE"]
    gate = np.array([0.2, 0.1, 0.5, 0.7, 0.58, 0.9, 0.1, *[0.3, 0.4, 0.4, 0.3]], np.float32)
    figure = draw_heatmap(**arguments(tokens=tokens, weights=gate))
    boxes = [(box.get_x(), box.get_width()) for box in figure.axes[0].patches]
    assert boxes == [(1.5, 3), (7.5, 2)]  # `donnerstag im`, two positions of the video


def test_frames_lie_in_order_under_the_video():
    shown = arguments()
    figure = draw_heatmap(**shown)
    strip, *others = figure.axes
    pictures = [axes for axes in others if axes.images and len(axes.images[0].get_array()) == 52]
    for picture, frame in zip(pictures, shown["frames"], strict=True):
        np.testing.assert_array_equal(picture.images[0].get_array(), frame)
    lefts = [picture.get_position().x0 for picture in pictures]
    assert lefts == sorted(lefts)
    edge = figure.transFigure.inverted().transform(strip.transData.transform((39.5, 0)))[0]
    assert edge <= lefts[0] and pictures[-1].get_position().x1 <= strip.get_position().x1
    assert pictures[0].get_position().y1 < strip.get_position().y0


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "Kostet es $x_{$ oder \\frac?", "tokens": ["$x_{$"] * 40, "prediction": ""},
        {"weights": np.full(100, 0.5, np.float32)},
        {"tokens": []},
    ],
    ids=["dollar signs", "constant gate", "no question"],
)
def test_odd_clips_give_a_readable_file(tmp_path, changes):
    path = tmp_path / "clip.png"
    draw_heatmap(**arguments(**changes)).savefig(path, dpi=DPI)
    height, width, _ = cv2.imread(str(path)).shape
    assert 200 < height < 900 and 900 < width < 2700


def test_a_gate_without_video_is_an_error():
    with pytest.raises(ValueError, match="no video after 40 question tokens"):
        draw_heatmap(**arguments(weights=np.ones(40, np.float32)))
