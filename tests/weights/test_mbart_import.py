"""Pretrained mBART in and out: the same function as PyTorch's, every tensor in its place, clear refusals."""

import dataclasses
import functools
import json
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from configs import phoenix_stage2
from sslssaw_jax.config.experiment import Config, MeshConfig
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.stages.losses import cross_entropy
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.systems import read_config
from sslssaw_jax.training.sharding import make_mesh, with_shardings
from sslssaw_jax.types import TrainState
from sslssaw_jax.weights.initial_state import InitialWeights, WeightsError
from sslssaw_jax.weights.mbart import (
    HEAD,
    INPUT_TABLES,
    SHARED,
    load_mbart,
    pretrained_mbart,
    to_hugging_face,
)
from sslssaw_jax.weights.torch_files import Checkpoint, find_model
from sslssaw_jax.weights.torch_layout import choose_layers
from tests.support.mbart_reference import (
    CONFIG,
    VOCAB_SIZE,
    import_mbart,
    random_hugging_face,
    random_pair,
    random_tokens,
    relative_error,
)
from tests.support.pytorch import torch
from tests.support.toy import jit, pretrain_stage, toy_config, toy_state, translate_stage

DEEP = dataclasses.replace(CONFIG, text_layers=5, decoder_layers=4, ffn_dim=24, d_model=16)
VARIANTS = {
    "tied gelu": CONFIG,
    "untied": dataclasses.replace(CONFIG, tied_head=False),
    "relu": dataclasses.replace(CONFIG, activation="relu"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of an mBART that is deeper than our models."""
    folder = tmp_path_factory.mktemp("mbart")
    random_hugging_face(1, DEEP).save_pretrained(folder)
    return folder


def compute_logits(model, embedded, embedded_mask, target, target_mask):
    states = model.encoder(embedded, embedded_mask)
    hidden = model.decoder(model.embedding(target), target_mask, states, embedded_mask)
    return model.embedding.logits(hidden)


def smoothed_loss(params, graphdef, embedded, embedded_mask, target, target_mask, labels):
    model = nnx.merge(graphdef, params)
    logits = compute_logits(model, embedded, embedded_mask, target, target_mask)
    return cross_entropy(logits, labels, target_mask, target_mask.sum(), 0.2), logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_every_gradient_equal_pytorchs(variant: str) -> None:
    """From `inputs_embeds` with padding: logits, label-smoothed loss, and its gradient for each tensor."""
    config = dataclasses.replace(VARIANTS[variant], text_layers=1, decoder_layers=1)
    theirs, ours = random_pair(3, config=config)
    rng = np.random.default_rng(3)
    embedded = rng.normal(size=(3, 9, config.d_model)).astype(np.float32)
    embedded_mask = np.arange(9) < np.array([9, 4, 6])[:, None]
    target, target_mask = random_tokens(rng, [4, 6, 3])
    labels = rng.integers(5, VOCAB_SIZE, target.shape)

    expected = theirs(
        inputs_embeds=torch.tensor(embedded),
        attention_mask=torch.tensor(embedded_mask),
        decoder_input_ids=torch.tensor(target),
        decoder_attention_mask=torch.tensor(target_mask),
    ).logits
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.2)(
        expected.flatten(0, 1), torch.tensor(np.where(target_mask, labels, -100)).flatten()
    )
    loss.backward()

    graphdef, params = nnx.split(ours)
    value_and_grad = jax.value_and_grad(smoothed_loss, has_aux=True)
    (own_loss, logits), gradients = jit(value_and_grad, static_argnums=1)(
        params, graphdef, embedded, embedded_mask, target, target_mask, labels
    )
    assert relative_error(logits, expected.detach(), target_mask) < 1e-5
    np.testing.assert_allclose(own_loss, loss.detach(), rtol=1e-5)
    own = to_hugging_face(nnx.to_pure_dict(gradients), "encoder")
    compared = 0
    for name, weight in theirs.named_parameters():
        if weight.grad is None:  # tables that this loss does not read
            assert not config.tied_head and name in (SHARED, *INPUT_TABLES)
            continue
        expected_gradient = weight.grad.numpy()
        if np.abs(expected_gradient).max() < 1e-6:  # keys' biases: softmax does not see them
            assert np.abs(own[name]).max() < 1e-6, name
            continue
        assert relative_error(own[name], expected_gradient) < 1e-4, name
        compared += 1
    assert compared >= 50


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_return_bit_for_bit(variant: str, tmp_path: Path) -> None:
    config = VARIANTS[variant]
    theirs = random_hugging_face(4, config)
    theirs.save_pretrained(tmp_path)
    back = to_hugging_face(nnx.to_pure_dict(nnx.state(import_mbart(tmp_path, config))), "encoder")
    saved = load_file(tmp_path / "model.safetensors")
    if not config.tied_head:
        saved[SHARED] = saved[INPUT_TABLES[1]]  # untied, nothing reads the shared one
    assert back.keys() == saved.keys()
    assert len(saved) == (96 if config.tied_head else 99)
    for name, value in saved.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


MAKERS: dict[str, Callable[[Config, int], Stage]] = {"stage 1": pretrain_stage, "stage 2": translate_stage}


def sized_config(**changes: object) -> Config:
    """The toy's configuration, with mBART parts as wide as `DEEP` and less deep."""
    sizes = {"d_model": 16, "ffn_dim": 24, "max_positions": 32, "text_layers": 5}
    sizes |= {"video_layers": 3, "decoder_layers": 2}
    texts = {"data.max_question_tokens": 8, "data.max_target_tokens": 8}
    return toy_config(**{f"model.mbart.{key}": value for key, value in sizes.items()} | texts | changes)


def empty_state(stage: Stage) -> TrainState:
    """The stage's state without values."""
    mesh = make_mesh(MeshConfig())
    return with_shardings(stage.abstract_state(), mesh)


@functools.cache
def template(stage: str) -> TrainState:
    return empty_state(MAKERS[stage](sized_config(), VOCAB_SIZE))


def load_params(state: TrainState, checkpoint: Checkpoint, **options: str) -> nnx.State:
    return load_mbart(state, checkpoint, **options).params


@pytest.mark.parametrize("layers", ["first", "spread"])
def test_shallower_parts_get_the_layers_that_the_configuration_names(folder: Path, layers: str) -> None:
    chosen = {
        "first": {"text_encoder": [0, 1, 2, 3, 4], "video_encoder": [0, 1, 2], "decoder": [0, 1]},
        "spread": {"text_encoder": [0, 1, 2, 3, 4], "video_encoder": [0, 2, 4], "decoder": [0, 3]},
    }[layers]
    saved = load_file(folder / "model.safetensors")
    params = load_params(template("stage 1"), Checkpoint(folder), pretrained_layers=layers)
    for module, numbers in chosen.items():
        half = "decoder" if module == "decoder" else "encoder"
        for own, number in enumerate(numbers):
            np.testing.assert_array_equal(
                params[module]["layers"][own]["feed_forward"]["fc1"]["kernel"][...].T,
                saved[f"model.{half}.layers.{number}.fc1.weight"],
            )
    np.testing.assert_array_equal(params["embedding"]["embed"]["embedding"][...], saved[SHARED])
    for wanted, numbers in ((3, [0, 6, 11]), (1, [0])):
        assert choose_layers("spread", "decoder", wanted, 12, Checkpoint(folder)) == numbers


def change(folder: Path, to: Path, **tensors: np.ndarray | None) -> Checkpoint:
    """A copy of the checkpoint with tensors (dots as double underscores) replaced, added or removed."""
    saved = load_file(folder / "model.safetensors")
    for name, value in tensors.items():
        name = name.replace("__", ".")
        saved.pop(name, None)
        if value is not None:
            saved[name] = value
    save_file(saved, to / "model.safetensors")
    return Checkpoint(to)


@pytest.mark.parametrize("stage", MAKERS)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model__decoder__layers__0__encoder_attn__k_proj__bias": None},
         r"model\.decoder\.layers\.0\.encoder_attn\.k_proj\.bias: missing in the file, \(16,\) in the model"),
        ({"model__encoder__layers__0__adapter__weight": np.zeros(3, np.float32)},
         r"model\.encoder\.layers\.0\.adapter\.weight: \(3,\) in the file, unknown in the model"),
        ({"model__encoder__layers__1__fc2__weight": np.zeros((16, 20), np.float32)},
         r"model\.encoder\.layers\.1\.fc2\.weight: \(16, 20\) in the file, \(16, 24\) in the model"),
        ({"model__decoder__embed_positions__weight": np.zeros((66, 16), np.float32)},
         r"model\.decoder\.embed_positions\.weight: \(66, 16\) in the file, \(34, 16\) in the model"),
    ],
    ids=["missing", "extra", "misshaped", "positions"],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(
    folder: Path, tmp_path: Path, stage: str, changes: dict[str, np.ndarray | None], told: str
) -> None:
    checkpoint = change(folder, tmp_path, **changes)
    with pytest.raises(WeightsError, match=told):
        load_mbart(template(stage), checkpoint)


def test_a_part_deeper_than_the_checkpoint_is_refused(folder: Path) -> None:
    config = sized_config(**{"model.mbart.decoder_layers": 6})
    with pytest.raises(WeightsError, match=r"the decoder has 6 layers and its counterpart in .* 4"):
        load_mbart(empty_state(translate_stage(config, VOCAB_SIZE)), Checkpoint(folder))


def test_tables_that_are_one_here_must_be_equal_there(folder: Path, tmp_path: Path) -> None:
    table = load_file(folder / "model.safetensors")[SHARED]
    tied, untied = (
        empty_state(translate_stage(sized_config(**{"model.mbart.tied_head": head}), VOCAB_SIZE))
        for head in (True, False)
    )
    names = (name.replace(".", "__") for name in (*INPUT_TABLES, HEAD))
    copies = change(folder, tmp_path, **dict.fromkeys(names, table))
    np.testing.assert_array_equal(load_params(tied, copies)["embedding"]["embed"]["embedding"][...], table)

    with_head = change(folder, tmp_path, lm_head__weight=table + 1)
    with pytest.raises(WeightsError, match=r"lm_head\.weight .*--config\.model\.mbart\.tied_head=False"):
        load_mbart(tied, with_head)
    embedding = load_params(untied, with_head)["embedding"]
    np.testing.assert_array_equal(embedding["lm_head"]["embedding"][...], table + 1)
    np.testing.assert_array_equal(embedding["embed"]["embedding"][...], table)
    from_tied = load_params(untied, Checkpoint(folder))["embedding"]
    np.testing.assert_array_equal(from_tied["lm_head"]["embedding"][...], table)

    with pytest.raises(WeightsError, match=r"model\.encoder\.embed_tokens\.weight and model\.shared"):
        load_mbart(tied, change(folder, tmp_path, model__encoder__embed_tokens__weight=table + 1))


def write_as(kind: str, folder: Path, to: Path) -> None:
    tensors = {name: torch.tensor(value) for name, value in load_file(folder / "model.safetensors").items()}
    if kind == "sharded safetensors":
        shards = {name: f"model-{i % 2 + 1}-of-2.safetensors" for i, name in enumerate(sorted(tensors))}
        for shard in set(shards.values()):
            save_file({n: tensors[n].numpy() for n in tensors if shards[n] == shard}, to / shard)
        (to / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    else:
        tensors["lm_head.weight"] = tensors[SHARED]  # one storage under two names
        torch.save(tensors, to / "pytorch_model.bin", _use_new_zipfile_serialization=kind != "old pytorch")


@pytest.mark.parametrize("kind", ["sharded safetensors", "pytorch", "old pytorch"])
def test_every_format_holds_the_same_weights(folder: Path, tmp_path: Path, kind: str) -> None:
    write_as(kind, folder, tmp_path)
    expected, actual = (
        jax.tree.leaves(load_params(template("stage 2"), Checkpoint(path))["decoder"])
        for path in (folder, tmp_path)
    )
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    value = torch.randn(3, 5).to(dtype)
    save_file({"x": value}, tmp_path / "model.safetensors")
    torch.save({"x": value}, tmp_path / "x.pth")
    for path in (tmp_path, tmp_path / "x.pth"):
        read = Checkpoint(path).read("x")
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, value.float())


def test_files_that_cannot_be_read_are_told_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no weights; expected one of model\.safetensors"):
        Checkpoint(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read: .*download it again"):
        Checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"x": "model-1-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"lacks model-1-of-2\.safetensors"):
        Checkpoint(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="not a plain state dict: epoch"):
        Checkpoint(tmp_path / "x.pth")
    (tmp_path / "y.bin").write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=r"y\.bin cannot be read"):
        Checkpoint(tmp_path / "y.bin")


def test_a_name_is_looked_up_on_the_hub_and_a_path_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns[-1]))
        if "safetensors" in allow_patterns[-1]:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache, and no network")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert find_model(folder) == folder
    with pytest.raises(WeightsError, match=r"^there is no \./pretrained/mbart$"):
        find_model("./pretrained/mbart")
    assert asked == []
    assert find_model("facebook/mbart") == folder
    assert asked == [("facebook/mbart", "model*.safetensors*"), ("facebook/mbart", "pytorch_model*.bin*")]


def test_a_name_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"no folder nobody/nothing, nor .* Hugging Face hub: \w"):
        find_model("nobody/nothing")


def test_a_download_that_breaks_off_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.HfHubHTTPError.__bases__[0]("")  # without a message, as of a broken line

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(WeightsError, match=r"hub: HTTPError\(.*Run again to continue"):
        find_model("nobody/nothing")


@pytest.fixture(scope="module")
def with_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like those that `trim` writes, with the sizes of `sized_config`."""
    folder = tmp_path_factory.mktemp("pretrained") / "mbart"
    train_tokenizer(["rain in the north", "snow in the south", "sun in the east"] * 3, folder, vocab_size=30)
    vocab_size = load_tokenizer(folder, "en_XX").vocab_size
    random_hugging_face(5, DEEP, vocab_size).save_pretrained(folder)
    return folder


def starting_from(folder: Path | str, data_dir: Path, **changes: object) -> Config:
    places = {"data.data_dir": str(data_dir), "model.mbart.weights": str(folder)}
    return sized_config(**{"data.tokenizer": str(folder), **places, **changes})


@pytest.mark.parametrize("stage", MAKERS)
def test_a_stage_from_scratch_starts_from_the_weights(
    stage: str, with_tokenizer: Path, tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"init_from": None, "stage": "pretrain" if stage == "stage 1" else "translate"}
    config = starting_from(with_tokenizer, tiny_data_dir, **changes)
    started: list[TrainState] = []

    def train(
        stage: Stage, *_: object, start: Callable[[TrainState], TrainState], **__: object
    ) -> TrainState:
        started.append(start(toy_state(stage)))
        return started[0]

    monkeypatch.setattr("sslssaw_jax.experiment.experiment.train", train)
    monkeypatch.setattr("sslssaw_jax.experiment.run_data.require_written_targets", lambda *_: None)
    Experiment(config, tmp_path)._train(0)
    encoder = started[0].params["video_encoder" if stage == "stage 1" else "encoder"]
    saved = load_file(with_tokenizer / "model.safetensors")
    np.testing.assert_array_equal(
        encoder["layer_norm"]["scale"][...], saved["model.encoder.layer_norm.weight"]
    )
    assert np.abs(started[0].params["video"]["cnn"]["stem"]["kernel"][...]).max() > 0


@pytest.mark.parametrize(
    ("begun", "changes"),
    [(True, {}), (False, {"model.inputs": "question", "model.mbart.weights": None})],
    ids=["a run that has begun", "a run that reads no video"],
)
def test_a_run_demands_no_weights_that_it_has_no_use_for(
    begun: bool,
    changes: dict[str, str | None],
    tiny_data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = {
        "data.tokenizer": str(tiny_data_dir / "avatar_qa" / "1.0.0" / "tokenizer"),
        "model.cnn.weights": "./absent.pth",
        "model.cnn.resnet.stem": "conv7_pool",
    }
    config = starting_from("./absent", tiny_data_dir, init_from=None, **absent | changes)
    if begun:
        (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    trained = types.SimpleNamespace(step=0, params={})
    monkeypatch.setattr("sslssaw_jax.experiment.experiment.train", lambda *_, **__: trained)
    Experiment(config, tmp_path)._train(0)
    assert (tmp_path / "finished.json").exists()


def test_weights_of_another_tokenizer_or_function_are_refused(
    folder: Path, with_tokenizer: Path, tiny_data_dir: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(with_tokenizer, "en_XX")
    other = load_tokenizer(tiny_data_dir / "avatar_qa" / "1.0.0" / "tokenizer", "en_XX")

    def pretrained(config: Config, tokenizer: Tokenizer) -> InitialWeights:
        return pretrained_mbart(config.model.mbart, config.data, tokenizer)

    told = rf"embeds 40 tokens, but the tokenizer has {tokenizer.vocab_size}: trim facebook/mbart-large-cc25"
    with pytest.raises(WeightsError, match=told):
        pretrained(starting_from(folder, tiny_data_dir), tokenizer)
    random_hugging_face(5, DEEP, other.vocab_size).save_pretrained(tmp_path)
    shutil.copy(with_tokenizer / "sentencepiece.bpe.model", tmp_path)
    with pytest.raises(WeightsError, match=r"its own tokenizer .* the run's is another"):
        pretrained(starting_from(tmp_path, tiny_data_dir), other)
    relu = starting_from(with_tokenizer, tiny_data_dir, **{"model.mbart.activation": "relu"})
    told = r"activation_function='gelu'; here it is 'relu': add --config\.model\.mbart\.activation=gelu$"
    with pytest.raises(WeightsError, match=told):
        pretrained(relu, tokenizer)
    shutil.copytree(with_tokenizer, tmp_path / "swish")
    file = tmp_path / "swish" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"activation_function": "swish"}))
    with pytest.raises(WeightsError, match=r"'swish'; here it is 'gelu': such weights cannot be used$"):
        pretrained(starting_from(tmp_path / "swish", tiny_data_dir), tokenizer)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"activation_function": "gelu"}))
    pretrained(starting_from(tmp_path / "swish", tiny_data_dir), tokenizer)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scale_embedding": False}))
    with pytest.raises(WeightsError, match=r"scale_embedding=False; here it is True: such weights cannot"):
        pretrained(starting_from(tmp_path / "swish", tiny_data_dir), tokenizer)


def test_absent_weights_are_told_with_the_download_and_the_way_without(
    tiny_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = phoenix_stage2.get_config()
    tree.data.update({"data_dir": str(tiny_data_dir), "dataset": "avatar_qa"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError) as refused:
        Experiment(read_config(tree), tmp_path)
    trim = f"trim --model=facebook/mbart-large-cc25 --data_dir={tiny_data_dir} --dataset=avatar_qa --out="
    assert trim + tree.model.mbart.weights in str(refused.value)
    assert "--config.model.mbart.weights= (and" in str(refused.value)
