"""mBART or mBART-50 with a dataset's tokens: a few thousand embeddings instead of 250,027.

It keeps the pieces that the given texts are segmented into, the single characters of these pieces (to write
other texts with the same letters), special tokens, language codes and `<mask>`. The order stays, so the ids
are mBART's with gaps closed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2
from tabulate import tabulate

from sslssaw_jax.data.fitting import write_trimmed_for
from sslssaw_jax.data.mbart_tokenizer import MODEL_FILE, read_languages, read_model, write_tokenizer
from sslssaw_jax.data.text import clean_question
from sslssaw_jax.weights.initial_state import WeightsError
from sslssaw_jax.weights.mbart import BIAS, HEAD, INPUT_TABLES, SHARED
from sslssaw_jax.weights.torch_files import CONFIG_FILE, WEIGHTS_FILE, Checkpoint, atomic_folder
from sslssaw_jax.workdir import describe, read_jsonl, read_text, write_json

_NUM_SPECIALS = 4  # <s>, <pad>, </s>, <unk>; SentencePiece has its own three before its first piece
_WORD_MARK = "\u2581"

Texts = dict[str, list[str]]  # for one split: "question", "target", ... -> texts as the tokenizer sees them


@dataclass(frozen=True)
class Unknowns:
    """A count of the tokens that the trimmed tokenizer cannot write."""

    texts: int
    texts_with_unknown: int
    tokens: int
    unknown_tokens: int


def read_texts(file: Path, glosses: bool = False) -> Texts:
    """Read targets, cleaned questions and, if asked, glosses of `clips.<split>.jsonl`.

    Any other file holds one sentence per line.

    Raises:
        WeightsError: There is no such file, or a line of it is not a clip.
    """
    if not file.is_file():
        raise WeightsError(f"there is no {file}")
    if file.suffix != ".jsonl":  # splitlines() would split at U+2028, too
        lines = [line for line in read_text(file).split("\n") if line.strip()]
        if lines and (known := describe(file)):
            raise WeightsError(f"{file} cannot be read: {known}")
        return {"text": lines}
    try:
        clips = read_jsonl(file)
        texts = {
            "target": [clip["target"] for clip in clips],
            "question": [clean_question(clip["question"]) for clip in clips],
        }
        return texts | ({"gloss": [clip["gloss"] for clip in clips]} if glosses else {})
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file} does not hold one clip per line: {error!r}") from error


def trim(
    model: Path,
    kept: Mapping[str, Texts],
    reported: Mapping[str, Texts],
    out: Path,
    language: str = "",
    dataset: str = "",
) -> str:
    """Write the trimmed model as a Hugging Face folder; return a report.

    Args:
        model: A folder of mBART: weights, `config.json`, `sentencepiece.bpe.model`.
        kept: Texts that keep their segmentation, by split or file.
        reported: Texts whose share of unknown tokens is reported.
        out: The folder to write; nothing of it remains after an error.
        language: The code of the texts' language, which the model must know; empty if unknown.
        dataset: The name of the dataset whose train split is `kept`; a run with other texts says so. Empty
            if the texts are from elsewhere.

    Raises:
        WeightsError: `model` is incomplete or lacks the language, its vocabulary is not its tokenizer's, or
            `out` exists.
    """
    proto = _read_model(model / MODEL_FILE)
    languages = read_languages(model, len(proto.pieces))
    if language and language not in languages:
        raise WeightsError(
            f"{model} does not know the texts' language {language!r}, only {', '.join(languages)}; "
            "facebook/mbart-large-50 knows 27 more"
        )
    checkpoint = Checkpoint(model)
    if not checkpoint.config:
        raise WeightsError(f"{model} holds no {CONFIG_FILE}: download the model's, too")
    vocab_size = len(proto.pieces) + 1 + len(languages) + 1  # fairseq's <pad>, the codes, <mask>
    rows = checkpoint.shapes.get(SHARED, (0,))[0]
    if rows != vocab_size:
        raise WeightsError(f"{model} embeds {rows:,} tokens, but its {MODEL_FILE} has {vocab_size:,}")
    texts = [text for split in kept.values() for kind in split.values() for text in kind]
    if not texts:
        raise WeightsError("there is no text whose tokens could be kept")
    full = _processor(proto)
    pieces = _kept_pieces(full, proto, texts)
    trimmed_proto = _with_pieces(proto, pieces)
    trimmed = _processor(trimmed_proto)
    _require_same_segmentation(full, trimmed, texts)
    ids = kept_ids(pieces, vocab_size, len(languages))
    with atomic_folder(out) as folder:
        write_tokenizer(folder, trimmed_proto.SerializeToString(deterministic=True), languages)
        config = checkpoint.config | {"vocab_size": len(ids)}
        write_json(folder / CONFIG_FILE, _with_new_ids(config, {old: new for new, old in enumerate(ids)}))
        tensors = {}
        for name in _without_tied_copies(checkpoint):
            value = checkpoint.read(name)
            if name in (SHARED, HEAD, *INPUT_TABLES):
                value = value[ids]
            tensors[name] = value[:, ids] if name == BIAS else value
        if dataset:
            write_trimmed_for(folder, dataset, kept["train"]["target"] + kept["train"]["question"])
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return _report(vocab_size, len(ids), trimmed, reported)


def kept_ids(pieces: list[int], vocab_size: int, num_languages: int) -> list[int]:
    """Return the full model's ids of kept tokens, in their new order.

    Args:
        pieces: SentencePiece's ids of the kept pieces.
        vocab_size: Tokens of the full model.
        num_languages: Language codes among these.
    """
    return [
        *range(_NUM_SPECIALS),
        *(piece + 1 for piece in pieces if piece + 1 >= _NUM_SPECIALS),
        *range(vocab_size - num_languages - 1, vocab_size),
    ]


def count_unknowns(processor: sentencepiece.SentencePieceProcessor, texts: Iterable[str]) -> Unknowns:
    """Count the tokens of texts that the tokenizer cannot write."""
    unknown = [[piece == processor.unk_id() for piece in ids] for ids in processor.encode(list(texts))]
    return Unknowns(
        texts=len(unknown),
        texts_with_unknown=sum(map(any, unknown)),
        tokens=sum(map(len, unknown)),
        unknown_tokens=sum(map(sum, unknown)),
    )


def _read_model(file: Path) -> Any:
    if not file.is_file():
        raise WeightsError(f"{file.parent} holds no {MODEL_FILE}: download the model's, too")
    return read_model(file)


def _processor(proto: Any) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def _kept_pieces(full: sentencepiece.SentencePieceProcessor, proto: Any, texts: list[str]) -> list[int]:
    """Return SentencePiece's ids of the pieces to keep, ascending."""
    segmented = full.encode(texts)
    used = {piece for ids in segmented for piece in ids}
    characters = {character for piece in used for character in full.id_to_piece(piece)} | {_WORD_MARK}
    normal = sentencepiece_model_pb2.ModelProto.SentencePiece.NORMAL  # type: ignore[attr-defined]
    return [
        number
        for number, piece in enumerate(proto.pieces)
        if number in used or piece.type != normal or piece.piece in characters
    ]


def _with_pieces(proto: Any, pieces: list[int]) -> Any:
    trimmed = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    trimmed.CopyFrom(proto)
    del trimmed.pieces[:]
    trimmed.pieces.extend(proto.pieces[number] for number in pieces)
    trimmed.trainer_spec.vocab_size = len(pieces)
    return trimmed


def _require_same_segmentation(
    full: sentencepiece.SentencePieceProcessor,
    trimmed: sentencepiece.SentencePieceProcessor,
    texts: list[str],
) -> None:
    """Raise WeightsError if a text is segmented differently than before."""
    for text, before, after in zip(
        texts, full.encode(texts, out_type=str), trimmed.encode(texts, out_type=str)
    ):
        if before != after:
            raise WeightsError(
                f"trimming failed its own check for the text {text!r}, which became {after} in place of "
                f"{before}; please report it, with the name of the model"
            )


def _without_tied_copies(checkpoint: Checkpoint) -> list[str]:
    """Return the names of all tensors except copies that loading ties again."""
    tied = checkpoint.config.get("tie_word_embeddings", True)
    copies = {HEAD, *INPUT_TABLES} if tied else set()
    return [name for name in checkpoint.shapes if name not in copies]


def _with_new_ids(value: Any, new_ids: Mapping[int, int]) -> Any:
    """Return a configuration with new ids in `..._token_id` entries at any level."""
    if not isinstance(value, dict):
        return value
    return {
        key: new_ids.get(entry)
        if key.endswith("_token_id") and isinstance(entry, int)
        else _with_new_ids(entry, new_ids)
        for key, entry in value.items()
    }


def _report(
    before: int, after: int, trimmed: sentencepiece.SentencePieceProcessor, reported: Mapping[str, Texts]
) -> str:
    rows = []
    for split, kinds in reported.items():
        for kind, texts in kinds.items():
            found = count_unknowns(trimmed, texts)
            tokens = f"{found.unknown_tokens:,} ({found.unknown_tokens / max(found.tokens, 1):.2%})"
            rows.append((f"{split} {kind}", tokens, f"{found.texts_with_unknown:,} of {found.texts:,}"))
    table = tabulate(
        rows, ["", "tokens unknown", "texts with any"], "plain", colalign=("left", "right", "right")
    )
    return f"{after:,} of {before:,} tokens kept\n{table}"
