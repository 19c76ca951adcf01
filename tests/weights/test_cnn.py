"""Imported CNNs compute what PyTorch computes, and a file that does not fit is refused by name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers
from flax import nnx

from sslssaw_jax.config.experiment import to_config_dict
from sslssaw_jax.experiment import Experiment
from sslssaw_jax.models.cnn import CNNConfig, make_cnn
from sslssaw_jax.models.keys import Keys
from sslssaw_jax.models.resnet import ResNetConfig
from sslssaw_jax.models.shufflenet import ShuffleNetConfig
from sslssaw_jax.models.vgg import VGGConfig
from sslssaw_jax.systems import read_config
from sslssaw_jax.weights.initial_state import WeightsError
from tests.support.pytorch import torch
from tests.support.resnet_reference import BiasedVariances, randomise_torch, torch_frames
from tests.support.small_runs import shipped, shrink
from tests.support.torchvision_reference import imported, save_torch, torchvision_model
from tests.support.toy import assert_close, jit, toy_state

SIDE = 33  # odd maps on the way down: 33, 17, 9, 5, 3, 2
MASK = np.array([True, True, False, True])
RESNET_18 = CNNConfig()
RESNET_50 = CNNConfig(resnet=ResNetConfig("bottleneck", (3, 4, 6, 3)))
SHUFFLENET = CNNConfig(kind="shufflenet")
VGG_11 = CNNConfig(kind="vgg")
# four levels, like the full sizes
SMALL_BASIC = CNNConfig(resnet=ResNetConfig("basic", (2, 1, 1, 1), 8))
SMALL_BOTTLENECK = CNNConfig(resnet=ResNetConfig("bottleneck", (1, 2, 1, 1), 8))
SMALL_SHUFFLENET = CNNConfig(kind="shufflenet", shufflenet=ShuffleNetConfig((1, 2, 1), 8, 12, 20))
SMALL_VGG = CNNConfig(kind="vgg", vgg=VGGConfig((4, 5, 6, 7, 8)))
TOY_RESNET = CNNConfig(resnet=ResNetConfig("basic", (1, 1), 4))
TOY_SHUFFLENET = CNNConfig(kind="shufflenet", shufflenet=ShuffleNetConfig((1, 2), 4, 6, 10))


def hugging_face_model(config: CNNConfig) -> torch.nn.Module:
    width, levels = config.resnet.width, range(len(config.resnet.depths))
    widths = [width * 2**level * (4 if config.resnet.block == "bottleneck" else 1) for level in levels]
    return transformers.ResNetModel(
        transformers.ResNetConfig(
            embedding_size=width,
            hidden_sizes=widths,
            depths=list(config.resnet.depths),
            layer_type=config.resnet.block,
        )
    )


def features_of(model: torch.nn.Module, frames: np.ndarray) -> torch.Tensor:
    features: Any = model(torch_frames(frames))
    return features if isinstance(features, torch.Tensor) else features.pooler_output.flatten(1)


def random_frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(MASK), SIDE, SIDE, 3)).astype(np.float32)


@jax.jit
def evaluated(model, frames):
    return nnx.view(model, use_running_average=True, raise_if_not_found=False)(frames, MASK)


@jax.jit
def trained(model, frames):
    model = nnx.clone(model)
    return model(frames, MASK), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))


def save(model: torch.nn.Module, folder) -> str:
    if isinstance(model, transformers.PreTrainedModel):
        model.save_pretrained(folder)
        return str(folder)
    return save_torch(model.state_dict(), folder / "weights.pth")


CASES = {
    "torchvision basic ResNet": (torchvision_model, SMALL_BASIC),
    "torchvision bottleneck ResNet": (torchvision_model, SMALL_BOTTLENECK),
    "torchvision ShuffleNetV2": (torchvision_model, SMALL_SHUFFLENET),
    "torchvision VGG-11": (torchvision_model, SMALL_VGG),
    "Hugging Face basic ResNet": (hugging_face_model, SMALL_BASIC),
    "Hugging Face bottleneck ResNet": (hugging_face_model, SMALL_BOTTLENECK),
}


def reread(config: CNNConfig, values: dict[str, torch.Tensor], folder) -> tuple[Any, Any]:
    """Torch's values (statistics or gradients) under our names."""
    path = save_torch(values, folder / "values.pth")
    return values_of(imported(dataclasses.replace(config, weights=path), SIDE))


def values_of(cnn: nnx.Module) -> tuple[Any, Any]:
    """Parameters and batch statistics."""
    return tuple(nnx.to_pure_dict(nnx.state(cnn, kind)) for kind in (nnx.Param, nnx.BatchStat))


def assert_equal_in_evaluation(make: Any, config: CNNConfig, folder: Path) -> None:
    theirs = make(config).eval()
    randomise_torch(theirs, seed=1)
    config = dataclasses.replace(config, weights=save(theirs, folder))
    frames = random_frames(2)
    with torch.no_grad():
        expected = features_of(theirs, frames)
    assert_close(evaluated(imported(config, SIDE), frames), expected.numpy())


@pytest.mark.parametrize("case", CASES)
def test_a_cnn_equals_torch_in_evaluation(case, tmp_path):
    assert_equal_in_evaluation(*CASES[case], tmp_path)


@pytest.mark.slow
def test_the_shipped_resnet_equals_torch_in_evaluation(tmp_path):
    assert_equal_in_evaluation(hugging_face_model, RESNET_18, tmp_path)


@pytest.mark.parametrize(
    ("config", "count"),
    [(RESNET_18, 11_176_512), (RESNET_50, 23_508_032), (SHUFFLENET, 1_253_604), (VGG_11, 9_220_480)],
    ids=["ResNet-18", "ResNet-50", "ShuffleNetV2 x1.0", "VGG-11"],
)
def test_a_full_size_has_as_many_weights_as_torchvision_s_without_the_classifier(config, count):
    cnn = nnx.eval_shape(lambda: make_cnn(config, 224, dtype=np.dtype(np.float32), rngs=Keys(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(cnn, nnx.Param))) == count


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["Hugging Face basic ResNet", "Hugging Face bottleneck ResNet", "torchvision ShuffleNetV2"],
)
def test_a_cnn_equals_torch_in_training(case, tmp_path):
    """In float64: many BatchNorms make float32's rounding an error of 1e-4, in torch as in ours."""
    make, config = CASES[case]
    theirs = make(config).train()
    randomise_torch(theirs, seed=1)
    config = dataclasses.replace(config, weights=save(theirs, tmp_path))
    frames = random_frames(2).astype(np.float64)
    variances = BiasedVariances(theirs.double())
    with torch.no_grad():
        expected = features_of(theirs, frames[MASK])
    with jax.enable_x64(True):
        features, stats = trained(imported(config, SIDE, "float64"), frames)
    assert_close(features[MASK], expected.numpy(), 1e-9)
    assert_close(jax.tree.map(np.float32, stats), reread(config, variances.state_dict(), tmp_path)[1])


@jit
def gradient(model, frames, cotangent):
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)

    def objective(params):
        return (nnx.merge(graphdef, params, stats, copy=True)(frames, MASK) * cotangent).sum()

    return nnx.to_pure_dict(jax.grad(objective)(params))


@pytest.mark.slow
def test_gradients_of_a_toy_shufflenet_equal_torchs(tmp_path):
    """In float64: a bias before a convolution and a BatchNorm has gradient 0, except for rounding."""
    theirs = torchvision_model(TOY_SHUFFLENET)
    randomise_torch(theirs, seed=3)
    config = dataclasses.replace(TOY_SHUFFLENET, weights=save(theirs, tmp_path))
    frames = random_frames(4).astype(np.float64)
    cotangent = np.random.default_rng(5).normal(size=(len(MASK), 10)) * MASK[:, None]
    features = features_of(theirs.double().train(), frames[MASK])
    (features * torch.tensor(cotangent[MASK])).sum().backward()
    gradients = {name: value.grad for name, value in theirs.named_parameters() if value.grad is not None}
    expected, _ = reread(config, theirs.state_dict() | gradients, tmp_path)
    with jax.enable_x64(True):
        actual = gradient(imported(config, SIDE, "float64"), frames, cotangent)
    assert_close(jax.tree.map(np.float32, actual), expected, 1e-6)


def test_a_stage_starts_from_the_weights_of_its_cnn(tiny_data_dir, tmp_path, monkeypatch):
    tree = shrink(shipped("phoenix_stage1"), tiny_data_dir)
    tree.model.cnn.kind, tree.model.cnn.shufflenet = "shufflenet", to_config_dict(TOY_SHUFFLENET.shufflenet)
    theirs = torchvision_model(TOY_SHUFFLENET)
    randomise_torch(theirs, seed=3)
    tree.model.cnn.weights = save(theirs, tmp_path)
    config, started = read_config(tree), []

    def train(stage, *_, start, **__):
        started.append(start(toy_state(stage)))
        return started[0]

    monkeypatch.setattr("sslssaw_jax.experiment.experiment.train", train)
    Experiment(config, tmp_path / "run")._train(0)
    found = nnx.to_pure_dict(started[0].params["video"]["cnn"])
    expected, _ = values_of(imported(config.model.cnn, SIDE))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def toy_weights(config: CNNConfig) -> dict[str, torch.Tensor]:
    return dict(torchvision_model(config).state_dict())


def refusal(config: CNNConfig, source: Any) -> str:
    with pytest.raises(WeightsError) as refused:
        imported(dataclasses.replace(config, weights=str(source)), SIDE)
    return str(refused.value)


def test_all_tensors_that_do_not_fit_are_told_with_both_shapes(tmp_path):
    weights = toy_weights(TOY_RESNET)
    del weights["layer1.0.bn1.running_mean"]
    weights["layer1.0.conv1.weight"] = torch.zeros(4, 4, 1, 1)
    weights["layer1.0.se.weight"] = torch.zeros(2)
    path = save_torch(weights, tmp_path / "weights.pth")
    assert refusal(TOY_RESNET, path).splitlines() == [
        f"{path} does not fit config.model.cnn.resnet:",
        "  layer1.0.bn1.running_mean: missing in the file, (4,) in the model",
        "  layer1.0.conv1.weight: (4, 4, 1, 1) in the file, (4, 4, 3, 3) in the model",
        "  layer1.0.se.weight: (2,) in the file, unknown in the model",
    ]


def test_weights_of_another_architecture_are_refused_with_the_number_of_what_differs(tmp_path):
    path = save_torch(toy_weights(TOY_RESNET), tmp_path / "weights.pth")
    lines = refusal(TOY_SHUFFLENET, path).splitlines()
    assert lines[0] == f"{path} does not fit config.model.cnn.shufflenet:"
    assert len(lines) == 14 and lines[-1].startswith("  and ")


def test_a_hugging_face_resnet_that_strides_elsewhere_is_refused(tmp_path):
    """The shapes of all tensors are the same, the function is not."""
    model = hugging_face_model(TOY_RESNET)
    model.config.downsample_in_bottleneck = True
    model.save_pretrained(tmp_path)
    told = "downsample_in_bottleneck=True; here it is False: such weights cannot be used"
    assert told in refusal(TOY_RESNET, tmp_path)


def test_a_classifier_in_pytorchs_own_format_gives_the_same_cnn(tmp_path):
    """`ResNetForImageClassification`: a prefix before each name, and a classifier."""
    model = hugging_face_model(TOY_RESNET)
    randomise_torch(model, seed=6)
    model.save_pretrained(tmp_path / "plain")
    classifier = transformers.ResNetForImageClassification(model.config)
    classifier.resnet = model
    (tmp_path / "classifier").mkdir()
    save_torch(classifier.state_dict(), tmp_path / "classifier" / "pytorch_model.bin")
    (tmp_path / "classifier" / "config.json").write_text(json.dumps(model.config.to_dict()))
    plain, classified = (
        values_of(imported(dataclasses.replace(TOY_RESNET, weights=str(tmp_path / name)), SIDE))
        for name in ("plain", "classifier")
    )
    jax.tree.map(np.testing.assert_array_equal, plain, classified)


def test_a_hub_name_is_read_from_the_cache_and_else_told_how_to_download(tmp_path, monkeypatch):
    message = refusal(TOY_RESNET, "nobody/resnet-0")
    assert "there is no folder nobody/resnet-0" in message and "`hf download" in message
    assert "--config.model.cnn.weights= trains from scratch" in message

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--nobody--resnet-0"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    model = hugging_face_model(TOY_RESNET)
    model.save_pretrained(cached / "snapshots" / "abc")
    config = dataclasses.replace(TOY_RESNET, weights="nobody/resnet-0")
    stem = values_of(imported(config, SIDE))[0]["stem"]["kernel"]
    np.testing.assert_array_equal(
        stem, model.embedder.embedder.convolution.weight.detach().permute(2, 3, 1, 0).numpy()
    )


def test_what_is_no_weight_file_is_refused_by_its_path(tmp_path):
    assert f"there is no {tmp_path}/absent.pth" in refusal(TOY_RESNET, tmp_path / "absent.pth")
    assert f"{tmp_path} holds no weights" in refusal(TOY_RESNET, tmp_path)
    for name in ("torn.pth", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"torn")
        assert f"{tmp_path / name} cannot be read" in refusal(TOY_RESNET, tmp_path / name)
    other = save_torch({"epoch": 3}, tmp_path / "other.pth")
    assert "is not a plain state dict: epoch" in refusal(TOY_RESNET, other)
