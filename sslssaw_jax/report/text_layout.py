"""Text in pictures: fonts that have its characters, and lines that fit."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache

import wcwidth
from matplotlib import font_manager, rc_context

from sslssaw_jax.data.text import has_wide

CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # matplotlib's name for Noto's file of all of them
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
)


@contextlib.contextmanager
def fonts_for(*texts: str) -> Iterator[None]:
    """Add a Chinese font inside this block, if `texts` need one.

    Without an installed font, one message replaces matplotlib's warning about each character.
    """
    families = ["sans-serif"]
    if any(map(has_wide, texts)):
        families += _installed_chinese_font()
    with rc_context({"font.family": families}):
        yield


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` Latin letters."""
    return wcwidth.wrap(text, width) or [""]


def labelled_lines(texts: Mapping[str, str], width: int) -> list[tuple[str, str]]:
    """Break texts into lines; the first line has the text's name."""
    return [
        ("" if number else name, line)
        for name, text in texts.items()
        for number, line in enumerate(wrap(text, width))
    ]


@cache
def _installed_chinese_font() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = [name for name in CHINESE_FONTS if name in installed]
    # most have no bold style, and matplotlib would warn about bold labels
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    if not found:
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        print(
            "pictures show boxes for Chinese characters: no font for them is installed; install one, such as "
            "the package fonts-noto-cjk, and delete matplotlib's font cache: rm -r ~/.cache/matplotlib",
            file=sys.stderr,
        )
    return found[:1]
