"""The facts about a prepared dataset for its report: counts, lengths, overlap, duplicates."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tabulate import tabulate

from sslssaw_jax.data.clips import ClipInfo
from sslssaw_jax.data.mbart_tokenizer import Tokenizer
from sslssaw_jax.data.text import clean_question, normal, tokens
from sslssaw_jax.evaluation import metrics
from sslssaw_jax.evaluation.leakage import copied_questions


@dataclass(frozen=True)
class SplitFacts:
    """The facts about a split; the keys of `shares` say in words what the percentages are of."""

    clips: Sequence[ClipInfo]
    num_frames: np.ndarray
    lengths: dict[str, np.ndarray]  # of question and target, in tokens; in words without a tokenizer
    distinct: dict[str, int]  # words of question and target
    shares: dict[str, float]
    overlap: np.ndarray  # of each clip, in percent
    copy_question: dict[str, Any]  # scores


def split_facts(
    clips: Sequence[ClipInfo],
    train: Sequence[ClipInfo],
    tokenizer: Tokenizer | None,
    *,
    characters: bool = False,
) -> SplitFacts:
    """Return the facts about a split, compared with train.

    Questions are counted as the model reads them, after `clean_question`, and targets in their normal
    form.

    Args:
        clips: The split.
        train: The train split, which may be `clips` itself, or empty.
        tokenizer: The dataset's tokenizer, if any.
        characters: Whether words are characters, see `text.counts_characters`.
    """
    words = partial(tokens, characters=characters)
    texts, train_texts = _texts(clips), _texts(train)
    is_train = clips is train
    lengths, distinct, shares = {}, {}, {}
    for side in texts:
        cuts: list[list[Any]] = [words(text) for text in texts[side]]
        running = [word for cut in cuts for word in cut]
        distinct[side] = len(set(running))
        if tokenizer:
            cuts = [tokenizer.encode(text, 10**9)[:-2] for text in texts[side]]
            shares[f"{side} tokens unknown"] = _percent(i == tokenizer.unk_id for cut in cuts for i in cut)
        lengths[side] = np.array([len(cut) for cut in cuts])
        if train and not is_train:
            known = {word for text in train_texts[side] for word in words(text)}
            shares[f"{side} words not in train"] = _percent(word not in known for word in running)
    if train:
        for label, sides in {"target": ("target",), "question and target": ("question", "target")}.items():
            copies = Counter(zip(*(train_texts[side] for side in sides)))
            clip_texts = zip(*(texts[side] for side in sides))
            shares[f"{label} of another train clip"] = _percent(
                copies[text] > is_train for text in clip_texts
            )
    copied = copied_questions([clip.question for clip in clips], texts["target"])
    raw = [(clip.question, clip.target) for clip in clips]
    return SplitFacts(
        clips=clips,
        num_frames=np.array([clip.num_frames for clip in clips]),
        lengths=lengths,
        distinct=distinct,
        shares=shares,
        overlap=np.array([100 * metrics.overlap(q, t, characters=characters) for q, t in raw]),
        copy_question=metrics.score(copied, texts["target"], characters=characters),
    )


def _texts(clips: Sequence[ClipInfo]) -> dict[str, list[str]]:
    return {
        "question": [clean_question(clip.question) for clip in clips],
        "target": [normal(clip.target) for clip in clips],
    }


def _percent(hits: Iterable[bool]) -> float:
    values = list(hits)
    return 100 * sum(values) / max(len(values), 1)


def format_table(title: str, facts: Mapping[str, SplitFacts], unit: str) -> str:
    """Return a text table with a column for each split."""
    shares = max((list(split.shares) for split in facts.values()), key=len)
    columns = {name: _column(split, shares, unit) for name, split in facts.items()}
    labels = list(next(iter(columns.values())))
    return tabulate(
        {title: labels, **{name: list(column.values()) for name, column in columns.items()}},
        headers="keys",
        disable_numparse=True,
        preserve_whitespace=True,
        colalign=("left", *["right"] * len(facts)),
    )


def _column(split: SplitFacts, shares: Sequence[str], unit: str) -> dict[str, str]:
    return {
        "clips": f"{len(split.clips):,}",
        "  without a question": f"{sum(not clip.question for clip in split.clips):,}",
        "signers": f"{len({clip.signer for clip in split.clips} - {''}):,}",
        "frames": f"{split.num_frames.sum():,}",
        "least / median / most": "",
        "  frames a clip": _spread(split.num_frames),
        f"  question {unit}": _spread(split.lengths["question"]),
        f"  target {unit}": _spread(split.lengths["target"]),
        "distinct words": "",
        "  of questions": f"{split.distinct['question']:,}",
        "  of targets": f"{split.distinct['target']:,}",
        "percent": "",
        **{f"  {share}": f"{split.shares[share]:.1f}" if share in split.shares else "" for share in shares},
        "  target words in the question": f"{split.overlap.mean():.1f}",
        "question copied": "",
        "  BLEU-4": f"{split.copy_question['bleu4']:.1f}",
        "  ROUGE-L": f"{split.copy_question['rouge_l']:.1f}",
    }


def _spread(values: np.ndarray) -> str:
    return f"{values.min()} / {np.median(values):.0f} / {values.max()}"
