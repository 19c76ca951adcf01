"""mBART's tokenizer: SentencePiece pieces, one code per language, `<mask>`.

The layout of ids is fairseq's, which pretrained mBART weights expect: `<s>` 0, `<pad>` 1, `</s>` 2,
`<unk>` 3, then every SentencePiece piece at its own id + 1, the language codes in fairseq's order (25 of
mBART, 52 of mBART-50), and `<mask>` last.
"""

import hashlib
import io
import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from sslssaw_jax.data.text import SPACELESS
from sslssaw_jax.errors import UserError
from sslssaw_jax.workdir import describe, read_json

LANGUAGES = (
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN", "it_IT",
    "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO", "ru_RU", "si_LK",
    "tr_TR", "vi_VN", "zh_CN",
)  # fmt: skip
"""The codes of mBART (facebook/mbart-large-cc25) in its order."""

LANGUAGES_50 = (
    *LANGUAGES,
    "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL", "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN",
    "mn_MN", "mr_IN", "pl_PL", "ps_AF", "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX",
    "uk_UA", "ur_PK", "xh_ZA", "gl_ES", "sl_SI",
)  # fmt: skip
"""The codes of mBART-50 (facebook/mbart-large-50) in its order."""

MODEL_FILE = "sentencepiece.bpe.model"
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_WORD_MARK = "\u2581"
_LONGEST_PIECE = 16  # SentencePiece's default
_LONGEST_SPACELESS_PIECE = 4  # characters, as many as an idiom: longer pieces would be memorized sentences
_SAME_SCRIPT = re.compile(rf"{_WORD_MARK}?[{SPACELESS}]+|[^{SPACELESS}]+")
_MODEL_SPECIALS = ["<unk>", "<s>", "</s>"]  # SentencePiece's own
_NOT_PIECES = 2  # of our ids: <pad> and <mask>
_CONFIG_FILES = ("tokenizer_config.json", "config.json")  # either one tells mBART from mBART-50
_CLASSES = {LANGUAGES: "MBartTokenizer", LANGUAGES_50: "MBart50Tokenizer"}  # of transformers


class TokenizerError(UserError):
    """An error of a tokenizer; the message names the remedy."""


class TextTowerTokenizer(Protocol):
    """A tokenizer that encodes texts for the text tower: `Tokenizer` or `BertTokenizer`."""

    vocab_size: int
    mask_token: str
    fingerprint: str

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Return at most `max_tokens` ids, including the end token."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the piece of each id."""
        ...


class Tokenizer:
    """A tokenizer of one language, immutable and safe to share between threads.

    Args:
        folder: Holds mBART's `sentencepiece.bpe.model`, and for mBART-50 a configuration.
        language: mBART's code.
        text_tower: Writes what the text tower reads; None is this tokenizer itself.

    Raises:
        TokenizerError: The model cannot be read, or the language code is unknown.
    """

    def __init__(self, folder: Path, language: str, text_tower: TextTowerTokenizer | None = None) -> None:
        model = read_model(folder / MODEL_FILE)
        self.languages = read_languages(folder, len(model.pieces))
        if language not in self.languages:
            known = ", ".join(self.languages)
            raise TokenizerError(f"the language is {language!r}; the codes of {folder} are {known}")
        # no text contains a NUL: `</s>` and `de_DE` in a text are plain text
        specials, languages, mask = (
            [f"\0{token}" for token in tokens] for tokens in (_SPECIALS, self.languages, ["<mask>"])
        )
        vocabulary = [(token, 0.0) for token in specials]
        vocabulary += [(piece.piece, piece.score) for piece in model.pieces[len(_MODEL_SPECIALS) :]]
        first_language = len(vocabulary)
        vocabulary += [(token, 0.0) for token in (*languages, *mask)]
        self.folder, self.language = folder, language
        self.text_tower: TextTowerTokenizer = text_tower or self
        self.vocab_size = len(vocabulary)
        self.bos_id, self.pad_id, self.eos_id, self.unk_id = range(len(_SPECIALS))
        self.language_id = first_language + self.languages.index(language)
        self.mask_id, self.mask_token = self.vocab_size - 1, mask[0]
        codes = b"" if self.languages == LANGUAGES else "".join(self.languages).encode()
        self.fingerprint = hashlib.sha256((folder / MODEL_FILE).read_bytes() + codes).hexdigest()[:12]
        self._backend = Backend(models.Unigram(vocabulary, unk_id=self.unk_id))
        # NFC first: unlike SentencePiece, Precompiled leaves what takes six bytes or more decomposed
        self._backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)]
        )
        self._backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(_WORD_MARK)]
        )
        self._backend.decoder = decoders.Metaspace(_WORD_MARK)
        # <mask> swallows the space before it, as in transformers
        self._backend.add_special_tokens([*specials, *languages, AddedToken(mask[0], lstrip=True)])
        # each epoch has the same questions and targets
        self._split = lru_cache(maxsize=2**15)(self._split_text)

    @property
    def fingerprints(self) -> str:
        """Return the fingerprints of all tokenizers that wrote a batch."""
        tokenizers = [self] if self.text_tower is self else [self, self.text_tower]
        return "+".join(tokenizer.fingerprint for tokenizer in tokenizers)

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Return `tokens </s> <language>`, the text cut to fit `max_tokens` ids."""
        return [*self._split(text)[: max_tokens - 2], self.eos_id, self.language_id]

    def _split_text(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the piece of each id, with SentencePiece's word mark."""
        return [(self._backend.id_to_token(i) or "").removeprefix("\0") for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without special tokens and language codes."""
        return " ".join(self._backend.decode(list(ids), skip_special_tokens=True).split())


def load_tokenizer(
    folder: str | Path, language: str, text_tower: TextTowerTokenizer | None = None
) -> Tokenizer:
    """Load the tokenizer of a folder that holds mBART's `sentencepiece.bpe.model`.

    Args:
        folder: The tokenizer folder.
        language: mBART's code.
        text_tower: Writes what the text tower reads; None is the loaded tokenizer itself.

    Raises:
        TokenizerError: There is no such folder or no model in it, or the language code is unknown.
    """
    folder = Path(folder)
    remedy = (
        f"copy mBART's {MODEL_FILE} there, or leave data.tokenizer unset to use the tokenizer prepared with "
        "the dataset; a dataset without a train split has none: name the one that the model was trained with"
    )
    if not folder.is_dir():
        raise TokenizerError(f"there is no tokenizer folder {folder}: {remedy}")
    if not (folder / MODEL_FILE).is_file():
        raise TokenizerError(f"the tokenizer folder {folder} holds no {MODEL_FILE}: {remedy}")
    return Tokenizer(folder, language, text_tower)


def read_model(file: Path) -> Any:
    """Read the SentencePiece model of mBART or mBART-50.

    Raises:
        TokenizerError: The file is something else; the message says what.
    """
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise TokenizerError(
            f"{file} is not a SentencePiece model: {describe(file) or error}; download it again"
        ) from None
    specials = [piece.piece for piece in model.pieces[: len(_MODEL_SPECIALS)]]
    if specials != _MODEL_SPECIALS or model.trainer_spec.model_type != model.trainer_spec.UNIGRAM:
        raise TokenizerError(
            f"{file} is not mBART's: {describe(file) or 'it is a SentencePiece model of another kind'}"
        )
    return model


def read_languages(folder: Path, num_pieces: int) -> tuple[str, ...]:
    """Return the language codes of a tokenizer, ordered by id.

    mBART and mBART-50 have the same SentencePiece model. Their configurations tell them apart, by the name of
    the tokenizer's class or by the size of the vocabulary; without any, it is mBART's.

    Args:
        folder: The folder of the tokenizer, or of a model with its tokenizer.
        num_pieces: The number of SentencePiece's pieces.

    Raises:
        DamagedFileError: A configuration cannot be read.
    """
    found = [read_json(folder / name) for name in _CONFIG_FILES if (folder / name).is_file()]
    classes = [str(config.get("tokenizer_class")).removesuffix("Fast") for config in found]
    sizes = [config.get("vocab_size") for config in found]
    size_of_50 = num_pieces + len(LANGUAGES_50) + _NOT_PIECES
    is_50 = _CLASSES[LANGUAGES_50] in classes or size_of_50 in sizes
    return LANGUAGES_50 if is_50 else LANGUAGES


def write_tokenizer(folder: Path, model: bytes, languages: tuple[str, ...] = LANGUAGES) -> None:
    """Write the files of a tokenizer folder, for `load_tokenizer` and for transformers."""
    (folder / MODEL_FILE).write_bytes(model)
    config = json.dumps({"tokenizer_class": _CLASSES[languages]}) + "\n"
    (folder / _CONFIG_FILES[0]).write_text(config, encoding="utf-8")


def train_tokenizer(
    texts: Iterable[str], out_dir: Path, vocab_size: int, languages: tuple[str, ...] = LANGUAGES
) -> None:
    """Train a SentencePiece unigram model and write its tokenizer folder.

    The same texts in the same order give the same model.

    Args:
        texts: One sentence each.
        out_dir: The folder to write; it must not exist yet.
        vocab_size: The most pieces; there are fewer if the texts do not support as many.
            `Tokenizer.vocab_size` also counts the special tokens, the language codes and `<mask>`.
        languages: The language codes, `LANGUAGES` or `LANGUAGES_50`.

    Raises:
        TokenizerError: There is no text, or `vocab_size` is less than the number of characters.
        FileExistsError: `out_dir` exists.
    """
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise TokenizerError("a tokenizer cannot be trained without any text")
    if out_dir.exists():
        raise FileExistsError(f"{out_dir} exists: delete it to train the tokenizer again")
    model = io.BytesIO()
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as seeds:
            seeds.writelines(f"{piece}\t{score}\n" for piece, score in _seed_pieces(texts))
            seeds.flush()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                model_type="unigram",
                vocab_size=vocab_size,
                seed_sentencepieces_file=seeds.name,
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="nmt_nfkc",
                byte_fallback=False,
                num_threads=1,
                shuffle_input_sentence=False,
                minloglevel=2,
            )
    except RuntimeError as error:
        raise TokenizerError(
            f"no tokenizer of {vocab_size} pieces from {len(texts)} texts: {error}"
        ) from error
    trained = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    trained.ParseFromString(model.getvalue())
    # the name of a temporary file would make the bytes of equal models differ
    trained.trainer_spec.ClearField("seed_sentencepieces_file")
    out_dir.mkdir(parents=True)
    write_tokenizer(out_dir, trained.SerializeToString(deterministic=True), languages)


def _seed_pieces(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Return substrings that occur more than once, with the characters covered.

    SentencePiece's own seeds are counted over distinct words: in a small closed vocabulary no word occurs
    inside another, so no whole word would ever become a piece. Where a script has no spaces, as Chinese, any
    short run of characters that distinct sentences share may be a word, and no run extends past punctuation.
    """
    words = Counter(
        _WORD_MARK + word for text in texts for word in unicodedata.normalize("NFKC", text).split()
    )
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for run in _SAME_SCRIPT.findall(word):
            spaceless = re.match(f"[{SPACELESS}]", run[-1])
            longest = _LONGEST_SPACELESS_PIECE if spaceless else _LONGEST_PIECE
            for start in range(len(run)):
                for end in range(start + 2, min(start + longest, len(run)) + 1):
                    counts[run[start:end]] += 1 if spaceless else count
    return [(piece, count * len(piece)) for piece, count in counts.items() if count > 1]
