"""CSGCR, sentence generation and cross-modal re-ranking (Zhao et al. 2021): words, sentences, a choice.

It reads frames or features, and no question. The paper's abstract describes its three modules: word existence
verification says for each word of the vocabulary whether the sentence has it; a pretrained language generator
makes several sentences from these words; the sentence most similar to the video wins. No code is public, and
all else here is a reconstruction: the sizes, the video embedding, the losses and the recipe.

Here the three are one model: the two towers of stage 1 with a word head, which looks for each word at each
position of the embedded video; the most confident position decides. The text tower and the decoder, which
restore masked words in stage 1, write the sentence from a bag of its words. In training, the bag holds the
true words in random order, with 5 to 20 % of them left out and as many others added. In translation, it holds
the words above a threshold. Beam search finds several sentences, which are ranked by the cosine between their
features and the video's, plus a weight times their scores. Threshold (by F1) and weight (by BLEU-4) are
chosen on dev at each evaluation.

B clips, T positions in time, K sentences of a clip, L tokens, G words of a bag, W words, D features.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from sslssaw_jax.config.checks import NON_NEGATIVE, group, positive, setting
from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.glosses import SPECIALS, WordVocabulary
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.models.beam_search import EncodedModel
from sslssaw_jax.models.cnn import CNNConfig
from sslssaw_jax.models.decoder_inputs import text_stream
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbart import MBartConfig
from sslssaw_jax.models.mbart_writer import with_ending
from sslssaw_jax.models.precision import Embed, FloatLinear, compute_dtype
from sslssaw_jax.models.two_towers import TwoTowers
from sslssaw_jax.stages.alignment import cosines
from sslssaw_jax.stages.gloss2text import embed_glosses
from sslssaw_jax.stages.losses import masked_mean
from sslssaw_jax.stages.pretrain import contrast, pretrain_stage
from sslssaw_jax.stages.self_supervision import translation_loss
from sslssaw_jax.stages.stage import LossCounts, Stage, StageInputs, System, Translation
from sslssaw_jax.stages.translation import language_prompt
from sslssaw_jax.stages.video import embed_video, split_key, video_embedding
from sslssaw_jax.stages.warm_start import CNN_MODULES, check_cnn_start, warm_start_stages
from sslssaw_jax.types import Batch, Metrics

LEAST_NOISE, MOST_NOISE = 0.05, 0.2  # share of a bag's words left out, and of words added
MOST_POSITIVE_WEIGHT = 20.0  # for a rare word
NO_WORD = -1e9  # logit
TOWERS = (
    *("embedding", "video", "cls", "video_encoder", "text_encoder", "decoder"),
    *("video_projection", "text_projection", "logit_scale"),
)


@dataclass(frozen=True)
class CSGCRConfig:
    """Sizes, which are a reconstruction, and the weight of the words in the loss."""

    cnn: CNNConfig = group(CNNConfig)
    mbart: MBartConfig = group(MBartConfig)
    word_weight: float = setting(10.0, NON_NEGATIVE, stages=("translate",))
    bag_size: int = positive(64)  # most words that are read, the most confident ones


class CSGCR(TwoTowers):
    """The two towers, with a head that finds words and an embedding that reads bags of them."""

    def __init__(self, config: Config, inputs: StageInputs, *, rngs: nnx.Rngs):
        mbart, dtype = config.model.mbart, compute_dtype(config.compute.dtype)
        d_model, num_words = mbart.d_model, inputs.glosses().size
        make_video = partial(video_embedding, config, inputs, d_model)
        super().__init__(mbart, inputs.vocab_size, make_video, dtype=dtype, rngs=rngs)
        self.word_head = FloatLinear(d_model, num_words, dtype=dtype, rngs=rngs)
        init = nnx.initializers.normal(d_model**-0.5)
        self.word_embedding = Embed(num_words, d_model, embedding_init=init, dtype=dtype, rngs=rngs)
        self.ending = nnx.Param(init(rngs.params(), (2, d_model), jnp.float32))
        self.bag_size = min(config.model.bag_size, num_words)
        self.word_threshold = nnx.BatchStat(jnp.zeros(()))
        self.rank_weight = nnx.BatchStat(jnp.ones(()))

    def words(self, video_BxTxD: jax.Array, mask_BxT: jax.Array) -> jax.Array:
        """Return the logit of each word's existence, f32[B, W]."""
        logits_BxTxW = self.word_head(video_BxTxD).astype(jnp.float32)
        exists_BxTxW = mask_BxT[..., None] & (jnp.arange(logits_BxTxW.shape[2]) >= len(SPECIALS))
        return jnp.where(exists_BxTxW, logits_BxTxW, NO_WORD).max(axis=1)

    def read_bag(
        self, order_BxW: jax.Array, valid_B: jax.Array, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """Encode the words above 0 as states and mask, in descending order."""
        value_BxG, word_BxG = lax.top_k(order_BxW, self.bag_size)
        embedded_BxGxD, mask_BxG = self.word_embedding(word_BxG), value_BxG > 0
        states_BxTxD, mask_BxT = with_ending(embedded_BxGxD, mask_BxG, valid_B, self.ending[...])
        return self.text_encoder(states_BxTxD * self.embedding.scale, mask_BxT, rngs), mask_BxT

    def found_bag(
        self, video_BxTxD: jax.Array, mask_BxT: jax.Array, valid_B: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Encode the words that the video shows, most confident first."""
        logits_BxW = self.words(video_BxTxD, mask_BxT)
        order_BxW = jnp.where(logits_BxW >= self.word_threshold[...], jax.nn.sigmoid(logits_BxW), 0)
        return self.read_bag(order_BxW, valid_B, None)

    def rank(
        self, video_BxD: jax.Array, text_BxKxL: jax.Array, mask_BxKxL: jax.Array, score_BxK: jax.Array
    ) -> jax.Array:
        """Return cosine + weight x score of sentences, f32[B, K]."""
        text_RxL, mask_RxL = (each.reshape(-1, each.shape[-1]) for each in (text_BxKxL, mask_BxKxL))
        text_BxKxD = self.text_features(self.read(text_RxL, mask_RxL), mask_RxL)[0].reshape(
            *score_BxK.shape, -1
        )
        cosine_BxK = cosines(video_BxD[:, None], text_BxKxD)[:, 0]
        return cosine_BxK + self.rank_weight[...] * score_BxK


def noisy_order(present_BxW: jax.Array, key: jax.Array | None) -> jax.Array:
    """Return a noisy order of each clip's words.

    Args:
        present_BxW: The words of the clips' sentences.
        key: Draws the order, and which words are left out and added; None: no noise.
    """
    if key is None:
        return present_BxW.astype(jnp.float32)
    keys = jax.random.split(key, 4)
    rate_Bx1 = jax.random.uniform(keys[0], (len(present_BxW), 1), minval=LEAST_NOISE, maxval=MOST_NOISE)
    dropped_BxW = jax.random.uniform(keys[1], present_BxW.shape) < rate_Bx1
    count_Bx1 = present_BxW.sum(axis=1, keepdims=True)
    other_BxW = jax.random.uniform(keys[2], present_BxW.shape) < rate_Bx1 * count_Bx1 / present_BxW.shape[1]
    other_BxW &= jnp.arange(present_BxW.shape[1]) >= len(SPECIALS)
    bag_BxW = jnp.where(present_BxW, ~dropped_BxW, other_BxW)
    return bag_BxW * jax.random.uniform(keys[3], present_BxW.shape, minval=0.1)


def existence_loss(
    logits_BxW: jax.Array,
    present_BxW: jax.Array,
    weight_W: np.ndarray,
    valid_B: jax.Array,
    count: jax.Array,
) -> jax.Array:
    """Return the mean binary cross-entropy, with weights for words that exist."""
    yes_BxW, no_BxW = jax.nn.softplus(-logits_BxW), jax.nn.softplus(logits_BxW)
    loss_BxW = jnp.where(present_BxW, weight_W * yes_BxW, no_BxW)
    return masked_mean(loss_BxW.mean(axis=1), valid_B, count)


def positive_weights(ids: Iterable[Iterable[int]], num_clips: int, num_words: int) -> np.ndarray:
    """Return each word's ratio of clips without it to clips with it."""
    counts = np.bincount(np.array([word for each in ids for word in each], int), minlength=num_words)
    return np.minimum((num_clips - counts + 1) / (counts + 1), MOST_POSITIVE_WEIGHT).astype(np.float32)


def make_stages(config: Config, inputs: StageInputs) -> list[Stage]:
    """Make the translation stage, after warm start and stage 1 if any."""
    model: CSGCRConfig = config.model

    @cache
    def weight_W() -> np.ndarray:  # only training opens the train split
        words, clips = inputs.glosses(), inputs.clips(config.data.train_split)
        return positive_weights(map(words.encode, words.texts(clips)), len(clips), words.size)

    def loss(
        net: CSGCR, batch: Batch, key: jax.Array | None, counts: LossCounts
    ) -> tuple[jax.Array, Metrics]:
        augment_key, rngs = split_key(key)
        video_BxTxD, mask_BxT = embed_video(net.video, batch, config.data, augment_key)
        tower = batch.text_tower_texts
        text_BxLxD = net.read(tower.target, tower.target_mask, rngs)
        similarity, metrics = contrast(net, (video_BxTxD, mask_BxT), text_BxLxD, batch, counts, rngs)
        logits_BxW = net.words(video_BxTxD, mask_BxT)
        rows_BxG = jnp.arange(len(batch.valid))[:, None]
        named_BxG = batch.gloss_mask & (batch.gloss >= len(SPECIALS))
        present_BxW = jnp.zeros(logits_BxW.shape, bool).at[rows_BxG, batch.gloss].max(named_BxG)
        existence = existence_loss(logits_BxW, present_BxW, weight_W(), batch.valid, counts.clips)
        order_BxW = noisy_order(present_BxW, rngs.dropout() if rngs else None)
        states, bag_mask = net.read_bag(order_BxW, batch.valid, rngs)
        target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
        hidden = net.decoder(net.embedding(target.tokens), target.mask, states, bag_mask, rngs)
        logits = net.embedding.logits(hidden)
        sentence, parts = translation_loss(target, logits, counts, config.translate)
        metrics |= {**parts, "loss_similarity": similarity, "loss_words": existence}
        return sentence + similarity + model.word_weight * existence, metrics

    def encode(net: CSGCR, batch: Batch) -> EncodedModel:
        video = embed_video(net.video, batch, config.data, None)
        feature_BxD = net.video_features(*video, batch.valid)[0][:, 0]
        bag = net.found_bag(*video, batch.valid)
        rank = partial(net.rank, feature_BxD)
        return EncodedModel(net.decoder, net.embedding, net.embedding.logits, *bag, rank=rank)

    def start(value: Callable[[Any], np.ndarray], tokenizer: Tokenizer) -> Iterable[tuple[Any, Any]]:
        table_VxD = value(("embedding", "embed", "embedding"))
        yield ("word_embedding", "embedding"), embed_glosses(inputs.glosses().glosses, table_VxD, tokenizer)
        yield ("ending",), table_VxD[[tokenizer.eos_id, tokenizer.language_id]]

    early = warm_start_stages(config, inputs)
    if config.pretrain.epochs:
        make_video = partial(video_embedding, config, inputs, model.mbart.d_model)
        early.append(pretrain_stage(config, inputs, make_video, modules=CNN_MODULES))
    translate = Stage(
        "translate",
        lambda key: CSGCR(config, inputs, rngs=Keys(key)),
        loss,
        reads_question=False,
        reads_gloss=True,
        starts_pretrained=not config.pretrain.epochs,
        modules=dict(zip(TOWERS, TOWERS)) if config.pretrain.epochs else CNN_MODULES,
        derived=start,
        translation=Translation(encode, language_prompt),
        existence=lambda net, batch: net.words(*embed_video(net.video, batch, config.data, None)),
        remat=config.compute.remat,
    )
    return early if config.stage == "pretrain" else [*early, translate]


SYSTEM = System(
    CSGCRConfig,
    make_stages,
    check_cnn_start,
    ("pretrain", "translate"),
    reads=("frames", "features"),
    vocabulary=WordVocabulary,
)
