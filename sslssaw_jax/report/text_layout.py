"""Text in pictures: fonts that have its characters, and lines that fit."""

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache

from matplotlib import font_manager, rc_context

from sslssaw_jax.data.text import WIDE, has_wide

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
_wide = re.compile(f"[{WIDE}]")


@contextlib.contextmanager
def fonts_for(*texts: str) -> Iterator[None]:
    """Text drawn inside has a font for Chinese to fall back on, where one of `texts` needs it.

    Tells once where none is installed: matplotlib would warn of each character.
    """
    families = ["sans-serif"]
    if any(map(has_wide, texts)):
        families += _installed_chinese_font()
    with rc_context({"font.family": families}):
        yield


def columns(text: str) -> int:
    """How much room a text takes, in Latin letters."""
    return len(text) + len(_wide.findall(text))


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, one at least; wide characters part anywhere."""
    units = re.findall(rf"[{WIDE}]\s*|[^\s{WIDE}]{{1,{width}}}\s*", text)
    lines = [""]
    for unit in units:
        if lines[-1] and columns((lines[-1] + unit).rstrip()) > width:
            lines.append("")
        lines[-1] += unit
    return [line.rstrip() for line in lines]


@cache
def _installed_chinese_font() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = [name for name in CHINESE_FONTS if name in installed]
    # most have no bold cut, and bold labels stand beside them
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    if not found:
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        print(
            "pictures show boxes for Chinese characters: no font for them is installed; install one, such as "
            "the package fonts-noto-cjk, and delete matplotlib's cache of fonts: rm -r ~/.cache/matplotlib",
            file=sys.stderr,
        )
    return found[:1]
