"""The glosses of a dataset, or the words of its sentences, as a model's ids; kept with a run."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.dataset import DatasetError
from sslssaw_jax.data.text import counts_characters, tokens
from sslssaw_jax.workdir import DamagedFileError, read_json, write_json

BLANK, UNKNOWN = 0, 1
SPECIALS = ("<blank>", "<unk>")
LEAST_OCCURRENCES = 3  # of a word in train's sentences


@dataclass(frozen=True)
class GlossVocabulary:
    """The glosses of a train split, by frequency, then by alphabet.

    Id 0 is the blank of CTC; id 1 is any gloss that the train split lacks.
    """

    glosses: tuple[str, ...] = field(default=(), repr=False)  # from id 2 on

    what: ClassVar[str] = "glosses"
    least: ClassVar[int] = 1  # occurrences of a gloss

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Return the vocabulary of glosses that spaces separate."""
        counts = Counter(gloss for text in texts for gloss in text.split())
        frequent = [gloss for gloss, count in counts.items() if count >= cls.least]
        return cls(tuple(sorted(frequent, key=lambda gloss: (-counts[gloss], gloss))))

    @classmethod
    def of_split(cls, clips: ClipSource) -> Self:
        """Return the vocabulary of a train split.

        Raises:
            DatasetError: The split has no glosses.
        """
        require_glosses(clips)
        return cls.of(cls.texts(clips.clips))

    @staticmethod
    def texts(clips: Sequence[ClipInfo]) -> list[str]:
        """Return the glosses of each clip, with spaces between."""
        return [clip.gloss for clip in clips]

    @classmethod
    def file(cls, folder: Path) -> Path:
        """Return the file, next to the tokenizer of a run or model."""
        return folder / f"{cls.what}.json"

    @property
    def size(self) -> int:
        """Return the number of ids, with blank and `<unk>`."""
        return len(SPECIALS) + len(self.glosses)

    @property
    def fingerprint(self) -> str:
        """Return a fingerprint that distinguishes vocabularies, kept with a run."""
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
        write_json(self.file(folder), {self.what: self.glosses})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load what `save` wrote.

        Raises:
            DamagedFileError: The file holds something else, or is gone.
        """
        path, what = cls.file(folder), cls.what
        if not path.is_file():
            raise DamagedFileError(
                f"there is no {path}, which the model's {what} are numbered by: bring it back"
            )
        glosses = read_json(path).get(what)
        if not isinstance(glosses, list) or not all(isinstance(gloss, str) for gloss in glosses):
            raise DamagedFileError(f"{path} is damaged: it does not list {what}")
        return cls(tuple(glosses))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {gloss: number for number, gloss in enumerate(self.glosses, len(SPECIALS))}


class WordVocabulary(GlossVocabulary):
    """The words of a train split's sentences, in place of glosses; characters if the script has no spaces.

    A word's id says that a sentence has the word, not where or how often.
    """

    what, least = "words", LEAST_OCCURRENCES

    @classmethod
    def of_split(cls, clips: ClipSource) -> Self:
        """Return the words that occur often enough in a train split.

        Raises:
            DatasetError: No word occurs often enough.
        """
        found = cls.of(cls.texts(clips.clips))
        if not found.glosses:
            raise DatasetError(
                f"no word occurs {cls.least} times in the sentences of the split {clips.split} of "
                f"{clips.dataset.folder}: prepare more clips, or choose a system that needs no words"
            )
        return found

    @staticmethod
    def texts(clips: Sequence[ClipInfo]) -> list[str]:
        """Return the words of each clip's sentence, with spaces between."""
        characters = counts_characters(clip.target for clip in clips)
        return [" ".join(tokens(clip.target, characters)) for clip in clips]

    def encode(self, text: str) -> list[int]:
        """Return the ids of the known words, each once, in ascending order."""
        return sorted({*super().encode(text)} - {UNKNOWN})


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
