"""The values that flow through the system, and their dimensions.

B clips in a batch, N packed frames, H x W pixels, L tokens, T positions in time, G glosses, D features,
V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.struct
import jax

Array = Any  # np.ndarray on the host, jax.Array on the devices
Metrics = dict[str, jax.Array]

# statistics of ImageNet's training images; frames are normalized by them, as pretrained CNNs expect
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


class Texts(NamedTuple):
    """A batch's questions and targets in the ids of one tokenizer."""

    question: Array  # i32[B, L_question]
    question_mask: Array  # bool[B, L_question]
    target: Array  # i32[B, L_target]
    target_mask: Array  # bool[B, L_target]


class PackedClips(NamedTuple):
    """Where the frames, or the rows of features, of each clip lie in a pack."""

    start: Array  # i32[B]
    count: Array  # i32[B], without the frames or rows left out
    valid: Array  # bool[B], False: a row of the batch that has no clip
    left_out: Array | None = None  # i32[B, 2], the first frame left out of each clip, and how many


@flax.struct.dataclass
class Features:
    """The rows of one feature set, packed like frames; rows that belong to no clip come last."""

    values: Array  # f16[N, C]
    start: Array  # i32[B]
    count: Array  # i32[B]


@dataclass(frozen=True)
class FeatureSize:
    """The size of a feature set's rows."""

    width: int  # C
    stride: int  # frames from one row to the next
    span: int  # frames that a row looks at


def most_rows(max_frames: int, stride: int) -> int:
    """Return the most rows of a clip in a batch."""
    return -(-max_frames // stride)


@flax.struct.dataclass
class Batch:
    """Clips packed frame after frame, with their texts.

    Clip b is `frames[frame_start[b] : frame_start[b] + frame_count[b]]`; frames that belong to no clip come
    last.
    A row without a clip has `valid` and all its masks False, `frame_count` 0 and `index` -1; the row of a
    broken clip keeps its `index`. A clip without a question has a `question_mask` of False.
    In a batch of stacked micro-batches every array has one more axis, in front.
    If frames are `left_out`, they lie among the clip's frames, and `frame_count` does not count them.
    A batch of features holds no frames: their height is 0, and `frame_start` and `frame_count` describe
    the first feature set.

    `decoder_texts` are `tokens </s> <language>` in mBART's ids. `text_tower_texts` are the same arrays
    unless the text tower is mBERT: `[CLS] tokens [SEP]` in BERT's ids. `masked_target` is the text tower's
    target with one `<mask>` or `[MASK]` in place of each masked word (Eq. 2). `gloss` has the ids of
    `data.glosses.GlossVocabulary` if the stage reads glosses; otherwise its mask is False.
    """

    frames: Array  # u8[N, H, W, 3], RGB
    frame_start: Array  # i32[B]
    frame_count: Array  # i32[B]
    decoder_texts: Texts
    text_tower_texts: Texts
    masked_target: Array  # i32[B, L_target]
    masked_target_mask: Array  # bool[B, L_target]
    gloss: Array  # i32[B, G], 0 after a clip's glosses
    gloss_mask: Array  # bool[B, G]
    index: Array  # i32[B], the clip's row in its split
    valid: Array  # bool[B]
    left_out: Array | None = None  # i32[B, 2], see `PackedClips`
    features: tuple[Features, ...] = ()  # one for each name in `config.data.features`
    keypoints: Features | None = None  # a row for each frame, from the set `config.data.keypoints`
    # the most frames or rows of a clip in this batch; None: as many as `config.data` allows
    most_rows: int | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def packed_clips(self) -> PackedClips:
        """Return where each clip lies among the packed frames."""
        return PackedClips(self.frame_start, self.frame_count, self.valid, self.left_out)


@flax.struct.dataclass
class TrainState:
    """A stage's variables, which a training step reads and writes."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None  # exponential moving average of `params`, if any

    @property
    def eval_params(self) -> Any:
        """Return the parameters that evaluation uses."""
        return self.params if self.ema is None else self.ema


@dataclass(frozen=True)
class SelectionMetric:
    """A score on dev that chooses a stage's best checkpoint."""

    name: str
    higher_is_better: bool = True

    def quality(self, scores: Mapping[str, float]) -> float:
        """Return the score, signed so that higher is better; NaN is worst."""
        score = scores[self.name] if self.higher_is_better else -scores[self.name]
        return -math.inf if math.isnan(score) else score


BLEU_4 = SelectionMetric("bleu4")
LOSS = SelectionMetric("loss", higher_is_better=False)
WER = SelectionMetric("wer", higher_is_better=False)
