"""A tiny configuration and random batches for tests of models and stages."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from configs.common import use_system
from sslssaw_jax.config.experiment import Config, to_config_dict
from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.data.glosses import GlossVocabulary
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.models.s3d import S3DConfig
from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.stages.step import count_batch, train_step
from sslssaw_jax.stages.translation import Translated, translate_step
from sslssaw_jax.systems import SYSTEMS, default_config, read_config
from sslssaw_jax.types import Batch, Features, FeatureSize, Metrics, Texts, TrainState

VOCAB_SIZE, PAD, EOS, LANGUAGE, MASK, FIRST_WORD = 40, 1, 2, 4, 5, 6
FEATURE_WIDTH = 5
TOY_POINTS = (
    "nose",
    *(f"{side}_{part}" for part in ("shoulder", "elbow", "wrist") for side in ("left", "right")),
)
TEXT = 7  # tokens of the longest question and the longest target
TOY_GLOSSES = GlossVocabulary(("HERE", "RAIN", "SNOW", "TOMORROW"))
MOST_GLOSSES = 3
# twice as fast to compile, which takes nearly all of a toy's time
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")
TRANSFORMER = {
    "d_model": 16,
    "ffn_dim": 24,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "heads": 2,
    "max_positions": 64,
    **dict.fromkeys(DROPOUTS, 0.0),
}
SIGN_TRANSFORMER = {**TRANSFORMER, "embedding_dropout": 0.0}
SIGN_TO_TEXT = {
    "visual": "cnn",
    "cnn_width": 8,
    "s3d": {"width": 1 / 32},
    "gloss_head": {"d_model": 8, "ffn_dim": 12, "dropout": 0.0},
    "mbart": TRANSFORMER,
}
TOWERS = ("text", "video", "decoder")
TOY_SIZES: dict[str, dict[str, Any]] = {  # of other kinds
    "csgcr": {
        "mbart": {
            **{key: value for key, value in TRANSFORMER.items() if key not in ("encoder_layers", "heads")},
            **{f"{part}_layers": 1 for part in TOWERS},
            **{f"{part}_heads": 2 for part in TOWERS},
        }
    },
    "nslt": {"units": 8, "layers": 2, "embedding": 6, "dropout": 0.0},
    "mmtlb": SIGN_TO_TEXT,
    "slrt": SIGN_TRANSFORMER,
    "gaslt": SIGN_TRANSFORMER,
    "signbt": {**SIGN_TRANSFORMER, "width": 8, "gloss_head": {"d_model": 8}, "text2gloss": TRANSFORMER},
    "stmc_t": {
        "cnn": {"kind": "vgg", "vgg": {"widths": (2, 2, 4, 4, 6)}},
        "cues": {"width": 4, "joint_width": 8, "hand_side": 4, "face_side": 2, "dropout": 0.0},
        "joint_head": {"d_model": 8, "layers": 1, "dropout": 0.0},
        "part_head": {"d_model": 4, "layers": 1, "dropout": 0.0},
        "pose_weight": 0.0,
        "embedding": 6,
        "decoder_units": 8,
        "dropout": 0.0,
    },
    "ts_slt": SIGN_TO_TEXT,
    "gbt": {
        **TRANSFORMER,
        "encoder_heads": 2,
        "encoder_ffn_dim": 24,
        "graph_layers": 1,
        "gloss_head": {"d_model": 16, "layers": 1, "dropout": 0.0},
    },
    "tspnet": {**TRANSFORMER, "spans": (3, 5, 7), "decoder_d_model": 12, "decoder_heads": 2},
}
NO_DROPOUT = {"model.mbart.dropout": 0.0, "model.fusion.dropout": 0.0}


def toy_config(**changes: Any) -> Config:
    """Configure a model of some thousand parameters; `changes` has dotted keys."""
    tree = default_config()
    sizes = {
        "data.image_size": 16,
        "data.crop_fraction": 1.0,
        "data.max_frames": 12,
        "model.cnn.resnet.depths": (1,),
        "model.cnn.resnet.width": 6,
        "model.cnn.resnet.stem": "conv7_stride4",
        "model.mbart.d_model": 16,
        "model.mbart.ffn_dim": 24,
        "model.mbart.text_layers": 1,
        "model.mbart.text_heads": 4,
        "model.mbart.video_layers": 1,
        "model.mbart.decoder_layers": 1,
        "model.mbart.video_heads": 2,
        "model.mbart.decoder_heads": 2,
        "model.mbart.max_positions": 128,
        "model.fusion.heads": 2,
        "model.fusion.ffn_dim": 24,
        "compute.dtype": "float32",
        "decode.max_new_tokens": 6,
    }
    tree.update_from_flattened_dict(sizes | changes)
    return read_config(tree)


def toy_system(name: str, **changes: Any) -> Config:
    """A toy configuration of any system, without dropout; `changes` has dotted keys."""
    if name == "ssl_ssaw":
        return toy_config(**NO_DROPOUT | {"init_from": None} | changes)
    tree = to_config_dict(toy_config())
    if name == "stmc_t":
        tree.data.image_size = 32  # VGG-11 reduces it to one pixel
    if name == "question_only":
        tree.system, tree.model = name, to_config_dict(SYSTEMS[name].config())
    else:
        use_system(tree, name)
    tree.model.update(TOY_SIZES.get(name, TRANSFORMER))
    if "keypoints" in SYSTEMS[name].reads and not changes.get("data.features"):
        tree.data.keypoints = "a set"
    tree.update_from_flattened_dict(changes)
    return read_config(tree)


def make_stages(
    config: Config,
    vocab_size: int = VOCAB_SIZE,
    bert_vocab_size: int = VOCAB_SIZE,
    clips: Sequence[ClipInfo] = (),
) -> list[Stage]:
    """The stages of a configuration, for a dataset with these clips in each split."""
    sizes = feature_sizes(config)
    inputs = StageInputs(
        vocab_size,
        bert_vocab_size,
        clips=lambda split: clips,
        features=sizes,
        keypoints=TOY_POINTS if config.data.keypoints else (),
        glosses=lambda: TOY_GLOSSES,
    )
    return SYSTEMS[config.system].make_stages(config, inputs)


def feature_sizes(config: Config) -> list[FeatureSize]:
    """The feature sets that a configuration names; TSPNet's are windows."""
    if config.system == "tspnet":
        windows = zip(config.data.features, config.model.spans)
        return [FeatureSize(config.model.d_model, config.model.stride, span) for _, span in windows]
    return [FeatureSize(FEATURE_WIDTH, 1, 1) for _ in config.data.features]


def translate_stage(config: Config, vocab_size: int = VOCAB_SIZE, bert_vocab_size: int = VOCAB_SIZE) -> Stage:
    return make_stages(config, vocab_size, bert_vocab_size)[-1]


def pretrain_stage(config: Config, vocab_size: int = VOCAB_SIZE, bert_vocab_size: int = VOCAB_SIZE) -> Stage:
    return make_stages(replace(config, stage="pretrain"), vocab_size, bert_vocab_size)[-1]


def toy_batch(seed: int, clips: int = 3) -> Batch:
    """Draw clips of 1 to 12 frames, packed tightly; noise fills the padding of texts."""
    rng = np.random.default_rng(seed)
    frame_count = rng.integers(1, 13, clips).astype(np.int32)
    texts = Texts(*_texts(rng, clips), *_texts(rng, clips))
    target = texts.target
    masked = np.where((target >= FIRST_WORD) & (rng.random(target.shape) < 0.3), MASK, target)
    own = np.random.default_rng([seed, 1])
    num_glosses = own.integers(1, MOST_GLOSSES + 1, (clips, 1))
    drawn = own.integers(1, TOY_GLOSSES.size, (clips, MOST_GLOSSES), np.int32)
    gloss = np.where(np.arange(MOST_GLOSSES) < num_glosses, drawn, 0).astype(np.int32)
    return Batch(
        frames=_noise(rng, (frame_count.sum(), 16, 16, 3)),
        frame_start=(np.cumsum(frame_count) - frame_count).astype(np.int32),
        frame_count=frame_count,
        decoder_texts=texts,
        text_tower_texts=texts,
        masked_target=masked,
        masked_target_mask=texts.target_mask,
        gloss=gloss,
        gloss_mask=gloss > 0,
        index=np.arange(clips, dtype=np.int32),
        valid=np.ones(clips, bool),
    )


def with_texts(batch: Batch, **texts: np.ndarray) -> Batch:
    """Replace some texts of a batch, for decoder and text tower alike."""
    return batch.replace(
        decoder_texts=batch.decoder_texts._replace(**texts),
        text_tower_texts=batch.text_tower_texts._replace(**texts),
    )


def with_features(batch: Batch, *widths: int) -> Batch:
    """Replace frames by random rows of feature sets, a row for each frame."""
    rng = np.random.default_rng(4)
    packed, place = len(batch.frames), (batch.frame_start, batch.frame_count)
    values = [rng.normal(size=(packed, width)).astype(np.float16) for width in widths]
    frames = np.zeros((packed, 0, 0, 3), np.uint8)
    return batch.replace(frames=frames, features=tuple(Features(each, *place) for each in values))


def with_keypoints(batch: Batch) -> Batch:
    """Add a random row of `TOY_POINTS` for each frame, some not found."""
    rows = np.random.default_rng(6).random((len(batch.frames), len(TOY_POINTS), 3))
    rows[..., 2] = rows[..., 2] > 0.1
    values = rows.reshape(len(rows), -1).astype(np.float16)
    return batch.replace(keypoints=Features(values, batch.frame_start, batch.frame_count))


def batch_for(config: Config, batch: Batch) -> Batch:
    """Return the batch with the feature sets or keypoints that the configuration names, if any."""
    widths = [one.width for one in feature_sizes(config)]
    if config.data.keypoints:
        return with_keypoints(batch)
    return with_features(batch, *widths) if widths else batch


def training_batch(config: Config, batch: Batch) -> Batch:
    """Return the batch as the last stage trains on it: SignBT has positions in place of frames."""
    return with_features(batch, config.model.width) if config.system == "signbt" else batch


def one_clip(batch: Batch, row: int) -> Batch:
    """Return a batch of the same shape with one clip, in the first row."""
    start, count = batch.frame_start[row], batch.frame_count[row]
    alone = jax.tree.map(lambda x: x[row : row + 1], batch)
    kept, first = slice(start, start + count), np.zeros(1, np.int32)

    def take(whole: Features, own: Features) -> Features:
        return Features(whole.values[kept], first, own.count)

    alone = alone.replace(
        frames=batch.frames[kept],
        frame_start=first,
        features=tuple(map(take, batch.features, alone.features)),
        keypoints=batch.keypoints and take(batch.keypoints, alone.keypoints),
    )
    return padded(alone, rows=len(batch.valid) - 1, frames=len(batch.frames) - count)


def padded(batch: Batch, rows: int = 0, frames: int = 0, tokens: int = 0) -> Batch:
    """Add rows without a clip, frames of no clip and token places, all filled with noise."""
    rng = np.random.default_rng(9)

    def pad_text(text: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(text) + rows, text.shape[1] + tokens)
        more, more_mask = rng.integers(FIRST_WORD, VOCAB_SIZE, shape, np.int32), np.zeros(shape, bool)
        more[: len(text), : text.shape[1]] = text
        more_mask[: len(text), : text.shape[1]] = mask
        return more, more_mask

    def pad_texts(texts: Texts) -> Texts:
        return Texts(*pad_text(*texts[:2]), *pad_text(*texts[2:]))

    masked_target, masked_target_mask = pad_text(batch.masked_target, batch.masked_target_mask)

    def pad_rows(one: Features) -> Features:
        return Features(
            np.concatenate([one.values, rng.normal(size=(frames, one.values.shape[1])).astype(np.float16)]),
            np.pad(one.start, (0, rows), constant_values=len(one.values)),
            np.pad(one.count, (0, rows)),
        )

    return Batch(
        frames=np.concatenate([batch.frames, _noise(rng, (frames, *batch.frames.shape[1:]))]),
        frame_start=np.pad(batch.frame_start, (0, rows), constant_values=len(batch.frames)),
        frame_count=np.pad(batch.frame_count, (0, rows)),
        decoder_texts=pad_texts(batch.decoder_texts),
        text_tower_texts=pad_texts(batch.text_tower_texts),
        masked_target=masked_target,
        masked_target_mask=masked_target_mask,
        gloss=np.pad(batch.gloss, ((0, rows), (0, tokens))),
        gloss_mask=np.pad(batch.gloss_mask, ((0, rows), (0, tokens))),
        index=np.pad(batch.index, (0, rows), constant_values=-1),
        valid=np.pad(batch.valid, (0, rows)),
        features=tuple(map(pad_rows, batch.features)),
        keypoints=batch.keypoints and pad_rows(batch.keypoints),
    )


def random_model(make: Callable[[], Any], seed: int = 0) -> Any:
    """Make a model with every weight, bias, scale and running statistic random."""
    model = nnx.eval_shape(make)
    nnx.update(model, random_variables(nnx.state(model), seed))
    return model


def random_variables(state: nnx.State, seed: int = 0) -> nnx.State:
    """Draw the variables of a model with known shapes and dtypes."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        name, noise = jax.tree_util.keystr(path), rng.normal(size=leaf.shape)
        if leaf.ndim == 0:
            value = np.float32(2.0)  # the logit scale of the contrastive loss
        elif "embed_positions" in name:
            value = 2.0 * noise  # strong: what comes next changes from step to step
        elif leaf.ndim > 1:
            value = 1.5 * noise / np.prod(leaf.shape[:-1]) ** 0.5
        else:
            value = np.exp(0.3 * noise) if "scale" in name or "var" in name else 0.3 * noise
        return jnp.asarray(value, leaf.dtype)

    return jax.tree.map_with_path(draw, state)


def toy_state(stage: Stage, seed: int = 0) -> TrainState:
    """Make a state of the stage with every variable random, for `sgd_step`."""
    abstract = stage.abstract_state()
    whole = random_variables(nnx.merge_state(abstract.params, abstract.batch_stats), seed)
    params, batch_stats = nnx.split_state(whole, nnx.Param, ...)
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optax.sgd(1.0).init(params))


def evaluated(stage: Stage, state: TrainState) -> Any:
    """Return the stage's model with the state's variables, for evaluation."""
    return nnx.merge(stage.eval_def, state.params, state.batch_stats)


def loss_of(
    stage: Stage, model: Any, batch: Batch, key: jax.Array | None = None
) -> tuple[jax.Array, Metrics]:
    """Return a stage's loss of one batch, and its parts."""
    return stage.loss(model, batch, key, count_batch(batch))


def teacher_forced(stage: Stage, model: Any, batch: Batch, stream: Stream) -> jax.Array:
    """A translating stage's logits `[B, L, V]` for every position of a stream."""
    found = stage.translation.encode(model, batch)
    members = found if isinstance(found, list) else [found]
    logits = [
        one.logits(one.decoder(one.embed(stream.tokens), stream.mask, one.encoder_states, one.encoder_mask))
        for one in members
    ]
    return logits[0] if len(logits) == 1 else jnp.log(jnp.mean(jax.nn.softmax(jnp.stack(logits)), axis=0))


def translator(stage: Stage, config: Config, **decode: Any) -> Callable[..., Translated]:
    """`translate_step` of a stage, as a function of parameters, statistics and a batch."""
    ids = {"language_id": LANGUAGE, "eos_id": EOS, "pad_id": PAD}
    return partial(
        translate_step,
        graphdef=stage.eval_def,
        translation=stage.translation,
        decode=replace(config.decode, **decode),
        **ids,
    )


def sgd_step(stage: Stage) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Compile a training step of SGD with rate 1, which subtracts the gradient."""
    graphdef = stage.train_def

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.key(5)
        return train_step(state, batch, key, graphdef=graphdef, loss=stage.loss, optimizer=optax.sgd(1.0))

    return jit(step)


@jit
def trained(model: Any, inputs: tuple[Any, ...], cotangent: jax.Array) -> tuple[jax.Array, Any, Any]:
    """Return features, new statistics and the gradient of `sum(features * cotangent)`."""
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)

    def objective(params: Any) -> Any:
        model = nnx.merge(graphdef, params, stats, copy=True)
        features = model(*inputs)
        return (features * cotangent).sum(), (features, nnx.state(model, nnx.BatchStat))

    gradients, (features, stats) = jax.grad(objective, has_aux=True)(params)
    return features, stats, gradients


class QuickS3D(nnx.Module):
    """A stand-in for S3D that compiles at once; `tests/models/test_s3d.py` compares S3D with PyTorch's."""

    def __init__(self, config: S3DConfig, *, inputs: int = 3, **options: Any):
        self.features = config.features
        self.project = nnx.Linear(4 * inputs, self.features, **options)

    def __call__(self, clips_BxTxHxWx3: jax.Array, length_B: jax.Array) -> jax.Array:
        clips, times = clips_BxTxHxWx3.shape[:2]
        x = clips_BxTxHxWx3.mean(axis=(2, 3)).reshape(clips, times // 4, 12)
        inside = jnp.arange(times // 4) < length_B[:, None] // 4
        return jnp.where(inside[..., None], self.project(x), 0)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Assert that each leaf differs by at most `tolerance` of its largest value."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, x), y in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.shape == y.shape, jax.tree_util.keystr(path)
        error = np.abs(x - y).max() / max(np.abs(y).max(), 1e-6)
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: relative error {error:.1e}"


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def _texts(rng: np.random.Generator, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw texts `w_1 .. w_n </s> <language>`, n at least 1, and the mask."""
    ids = rng.integers(FIRST_WORD, VOCAB_SIZE, (clips, TEXT), np.int32)
    length = rng.integers(3, TEXT + 1, (clips, 1))
    place = np.arange(TEXT)
    ids = np.where(place == length - 2, EOS, np.where(place == length - 1, LANGUAGE, ids))
    return ids.astype(np.int32), place < length
