"""What a sentence depends on: its loss in log-probability when a part of the input is left out.

B is the number of rows: the whole input, the question without each word, the video without each stretch.
"""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import jax
import numpy as np

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import encode_texts
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.frames import select_frames
from sslssaw_jax.data.mbart_tokenizer import TextTowerTokenizer, Tokenizer
from sslssaw_jax.data.text import clean_question, without_each_word
from sslssaw_jax.evaluation.explanation import Explanation, StretchDrop, WordDrop
from sslssaw_jax.evaluation.runner import Runner
from sslssaw_jax.stages.translation import sentence_step
from sslssaw_jax.training.sharding import replicated
from sslssaw_jax.types import Batch, Features, Texts, TrainState

STRETCHES = 8  # of a video
ROWS, TOKENS = 32, 16  # the rows, and a sentence's tokens, are padded to multiples: few shapes to compile


class Explainer:
    """An explainer of single sentences, compiled once for each of a few shapes.

    Args:
        runner: Of a stage that translates.
        fps: The frames per second of the clips.
    """

    def __init__(self, runner: Runner, fps: float) -> None:
        translation, language_id = runner.stage.translation, runner.tokenizer.language_id
        assert translation is not None
        self._runner, self._fps = runner, fps
        self._score = runner.compile(sentence_step, translation=translation, language_id=language_id)

    def __call__(self, state: TrainState, clips: ClipSource, index: int, sentence: str) -> Explanation:
        """Return what a sentence depends on, by one call of the model.

        Args:
            state: Of the stage.
            clips: A split, or other clips.
            index: The clip's place, with the question that it answers.
            sentence: The translation, or any other answer.
        """
        stage, config = self._runner.stage, self._runner.config
        num_frames = int(clips.num_frames[index])
        kept = select_frames(num_frames, config.data.max_frames, None)
        frames_FxHxWx3 = np.empty((len(kept), *clips.frame_size, 3), np.uint8)
        if len(kept):  # if the model reads a video
            clips.read_frames(index, kept, frames_FxHxWx3)
        asked = clean_question(clips.clips[index].question)
        words = without_each_word(asked) if stage.reads_question else []
        stretches = split_frames(len(frames_FxHxWx3)) if stage.reads_video else []
        questions = [asked, *(rest for _, rest in words)]
        tokenizer = self._runner.tokenizer
        batch = occlusion_batch(frames_FxHxWx3, questions, stretches, sentence, tokenizer, config)
        if clips.keypoints:
            rows_FxC = clips.read_keypoints(index, kept)
            padded = np.pad(rows_FxC, ((0, len(batch.frames) - len(kept)), (0, 0)))
            points = Features(padded, batch.frame_start, batch.frame_count)
            batch = dataclasses.replace(batch, keypoints=points)
        log_probs = self._runner.run(self._score, state, batch, self._everywhere).tolist()
        whole, *left_out = log_probs[: 1 + len(words) + len(stretches)]
        drops = [whole - log_prob for log_prob in left_out]
        second = num_frames / max(len(kept), 1) / self._fps  # of a frame that the model reads
        return Explanation(
            sentence,
            whole,
            [WordDrop(word, drop) for (word, _), drop in zip(words, drops)],
            [
                StretchDrop(part.start * second, part.stop * second, drop)
                for part, drop in zip(stretches, drops[len(words) :])
            ],
        )

    def _everywhere(self, batch: Batch) -> Batch:
        """Return a batch that is whole on every device."""
        everywhere = replicated(self._runner.mesh)
        return jax.tree.map(
            lambda value: jax.make_array_from_callback(value.shape, everywhere, value.__getitem__), batch
        )


def split_frames(count: int) -> list[range]:
    """Split a clip's frames into `STRETCHES` stretches, or fewer.

    A single frame cannot be left out.
    """
    edges = np.linspace(0, count, min(STRETCHES, count) + 1).round().astype(int).tolist()
    return [range(*pair) for pair in pairwise(edges)] if count > 1 else []


def occlusion_batch(
    frames_FxHxWx3: np.ndarray,
    questions: Sequence[str],
    stretches: Sequence[range],
    sentence: str,
    tokenizer: Tokenizer,
    config: Config,
) -> Batch:
    """Return one clip as many rows that share its frames.

    Args:
        frames_FxHxWx3: The frames that the model reads, u8, at most `config.data.max_frames`.
        questions: Each is asked about the whole video: first the clip's own, then those without a word.
        stretches: Each is left out of the video once, with the clip's own question.
        sentence: The target of every row.
        tokenizer: The decoder's tokenizer, which holds the text tower's.
        config: Of the run.
    """
    used, data = len(questions) + len(stretches), config.data
    rows = -(-used // ROWS) * ROWS
    num_frames = len(frames_FxHxWx3)
    frames = np.zeros((data.max_frames, *frames_FxHxWx3.shape[1:]), np.uint8)
    frames[:num_frames] = frames_FxHxWx3
    valid_B = np.arange(rows) < used
    left_out_Bx2 = np.zeros((rows, 2), np.int32)
    left_out_Bx2[len(questions) : used] = np.array(
        [(part.start, len(part)) for part in stretches], np.int32
    ).reshape(-1, 2)
    asked = [*questions, *[questions[0]] * len(stretches)]
    longest = config.decode.max_new_tokens + 1
    written = len(tokenizer.encode(sentence, longest))
    target_length = min(-(-written // TOKENS) * TOKENS, longest)  # the model may have no more positions

    def encode(tower: TextTowerTokenizer) -> Texts:
        question = encode_texts(tower, asked, (rows, data.max_question_tokens), tokenizer.pad_id)
        sentences = [sentence] * used
        return Texts(*question, *encode_texts(tower, sentences, (rows, target_length), tokenizer.pad_id))

    texts = encode(tokenizer)
    tower_texts = texts if tokenizer.text_tower is tokenizer else encode(tokenizer.text_tower)
    return Batch(
        frames=frames,
        frame_start=np.zeros(rows, np.int32),
        frame_count=(valid_B * num_frames - left_out_Bx2[:, 1]).astype(np.int32),
        decoder_texts=texts,
        text_tower_texts=tower_texts,
        masked_target=tower_texts.target,
        masked_target_mask=tower_texts.target_mask,
        gloss=np.zeros((rows, data.max_glosses), np.int32),
        gloss_mask=np.zeros((rows, data.max_glosses), bool),
        index=np.where(valid_B, 0, -1).astype(np.int32),
        valid=valid_B,
        left_out=left_out_Bx2,
    )
