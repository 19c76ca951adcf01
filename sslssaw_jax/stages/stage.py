"""What a stage of training is, and what a system is: a chain of stages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.mbert import MBertConfig
from sslssaw_jax.stages.rate_factors import RateFactors, factor_at
from sslssaw_jax.types import BLEU_4, Batch, FeatureSize, Metrics, SelectionMetric, TrainState

# (model, batch, key, counts) -> (loss, parts of the loss); without a key: evaluation
Loss = Callable[..., tuple[jax.Array, Metrics]]


class LossCounts(NamedTuple):
    """The denominators of the loss means over all micro-batches of a step."""

    clips: jax.Array
    frames: jax.Array
    question_tokens: jax.Array
    target_tokens: jax.Array


# variables chosen on dev: the logit from which on a word is taken, the weight of a score in a rank
WORD_THRESHOLD, RANK_WEIGHT = "word_threshold", "rank_weight"


class Translation(NamedTuple):
    """How a stage's model translates: two functions that beam search needs."""

    # (model, batch) -> encoded model; a model that holds several translators returns them all, as an ensemble
    encode: Callable[[Any, Batch], EncodedModel | list[EncodedModel]]
    prompt: Callable[[Batch, int], tuple[jax.Array, jax.Array]]  # (batch, language) -> tokens, mask


# (model, batch) -> logits f32[B, G] of the words of each clip's sentence
Existence = Callable[[Any, Batch], jax.Array]
# (model, batch) -> (gloss logits [B, T, G], mask [B, T])
Recognition = Callable[[Any, Batch], tuple[jax.Array, jax.Array]]


class BackTranslation(NamedTuple):
    """How a stage trains on the recogniser's positions of train, and on clips spliced from them."""

    recognizer: str  # the earlier stage whose model finds the positions
    writer: str  # the earlier stage whose model writes a sentence's glosses
    step: int  # frames from one position to the next
    ratio: float  # spliced clips per real clip; 0: only real clips
    sentences: str | None = None  # file of sentences to splice clips for; None: train's own


@dataclass(frozen=True)
class Stage:
    """A stage of training: its model, its loss, what it reads and where it starts."""

    name: str  # also of its group in the configuration
    make_model: Callable[[jax.Array], nnx.Module]  # from a random key
    loss: Loss
    reads_question: bool = True
    reads_video: bool = True
    reads_gloss: bool = False  # the model or the loss knows train's glosses, which are then kept with the run
    isolated: bool = False  # trains on the clips of isolated signs
    shared: bool = False  # trained once for several runs, in the folder `config.init_from`
    starts_pretrained: bool = False  # from the pretrained weights that the configuration names
    starts_from_file: bool = False  # from another project's checkpoint, which `config.init_from` names
    modules: Mapping[str, str] = field(default_factory=dict)  # here <- in the stage before
    # name of an earlier stage -> modules that come from there: here <- there
    other_modules: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # some variables' first values, by path, from other variables' values (a lookup by path) and the tokenizer
    derived: Callable[[Callable[[Any], np.ndarray], Tokenizer], Iterable[tuple[Any, Any]]] | None = None
    selection: SelectionMetric | None = BLEU_4  # on dev; None: the stage is not evaluated
    translation: Translation | None = None  # None: the stage does not translate
    recognition: Recognition | None = None  # None: the stage does not recognise glosses
    writes_glosses: Translation | None = None  # from a sentence, see `stages/text2gloss.py`
    bank: BackTranslation | None = None  # None: the stage trains on the clips of train
    # finds the words from which sentences are written; the model has `WORD_THRESHOLD` and `RANK_WEIGHT`
    existence: Existence | None = None
    ask: Callable[[ClipInfo, np.random.Generator], str] | None = None  # draws a training clip's question
    # variables that count what a training has seen; they restart when a run continues from a finished model
    counters: tuple[str, ...] = ()
    remat: bool = False  # training recomputes the inside of each block instead of keeping it in memory

    def init(
        self, key: jax.Array, optimizer: optax.GradientTransformation, averaged: bool = False
    ) -> TrainState:
        """Return the state before the first step; `averaged` adds a moving average."""
        return _first_state(*split_model(self.make_model(key))[1:], optimizer, averaged)

    def abstract_state(
        self, optimizer: optax.GradientTransformation | None = None, averaged: bool = False
    ) -> TrainState:
        """Return shapes and dtypes of `init`'s state, or of one for evaluation."""
        _, params, batch_stats = split_model(self._abstract_model)  # made once for all callers
        if optimizer is None:
            return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, opt_state=())
        first = partial(_first_state, optimizer=optimizer, averaged=averaged)
        return jax.eval_shape(first, params, batch_stats)

    @cached_property
    def train_def(self) -> nnx.GraphDef:
        """Return the model's static structure, with dropout and the batch's own statistics."""
        return self.freezing_def({})

    def freezing_def(self, factors: RateFactors) -> nnx.GraphDef:
        """Return `train_def` with modules of factor 0 in evaluation mode."""
        model = nnx.view(self._abstract_model, raise_if_not_found=False, remat=self.remat)
        return split_model(_for_evaluation(model, lambda path, _: factor_at(factors, path) == 0))[0]

    @cached_property
    def eval_def(self) -> nnx.GraphDef:
        """Return the same structure without dropout and with the running statistics."""
        return split_model(_for_evaluation(self._abstract_model, ...))[0]

    @property
    def module_names(self) -> list[str]:
        """Return the names of the model's modules."""
        return [name for name, value in vars(self._abstract_model).items() if isinstance(value, nnx.Module)]

    @cached_property
    def _abstract_model(self) -> nnx.Module:
        return nnx.eval_shape(lambda: self.make_model(jax.random.key(0)))


def _first_state(
    params: nnx.State, batch_stats: nnx.State, optimizer: optax.GradientTransformation, averaged: bool
) -> TrainState:
    ema = jax.tree.map(jnp.zeros_like, params) if averaged else None
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), ema)


def _for_evaluation(model: nnx.Module, only: Any) -> nnx.Module:
    """Switch off dropout in chosen modules, and use running statistics."""
    modes = {"deterministic": True, "use_running_average": True}
    return nnx.view(model, only=only, raise_if_not_found=False, **modes)


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Split a model into structure, parameters and batch statistics."""
    return nnx.split(model, nnx.Param, ...)  # type: ignore[return-value]


@dataclass(frozen=True)
class StageInputs:
    """What a system needs to know about the data to make its stages."""

    vocab_size: int = 0
    text_tower_vocab_size: int = 0
    clips: Callable[[str], Sequence[ClipInfo]] = lambda split: ()  # of a split, opened when asked for
    features: Sequence[FeatureSize] = ()  # sizes of the sets in `config.data.features`
    keypoints: Sequence[str] = ()  # the points of the set that `config.data.keypoints` names, in order
    glosses: Callable[[], GlossVocabulary] = GlossVocabulary  # of train or the run, opened when asked for


@dataclass(frozen=True)
class System:
    """A method of translation: its own configuration and the chain of stages that trains it."""

    config: type  # the dataclass of `config.model`
    make_stages: Callable[[Config, StageInputs], list[Stage]]
    check: Callable[[Config], None] = lambda config: None  # raises ConfigError for settings that do not fit
    stages: tuple[str, ...] = ("translate",)  # what `config.stage` may name, in order
    # config.model -> the mBERT that reads texts in place of mBART, if any
    text_tower: Callable[[Any], MBertConfig | None] = lambda model: None
    # parts of a clip; keypoints with frames, features in place of both; empty: only the question
    reads: tuple[Literal["frames", "keypoints", "features"], ...] = ("frames",)
    learns_keypoints: bool = False  # only in training; a trained model reads no keypoints
    feature_sets: int = 1  # how many `config.data.features` may name
    vocabulary: type[GlossVocabulary] = GlossVocabulary  # for the stages that read glosses, or words instead
