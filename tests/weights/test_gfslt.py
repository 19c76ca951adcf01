"""Checkpoints of the parent project: the same function after import, and clear refusals."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.config.experiment import Config
from sslssaw_jax.data.augment import prepare_frames
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.models.decoder_inputs import Stream
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.systems.ssl_ssaw import encode_batch as encode
from sslssaw_jax.training.sharding import make_mesh, with_shardings
from sslssaw_jax.types import Batch, TrainState
from sslssaw_jax.weights.gfslt import gfslt_checkpoint
from sslssaw_jax.weights.initial_state import WeightsError
from tests.models.test_video_embedding import repeat_edges
from tests.support.gfslt_reference import SLRCLIP, GlossFreeModel, Logger, TextDecoder, save_checkpoint
from tests.support.mbart_reference import relative_error
from tests.support.pytorch import torch
from tests.support.resnet_reference import torch_frames
from tests.support.toy import evaluated, jit, toy_batch, toy_config, toy_state, translate_stage

SIGN_ALONE = {"model.inputs": "video", "model.ssl": "off", "model.fusion.kind": "concat"}


def config_from(checkpoint: Path, **changes: Any) -> Config:
    published = {"model.mbart.activation": "relu", "model.mbart.tied_head": False}
    resnet = {
        "model.cnn.resnet.stem": "conv7_pool",
        "model.cnn.resnet.depths": (1, 1),
        "model.cnn.resnet.width": 4,
    }
    return toy_config(**published | resnet | {"init_from": str(checkpoint)} | SIGN_ALONE | changes)


@pytest.fixture(scope="module")
def tokenizer(tiny_data_dir: Path) -> Tokenizer:
    return load_tokenizer(tiny_data_dir / "avatar_qa" / "1.0.0" / "tokenizer", "en_XX")


@pytest.fixture(scope="module")
def stage_1(tokenizer: Tokenizer) -> tuple[SLRCLIP, TextDecoder]:
    config = config_from(Path("x.pth"))
    models = SLRCLIP(config, tokenizer.vocab_size), TextDecoder(config, tokenizer.vocab_size)
    return models[0].eval(), models[1].eval()


@pytest.fixture(scope="module")
def stage_2(tokenizer: Tokenizer) -> GlossFreeModel:
    return GlossFreeModel(config_from(Path("x.pth")), tokenizer.vocab_size).eval()


def start(config: Config, tokenizer: Tokenizer) -> tuple[Stage, TrainState]:
    stage = translate_stage(config, tokenizer.vocab_size)
    return stage, gfslt_checkpoint(config, tokenizer)(toy_state(stage))


def clips_of(batch: Batch, config: Config) -> list[torch.Tensor]:
    frames = torch_frames(np.asarray(prepare_frames(batch, config.data, None)[0]))
    ends = np.cumsum(batch.frame_count)
    return [
        repeat_edges(frames[end - count : end]) for end, count in zip(ends, batch.frame_count, strict=True)
    ]


def random_tokens(clips: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(4).integers(4, vocab_size, (clips, 5))


def test_stage_2_translates_as_the_parent_does_and_none_of_the_files_code_runs(
    stage_2: GlossFreeModel, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_from(save_checkpoint(tmp_path / "checkpoint.pth", stage_2))
    model = evaluated(*start(config, tokenizer))
    assert Logger.unpickled == []
    report = capsys.readouterr().out
    assert "video, encoder, embedding, decoder loaded" in report
    assert "left out: mbart.model.encoder.embed_tokens.weight (not read" in report
    assert "as initialized" not in report
    assert "model.mbart.video_heads is 2; the published configuration has 8" in report

    batch = toy_batch(seed=0)
    tokens = random_tokens(len(batch.valid), tokenizer.vocab_size)

    @jit
    def logits(model: Any, batch: Batch) -> jax.Array:
        everywhere = jnp.ones(tokens.shape, bool)
        return model.decode(Stream(tokens, everywhere, tokens, everywhere), encode(model, batch, config))

    actual = logits(model, batch)
    for row, clip in enumerate(clips_of(batch, config)):
        with torch.no_grad():
            expected = stage_2(clip, torch.tensor(tokens[row : row + 1]))
        assert relative_error(actual[row], expected[0]) < 1e-5


def test_stage_1_gives_its_video_encoder_and_its_decoder(
    stage_1: tuple[SLRCLIP, TextDecoder],
    tokenizer: Tokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip_model, decoder = stage_1
    path = save_checkpoint(tmp_path / "checkpoint.pth", clip_model, decoder)
    config = config_from(path, **{"model.fusion.kind": "ssaw"})
    stage, state = start(config, tokenizer)
    model = evaluated(stage, state)
    report = capsys.readouterr().out
    assert "not in it, so as initialized: fusion, video.project, video.project_norm" in report
    assert "left out: model_txt.* (the text tower: stage 2 has none)" in report
    before = evaluated(stage, toy_state(stage))
    for module in ("fusion", "video.project", "video.project_norm"):
        kept, random = (
            nnx.to_pure_dict(nnx.state(functools.reduce(getattr, module.split("."), which)))
            for which in (model, before)
        )
        jax.tree.map(np.testing.assert_array_equal, kept, random)

    # stage 1 has no projector: the identity here, since the convolutions' outputs are not negative
    width = config.model.mbart.d_model
    model.video.project.kernel[...], model.video.project.bias[...] = jnp.eye(width), jnp.zeros(width)
    norm = model.video.project_norm
    norm.scale[...], norm.bias[...] = jnp.ones(width), jnp.zeros(width)
    norm.mean[...], norm.var[...] = jnp.zeros(width), jnp.full(width, 1 - 1e-5)
    batch = toy_batch(seed=0)
    tokens = random_tokens(len(batch.valid), tokenizer.vocab_size)

    @jit
    def compute(model: Any, batch: Batch) -> tuple[jax.Array, ...]:
        frames, mask = prepare_frames(batch, config.data, None)
        video, mask = model.video(frames, mask, batch.packed_clips)
        states = model.encoder(video, mask)
        hidden = model.decoder(model.embedding(tokens), jnp.ones(tokens.shape, bool), states, mask)
        return video, mask, states, model.embedding.logits(hidden)

    video, mask, states, logits = compute(model, batch)
    for row, clip in enumerate(clips_of(batch, config)):
        with torch.no_grad():
            features = clip_model.model_images.model(clip)
            their_states = clip_model.model_images.trans_encoder(inputs_embeds=features)[0]
            expected = decoder(their_states, torch.tensor(tokens[row : row + 1]))
        assert relative_error(video[row][mask[row]], features[0]) < 1e-5
        assert relative_error(states[row][mask[row]], their_states[0]) < 1e-5
        assert relative_error(logits[row], expected[0]) < 1e-5


def test_a_checkpoint_that_does_not_fit_is_refused_by_name(
    stage_1: tuple[SLRCLIP, TextDecoder],
    stage_2: GlossFreeModel,
    tokenizer: Tokenizer,
    tiny_data_dir: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "checkpoint.pth"

    def refusal(**changes: Any) -> str:
        with pytest.raises(WeightsError) as refused:
            start(config_from(path, **changes), tokenizer)
        return str(refused.value)

    assert f"there is no {path}" in refusal()
    torch.save({"model": {"x": torch.zeros(2)}}, path)
    assert "is not a checkpoint of GFSLT-VLP" in refusal()
    save_checkpoint(path, stage_2)
    assert "set --config.model.mbart.tied_head=False" in refusal(**{"model.mbart.tied_head": True})
    assert "translates videos" in refusal(**{"model.inputs": "question"})
    state = stage_2.state_dict()
    del state["sign_emb.bn_ac.0.running_mean"]
    state["mbart.model.encoder.layers.0.fc1.weight"] = torch.zeros(2, 3)
    state["mbart.extra"] = torch.zeros(2)
    torch.save({"model": state}, path)
    assert refusal().splitlines() == [
        f"{path} does not fit this model:",
        "  mbart.extra: (2,) in the file, unknown in the model",
        "  mbart.model.encoder.layers.0.fc1.weight: (2, 3) in the file, (24, 16) in the model",
        "  sign_emb.bn_ac.0.running_mean: missing in the file, (16,) in the model",
    ]
    torch.save({"model": GlossFreeModel(config_from(path), 40).state_dict()}, path)
    assert f"embeds 40 tokens, but the tokenizer has {tokenizer.vocab_size}" in refusal()

    save_checkpoint(path, stage_1[0])  # of train_vlp.py
    config = config_from(path, **{"data.data_dir": str(tiny_data_dir)})
    with pytest.raises(WeightsError, match=r"holds no decoder, embedding, video\.project, .*train_slt\.py"):
        Experiment(config, tmp_path / "run").run("eval")
    assert not (tmp_path / "run").exists()


def test_a_whole_model_is_read_and_a_head_that_is_the_embedding_is_one_with_it(
    stage_2: GlossFreeModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    state = stage_2.state_dict()
    state["mbart.lm_head.weight"] = state["mbart.model.decoder.embed_tokens.weight"]
    torch.save({"model": state}, tmp_path / "checkpoint.pth")
    config = config_from(tmp_path / "checkpoint.pth", **{"model.mbart.tied_head": True})
    stage = translate_stage(config, tokenizer.vocab_size)
    nothing = with_shardings(stage.abstract_state(), make_mesh(config.mesh))
    started = gfslt_checkpoint(config, tokenizer, whole=True)(nothing)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((started.params, started.batch_stats)))
    np.testing.assert_array_equal(
        started.params["embedding"]["embed"]["embedding"][...], state["mbart.lm_head.weight"]
    )
