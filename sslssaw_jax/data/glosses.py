"""The glosses of a dataset as the ids of a recogniser, kept with a run."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.dataset import DatasetError
from sslssaw_jax.workdir import DamagedFileError, read_json, write_json

BLANK, UNKNOWN = 0, 1
SPECIALS = ("<blank>", "<unk>")
GLOSSES = "glosses.json"  # beside the tokenizer of a run or model


@dataclass(frozen=True)
class GlossVocabulary:
    """The glosses of a train split, by frequency, then by alphabet.

    Id 0 is the blank of CTC, 1 any gloss that the train split lacks.
    """

    glosses: tuple[str, ...] = field(default=(), repr=False)  # from id 2 on

    @classmethod
    def of(cls, texts: Iterable[str]) -> "GlossVocabulary":
        """Return the vocabulary of glosses that spaces separate."""
        counts = Counter(gloss for text in texts for gloss in text.split())
        return cls(tuple(sorted(counts, key=lambda gloss: (-counts[gloss], gloss))))

    @property
    def size(self) -> int:
        """Return the number of ids, with blank and `<unk>`."""
        return len(SPECIALS) + len(self.glosses)

    @property
    def fingerprint(self) -> str:
        """Return what tells two vocabularies apart, kept with a run."""
        return hashlib.sha256("\n".join(self.glosses).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Return the ids of glosses that spaces separate."""
        return [self._ids.get(gloss, UNKNOWN) for gloss in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        """Return glosses with spaces between; blanks are left out."""
        names = (*SPECIALS, *self.glosses)
        return " ".join(names[one] for one in ids if one != BLANK)

    def save(self, folder: Path) -> None:
        """Write `FOLDER/glosses.json`."""
        write_json(folder / GLOSSES, {"glosses": self.glosses})

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {gloss: number for number, gloss in enumerate(self.glosses, len(SPECIALS))}


def load_glosses(folder: Path) -> GlossVocabulary:
    """Load what `GlossVocabulary.save` wrote.

    Raises:
        DamagedFileError: The file holds something else, or is gone.
    """
    path = folder / GLOSSES
    if not path.is_file():
        raise DamagedFileError(
            f"there is no {path}, which the model's glosses are numbered by: bring it back"
        )
    glosses = read_json(path).get("glosses")
    if not isinstance(glosses, list) or not all(isinstance(gloss, str) for gloss in glosses):
        raise DamagedFileError(f"{path} is damaged: it does not list glosses")
    return GlossVocabulary(tuple(glosses))


def has_glosses(clips: ClipSource) -> bool:
    """Return whether any clip of a split has glosses."""
    return any(clip.gloss.split() for clip in clips.clips)


def require_glosses(clips: ClipSource) -> None:
    """Raise DatasetError if no clip of a split has glosses."""
    if not has_glosses(clips):
        raise DatasetError(
            f"the split {clips.split} of {clips.dataset.folder} has no glosses, and this stage needs them: "
            "prepare the dataset from annotations with glosses, or choose a system without"
        )


def most_glosses(clips: Sequence[ClipInfo]) -> tuple[int, str]:
    """Return the largest number of glosses, and the clip that has them."""
    return max(((len(clip.gloss.split()), clip.id) for clip in clips), default=(0, ""))
