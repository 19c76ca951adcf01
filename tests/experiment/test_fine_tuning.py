"""A run continues from all weights of a trained model; mismatches are reported before anything runs."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from sslssaw_jax import Translator
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.mbart_tokenizer import load_tokenizer, train_tokenizer
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.inference.base_model import require_fitting_base
from sslssaw_jax.systems import read_config
from sslssaw_jax.training.checkpoints import restore_params
from sslssaw_jax.training.signals import Stopped
from sslssaw_jax.weights.initial_state import variables
from sslssaw_jax.workdir import CHECKPOINTS, FINISHED, METRICS, read_json, read_notes, write_json
from tests.support.small_runs import make_run
from tests.support.toy import toy_state, toy_system


@pytest.fixture(scope="module")
def runs(tiny_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: `trained` and `slrt` are finished, `begun` is not; `saved` is a model folder."""
    runs = tmp_path_factory.mktemp("runs")
    for name, system in (("trained", "ssl_ssaw"), ("begun", "ssl_ssaw"), ("slrt", "slrt")):
        make_run(runs / name, tiny_data_dir, system)
    for name in ("trained", "slrt"):
        write_json(runs / name / FINISHED, read_notes(runs / name))
    Translator.from_pretrained(runs / "trained").save_pretrained(runs / "saved")
    return runs


def experiment(runs: Path, base: str = "trained", folder: str = "mine", **changes: Any) -> Experiment:
    tree = ConfigDict(read_notes(runs / base)["config"])
    with tree.unlocked(), tree.ignore_type():
        tree.update_from_flattened_dict({"init_from": base, "compilation_cache": None} | changes)
    return Experiment(read_config(tree), runs / folder)


@pytest.mark.parametrize("base", ["trained", "saved", "PATH"])
def test_all_weights_are_those_of_the_trained_model(runs, base):
    init_from = str(runs / "saved") if base == "PATH" else base
    run = experiment(runs, init_from=init_from, **{"model.mbart.dropout": 0.3, "model.mbart.weights": "mine"})
    (stage,) = run._stages
    fresh = toy_state(stage, seed=1)
    found = variables(run._initial_weights(0)(fresh))
    expected = variables(Translator.from_pretrained(runs / "trained").model.state)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert any(not np.array_equal(found[path], value) for path, value in variables(fresh).items())


def test_a_system_of_one_stage_goes_on_from_a_trained_model(runs):
    run = experiment(runs, "slrt")
    found = variables(run._initial_weights(0)(toy_state(run._stages[0], seed=1)))
    jax.tree.map(np.testing.assert_array_equal, found, variables(run._base.state))


@pytest.mark.slow
def test_a_training_from_a_trained_model_is_stopped_goes_on_and_is_evaluated(runs):
    """With a rate of nearly 0, all states are those of the trained model."""
    one_batch = {"translate.clips_per_batch": 24, "translate.frame_budget": 576, "translate.epochs": 2}
    one_batch |= {"translate.optim.learning_rate": 1e-9, "evaluation.num_heatmaps": 0}
    run = experiment(runs, "slrt", "more", **one_batch)
    run._stop.reached = iter([True]).__next__
    with pytest.raises(Stopped):
        run.run("train")
    again = experiment(runs, "slrt", "more", **one_batch)
    again._initial_weights = None  # a run that has begun needs none
    again.run("train")
    weights = [restore_params(runs / name / CHECKPOINTS)[0] for name in ("more", "slrt")]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), *weights)
    assert read_json(runs / "more" / METRICS)["test"]["num_clips"] == 6
    assert read_notes(runs / "more")["config"]["init_from"] == "slrt"
    assert Translator.from_pretrained(runs / "more").model.stage.name == "translate"


@pytest.mark.parametrize("system", ["ssl_ssaw", "slrt"])
def test_a_model_that_went_on_from_another_translates(tiny_data_dir, tmp_path, system):
    make_run(tmp_path / "more", tiny_data_dir, system, base="moved_away")
    model = Translator.from_pretrained(tmp_path / "more").model
    assert (model.config.init_from, model.stage.name) == ("moved_away", "translate")


def test_the_sentences_of_a_training_are_not_part_of_its_model(runs):
    run = experiment(runs)
    base = run._base._replace(config=toy_system("signbt"))
    changes = {"model.sentences": "mine.txt", "model.recognition_weight": 3.0}
    with pytest.raises(ConfigError) as refused:
        require_fitting_base(base, toy_system("signbt", **changes), run._data.dataset, [], None)
    told = str(refused.value).splitlines()[1:]
    assert told == [
        f"  config.model.recognition_weight: {base.config.model.recognition_weight} then, 3.0 now"
    ]


def test_the_tokenizer_is_the_models_own(runs):
    run = experiment(runs)
    assert run._data.tokenizer.folder == runs / "trained" / "tokenizer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.mbart.d_model": 32}, r"other settings.*\n  config.model.mbart.d_model: 16 then, 32 now$"),
        ({"model.fusion.kind": "concat"}, "config.model.fusion.kind: 'ssaw' then, 'concat' now"),
        ({"data.image_size": 24}, "config.data.image_size: 16 then, 24 now"),
        ({"data.tokenizer": "mine"}, "brings its own tokenizer: .* --config.data.tokenizer=$"),
        ({"stage": "pretrain"}, "finished translation model: leave out --config.stage=pretrain"),
        ({"init_from": "begun"}, "begun is not finished: start its training command again"),
    ],
)
def test_what_does_not_fit_is_said_at_once(runs, changes, message):
    with pytest.raises(ConfigError, match=f"(?s)config.init_from is .*{message}"):
        experiment(runs, **changes)


@pytest.mark.parametrize(
    ("fact", "value"), [("resize", "256"), ("fps", 30.0), ("language", "de_DE"), ("frame_size", [48, 85])]
)
def test_clips_that_were_prepared_otherwise_are_refused(runs, monkeypatch, fact, value):
    run = experiment(runs)
    facts = replace(run._base.facts, fingerprint="other", **{fact: value})
    with pytest.raises(
        ConfigError,
        match=rf"does not fit the model in trained.*\n  dataset.{fact}: {re.escape(repr(value))} then",
    ):
        require_fitting_base(run._base._replace(facts=facts), run.config, run._data.dataset, [], None)


def test_a_base_of_another_preparation_may_have_seen_the_test_clips(runs, capsys):
    run = experiment(runs)
    assert "preparation" not in capsys.readouterr().err
    facts = replace(run._base.facts, fingerprint="other")
    require_fitting_base(run._base._replace(facts=facts), run.config, run._data.dataset, [], None)
    assert "trained was trained on other clips of avatar_qa" in capsys.readouterr().err


def test_characters_that_the_model_cannot_write_are_named(runs, tmp_path):
    run = experiment(runs)
    train_tokenizer(["today there is snow", "there is wind in the north"], tmp_path / "other", vocab_size=40)
    other = run._base._replace(tokenizer=load_tokenizer(tmp_path / "other", "en_XX"))
    clips = run._data.clips("train", video=False)
    require_fitting_base(run._base, run.config, run._data.dataset, [], clips)
    with pytest.raises(ConfigError, match=r"cannot write f g l m u, which \d+ of 24 targets of train hold"):
        require_fitting_base(other, run.config, run._data.dataset, [], clips)
