"""Distillation among the heads of a model: their mean probability teaches each of them.

B clips, T positions in time, G glosses with the blank.
"""

import jax
import jax.numpy as jnp


def log_ensemble(logits: dict[str, jax.Array]) -> jax.Array:
    """Return the log of the heads' mean probability, f32[B, T, G]."""
    log_probs = jnp.stack([jax.nn.log_softmax(x_BxTxG) for x_BxTxG in logits.values()])
    return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))


def distillation_loss(logits: dict[str, jax.Array], mask_BxT: jax.Array, clips: jax.Array) -> jax.Array:
    """Return `KL(ensemble || head)`, summed over heads and positions, per clip.

    The ensemble only teaches; no gradient reaches it.

    Args:
        logits: The logits of each head, [B, T, G].
        mask_BxT: The positions of a clip.
        clips: The number of clips in all micro-batches of a step.
    """
    teacher_BxTxG = jax.lax.stop_gradient(log_ensemble(logits))
    total = jnp.zeros(())
    for x_BxTxG in logits.values():
        difference_BxTxG = teacher_BxTxG - jax.nn.log_softmax(x_BxTxG)
        divergence_BxT = (jnp.exp(teacher_BxTxG) * difference_BxTxG).sum(axis=-1)
        total += jnp.where(mask_BxT, divergence_BxT, 0).sum()
    return total / jnp.maximum(clips, 1)
