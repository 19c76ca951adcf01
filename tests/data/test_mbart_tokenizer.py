"""The tokenizer: mBART's ids, SentencePiece's pieces, folders."""

import io
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import transformers

from sslssaw_jax.data.mbart_tokenizer import (
    LANGUAGES,
    LANGUAGES_50,
    MODEL_FILE,
    Tokenizer,
    TokenizerError,
    load_tokenizer,
    train_tokenizer,
)
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.errors import UserError
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
    """Real targets or questions of all splits, or every `every`-th of them."""
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
    ("language", "text"), [("vi_VN", "ngày mai trời sẽ có mưa ở bắc"), ("ko_KR", "북쪽에 비가 옵니다")]
)
def test_decomposed_texts_are_encoded_as_composed_ones(tmp_path: Path, language: str, text: str) -> None:
    train_tokenizer([text] * 5, tmp_path / "tokenizer", vocab_size=100)
    tokenizer = load_tokenizer(tmp_path / "tokenizer", language)
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert tokenizer.encode(decomposed, 64) == tokenizer.encode(composed, 64)
    assert tokenizer.decode(tokenizer.encode(decomposed, 64)) == composed


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
    """A folder may hold files that transformers saved for another tokenizer."""
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


def test_mbart_50_has_52_languages_in_the_layout_of_transformers(
    trained_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tokenizer"
    train_tokenizer(TEXTS, folder, vocab_size=30, languages=LANGUAGES_50)
    theirs = transformers.MBart50Tokenizer.from_pretrained(folder, src_lang="th_TH")
    ours, cc25 = load_tokenizer(folder, "th_TH"), load_tokenizer(trained_folder, "en_XX")
    assert len(LANGUAGES_50) == 52 and ours.vocab_size == len(theirs) == cc25.vocab_size + 27
    assert ours.pieces(range(ours.vocab_size)) == theirs.convert_ids_to_tokens(range(len(theirs)))
    for text in (*TEXTS, "<mask> the <mask>", ""):
        encoded = ours.encode(text.replace("<mask>", ours.mask_token), 64)
        assert encoded[:-2] == theirs(text, add_special_tokens=False).input_ids
    assert ours.pieces(ours.encode("rain", 64)[-2:]) == ["</s>", "th_TH"]
    # the same SentencePiece model gives other ids, so the tokenizers must not count as the same
    assert (folder / MODEL_FILE).read_bytes() == (trained_folder / MODEL_FILE).read_bytes()
    assert ours.fingerprint != cc25.fingerprint
    with pytest.raises(TokenizerError, match="'th_TH'; the codes of"):
        load_tokenizer(trained_folder, "th_TH")


def test_the_size_of_the_vocabulary_tells_mbart_50_without_the_name_of_a_class(
    trained_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(trained_folder / MODEL_FILE, tmp_path)
    for rows, languages in ((30 + 27, LANGUAGES), (30 + 54, LANGUAGES_50)):
        (tmp_path / "config.json").write_text(f'{{"vocab_size": {rows}}}')
        tokenizer = load_tokenizer(tmp_path, "de_DE")
        assert (tokenizer.languages, tokenizer.vocab_size) == (languages, rows)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (MODEL_FILE, b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (MODEL_FILE, b"<!DOCTYPE html>", "it is a web page"),
        (MODEL_FILE, b"", "it is empty"),
        (MODEL_FILE, b"\x1f\x8b", "compressed by gzip"),
        ("tokenizer_config.json", b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        ("tokenizer_config.json", b'{"tokenizer_class": ', r"is damaged: Expecting value"),
        ("tokenizer_config.json", b"[]", "it holds no JSON object"),
        ("config.json", '{"vocab_size": 3}'.encode("utf-16"), "it is UTF-16"),
        ("config.json", b'{"a": "\xff"}', "it is not UTF-8"),
        ("config.json", b'{"a":' + b"[" * 100_000, "is damaged"),
    ],
)
def test_small_files_that_are_something_else_are_named(
    trained_folder: Path, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    shutil.copytree(trained_folder, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} .*{told}") as raised:
        load_tokenizer(tmp_path / "tokenizer", "de_DE")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("changes", [{"model_type": "bpe"}, {"bos_id": 3, "eos_id": 4}])
def test_sentencepiece_of_another_kind_is_refused(tmp_path: Path, changes: dict) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=30, minloglevel=2, **changes
    )
    (tmp_path / MODEL_FILE).write_bytes(model.getvalue())
    with pytest.raises(TokenizerError, match="is not mBART's: it is a SentencePiece model of another kind"):
        load_tokenizer(tmp_path, "de_DE")
