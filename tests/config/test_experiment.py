import dataclasses
import functools
import itertools
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from configs import (
    csl_daily_stage1,
    csl_daily_stage2,
    demo,
    phoenix_stage1,
    phoenix_stage2,
    question_only,
)
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config, DecodeConfig, differences, run_differences, to_dict
from sslssaw_jax.data.video import MAX_FRAMES
from sslssaw_jax.systems import SYSTEMS, default_config, read_config

# key, a value that no single field's rule refuses, words of the message
BAD_COMBINATIONS = [
    ("data.skip_broken", 1, "a cache holds all clips"),
    ("logging.profile", "10-20", "START:STOP"),
    ("logging.profile", "10:5", "two steps in order"),
    ("decode.length_penalty", float("nan"), "be a finite number"),
    ("model.cnn.resnet.head_features", 8, "head='flatten'"),
    ("model.cnn.resnet.depths", (), "at least one"),
    ("model.cnn.shufflenet.depths", (), "at least one"),
    ("model.cnn.shufflenet.width", 7, "make it even"),
    ("model.mbart.video_heads", 3, "d_model 1024"),
    ("model.mbart.text_heads", 5, "d_model 1024"),
    ("model.mbert.heads", 5, "d_model 768"),
    ("model.fusion.heads", 3, "d_model 1024"),
    ("model.inputs", "video", "set ssl to 'off'"),
]
BAD_TYPES = [
    ("seed", "0"),
    ("seed", 0.5),
    ("logging.every_steps", True),
    ("data.augment.crop", 1),
    ("data.dataset", 3),
    ("model.cnn.resnet.depths", 2),
    ("model.cnn.resnet.depths", (2, 2.5)),
    ("model.fusion", "ssaw"),
    ("translate.optim.learning_rate", "1e-3"),
]
FILES = {
    "csl_daily_stage1": csl_daily_stage1.get_config,
    "csl_daily_stage1:toy": lambda: csl_daily_stage1.get_config("toy"),
    "csl_daily_stage2": csl_daily_stage2.get_config,
    "csl_daily_stage2:toy": lambda: csl_daily_stage2.get_config("toy"),
    "demo": demo.get_config,
    "phoenix_stage1": phoenix_stage1.get_config,
    "phoenix_stage1:toy": lambda: phoenix_stage1.get_config("toy"),
    "phoenix_stage2": phoenix_stage2.get_config,
    "phoenix_stage2:toy": lambda: phoenix_stage2.get_config("toy"),
    "question_only": question_only.get_config,
    "question_only:qsl": lambda: question_only.get_config("qsl"),
}


def tree_of(system: str) -> ConfigDict:
    """A system's default configuration, with the keypoint set that it may need."""
    tree = default_config(system)
    if "keypoints" in SYSTEMS[system].reads:
        tree.data.keypoints = "points"
    return tree


def with_value(key: str, value: object, system: str = "ssl_ssaw") -> ConfigDict:
    """The default configuration with one value that `ConfigDict` itself might refuse."""
    tree = tree_of(system).to_dict()
    *groups, last = key.split(".")
    group = tree
    for name in groups:
        group = group[name]
    group[last] = value
    return ConfigDict(tree)


def fields(group: Any, path: str) -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Path, field and type of each setting below a group."""
    hints = typing.get_type_hints(type(group))
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{path}.{field.name}")
        else:
            yield f"{path}.{field.name}", field, hints[field.name]


def refused(key: str, value: Any, system: str = "ssl_ssaw") -> str:
    with pytest.raises(ConfigError) as error:
        read_config(with_value(key, value, system))
    return str(error.value)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_setting_refuses_what_its_field_does_not_allow_by_name(system):
    """All settings of the paper's system, and the other systems' own settings."""
    free, first = set(), system == "ssl_ssaw"
    for path, field, hint in fields(read_config(tree_of(system)), "config"):
        if not first and not path.startswith("config.model."):
            continue
        key, allowed = path.removeprefix("config."), field.metadata.get("allowed")
        if typing.get_origin(hint) is typing.Literal:
            message = refused(key, "zzz", system)
            assert message == f"{path} is 'zzz'; allowed: {', '.join(typing.get_args(hint))}"
        elif allowed is not None:
            edges = [allowed.low if not allowed.includes_low else allowed.low - 1]
            edges += [] if allowed.high == float("inf") else [allowed.high + allowed.includes_high]
            for edge in map(int if hint is int else float, edges):
                assert refused(key, edge, system) == f"{path} is {edge}; it must {allowed.rule}"
        elif hint in (int, float):
            free.add(key)
    known = {"mesh.data", "mesh.fsdp"}
    assert free == (known if first else set()), "numbers without a range"


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_default_is_the_dataclasses_own(system):
    config = read_config(tree_of(system))
    default = Config(system=system, model=SYSTEMS[system].config())
    data = dataclasses.replace(config.data, keypoints=None)
    assert dataclasses.replace(config, data=data) == default


@pytest.mark.parametrize(("key", "value", "words"), BAD_COMBINATIONS)
def test_settings_that_do_not_fit_each_other_are_refused_by_name(key, value, words):
    tree = with_value(key, value)
    tree.data.cache = key == "data.skip_broken"
    with pytest.raises(ConfigError) as error:
        read_config(tree)
    message = str(error.value)
    assert message.startswith(f"config.{key.rpartition('.')[0]}.")
    assert key.rpartition(".")[2] in message and words in message


def test_an_unknown_system_is_refused_with_those_that_there_are():
    allowed = ", ".join(sorted(SYSTEMS))
    assert refused("system", "slrtt") == f"config.system is 'slrtt'; allowed: {allowed}"


@pytest.mark.parametrize(("key", "value"), BAD_TYPES)
def test_a_value_of_the_wrong_type_is_refused_by_the_name_of_its_key(key, value):
    with pytest.raises(ConfigError, match=rf"^config\.{re.escape(key)} is .*; it must be "):
        read_config(with_value(key, value))


def test_a_run_keeps_the_best_state_which_it_evaluates():
    assert refused("checkpoint.keep_best", 0) == "config.checkpoint.keep_best is 0; it must be positive"


@pytest.mark.parametrize(("key", "most"), [("data.max_frames", MAX_FRAMES), ("decode.beams", 1000)])
def test_lengths_and_beams_have_a_limit_since_models_come_from_others(key, most):
    assert refused(key, most + 1) == f"config.{key} is {most + 1}; it must lie in [1, {most}]"


def test_a_seed_that_jax_cannot_take_is_refused():
    assert refused("seed", 10**20) == f"config.seed is {10**20}; it must lie in [0, 2**63)"
    assert read_config(with_value("seed", 2**63 - 1)).seed == 2**63 - 1


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(
        ConfigError,
        match=r"config\.model\.fusion\.knid is unknown; did you mean config\.model\.fusion\.kind\?",
    ):
        read_config(with_value("model.fusion.knid", "ssaw"))
    with pytest.raises(ConfigError, match=r"config\.decode\.zzz is unknown; known: beams, max_new_tokens"):
        read_config(with_value("decode.zzz", 1))


def test_texts_longer_than_mbert_can_read_are_refused_with_the_remedy():
    tree = with_value("data.max_target_tokens", 600)
    assert read_config(tree).model.text_encoder == "mbart"
    tree.model.text_encoder = "mbert"
    with pytest.raises(
        ConfigError, match=r"mbert\.max_positions is 512; texts of 600 tokens .* lower config\.data\."
    ):
        read_config(tree)


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("data.max_target_tokens", 1000, 1064),
        ("decode.max_new_tokens", 960, 1025),
        ("data.max_frames", 3900, 1040),
    ],
)
def test_sequences_beyond_the_positions_are_refused_before_a_stage_trains(key, value, needed):
    tree = with_value(key, value)
    message = (
        rf"max_positions is 1024; config\.{key} with config\.data\.max_question_tokens=64 needs {needed}"
    )
    with pytest.raises(ConfigError, match=message):
        read_config(tree)
    tree.model.mbart.max_positions = needed
    assert read_config(tree).model.mbart.max_positions == needed


@pytest.mark.parametrize(("key", "value"), [("stem", "conv7_stride4"), ("head", "flatten")])
def test_pretrained_weights_for_another_layout_are_refused_with_the_remedy(key, value):
    tree = with_value("model.cnn.weights", "microsoft/resnet-18")
    tree.model.cnn.resnet.update({key: value, "head_features": 8 if value == "flatten" else 0})
    with pytest.raises(ConfigError, match=r"model\.cnn\.weights is .*resnet\.stem='conv7_pool' and"):
        read_config(tree)
    tree.model.cnn.kind = "shufflenet"
    assert read_config(tree).model.cnn.weights == "microsoft/resnet-18"


def test_pretrained_weights_and_a_warm_start_are_refused_together():
    tree = with_value("model.cnn.weights", "microsoft/resnet-18")
    tree.warm_start.epochs = 1
    with pytest.raises(
        ConfigError, match=r"cnn\.weights is 'microsoft/resnet-18' and config\.warm_start\.epochs 1"
    ):
        read_config(tree)


@pytest.mark.parametrize(
    ("system", "stages"),
    [("slrt", "recognize, translate"), ("gbt", "recognize, translate"), ("nslt", "translate")],
)
def test_a_stage_that_a_system_lacks_is_refused(system, stages):
    tree = default_config(system)
    tree.stage = "pretrain"
    with pytest.raises(ConfigError, match=rf"stage is 'pretrain'; the system '{system}' has {stages}"):
        read_config(tree)


@pytest.mark.parametrize("text", ["", "None"])
def test_a_flag_without_text_or_with_none_clears_what_may_be_absent(text):
    tree = default_config()
    tree.init_from = tree.model.mbart.weights = "stage1"
    assert read_config(tree).model.mbart.weights == "stage1"
    tree.init_from = tree.model.mbart.weights = text
    assert read_config(tree).init_from is None and read_config(tree).model.mbart.weights is None


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("data.features=", ()),
        ("data.features=None", ()),
        ("data.features=a", ("a",)),
        ("evaluation.ensemble=seed0, seed1", ("seed0", "seed1")),
        ("evaluation.ensemble=('seed0','seed1')", ("seed0", "seed1")),
        ("model.cnn.resnet.depths=1,3", (1, 3)),
    ],
)
def test_a_flag_for_several_values_is_split_at_commas(flag, value):
    key = flag.partition("=")[0]
    tree, values = with_value(key, ("old",)), flags.FlagValues()
    argv = ["run.py", f"--config.{flag}"]
    config_flags.DEFINE_config_dict("config", tree, flag_values=values, sys_argv=argv)
    values(argv)
    assert functools.reduce(getattr, key.split("."), read_config(values.config)) == value


def test_runs_differ_only_in_what_decides_their_parameters():
    config = read_config(default_config())
    notes = {"config": to_dict(config), "tokenizer": "x"}

    def changed(stage: str, **keys: Any) -> list[str]:
        tree = default_config()
        tree.update_from_flattened_dict(keys)
        return run_differences(config, notes, {"config": to_dict(read_config(tree)), "tokenizer": "x"}, stage)

    free = {"data.data_dir": "/data", "decode.beams": 1, "mesh.fsdp": 2, "compute.remat": True, "name": "x"}
    assert changed("translate", **free) == []
    assert changed("translate", **{"model.fusion.kind": "lstm"}) == [
        "config.model.fusion.kind: 'ssaw' then, 'lstm' now"
    ]
    assert changed("pretrain", **{"model.fusion.kind": "lstm", "translate.epochs": 3}) == []
    assert changed("pretrain", **{"pretrain.epochs": 3, "seed": 1}) == [
        "config.pretrain.epochs: 0 then, 3 now",
        "config.seed: 0 then, 1 now",
    ]
    assert changed("translate", **{"model.mbart.weights": "./a"}) == [
        "config.model.mbart.weights: False then, True now"
    ]


@pytest.mark.parametrize("name", FILES)
def test_every_config_file_converts_and_survives_json(name):
    config = read_config(FILES[name]())
    assert config.name == name.replace(":", "_")
    assert read_config(ConfigDict(json.loads(json.dumps(to_dict(config))))) == config


def test_stage_1_of_its_own_is_the_one_that_stage_2_would_train():
    """`phoenix_stage2` looks for the workdir and the model that `phoenix_stage1` leaves."""
    pairs = ((phoenix_stage1, phoenix_stage2), (csl_daily_stage1, csl_daily_stage2))
    for variant, files in itertools.product(("", "toy"), pairs):
        first, second = (read_config(file.get_config(variant)) for file in files)
        assert first.name == second.init_from
        assert (first.data, first.model, first.pretrain) == (second.data, second.model, second.pretrain)


def test_whole_numbers_and_lists_become_what_the_field_wants():
    tree = with_value("translate.optim.weight_decay", 0)
    tree.model.cnn.resnet.depths = [1, 1]
    config = read_config(tree)
    assert type(config.translate.optim.weight_decay) is float
    assert config.model.cnn.resnet.depths == (1, 1)


def test_differences_name_each_key_with_both_values():
    saved, current = to_dict(Config()), to_dict(Config(seed=7, decode=DecodeConfig(beams=1)))
    del saved["logging"]["every_steps"]
    assert differences(saved, saved) == []
    assert differences(saved, current) == [
        "config.decode.beams: 4 then, 1 now",
        "config.logging.every_steps: None then, 20 now",
        "config.seed: 0 then, 7 now",
    ]
