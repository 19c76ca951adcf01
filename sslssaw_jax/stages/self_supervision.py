"""The loss of a sentence and, with self-supervision (SSL), of its question."""

import jax

from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.stages.losses import cross_entropy, masked_mean
from sslssaw_jax.stages.stage import LossCounts
from sslssaw_jax.types import Metrics


def translation_loss(
    target: Stream,
    target_logits: jax.Array,
    question: Stream,
    question_logits: jax.Array | None,
    counts: LossCounts,
    label_smoothing: float,
) -> tuple[jax.Array, Metrics]:
    """Return `L = L_D + L_S` (Eq. 7); `L_S` alone without `question_logits`."""
    count = counts.target_tokens
    total = l_s = cross_entropy(target_logits, target.labels, target.scored, label_smoothing, count)
    accuracy = masked_mean(target_logits.argmax(axis=-1) == target.labels, target.scored, count)
    metrics = {"loss_sentence": l_s, "accuracy": accuracy}
    if question_logits is not None:
        l_d = cross_entropy(question_logits, question.labels, question.scored, count=counts.question_tokens)
        total, metrics["loss_question"] = total + l_d, l_d
    return total, metrics
