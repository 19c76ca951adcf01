import itertools
import json
import re

import pytest
from ml_collections import ConfigDict

from configs import baselines, csl_daily_stage1, csl_daily_stage2, demo, phoenix_stage1, phoenix_stage2
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config, DecodeConfig, differences, to_dict
from sslssaw_jax.systems import default_config, read_config

# key, a value that cannot be, words of the message besides the key
BAD_VALUES = [
    ("pretrain.patience", 3, "only translate"),
    ("translate.patience", -1, "negative"),
    ("data.skip_broken", -1, "negative"),
    ("profile", "10-20", "START:STOP"),
    ("stage", "train", "allowed: pretrain, translate"),
    ("log_every", 0, "must be positive"),
    ("data.mask_rate", 1.0, "[0, 1)"),
    ("data.crop_fraction", 0.0, "(0, 1]"),
    ("data.image_size", 0, "must be positive"),
    ("data.max_frames", -1, "must be positive"),
    ("data.max_question_tokens", 3, "at least 4"),
    ("model.cnn.resnet.block", "wide", "allowed: basic, bottleneck"),
    ("model.cnn.resnet.stem", "conv3", "allowed: conv7_pool, conv7_stride4"),
    ("model.cnn.resnet.head_features", 8, "head='flatten'"),
    ("model.cnn.resnet.depths", (), "at least one"),
    ("model.cnn", "vit", "allowed: resnet, shufflenet"),
    ("model.cnn.shufflenet.depths", (), "at least one"),
    ("model.cnn.shufflenet.stem", 0, "must be positive"),
    ("model.cnn.shufflenet.width", 7, "make it even"),
    ("model.mbart.activation", "silu", "allowed: gelu, relu"),
    ("model.mbart.pretrained_layers", "last", "allowed: first, spread"),
    ("model.mbart.heads", 3, "d_model 1024"),
    ("model.mbart.text_heads", 0, "d_model 1024"),
    ("model.mbart.dropout", 1.0, "[0, 1)"),
    ("model.text_encoder", "bert", "allowed: mbart, mbert"),
    ("model.mbert.heads", 5, "d_model 768"),
    ("model.mbert.pretrained_layers", "last", "allowed: first, spread"),
    ("model.mbert.attention_dropout", 1.0, "[0, 1)"),
    ("model.mbart.positions", "none", "allowed: learned, sinusoidal"),
    ("model.alignment", "longest", "allowed: pooled, text_to_video, video_to_text"),
    ("model.video_activation", "gelu", "allowed: relu, softsign"),
    ("model.attention", "local", "allowed: full, gloss, gloss_grid_sample"),
    ("model.fusion.kind", "attention", "allowed: ssaw, concat, lstm, tcn"),
    ("model.fusion.heads", 3, "d_model 1024"),
    ("model.fusion.dropout", -0.1, "[0, 1)"),
    ("model.inputs", "video", "allowed: question, sign, both"),
    ("model.ssl", "on", "allowed: prefix, separate, off"),
    ("compute.dtype", "float16", "allowed: auto, float32, bfloat16"),
    ("warm_start.epochs", -1, "cannot be negative"),
    ("pretrain.clips_per_batch", 0, "must be positive"),
    ("translate.eval_every", 0, "must be positive"),
    ("translate.label_smoothing", 1.0, "[0, 1)"),
    ("translate.similarity_weight", -1.0, "cannot be negative"),
    ("pretrain.optim.name", "lion", "allowed: sgd, adam, adamw"),
    ("translate.optim.learning_rate", 0.0, "must be positive"),
    ("decode.beams", 0, "must be positive"),
    ("decode.max_new_tokens", 0, "must be positive"),
]
BAD_TYPES = [
    ("seed", "0"),
    ("seed", 0.5),
    ("log_every", True),
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
}


def with_value(key: str, value: object) -> ConfigDict:
    """The default configuration with one value that `ConfigDict` itself might refuse."""
    tree = default_config().to_dict()
    *groups, last = key.split(".")
    group = tree
    for name in groups:
        group = group[name]
    group[last] = value
    return ConfigDict(tree)


def test_the_default_is_the_dataclasses_own():
    assert read_config(default_config()) == Config()


@pytest.mark.parametrize(("key", "value", "words"), BAD_VALUES)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_key(key, value, words):
    with pytest.raises(ConfigError) as refused:
        read_config(with_value(key, value))
    message = str(refused.value)
    assert message.startswith(f"config.{key} is {value!r}")
    assert words in message


@pytest.mark.parametrize(("key", "value"), BAD_TYPES)
def test_a_value_of_the_wrong_type_is_refused_by_the_name_of_its_key(key, value):
    with pytest.raises(ConfigError, match=rf"^config\.{re.escape(key)} is .*; it must be "):
        read_config(with_value(key, value))


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(
        ConfigError, match=r"unknown key config\.model\.fusion\.knid; .*config\.model\.fusion\.kind\?"
    ):
        read_config(with_value("model.fusion.knid", "ssaw"))
    with pytest.raises(ConfigError, match=r"unknown key config\.decode\.zzz; known: beams, max_new_tokens"):
        read_config(with_value("decode.zzz", 1))


def test_texts_longer_than_mbert_can_read_are_refused_with_the_remedy():
    tree = with_value("data.max_target_tokens", 600)
    assert read_config(tree).model.text_encoder == "mbart"
    tree.model.text_encoder = "mbert"
    with pytest.raises(
        ConfigError, match=r"mbert\.max_positions is 512; texts of 600 tokens .* lower data\."
    ):
        read_config(tree)


def test_self_supervision_without_a_question_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"model\.inputs is 'sign'.* set model\.ssl to 'off'"):
        read_config(with_value("model.inputs", "sign"))
    tree = with_value("model.inputs", "sign")
    tree.model.ssl = "off"
    assert read_config(tree).model.inputs == "sign"


@pytest.mark.parametrize(("key", "value"), [("stem", "conv7_stride4"), ("head", "flatten")])
def test_pretrained_weights_for_another_layout_are_refused_with_the_remedy(key, value):
    tree = with_value("model.cnn.weights", "microsoft/resnet-18")
    tree.model.cnn.resnet.update({key: value, "head_features": 8 if value == "flatten" else 0})
    with pytest.raises(ConfigError, match=r"model\.cnn_weights is .*resnet\.stem='conv7_pool' and"):
        read_config(tree)
    tree.model.cnn.kind = "shufflenet"
    assert read_config(tree).model.cnn.weights == "microsoft/resnet-18"


def test_pretrained_weights_and_a_warm_start_are_refused_together():
    tree = with_value("model.cnn.weights", "microsoft/resnet-18")
    tree.warm_start.epochs = 1
    with pytest.raises(ConfigError, match=r"cnn_weights is 'microsoft/resnet-18' and warm_start\.epochs 1"):
        read_config(tree)


@pytest.mark.parametrize("change", [{"mbart.positions": "sinusoidal"}, {"attention": "gloss"}])
def test_what_mbart_has_not_starts_from_scratch(change):
    tree = default_config()
    tree.model.update_from_flattened_dict(change)
    with pytest.raises(ConfigError, match=r"init_from is 'stage1'.* set init_from to 'none'"):
        read_config(tree)
    tree.model.mbart.weights = "pretrained/mbart"
    with pytest.raises(ConfigError, match=r"weights is 'pretrained/mbart'.* set model\.mbart\.weights to ''"):
        read_config(tree)


@pytest.mark.parametrize("base", [name for name in FILES if "stage1" not in name])
def test_baselines_are_changes_to_every_config_of_stage_2(base):
    """As published with the sizes of its public code, and as the method alone with those of the base."""
    published = baselines.QB_SLRT_PUBLISHED, baselines.QB_GASLT_PUBLISHED
    for method, whole in zip((baselines.QB_SLRT, baselines.QB_GASLT), published, strict=True):
        assert method.items() <= whole.items()
        tree = FILES[base]()
        tree.update_from_flattened_dict(method)
        assert read_config(tree).model.mbart.d_model == FILES[base]().model.mbart.d_model
        tree.update_from_flattened_dict(whole)
        assert read_config(tree).model.mbart.d_model == 512


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
    del saved["log_every"]
    assert differences(saved, saved) == []
    assert differences(saved, current) == [
        "config.decode.beams: 4 then, 1 now",
        "config.logging.every_steps: None then, 20 now",
        "config.seed: 0 then, 7 now",
    ]
