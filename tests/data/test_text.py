"""Words and characters, and questions as the tokenizer reads them."""

import numpy as np
import pytest

from sslssaw_jax.data.masking import mask_words
from sslssaw_jax.data.text import clean_question, counts_characters, has_wide, tokens, without_each_word


def test_a_clean_question_has_no_case_width_or_invisible_characters() -> None:
    assert (
        clean_question("\ufeffWie  wird\u200b das Ｗetter\u00a0\nMORGEN\u200d?\t")
        == "wie wird das wetter morgen?"
    )
    assert clean_question("a\u0308 \u200b \u2060") == "ä"


def test_chinese_alone_is_scored_by_characters() -> None:
    assert [code for code in ("de_DE", "en_XX", "zh_CN", "ja_XX") if counts_characters(code)] == ["zh_CN"]


def test_tokens_are_words_or_characters_of_one_width() -> None:
    assert tokens(" rain in  the north\n", characters=False) == ["rain", "in", "the", "north"]
    assert tokens("他 今年，ＡB", characters=True) == ["他", "今", "年", ",", "A", "B"]


@pytest.mark.parametrize(
    ("text", "wide"),
    [("wie wird das wetter?", False), ("他今年", True), ("yes，no", True), ("ähnlich – ja", False)],
)
def test_wide_texts_are_chinese_at_least_in_part(text: str, wide: bool) -> None:
    assert has_wide(text) == wide


def test_masking_and_scores_agree_on_what_a_chinese_word_is() -> None:
    text = "他今年四岁"
    masked = mask_words(text, 1.0, "#", np.random.default_rng(0))
    assert len(masked) == len(tokens(text, characters=True))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("wie wird das?", [("wie", "wird das?"), ("wird", "wie das?"), ("das", "wie wird?")]),
        ("don't go , x-ray", [("don't", "go , x-ray"), ("go", "don't , x-ray"), ("x-ray", "don't go ,")]),
        ("在哪？", [("在", "哪？"), ("哪", "在？")]),
        ("rain", [("rain", "")]),
        ("?!", []),
    ],
)
def test_each_word_is_left_out_once_and_marks_stay(text: str, pairs: list[tuple[str, str]]) -> None:
    assert without_each_word(text) == pairs
