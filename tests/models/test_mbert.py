"""The mBERT text tower (Table 6): BERT's function, tokenizer and weights, and its place in both stages."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from flax import nnx, traverse_util
from safetensors.numpy import load_file, save_file

from sslssaw_jax.config.experiment import MeshConfig
from sslssaw_jax.data.batches import train_batches
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.mbart_tokenizer import TokenizerError, load_tokenizer
from sslssaw_jax.data.mbert_tokenizer import load_bert_tokenizer, make_bert_tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.mbert import Bert, MBertConfig
from sslssaw_jax.systems.ssl_ssaw import encode_batch as encode
from sslssaw_jax.training.sharding import make_mesh, with_shardings
from sslssaw_jax.types import Texts
from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.weights.mbart import load_mbart
from sslssaw_jax.weights.mbert import bert_tokenizer, pretrained_mbert
from sslssaw_jax.weights.torch_files import Checkpoint
from tests.support.mbart_reference import random_hugging_face, relative_error
from tests.support.pretrained import load_part
from tests.support.pytorch import torch
from tests.support.toy import (
    NO_DROPOUT,
    VOCAB_SIZE,
    assert_close,
    evaluated,
    jit,
    loss_of,
    padded,
    pretrain_stage,
    toy_batch,
    toy_config,
    toy_state,
    translate_stage,
)

BERT_VOCAB_SIZE = 30
SIZES = MBertConfig(d_model=12, ffn_dim=20, num_layers=2, heads=3, max_positions=16)
DEEP = dataclasses.replace(SIZES, num_layers=5)
MBERT = {"model.text_encoder": "mbert"} | {
    f"model.mbert.{key}": getattr(SIZES, key)
    for key in ("d_model", "ffn_dim", "num_layers", "heads", "max_positions")
}
CONFIG = toy_config(
    **MBERT | NO_DROPOUT,
    **{f"model.mbert.{key}": 0.0 for key in ("dropout", "attention_dropout")},
    **{"data.max_question_tokens": 16, "data.max_target_tokens": 16},
)


def random_bert(config: MBertConfig) -> transformers.BertModel:
    """Hugging Face's model with every weight, bias and scale random."""
    torch.manual_seed(0)
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=BERT_VOCAB_SIZE,
            hidden_size=config.d_model,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.heads,
            intermediate_size=config.ffn_dim,
            max_position_embeddings=config.max_positions,
        )
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "LayerNorm.weight" in name else 0.0, 0.3)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    random_bert(DEEP).save_pretrained(folder)
    return folder


def imported(config: MBertConfig, folder: Path) -> Bert:
    bert = nnx.eval_shape(lambda: Bert(config, BERT_VOCAB_SIZE, dtype=jnp.float32, rngs=Keys(0)))
    weights = pretrained_mbert(dataclasses.replace(config, weights=str(folder)))
    loaded = load_part(nnx.Dict(bert=bert), "text_encoder", weights)
    return nnx.view(loaded.bert, deterministic=True)


def values_of(bert: Bert) -> Any:
    return nnx.to_pure_dict(nnx.state(bert, nnx.Param))


def random_texts(seed: int, length: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.arange(length) < np.array([length, 3, 5])[:, None]
    return rng.integers(0, BERT_VOCAB_SIZE, mask.shape), mask


def test_states_and_every_gradient_equal_pytorchs(tmp_path: Path) -> None:
    theirs = random_bert(SIZES)
    theirs.save_pretrained(tmp_path)
    ids, mask = random_texts(1)
    cotangent = np.random.default_rng(2).normal(size=(*ids.shape, SIZES.d_model)) * mask[..., None]
    states = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state
    (states * torch.tensor(cotangent)).sum().backward()

    @jit
    def states_and_gradients(params: nnx.State) -> Any:
        def objective(params: nnx.State) -> tuple[jax.Array, jax.Array]:
            found = nnx.merge(graphdef, params)(ids, mask)
            return (found * cotangent).sum(), found

        return jax.grad(objective, has_aux=True)(params)

    graphdef, params = nnx.split(imported(SIZES, tmp_path))
    gradients, found = states_and_gradients(params)
    assert relative_error(found, states.detach(), mask) < 1e-5

    own = traverse_util.flatten_dict(nnx.to_pure_dict(gradients))
    expected = {
        name: weight.grad.numpy() for name, weight in theirs.named_parameters() if weight.grad is not None
    }
    assert len(own) == len(expected) == 5 + 16 * SIZES.num_layers  # all but the pooler
    save_file(expected, tmp_path / "gradients.safetensors")
    reread = values_of(imported(SIZES, tmp_path / "gradients.safetensors"))
    for path, value in traverse_util.flatten_dict(reread).items():
        if np.abs(value).max() < 1e-5:  # keys' biases: softmax does not see them
            assert np.abs(own[path]).max() < 1e-5, path
        else:
            assert relative_error(own[path], value) < 1e-4, path


def published(folder: Path, to: Path, **tensors: np.ndarray) -> None:
    """Like the files on the hub: a prefix, TensorFlow's names for LayerNorm, and the heads of pretraining."""
    saved = load_file(folder / "model.safetensors") | {"embeddings.position_ids": np.arange(16)[None]}
    names = {name: f"bert.{name}" for name in saved}
    for old, new in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        names = {name: theirs.replace(old, new) for name, theirs in names.items()}
    heads = {"cls.predictions.bias": np.zeros(30), "cls.seq_relationship.weight": np.zeros((2, 12))}
    written = {names[name]: value for name, value in saved.items()} | heads | tensors
    torch.save({name: torch.tensor(value) for name, value in written.items()}, to / "pytorch_model.bin")


def test_published_files_give_the_same_weights(folder: Path, tmp_path: Path) -> None:
    published(folder, tmp_path)
    plain, renamed = (values_of(imported(DEEP, path)) for path in (folder, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, plain, renamed)


@pytest.mark.parametrize(("layers", "chosen"), [("first", [0, 1]), ("spread", [0, 4])])
def test_a_shallower_tower_gets_the_layers_that_the_configuration_names(
    folder: Path, layers: str, chosen: list[int]
) -> None:
    saved = load_file(folder / "model.safetensors")
    params = values_of(imported(dataclasses.replace(SIZES, pretrained_layers=layers), folder))
    for own, number in enumerate(chosen):
        np.testing.assert_array_equal(
            params["layers"][own]["fc1"]["kernel"].T,
            saved[f"encoder.layer.{number}.intermediate.dense.weight"],
        )


def test_weights_that_do_not_fit_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    def refusal(config: MBertConfig, path: Path = tmp_path) -> str:
        with pytest.raises(WeightsError) as refused:
            imported(config, path)
        return str(refused.value)

    published(folder, tmp_path, **{"bert.encoder.layer.0.adapter.weight": np.zeros(2)})
    assert refusal(dataclasses.replace(DEEP, max_positions=9)).splitlines()[1:] == [
        "  embeddings.position_embeddings.weight: (16, 12) in the file, (9, 12) in the model",
        "  encoder.layer.0.adapter.weight: (2,) in the file, unknown in the model",
    ]
    assert f"text_encoder has 6 layers and its counterpart in {tmp_path} 5" in refusal(
        dataclasses.replace(DEEP, num_layers=6)
    )
    told = "num_attention_heads=3; here it is 2: add --config.model.mbert.heads=3"
    assert told in refusal(dataclasses.replace(DEEP, heads=2), folder)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("hidden_act", "relu"), ("position_embedding_type", "relative_key"), ("layer_norm_eps", 1e-5)],
)
def test_a_bert_of_another_function_is_refused(
    setting: str, value: object, folder: Path, tmp_path: Path
) -> None:
    """The shapes of all tensors are the same."""
    settings = json.loads((folder / "config.json").read_text()) | {setting: value}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    with pytest.raises(
        WeightsError, match=f"{setting}={value!r}; here it is .*: such weights cannot be used"
    ):
        pretrained_mbert(dataclasses.replace(DEEP, weights=str(tmp_path)))


TEXTS = [
    "today there is rain in the north",
    "today there is snow, and 3.5 degrees",
    "im süden schneefälle",
    "明天北部下雨",
]


def test_a_tokenizer_of_its_own_reads_as_transformers_does_and_cuts_before_sep(tmp_path: Path) -> None:
    tokenizer = make_bert_tokenizer(TEXTS)
    vocabulary = {piece: i for i, piece in enumerate(tokenizer.pieces(range(tokenizer.vocab_size)))}
    reference = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=False)
    reference.save_pretrained(tmp_path)
    loaded = load_bert_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert make_bert_tokenizer(reversed(TEXTS)).fingerprint == tokenizer.fingerprint
    for text in [*TEXTS, "today [MASK] is nothing", "unknown % signs"]:
        masked = text.replace("[MASK]", tokenizer.mask_token)
        assert tokenizer.encode(masked, 99) == loaded.encode(masked, 99) == reference(text).input_ids
    assert tokenizer.pieces(tokenizer.encode(f"today {tokenizer.mask_token} nord", 7)) == (
        ["[CLS]", "today", "[MASK]", "n", "##o", "##r", "[SEP]"]
    )
    in_a_text = tokenizer.pieces(tokenizer.encode("today [SEP] [MASK]", 99))
    assert in_a_text[-1] == "[SEP]" and not {"[SEP]", "[MASK]"} & set(in_a_text[:-1])


def test_what_is_no_bert_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"holds no tokenizer\.json: download"):
        load_bert_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_bert_tokenizer(tmp_path)
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    with pytest.raises(TokenizerError, match=r"has no \[PAD\], \[CLS\]"):
        load_bert_tokenizer(tmp_path)

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain"]
    for kind, vocab, told in (
        ("WordLevel", dict(zip(words, range(6))), "it is a WordLevel"),
        ("WordPiece", dict(zip(words, [0, 1, 2, 3, 4, 7])), "have gaps"),
    ):
        model = {"type": kind, "vocab": vocab, "unk_token": "[UNK]"}
        if kind == "WordPiece":
            model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
        with pytest.raises(TokenizerError, match=told):
            load_bert_tokenizer(tmp_path)


def test_a_tokenizer_of_another_model_than_its_weights_is_refused(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain"]
    model = {
        "type": "WordPiece",
        "vocab": {word: number for number, word in enumerate(words)},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    config = dataclasses.replace(SIZES, weights=str(tmp_path))
    for rows in (6, 8):
        table = {"bert.embeddings.word_embeddings.weight": np.zeros((rows, 12), np.float32)}
        save_file(table, tmp_path / "model.safetensors")
        if rows == 6:
            assert bert_tokenizer(config, None).vocab_size == 6
    with pytest.raises(WeightsError, match=r"embeds 8 tokens, but its tokenizer\.json has 6"):
        bert_tokenizer(config, None)


def test_a_batch_holds_what_each_tower_reads(tiny_data_dir: Path) -> None:
    source = ClipSource(find_dataset(tiny_data_dir, "avatar_qa"), "train")
    text_tower = make_bert_tokenizer(clip.target for clip in source.clips)
    mbart = load_tokenizer(source.dataset.tokenizer_folder, "en_XX")
    both = load_tokenizer(source.dataset.tokenizer_folder, "en_XX", text_tower)
    data = dataclasses.replace(CONFIG.data, max_frames=32, num_threads=1)
    stage = dataclasses.replace(CONFIG.pretrain, epochs=1, clips_per_batch=5, frame_budget=160)
    alone, batch = (
        next(train_batches(source, tokenizer, data, stage, 0).iterator()) for tokenizer in (mbart, both)
    )
    assert alone.text_tower_texts is alone.decoder_texts
    for key in ("frames", "index"):
        np.testing.assert_array_equal(getattr(batch, key), getattr(alone, key))
    jax.tree.map(np.testing.assert_array_equal, batch.decoder_texts, alone.decoder_texts)
    texts = batch.text_tower_texts
    for row, index in enumerate(batch.index[batch.valid]):
        clip = source.clips[index]
        question = texts.question[row][texts.question_mask[row]].tolist()
        target = texts.target[row][texts.target_mask[row]].tolist()
        assert question == text_tower.encode(clean_question(clip.question), 16)
        assert target == text_tower.encode(clip.target, 16)
        masked = text_tower.pieces(batch.masked_target[row][batch.masked_target_mask[row]].tolist())
        assert masked[0] == "[CLS]" and masked[-1] == "[SEP]" and "[MASK]" in masked
        unmasked = text_tower.pieces(target)
        assert all(piece in (other, "[MASK]") for piece, other in zip(masked, unmasked, strict=True))


def bert_batch(seed: int = 0) -> Any:
    """A toy batch with different texts for BERT."""
    texts = Texts(*random_texts(seed), *random_texts(seed + 1))
    return toy_batch(seed).replace(
        text_tower_texts=texts, masked_target=texts.target, masked_target_mask=texts.target_mask
    )


def with_more_padding(batch: Any) -> Any:
    """Noise after every text."""
    rng = np.random.default_rng(3)

    def longer(text: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        noise = rng.integers(0, BERT_VOCAB_SIZE, (len(text), 4))
        return np.hstack([text, noise]), np.pad(mask, ((0, 0), (0, 4)))

    bert = Texts(
        *longer(batch.text_tower_texts.question, batch.text_tower_texts.question_mask),
        *longer(batch.text_tower_texts.target, batch.text_tower_texts.target_mask),
    )
    return padded(batch, tokens=4).replace(
        text_tower_texts=bert, masked_target=bert.target, masked_target_mask=bert.target_mask
    )


def with_other_words(batch: Any, name: str) -> Any:
    """Other words in mBART's question or target, but the same ones in BERT's."""
    ids = getattr(batch.decoder_texts, name)
    other = {name: np.where(ids > 5, 45 - ids, ids)}
    return batch.replace(decoder_texts=batch.decoder_texts._replace(**other))


@pytest.mark.slow
def test_stage_1_reads_the_sentence_at_sep_and_restores_mbarts_words() -> None:
    stage = pretrain_stage(CONFIG, VOCAB_SIZE, BERT_VOCAB_SIZE)
    model, batch = evaluated(stage, toy_state(stage)), bert_batch()

    @jit
    def outcome(model: Any, batch: Any) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        tokens, mask = batch.text_tower_texts.target, batch.text_tower_texts.target_mask
        states = model.text_projection(model.text_encoder(tokens, mask))
        feature = model.text_features(model.read(tokens, mask), mask)[0][:, 0]
        return states, feature, loss_of(stage, model, batch)[1]

    states, feature, metrics = outcome(model, batch)
    last = batch.text_tower_texts.target_mask.sum(axis=1) - 1
    assert_close(feature, states[np.arange(len(last)), last])
    assert_close(outcome(model, with_more_padding(batch))[2], metrics)

    read = batch.replace(
        text_tower_texts=batch.text_tower_texts._replace(
            target=(batch.text_tower_texts.target + 1) % BERT_VOCAB_SIZE
        )
    )
    written = with_other_words(batch, "target")
    for changed, moved in ((read, "loss_similarity"), (written, "loss_restore")):
        found = outcome(model, changed)[2]
        differ = {key for key in ("loss_similarity", "loss_restore") if abs(found[key] - metrics[key]) > 1e-3}
        assert differ == {moved}


@pytest.mark.slow
def test_stage_2_fuses_what_mbert_reads_and_the_decoder_still_writes_mbarts_question() -> None:
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, inputs="question"))
    stage = translate_stage(config, VOCAB_SIZE, BERT_VOCAB_SIZE)
    model, batch = evaluated(stage, toy_state(stage)), bert_batch()

    @jit
    def outcome(model: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        encoded = encode(model, batch, config)
        return encoded.states * encoded.mask[..., None], loss_of(stage, model, batch)[1]

    states, metrics = outcome(model, batch)
    longer_states, longer_metrics = outcome(model, with_more_padding(batch))
    assert_close(longer_states[:, : states.shape[1]], states)
    assert_close(longer_metrics, metrics)
    assert not np.asarray(longer_states[:, states.shape[1] :]).any()

    read = batch.replace(
        text_tower_texts=batch.text_tower_texts._replace(
            question=(batch.text_tower_texts.question + 1) % BERT_VOCAB_SIZE
        )
    )
    assert np.abs(outcome(model, read)[0] - states).max() > 0.01
    written = with_other_words(batch, "question")
    states_then, metrics_then = outcome(model, written)
    assert_close(states_then, states)
    assert abs(metrics_then["loss_question"] - metrics["loss_question"]) > 0.01


@pytest.mark.parametrize("make", [pretrain_stage, translate_stage])
def test_mbert_and_mbart_each_get_their_own_weights(make: Any, folder: Path, tmp_path: Path) -> None:
    sizes = dataclasses.replace(CONFIG.model.mbart, text_layers=1)
    random_hugging_face(1, sizes, VOCAB_SIZE).save_pretrained(tmp_path)
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(
            CONFIG.model, mbert=dataclasses.replace(CONFIG.model.mbert, weights=str(folder))
        ),
    )
    stage = make(config, VOCAB_SIZE, BERT_VOCAB_SIZE)
    mesh = make_mesh(MeshConfig())
    state = with_shardings(stage.abstract_state(), mesh)
    state = load_mbart(state, Checkpoint(tmp_path))
    params = nnx.to_pure_dict(pretrained_mbert(config.model.mbert)(state).params)
    expected = values_of(imported(config.model.mbert, folder))
    jax.tree.map(np.testing.assert_array_equal, params["text_encoder"]["bert"], expected)
    assert isinstance(params["text_encoder"]["projection"]["kernel"], jax.ShapeDtypeStruct)
    np.testing.assert_array_equal(
        params["decoder"]["layer_norm"]["scale"],
        load_file(tmp_path / "model.safetensors")["model.decoder.layer_norm.weight"],
    )
