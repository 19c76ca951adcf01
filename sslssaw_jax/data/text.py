"""What a word is, and in which language."""

import re
import unicodedata

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, for use within the brackets of a regular expression."""

WIDE = "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
"""Chinese, Japanese and Korean characters with their punctuation, for use like `HAN`."""

_wide = re.compile(f"[{WIDE}]")
_WORD = re.compile(rf"[{WIDE}]|[^\W{WIDE}]+(?:['’.-][^\W{WIDE}]+)*")
_ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"))


def counts_characters(language: str) -> bool:
    """Return whether scores count characters instead of words.

    Args:
        language: mBART's code of the targets' language.
    """
    return language == "zh_CN"


def has_wide(text: str) -> bool:
    """Return whether a text is Chinese at least in part."""
    return bool(_wide.search(text))


def tokens(text: str, characters: bool) -> list[str]:
    """Split a text into words, or into characters with their width folded."""
    return list("".join(unicodedata.normalize("NFKC", text).split())) if characters else text.split()


def without_each_word(text: str) -> list[tuple[str, str]]:
    """Return each word of a text with the text without that word.

    Each Chinese character is a word, and a mark alone is not a word.
    """
    found = [match for match in _WORD.finditer(text) if match.group().isalnum() or len(match.group()) > 1]
    kept = [text[: match.start()].rstrip() + text[match.end() :] for match in found]
    return [(match.group(), " ".join(rest.split())) for match, rest in zip(found, kept)]


def clean_question(text: str) -> str:
    """Normalize a question: NFKC, lower case, single spaces, no zero-width characters.

    The targets are lower case and the questions are not: over 90 % of the raw questions hold an `<unk>`.
    """
    text = unicodedata.normalize("NFKC", text).translate(_ZERO_WIDTH).lower()
    return " ".join(text.split())
