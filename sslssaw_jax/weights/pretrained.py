"""The pretrained weights that a configuration names, for all parts that have some."""

from typing import Any

from sslssaw_jax.config.data import DataConfig
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.models.mbert import MBertConfig
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.weights.cnn import pretrained_cnn
from sslssaw_jax.weights.initial_state import InitialWeights, variables
from sslssaw_jax.weights.mbart import pretrained_mbart
from sslssaw_jax.weights.mbert import pretrained_mbert
from sslssaw_jax.weights.s3d import pretrained_s3d
from sslssaw_jax.weights.word_vectors import word_vectors


def pretrained_parts(
    stage: Stage, model: Any, mbert: MBertConfig | None, data: DataConfig, tokenizer: Tokenizer
) -> list[InitialWeights]:
    """Return the pretrained weights for the parts of a stage's model.

    Args:
        stage: The stage that starts.
        model: The group `config.model`.
        mbert: The text tower in place of mBART, if any.
        data: What a batch holds.
        tokenizer: The decoder's tokenizer.
    """
    sources = []
    parts = {part for path in variables(stage.abstract_state()) for part in path[:2]}
    mbart, cnn, s3d = (getattr(model, name, None) for name in ("mbart", "cnn", "s3d"))
    writes = "decoder" in parts  # a recogniser reads and writes no text
    if mbart and mbart.weights and writes:
        sources.append(pretrained_mbart(mbart, data, tokenizer))
    if mbert and mbert.weights and writes:
        sources.append(pretrained_mbert(mbert))
    if cnn and cnn.weights and "cnn" in parts:
        sources.append(pretrained_cnn(cnn))
    if s3d and s3d.weights and "s3d" in parts:
        sources.append(pretrained_s3d(s3d))
    if s3d and s3d.weights and "keypoint_s3d" in parts:
        sources.append(pretrained_s3d(s3d, "keypoint_s3d", first=False))
    if (vectors := getattr(model, "embedding_weights", None)) and writes:
        sources.append(word_vectors(vectors, tokenizer.pieces(range(tokenizer.vocab_size))))
    return sources
