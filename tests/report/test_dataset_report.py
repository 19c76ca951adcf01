"""The figures are right for the texts, and the pictures can be read."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.evaluation.metrics import LABELS
from sslssaw_jax.report.dataset_facts import format_table, split_facts
from sslssaw_jax.report.dataset_pictures import ShownClip, choose_clips, draw_contact_sheet, draw_statistics
from sslssaw_jax.report.dataset_report import main


def clips(*texts: tuple[str, str]) -> list[ClipInfo]:
    return [
        ClipInfo(f"clip{i}", 10 + i, question, target, "", "anna")
        for i, (question, target) in enumerate(texts)
    ]


TRAIN = clips(("Will it rain?", "it will rain"), ("Rain?", "it will rain"), ("", "it snows"))
TEST = clips(("Will it rain?", "it will rain"), ("What now?", "it will snow"), ("Hail?", "it snows"))


def test_shares_are_counted_by_hand() -> None:
    train, test = split_facts(TRAIN, TRAIN, None), split_facts(TEST, TRAIN, None)
    assert train.shares == {
        "target of another train clip": pytest.approx(200 / 3),
        "question and target of another train clip": 0,
    }
    assert test.shares == {
        "question words not in train": 50,  # what, now?, hail? of six
        "target words not in train": pytest.approx(100 / 8),  # snow
        "target of another train clip": pytest.approx(200 / 3),
        "question and target of another train clip": pytest.approx(100 / 3),
    }
    assert test.distinct == {"question": 6, "target": 5}
    assert test.lengths["target"].tolist() == [3, 3, 2]
    assert test.overlap.tolist() == pytest.approx([200 / 3, 0, 0])  # "rain?" is not "rain"


def test_chinese_is_counted_in_characters() -> None:
    facts = split_facts(clips(("明天 下雨", "明天下雨")), [], None, characters=True)
    assert facts.lengths["question"].tolist() == facts.lengths["target"].tolist() == [4]
    assert facts.overlap.tolist() == [100]
    assert facts.copy_question["bleu4"] == pytest.approx(100)
    assert not facts.shares


def test_the_copied_question_has_capitals_if_a_target_has() -> None:
    cased = split_facts(clips(("Does Anna come ?", "Does Anna come ?")), [], None)
    lower = split_facts(clips(("Does Anna come ?", "does anna come ?")), [], None)
    assert cased.copy_question["bleu4"] == lower.copy_question["bleu4"] == pytest.approx(100)


def test_a_share_that_a_split_has_not_is_blank_in_its_column() -> None:
    table = format_table(
        "name", {"train": split_facts(TRAIN, TRAIN, None), "test": split_facts(TEST, TRAIN, None)}, "words"
    )
    rows = {line[:44].strip(): line[44:].split() for line in table.splitlines()}
    assert rows["clips"] == ["3", "3"]
    assert rows["without a question"] == ["1", "0"]
    assert rows["frames a clip"] == ["10", "/", "11", "/", "12"] * 2
    assert rows["question words not in train"] == ["50.0"]


def test_a_prepared_dataset_gives_a_table_and_two_pictures(
    tiny_data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["avatar_qa", f"--data_dir={tiny_data_dir}", f"--out={tmp_path}"])
    output = capsys.readouterr().out
    assert output.splitlines()[0].split() == ["avatar_qa", "1.0.0", "train", "dev", "test", "isolated"]
    assert "question tokens unknown" in output
    for name in ("statistics.png", "clips.png"):
        assert min(cv2.imread(str(tmp_path / name)).shape[:2]) > 500


def test_the_seed_draws_as_many_clips_of_each_split(tiny_data_dir: Path) -> None:
    dataset = find_dataset(tiny_data_dir, "avatar_qa")
    sources = {split: ClipSource(dataset, split) for split in ("train", "test")}
    first, same, other = ([clip.heading for clip in choose_clips(sources, seed)] for seed in (0, 0, 1))
    assert first == same != other
    assert len(set(first)) == 12
    assert [heading.split(":")[0] for heading in first] == ["train"] * 6 + ["test"] * 6


def test_an_absent_dataset_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no dataset nothing: there are avatar_qa, "):
        main(["nothing", f"--data_dir={tmp_path}"])


def boxes(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """Every text that is seen, with its corners in pixels."""
    FigureCanvasAgg(figure).draw()
    texts = [*figure.texts]
    for axes in filter(lambda axes: axes.get_visible() and axes.axison, figure.axes):
        texts += [axes.title, axes._left_title, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]


def assert_apart(figure: Figure) -> None:
    found = boxes(figure)
    for i, (text, box) in enumerate(found):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
        for other, other_box in found[i + 1 :]:
            assert not box.overlaps(other_box), (text, other)


def test_the_statistics_are_drawn_as_they_were_counted() -> None:
    facts = {"train": split_facts(TRAIN * 9, TRAIN, None), "test": split_facts(TEST[:1], TRAIN, None)}
    frames, question, target, overlap, copied, _ = draw_statistics("name", facts, "words").axes
    for panel in (frames, question, target, overlap):
        filled = [bar.get_height() for bar in panel.patches if isinstance(bar, Rectangle)]
        assert sum(filled) == pytest.approx(100), "percent of the clips of the first split"
    bars = [[bar.get_width() for bar in split] for split in copied.containers]
    expected = [[split.copy_question[score] for score in LABELS] for split in facts.values()]
    assert np.allclose(bars, expected) and expected[0] != expected[1]
    names = [label.get_text().replace("\n", " ") for label in copied.get_yticklabels()]
    assert names == list(LABELS.values())


def test_no_text_of_the_statistics_lies_on_another() -> None:
    facts = {
        "train": split_facts(TRAIN * 300, TRAIN, None),
        "dev": split_facts(TEST, TRAIN, None),
        "test": split_facts(TEST * 20, TRAIN, None),
    }
    assert_apart(draw_statistics("phoenix2014t_qa 1.0.0", facts, "words"))
    assert_apart(draw_statistics("custom_qa 1.0.0", {"test": split_facts(TEST[:1], [], None)}, "words"))


@pytest.mark.filterwarnings("ignore:Glyph")  # a box is as wide as the character
@pytest.mark.parametrize("size", [(48, 48), (130, 105), (90, 160)])
def test_no_text_of_the_contact_sheet_lies_on_another_or_on_a_frame(size: tuple[int, int]) -> None:
    frames = [np.zeros((*size, 3), np.uint8)] * 6
    long = (
        "WO REGNET ES am Donnerstag im Norden und in den Mittelgebirgen, und wie stark wird es winden? " * 3
    )
    shown = [
        ShownClip("train: clip", frames, long, "kurz"),
        ShownClip("train: short clip", frames[:2], "", long),
        ShownClip("test: $x_{$", frames, "Kostet es $x_{$?", "明天下午三点我们在学校图书馆门口见面" * 4),
    ]
    figure = draw_contact_sheet("name", shown)
    assert_apart(figure)
    pictures = [axes.get_window_extent() for axes in figure.axes]
    assert len(pictures) == 14
    for text, box in boxes(figure):
        assert not any(box.overlaps(picture) for picture in pictures), text
