from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from sslssaw_jax.stages.stage import Stage, StageInputs
from sslssaw_jax.stages.warm_start import CNN_MODULES, warm_start_stages
from sslssaw_jax.systems.ssl_ssaw import PRETRAIN_MODULES
from sslssaw_jax.training.checkpoints import Checkpointer, CheckpointError
from sslssaw_jax.weights.initial_state import WeightsError, replace_variables, variables
from sslssaw_jax.weights.transfer import trained_modules
from tests.support.toy import VOCAB_SIZE, pretrain_stage, toy_config, toy_state, translate_stage

CONFIG = toy_config()


def saved(stage, directory):
    """A random state of the stage, saved as a finished run leaves it."""
    state = toy_state(stage, seed=1)
    with Checkpointer(directory) as checkpointer:
        checkpointer.save(state, data={}, meta={"tokenizer": "abc"})
    return state, directory


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory):
    return saved(pretrain_stage(CONFIG, VOCAB_SIZE), tmp_path_factory.mktemp("stage1"))


def warm_start(glosses: list[str]) -> Stage:
    clips = [SimpleNamespace(gloss=gloss) for gloss in glosses]
    config = toy_config(**{"warm_start.epochs": 1})
    (stage,) = warm_start_stages(config, StageInputs(clips=lambda split: clips))
    return stage


def stage_2_state(vocab_size: int = VOCAB_SIZE, **changes):
    return toy_state(translate_stage(toy_config(**changes), vocab_size), seed=2)


def flat(state) -> dict[str, np.ndarray]:
    """Dotted names of all parameters and statistics."""
    trees = nnx.to_pure_dict(state.params), nnx.to_pure_dict(state.batch_stats)
    leaves = [jax.tree.leaves_with_path(tree) for tree in trees]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in [*leaves[0], *leaves[1]]
    }


def split_by_module(names, modules):
    """Names within the modules, and the others."""
    inside = {name for name in names if name.startswith(tuple(f"{module}." for module in modules))}
    return inside, names - inside


def assert_transferred(new, own, donor, modules):
    """The modules of `new` are the donor's bit for bit; everything else is `own`'s."""
    new, own, donor = flat(new), flat(own), flat(donor)
    assert new.keys() == own.keys()
    taken, kept = split_by_module(own.keys(), modules)
    for module, donor_module in modules.items():
        names = [name for name in taken if name.startswith(f"{module}.")]
        for name in names:
            theirs = donor[donor_module + name.removeprefix(module)]
            np.testing.assert_array_equal(new[name], theirs)
            assert not np.array_equal(own[name], theirs)
    for name in kept:
        np.testing.assert_array_equal(new[name], own[name])
    return taken, kept


def test_stage_2_begins_with_the_modules_of_stage_1(stage_1):
    donor, directory = stage_1
    own = stage_2_state()
    new = trained_modules(directory, PRETRAIN_MODULES, tokenizer="abc")(own)
    taken, kept = assert_transferred(new, own, donor, PRETRAIN_MODULES)
    assert {name.split(".")[0] for name in kept} == {"fusion"}
    assert {name.split(".")[0] for name in taken} == PRETRAIN_MODULES.keys() - {"text_encoder"}
    assert any(name.endswith("var") for name in taken)
    assert jax.tree.structure(new) == jax.tree.structure(own)


def test_stage_2_goes_on_with_the_mbert_of_stage_1(tmp_path):
    sizes = {"d_model": 8, "ffn_dim": 8, "num_layers": 1, "heads": 2}
    changes = {"model.text_encoder": "mbert"} | {f"model.mbert.{key}": size for key, size in sizes.items()}
    donor, directory = saved(pretrain_stage(toy_config(**changes), VOCAB_SIZE, 9), tmp_path)
    own = toy_state(translate_stage(toy_config(**changes), VOCAB_SIZE, 9), seed=2)
    new = trained_modules(directory, PRETRAIN_MODULES, tokenizer="abc")(own)
    taken, _ = assert_transferred(new, own, donor, PRETRAIN_MODULES)
    assert {name.split(".")[0] for name in taken} == set(PRETRAIN_MODULES)


def test_a_model_of_the_question_alone_takes_what_it_has(stage_1):
    donor, directory = stage_1
    own = stage_2_state(**{"model.inputs": "question"})
    new = trained_modules(directory, PRETRAIN_MODULES, tokenizer="abc")(own)
    without_video = {here: there for here, there in PRETRAIN_MODULES.items() if here != "video"}
    assert_transferred(new, own, donor, without_video)


def test_the_warm_start_gives_its_cnn_alone(tmp_path):
    donor, directory = saved(warm_start(["A", "B", "A"]), tmp_path)
    own = toy_state(pretrain_stage(CONFIG, VOCAB_SIZE), seed=2)
    new = trained_modules(directory, CNN_MODULES)(own)
    taken, _ = assert_transferred(new, own, donor, CNN_MODULES)
    assert any(name.endswith("mean") for name in taken)


def test_another_tokenizer_is_refused_with_both_fingerprints(stage_1):
    with pytest.raises(
        WeightsError, match=r"another tokenizer \(abc, now xyz\): set config\.data\.tokenizer"
    ):
        trained_modules(stage_1[1], PRETRAIN_MODULES, tokenizer="xyz")(stage_2_state())


def test_parameters_of_another_shape_are_refused_by_name_with_both_shapes(stage_1):
    shapes = rf"embedding\.embed\.embedding: \({VOCAB_SIZE}, 16\) in the file, \(50, 16\) in the model"
    with pytest.raises(WeightsError, match=shapes):
        trained_modules(stage_1[1], PRETRAIN_MODULES)(stage_2_state(vocab_size=50))


@pytest.mark.parametrize(
    ("there", "here", "problem"),
    [
        (1, 2, r"decoder\.layers\.1\..*: missing in the file, .* in the model"),
        (2, 1, r"decoder\.layers\.1\..*: .* in the file, unknown in the model"),
    ],
)
def test_a_layer_that_only_one_of_both_has_is_refused_by_name(there, here, problem, tmp_path):
    config = toy_config(**{"model.mbart.decoder_layers": there})
    _, directory = saved(pretrain_stage(config, VOCAB_SIZE), tmp_path)
    own = stage_2_state(**{"model.mbart.decoder_layers": here})
    with pytest.raises(WeightsError, match=problem):
        trained_modules(directory, PRETRAIN_MODULES)(own)


def test_a_module_missing_in_the_checkpoint_is_refused_by_name(tmp_path):
    _, directory = saved(warm_start(["A", "B"]), tmp_path)
    with pytest.raises(WeightsError, match=r"fit this one:\n  decoder\.\S+: missing in the file"):
        trained_modules(directory, PRETRAIN_MODULES)(stage_2_state())


def test_an_empty_directory_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=f"no checkpoint in {tmp_path}"):
        trained_modules(tmp_path, PRETRAIN_MODULES)(stage_2_state())


def test_weights_that_are_not_finite_are_refused_by_name():
    state = stage_2_state()
    path, value = next((path, value) for path, value in variables(state).items() if value.ndim == 2)
    bad = np.asarray(value).copy()
    bad[0, -1] = np.inf
    with pytest.raises(WeightsError, match=rf"NaN or infinity in {'.'.join(map(str, path))}: "):
        replace_variables(state, [(path, bad)])
