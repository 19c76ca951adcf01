"""A model that sees no frame: how far the questions alone can go.

It is not the paper's question-only row, which is SSL-SSAW with `inputs="question"`. A copy gate and denoising
pairs make the most of the text; `docs/leakage.md` has the results.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sslssaw_jax.config.checks import fraction, positive, require_divisor
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.batches import Ask
from sslssaw_jax.data.clips import ClipInfo, whole_clips
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.copy_gate import CopyGate
from sslssaw_jax.models.decoder_inputs import Stream, joint_stream, text_stream
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart import TokenEmbedding
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.transformer import Decoder, Encoder, TransformerConfig
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System, Translation
from sslssaw_jax.stages.translation import ask_fewer_words, language_prompt, question_prompt
from sslssaw_jax.stages.video import split_key
from sslssaw_jax.types import Batch, Metrics

MIN_OPENINGS = 3  # rarer openings are coincidence
MIN_OPENING_RATE = 0.1  # of a word's occurrences in targets; verbs are far above, articles far below
FRONTED = 0.6  # share of questions with a word put in front; most of the others are shuffled
DROPPED_SPAN = 0.5
DROPPED_TAIL = 0.7  # share of the dropped spans that end the sentence
SHUFFLED = 0.3
DROPPED_WORD = 0.2
SHUFFLE_DISTANCE = 3.0  # words


@dataclass(frozen=True)
class QuestionOnlyConfig(TransformerConfig):
    """Sizes, the copy gate, and how the question is used."""

    encoder_layers: int = positive(2)
    decoder_layers: int = positive(2)
    heads: int = positive(4)
    copy_gate: bool = True
    ssl: Literal["prefix", "off"] = "off"
    # share of training clips whose question is a corrupted copy of their target
    denoise_targets: float = fraction(0.5)

    def __post_init__(self) -> None:
        require_divisor("heads", self.heads, self.d_model)


class QuestionModel(nnx.Module):
    """An encoder-decoder over the question's tokens, with a copy gate if configured."""

    def __init__(self, config: Config, vocab_size: int, *, rngs: nnx.Rngs):
        model: QuestionOnlyConfig = config.model
        dtype = compute_dtype(config.compute.dtype)
        self.embedding = TokenEmbedding(vocab_size, model.d_model, dtype=dtype, rngs=rngs)
        self.encoder = Encoder(model.encoder_layers, model.heads, model, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(model.decoder_layers, model.heads, model, dtype=dtype, rngs=rngs)
        self.copies = model.copy_gate
        if self.copies:
            self.copy_gate = CopyGate(model.d_model, dtype=dtype, rngs=rngs)

    def encode(self, batch: Batch, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the states of the question's tokens, f32[B, L, D]."""
        texts = batch.decoder_texts
        return self.encoder(self.embedding(texts.question), texts.question_mask, rngs)

    def decode(
        self, stream: Stream, batch: Batch, states_BxLxD: jax.Array, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Return logits `[B,L,V]` at each position from the positions before it."""
        embedded, mask = self.embedding(stream.tokens), batch.decoder_texts.question_mask
        return self.logits(self.decoder(embedded, stream.mask, states_BxLxD, mask, rngs), batch, states_BxLxD)

    def logits(self, hidden_RxLxD: jax.Array, batch: Batch, states_BxLxD: jax.Array) -> jax.Array:
        """Return next-token logits up to a constant, f32[R, L, V].

        R rows are the clips, or clips x beams with the beams innermost.
        """
        logits_RxLxV = self.embedding.logits(hidden_RxLxD)
        if not self.copies:
            return logits_RxLxV
        texts = batch.decoder_texts
        return self.copy_gate(hidden_RxLxD, logits_RxLxV, states_BxLxD, texts.question, texts.question_mask)


def translate_loss(
    model: QuestionModel,
    batch: Batch,
    key: jax.Array | None,
    counts: LossCounts,
    *,
    config: Config,
) -> tuple[jax.Array, Metrics]:
    """Return the sentence's cross-entropy, plus the question's with SSL (Eq. 5-7)."""
    rngs = split_key(key)[1]
    states, texts = model.encode(batch, rngs), batch.decoder_texts
    question = text_stream(texts.question, texts.question_mask)
    target = text_stream(texts.target, texts.target_mask)
    asked = None
    if config.model.ssl == "prefix":
        logits = model.decode(joint_stream(question, target), batch, states, rngs)
        question_logits, target_logits = jnp.split(logits, [question.tokens.shape[1]], axis=1)
        asked = question, question_logits
    else:
        target_logits = model.decode(target, batch, states, rngs)
    return translation_loss(target, target_logits, counts, config.translate, asked)


class TargetNoise:
    """A generator of questions from targets, in the style of a train split's questions.

    The questions of PHOENIX-2014T-QA are mostly their targets reworded: the verb in front, a part left out.
    Restoring a target from such a copy teaches a model that starts from scratch what to keep from a question.

    Args:
        targets: The targets of the train split; spaces separate their words.
        questions: The questions of the train split; spaces separate their words.
    """

    def __init__(self, targets: Sequence[str], questions: Sequence[str]) -> None:
        in_targets = Counter(word for target in targets for word in target.split())
        opening = Counter(question.split()[0] for question in questions if question.strip())
        frequent = {word: count for word, count in opening.items() if count >= MIN_OPENINGS}
        self.openings = {
            word for word, count in frequent.items() if count >= MIN_OPENING_RATE * in_targets[word]
        }
        # A word that opens questions and occurs in no target cannot be moved: it is added in front.
        self._foreign = sorted(self.openings, key=lambda word: (-frequent[word], word))[:4]

    def __call__(self, target: str, rng: np.random.Generator) -> str:
        """Return a corrupted copy of `target`, empty only if `target` is empty."""
        words = target.split()
        kind = rng.random()
        if kind < FRONTED:
            words = self._front(words, rng)
            if len(words) > 4 and rng.random() < DROPPED_SPAN:
                words = _drop_span(words, rng)
        elif kind < FRONTED + SHUFFLED:
            kept = [word for word in words if rng.random() >= DROPPED_WORD] or words
            order = np.argsort(np.arange(len(kept)) + rng.random(len(kept)) * SHUFFLE_DISTANCE)
            words = [kept[i] for i in order]
        return " ".join(words)

    def _front(self, words: list[str], rng: np.random.Generator) -> list[str]:
        places = [i for i, word in enumerate(words) if word in self.openings]
        if places:
            place = places[rng.integers(min(2, len(places)))]
            return [words[place], *words[:place], *words[place + 1 :]]
        if self._foreign and rng.random() < DROPPED_TAIL:
            return [self._foreign[rng.integers(len(self._foreign))], *words]
        return words


def ask_noisy_targets(clips: Sequence[ClipInfo], share: float) -> Ask:
    """Return an `Ask` that draws noisy targets for a share of clips."""
    noise = TargetNoise([clip.target for clip in clips], [clean_question(clip.question) for clip in clips])

    def ask(clip: ClipInfo, rng: np.random.Generator) -> str:
        return clip.question if rng.random() >= share else noise(clip.target, rng)

    return ask


def _drop_span(words: list[str], rng: np.random.Generator) -> list[str]:
    length = int(rng.integers(1, len(words) // 2 + 1))
    start = len(words) - length
    if rng.random() >= DROPPED_TAIL:
        start = int(rng.integers(1, start + 1))
    return words[:start] + words[start + length :]


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make the only stage: question to sentence."""
    model: QuestionOnlyConfig = config.model

    def encode(model: QuestionModel, batch: Batch) -> EncodedModel:
        states = model.encode(batch)
        logits = partial(model.logits, batch=batch, states_BxLxD=states)
        mask = batch.decoder_texts.question_mask
        return EncodedModel(model.decoder, model.embedding, logits, states, mask)

    @cache
    def ask_noisy() -> Ask:
        clips = inputs.clips(config.data.train_split)
        known = [clips[place] for place in whole_clips(len(clips), config.data, config.seed)]
        return ask_noisy_targets(known, model.denoise_targets)

    def ask(clip: ClipInfo, rng: np.random.Generator) -> str:
        return ask_noisy()(clip, rng)  # only training opens the train split

    return [
        Stage(
            "translate",
            lambda key: QuestionModel(config, inputs.vocab_size, rngs=Keys(key)),
            partial(translate_loss, config=config),
            reads_video=False,
            translation=Translation(encode, question_prompt if model.ssl == "prefix" else language_prompt),
            ask=ask_fewer_words(config.translate.drop_words, ask if model.denoise_targets else None),
            remat=config.compute.remat,
        )
    ]


SYSTEM = System(QuestionOnlyConfig, make_stages, reads=())
