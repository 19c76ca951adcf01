"""The tokenizer: mBART's ids, SentencePiece's pieces, folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import transformers

from sslssaw_jax.data.mbart_tokenizer import (
    LANGUAGES,
    MODEL_FILE,
    Tokenizer,
    TokenizerError,
    load_tokenizer,
    train_tokenizer,
)
from sslssaw_jax.data.text import clean_question
from tests.support.annotations import ANNOTATIONS, requires_phoenix, requires_tokenizer

TEXTS = [
    "tomorrow it will rain in the north",
    "the sun shines in the south",
    "when will it snow in the east?",
    "at night it stays cold",
] * 3


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "tokenizer"
    train_tokenizer(TEXTS, folder, vocab_size=30)
    return folder


@pytest.fixture(scope="module")
def german() -> Tokenizer:
    return load_tokenizer(ANNOTATIONS / "tokenizer", "de_DE")


def phoenix(column: str, every: int = 1) -> list[str]:
    """Real targets or questions of all splits, or each so many."""
    folder = ANNOTATIONS / "phoenix2014t_qa"
    rows = [
        row
        for split in ("train", "dev", "test")
        for row in (folder / f"{split}.txt").read_text(encoding="utf-8").splitlines()
    ]
    target, question = zip(*(row.split("%")[:2] for row in rows[::every]))
    return [text.split(" ", 1)[1] for text in target] if column == "target" else list(question)


@requires_tokenizer
def test_ids_are_those_of_the_real_mbart_layout(german: Tokenizer) -> None:
    assert (german.bos_id, german.pad_id, german.eos_id, german.unk_id) == (0, 1, 2, 3)
    assert (german.language_id, german.mask_id, german.vocab_size) == (2430, 2453, 2454)
    assert german.encode("\0<mask> nun \0<mask>", 64).count(german.mask_id) == 2


@requires_tokenizer
@requires_phoenix
@pytest.mark.parametrize("column", ["target", "question"])
def test_ids_are_sentencepieces_own_plus_one(german: Tokenizer, column: str) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(ANNOTATIONS / "tokenizer" / MODEL_FILE))
    texts = [*phoenix(column), "Ｆｕｌｌ ｗｉｄｔｈ, ﬁne… a\u0308"]
    for text in texts:
        expected = [piece + 1 if piece else german.unk_id for piece in model.encode(text)]
        assert german.encode(text, 10_000) == [*expected, german.eos_id, german.language_id]
    assert len(texts) == 8257 + 1


@requires_tokenizer
@requires_phoenix
def test_decoding_inverts_encoding_on_real_targets(german: Tokenizer) -> None:
    known = 0
    for text in phoenix("target"):
        ids = german.encode(text, 10_000)
        if german.unk_id not in ids:
            known += 1
            assert german.decode(ids) == text
    assert known > 7500


@requires_tokenizer
@requires_phoenix
def test_cleaning_questions_spares_unknowns(german: Tokenizer) -> None:
    def share_with_unknown(questions: list[str]) -> float:
        return float(np.mean([german.unk_id in german.encode(question, 10_000) for question in questions]))

    questions = phoenix("question", every=20)
    assert share_with_unknown(questions) > 0.8
    assert share_with_unknown([clean_question(question) for question in questions]) < 0.1


@requires_tokenizer
@pytest.mark.parametrize("max_tokens", [4, 7, 64])
def test_truncated_texts_end_in_eos_and_language(german: Tokenizer, max_tokens: int) -> None:
    ids = german.encode("und nun die wettervorhersage für morgen " * 20, max_tokens)
    assert len(ids) == max_tokens
    assert ids[-2:] == [german.eos_id, german.language_id]
    assert (
        ids[:-2] == german.encode("und nun die wettervorhersage für morgen " * 20, 10_000)[: max_tokens - 2]
    )
    assert german.encode("", max_tokens) == [german.eos_id, german.language_id]


@pytest.mark.parametrize("language", ["de_DE", "en_XX", "zh_CN"])
def test_trained_tokenizer_round_trips_without_specials_in_the_text(
    trained_folder: Path, language: str
) -> None:
    tokenizer = load_tokenizer(trained_folder, language)
    for text in TEXTS:
        ids = tokenizer.encode(text, 64)
        padded = [tokenizer.language_id, tokenizer.bos_id, *ids, tokenizer.pad_id, tokenizer.mask_id]
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(padded) == text
    for code in range(tokenizer.vocab_size - 1 - len(LANGUAGES), tokenizer.vocab_size):
        assert tokenizer.decode([code]) == ""


def test_training_is_deterministic_and_shrinks_to_what_the_texts_support(
    trained_folder: Path, tmp_path: Path
) -> None:
    train_tokenizer(iter(TEXTS), tmp_path / "again", vocab_size=30)
    assert (tmp_path / "again" / MODEL_FILE).read_bytes() == (trained_folder / MODEL_FILE).read_bytes()
    train_tokenizer(TEXTS, tmp_path / "large", vocab_size=5000)
    large = load_tokenizer(tmp_path / "large", "en_XX")
    small = load_tokenizer(trained_folder, "en_XX")
    assert small.vocab_size == 30 + 27 < large.vocab_size < 5000
    assert large.fingerprint != small.fingerprint


def test_chinese_characters_are_kept_and_no_sentence_is_learnt_by_heart(tmp_path: Path) -> None:
    texts = ["他今年四岁，对吗？", "我今年想去上海。", "你儿子几岁？", "他儿子想去上海吗？"] * 20
    train_tokenizer(texts, tmp_path / "chinese", vocab_size=100)
    tokenizer = load_tokenizer(tmp_path / "chinese", "zh_CN")
    pieces = tokenizer.pieces(range(4, tokenizer.vocab_size - 1 - len(LANGUAGES)))
    assert {"今年", "儿子"} < set(pieces) and max(map(len, pieces)) <= 4
    for text in texts:
        assert tokenizer.unk_id not in tokenizer.encode(text, 64)
        width_folded = text.replace("，", ",").replace("？", "?")
        assert tokenizer.decode(tokenizer.encode(text, 64)) == width_folded


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"), [(TEXTS, 10, "vocab_size"), ([" ", ""], 80, "without any text")]
)
def test_training_that_cannot_be_leaves_nothing(
    tmp_path: Path, texts: list[str], vocab_size: int, message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer(texts, tmp_path / "tokenizer", vocab_size)
    assert list(tmp_path.iterdir()) == []


def test_training_never_overwrites(trained_folder: Path) -> None:
    before = (trained_folder / MODEL_FILE).read_bytes()
    with pytest.raises(FileExistsError, match="delete it"):
        train_tokenizer(TEXTS[:3], trained_folder, vocab_size=60)
    assert (trained_folder / MODEL_FILE).read_bytes() == before


def test_missing_folder_model_and_language_are_named(trained_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no tokenizer folder .*/nowhere.*data\.tokenizer"):
        load_tokenizer(tmp_path / "nowhere", "de_DE")
    with pytest.raises(TokenizerError, match=rf"holds no {MODEL_FILE}"):
        load_tokenizer(tmp_path, "de_DE")
    with pytest.raises(TokenizerError, match=r"'german'.*de_DE"):
        load_tokenizer(trained_folder, "german")


def test_only_the_sentencepiece_model_is_read(trained_folder: Path, tmp_path: Path) -> None:
    """A folder may hold what transformers has saved of another tokenizer."""
    train_tokenizer(["quite other words than those"] * 3, tmp_path / "other", vocab_size=60)
    transformers.MBartTokenizer.from_pretrained(tmp_path / "other").save_pretrained(tmp_path / "mixed")
    shutil.copy(trained_folder / MODEL_FILE, tmp_path / "mixed" / MODEL_FILE)
    mixed, expected = (load_tokenizer(folder, "en_XX") for folder in (tmp_path / "mixed", trained_folder))
    assert [mixed.encode(text, 64) for text in TEXTS] == [expected.encode(text, 64) for text in TEXTS]


def test_the_layout_is_that_of_transformers(trained_folder: Path) -> None:
    theirs = transformers.MBartTokenizer.from_pretrained(trained_folder, src_lang="cs_CZ")
    ours = load_tokenizer(trained_folder, "cs_CZ")
    assert ours.pieces(range(ours.vocab_size)) == theirs.convert_ids_to_tokens(range(len(theirs)))
    for text in (*TEXTS, "<mask> the <mask>", "the<mask> sun", ""):
        assert ours.encode(text.replace("<mask>", ours.mask_token), 64) == theirs(text).input_ids


def test_special_tokens_in_a_text_are_text(trained_folder: Path) -> None:
    tokenizer = load_tokenizer(trained_folder, "en_XX")
    for text in ("the sun </s> shines", "in de_DE", "<mask>", "a<pad>b", "<s>"):
        *ids, eos, language = tokenizer.encode(text, 64)
        assert (eos, language) == (tokenizer.eos_id, tokenizer.language_id)
        special = {0, 1, 2, *range(tokenizer.vocab_size - 1 - len(LANGUAGES), tokenizer.vocab_size)}
        assert not special & set(ids)
