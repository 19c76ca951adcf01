"""BERT's WordPiece tokenizer, for the mBERT text tower: `[CLS] tokens [SEP]`."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers

from sslssaw_jax.data.mbart_tokenizer import TokenizerError
from sslssaw_jax.workdir import describe

BERT_TOKENIZER_FILE = "tokenizer.json"
_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class BertTokenizer:
    """The mBERT text tower's tokenizer, safe to share between threads.

    Raises:
        TokenizerError: `backend` is not a WordPiece, lacks one of BERT's special tokens, or has
            gaps in its ids.
    """

    mask_token = "\0[MASK]"  # no text contains a NUL: `[MASK]` in a text is plain text

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        vocabulary = backend.get_vocab()
        missing = [token for token in _SPECIALS if token not in vocabulary]
        if missing:
            raise TokenizerError(f"this is not a BERT tokenizer: it has no {', '.join(missing)}")
        if not isinstance(backend.model, tokenizers.models.WordPiece):
            raise TokenizerError(f"this is not a BERT tokenizer: it is a {type(backend.model).__name__}")
        if sorted(vocabulary.values()) != list(range(len(vocabulary))):
            raise TokenizerError("the ids of this BERT tokenizer have gaps: the embedding has no such rows")
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._backend = backend
        self._cls_id, self._sep_id = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self._mask_id = vocabulary["[MASK]"]
        self.vocab_size = len(vocabulary)
        in_order = "\n".join(sorted(vocabulary, key=vocabulary.__getitem__))
        self.fingerprint = hashlib.sha256(in_order.encode()).hexdigest()[:12]

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Return `[CLS] tokens [SEP]`, the text cut to fit `max_tokens` ids."""
        ids: list[int] = []
        for part in text.split(self.mask_token):
            ids += [*self._backend.encode(part, add_special_tokens=False).ids, self._mask_id]
        del ids[-1]  # a mask comes between parts
        return [self._cls_id, *ids[: max_tokens - 2], self._sep_id]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the piece of each id; `##` marks a continued word."""
        return [self._backend.id_to_token(i) or "" for i in ids]

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder, for `load_bert_tokenizer`."""
        self._backend.save(str(folder / BERT_TOKENIZER_FILE))


def load_bert_tokenizer(folder: Path) -> BertTokenizer:
    """Load the tokenizer of a Hugging Face BERT folder.

    Raises:
        TokenizerError: `tokenizer.json` is absent, cannot be read, or is not BERT's.
    """
    file = folder / BERT_TOKENIZER_FILE
    if not file.is_file():
        raise TokenizerError(f"{folder} holds no {BERT_TOKENIZER_FILE}: download it from the model's page")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exceptions
        known = describe(file) or f"{error}; download it again"
        raise TokenizerError(f"{file} cannot be read: {known}") from error
    try:
        return BertTokenizer(backend)
    except TokenizerError as error:
        raise TokenizerError(f"{file}: {error}") from None


def make_bert_tokenizer(texts: Iterable[str]) -> BertTokenizer:
    """Make a tokenizer for training mBERT from scratch.

    The tokenizer is a function of the texts, so it need not be stored. The pieces are the words that occur
    more than once, and all characters, which spell the other words.
    """
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    splitter = tokenizers.pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    characters = sorted({character for word in words for character in word})
    frequent = sorted(word for word, count in words.items() if count > 1 and len(word) > 1)
    pieces = [*_SPECIALS, *characters, *(f"##{character}" for character in characters), *frequent]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.add_special_tokens(list(_SPECIALS))
    return BertTokenizer(backend)
