import jax
import jax.numpy as jnp
import numpy as np

from sslssaw_jax.config.stages import TranslateConfig
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.stages.losses import cross_entropy
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import LossCounts

TARGET, QUESTION = (
    (
        text_stream(jnp.ones((2, length), int), jnp.ones((2, length), bool)),
        jax.random.normal(jax.random.key(length), (2, length, 7)),
    )
    for length in (5, 3)
)
COUNTS = LossCounts(*map(jnp.asarray, (2, 0, 4, 8)))  # clips, frames, scored tokens of questions and targets


def test_the_sentence_alone_is_smoothed() -> None:
    plain, smoothed = (
        translation_loss(*TARGET, COUNTS, TranslateConfig(label_smoothing=share), QUESTION)[1]
        for share in (0.0, 0.2)
    )
    stream, logits = TARGET
    expected = cross_entropy(logits, stream.labels, stream.scored, 8, 0.2)
    np.testing.assert_allclose(smoothed["loss_sentence"], expected, rtol=1e-6)
    assert smoothed["loss_sentence"] != plain["loss_sentence"]
    assert smoothed["loss_question"] == plain["loss_question"]
