"""The word error rate of recognised glosses, and the field's clean-up of PHOENIX glosses."""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rapidfuzz.distance import Levenshtein

GLOSS_SCORES = "glosses"  # their key in the scores of a split

_MARKS = re.compile(r"__[^_ ]*__|\b(?:loc|cl)-|-PLUSPLUS\b")
_PLACE = re.compile(r"\b([A-Z]+)RAUM\b")
_SPELLED = re.compile(r"(?<![^ +])(?:[A-Z]|SCH|NN)(?: (?:[A-Z]|SCH|NN)(?![^ +]))+")


def score_glosses(predictions: Sequence[str], references: Sequence[str], *, phoenix: bool) -> dict[str, Any]:
    """Return a split's word error rate and its parts in percent.

    These are edits per gloss of the references. Clips without glosses do not count.

    Args:
        predictions: One sequence of glosses per clip.
        references: One sequence of glosses per clip.
        phoenix: Whether both are cleaned up first, as the field does on PHOENIX; the rate without the
            clean-up is then `wer_as_written`.

    Raises:
        ValueError: No clip has glosses.
    """
    pairs = [pair for pair in zip(predictions, references, strict=True) if pair[1].split()]
    written = _error_rates(pairs)
    if not phoenix:
        return written
    cleaned = [(clean_phoenix(prediction), clean_phoenix(reference)) for prediction, reference in pairs]
    return _error_rates(cleaned) | {"wer_as_written": written["wer"]}


def clean_phoenix(glosses: str) -> str:
    """Return PHOENIX glosses as the field compares them.

    Marks of place, classifier and repetition are left out, spelled letters are joined by `+`, and a repeated
    gloss counts once. On the 8,257 annotations of PHOENIX-2014T, it equals signjoey's function, which
    does not join the first letter of three or more that open a clip.
    """
    text = _PLACE.sub(r"\1", _MARKS.sub("", glosses))
    text = " ".join(text.split()).replace("WIE AUSSEHEN", "WIE-AUSSEHEN")
    text = _SPELLED.sub(lambda match: match.group().replace(" ", "+"), text)
    return " ".join(gloss for gloss, _ in groupby(text.split()))


def _error_rates(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    if not pairs:
        raise ValueError("no clip has glosses")
    glosses = sum(len(reference.split()) for _, reference in pairs)
    edits = dict.fromkeys(("replace", "delete", "insert"), 0)
    for prediction, reference in pairs:
        for edit in Levenshtein.editops(reference.split(), prediction.split()):
            edits[edit.tag] += 1
    return {
        "wer": 100 * sum(edits.values()) / glosses,
        "substitutions": 100 * edits["replace"] / glosses,
        "deletions": 100 * edits["delete"] / glosses,
        "insertions": 100 * edits["insert"] / glosses,
        "num_clips": len(pairs),
        "num_glosses": glosses,
    }
