import pytest

from sslssaw_jax.evaluation.german_questions import edit_german_question


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
