import pytest

from sslssaw_jax.evaluation.split_recognizer import GlossPrediction, score_gloss_predictions
from sslssaw_jax.evaluation.wer import clean_phoenix, score_glosses
from tests.support.annotations import ANNOTATIONS, requires_phoenix


def test_the_rate_counts_edits_per_gloss_of_the_references() -> None:
    predictions = ["A B X", "A", "NOISE", "C D"]
    references = ["A B C", "A B", "", "C D"]
    scores = score_glosses(predictions, references, phoenix=False)
    assert scores == {
        "wer": pytest.approx(100 * 2 / 7),
        "substitutions": pytest.approx(100 / 7),
        "deletions": pytest.approx(100 / 7),
        "insertions": 0.0,
        "num_clips": 3,
        "num_glosses": 7,
    }
    assert score_glosses(["A A B"], ["A B"], phoenix=False)["insertions"] == 50
    with pytest.raises(ValueError, match="no clip has glosses"):
        score_glosses(["A"], [" "], phoenix=False)


@pytest.mark.parametrize(
    ("glosses", "cleaned"),
    [
        ("__ON__ loc-NORD REGEN __OFF__", "NORD REGEN"),
        ("cl-KOMMEN WOLKE-PLUSPLUS WIE AUSSEHEN", "KOMMEN WOLKE WIE-AUSSEHEN"),
        ("NORDRAUM RAUM REGION", "NORD RAUM REGION"),
        ("IX A B C UND S SCH NN E", "IX A+B+C UND S+SCH+NN+E"),
        ("REGEN REGEN SCHNEE poss-EUCH poss-EUCH", "REGEN SCHNEE poss-EUCH"),
        ("ABER A", "ABER A"),
    ],
)
def test_phoenix_glosses_are_cleaned_up_as_in_the_field(glosses: str, cleaned: str) -> None:
    assert clean_phoenix(glosses) == cleaned


@requires_phoenix
def test_few_annotations_of_phoenix_are_changed_by_the_clean_up() -> None:
    """The annotations that signjoey's function changes."""
    files = [
        ANNOTATIONS / f"phoenix2014t_qa/PHOENIX-2014-T.{name}.corpus.txt" for name in ("train", "dev", "test")
    ]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    glosses = [line.split("|")[5] for line in lines]
    assert len(glosses) == 8257
    assert sum(clean_phoenix(one) != one for one in glosses) == 61


def test_phoenix_is_scored_with_the_clean_up_and_without() -> None:
    scores = score_glosses(["REGEN REGEN loc-NORD"], ["REGEN NORD"], phoenix=True)
    assert scores["wer"] == 0
    assert scores["wer_as_written"] == 100


def test_glosses_are_cleaned_up_on_phoenix_alone() -> None:
    found = [GlossPrediction("a", "REGEN NORD", "REGEN REGEN loc-NORD", 0.0, [])]
    assert score_gloss_predictions(found, "phoenix2014t_qa")["wer"] == 0
    assert score_gloss_predictions(found, "csl_daily_qa")["wer"] == 100
