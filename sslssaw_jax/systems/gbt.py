"""GBT, the system with question and glosses of Gao et al. (2024), in two stages.

It reads the video and the question, and learns from glosses, too. A recogniser (the CNN and temporal
convolutions of every row, then a bidirectional LSTM) names glosses by CTC. Its best path joins each gloss to
the positions in time that show it, and each gloss chooses one word of the question. A graph encoder carries
information along these links; three encoders read glosses, positions and words; a decoder attends to all
three. In addition to translation and CTC there are two contrasts: the video's mean state with its own
question against two wrong ones, and the positions of each gloss with its word against two words of other
glosses.

The sizes are those of the public code (glq-1992/GBT-code), and so are the order of the graph's links, the
decoder, and the weights of CTC and the contrasts. That code has the training of the translation and files of
wrong questions for QSL and SP-10, but neither for PHOENIX-2014T and CSL-Daily, where both are a
reconstruction; some other parts differ on purpose:

- The graph's heads are trained, and their softmax runs over a node's neighbours. In the public code the heads
  are neither trained nor saved, and the softmax runs over the queries. The published score may come from that
  very net.
- A step of the graph reads what the steps before it changed, and positions are added before the graph. In the
  public code two of the steps read the states from before the layer, and positions are added after the graph.
- The decoder's words have no LayerNorm and no learned positions, which the public code adds to sinusoids.
- A sentence's loss, a sum over its tokens, is averaged over clips, not summed. Both corpora use all losses;
  the public settings leave out both contrasts for PHOENIX-2014T, and CTC for CSL-Daily.
- Glosses come from the recogniser's best path, not from a beam; a repeated gloss keeps its own positions. At
  evaluation a gloss takes its most likely word, while the public code still draws one.
- Wrong questions are drawn at each step from the other clips of the batch that have a different question, and
  all questions are encoded in the same way, without the graph. A clip with one such neighbour sees its
  question twice, and a clip without any has no contrast. The draw depends only on the run's key and the step.
  The local contrast counts every gloss, not only the last one (there twice).
- Question words are the decoder's tokens, with an embedding like BERT's, from scratch. With
  `question_words="mbert"` they are BERT's tokens, and `mbert.weights` provides its embedding layer.
- Videos are neither mirrored nor stretched in time; `[CLS]` and `[SEP]`, which the public code keeps in
  CSL-Daily's questions, are no words; a clip's positions have dropout, too; there is no classifier on the
  convolutions' output, and no second CTC. The linear layer after the convolutions is the same as in every
  row.

The recipe is in `configs/systems/gbt.py`.

B clips, T positions in time, N glosses of a clip, L tokens, D features, G gloss ids, V vocabulary.
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sslssaw_jax.config.checks import (
    NON_NEGATIVE,
    POSITIVE,
    fraction,
    group,
    positive,
    require,
    require_divisor,
    setting,
)
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.models.gloss_graph import (
    GraphLayer,
    MemoryAttention,
    Nodes,
    Read,
    choose_words,
    join_memories,
    read_glosses,
)
from sslssaw_jax.models.gloss_head import GLOSS_HEADS, GlossHeadConfig
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart import TokenEmbedding
from sslssaw_jax.models.mbert import Bert, BertEmbeddings, BertLayers, MBertConfig
from sslssaw_jax.models.precision import compute_dtype
from sslssaw_jax.models.transformer import Decoder, LearnedPositions, SinusoidalPositions, TransformerConfig
from sslssaw_jax.models.video_embedding import num_positions
from sslssaw_jax.stages.losses import masked_mean
from sslssaw_jax.stages.question_contrast import global_contrast, local_contrast
from sslssaw_jax.stages.recognition import RECOGNIZER_MODULES, gloss_logits, gloss_loss, recognize_stage
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System, Translation
from sslssaw_jax.stages.translation import ask_fewer_words, language_prompt
from sslssaw_jax.stages.video import embed_video, split_key, video_embedding
from sslssaw_jax.stages.warm_start import check_cnn_start, warm_start_stages
from sslssaw_jax.types import Batch, Metrics

STAGES = ("recognize", "translate")
LAST = ("translate",)
LOWEST_TEMPERATURE = 1e-5  # the public code's at evaluation


@dataclass(frozen=True)
class GBTConfig(TransformerConfig):
    """The published sizes; the inherited ones are the decoder's."""

    d_model: int = positive(768)  # of all states
    ffn_dim: int = positive(2048)
    activation: Literal["gelu", "relu"] = "relu"
    attention_dropout: float = fraction(0.1)
    activation_dropout: float = fraction(0.1)
    heads: int = positive(8)  # also of the graph
    decoder_layers: int = positive(3)
    cnn: CNNConfig = group(CNNConfig)
    gloss_head: GlossHeadConfig = group(partial(GlossHeadConfig, kind="bilstm", d_model=768, dropout=0.3))
    graph_layers: int = setting(2, NON_NEGATIVE, stages=LAST)
    encoder_layers: int = setting(2, NON_NEGATIVE, stages=LAST)  # of each of the three encoders
    encoder_heads: int = setting(12, POSITIVE, stages=LAST)
    encoder_ffn_dim: int = setting(3072, POSITIVE, stages=LAST)
    # what embeds the question: a table of the decoder's tokens from scratch, or BERT's embedding layer
    question_words: Literal["tokens", "mbert"] = setting("tokens", stages=LAST)
    mbert: MBertConfig = group(MBertConfig, stages=LAST)  # only its embedding layer is used
    # for choosing a word; in an epoch it is temperature * exp(-temperature_fall * epoch)
    temperature: float = setting(5.0, POSITIVE, stages=LAST)
    temperature_fall: float = setting(0.05, NON_NEGATIVE, stages=LAST)
    ctc_weight: float = setting(1.0, NON_NEGATIVE, stages=LAST)
    global_weight: float = setting(5.0, NON_NEGATIVE, stages=LAST)
    local_weight: float = setting(5.0, NON_NEGATIVE, stages=LAST)

    def __post_init__(self) -> None:
        require_divisor("heads", self.heads, self.d_model)
        require_divisor("encoder_heads", self.encoder_heads, self.d_model)
        widths = {"gloss_head": self.gloss_head.feature_width(self.d_model)}
        if self.question_words == "mbert":
            widths["mbert"] = self.mbert.d_model
        for key, width in widths.items():
            require(width == self.d_model, f"{key}.d_model is {width}; it must be d_model, {self.d_model}")

    @property
    def bert(self) -> MBertConfig:
        """Return the sizes of the parts that are built like BERT."""
        return MBertConfig(
            self.d_model,
            self.encoder_ffn_dim,
            self.encoder_layers,
            self.encoder_heads,
            self.max_positions,
            self.dropout,
            self.attention_dropout,
        )


class GBT(nnx.Module):
    """A recogniser, the graph of glosses, positions and question words, and a decoder with three memories."""

    def __init__(self, config: Config, inputs: StageInputs, *, rngs: nnx.Rngs):
        model: GBTConfig = config.model
        dtype, num_glosses = compute_dtype(config.compute.dtype), inputs.glosses().size
        d_model, head = model.d_model, model.gloss_head
        self.video = video_embedding(config, inputs, d_model, rngs)
        self.head = GLOSS_HEADS[head.kind](head, d_model, num_glosses, dtype=dtype, rngs=rngs)
        self.positions = LearnedPositions(model, rngs=rngs)
        self.gloss_embedding = BertEmbeddings(model.bert, num_glosses, rngs=rngs)
        self.text_encoder = _question_words(model, inputs, dtype, rngs)
        graph_layer = partial(GraphLayer, d_model, model.heads, model.dropout, dtype=dtype, rngs=rngs)
        self.graph = nnx.List([graph_layer() for _ in range(model.graph_layers)])
        self.gloss_encoder, self.position_encoder, self.question_encoder = (
            BertLayers(model.bert, dtype=dtype, rngs=rngs) for _ in Nodes._fields
        )
        self.embed_target = TokenEmbedding(
            inputs.vocab_size, d_model, tied_head=False, dtype=dtype, rngs=rngs
        )
        self.decoder = Decoder(
            model.decoder_layers,
            model.heads,
            model,
            SinusoidalPositions,
            encoder_attention=MemoryAttention,
            dtype=dtype,
            rngs=rngs,
        )
        self.clips_seen = nnx.BatchStat(jnp.zeros((), jnp.int32))  # in training, for the temperature

    def read(
        self,
        video: tuple[jax.Array, jax.Array],
        words: tuple[jax.Array, jax.Array],
        temperature: jax.Array | float = 1.0,
        rngs: nnx.Rngs | None = None,
    ) -> Read:
        """Read video `(video_BxTxD, mask_BxT)` and question `(ids_BxL, mask_BxL)`."""
        video_BxTxD, mask_BxT = video
        ids_BxL, word_mask_BxL = words
        logits_BxTxG, feature_BxTxD = self.head(video_BxTxD, mask_BxT, rngs)
        glosses = read_glosses(logits_BxTxG, mask_BxT)
        seen_BxTxD = self.positions(feature_BxTxD, jnp.cumsum(mask_BxT, axis=1) - 1, rngs)
        said_BxNxD = self.gloss_embedding(glosses.ids, glosses.mask, rngs)
        asked_BxLxD = self.text_encoder["bert"](ids_BxL, word_mask_BxL, rngs)
        key = rngs.dropout() if rngs is not None else None
        links_BxNxL = choose_words(said_BxNxD, glosses.mask, asked_BxLxD, word_mask_BxL, temperature, key)
        nodes = Nodes(said_BxNxD, seen_BxTxD, asked_BxLxD)
        for layer in self.graph:
            nodes = layer(nodes, glosses.spans, links_BxNxL, rngs)
        states = (
            self.gloss_encoder(nodes.glosses, glosses.mask, rngs),
            self.position_encoder(nodes.positions, mask_BxT, rngs),
            self.question_encoder(nodes.words, word_mask_BxL, rngs),
        )
        memory, memory_mask = join_memories(states, (glosses.mask, mask_BxT, word_mask_BxL))
        found = glosses, links_BxNxL, seen_BxTxD, asked_BxLxD
        return Read(memory, memory_mask, logits_BxTxG, mask_BxT, *found, *words, states[1])


def _question_words(model: GBTConfig, inputs: StageInputs, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Dict:
    """Make BERT's embedding layer, for its own or the decoder's tokens."""
    own = model.question_words == "mbert"
    size = inputs.text_tower_vocab_size if own else inputs.vocab_size
    bert = Bert(_embeddings(model.mbert if own else model.bert), size, dtype=dtype, rngs=rngs)
    return nnx.Dict(bert=bert)  # the path that files of BERT are read into


def _embeddings(bert: MBertConfig) -> MBertConfig:
    return replace(bert, num_layers=0)


def temperature_of(model: GBTConfig, clips_seen: jax.Array, clips_of_an_epoch: int) -> jax.Array:
    """Return the epoch's temperature for choosing words."""
    epoch = clips_seen // clips_of_an_epoch
    return jnp.maximum(model.temperature * jnp.exp(-model.temperature_fall * epoch), LOWEST_TEMPERATURE)


def question_words(batch: Batch, kind: str) -> tuple[jax.Array, jax.Array]:
    """Return ids and mask of a question's words without the special tokens.

    The special tokens are BERT's `[CLS]` and `[SEP]`, or the decoder's `</s>` and language.
    """
    texts = batch.text_tower_texts if kind == "mbert" else batch.decoder_texts
    ids_BxL = texts.question[:, 1:-1] if kind == "mbert" else texts.question[:, :-2]
    return ids_BxL, texts.question_mask[:, 2:]


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make recogniser and translation, after the CNN's warm start if any."""
    model: GBTConfig = config.model

    @cache
    def clips_of_an_epoch() -> int:
        return config.data.num_whole(len(inputs.clips(config.data.train_split)))

    def next_temperature(net: GBT, batch: Batch) -> jax.Array:
        """Return the epoch's temperature, and count the batch's clips, including broken ones."""
        now = temperature_of(model, net.clips_seen[...], clips_of_an_epoch())
        net.clips_seen[...] += (batch.index >= 0).sum(dtype=jnp.int32)
        return now

    def read(
        net: GBT,
        batch: Batch,
        augment_key: jax.Array | None = None,
        rngs: nnx.Rngs | None = None,
        temperature: jax.Array | float = 1.0,
    ) -> Read:
        video = embed_video(net.video, batch, config.data, augment_key)
        return net.read(video, question_words(batch, model.question_words), temperature, rngs)

    def loss(net: GBT, batch: Batch, key: jax.Array | None, counts: LossCounts) -> tuple[jax.Array, Metrics]:
        """Return the sum of all losses; the contrasts need a key."""
        augment_key, rngs = split_key(key)
        temperature = 1.0 if rngs is None else next_temperature(net, batch)
        found = read(net, batch, augment_key, rngs, temperature)
        target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
        embedded_BxLxD = net.embed_target(target.tokens)
        hidden_BxLxD = net.decoder(embedded_BxLxD, target.mask, found.memory, found.memory_mask, rngs)
        logits_BxLxV = net.embed_target.logits(hidden_BxLxD)
        total, metrics = translation_loss(target, logits_BxLxV, counts, config.translate)
        glosses, parts = gloss_loss(found.logits, found.mask, batch, counts)
        total, metrics = total + model.ctc_weight * glosses, metrics | parts
        if rngs is not None:
            asked_BxLxD = net.question_encoder(found.asked, found.word_mask, rngs)
            of_questions = global_contrast(found, asked_BxLxD, rngs.dropout())
            of_words = local_contrast(found, rngs.dropout())
            metrics["loss_global"] = masked_mean(*of_questions, counts.clips)
            metrics["loss_local"] = masked_mean(*of_words, counts.clips)
            total += model.global_weight * metrics["loss_global"]
            total += model.local_weight * metrics["loss_local"]
        return total, metrics

    def encode(net: GBT, batch: Batch) -> EncodedModel:
        found = read(net, batch)
        embed = net.embed_target
        return EncodedModel(net.decoder, embed, embed.logits, found.memory, found.memory_mask)

    recognize = recognize_stage(
        config,
        inputs,
        model.gloss_head,
        partial(video_embedding, config, inputs, model.d_model),
        model.d_model,
        shared=True,
    )
    translate = Stage(
        "translate",
        lambda key: GBT(config, inputs, rngs=Keys(key)),
        loss,
        reads_gloss=True,
        starts_pretrained=True,
        modules={**RECOGNIZER_MODULES, "head": "head"},
        translation=Translation(encode, language_prompt),
        recognition=partial(gloss_logits, data=config.data),
        ask=ask_fewer_words(config.translate.drop_words),
        counters=("clips_seen",),
        remat=config.compute.remat,
    )
    stages = [recognize, translate][: STAGES.index(config.stage) + 1]
    return [*warm_start_stages(config, inputs), *stages]


def check(config: Config) -> None:
    """Raise ConfigError for a CNN or positions that do not fit."""
    check_cnn_start(config)
    model, data = config.model, config.data
    own = model.question_words == "mbert"
    words = model.mbert if own else model
    key_of_words = "mbert.max_positions" if own else "max_positions"
    for key, allowed, of, needed in (
        ("max_positions", model.max_positions, "max_frames", num_positions(data.max_frames)),
        (key_of_words, words.max_positions, "max_question_tokens", data.max_question_tokens),
    ):
        require(
            needed <= allowed,
            f"config.model.{key} is {allowed}; config.data.{of} of {getattr(data, of)} needs {needed}: raise "
            "the former, or lower the latter",
        )


SYSTEM = System(
    GBTConfig,
    make_stages,
    check,
    STAGES,
    lambda model: _embeddings(model.mbert) if model.question_words == "mbert" else None,
    reads=("frames", "features"),
)
