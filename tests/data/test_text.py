"""Words and characters, and questions as the tokenizer reads them."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from sslssaw_jax.data.masking import mask_words
from sslssaw_jax.data.mbart_tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from sslssaw_jax.data.text import (
    clean_question,
    counts_characters,
    has_wide,
    is_unusual,
    lower_tokens,
    normal,
    tokens,
    without_each_word,
)
from sslssaw_jax.evaluation.metrics import overlap, score

ODD = [
    "wa\u0308rmer fu\u0308r mu\u0308nchen",  # decomposed umlauts
    "regen… und dann ½ grad, nº 3",
    "eﬃziente ﬁnale",  # ligatures
    "wet\u200bter im\ufeff nor\u00adden\u2060 heute",
    "Ｒｅｇｅｎ　ｉｍ　Ｎｏｒｄｅｎ",
    "ein\x0bwort\x1f hier\x85dort\u2028dann",
    "明天，ＡＢ下雨",
    "فردا می\u200cبارد",
]


@pytest.mark.parametrize("text", ODD)
def test_a_perfect_translation_scores_100_whatever_the_target_is_written_with(
    tokenizer: Tokenizer, text: str
) -> None:
    translation = tokenizer.decode(tokenizer.encode(text, 1000))
    assert translation != text
    characters = counts_characters([text])
    for key, value in score([translation], [text], characters=characters).items():
        if key in ("bleu1", "rouge_l", "chrf"):  # some are shorter than four words
            assert value == pytest.approx(100), (key, normal(text), normal(translation))
    assert overlap(text, text.upper(), characters=characters) == 1
    assert lower_tokens(translation, characters) == lower_tokens(text, characters)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer([*ODD, *ODD], folder, vocab_size=400)
    return load_tokenizer(folder, "de_DE")


def test_the_normal_form_is_that_of_what_the_tokenizer_reads(tmp_path: Path) -> None:
    """For every character of the basic plane that Unicode has assigned."""
    train_tokenizer(["a b"] * 2, tmp_path / "tokenizer", vocab_size=10)
    model = sentencepiece.SentencePieceProcessor(
        model_file=str(tmp_path / "tokenizer" / "sentencepiece.bpe.model")
    )
    characters = [chr(code) for code in range(1, 0xFFFF) if unicodedata.category(chr(code))[0] != "C"]
    characters += [chr(code) for code in range(1, 0xFFFF) if unicodedata.category(chr(code)) in ("Cc", "Cf")]
    wrong = [
        ascii(c)
        for c, read in zip(characters, model.normalize([f"a{c}b" for c in characters]))
        if normal(read) != normal(f"a{c}b")
    ]
    assert not wrong


def test_a_clean_question_has_no_case_width_or_invisible_characters() -> None:
    assert (
        clean_question("\ufeffWie  wird\u200b das Ｗetter\u00a0\nMORGEN\u2060?\t")
        == "wie wird das wetter morgen?"
    )
    assert clean_question("a\u0308 \u200b \u2060") == "ä"


@pytest.mark.parametrize(
    ("text", "characters"),
    [
        ("morgen regnet es", False),
        ("내일은 비가 옵니다", False),
        ("trời sẽ mưa", False),
        ("明天下雨。", True),
        ("明日は雨が降るでしょう", True),
        ("カタカナ OK", True),
        ("မနက်ဖြန် မိုးရွာမယ်", True),
        ("พรุ่งนี้ฝนจะตก", True),
        ("ថ្ងៃស្អែកនឹងមានភ្លៀង", True),
        ("ມື້ອື່ນຝົນຈະຕົກ", True),
        ("སང་ཉིན་ཆར་པ་འབབ།", True),
        ("12 : 30", False),
        ("", False),
    ],
)
def test_the_script_decides_whether_scores_count_characters(text: str, characters: bool) -> None:
    assert counts_characters([text]) == characters
    if characters:  # all but the last character are right
        found = score([text[:-1]], [text], characters=characters)
        assert 50 < found["bleu4"] < 100 and found["sacrebleu"] > 50
        tokenizer = "zh" if text == "明天下雨。" else "char"
        assert f"tok:{tokenizer}|" in found["sacrebleu_signature"]


def test_most_letters_of_all_targets_decide() -> None:
    assert counts_characters(["OK", "明天下雨", ""])
    assert not counts_characters(["the sign for 雨 means rain", "it rains"])


def test_tokens_are_words_or_characters_of_one_width() -> None:
    assert tokens(" rain in  the north\n", characters=False) == ["rain", "in", "the", "north"]
    assert tokens("他 今年，ＡB", characters=True) == ["他", "今", "年", ",", "A", "B"]


def test_a_target_is_unusual_if_scores_replace_more_than_its_width() -> None:
    assert not any(map(is_unusual, ["für morgen", " zwei  räume ", "他今年，ＡB。", "明日は、雨！", ""]))
    assert all(map(is_unusual, ["fu\u0308r", "½", "ｗide", "wet\u200bter", "他今\u200b年", "ﬁnal", "etc…"]))


@pytest.mark.parametrize(
    ("text", "wide"),
    [("wie wird das wetter?", False), ("他今年", True), ("yes，no", True), ("ähnlich – ja", False)],
)
def test_wide_texts_are_chinese_at_least_in_part(text: str, wide: bool) -> None:
    assert has_wide(text) == wide


@pytest.mark.parametrize("text", ["他今年四岁", "明日は雨", "พรุ่งนี้ฝน"])
def test_masking_and_scores_agree_on_what_a_word_is(text: str) -> None:
    masked = mask_words(text, 1.0, "#", np.random.default_rng(0))
    assert len(masked) == len(tokens(text, characters=True))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("wie wird das?", [("wie", "wird das?"), ("wird", "wie das?"), ("das", "wie wird?")]),
        ("don't go , x-ray", [("don't", "go , x-ray"), ("go", "don't , x-ray"), ("x-ray", "don't go ,")]),
        ("在哪？", [("在", "哪？"), ("哪", "在？")]),
        ("비가 옵니다", [("비가", "옵니다"), ("옵니다", "비가")]),
        ("rain", [("rain", "")]),
        ("?!", []),
    ],
)
def test_each_word_is_left_out_once_and_marks_stay(text: str, pairs: list[tuple[str, str]]) -> None:
    assert without_each_word(text) == pairs
