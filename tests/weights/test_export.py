"""An exported model: PyTorch computes the same with it, and nothing is left behind."""

import json
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from safetensors.numpy import load_file
from transformers import MBartForConditionalGeneration

from sslssaw_jax.config.experiment import Config, to_dict
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer, train_tokenizer
from sslssaw_jax.data.saved_tokenizer import save_tokenizer
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.training.checkpoints import Checkpointer
from sslssaw_jax.types import BLEU_4, TrainState
from sslssaw_jax.weights.__main__ import main
from sslssaw_jax.workdir import CHECKPOINTS
from tests.support.mbart_reference import random_tokens, relative_error
from tests.support.pytorch import torch
from tests.support.toy import (
    evaluated,
    jit,
    pretrain_stage,
    toy_config,
    toy_state,
    toy_system,
    translate_stage,
)

MAKERS = {"stage 1": pretrain_stage, "stage 2": translate_stage}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    train_tokenizer(["rain in the north", "snow in the south", "sun in the east"] * 3, folder, vocab_size=30)
    return folder


def finished(make_stage, config: Config, tokenizer: Path, workdir: Path) -> tuple[Stage, TrainState]:
    """A workdir as training leaves it, with random values everywhere in its best checkpoint."""
    loaded = load_tokenizer(tokenizer, "en_XX")
    stage = make_stage(config, loaded.vocab_size)
    best, last = (toy_state(stage, step).replace(step=jnp.asarray(step)) for step in (1, 2))
    meta = {
        "config": to_dict(config),
        "tokenizer": loaded.fingerprint,
        "dataset": {"language": "en_XX"},
    }
    save_tokenizer(loaded, workdir)
    with Checkpointer(workdir / CHECKPOINTS) as checkpointer:
        checkpointer.save(best, data={}, meta=meta)
        checkpointer.add_scores(int(best.step), {BLEU_4.name: 2.0})
        checkpointer.save(last, data={}, meta=meta)
        checkpointer.add_scores(int(last.step), {BLEU_4.name: 1.0})
    return stage, best


@pytest.mark.parametrize("tied_head", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("which", MAKERS)
def test_pytorch_computes_the_same_logits(
    which: str, tied_head: bool, tokenizer: Path, tmp_path: Path
) -> None:
    config = toy_config(**{"model.mbart.tied_head": tied_head})
    stage, state = finished(MAKERS[which], config, tokenizer, tmp_path / "run")
    main(["export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"])

    model = evaluated(stage, state)
    encoder = model.text_encoder if which == "stage 1" else model.encoder
    rng = np.random.default_rng(0)
    embedded = rng.normal(size=(3, 6, 16)).astype(np.float32)
    embedded_mask = np.arange(6) < np.array([6, 2, 4])[:, None]
    target, target_mask = random_tokens(rng, [5, 4, 2])

    @jit
    def logits(embedding, encoder, decoder):
        states = encoder(embedded, embedded_mask)
        return embedding.logits(decoder(embedding(target), target_mask, states, embedded_mask))

    theirs = MBartForConditionalGeneration.from_pretrained(tmp_path / "out" / "mbart").eval()
    with torch.no_grad():
        expected = theirs(
            inputs_embeds=torch.tensor(embedded),
            attention_mask=torch.tensor(embedded_mask),
            decoder_input_ids=torch.tensor(target),
        ).logits
    actual = logits(model.embedding, encoder, model.decoder)
    assert relative_error(actual, expected, target_mask) < 1e-5


def test_the_whole_model_is_written_with_its_keys_and_configuration(tokenizer: Path, tmp_path: Path) -> None:
    config = toy_config()
    _, state = finished(translate_stage, config, tokenizer, tmp_path / "run")
    out = tmp_path / "out"
    main(["export", f"--workdir={tmp_path / 'run'}", f"--out={out}"])
    written = load_file(out / "model.safetensors")
    expected = {
        ".".join(map(str, path)): leaf
        for tree in (state.params, state.batch_stats)
        for path, leaf in traverse_util.flatten_dict(nnx.to_pure_dict(tree)).items()
    }
    assert written.keys() == expected.keys()
    readme = (out / "README.md").read_text()
    for key, value in expected.items():
        np.testing.assert_array_equal(written[key], value, err_msg=key)
        assert f"| `{key}` | {list(value.shape)} |" in readme
    saved = json.loads((out / "run_config.json").read_text())
    assert saved == to_dict(config)
    theirs = json.loads((out / "mbart" / "config.json").read_text())
    loaded = load_tokenizer(out / "mbart", "en_XX")
    assert loaded.fingerprint == load_tokenizer(tokenizer, "en_XX").fingerprint
    assert theirs["decoder_start_token_id"] == loaded.language_id


def test_mbert_is_left_out_of_the_mbart_part_and_that_is_told(tokenizer: Path, tmp_path: Path) -> None:
    sizes = {"d_model": 8, "ffn_dim": 8, "num_layers": 1, "heads": 2}
    config = toy_config(
        **{"model.text_encoder": "mbert"},
        **{f"model.mbert.{key}": size for key, size in sizes.items()},
    )
    _, state = finished(partial(pretrain_stage, bert_vocab_size=9), config, tokenizer, tmp_path / "run")
    main(["export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"])
    mbart = load_file(tmp_path / "out" / "mbart" / "model.safetensors")
    np.testing.assert_array_equal(
        mbart["model.encoder.layer_norm.weight"], state.params["video_encoder"]["layer_norm"]["scale"][...]
    )
    assert "text_encoder.projection.kernel" in load_file(tmp_path / "out" / "model.safetensors")
    assert "mBERT, the text tower, is not in it" in (tmp_path / "out" / "README.md").read_text()


def test_mistakes_are_one_message_and_leave_nothing(tokenizer: Path, tmp_path: Path) -> None:
    finished(translate_stage, toy_config(), tokenizer, tmp_path / "run")
    finished(translate_stage, toy_system("slrt"), tokenizer, tmp_path / "slrt")
    other = tmp_path / "other"
    train_tokenizer(["quite other words than those"] * 3, other, vocab_size=30)

    def answer(workdir: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["export", f"--workdir={tmp_path / workdir}", f"--out={tmp_path / 'out'}"])
        return str(ended.value.code)

    assert "no checkpoint" in answer("nowhere")
    assert "no mBART part" in answer("slrt")
    (tmp_path / "out").mkdir()
    assert "exists: delete it" in answer("run")
    (tmp_path / "out").rmdir()
    save_tokenizer(load_tokenizer(other, "en_XX"), tmp_path / "run")
    assert "trained with another tokenizer" in answer("run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "run", "slrt"]
