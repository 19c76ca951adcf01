from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs import recognize
from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.config.experiment import Config, run_differences, to_dict
from sslssaw_jax.stages.recognition import gloss_loss, recognize_step
from sslssaw_jax.stages.stage import Stage
from sslssaw_jax.stages.step import count_batch
from sslssaw_jax.systems import read_config
from sslssaw_jax.training.checkpoints import Checkpointer
from sslssaw_jax.training.stage_folders import plan_stages, stage_folders
from sslssaw_jax.weights.transfer import trained_modules
from tests.support.toy import (
    TOY_GLOSSES,
    evaluated,
    jit,
    loss_of,
    make_stages,
    one_clip,
    padded,
    toy_batch,
    toy_state,
    toy_system,
)

SMALL_HEAD = {"model.gloss_head.d_model": 8, "model.gloss_head.ffn_dim": 12, "model.gloss_head.dropout": 0.0}


def recognizer(system: str = "slrt", **changes: Any) -> tuple[Config, Stage]:
    config = toy_system(system, **{"stage": "recognize"} | SMALL_HEAD | changes)
    return config, make_stages(config)[-1]


def test_clips_without_glosses_or_too_short_for_them_cost_nothing() -> None:
    batch, rng = toy_batch(0, clips=3), np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, TOY_GLOSSES.size)).astype(np.float32)
    gloss = np.array([[2, 3, 0], [0, 0, 0], [2, 2, 2]])
    batch = batch.replace(gloss=gloss, gloss_mask=gloss > 0)
    mask = np.ones((3, 4), bool)
    counts = count_batch(batch)
    loss, metrics = gloss_loss(logits, mask, batch, counts)
    alone = batch.replace(gloss_mask=batch.gloss_mask & [[True], [False], [False]])
    np.testing.assert_allclose(loss, gloss_loss(logits, mask, alone, counts)[0])
    assert float(loss) > 0 and float(metrics["too_short"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_recognised_glosses_depend_on_no_other_clip_and_on_no_padding(kind: str) -> None:
    _, stage = recognizer(**{"model.gloss_head.kind": kind})
    state, batch = toy_state(stage), toy_batch(0, clips=3)
    step = partial(recognize_step, graphdef=stage.eval_def, recognition=stage.recognition)
    compiled = jit(partial(step, state.params, state.batch_stats))
    packed, more = compiled(batch), compiled(padded(batch, rows=1, frames=4))
    assert not more.mask[3:].any()
    for row in range(3):
        alone = compiled(one_clip(batch, row))
        mask = packed.mask[row]
        np.testing.assert_array_equal(alone.mask[0], mask)
        np.testing.assert_allclose(alone.log_probs[0][mask], packed.log_probs[row][mask], atol=2e-5)


@pytest.mark.parametrize("system", ["ssl_ssaw", "slrt"])
def test_the_next_stage_takes_the_trained_video_part(system: str, tmp_path: Path) -> None:
    changes = {"recognize.epochs": 1, "init_from": "signs", **SMALL_HEAD}
    stages = make_stages(toy_system(system, **changes))
    assert [stage.name for stage in stages] == ["recognize", "translate"]
    assert stage_folders(stages, tmp_path / "run", "signs") == [tmp_path / "signs", tmp_path / "run"]
    with pytest.raises(
        ConfigError, match="'signs', the workdir itself, but recognize needs a folder of its own"
    ):
        stage_folders(stages, tmp_path / "signs", "signs")
    donor, own = toy_state(stages[0], seed=1), toy_state(stages[1], seed=2)
    with Checkpointer(tmp_path, selection=stages[0].selection) as checkpoints:
        checkpoints.save(donor, data={}, meta={"tokenizer": "abc"})
    taken = trained_modules(tmp_path, stages[1].modules, tokenizer="abc")(own)
    for new, theirs in ((taken.params, donor.params), (taken.batch_stats, donor.batch_stats)):
        jax.tree.map(np.testing.assert_array_equal, new["video"], theirs["video"])
    jax.tree.map(np.testing.assert_array_equal, taken.params["decoder"], own.params["decoder"])


def test_stage_1_follows_on_the_recognizer_and_glosses_are_asked_for_late() -> None:
    config = toy_system("ssl_ssaw", **{"recognize.epochs": 1, "pretrain.epochs": 1, "init_from": "one"})
    stages = make_stages(config)
    assert [stage.name for stage in stages] == ["recognize", "pretrain", "translate"]
    assert stages[1].modules == {"video": "video"}
    assert [stage.reads_gloss for stage in stages] == [True, False, False]


@pytest.mark.parametrize("base", ["demo", "phoenix", "csl_daily"])
def test_the_shipped_translation_goes_on_from_the_shipped_recognizer(base: str) -> None:
    recognizer, then = (read_config(recognize.get_config(variant)) for variant in (base, f"{base}/translate"))
    notes = [{"config": to_dict(config)} for config in (recognizer, then)]
    assert run_differences(then, *notes, "warm_start", "recognize") == []
    workdir = Path("runs") / then.name
    [*_, (stage, folder), (last, _)] = plan_stages(then, workdir)
    assert (stage.name, folder, last.name) == ("recognize", Path("runs") / recognizer.name, "translate")


def test_slrt_with_ctc_divides_a_clip_s_loss_by_its_glosses_and_reads_no_question() -> None:
    changes = {"model.reads_question": False, "model.recognition_weight": 5.0}
    stage, batch = make_stages(toy_system("slrt", **changes))[-1], toy_batch(0)
    assert batch.gloss_mask.sum(axis=1).max() > 1

    @jit
    def losses(model: Any) -> tuple[jax.Array, jax.Array]:
        logits, mask = stage.recognition(model, batch)
        expected, _ = gloss_loss(logits, mask, batch, count_batch(batch), per_gloss=True)  # as neccam/slt
        return loss_of(stage, model, batch)[1]["loss_gloss"], expected

    found, expected = losses(evaluated(stage, toy_state(stage)))
    assert found > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ConfigError, match="set reads_question to False"):
        toy_system("slrt", **{"model.recognition_weight": 5.0})


@pytest.mark.parametrize("system", ["nslt", "question_only"])
def test_a_recogniser_that_a_system_lacks_is_said(system: str) -> None:
    with pytest.raises(ConfigError, match=f"the system '{system}' has no recogniser"):
        toy_system(system, **{"recognize.epochs": 1})
