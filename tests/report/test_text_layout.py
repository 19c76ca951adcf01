"""Lines fit in any script, and Chinese gets a font or one clear note."""

import re

import pytest
import wcwidth
from matplotlib.figure import Figure

from sslssaw_jax.report import text_layout
from sslssaw_jax.report.text_layout import fonts_for, wrap

TEXTS = [
    "am donnerstag regnet es im norden und in den mittelgebirgen",
    "明天下午三点我们在学校图书馆门口见面，请不要迟到。",
    "wir treffen uns 明天 um drei",
    "donaudampfschifffahrtsgesellschaftskapitän",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", [7, 20, 200])
def test_lines_fit_and_hold_the_whole_text(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert lines and all(wcwidth.width(line) <= width for line in lines)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)


def test_words_are_parted_only_where_they_fit_no_line() -> None:
    assert wrap(TEXTS[0], 20) == ["am donnerstag regnet", "es im norden und in", "den mittelgebirgen"]


@pytest.fixture
def forgotten() -> None:
    text_layout._installed_chinese_font.cache_clear()


def family(text: str) -> list[str]:
    with fonts_for(text):
        return Figure().text(0, 0, text).get_fontfamily()


@pytest.mark.usefixtures("forgotten")
def test_chinese_falls_back_on_the_first_font_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_layout, "CHINESE_FONTS", ("No Such Font", "DejaVu Serif", "DejaVu Sans Mono"))
    assert family("明天") == ["sans-serif", "DejaVu Serif"]
    assert family("morgen") == ["sans-serif"]


@pytest.mark.usefixtures("forgotten")
def test_a_missing_font_is_told_once_and_only_where_it_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(text_layout, "CHINESE_FONTS", ("No Such Font",))
    family("morgen")
    assert not capsys.readouterr().err
    family("明天")
    with fonts_for("后天"):
        figure = Figure()
        figure.text(0, 0, "后天")
    figure.draw_without_rendering()
    assert capsys.readouterr().err.count("fonts-noto-cjk") == 1
    assert not recwarn.list
