"""An imported AlexNet computes what PyTorch computes, and any other file is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.weights.cnn import pretrained_cnn
from sslssaw_jax.weights.initial_state import WeightsError
from tests.support.pytorch import torch
from tests.support.toy import (
    assert_close,
    evaluated,
    jit,
    make_stages,
    toy_state,
    toy_system,
    translate_stage,
)

SIDE, WIDTHS, FEATURES = 99, (4, 6, 8, 4, 6), 5  # maps of 23, 11, 5 and 2 pixels
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def layers() -> dict[str, list[np.ndarray]]:
    """Random weights in the file's layout, kernels [H, W, in, out], with the classifier."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv1": (11, 11, 3, 4),
        "conv2": (5, 5, 2, 6),
        "conv3": (3, 3, 6, 8),
        "conv4": (3, 3, 4, 4),
        "conv5": (3, 3, 2, 6),
        "fc6": (2 * 2 * 6, FEATURES),
        "fc7": (FEATURES, FEATURES),
        "fc8": (FEATURES, 3),
    }
    return {
        name: [
            (1.5 * rng.normal(size=shape) / np.prod(shape[:-1]) ** 0.5).astype(np.float32),
            rng.normal(size=shape[-1]).astype(np.float32),
        ]
        for name, shape in shapes.items()
    }


def in_torch(parts: dict[str, list[np.ndarray]], levels: torch.Tensor) -> torch.Tensor:
    """Features of [N, 3, H, W]; torch's norm divides alpha by the five channels."""
    norm = torch.nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
    x = levels
    for name, groups, options in [
        ("conv1", 1, {"stride": 4}),
        ("conv2", 2, {"padding": 2}),
        ("conv3", 1, {"padding": 1}),
        ("conv4", 2, {"padding": 1}),
        ("conv5", 2, {"padding": 1}),
    ]:
        kernel, bias = (torch.tensor(part) for part in parts[name])
        x = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, groups=groups, **options).relu()
        if name in ("conv1", "conv2"):
            x = norm(x)
        if name not in ("conv3", "conv4"):
            x = torch.nn.functional.max_pool2d(x, 3, 2)
    x = x.permute(0, 2, 3, 1).flatten(1)  # the file's order: rows, columns, channels
    for name in ("fc6", "fc7"):
        kernel, bias = (torch.tensor(part) for part in parts[name])
        x = (x @ kernel + bias).relu()
    return x


def alexnet(weights: Path | None = None, **changes: Any) -> Any:
    sizes = {"kind": "alexnet", "alexnet.widths": WIDTHS, "alexnet.features": FEATURES}
    sizes |= {"weights": str(weights)} if weights else {}
    named = {f"model.cnn.{key}": value for key, value in sizes.items()}
    return toy_system("nslt", **named | {"data.image_size": SIDE} | changes)


def test_alexnet_with_the_file_s_weights_equals_torch(tmp_path: Path) -> None:
    parts = layers()
    np.save(tmp_path / "bvlc_alexnet.npy", np.array(parts, dtype=object), allow_pickle=True)
    config = alexnet(tmp_path / "bvlc_alexnet.npy")
    stage = translate_stage(config)
    state = pretrained_cnn(config.model.cnn)(toy_state(stage))
    levels = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)
    frames = ((levels / 255 - MEAN) / STD).astype(np.float32)
    found = jit(lambda model, frames: model.video.cnn(frames, None))(evaluated(stage, state), frames)
    blue_first = levels[..., ::-1] - np.float32([104.00699, 116.66877, 122.67892])
    expected = in_torch(parts, torch.tensor(blue_first.copy()).permute(0, 3, 1, 2)).numpy()
    assert (expected > 0).any() and np.ptp(expected, axis=0).max() > 0.1
    assert_close(jax.device_get(found), expected, 2e-5)


def asks_for_a_program(file: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {file.parent / 'ran'}",)

    np.save(file, np.array(Program(), dtype=object), allow_pickle=True)


def lacks_a_layer(file: Path) -> None:
    parts = layers()
    del parts["conv4"]
    np.save(file, np.array(parts, dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (asks_for_a_program, r"system, which could run code"),
        (lacks_a_layer, r"(?s)does not fit config\.model\.cnn\.alexnet.*conv4\.kernel: missing in the file"),
        (lambda file: np.save(file, np.zeros(3)), "not AlexNet's bvlc_alexnet.npy"),
        (lambda file: file.write_bytes(b"<html>"), "not AlexNet's bvlc_alexnet.npy"),
        (lambda file: None, "No such file"),
    ],
)
def test_another_file_is_refused_and_runs_nothing(
    write: Callable[[Path], Any], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "weights.npy"
    write(file)
    config = alexnet(file)
    with pytest.raises(WeightsError, match=words):
        pretrained_cnn(config.model.cnn)(toy_state(translate_stage(config)))
    assert not (tmp_path / "ran").exists()


def test_sizes_that_no_alexnet_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"widths is \(4, 6\); it must be five even numbers"):
        alexnet(**{"model.cnn.alexnet.widths": (4, 6)})
    with pytest.raises(ConfigError, match=r"config\.data\.image_size is 48; AlexNet needs 67"):
        make_stages(alexnet(**{"data.image_size": 48}))[-1].abstract_state()
