"""The two values that flow through the system, and the names of their dimensions.

B clips in a batch, N packed frames, H x W pixels, L tokens, T positions in time, D features, V vocabulary.
"""

from typing import Any, NamedTuple

import flax.struct
import jax

Array = Any  # np.ndarray on the host, jax.Array on the devices
Metrics = dict[str, jax.Array]


class BertTexts(NamedTuple):
    """Question and target as mBERT reads them: `[CLS] tokens [SEP]`, in its own ids."""

    question: Array  # i32[B, L_question]
    question_mask: Array  # bool[B, L_question]
    target: Array  # i32[B, L_target]
    target_mask: Array  # bool[B, L_target]


@flax.struct.dataclass
class Batch:
    """Clips packed frame after frame; texts are `tokens </s> <language>`, as mBART's tokenizer writes them.

    A clip without a question has nothing there: `question_mask` is False.
    Clip b is `frames[frame_start[b] : frame_start[b] + frame_count[b]]`; frames of no clip come last.
    A row that holds no clip has `valid` and all its masks False, `frame_count` 0 and `index` -1; that of a
    broken clip keeps its `index`.
    Where a step accumulates over several batches, they are stacked: every array has one axis more, in front.
    `masked_target` is the target with some words replaced by one `<mask>` each (Eq. 2). With
    `model.text_encoder="mbert"` it is in mBERT's ids, `[CLS] tokens [SEP]` with `[MASK]`, since only the text tower
    reads it; what else that tower reads is in `bert`, and what the decoder reads is mBART's all the same.
    """

    frames: Array  # u8[N, H, W, 3], RGB
    frame_start: Array  # i32[B]
    frame_count: Array  # i32[B]
    question: Array  # i32[B, L_question]
    question_mask: Array  # bool[B, L_question]
    target: Array  # i32[B, L_target]
    target_mask: Array  # bool[B, L_target]
    masked_target: Array  # i32[B, L_target]
    masked_target_mask: Array  # bool[B, L_target]
    index: Array  # i32[B], the clip's row in its split
    valid: Array  # bool[B]
    bert: BertTexts | None = None  # None with `model.text_encoder="mbart"`

    @property
    def read(self) -> "Batch | BertTexts":
        """What holds question and target as the text tower reads them."""
        return self.bert or self


@flax.struct.dataclass
class TrainState:
    """All that a training step reads and writes."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None  # moving average of `params`, where the stage keeps one

    @property
    def eval_params(self) -> Any:
        """The parameters that evaluation uses."""
        return self.params if self.ema is None else self.ema
