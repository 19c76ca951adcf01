from dataclasses import replace

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard, constants

from sslssaw_jax import Translator
from sslssaw_jax.data.dataset import DATASETS
from sslssaw_jax.inference.card import DATA, model_card
from sslssaw_jax.inference.trained_model import ModelError
from sslssaw_jax.inference.translator import HTTPError
from sslssaw_jax.weights.initial_state import variables
from tests.support.hub import local_hub
from tests.support.small_runs import make_run

SCORES = {
    "test": {
        "bleu4": 97.61,
        "rouge_l": 98.5,
        "intervals": {"bleu4": [96.04, 98.96], "rouge_l": [97.0, 99.0]},
        "baselines": {
            "copy_question": {"bleu4": 3.7, "rouge_l": 20.0, "intervals": {"bleu4": [3.1, 4.2]}},
        },
        "questions": {"shuffled": {"bleu4": 33.5, "rouge_l": 50.0}},
        "overlap_free": {"bleu4": 90.0, "rouge_l": 91.0},
    }
}


@pytest.fixture(scope="module")
def translator(tiny_data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "toy"
    make_run(workdir, tiny_data_dir)
    return Translator(Translator.from_pretrained(workdir).model._replace(scores=SCORES))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with local_hub() as (address, files):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield files


def test_a_model_comes_back_from_the_hub_bit_for_bit(translator, hub, tmp_path):
    translator.push_to_hub("somebody/signs", token="hf_none")
    names = {name.removeprefix("somebody/signs/") for name in hub}
    tokenizer = {"tokenizer/sentencepiece.bpe.model", "tokenizer/tokenizer_config.json"}
    assert names == {"config.json", "model.safetensors", "README.md"} | tokenizer
    hub["somebody/signs/large.bin"] = b"of no use here"
    loaded = Translator.from_pretrained("somebody/signs")
    assert "large.bin" not in {path.name for path in (tmp_path / "cache").rglob("*")}
    jax.tree.map(
        np.testing.assert_array_equal, variables(translator.model.state), variables(loaded.model.state)
    )
    assert loaded.model.scores == SCORES
    assert 'from_pretrained("somebody/signs")' in hub["somebody/signs/README.md"].decode()


def test_a_model_replaces_the_one_before_on_the_hub(translator, hub):
    repo = "somebody/other"
    kept = {f"{repo}/own.txt": b"of somebody", f"{repo}/config.json": b"{}"}
    hub |= kept | {f"{repo}/text_tower/vocab.txt": b"", f"{repo}/glosses.json": b""}
    translator.push_to_hub(repo, token="hf_none")
    names = {name.removeprefix(f"{repo}/") for name in hub if name.startswith(repo)}
    assert {"own.txt", "config.json", "model.safetensors"} < names
    assert not names & {"text_tower/vocab.txt", "glosses.json"}
    Translator.from_pretrained(repo)


def test_a_model_that_the_hub_does_not_have_is_one_clear_error(hub):
    with pytest.raises(ModelError, match="there is no model somebody/else"):
        Translator.from_pretrained("somebody/else")


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch):
    def unreachable(**_):
        raise HTTPError("")

    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", unreachable)
    with pytest.raises(
        ModelError, match=r"no model somebody/else.*the Hugging Face hub gave none \(HTTPError"
    ):
        Translator.from_pretrained("somebody/else")


def test_the_card_has_the_scores_beside_the_copied_question(translator):
    text = str(model_card(translator.model, "somebody/signs"))
    rows = [line for line in text.splitlines() if line.startswith("| test")]
    assert rows == [
        "| test | this model | 97.61 | 96.0 to 99.0 | 98.50 | 97.0 to 99.0 |",
        "| test | questions shuffled | 33.50 |  | 50.00 |  |",
        "| test | question copied | 3.70 | 3.1 to 4.2 | 20.00 |  |",
    ]
    table = text[text.index("| split") :].splitlines()
    assert table[2:5] == rows, "a table has no empty lines"
    assert "cannot translate people" in text
    data = ModelCard(text).data
    assert (data.language, data.license, data.library_name) == ("en", "apache-2.0", "sslssaw_jax")


@pytest.mark.parametrize(
    ("dataset", "licence"),
    [("phoenix2014t_qa", "cc-by-nc-sa-3.0"), ("custom_qa", "other"), ("qsl_qa", "other")],
)
def test_the_card_names_the_licence_of_the_data(translator, dataset, licence):
    config = translator.model.config
    config = replace(config, data=replace(config.data, dataset=dataset))
    card = model_card(translator.model._replace(config=config, scores={}), "somebody/signs")
    assert card.data.license == licence
    assert "This model was never evaluated." in str(card)
    assert ("of the model's author" in str(card)) == (dataset == "custom_qa")


@pytest.mark.parametrize(
    ("video", "question", "told"),
    [
        (True, True, "reads a video of sign language and the question that the signer answers, and writes"),
        (True, False, "reads a video of sign language, not the question,"),
        (False, True, "reads the question that a signer answers, not the video,"),
    ],
)
def test_the_card_says_what_the_model_reads(translator, video, question, told):
    stage = replace(translator.model.stage, reads_video=video, reads_question=question)
    assert told in str(model_card(translator.model._replace(stage=stage), "somebody/signs"))


def test_the_card_knows_every_dataset_but_own_ones():
    assert set(DATA) == set(DATASETS) - {"custom_qa"}
