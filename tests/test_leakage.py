import pytest

from sslssaw_jax.data.tokenizer import clean_question
from sslssaw_jax.leakage import edit_german_question
from sslssaw_jax.metrics import score
from tests.annotations import ANNOTATIONS, requires_phoenix
from tfds_builders.phoenix2014t_qa.annotations import read_questions


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (
            "ist das die wettervorhersage für morgen 12juli und sonntag?",
            "und nun die wettervorhersage für morgen sonntag den zwölften juli",
        ),
        (
            "der wetterbericht für den einunddreißigsten august freitag",
            "und nun die wettervorhersage für morgen freitag den einunddreißigsten august",
        ),
        ("gab es einen wetterbericht", "gab es einen wetterbericht"),
        ("sind es 20°c oder -3 grad", "sind es zwanzig grad oder minus drei grad"),
        ("werden es 21-grad", "werden es einundzwanzig grad"),
        ("regnet es heute abend.", "regnet es heute nacht"),
        ("im jahr 2010", "im jahr 2010"),
    ],
)
def test_the_edits_of_a_written_example(question: str, sentence: str) -> None:
    assert edit_german_question(question) == sentence


@requires_phoenix
def test_edited_questions_score_as_much_as_the_paper_s_system() -> None:
    problems: list[str] = []
    rows = read_questions(ANNOTATIONS / "phoenix2014t_qa" / "test.txt", "test", problems).values()
    assert not problems
    edited = [edit_german_question(clean_question(row.question)) for row in rows]
    found = score(edited, [row.target for row in rows])
    assert found["bleu4"] == pytest.approx(35.49, abs=0.05)
    assert found["rouge_l"] == pytest.approx(56.11, abs=0.05)
