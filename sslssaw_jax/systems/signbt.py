"""BTT and SignBT (Zhou et al. 2021): translation of a recogniser's positions, with back-translated sentences.

BTT: a CNN and a temporal inception net with BatchNorm learn to name glosses by CTC; a transformer with the
losses of SLRT, CTC and cross-entropy, then translates the positions that the net finds, which are computed
once. SignBT (`synthetic_ratio` above 0) adds clips that nobody has signed: a model learns to write the
glosses of a sentence, the recogniser's alignment cuts train's clips into one piece per gloss, and for each
sentence of a text file, or of train, random pieces showing its glosses are spliced. A learned position in
front marks such clips. Training needs glosses; a question is never read.

A reconstruction: there is no public code. The paper gives the steps and their order. Decisions here are the
sizes of the inception net, a ResNet in place of GoogLeNet, a linear layer that names the glosses (after an
LSTM, glosses are found next to where they are signed, and pieces show other signs), one synthetic clip for
each real one, and blanks belonging to the nearer gloss. The paper trains the recogniser again, with the
glosses that it found at each frame; here it is trained once. The paper's monolingual texts are not public.

B clips, T positions in time, C features of a position, D features of the transformer.
"""

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import NON_NEGATIVE, POSITIVE, fraction, group, require, setting
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.batch_norm import BatchNorm
from sslssaw_jax.models.fusion import concatenate_valid
from sslssaw_jax.models.gloss_head import GlossHeadConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart_writer import Rewriter, TextToGlossConfig
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.sign_transformer import SignTransformer, SignTransformerConfig
from sslssaw_jax.models.temporal_inception import KERNELS, InceptionEmbedding, frames_of_position
from sslssaw_jax.stages.one_stage import one_stage
from sslssaw_jax.stages.rate_factors import factor_at
from sslssaw_jax.stages.recognition import RECOGNIZER_MODULES, gloss_loss, recognize_stage
from sslssaw_jax.stages.stage import BackTranslation, LossCounts, Stage, StageInputs, System
from sslssaw_jax.stages.text2gloss import text2gloss_stage
from sslssaw_jax.stages.video import embed_video, gather_features, video_input
from sslssaw_jax.stages.warm_start import check_cnn_start, warm_start_stages
from sslssaw_jax.types import Batch, Metrics


@dataclass(frozen=True)
class SignBTConfig(SignTransformerConfig):
    """Sizes as far as they are known, the weights of the losses, and the synthetic clips."""

    attention_dropout: float = fraction(0.1)
    activation_dropout: float = fraction(0.1)
    reads_question: bool = False
    width: int = setting(1024, POSITIVE)  # C, of the temporal inception net
    gloss_head: GlossHeadConfig = group(lambda: GlossHeadConfig("linear"), stages=("recognize",))
    # of CTC, added to cross-entropy
    recognition_weight: float = setting(1.0, NON_NEGATIVE, stages=("translate",))
    text2gloss: TextToGlossConfig = group(TextToGlossConfig, stages=("text2gloss", "translate"))
    # synthetic clips per real one in an epoch, at most one for each sentence; 0: BTT
    synthetic_ratio: float = setting(1.0, NON_NEGATIVE, stages=("text2gloss", "translate"))
    # a UTF-8 file, one sentence per line; None: the sentences of train, also of its `data.text_only` clips
    sentences: str | None = setting(None, stages=("translate",))
    tag: bool = setting(True, stages=("translate",))  # a learned position in front of synthetic clips

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.reads_question, "reads_question is True; BTT and SignBT read no question")
        require(
            self.width % len(KERNELS) == 0,
            f"width is {self.width}; it must be a multiple of {len(KERNELS)}, one part per kernel",
        )


class SignBT(SignTransformer):
    """A sign transformer over a recogniser's positions; `video` comes from the recogniser."""

    video: InceptionEmbedding

    def __init__(
        self,
        config: SignBTConfig,
        inputs: StageInputs,
        video: InceptionEmbedding,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        num_glosses = inputs.glosses().size
        super().__init__(
            config, inputs.vocab_size, num_glosses=num_glosses, video=video, dtype=dtype, rngs=rngs
        )
        self.project = nnx.Linear(config.width, config.d_model, dtype=dtype, rngs=rngs)
        self.project_norm = BatchNorm(config.d_model, dtype=dtype, rngs=rngs)
        self.has_tag = config.tag and config.synthetic_ratio > 0
        if self.has_tag:
            init = nnx.initializers.normal(config.d_model**-0.5)
            self.tag = nnx.Param(init(rngs.params(), (config.d_model,), jnp.float32))

    def read(
        self,
        positions_BxTxC: jax.Array,
        mask_BxT: jax.Array,
        synthetic_B: jax.Array | None,
        rngs: nnx.Rngs | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Encode positions as states and mask, synthetic ones after the tag."""
        x_BxTxD = nnx.soft_sign(self.project_norm(self.project(positions_BxTxC), mask=mask_BxT[..., None]))
        if self.has_tag and synthetic_B is not None:
            tag_Bx1xD = jnp.broadcast_to(self.tag[...], (len(x_BxTxD), 1, x_BxTxD.shape[-1]))
            tagged = tag_Bx1xD.astype(x_BxTxD.dtype), synthetic_B[:, None]
            x_BxTxD, mask_BxT = concatenate_valid(*tagged, x_BxTxD, mask_BxT)
        return self.encoder(x_BxTxD, mask_BxT, rngs), mask_BxT


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make warm start, recogniser, text to gloss if needed, and translation."""
    sizes: SignBTConfig = config.model
    dtype = compute_dtype(config.compute.dtype)

    def make_video(rngs: nnx.Rngs) -> InceptionEmbedding:
        reads = video_input(config, inputs)
        return InceptionEmbedding(sizes.cnn, sizes.width, reads, dtype=dtype, rngs=rngs)

    def make_model(key: jax.Array) -> SignBT:
        rngs = Keys(key)
        return SignBT(sizes, inputs, make_video(rngs), dtype=dtype, rngs=rngs)

    def make_writer(key: jax.Array) -> Rewriter:
        num_glosses, rngs = inputs.glosses().size, Keys(key)
        return Rewriter(sizes.text2gloss, num_glosses, inputs.vocab_size, dtype=dtype, rngs=rngs)

    @cache
    def num_real() -> int:
        return len(inputs.clips(config.data.train_split))

    def read(
        model: SignBT, batch: Batch, augment_key: jax.Array | None, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        if augment_key is None:  # no training: frames, or features in their place
            return model.read(*embed_video(model.video, batch, config.data, None), None, rngs)
        positions = gather_features(batch, model.video.num_positions)
        return model.read(*positions, batch.valid & (batch.index >= num_real()), rngs)

    def recognition(model: SignBT, batch: Batch) -> tuple[jax.Array, jax.Array]:
        states_BxTxD, mask_BxT = read(model, batch, None, None)
        return model.gloss_head(states_BxTxD, mask_BxT)[0], mask_BxT

    def recognition_loss(
        model: SignBT, states_BxTxD: jax.Array, mask_BxT: jax.Array, batch: Batch, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        logits_BxTxG = model.gloss_head(states_BxTxD, mask_BxT)[0]
        loss, metrics = gloss_loss(logits_BxTxG, mask_BxT, batch, counts, per_gloss=True)
        return sizes.recognition_weight * loss, metrics

    early = warm_start_stages(config, inputs)
    head, width = sizes.gloss_head, sizes.width
    early.append(recognize_stage(config, inputs, head, make_video, width, shared=True))
    if sizes.synthetic_ratio and config.stage != "recognize":
        early.append(text2gloss_stage(config, make_writer))
    if config.stage != "translate":
        return early
    *_, translate = one_stage(
        config, inputs, make_model, read, added_loss=recognition_loss, recognition=recognition, early=early
    )
    features = inputs.features[0] if inputs.features else None
    step = frames_of_position(features, config.data.frame_stride)
    bank = BackTranslation("recognize", "text2gloss", step, sizes.synthetic_ratio, sizes.sentences)
    if sizes.synthetic_ratio:  # the video part is not from the stage before, but from two stages before
        translate = replace(translate, modules={}, other_modules={"recognize": RECOGNIZER_MODULES})
    return [*early, replace(translate, bank=bank)]


def check(config: Config) -> None:
    """Raise ConfigError for settings of the stages that do not fit."""
    check_cnn_start(config)
    translate, accumulate = config.translate, config.text2gloss.accumulate
    require(
        not translate.epochs or factor_at(translate.optim.rate_factors, ("video",)) == 0,
        f"config.translate.optim.groups is {translate.optim.groups}; the translation trains on positions "
        "that are computed once, so the video part must stay as it is: add 'video=0'",
    )
    require(
        accumulate == 1,
        f"config.text2gloss.accumulate is {accumulate}; a step on texts is one batch: set it to 1",
    )


STAGES = ("recognize", "text2gloss", "translate")
SYSTEM = System(SignBTConfig, make_stages, check, STAGES, reads=("frames", "features"))
