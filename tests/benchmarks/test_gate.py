"""The gate of each feature: its means are the weights that a translation shows."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import gates_of, row_of
from sslssaw_jax import Translator
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from tests.support.small_runs import make_run


@pytest.mark.parametrize("changes", [{}, {"model.fusion.gate_norm": False, "model.fusion.gate_scale": 2.0}])
def test_means_over_features_are_the_weights_of_translations(tiny_data_dir: Path, tmp_path: Path, changes):
    make_run(tmp_path / "run", tiny_data_dir, **changes)
    gates = gates_of(tmp_path / "run", str(tiny_data_dir))
    dev = ClipSource(find_dataset(tiny_data_dir, "avatar_qa"), "dev")
    answers = Translator.from_pretrained(tmp_path / "run").answer([dev[index] for index in range(len(dev))])
    shown = [answer.gate for answer in answers]
    questions = np.concatenate([gate.weights[: len(gate.tokens)] for gate in shown])
    videos = np.concatenate([gate.weights[len(gate.tokens) :] for gate in shown])
    for part, expected in (("question", questions), ("video", videos)):
        found = gates[part].mean(axis=1)
        np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-5)  # in another order of clips


def test_a_constant_factor_of_each_feature_is_all_constant():
    factors = np.tile(np.linspace(0.05, 0.95, 20), (7, 1))
    assert row_of("run", "video", factors)[-3:] == ["100.0 %", "10.0 %", "10.0 %"]
    changing = np.concatenate([factors, 1 - factors])
    assert row_of("run", "video", changing)[-3] == "0.0 %"


def test_a_run_without_a_gate_is_refused(tiny_data_dir: Path, tmp_path: Path):
    make_run(tmp_path / "run", tiny_data_dir, **{"model.fusion.kind": "concat"})
    with pytest.raises(SystemExit, match="has no gate"):
        gates_of(tmp_path / "run", str(tiny_data_dir))
