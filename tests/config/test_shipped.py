"""The shipped configurations can be trained, and differ in what they claim."""

import json
from pathlib import Path

import numpy as np
import pytest

from sslssaw_jax.config.experiment import differences, run_differences, to_dict
from sslssaw_jax.systems import read_config
from tests.support.small_runs import rows, run, shipped, shrink


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phoenix_stage2", "question_only"])
def test_a_shipped_configuration_trains(name: str, tiny_data_dir: Path, tmp_path: Path) -> None:
    """Train the last stage with its own optimizer, augmentation and losses; the demo covers the others."""
    config = shrink(shipped(name), tiny_data_dir)
    config.init_from, config.warm_start.epochs = None, 0
    config.evaluation.swap_questions, config.evaluation.num_heatmaps = False, 0
    if name == "phoenix_stage2":  # Table 6, since the demo has mBART read the question
        config.model.text_encoder, config.model.mbert.weights = "mbert", None
        config.model.mbert.update({"d_model": 12, "ffn_dim": 16, "num_layers": 1, "heads": 2})
    run(config, tmp_path)
    losses = [row["loss"] for row in rows(tmp_path / "log.jsonl")]
    assert len(losses) >= 3 and np.isfinite(losses).all()
    assert len(rows(tmp_path / "predictions.test.jsonl")) == 6
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["test"]["questions"] == {}, "config.evaluation.swap_questions is off"


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_toy_has_no_setting_that_neither_its_full_size_nor_the_demo_trains_with(stage: str) -> None:
    """The demo and the full sizes are trained in miniature."""
    toy, full, demo = (
        to_dict(read_config(shrink(shipped(*name), Path("data"))))
        for name in ((f"phoenix_{stage}", "toy"), (f"phoenix_{stage}", ""), ("demo",))
    )
    own = {line.split(":")[0] for line in differences(toy, full)}
    own &= {line.split(":")[0] for line in differences(toy, demo)}
    rates = {f"config.{stage}.optim.learning_rate" for stage in ("pretrain", "translate")}
    assert own == {"config.name", "config.init_from", "config.evaluation.question_only_run", *rates}


@pytest.mark.parametrize("name", [("phoenix_stage2", "toy"), ("csl_daily_stage2", "toy"), ("demo",)])
def test_a_small_model_can_write_the_longest_target_that_it_trains_on(name: tuple[str, ...]) -> None:
    config = read_config(shipped(*name))
    assert config.decode.max_new_tokens >= config.data.max_target_tokens - 1  # the language code is given


@pytest.mark.parametrize("variant", ["", "toy"])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_csl_daily_trains_as_phoenix_does(stage: str, variant: str) -> None:
    """Compare both recipes on the miniature dataset."""
    phoenix, csl_daily = (
        to_dict(read_config(shrink(shipped(f"{dataset}_{stage}", variant), Path("data"))))
        for dataset in ("phoenix", "csl_daily")
    )
    keys = {line.split(":")[0] for line in differences(phoenix, csl_daily)}
    assert keys == {"config.name", "config.init_from", "config.evaluation.question_only_run"}


def test_where_pretrained_weights_lie_parts_no_runs_and_whether_there_are_any_does() -> None:
    shipped_config = read_config(shipped("phoenix_stage2"))

    def notes(**weights: str) -> dict:
        config = shipped("phoenix_stage2")
        config.model.update_from_flattened_dict({key.replace("__", "."): v for key, v in weights.items()})
        return {"config": to_dict(read_config(config)), "tokenizer": "x"}

    moved = notes(cnn__weights="./resnet.pth", mbart__weights="/moved/mbart", mbert__weights="/moved/mbert")
    assert run_differences(shipped_config, notes(), moved, "translate") == []
    told = run_differences(shipped_config, notes(), notes(mbart__weights=""), "translate")
    assert told == ["config.model.mbart.weights: True then, False now"]
