"""Scores of translations as the field reports them.

All scores run from 0 to 100. References are the original strings, never decoded from tokens; both sides are
compared in the form of `text.normal`.
"""

from collections.abc import Sequence
from typing import Any

from rapidfuzz.distance import LCSseq
from sacrebleu.metrics import BLEU, CHRF

from sslssaw_jax.data.text import counts_characters, is_chinese, lower_tokens, tokens

LABELS = {"bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4", "rouge_l": "ROUGE-L"}
"""Key of each score that the papers of the field report -> its name."""

FINAL_PERIOD = ("phoenix2014t_qa",)
"""Datasets on which earlier work is scored with a final period, which the references here lack."""

ROUGE_BETA = 1.2  # as in the COCO caption evaluation, which sign language translation adopted


def score(
    predictions: Sequence[str], targets: Sequence[str], *, characters: bool = False, period: bool = False
) -> dict[str, Any]:
    """Score translations of a corpus.

    `bleu1` to `bleu4` are raw corpus BLEU over whitespace tokens without smoothing, `rouge_l` is the mean F
    of the longest common subsequence, `chrf` and `sacrebleu` are sacrebleu's with its defaults.

    Args:
        predictions: One translation a clip; may be empty strings.
        targets: One reference a clip.
        characters: Whether to count characters instead of words, see `text.counts_characters`. Spaces are
            then ignored.
        period: Whether each translation and each reference gets a final " .", which both then share.

    Raises:
        ValueError: There are no clips, or not one prediction for each.
    """
    if len(predictions) != len(targets) or not targets:
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets; one is needed for each")
    end = " ." if period else ""
    hypotheses = [tokens(text + end, characters) for text in predictions]
    references = [tokens(text + end, characters) for text in targets]
    glue, by_default = ("", "zh" if is_chinese(targets) else "char") if characters else (" ", "13a")
    predictions, targets = ([glue.join(text) for text in texts] for texts in (hypotheses, references))
    joined = [" ".join(words) for words in hypotheses], [[" ".join(words) for words in references]]
    scores: dict[str, Any] = {f"bleu{n}": raw_bleu(n).corpus_score(*joined).score for n in (1, 2, 3, 4)}
    scores["rouge_l"] = 100 * sum(map(rouge_l, hypotheses, references)) / len(references)
    scores["chrf"] = CHRF().corpus_score(predictions, [targets]).score
    # `force` only silences a warning about references that end in " ."
    sacrebleu = BLEU(tokenize=by_default, force=True)
    scores["sacrebleu"] = sacrebleu.corpus_score(predictions, [targets]).score
    scores["sacrebleu_signature"] = str(sacrebleu.get_signature())
    scores["num_clips"] = len(targets)
    return scores


def lacks_bleu4(targets: Sequence[str]) -> bool:
    """Return whether BLEU-4 is 0 for every translation of these targets."""
    characters = counts_characters(targets)
    return all(len(tokens(target, characters)) < 4 for target in targets)


def overlap(question: str, target: str, *, characters: bool = False) -> float:
    """Return the share of target tokens in the question; 0 without any."""
    asked, wanted = (set(lower_tokens(text, characters)) for text in (question, target))
    return len(asked & wanted) / max(len(wanted), 1)


def raw_bleu(max_order: int) -> BLEU:
    """Return corpus BLEU without smoothing, for tokens joined by spaces."""
    return BLEU(max_ngram_order=max_order, tokenize="none", smooth_method="none", force=True)


def rouge_l(hypothesis: list[str], reference: list[str]) -> float:
    """Return the F measure of the longest common subsequence (Lin, 2004)."""
    common = LCSseq.similarity(hypothesis, reference)
    if common == 0:
        return 0.0
    precision, recall = common / len(hypothesis), common / len(reference)
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)
