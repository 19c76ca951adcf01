"""What back-translation takes from trained models belongs to the right clip; no model is compiled."""

from types import SimpleNamespace

import numpy as np

from sslssaw_jax.data.glosses import UNKNOWN, GlossVocabulary
from sslssaw_jax.evaluation.sign_bank import make_bank, write_glosses
from tests.support.toy import toy_config

GLOSSES = GlossVocabulary(("RAIN", "NORTH"))
RAIN, NORTH = GLOSSES.encode("RAIN NORTH")


def runner(batch: SimpleNamespace, result: object, kept: dict | None = None) -> SimpleNamespace:
    """A runner of one batch, which keeps the options that a step is compiled with."""
    return SimpleNamespace(
        stage=SimpleNamespace(writes_glosses=True),
        config=toy_config(**{"data.max_glosses": 7, "decode.max_new_tokens": 20}),
        glosses=GLOSSES,
        compile=lambda *_, **options: (kept if kept is not None else {}).update(options),
        over=lambda *_, **__: [(batch, result)],
    )


def test_each_piece_of_a_bank_shows_its_gloss_in_its_own_clip() -> None:
    """Clip 2 comes first, clip 0 has too few positions for its glosses, and clip 1 is not read."""
    glosses = ["RAIN RAIN", "NORTH", "NORTH RAIN"]
    clips = SimpleNamespace(split="train", clips=[SimpleNamespace(gloss=gloss) for gloss in glosses])
    batch = SimpleNamespace(valid=np.array([False, True, True]), index=np.array([-1, 2, 0]))
    positions = np.arange(3 * 5 * 2, dtype=np.float32).reshape(3, 5, 2)
    mask = np.arange(5) < np.array([[0], [4], [2]])
    log_probs = np.full((3, 5, GLOSSES.size), -5.0)
    log_probs[1, np.arange(4), [NORTH, RAIN, RAIN, RAIN]] = -0.1
    bank = make_bank(runner(batch, (positions, mask, log_probs)), None, clips, [0, 2])
    np.testing.assert_array_equal(bank.positions, [*positions[1, :4], *positions[2, :2]])
    assert bank.clips.tolist() == [[4, 2], [0, 0], [0, 4]]
    assert bank.pieces.tolist() == [[RAIN, 1, 3], [NORTH, 0, 1]]


def test_the_pieces_of_a_second_clip_begin_behind_the_first() -> None:
    clips = SimpleNamespace(split="train", clips=[SimpleNamespace(gloss="RAIN")] * 2)
    batch = SimpleNamespace(valid=np.array([True, True]), index=np.array([0, 1]))
    log_probs = np.log(np.full((2, 3, GLOSSES.size), 0.25))
    bank = make_bank(
        runner(batch, (np.ones((2, 3, 1)), np.ones((2, 3), bool), log_probs)), None, clips, [0, 1]
    )
    assert bank.pieces.tolist() == [[RAIN, 0, 3], [RAIN, 3, 3]]


def test_written_glosses_stand_with_their_sentence_and_hold_no_unknown_one() -> None:
    kept: dict = {}
    batch = SimpleNamespace(valid=np.array([True, False, True]), index=np.array([1, -1, 0]))
    best = [[RAIN, UNKNOWN, NORTH, 0], [RAIN] * 4, [NORTH, 0, UNKNOWN, UNKNOWN]]
    tokens = np.stack([np.array(best), np.full((3, 4), RAIN)], axis=1)  # a second beam
    found = write_glosses(runner(batch, SimpleNamespace(tokens=tokens), kept), None, ["north", "rain, north"])
    assert found == ["NORTH", "RAIN NORTH"]
    assert kept["decode"].max_new_tokens == 7, "as many as a clip may have"
