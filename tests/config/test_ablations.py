import dataclasses
import functools
import itertools
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from configs import ablations
from configs.ablations import BASES, FULL_SIZE, OWN_STAGE_1, ROWS, WHY
from configs.systems import OTHER_SYSTEMS, PUBLISHED, PUBLISHED_ON, SMALL
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config, differences, run_differences, to_dict
from sslssaw_jax.evaluation.metrics import LABELS
from sslssaw_jax.stages.rate_factors import check_rate_factors, factor_at, factor_tree
from sslssaw_jax.stages.stage import StageInputs
from sslssaw_jax.stages.step import train_step
from sslssaw_jax.systems import SYSTEMS, read_config
from sslssaw_jax.tables import PAPER
from sslssaw_jax.training.optimizer import make_optimizer
from sslssaw_jax.types import FeatureSize
from tests.support.toy import (
    TOY_GLOSSES,
    batch_for,
    jit,
    make_stages,
    toy_batch,
    toy_state,
    toy_system,
    training_batch,
)

OWN_ROWS = ROWS | OWN_STAGE_1 | WHY  # of SSL-SSAW
ALL = [*OWN_ROWS, *OTHER_SYSTEMS]
SMALL_BASES = [base for base in BASES if base not in FULL_SIZE]


@functools.cache
def config_of(base: str, row: str) -> Config:
    return read_config(ablations.get_config(f"{base}/{row}"))


def changed_keys(base: str, row: str) -> set[str]:
    """What a row changes in its base, by the names of `ROWS`."""
    lines = differences(to_dict(read_config(BASES[base]())), to_dict(config_of(base, row)))
    return {line.split(":")[0].removeprefix("config.") for line in lines}


def stage_1_differences(first: Config, second: Config) -> list[str]:
    notes = [{"config": to_dict(config), "tokenizer": None} for config in (first, second)]
    stages = ("warm_start", "pretrain")
    return [line for stage in stages for line in run_differences(first, *notes, stage)]


@pytest.mark.parametrize("base", BASES)
def test_a_row_is_valid_and_changes_of_its_base_only_what_it_says(base):
    for row, changes in OWN_ROWS.items():
        said = {**changes}
        if base not in SMALL_BASES and "shufflenet" in row:
            said["model.cnn.weights"] = ablations.SHUFFLENET_WEIGHTS
        changed = changed_keys(base, row)
        assert "name" in changed
        assert ("init_from" in changed) == (row in OWN_STAGE_1)
        assert changed - {"name", "init_from"} <= set(said)
        require_values(config_of(base, row), f"{base}_{row}", said)


def own_recipe(base: str, row: str) -> dict[str, Any]:
    """What a row of another system changes in its base."""
    if base in FULL_SIZE:
        return PUBLISHED[row] | PUBLISHED_ON.get(f"{base}/{row}", {})
    if base.startswith("rehearsal"):  # as wide as SSL-SSAW there
        return {key: 256 if value == 128 else value for key, value in SMALL[row].items()}
    demo = {"pretrain.epochs": 2, "pretrain.optim.learning_rate": 1e-3, "translate.eval_every": 2}
    demo |= {"translate.epochs": 6, "translate.optim.learning_rate": 1e-3}
    return (demo if base == "demo" else {}) | SMALL[row]


@pytest.mark.parametrize("base", BASES)
def test_a_row_of_another_system_has_its_base_s_data_and_cnn_and_its_own_recipe(base):
    full = config_of(base, "ssl_ssaw")
    for row, system in OTHER_SYSTEMS.items():
        config = config_of(base, row)
        assert config.system == system and config.init_from is None
        said = own_recipe(base, row)
        changed = [
            line.split(":")[0]
            for path, one, other in (
                ("data", full.data, config.data),
                ("model.cnn", full.model.cnn, config.model.cnn),
            )
            for line in differences(to_dict(one), to_dict(other), path)
        ]
        assert set(changed) <= set(said)
        require_values(config, f"{base}_{row}", said)


RECIPES = [
    "nslt_bahdanau",
    "slrt_ctc",
    "gaslt",
    "tspnet",
    "mmtlb",
    "ts_slt",
    "signbt",
    "stmc_t",
    "csgcr",
    "gbt",
]  # a row of each


def test_a_published_recipe_takes_no_number_of_the_translation_from_ssl_ssaw():
    """Name what the base sets; CSGCR, whose recipe is unknown, has SSL-SSAW's."""
    of_base = {f"translate.{key}" for key in ("epochs", "clips_per_batch", "frame_budget", "label_smoothing")}
    lacking = {row: of_base - recipe.keys() for row, recipe in PUBLISHED.items() if of_base - recipe.keys()}
    assert lacking == {"csgcr": of_base}


def test_rows_without_a_step_of_their_own_have_the_recipe_of_one_that_has():
    def recipe(row: str) -> dict[str, Any]:
        named = {key: value for key, value in PUBLISHED[row].items() if not key.startswith("model.")}
        return {"system": OTHER_SYSTEMS[row], **named}

    known = [recipe(row) for row in RECIPES]
    assert [row for row in OTHER_SYSTEMS if recipe(row) not in known] == [], "add a row of each to RECIPES"


@pytest.mark.parametrize(("row", "sets"), [("mmtlb", 1), ("ts_slt", 2)])
def test_recipes_that_freeze_the_video_part_are_for_stored_features_too(row, sets):
    config = config_of("phoenix", row)
    data = dataclasses.replace(config.data, features=tuple("ab"[:sets]), keypoints=None)
    inputs = StageInputs(99, features=[FeatureSize(32, 4, 16)] * sets, glosses=lambda: TOY_GLOSSES)
    for stage in SYSTEMS[config.system].make_stages(dataclasses.replace(config, data=data), inputs):
        factors = getattr(config, stage.name).optim.rate_factors
        check_rate_factors(factors, stage.abstract_state().params, stage.module_names)


@pytest.mark.slow
@pytest.mark.parametrize("row", RECIPES)
def test_a_step_of_a_published_recipe_moves_what_it_trains_and_nothing_else(row):
    """Take the recipe of the full size and a tiny version of its model."""
    changes = {key: value for key, value in PUBLISHED[row].items() if key.startswith("model.")}
    toy = toy_system(OTHER_SYSTEMS[row], **changes)
    config = dataclasses.replace(toy, translate=config_of("phoenix", row).translate)
    stage, optim = make_stages(config)[-1], config.translate.optim
    optimizer, _ = make_optimizer(optim, 20, range(2, 21, 2))
    state = toy_state(stage)
    state = state.replace(opt_state=jax.jit(optimizer.init)(state.params))
    step = partial(
        train_step,
        graphdef=stage.freezing_def(optim.rate_factors),
        loss=stage.loss,
        optimizer=optimizer,
        factors=optim.rate_factors,
    )
    after, metrics = jit(step)(
        state, training_batch(config, batch_for(config, toy_batch(0))), jax.random.key(1)
    )
    assert np.isfinite(metrics["loss"])
    moved = [
        bool((old != new).any())
        for old, new in zip(*(jax.tree.leaves(jax.device_get(each.params)) for each in (state, after)))
    ]
    trained = list(map(bool, jax.tree.leaves(factor_tree(optim.rate_factors, state.params))))
    assert all(one <= other for one, other in zip(moved, trained, strict=True))
    assert sum(moved) > 0.9 * sum(trained), "a key's bias changes no attention"


@pytest.mark.parametrize("base", FULL_SIZE)
@pytest.mark.parametrize(("row", "writer"), [("mmtlb", ""), ("ts_slt", "writers.joint.")])
def test_all_of_mbart_learns_at_its_own_rate_from_signs(base, row, writer):
    optim = config_of(base, row).translate.optim
    parts = [f"{writer}{part}".split(".") for part in ("embedding", "ending", "encoder", "decoder")]
    rates = [optim.learning_rate * factor_at(optim.rate_factors, part) for part in parts]
    np.testing.assert_allclose(rates, 1e-5)


def test_weights_decay_as_the_public_codes_have_it():
    assert config_of("phoenix", "tspnet").translate.optim.name == "adamw"  # fairseq's `adam`
    for base in FULL_SIZE:
        config = config_of(base, "ssl_ssaw")
        assert {config.pretrain.optim.name, config.translate.optim.name} == {"nesterov"}  # timm's `sgd`
        assert (config.pretrain.optim.weight_decay, config.translate.optim.weight_decay) == (0, 0.001)


def require_values(config: Config, name: str, said: dict[str, Any]) -> None:
    assert config.name == name and config.stage == "translate"
    for key, value in said.items():
        found = to_dict(config)
        for part in key.split("."):
            found = found[part]
        assert found == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("base", BASES)
def test_rows_share_a_stage_1_just_where_they_would_train_the_same(base):
    full = config_of(base, "ssl_ssaw")
    assert full.init_from == read_config(BASES[base]()).init_from
    configs = [config_of(base, row) for row in OWN_ROWS]
    for first, second in itertools.combinations(configs, 2):
        assert (first.init_from == second.init_from) == (not stage_1_differences(first, second))


def test_no_two_rows_are_the_same_experiment():
    for base in BASES:
        configs = [{**to_dict(config_of(base, row)), "name": "", "init_from": ""} for row in ALL]
        assert all(first != second for first, second in itertools.combinations(configs, 2))


def test_an_unknown_row_is_refused_with_those_that_there_are():
    for row in ("demo/lstn", "demos/lstm", "lstm", "demo/table5_lstm"):
        with pytest.raises(ConfigError, match=r"is unknown; .* demo, phoenix, .* ssl_ssaw, .* mbert"):
            ablations.get_config(row)


def test_pretrained_networks_fit_the_rows_that_name_them():
    """On the full-size bases each row starts from ImageNet weights for its own CNN."""
    for base, row in itertools.product(FULL_SIZE, ALL):
        model = config_of(base, row).model
        assert ("shufflenet" in model.cnn.weights) == (model.cnn.kind == "shufflenet")
        if mbart := getattr(getattr(model, "mbart", None), "weights", None):
            assert mbart.endswith("_csl") == (base == "csl_daily"), "trimmed to the row's dataset"
        if row in OWN_ROWS:
            assert model.mbart.weights
            assert model.text_encoder == "mbart" or model.mbert.weights
    for base, row in itertools.product(SMALL_BASES, ALL):
        model = config_of(base, row).model
        assert model.cnn.weights is None
        assert row not in OWN_ROWS or (model.mbart.weights, model.mbert.weights) == (None, None)


def test_rows_of_several_tables_that_are_one_experiment_print_the_same_figures_but_for_the_known_one():
    printed: dict[tuple[str, str], dict[str, list[float]]] = {}
    shown = {row["experiment"] for table in PAPER.values() for row in table["rows"]}
    assert shown == {*ALL} - {"slrt_ctc", *WHY}, "a row is in a table of paper.json, or in WHY"
    for number, table in PAPER.items():
        for row in table["rows"]:
            assert len(row["labels"]) == len(table["columns"])
            if row["paper"]:  # otherwise the paper prints none
                assert len(row["paper"]) == len(LABELS)
                printed.setdefault((table["dataset"], row["experiment"]), {})[number] = row["paper"]
    unlike = {key: figures for key, figures in printed.items() if len(set(map(tuple, figures.values()))) > 1}
    concat = ("phoenix2014t_qa", "qb_ssl")
    assert set(unlike) == {concat}
    # the paper's slip, mentioned below Table 5
    assert unlike[concat]["5"] == printed["phoenix2014t_qa", "qb"]["4"]
    assert all(f"{figure:.2f}" in PAPER["5"]["notes"][0] for figure in unlike[concat]["4"])


def test_tables_1_and_2_have_the_same_rows():
    first, second = ([row["experiment"] for row in PAPER[number]["rows"]] for number in "12")
    assert first == second and set(OTHER_SYSTEMS) - {"slrt_ctc"} <= set(first)


def test_the_paper_s_figures_fall_from_bleu_1_to_bleu_4_and_its_full_system_is_best():
    for table in PAPER.values():
        *others, full = (row["paper"] for row in table["rows"] if row["paper"])
        assert all(b1 > b2 > b3 > b4 for b1, b2, b3, b4, _ in (*others, full))
        assert all(full[3] > other[3] for other in others)  # MMTLB has a better BLEU-1 on CSL-Daily
