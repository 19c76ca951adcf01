import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslssaw_jax.config.stages import TranslateConfig
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import OWN_COUNTS


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
def test_the_question_s_loss_has_its_weight(weight: float) -> None:
    target, question = (
        text_stream(jnp.ones((2, length), int), jnp.ones((2, length), bool)) for length in (5, 3)
    )
    logits = [jax.random.normal(jax.random.key(length), (2, length, 7)) for length in (5, 3)]
    total, metrics = translation_loss(
        target, logits[0], OWN_COUNTS, TranslateConfig(), (question, logits[1]), weight
    )
    np.testing.assert_allclose(total, metrics["loss_sentence"] + weight * metrics["loss_question"], rtol=1e-6)
    assert metrics["loss_question"] > 0
