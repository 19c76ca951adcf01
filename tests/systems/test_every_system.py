"""Properties of every system, and of the fusions and inputs of SSL-SSAW."""

import dataclasses
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util

from sslssaw_jax.config.experiment import Config, to_config_dict
from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.models.beam_search import IMPOSSIBLE
from sslssaw_jax.models.decoder_inputs import Stream, text_stream
from sslssaw_jax.models.fusion import FUSIONS
from sslssaw_jax.stages import streams
from sslssaw_jax.stages.stage import LossCounts, Stage
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.systems import SYSTEMS, read_config, stmc_t
from sslssaw_jax.types import TrainState
from tests.support.toy import (
    EOS,
    LANGUAGE,
    PAD,
    TEXT,
    assert_close,
    batch_for,
    evaluated,
    jit,
    loss_of,
    make_stages,
    one_clip,
    padded,
    sgd_step,
    teacher_forced,
    toy_batch,
    toy_state,
    toy_system,
    training_batch,
    translate_stage,
    translator,
    with_keypoints,
)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in SYSTEMS},
    **{f"ssl_ssaw {kind}": ("ssl_ssaw", {"model.fusion.kind": kind}) for kind in FUSIONS if kind != "ssaw"},
    "ssl_ssaw positions": ("ssl_ssaw", {"model.fusion.positions": True}),
    "ssl_ssaw convolution": ("ssl_ssaw", {"model.fusion.convolution": True}),
    "question_only prefix": ("question_only", {"model.ssl": "prefix"}),
    "slrt alone": ("slrt", {"model.reads_question": False}),
    "slrt ctc": ("slrt", {"model.reads_question": False, "model.recognition_weight": 5.0}),
    "ssl_ssaw features": ("ssl_ssaw", {"data.features": ("a set",)}),
    "mmtlb embedding": ("mmtlb", {"model.mapper": "embedding"}),
    "mmtlb features": ("mmtlb", {"model.visual": "s3d", "data.features": ("a set",)}),
    "ts_slt features": ("ts_slt", {"model.visual": "s3d", "data.features": ("frames", "points")}),
    "gbt mbert": (
        "gbt",
        {"model.question_words": "mbert", "model.mbert.d_model": 16, "model.mbert.heads": 2},
    ),
    "csgcr features": ("csgcr", {"data.features": ("a set",)}),
    "tspnet features": ("tspnet", {"data.features": ("8", "12", "16"), "data.max_frames": 24}),
    "signbt features": ("signbt", {"data.features": ("a set",), "model.synthetic_ratio": 0.0}),
    "gaslt grid": ("gaslt", {"model.grid_sample": True}),
    "nslt features": ("nslt", {"data.features": ("a set",)}),
    "nslt none": ("nslt", {"model.attention": "none", "model.cell": "lstm"}),
    "nslt bahdanau": ("nslt", {"model.attention": "bahdanau", "model.reverse_source": False}),
}
DECODING = [
    "ssl_ssaw",
    "question_only prefix",
    "slrt",
    "gaslt",
    "signbt",
    "nslt",
    "nslt none",
    "nslt bahdanau",
    "tspnet",
    "stmc_t",
    "ts_slt",
    "csgcr",
    "gbt",
]
AUGMENTING = [  # MMTLB's and TS-SLT's translations read frames as they are, and SignBT's positions
    "ssl_ssaw warm_start",
    "ssl_ssaw pretrain",
    "ssl_ssaw translate",
    "slrt translate",
    "gaslt translate",
    "nslt translate",
    "tspnet translate",
    "csgcr translate",
    "gbt translate",
    "mmtlb recognize",
    "ts_slt recognize",
    "stmc_t recognize",
    "stmc_t translate",
]


TERMS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {  # of the loss, with their weights
    "ssl_ssaw translate": ({"model.ssl_weight": 0.2}, {"sentence": 1, "question": 0.2}),
    "csgcr translate": ({"model.word_weight": 3.0}, {"sentence": 1, "similarity": 1, "words": 3}),
    "gbt translate": (
        {"model.ctc_weight": 0.5, "model.global_weight": 3.0, "model.local_weight": 2.0},
        {"sentence": 1, "gloss": 0.5, "global": 3, "local": 2},
    ),
    "mmtlb translate": ({"model.ctc_weight": 0.5}, {"sentence": 1, "gloss": 0.5}),
    "signbt translate": ({"model.recognition_weight": 3.0}, {"sentence": 1, "gloss": 3}),
    "slrt translate": (
        {
            **{"model.reads_question": False, "model.recognition_weight": 5.0},
            **{"model.translation_weight": 2.0, "translate.normalize": "clips"},
        },
        {"sentence": 2, "gloss": 5},
    ),
    "stmc_t translate": (
        {"model.ctc_weight": 0.5, "model.part_weight": 3.0},
        {"sentence": 1, "gloss": 0.5, "parts": 1.5},
    ),
    "ts_slt recognize": ({"model.distill_weight": 3.0}, {"gloss": 3, "distill": 3}),
    "ts_slt translate": ({"model.ctc_weight": 0.5}, {"sentence": 3, "gloss": 1.5}),
}
CHAINS = {  # stages before the last; SSL-SSAW's recogniser is that of the other systems
    "ssl_ssaw": ("warm_start", "recognize", "pretrain"),
    "mmtlb": ("gloss2text",),
    "ts_slt": ("recognize",),
    "stmc_t": ("recognize",),
}
UNUSED = {"ssl_ssaw": ("mbert",), "gbt": ("mbert",), "signbt": ("gloss_head",)}  # of a part of another kind


def ours_first(names):
    """Mark all but the paper's own system as slow."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=() if name.startswith("ssl_ssaw") else slow) for name in names]


class Setup(NamedTuple):
    """A random model of a variant."""

    config: Config
    stage: Stage
    state: TrainState
    model: Any


@cache
def setup(variant: str) -> Setup:
    name, changes = VARIANTS[variant]
    config = toy_system(name, **changes)
    stage = translate_stage(config)
    # with seed 0, the sentences of these systems would all be alike
    state = toy_state(
        stage, seed={"slrt": 1, "gaslt": 1, "nslt": 5, "signbt": 4, "tspnet": 3, "csgcr": 2}.get(name, 0)
    )
    return Setup(config, stage, state, evaluated(stage, state))


@pytest.fixture(scope="module")
def batch():
    return toy_batch(seed=0, clips=4)


@pytest.mark.parametrize("variant", ours_first(name for name in VARIANTS if name not in DECODING))
def test_a_packed_batch_equals_each_clip_alone(batch, variant):
    """For the others, translations and scores show the same."""
    config, stage, _, model = setup(variant)
    batch = batch_for(config, batch)

    @jit
    def compiled(model, batch):
        target = text_stream(batch.decoder_texts.target, batch.decoder_texts.target_mask)
        return teacher_forced(stage, model, batch, target)

    packed = jax.device_get(compiled(model, batch))
    for row in range(len(batch.valid)):
        alone = jax.device_get(compiled(model, one_clip(batch, row)))
        mask = batch.decoder_texts.target_mask[row]
        assert_close(alone[0][mask], packed[row][mask], 2e-5)


@pytest.mark.parametrize("variant", ours_first(DECODING))
def test_a_translation_depends_on_no_other_clip_and_on_no_padding(batch, variant):
    config, stage, state, _ = setup(variant)
    batch = batch_for(config, batch)
    compiled = jit(partial(translator(stage, config), state.params, state.batch_stats))

    def translate(batch):
        found = jax.device_get(compiled(batch))
        return found if found.gate is not None else found._replace(gate=np.ones(found.mask.shape))

    def padding(batch):  # of one shape, to compile everything once; the noise in a clip's row differs
        return padded(batch, rows=2, frames=5, tokens=3)

    packed, clips = translate(padding(batch)), len(batch.valid)
    assert (packed.score[:clips] > IMPOSSIBLE).all(), "with such scores the comparisons would say nothing"
    assert (packed.tokens[clips:] == PAD).all()
    assert not packed.mask[clips:].any()
    for row in range(clips):
        alone = translate(padding(one_clip(batch, row)))
        np.testing.assert_array_equal(alone.tokens[0], packed.tokens[row])
        assert_close(alone.score[0], packed.score[row])
        assert_close(alone.gate[alone.mask], packed.gate[row][packed.mask[row]])
    assert len(np.unique(packed.tokens[:clips, 0], axis=0)) > 1, (
        "if all sentences were alike, this would say little"
    )


@pytest.mark.parametrize(
    "variant", ours_first(name for name in DECODING if name not in ("gaslt", "signbt", "nslt none"))
)
def test_one_beam_equals_greedy_decoding_without_a_cache(batch, variant):
    config, stage, state, model = setup(variant)
    batch = batch_for(config, batch)
    translate = translator(stage, config, beams=1)
    found = jax.device_get(jit(translate)(state.params, state.batch_stats, batch))
    new_tokens = config.decode.max_new_tokens
    place = np.arange(TEXT + 1 + new_tokens)

    @jit
    def next_token(model, batch, tokens, length):
        mask = np.ones((len(batch.valid), 1), bool) & (place < length)
        logits = teacher_forced(stage, model, batch, Stream(tokens, mask, tokens, mask))
        return logits[0, length - 1].at[PAD].set(-jnp.inf).argmax()

    prefix = variant in ("ssl_ssaw", "question_only prefix")
    texts = batch.decoder_texts
    for row in range(len(batch.valid)):
        clip = one_clip(batch, row)
        words = texts.question[row][texts.question_mask[row]][:-2]
        written = [LANGUAGE, *words, EOS, LANGUAGE] if prefix else [LANGUAGE]
        start = len(written)
        while len(written) < start + new_tokens and written[start:][-1:] != [EOS]:
            tokens = np.tile(np.pad(written, (0, len(place) - len(written))), (len(batch.valid), 1))
            last = len(written) == start + new_tokens - 1
            written.append(EOS if last else int(next_token(model, clip, tokens, len(written))))
        np.testing.assert_array_equal(
            found.tokens[row, 0], (written[start:] + [PAD] * new_tokens)[:new_tokens]
        )


@pytest.mark.parametrize("variant", ours_first(AUGMENTING))
def test_a_training_augments_its_frames(batch, variant):
    """Count what is drawn, without compiling; `tests/data/test_augment.py` says what it does to frames."""
    system, name = variant.split()
    changes = {"stage": "pretrain"} if name == "pretrain" else {"warm_start.epochs": 1}
    clips = [ClipInfo("a", 1, "", "", gloss, "") for gloss in ("RAIN", "SNOW", "RAIN", "HERE")]
    plain, augmented = (
        {stage.name: stage for stage in make_stages(toy_system(system, **changes, **more), clips=clips)}[name]
        for more in ({}, {"data.augment.rotation": 5.0})
    )
    model, batch = evaluated(plain, toy_state(plain)), batch_for(toy_system(system, **changes), batch)
    draws = [
        str(jax.make_jaxpr(partial(loss_of, stage))(model, batch, jax.random.key(0))).count("random_bits")
        for stage in (plain, augmented)
    ]
    assert draws[0] < draws[1]


@pytest.mark.parametrize(
    "case",
    ours_first([f"{system} {name}" for system in SYSTEMS for name in (*CHAINS.get(system, ()), "translate")]),
)
def test_a_loss_is_the_weighted_sum_of_its_terms_and_half_in_a_step_with_twice_as_much(batch, case):
    """Give every loss the counts of all micro-batches, as accumulation does."""
    system, name = case.split()
    own_changes, weights = TERMS.get(case, ({}, {}))
    sees_features = "features" in SYSTEMS[system].reads and name != "warm_start"
    changes: dict[str, Any] = {"data.features": tuple("abc"[: SYSTEMS[system].feature_sets * sees_features])}
    changes |= {f"{stage}.epochs": 1 for stage in CHAINS.get(system, ()) if stage != "warm_start"}
    changes |= {"init_from": "before", "warm_start.epochs": int(name == "warm_start")}
    clips = [ClipInfo("a", 1, "", "", gloss, "") for gloss in ("RAIN", "SNOW", "RAIN", "HERE")]
    config = toy_system(system, **changes | own_changes)
    stage = {stage.name: stage for stage in make_stages(config, clips=clips)}[name]
    batch = training_batch(config, batch_for(config, batch))
    texts = batch.decoder_texts
    words = (mask.sum() - mask.any(axis=1).sum() for mask in (texts.question_mask, texts.target_mask))
    counts = [len(batch.valid), batch.frame_count.sum(), *words]

    @jit
    def losses(model, batch):
        key, twice = jax.random.key(0), LossCounts(*(2 * jnp.asarray(count) for count in counts))
        return loss_of(stage, model, batch, key), stage.loss(model, batch, key, twice)

    alone, half = jax.device_get(losses(evaluated(stage, toy_state(stage, seed=4)), batch))
    assert alone[0] > 0.01
    assert_close(half, jax.tree.map(lambda value: value / 2, alone))
    total, parts = alone
    assert all(parts[f"loss_{term}"] > 0.01 for term in weights)
    if weights:
        expected = sum(np.float32(weight) * parts[f"loss_{term}"] for term, weight in weights.items())
        assert_close(total, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("system", "module"), [("ts_slt", streams), ("stmc_t", stmc_t)])
def test_points_are_moved_with_the_pixels_of_their_frames(batch, system, module, monkeypatch):
    """Trace without compiling; `tests/data/test_keypoints.py` says what one key does to both."""
    own = {"model.pose_weight": 1.0} if system == "stmc_t" else {"model.visual": "s3d"}
    stage = make_stages(toy_system(system, **own, **{"data.keypoints": "a set"}))[0]
    keys = []
    for name in ("prepare_frames", "prepare_keypoints"):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, own=original: keys.append(given[2]) or own(*given))
    state = toy_state(stage)
    after, metrics = jax.eval_shape(sgd_step(stage), state, with_keypoints(batch))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics[{"ts_slt": "loss_distill", "stmc_t": "loss_pose"}[system]].shape == ()
    of_pixels, of_points = keys
    assert of_pixels is of_points is not None


def test_each_step_of_a_training_has_its_own_dropout(batch):
    config = toy_system("slrt", **{"model.dropout": 0.1, "data.features": ("a set",)})
    stage, batch = translate_stage(config), batch_for(config, batch)
    step, state = sgd_step(stage), toy_state(stage)
    losses = [float(step(state.replace(step=number), batch)[1]["loss"]) for number in (0, 7, 7)]
    assert losses[0] != losses[1] == losses[2]


def test_a_score_is_divided_by_the_norm_of_the_length_that_the_configuration_names(batch):
    config, stage, state, _ = setup("question_only")
    norms = {"length_penalty": 0.0}, {"length_penalty": 2.0}, {"length_norm": "gnmt"}
    searches = [translator(stage, config, beams=1, **norm) for norm in norms]
    read = state.params, state.batch_stats, batch
    found = jax.device_get(jit(lambda *read: [search(*read) for search in searches])(*read))
    total, squared, gnmt = (one.score[:, 0] for one in found)
    length = (found[0].tokens[:, 0] != PAD).sum(axis=1)
    assert len(set(length)) > 1
    assert_close(squared, total / length**2)
    assert_close(gnmt, total / ((5 + length) / 6))


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["gaslt", "question_only prefix", "nslt"])
def test_a_system_learns_a_batch_by_heart(batch, variant):
    _, stage, *_ = setup(variant)
    optimizer = optax.adam(1e-2)
    state = stage.init(jax.random.key(0), optimizer)
    step = jit(partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer))
    history = []
    for _ in range(60):
        state, metrics = step(state, batch, jax.random.key(1))
        history.append(jax.device_get(metrics))
    assert history[-1]["accuracy"] > 0.95 > 0.3 > history[0]["accuracy"]
    for part in [key for key in metrics if key.startswith("loss")]:
        assert history[-1][part] < 0.3 * history[0][part]


@pytest.mark.parametrize("variant", ours_first(["ssl_ssaw", "question_only prefix", "gaslt", "nslt"]))
def test_a_loss_is_a_mean_over_tokens_or_a_sum_over_them_and_a_mean_over_clips(batch, variant):
    """Expect a mean of the clips' losses if normalized by clips, whatever their lengths."""
    name, changes = VARIANTS[variant]
    model = setup(variant).model

    def losses(normalize):
        stage = translate_stage(toy_system(name, **changes, **{"translate.normalize": normalize}))
        parts = jit(lambda model, batch: loss_of(stage, model, batch)[1])
        found = [parts(model, each) for each in (batch, *map(partial(one_clip, batch), range(4)))]
        return [
            np.array([parts[key] for parts in found])
            for key in ("loss_sentence", "accuracy", "loss_question")
            if key in found[0]
        ]

    texts = batch.decoder_texts
    lengths = [mask.sum(axis=1) - 1 for mask in (texts.target_mask, texts.question_mask)]
    assert len(set(lengths[0])) > 1
    (by_tokens, accuracy, *asked_by_tokens), (by_clips, same, *asked_by_clips) = map(
        losses, ("tokens", "clips")
    )
    assert_close(accuracy, same)
    sentences = [(by_tokens, by_clips), *zip(asked_by_tokens, asked_by_clips)]
    for length, (mean, summed) in zip(lengths, sentences, strict=False):
        assert_close(summed[1:], mean[1:] * length)
        assert_close(summed[0], summed[1:].mean())
        assert_close(mean[0], (mean[1:] * length).sum() / length.sum())


def test_micro_batches_are_one_batch_with_all_their_clips():
    """The batches' texts differ in length, and one batch is empty."""
    stage = translate_stage(toy_system("question_only", **{"model.ssl": "prefix"}))
    batch = toy_batch(seed=1, clips=5)
    parts = [jax.tree.map(lambda x, rows=rows: x[rows], batch) for rows in (slice(0, 3), slice(3, 5))]
    parts = [part.replace(frames=batch.frames) for part in (parts[0], padded(parts[1], rows=1))]
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *parts, jax.tree.map(np.zeros_like, parts[0]))
    step, state = sgd_step(stage), toy_state(stage)
    (large, metrics), (small, same) = step(state, batch), step(state, stacked)
    assert_close(same, metrics)
    assert_close(small.params, large.params)


@pytest.mark.slow
def test_a_frozen_module_keeps_its_parameters_and_statistics_and_uses_them(batch):
    """Freeze a CNN except its last block."""
    stage = translate_stage(toy_system("slrt", **{"model.cnn.resnet.depths": (1, 1)}))
    factors = {"video.cnn": 0.0, "video.cnn.blocks.1": 0.1}
    state = toy_state(stage)
    step = jit(
        partial(
            train_step,
            graphdef=stage.freezing_def(factors),
            loss=stage.loss,
            optimizer=optax.sgd(1.0),
            factors=factors,
        )
    )

    def cnn(tree):
        blocks = tree["video"]["cnn"]["blocks"]
        others = {name: part for name, part in tree["video"]["cnn"].items() if name != "blocks"}
        return (others, blocks[0]), blocks[1]

    after, metrics = step(state, batch, jax.random.key(0))
    for before, now in ((state.params, after.params), (state.batch_stats, after.batch_stats)):
        (frozen, trained), (same, moved) = cnn(before), cnn(now)
        jax.tree.map(np.testing.assert_array_equal, same, frozen)
        assert all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x != y).any()), trained, moved)))
    shifted = jax.tree.map(lambda x: x + 0.5, state.batch_stats["video"]["cnn"]["stem_norm"])
    other = jax.tree.map(lambda x: x, state.batch_stats)
    other["video"]["cnn"]["stem_norm"] = shifted
    _, changed = step(state.replace(batch_stats=other), batch, jax.random.key(0))
    assert float(changed["loss"]) != float(metrics["loss"])


@pytest.mark.parametrize(
    "system", ours_first(["ssl_ssaw", "slrt", "gaslt", "mmtlb", "ts_slt", "gbt", "signbt", "stmc_t"])
)
def test_frames_that_are_stored_four_apart_are_not_pooled_again(batch, system):
    """Trace without compiling."""

    def positions(stride):
        config = toy_system(system, **{"data.frame_stride": stride})
        stage = translate_stage(config)
        model = nnx.eval_shape(lambda: stage.make_model(jax.random.key(0)))
        model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)

        def encode(model, batch):
            found = stage.translation.encode(model, batch)
            return (found[0] if isinstance(found, list) else found).encoder_mask

        return nnx.eval_shape(encode, model, batch_for(config, batch)).shape[1]

    assert positions(4) > positions(1)


@pytest.mark.parametrize("system", ours_first(SYSTEMS))
def test_every_dropout_of_a_configuration_is_one_of_a_model(system):
    """Give each a rate of its own, and look for it in all stages."""
    stages = [stage for stage in ("recognize", "pretrain") if stage in SYSTEMS[system].stages]
    chain = {f"{stage}.epochs": 1 for stage in stages} | {"init_from": "before"}
    tree = to_config_dict(toy_system(system, **chain))
    own = traverse_util.flatten_dict(tree.model.to_dict(), sep=".")
    keys = [key for key in own if key.endswith("dropout") and key.split(".")[0] not in UNUSED.get(system, ())]
    rates = {key: 0.01 * number for number, key in enumerate(keys, 1)}
    tree.model.update_from_flattened_dict(rates)
    makers = [partial(stage.make_model, jax.random.key(0)) for stage in make_stages(read_config(tree))]
    parts = [part for make in makers for _, part in nnx.iter_graph(nnx.eval_shape(make))]
    found = {part.rate for part in parts if isinstance(part, nnx.Dropout)}
    assert found - {0.0} == set(rates.values())


def test_a_sign_transformer_without_the_question_reads_none(batch):
    _, stage, _, model = setup("slrt alone")
    assert not stage.reads_question
    other = dataclasses.replace(
        batch, decoder_texts=batch.decoder_texts._replace(question=batch.decoder_texts.question[::-1])
    )
    encode = jit(lambda model, batch: stage.translation.encode(model, batch).encoder_states)
    first, second = (encode(model, each) for each in (batch, other))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("system", ["ssl_ssaw", "slrt", "gaslt", "gbt", "question_only"])  # which read one
def test_training_questions_lose_words_if_asked_to(system):
    changes = {"model.denoise_targets": 0.0} if system == "question_only" else {}
    clip = ClipInfo("a", 1, " ".join(map(str, range(50))), "", "", "")
    assert translate_stage(toy_system(system, **changes)).ask is None
    ask = translate_stage(toy_system(system, **changes, **{"translate.drop_words": 0.3})).ask
    lengths = {len(ask(clip, np.random.default_rng(seed)).split()) for seed in range(20)}
    assert max(lengths) == 50 and min(lengths) < 45


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["nslt", "nslt bahdanau"])
def test_a_step_in_bfloat16_with_recomputation_keeps_the_state_in_float32(batch, variant):
    name, changes = VARIANTS[variant]
    config = toy_system(name, **changes, **{"compute.dtype": "bfloat16", "compute.remat": True})
    stage, state = translate_stage(config), setup(variant).state
    optimizer = optax.sgd(1.0)
    step = partial(train_step, graphdef=stage.train_def, loss=stage.loss, optimizer=optimizer)
    after, _ = jax.eval_shape(step, state, batch, jax.random.key(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(after.params)} == {"float32"}
    found = jax.eval_shape(translator(stage, config), state.params, state.batch_stats, batch)
    assert found.score.dtype == jnp.float32
