"""Batches of a run, prepared by threads ahead of the loop."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import grain
import jax
import numpy as np

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.config.stages import StageConfig
from sslssaw_jax.data.clips import ClipInfo, ClipSource, RecordError
from sslssaw_jax.data.epoch_plan import EpochClips, RunPlan, clip_rng, plan_epoch, plan_run
from sslssaw_jax.data.frames import FrameError, select_frames
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.data.masking import mask_words
from sslssaw_jax.data.mbart_tokenizer import TextTowerTokenizer, Tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.errors import listed
from sslssaw_jax.types import Batch, Features, Texts, most_rows

Ask = Callable[[ClipInfo, np.random.Generator], str]
IdsAndMask = tuple[np.ndarray, np.ndarray]  # i32[B, L], bool[B, L]


def encode_texts(
    tokenizer: TextTowerTokenizer, texts: Sequence[str], shape: tuple[int, int], pad_id: int
) -> IdsAndMask:
    """Return texts as ids and mask, both of the shape [B, L].

    A row without a text has no tokens at all, not even `</s>`.
    """
    ids_BxL = np.full(shape, pad_id, np.int32)
    mask_BxL = np.zeros(shape, bool)
    for row, text in enumerate(texts):
        if text:
            ids = tokenizer.encode(text, shape[1])
            ids_BxL[row, : len(ids)], mask_BxL[row, : len(ids)] = ids, True
    return ids_BxL, mask_BxL


class _BatchSource:
    """A source of batches by step, the same in any order.

    Other arguments are as for `train_batches`.

    Args:
        plan: The clips of each batch.
        seed: Draws new frames, masks and questions in each epoch; None draws the same ones on every pass.
    """

    def __init__(
        self,
        source: ClipSource,
        tokenizer: Tokenizer,
        data: DataConfig,
        stage: StageConfig,
        plan: RunPlan,
        seed: int | None,
        local_frames: range | None,
        ask: Ask,
        glosses: GlossVocabulary | None,
    ) -> None:
        self._source, self._tokenizer, self._data, self._stage = source, tokenizer, data, stage
        self.clips = source.clips
        self._plan, self._seed, self._ask = plan, seed, ask
        self._local_frames = range(stage.frame_budget) if local_frames is None else local_frames
        if data.skip_broken and len(self._local_frames) < stage.frame_budget:
            raise ConfigError(
                "data.skip_broken is for a single process, since the others would not know of the broken "
                "clip: set it to 0 and prepare the dataset again"
            )
        self._named = list(map(glosses.encode, glosses.texts(self.clips))) if glosses else []
        longest = max(map(len, self._named), default=0)
        if glosses and longest > data.max_glosses:  # a cut sequence would teach what the clip does not show
            clip = next(clip for clip, ids in zip(self.clips, self._named) if len(ids) == longest)
            raise ConfigError(
                f"config.data.max_glosses is {data.max_glosses}, and {clip.id} has {longest} {glosses.what}: "
                f"raise it to {longest} or more"
            )

    def __len__(self) -> int:
        return self._plan.num_batches // self._stage.accumulate

    @property
    def epoch_ends(self) -> np.ndarray:
        """Return the last step of each epoch, i[epochs]."""
        return self._plan.epoch_ends // self._stage.accumulate

    def __getitem__(self, step: int) -> Batch:
        count = self._stage.accumulate
        # zeroed pages take no memory until written: frames of other processes cost nothing
        frames = np.zeros((count, self._stage.frame_budget, *self._source.frame_size, 3), np.uint8)
        parts = [self._batch(count * step + i, frames[i]) for i in range(count)]
        if count > 1:
            texts = [part.replace(frames=None) for part in parts]  # type: ignore[attr-defined]
            parts = [jax.tree.map(lambda *rows: np.stack(rows), *texts).replace(frames=frames)]
        return parts[0] if self._seed is None or self._data.length_steps == 1 else self._shorten(parts[0])

    def _shorten(self, batch: Batch) -> Batch:
        """Cut off padding, to one of `data.length_steps` lengths."""
        limits, most_steps = _limits(self._data, self._source), self._data.length_steps
        texts = batch.decoder_texts, batch.text_tower_texts
        of_questions = [each.question_mask for each in texts]
        of_targets = [batch.masked_target_mask, *(each.target_mask for each in texts)]
        tokens = [max(mask.sum(axis=-1).max() for mask in masks) for masks in (of_questions, of_targets)]
        needed = np.array([*tokens, batch.frame_count.max()])
        steps = max(int(_steps(needed, limits, most_steps)), 1)
        question, target, rows = (-(-limit * steps // most_steps) for limit in limits)

        def cut(each: Texts) -> Texts:
            return Texts(
                each.question[..., :question],
                each.question_mask[..., :question],
                each.target[..., :target],
                each.target_mask[..., :target],
            )

        return batch.replace(  # type: ignore[attr-defined]
            decoder_texts=cut(texts[0]),
            text_tower_texts=cut(texts[1]),
            masked_target=batch.masked_target[..., :target],
            masked_target_mask=batch.masked_target_mask[..., :target],
            most_rows=rows,
        )

    def _batch(self, position: int, frames_NxHxWx3: np.ndarray) -> Batch:
        data, text_tower = self._data, self._tokenizer.text_tower
        epoch, indices = self._plan.batch(position)
        frame_count_B = np.zeros(self._stage.clips_per_batch, np.int32)
        index_B = np.full_like(frame_count_B, -1)
        index_B[: len(indices)] = indices
        valid_B = index_B >= 0
        sets = self._source.feature_sets
        rows_SxNxC = [np.zeros((len(frames_NxHxWx3), one.width), np.float16) for one in sets]
        count_SxB = np.zeros((len(sets), len(valid_B)), np.int32)
        points = self._source.keypoints
        width = points.feature_sets[0].width if points else 0
        points_NxC = np.zeros((len(frames_NxHxWx3), width), np.float16)
        questions, targets, masked_targets = [], [], []
        end = 0
        for row, index in enumerate(indices.tolist()):
            rng = np.random.default_rng([index]) if self._seed is None else clip_rng(self._seed, epoch, index)
            clip = self.clips[index]
            choice = None if self._seed is None else rng
            kept = np.zeros(0, int)
            if sets:
                for number, rows in enumerate(self._source.read_features(index, data.max_frames, choice)):
                    first = count_SxB[number].sum()
                    count_SxB[number, row] = len(rows)
                    rows_SxNxC[number][first : first + len(rows)] = rows
            else:
                kept = select_frames(self._source.num_frames[index], data.max_frames, choice)
            masked_targets.append(mask_words(clip.target, data.mask_rate, text_tower.mask_token, rng))
            questions.append(clean_question(self._ask(clip, rng)))
            targets.append(clip.target)
            start, end = end, end + len(kept)
            try:
                self._read_frames(index, kept, start, frames_NxHxWx3)
                frame_count_B[row] = len(kept)
                if points:
                    points_NxC[start:end] = self._source.read_keypoints(index, kept)
            except (FrameError, RecordError):
                frames_NxHxWx3[start:end] = 0  # what was read before the broken frame
                valid_B[row], end = False, start
                # evaluation must score the whole split, and a batch needs at least one clip
                if self._seed is None or not data.skip_broken or not valid_B.any():
                    raise
        if sets:
            frame_count_B = count_SxB[0]

        def encode(tokenizer: TextTowerTokenizer, texts: list[str], length: int) -> IdsAndMask:
            read = [text if valid else "" for text, valid in zip(texts, valid_B)]
            return encode_texts(tokenizer, read, (len(valid_B), length), self._tokenizer.pad_id)

        def encode_both(tokenizer: TextTowerTokenizer) -> Texts:
            question = encode(tokenizer, questions, data.max_question_tokens)
            return Texts(*question, *encode(tokenizer, targets, data.max_target_tokens))

        decoder_texts = encode_both(self._tokenizer)
        gloss, gloss_mask = self._encode_glosses(index_B, valid_B)
        masked_target, masked_target_mask = encode(text_tower, masked_targets, data.max_target_tokens)
        return Batch(
            frames=frames_NxHxWx3,
            frame_start=_starts(frame_count_B),
            frame_count=frame_count_B,
            decoder_texts=decoder_texts,
            text_tower_texts=decoder_texts if text_tower is self._tokenizer else encode_both(text_tower),
            masked_target=masked_target,
            masked_target_mask=masked_target_mask,
            gloss=gloss,
            gloss_mask=gloss_mask,
            index=index_B,
            valid=valid_B,
            features=tuple(map(Features, rows_SxNxC, _starts(count_SxB), count_SxB)),
            keypoints=Features(points_NxC, _starts(frame_count_B), frame_count_B) if points else None,
        )

    def _encode_glosses(self, index_B: np.ndarray, valid_B: np.ndarray) -> IdsAndMask:
        """Return the clips' glosses as ids and mask, both [B, G]."""
        shape = len(index_B), self._data.max_glosses
        ids_BxG, mask_BxG = np.zeros(shape, np.int32), np.zeros(shape, bool)
        if self._named:
            for row in np.flatnonzero(valid_B):
                ids = self._named[index_B[row]]
                ids_BxG[row, : len(ids)], mask_BxG[row, : len(ids)] = ids, True
        return ids_BxG, mask_BxG

    def _read_frames(self, index: int, kept: np.ndarray, start: int, frames_NxHxWx3: np.ndarray) -> None:
        """Read a clip's kept frames, as far as they are local."""
        first, stop = max(start, self._local_frames.start), min(start + len(kept), self._local_frames.stop)
        if first < stop:
            shown = kept[first - start : stop - start]
            self._source.read_frames(index, shown, frames_NxHxWx3[first:stop])


def _starts(count: np.ndarray) -> np.ndarray:
    return (np.cumsum(count, axis=-1) - count).astype(np.int32)


class Batches:
    """A plan's batches in order, all of one static shape.

    Threads prepare whole batches ahead and hold at most `data.num_threads` of them.
    """

    def __init__(self, source: _BatchSource, data: DataConfig) -> None:
        self.clips = source.clips
        self.num_batches = len(source)
        self.epoch_ends = source.epoch_ends
        # a thread without a place in the buffer would have nothing to do
        options = grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.num_threads)
        self._dataset = grain.MapDataset.source(source).to_iter_dataset(options)

    def iterator(self, start: int = 0) -> grain.DatasetIterator[Batch]:
        """Return an iterator that begins at batch `start`.

        The value of its `get_state` can be written as JSON, and `set_state` continues exactly, bit for bit.
        """
        iterator = iter(self._dataset)
        iterator.set_state({"next_index": start})
        return iterator

    def __iter__(self) -> Iterator[Batch]:
        return self.iterator()


def train_batches(
    source: ClipSource,
    tokenizer: Tokenizer,
    data: DataConfig,
    stage: StageConfig,
    seed: int,
    local_frames: range | None = None,
    ask: Ask | None = None,
    glosses: GlossVocabulary | None = None,
) -> Batches:
    """Return all batches of `stage.epochs` epochs, each with new shuffling and masking.

    If `stage.accumulate` is above 1, each is a batch of that many stacked micro-batches.

    Args:
        source: The clips to train on.
        tokenizer: The decoder's tokenizer, which holds the text tower's.
        data: What a batch holds.
        stage: The size of a batch.
        seed: The run's seed.
        local_frames: The packed frames of this process, the others stay zero; None reads all.
        ask: The text of a clip's question, drawn again in each epoch; None asks the clip's own.
        glosses: The vocabulary of the clips' glosses; None leaves these out.

    Raises:
        ConfigError: A clip does not fit into `stage.frame_budget` or `data.max_glosses`, or several processes
            skip broken clips.
    """
    texts_Cx2 = _text_lengths(source, tokenizer, data) if data.length_steps > 1 else None

    def clips(epoch: int) -> EpochClips:
        index, num_frames = source.of_epoch(data.max_frames, seed, epoch)
        if texts_Cx2 is None:
            return index, num_frames, None
        limits = _limits(data, source)
        needed = np.column_stack([texts_Cx2[index], np.minimum(num_frames, limits[2])])
        return index, num_frames, _steps(needed, limits, data.length_steps)

    plan = plan_run(clips, stage.clips_per_batch, stage.frame_budget, seed, stage.epochs, stage.accumulate)
    ask = ask or _ask_own_question
    batches = _BatchSource(source, tokenizer, data, stage, plan, seed, local_frames, ask, glosses)
    return Batches(batches, data)


def eval_batches(
    source: ClipSource,
    tokenizer: Tokenizer,
    data: DataConfig,
    stage: StageConfig,
    local_frames: range | None = None,
    only: Sequence[int] | None = None,
    glosses: GlossVocabulary | None = None,
) -> Batches:
    """Return the batches of one pass, the same on every call.

    Clips come in packed order: `Batch.index` names them. Batches are never stacked.

    Args:
        source: The clips of a split.
        tokenizer: The decoder's tokenizer, which holds the text tower's.
        data: What a batch holds.
        stage: The size of a batch.
        local_frames: The packed frames of this process, the others stay zero; None reads all.
        only: The indices of the clips to read; None reads all.
        glosses: The vocabulary of the clips' glosses; None leaves these out.

    Raises:
        ConfigError: A clip does not fit into `stage.frame_budget` or `data.max_glosses`.
    """
    chosen = np.arange(len(source)) if only is None else np.array(only, int)
    num_frames = source.lengths(data.max_frames)[chosen]
    places = plan_epoch(num_frames, stage.clips_per_batch, stage.frame_budget, seed=0, epoch=None)
    plan = RunPlan([chosen[batch] for batch in places], epoch_ends=np.array([len(places)]))
    stage = replace(stage, accumulate=1)
    ask = _ask_own_question
    batches = _BatchSource(source, tokenizer, data, stage, plan, None, local_frames, ask, glosses)
    return Batches(batches, data)


def cut_targets(clips: Sequence[ClipInfo], tokenizer: Tokenizer, max_target_tokens: int) -> str:
    """Return a line about targets too long for a batch, if any."""
    lengths = {clip.id: len(tokenizer.encode(clip.target, sys.maxsize)) for clip in clips}
    return _long_texts("targets are cut to config.data.max_target_tokens", lengths, max_target_tokens)


def unreachable_targets(split: str, clips: Sequence[ClipInfo], tokenizer: Tokenizer, most: int) -> str:
    """Return a line about targets longer than `decode.max_new_tokens`, if any."""
    # the language code is given, not written
    lengths = {clip.id: len(tokenizer.encode(clip.target, sys.maxsize)) - 1 for clip in clips}
    what = f"targets of {split} are longer than any translation can be, config.decode.max_new_tokens"
    return _long_texts(what, lengths, most)


def cut_questions(clips: Sequence[ClipInfo], tokenizer: Tokenizer, max_question_tokens: int) -> str:
    """Return a line about questions too long for a batch, if any."""
    lengths = {clip.id: question_length(clip.question, tokenizer) for clip in clips}
    return _long_texts("questions are cut to config.data.max_question_tokens", lengths, max_question_tokens)


def question_length(question: str, tokenizer: Tokenizer) -> int:
    """Return a question's tokens, for decoder or text tower, whichever needs more."""
    text = clean_question(question)
    return max(len(each.encode(text, sys.maxsize)) for each in (tokenizer, tokenizer.text_tower))


def _long_texts(what: str, lengths: Mapping[str, int], most: int) -> str:
    longer = [name for name, length in lengths.items() if length > most]
    if not longer:
        return ""
    return (
        f"{len(longer):,} of {len(lengths):,} {what}={most}: {listed(longer)}; the longest has "
        f"{max(lengths.values())} tokens"
    )


def _text_lengths(source: ClipSource, tokenizer: Tokenizer, data: DataConfig) -> np.ndarray:
    """Return the tokens of each clip's question and target, i[clips, 2]."""
    limits = _limits(data, source)

    def count(text: str, most: int) -> int:
        return len(tokenizer.encode(text, most)) if text else 0

    return np.array(
        [
            (count(clean_question(clip.question), limits[0]), count(clip.target, limits[1]))
            for clip in source.clips
        ]
    )


def _limits(data: DataConfig, source: ClipSource) -> tuple[int, int, int]:
    """Return the most question tokens, target tokens and rows per clip."""
    sets = source.feature_sets
    rows = most_rows(data.max_frames, sets[0].stride) if sets else data.max_frames
    return data.max_question_tokens, data.max_target_tokens, rows


def _steps(needed: np.ndarray, limits: tuple[int, int, int], most_steps: int) -> np.ndarray:
    """Return the fewest steps of all limits that hold `needed`, [..., 3]."""
    return (-(-needed * most_steps // np.array(limits))).max(axis=-1)


def _ask_own_question(clip: ClipInfo, rng: np.random.Generator) -> str:
    return clip.question
