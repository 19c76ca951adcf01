"""The scores that choose a run's best state."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.evaluation.metrics import score
from sslssaw_jax.evaluation.predictions import Prediction
from sslssaw_jax.evaluation.programs import Programs
from sslssaw_jax.evaluation.split_recognizer import GlossPrediction
from tests.support.toy import toy_config


def test_a_state_is_chosen_by_the_translations_and_all_errors_of_glosses_on_dev(tiny_data_dir: Path) -> None:
    said, read = "today there is rain in the north", list[Any]()

    def translate(state: str, clips: Any) -> tuple[list[Prediction], list[None]]:
        read.append((state, clips.split))
        return [Prediction(clip.id, "", clip.target, said, 0.0) for clip in clips.clips], []

    def recognize(state: str, clips: Any) -> list[GlossPrediction]:
        read.append((state, clips.split))
        return [GlossPrediction("a", "A B C D", "A X C D E", 0.0, [])]  # a wrong gloss, and one too many

    stage = SimpleNamespace(existence=None, translation=True, recognition=True, reads_video=False)
    programs = Programs(
        SimpleNamespace(stage=stage, config=toy_config()), find_dataset(tiny_data_dir, "avatar_qa")
    )
    vars(programs).update(translate=translate, recognize=recognize)
    found = programs.dev_scores("state")
    expected = score([said] * 6, [clip.target for clip in programs.dev.clips])
    assert found == {"bleu4": expected["bleu4"], "rouge_l": expected["rouge_l"], "wer": pytest.approx(50)}
    assert expected["bleu4"] != expected["rouge_l"] and read == [("state", "dev")] * 2
