"""Sign2Text, the end of MMTLB and TS-SLT: mBART writes from what a recogniser found.

Three stages: the recogniser (Sign2Gloss), Gloss2Text, and a translation that starts from both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.stages.gloss2text import gloss2text_stage
from sslssaw_jax.stages.stage import Loss, Recognition, Stage, StageInputs, Translation
from sslssaw_jax.stages.translation import language_prompt
from sslssaw_jax.stages.warm_start import check_cnn_start, warm_start_stages

STAGES = ("recognize", "gloss2text", "translate")
_OF_WRITER = ("embedding", "ending", "encoder", "decoder")  # from Gloss2Text


def starts_warm(config: Config) -> bool:
    """Return whether a CNN over frames first learns isolated signs."""
    return bool(config.warm_start.epochs and config.model.visual == "cnn" and not config.data.features)


def sign2text_stage(
    config: Config,
    make_model: Callable[[jax.Array], nnx.Module],
    loss: Loss,
    encode: Callable[..., Any],
    recognition: Recognition,
    recognizer: Mapping[str, str],
    writers: Sequence[str] = ("",),
) -> Stage:
    """Make the translation stage.

    Args:
        config: The run's configuration.
        make_model: Makes a model with a mapper and a writer, or with several.
        loss: The model's loss.
        encode: Makes what the model's decoders read from a batch.
        recognition: Makes the gloss logits.
        recognizer: The modules that the model takes from the recogniser.
        writers: The path of each writer in the model, with a dot at the end.
    """
    taken = {f"{writer}{part}": part for writer in writers for part in _OF_WRITER}
    if config.model.mapper == "embedding":
        taken |= {f"{writer}mapper.kernel": "source_embedding.embedding" for writer in writers}
    return Stage(
        "translate",
        make_model,
        loss,
        reads_question=False,
        reads_gloss=True,
        modules=taken,
        other_modules={"recognize": recognizer},
        translation=Translation(encode, language_prompt),
        recognition=recognition,
        remat=config.compute.remat,
    )


def sign2text_chain(config: Config, inputs: StageInputs, recognize: Stage, translate: Stage) -> list[Stage]:
    """Return the stages up to `config.stage`, after a warm start if any."""
    stages = [recognize, gloss2text_stage(config, inputs), translate]
    stages = stages[: STAGES.index(config.stage) + 1]
    return [*warm_start_stages(config, inputs), *stages] if starts_warm(config) else stages


def check_sign2text(config: Config) -> None:
    """Raise ConfigError for two starts of the CNN."""
    if config.model.visual == "cnn":
        check_cnn_start(config)
