"""Batches of a run, read and decoded by threads ahead of the training loop."""

from collections.abc import Iterator, Sequence

import grain
import numpy as np

from sslssaw_jax.config import DataConfig, StageConfig
from sslssaw_jax.data.batching import RunPlan, plan_epoch, plan_run
from sslssaw_jax.data.denoising import TargetNoise
from sslssaw_jax.data.frames import decode_frames, select_frames
from sslssaw_jax.data.masking import mask_words
from sslssaw_jax.data.source import ClipSource
from sslssaw_jax.data.tokenizer import Tokenizer, clean_question
from sslssaw_jax.types import Batch


class _BatchSource:
    """Batch i of a plan, a pure function of i: the same bytes on any thread, in any order.

    With a `seed`, frames and masks are drawn anew each epoch; without, they are the same on every pass.
    """

    def __init__(
        self,
        source: ClipSource,
        tokenizer: Tokenizer,
        data: DataConfig,
        stage: StageConfig,
        plan: RunPlan,
        seed: int | None,
        video: bool,
    ) -> None:
        self._source, self._tokenizer, self._data, self._stage = source, tokenizer, data, stage
        self._plan, self._seed, self._video = plan, seed, video
        self._noise = TargetNoise(
            [clip.target for clip in source.clips], [clean_question(clip.question) for clip in source.clips]
        )
        self._questions = [
            tokenizer.encode(clean_question(clip.question), data.max_question_tokens) for clip in source.clips
        ]
        self._targets = [tokenizer.encode(clip.target, data.max_target_tokens) for clip in source.clips]

    def __len__(self) -> int:
        return self._plan.num_batches

    def __getitem__(self, position: int) -> Batch:
        data, num_rows = self._data, self._stage.clips_per_batch
        epoch, indices = self._plan.batch(position)
        frames_NxHxWx3 = self._no_frames()
        frame_count_B = np.zeros(num_rows, np.int32)
        questions, masked_targets = [], []
        end = 0
        for row, index in enumerate(indices.tolist()):
            rng = np.random.default_rng([index] if self._seed is None else [self._seed, epoch, index])
            info = self._source.clips[index]
            if self._video:
                clip = self._source[index]
                kept = select_frames(clip.num_frames, data.max_frames, None if self._seed is None else rng)
                start, end = end, end + len(kept)
                decode_frames(clip.id, clip.video, kept, frames_NxHxWx3[start:end])
                frame_count_B[row] = len(kept)
            question = self._questions[index]
            if self._seed is not None and rng.random() < data.denoise_targets:
                question = self._tokenizer.encode(
                    clean_question(self._noise(info.target, rng)), data.max_question_tokens
                )
            questions.append(question)
            masked = mask_words(info.target, data.mask_rate, self._tokenizer.mask_token, rng)
            masked_targets.append(self._tokenizer.encode(masked, data.max_target_tokens))
        question, question_mask = self._pad(questions, data.max_question_tokens)
        target, target_mask = self._pad([self._targets[i] for i in indices], data.max_target_tokens)
        masked_target, masked_target_mask = self._pad(masked_targets, data.max_target_tokens)
        index_B = np.full(num_rows, -1, np.int32)
        index_B[: len(indices)] = indices
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
            valid=index_B >= 0,
        )

    def _no_frames(self) -> np.ndarray:
        """Room for the frames of a batch, u8[N, H, W, 3]; none where no video is read."""
        if not self._video:
            return np.zeros((0, 1, 1, 3), np.uint8)
        return np.zeros((self._stage.frame_budget, *self._source.frame_size, 3), np.uint8)

    def _pad(self, texts: Sequence[list[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, both [B, length]."""
        ids_BxL = np.full((self._stage.clips_per_batch, length), self._tokenizer.pad_id, np.int32)
        mask_BxL = np.zeros_like(ids_BxL, dtype=bool)
        for row, text in enumerate(texts):
            ids_BxL[row, : len(text)] = text
            mask_BxL[row, : len(text)] = True
        return ids_BxL, mask_BxL


class Batches:
    """The batches of a plan in order, all of one static shape.

    Threads prepare whole batches ahead; at most `data.prefetch` of them are held.
    """

    def __init__(self, source: _BatchSource, plan: RunPlan, data: DataConfig) -> None:
        self.plan = plan
        self.num_batches = plan.num_batches
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
    *,
    video: bool = True,
) -> Batches:
    """All batches of `stage.epochs` epochs: shuffled, frames subsampled at random, words masked anew.

    Raises:
      ConfigError: a clip does not fit into `stage.frame_budget`.
    """
    num_frames = _planned_frames(source, data, video)
    plan = plan_run(num_frames, stage.clips_per_batch, stage.frame_budget, seed, stage.epochs)
    return Batches(_BatchSource(source, tokenizer, data, stage, plan, seed, video), plan, data)


def eval_batches(
    source: ClipSource, tokenizer: Tokenizer, data: DataConfig, stage: StageConfig, *, video: bool = True
) -> Batches:
    """One pass, the same on every call, in batches of the training's shape.

    Clips come in packed order: `Batch.index` says which is which.

    Raises:
      ConfigError: a clip does not fit into `stage.frame_budget`.
    """
    num_frames = _planned_frames(source, data, video)
    batches = plan_epoch(num_frames, stage.clips_per_batch, stage.frame_budget, seed=0, epoch=None)
    plan = RunPlan(batches, epoch_ends=np.array([len(batches)]))
    return Batches(_BatchSource(source, tokenizer, data, stage, plan, None, video), plan, data)


def _planned_frames(source: ClipSource, data: DataConfig, video: bool) -> np.ndarray:
    """How many frames of each clip a batch takes."""
    return np.minimum(source.num_frames, data.max_frames) if video else np.zeros(len(source), int)
