"""The form in which texts are compared, and what counts as a token in scores."""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, for use within the brackets of a regular expression."""

SPACELESS = (
    HAN
    + "\u3005-\u3007\u3031-\u3035\u3041-\u30ff\u31f0-\u31ff\U0001b000-\U0001b16f"  # Japanese
    + "\u3105-\u312f\u31a0-\u31bf"  # Bopomofo
    + "\u0e01-\u0e7f\u0e80-\u0eff\u0f00-\u0fff"  # Thai, Lao, Tibetan
    + "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Burmese
    + "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    + "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"  # Tai
    + "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    + "\ua000-\ua4cf"  # Yi
)
"""Characters of scripts that are written without spaces between words, for use like `HAN`."""

WIDE = "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
"""Chinese, Japanese and Korean characters with their punctuation, for use like `HAN`."""

_wide, _han, _spaceless = (re.compile(f"[{characters}]") for characters in (WIDE, HAN, SPACELESS))
_WORD = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]+(?:['’.-][^\W{SPACELESS}]+)*")
# SentencePiece makes each of these a space, and so do its pieces in a translation
_separator = re.compile("[\t\n\f\r\x85\u061c\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]")
_INVISIBLE = ("Cc", "Cf")  # Unicode's categories of control and format characters


def normal(text: str) -> str:
    """Return the form in which texts are compared; equal texts look equal.

    NFKC, single spaces, no invisible characters. A translation has passed through the tokenizer, which
    changes decomposed umlauts, ligatures, `…`, `½` and full-width letters in the same way; a target has not.
    """
    spaced = _separator.sub(" ", text)
    seen = "".join(c for c in spaced if unicodedata.category(c) not in _INVISIBLE)
    return " ".join(unicodedata.normalize("NFKC", seen).split())


def is_unusual(text: str) -> bool:
    """Return whether `normal` changes more than spaces, and width in Chinese."""
    rest = _wide.sub("", text) if counts_characters([text]) else text
    return normal(rest) != " ".join(rest.split())


@lru_cache(maxsize=2**15)  # each epoch asks the same questions
def clean_question(text: str) -> str:
    """Return the normal form in lower case, as questions are read.

    The targets are lower case and the questions are not: over 90 % of the raw questions hold an `<unk>`.
    """
    return normal(normal(text).lower())


def counts_characters(targets: Iterable[str]) -> bool:
    """Return whether scores of these targets count characters instead of words.

    Their language decides, by its script: most letters are in a script without spaces between words
    (Chinese, Japanese, Thai, Lao, Khmer, Burmese, ...). The language code would not do: mBART has none
    for Thai, Lao and Khmer.
    """
    return _most(targets, _spaceless)


def is_chinese(targets: Iterable[str]) -> bool:
    """Return whether most letters of texts are Chinese characters."""
    return _most(targets, _han)


def _most(texts: Iterable[str], pattern: re.Pattern[str]) -> bool:
    letters = [c for text in texts for c in text if c.isalpha() or pattern.match(c)]
    return 2 * sum(bool(pattern.match(c)) for c in letters) > len(letters)


def has_wide(text: str) -> bool:
    """Return whether a text has Chinese, Japanese or Korean characters."""
    return bool(_wide.search(text))


def tokens(text: str, characters: bool) -> list[str]:
    """Split the normal form of a text into words or characters.

    Args:
        text: A prediction, target or question.
        characters: What `counts_characters` returns for all targets.
    """
    return list(normal(text).replace(" ", "")) if characters else normal(text).split()


def lower_tokens(text: str, characters: bool) -> list[str]:
    """Split a text like `tokens`, in lower case."""
    return tokens(clean_question(text), characters)


def without_each_word(text: str) -> list[tuple[str, str]]:
    """Return each word of a text with the text without that word.

    Each character of a script without spaces is a word; punctuation alone is not a word.
    """
    found = [match for match in _WORD.finditer(text) if match.group().isalnum() or len(match.group()) > 1]
    kept = [text[: match.start()].rstrip() + text[match.end() :] for match in found]
    return [(match.group(), " ".join(rest.split())) for match, rest in zip(found, kept)]
