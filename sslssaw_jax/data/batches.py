"""Batches of a run, read and decoded by threads ahead of the training loop."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import grain
import jax
import numpy as np

from sslssaw_jax.config.experiment import ConfigError, DataConfig, StageConfig
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.denoising import TargetNoise
from sslssaw_jax.data.epoch_plan import RunPlan, plan_epoch, plan_run
from sslssaw_jax.data.frames import FrameError, select_frames
from sslssaw_jax.data.masking import mask_words
from sslssaw_jax.data.mbart_tokenizer import Reader, Tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.types import Batch, BertTexts


class _BatchSource:
    """The batch of step i of a plan, a pure function of i: the same bytes on any thread, in any order.

    With a `seed`, frames and masks are drawn anew each epoch; without, they are the same on every pass.
    In training, and with `data.skip_broken`, a clip with a broken frame leaves a row that is not valid.
    Of the packed frames those in `own` are read, where it is given; the others stay zero.
    """

    def __init__(
        self,
        source: ClipSource,
        tokenizer: Tokenizer,
        data: DataConfig,
        stage: StageConfig,
        plan: RunPlan,
        seed: int | None,
        own: range | None,
    ) -> None:
        self._source, self._tokenizer, self._data, self._stage = source, tokenizer, data, stage
        self.clips = source.clips
        self._plan, self._seed = plan, seed
        self._own = own or range(stage.frame_budget)
        if data.skip_broken and len(self._own) < stage.frame_budget:
            raise ConfigError(
                "data.skip_broken is for one process: of several, only one would know "
                "of a broken clip; set it to 0 and prepare the dataset again"
            )
        self._reader = tokenizer.reader
        self._noise = TargetNoise(
            [clip.target for clip in self.clips], [clean_question(clip.question) for clip in self.clips]
        )
        self._questions, self._targets = self._encode_texts(tokenizer)
        self._bert_texts = None if self._reader is tokenizer else self._encode_texts(self._reader)

    def __len__(self) -> int:
        return self._plan.num_batches // self._stage.accumulate

    @property
    def epoch_ends(self) -> np.ndarray:
        """i[epochs], the number of steps up to the end of each epoch."""
        return self._plan.epoch_ends // self._stage.accumulate

    def __getitem__(self, step: int) -> Batch:
        count = self._stage.accumulate
        # zeroed pages take no memory before they are written: frames of other processes cost nothing
        frames = np.zeros((count, self._stage.frame_budget, *self._source.frame_size, 3), np.uint8)
        parts = [self._batch(count * step + i, frames[i]) for i in range(count)]
        if count == 1:
            return parts[0]
        texts = [part.replace(frames=None) for part in parts]  # type: ignore[attr-defined]
        return jax.tree.map(lambda *rows: np.stack(rows), *texts).replace(frames=frames)

    def _batch(self, position: int, frames_NxHxWx3: np.ndarray) -> Batch:
        data, num_rows, own = self._data, self._stage.clips_per_batch, self._own
        epoch, indices = self._plan.batch(position)
        frame_count_B = np.zeros(num_rows, np.int32)
        index_B = np.full(num_rows, -1, np.int32)
        index_B[: len(indices)] = indices
        valid_B = index_B >= 0
        questions, masked_targets = [], []
        end = 0
        for row, index in enumerate(indices.tolist()):
            rng = np.random.default_rng([index] if self._seed is None else [self._seed, epoch, index])
            clip = self._source.clips[index]
            kept = select_frames(
                self._source.num_frames[index], data.max_frames, None if self._seed is None else rng
            )
            start, end = end, end + len(kept)
            masked = mask_words(clip.target, data.mask_rate, self._reader.mask_token, rng)
            masked_targets.append(self._reader.encode(masked, data.max_target_tokens))
            questions.append(self._question(index, rng))
            try:
                first, stop = max(start, own.start), min(end, own.stop)
                if first < stop:
                    shown = kept[first - start : stop - start]
                    self._source.read_frames(index, shown, frames_NxHxWx3[first:stop])
                frame_count_B[row] = len(kept)
            except FrameError:
                frames_NxHxWx3[start:end] = 0  # what it left before the broken frame
                valid_B[row], end = False, start
                # scores without a clip would be those of another split, and a batch needs a clip
                if self._seed is None or not data.skip_broken or not valid_B.any():
                    raise

        def rows(texts: Sequence[list[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
            ids_BxL, mask_BxL = self._pad(texts, length)
            return ids_BxL, mask_BxL & valid_B[:, None]

        question, question_mask = rows(questions, data.max_question_tokens)
        target, target_mask = rows([self._targets[i] for i in indices], data.max_target_tokens)
        masked_target, masked_target_mask = rows(masked_targets, data.max_target_tokens)
        bert = None
        if self._bert_texts:
            bert_questions, bert_targets = self._bert_texts
            bert = BertTexts(
                *rows([bert_questions[i] for i in indices], data.max_question_tokens),
                *rows([bert_targets[i] for i in indices], data.max_target_tokens),
            )
        return Batch(
            frames=frames_NxHxWx3,
            frame_start=(np.cumsum(frame_count_B) - frame_count_B).astype(np.int32),
            frame_count=frame_count_B,
            question=question,
            question_mask=question_mask,
            target=target,
            target_mask=target_mask,
            masked_target=masked_target,
            masked_target_mask=masked_target_mask,
            index=index_B,
            valid=valid_B,
            bert=bert,
        )

    def _encode_texts(self, reader: Reader) -> tuple[list[list[int]], list[list[int]]]:
        """The ids of each clip's question and target."""
        data = self._data
        questions = [clean_question(clip.question) for clip in self._source.clips]
        return (
            # no question, no token, not even </s>: the clip is translated without one
            [reader.encode(question, data.max_question_tokens) if question else [] for question in questions],
            [reader.encode(clip.target, data.max_target_tokens) for clip in self._source.clips],
        )

    def _question(self, index: int, rng: np.random.Generator) -> list[int]:
        """The ids of a clip's question, in training sometimes of its target with noise."""
        if self._seed is None or rng.random() >= self._data.denoise_targets:
            return self._questions[index]
        noisy = self._noise(self.clips[index].target, rng)
        return self._tokenizer.encode(clean_question(noisy), self._data.max_question_tokens)

    def _pad(self, texts: Sequence[list[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, both [B, length]; what the ids of padding are is no matter to any tokenizer."""
        ids_BxL = np.full((self._stage.clips_per_batch, length), self._tokenizer.pad_id, np.int32)
        mask_BxL = np.zeros_like(ids_BxL, dtype=bool)
        for row, text in enumerate(texts):
            ids_BxL[row, : len(text)] = text
            mask_BxL[row, : len(text)] = True
        return ids_BxL, mask_BxL


class Batches:
    """The batches of a plan in order, one a step, all of one static shape.

    Where a step takes several, they are stacked: every array has a leading axis of `accumulate`.
    Threads prepare whole batches ahead; at most `data.prefetch` of them are held.
    """

    def __init__(self, source: _BatchSource, data: DataConfig) -> None:
        self.clips = source.clips
        self.num_batches = len(source)
        self.epoch_ends = source.epoch_ends
        # a thread without a place in the buffer would have nothing to do
        options = grain.ReadOptions(
            num_threads=min(data.num_threads, data.prefetch), prefetch_buffer_size=data.prefetch
        )
        self._dataset = grain.MapDataset.source(source).to_iter_dataset(options)

    def iterator(self, start: int = 0) -> grain.DatasetIterator[Batch]:
        """From batch `start` on; its `get_state` is JSON-able and `set_state` continues bit for bit."""
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
    own_frames: range | None = None,
) -> Batches:
    """All batches of `stage.epochs` epochs: shuffled, frames subsampled at random, words masked anew.

    With `own_frames` only those of the packed frames are read: what other processes need stays zero.

    Raises:
      ConfigError: a clip does not fit into `stage.frame_budget`, or several processes skip broken clips.
    """
    num_frames = np.minimum(source.num_frames, data.max_frames)
    plan = plan_run(
        num_frames, stage.clips_per_batch, stage.frame_budget, seed, stage.epochs, stage.accumulate
    )
    return Batches(_BatchSource(source, tokenizer, data, stage, plan, seed, own_frames), data)


def eval_batches(
    source: ClipSource,
    tokenizer: Tokenizer,
    data: DataConfig,
    stage: StageConfig,
    own_frames: range | None = None,
    only: Sequence[int] | None = None,
) -> Batches:
    """One pass, the same on every call, in batches of the training's shape, never stacked.

    Clips come in packed order: `Batch.index` says which is which. `own_frames` as for `train_batches`; with
    `only` no others than those clips come.

    Raises:
      ConfigError: a clip does not fit into `stage.frame_budget`.
    """
    chosen = np.arange(len(source)) if only is None else np.array(only, int)
    num_frames = np.minimum(source.num_frames[chosen], data.max_frames)
    places = plan_epoch(num_frames, stage.clips_per_batch, stage.frame_budget, seed=0, epoch=None)
    batches = [chosen[batch] for batch in places]
    plan = RunPlan(batches, epoch_ends=np.array([len(batches)]))
    stage = replace(stage, accumulate=1)
    return Batches(_BatchSource(source, tokenizer, data, stage, plan, None, own_frames), data)
