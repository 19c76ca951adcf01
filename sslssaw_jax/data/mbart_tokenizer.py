"""mBART's tokenizer: SentencePiece pieces, one code per language, `<mask>`.

The layout of ids is fairseq's, which pretrained mBART weights expect: `<s>` 0, `<pad>` 1, `</s>` 2,
`<unk>` 3, then every SentencePiece piece at its own id + 1, the 25 language codes in fairseq's order, and
`<mask>` last.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from sslssaw_jax.data.text import HAN
from sslssaw_jax.errors import UserError

# else transformers says that models need PyTorch; its tokenizers, all that is used here, do not
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from transformers import MBartTokenizer
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

LANGUAGES: tuple[str, ...] = tuple(FAIRSEQ_LANGUAGE_CODES)
MODEL_FILE = "sentencepiece.bpe.model"
_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
_WORD_MARK = "\u2581"
_LONGEST_PIECE = 16  # SentencePiece's default
_LONGEST_CHINESE_PIECE = 4  # characters, as many as an idiom; longer ones would be sentences learnt by heart
_SAME_SCRIPT = re.compile(rf"{_WORD_MARK}?[{HAN}]+|[^{HAN}]+")
_NUM_MODEL_SPECIALS = 3  # SentencePiece's own <unk>, <s>, </s>


class TokenizerError(UserError):
    """The tokenizer cannot be; the message names the folder or text and the remedy."""


class TextTowerTokenizer(Protocol):
    """A tokenizer that writes texts for the text tower: `Tokenizer` or `BertTokenizer`."""

    vocab_size: int
    mask_token: str
    fingerprint: str

    def encode(self, text: str, max_tokens: int) -> list[int]: ...

    def pieces(self, ids: Sequence[int]) -> list[str]: ...


class Tokenizer:
    """Text to ids and back for one language; immutable and safe to share between threads.

    `text_tower` writes what the text tower reads: this tokenizer itself unless another is given.
    """

    def __init__(self, folder: Path, language: str, text_tower: TextTowerTokenizer | None = None) -> None:
        model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
        model_bytes = (folder / MODEL_FILE).read_bytes()
        model.ParseFromString(model_bytes)
        hf_tokenizer = MBartTokenizer.from_pretrained(
            folder,
            src_lang=language,
            tgt_lang=language,
            # without the list, decoding leaves the language code in the text
            additional_special_tokens=list(LANGUAGES),
            local_files_only=True,
        )
        self._backend: tokenizers.Tokenizer = hf_tokenizer.backend_tokenizer
        # transformers 5 drops the normaliser that the model was trained with
        self._backend.normalizer = tokenizers.normalizers.Precompiled(
            model.normalizer_spec.precompiled_charsmap
        )
        pieces = [piece.piece for piece in model.pieces[_NUM_MODEL_SPECIALS:]]
        layout = [*_SPECIALS, *pieces, *LANGUAGES, "<mask>"]
        if layout != hf_tokenizer.convert_ids_to_tokens(range(len(hf_tokenizer))):
            raise TokenizerError(
                f"the tokenizer of {folder} does not lay out its ids as mBART does: keep only "
                f"{MODEL_FILE} there, and the version of transformers that requirements.txt names"
            )
        self.folder, self.language = folder, language
        self.text_tower: TextTowerTokenizer = text_tower or self
        self.vocab_size = len(layout)
        self.bos_id, self.pad_id, self.eos_id, self.unk_id = range(len(_SPECIALS))
        self.language_id = len(_SPECIALS) + len(pieces) + LANGUAGES.index(language)
        self.mask_id = self.vocab_size - 1
        self.mask_token = layout[self.mask_id]
        self.fingerprint = hashlib.sha256(model_bytes).hexdigest()[:12]

    @property
    def fingerprints(self) -> str:
        """Of all that gives a batch's ids their meaning."""
        own = [self.fingerprint]
        return "+".join(own if self.text_tower is self else [*own, self.text_tower.fingerprint])

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """`tokens </s> <language>`, at most `max_tokens` ids; what is cut off are the text's last tokens."""
        ids = self._backend.encode(text).ids
        return ids[:-2][: max_tokens - 2] + ids[-2:]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The piece of each id, with SentencePiece's word mark."""
        return [self._backend.id_to_token(i) or "" for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens and language codes, single spaced."""
        return " ".join(self._backend.decode(list(ids), skip_special_tokens=True).split())


def load_tokenizer(
    folder: str | Path, language: str, text_tower: TextTowerTokenizer | None = None
) -> Tokenizer:
    """Load a tokenizer folder, which holds at least `sentencepiece.bpe.model`.

    Raises:
      TokenizerError: no such folder, no model in it, an unknown language code, or ids that are not mBART's.
    """
    folder = Path(folder)
    remedy = (
        f"copy mBART's {MODEL_FILE} there, or leave data.tokenizer empty to use the one prepared with the "
        "dataset; one without a train split has none: name the tokenizer that the model was trained with"
    )
    if not folder.is_dir():
        raise TokenizerError(f"there is no tokenizer folder {folder}: {remedy}")
    if not (folder / MODEL_FILE).is_file():
        raise TokenizerError(f"the tokenizer folder {folder} holds no {MODEL_FILE}: {remedy}")
    if language not in LANGUAGES:
        raise TokenizerError(f"data.language is {language!r}; mBART's codes are {', '.join(LANGUAGES)}")
    return Tokenizer(folder, language, text_tower)


def write_tokenizer(folder: Path, model: bytes) -> None:
    """Writes the files of a tokenizer folder, which `load_tokenizer` and transformers read, into `folder`."""
    (folder / MODEL_FILE).write_bytes(model)
    config = json.dumps({"tokenizer_class": "MBartTokenizer"}) + "\n"
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")


def _seed_pieces(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Substrings of words that occur more than once in running text, with characters covered.

    SentencePiece's own seeds are counted over distinct words: in a small closed vocabulary no word occurs
    inside another, so no whole word would ever become a piece. Chinese has no spaces: any short run of
    characters that distinct sentences share may be a word, and none reaches over a mark.
    """
    words = Counter(
        _WORD_MARK + word for text in texts for word in unicodedata.normalize("NFKC", text).split()
    )
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for run in _SAME_SCRIPT.findall(word):
            chinese = re.match(f"[{HAN}]", run[-1])
            longest = _LONGEST_CHINESE_PIECE if chinese else _LONGEST_PIECE
            for start in range(len(run)):
                for end in range(start + 2, min(start + longest, len(run)) + 1):
                    counts[run[start:end]] += 1 if chinese else count
    return [(piece, count * len(piece)) for piece, count in counts.items() if count > 1]


def train_tokenizer(texts: Iterable[str], out_dir: Path, vocab_size: int) -> None:
    """Trains a SentencePiece unigram model and leaves it as a tokenizer folder, whole or not at all.

    The same texts in the same order give the same model.

    Args:
      texts: one sentence each.
      out_dir: the folder to write; it must not exist yet.
      vocab_size: at most this many pieces (fewer where the texts cannot support them); `Tokenizer.vocab_size`
        counts the special tokens, the language codes and `<mask>` besides.

    Raises:
      TokenizerError: no text at all, or fewer pieces asked for than the texts have characters.
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
    trained.trainer_spec.ClearField("seed_sentencepieces_file")  # a passing name: equal texts, equal bytes
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        write_tokenizer(temporary, trained.SerializeToString(deterministic=True))
        temporary.chmod(0o755)  # mkdtemp keeps others out
        temporary.rename(out_dir)
    except BaseException:
        shutil.rmtree(temporary)
        raise
