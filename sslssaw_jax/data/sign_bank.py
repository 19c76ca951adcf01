"""A bank of signs: the positions of train's clips, cut where one gloss ends and the next begins.

Clips for sentences without video are spliced from the bank, as back-translation does (Zhou et al. 2021).

N positions of all clips, C features of a position, T positions of a clip, P pieces.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from sslssaw_jax.data.clips import ClipInfo, ClipSource
from sslssaw_jax.data.epoch_plan import clip_rng
from sslssaw_jax.data.glosses import UNKNOWN, GlossVocabulary
from sslssaw_jax.types import FeatureSize, most_rows
from sslssaw_jax.workdir import DamagedFileError, read_jsonl, read_text, write_bytes, write_jsonl

SIGN_BANK, SENTENCES = "sign_bank.npz", "sentences.jsonl"  # in the workdir of the stage that trains on them


@dataclass(frozen=True)
class SignBank:
    """The positions of clips, and which of them show which gloss."""

    positions: np.ndarray  # f16[N, C]
    clips: np.ndarray  # i[clips, 2]: each clip's first position, and how many; 0 for a clip without video
    pieces: np.ndarray  # i[P, 3]: gloss, first position and how many, in order of the glosses

    def save(self, folder: Path) -> None:
        """Write `FOLDER/sign_bank.npz`, whole or not at all."""
        file = io.BytesIO()
        np.savez(file, positions=self.positions, clips=self.clips, pieces=self.pieces)
        write_bytes(folder / SIGN_BANK, file.getvalue())

    @classmethod
    def load(cls, folder: Path) -> "SignBank":
        """Load what `save` wrote.

        Raises:
            DamagedFileError: The file holds something else.
        """
        try:
            with np.load(folder / SIGN_BANK) as arrays:
                return cls(arrays["positions"], arrays["clips"], arrays["pieces"])
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DamagedFileError(
                f"{folder / SIGN_BANK} is damaged ({error}): delete it, and the run makes it again"
            ) from error


def cut_glosses(path_T: np.ndarray) -> list[tuple[int, int, int]]:
    """Return place, first position and length of a path's glosses.

    A blank belongs to the nearer gloss, between two equally near ones to the earlier.

    Args:
        path_T: At each position the place of its gloss in the sentence, -1 at blanks, as `align` returns it.
    """
    place_T = np.arange(len(path_T))
    signed = place_T[path_T >= 0]
    nearest_T = np.abs(place_T[:, None] - signed).argmin(axis=1)
    owner_T = path_T[signed[nearest_T]]
    starts = np.flatnonzero(np.diff(owner_T, prepend=-1))
    ends = [*starts[1:], len(path_T)]
    return [(int(owner_T[start]), int(start), int(end - start)) for start, end in zip(starts, ends)]


def read_sentences(path: str) -> list[str]:
    """Return the sentences of a text file in UTF-8, one per line.

    Raises:
        DamagedFileError: There is no such file, or the file is not UTF-8.
    """
    file = Path(path)
    if not file.is_file():
        raise DamagedFileError(f"there is no {file}, which config.model.sentences names: one sentence a line")
    return [line.strip() for line in read_text(file).split("\n") if line.strip()]


def keep_bank(folder: Path, make: Callable[[], SignBank], *, begun: bool) -> SignBank:
    """Return the bank of a training in progress, or make it.

    A bank that was kept before the training began may come from other settings.
    """
    if begun and (folder / SIGN_BANK).is_file():
        return SignBank.load(folder)
    bank = make()
    bank.save(folder)
    return bank  # with several processes, only the first has a file


def keep_glosses(
    folder: Path, texts: Sequence[str], write: Callable[[], Sequence[str]], *, begun: bool
) -> list[tuple[str, str]]:
    """Return sentences and glosses of a training in progress, or write them.

    Any that were kept before the training began may come from other texts.
    """
    if begun and (folder / SENTENCES).is_file():
        return [(row["sentence"], row["glosses"]) for row in read_jsonl(folder / SENTENCES)]
    written = list(zip(texts, write(), strict=True))
    write_jsonl(folder / SENTENCES, [{"sentence": text, "glosses": glosses} for text, glosses in written])
    return written


class Sentences(ClipSource):
    """A source of sentences alone."""

    frame_size = (1, 1)

    def __init__(self, texts: Sequence[str], split: str) -> None:
        self.clips = [ClipInfo(f"sentence-{place}", 0, "", text, "", "") for place, text in enumerate(texts)]
        self.split, self.num_frames = split, np.zeros(len(texts), int)


class BankSource(ClipSource):
    """A source of real clips as positions, followed by sentences as spliced pieces.

    An epoch has all real clips of the bank and `ratio` times as many sentences, each at most once. Sentences
    and pieces are drawn again in each epoch, and depend only on seed, epoch and index. Glosses without a
    piece are dropped, and sentences without any gloss are left out.

    Args:
        real: The train split.
        bank: Its positions and pieces.
        step: The frames from one position to the next.
        sentences: Sentences with their glosses.
        glosses: The vocabulary that the bank's pieces are numbered by.
        ratio: Synthetic clips for each real one.
    """

    frame_size = (0, 0)

    def __init__(
        self,
        real: ClipSource,
        bank: SignBank,
        step: int,
        sentences: Sequence[tuple[str, str]],
        glosses: GlossVocabulary,
        ratio: float,
    ) -> None:
        self.dataset, self.split = real.dataset, real.split
        self._bank, self._ratio, self._num_real = bank, ratio, len(real.clips)
        self.feature_sets = (FeatureSize(bank.positions.shape[1], step, step),)
        shown = set(bank.pieces[:, 0].tolist()) - {UNKNOWN}
        written = [
            (text, [one for one in glosses.encode(gloss) if one in shown]) for text, gloss in sentences
        ]
        written = [(text, ids) for text, ids in written if ids]
        self._glosses = [np.array(ids) for _, ids in written]
        self._pieces_before = np.searchsorted(bank.pieces[:, 0], np.arange(glosses.size + 1))  # each gloss
        self.clips = real.clips + [
            ClipInfo(f"sentence-{place}", 0, "", text, glosses.decode(ids), "")
            for place, (text, ids) in enumerate(written)
        ]

    def of_epoch(self, max_frames: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return indices and lengths of the clips of an epoch, i[clips] each.

        A splice that is too long for a batch is left out.
        """
        real = np.flatnonzero(self._bank.clips[:, 1])
        wanted = min(round(self._ratio * len(real)), len(self._glosses))
        drawn = clip_rng(seed, epoch, len(self.clips)).permutation(len(self._glosses))[:wanted]
        spliced = self._num_real + drawn
        lengths = [
            self._splice(index, clip_rng(seed, epoch, index))[:, 1].sum() for index in spliced.tolist()
        ]
        fits = np.array(lengths, int) <= most_rows(max_frames, self.feature_sets[0].stride)
        return (
            np.concatenate([real, spliced[fits]]),
            np.concatenate([self._bank.clips[real, 1], np.array(lengths, int)[fits]]),
        )

    def read_features(self, index: int, max_frames: int, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Return a clip's positions, f16[T, C]; the generator draws a sentence's pieces."""
        if index < self._num_real:
            pieces = self._bank.clips[index : index + 1]
        else:
            assert rng is not None, "a sentence has no positions of its own"
            pieces = self._splice(index, rng)
        rows = [self._bank.positions[first : first + count] for first, count in pieces.tolist()]
        return [np.concatenate(rows)]

    def _splice(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Draw a piece for each gloss of a sentence, i[pieces, 2]."""
        ids = self._glosses[index - self._num_real]
        first, behind = self._pieces_before[ids], self._pieces_before[ids + 1]
        return self._bank.pieces[first + (rng.random(len(ids)) * (behind - first)).astype(int), 1:]
