"""Count how often a deciding word is ranked first: `python -m benchmarks.explanation --model=runs/demo`.

The demo's grammar knows the words of a question without which a clip's signs have several readings. An
explanation is right if the word that it ranks first is one of them: the word with the highest loss when it is
left out, or the word with the highest mean gate. Clips without such a word (two words say the same) do not
count. The columns are all other clips, and those whose question says `will`, or `did`.
"""

import argparse
import re

import numpy as np

from benchmarks.harness import keep
from sslssaw_jax import Translator
from sslssaw_jax.data.clips import ClipSource
from sslssaw_jax.data.dataset import find_dataset
from sslssaw_jax.data.text import without_each_word
from sslssaw_jax.evaluation.predictions import Gate
from sslssaw_jax.report.heatmap import words_of
from tfds_builders.avatar_qa.grammar import deciding_words


def first_by_gate(gate: Gate) -> str:
    """Return the word whose tokens have the highest mean gate."""
    words = words_of(gate.tokens)
    ends = np.cumsum([word.num_tokens for word in words])
    means = {
        word.text: float(gate.weights[end - word.num_tokens : end].mean())
        for word, end in zip(words, ends)
        if not word.is_marker and re.search(r"\w", word.text)
    }
    return max(means, key=means.__getitem__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a demo's workdir, or a model folder")
    parser.add_argument("--data_dir", default="data", help="folder of all prepared datasets")
    options = parser.parse_args()
    translator = Translator.from_pretrained(options.model)
    test = ClipSource(find_dataset(options.data_dir, "avatar_qa"), "test")
    answers = translator.answer([test[index] for index in range(len(test))], explain=True)
    named: dict[str, list[float]] = {"without the word": [], "SSAW gate": [], "any word, by chance": []}
    says_will = []
    for answer in answers:
        assert answer.explanation and answer.gate
        if deciding := deciding_words(answer.question):
            words = [word for word, _ in without_each_word(answer.question)]
            says_will.append("will" in words)
            named["without the word"].append(answer.explanation.first_word in deciding)
            named["SSAW gate"].append(first_by_gate(answer.gate) in deciding)
            named["any word, by chance"].append(np.mean([word in deciding for word in words]).item())
    groups = {"all": np.ones(len(says_will), bool), "will": np.array(says_will), "did": ~np.array(says_will)}
    right = sum(answer.text == clip.target for answer, clip in zip(answers, test.clips))
    title = f"The first word named is one that decides; {right} of {len(answers)} sentences are right"
    header = ["explained by", *(f"{name}, {group.sum()} clips" for name, group in groups.items())]
    rows = [
        [name, *(f"{100 * np.mean(np.array(hits)[group]):.0f} %" for group in groups.values())]
        for name, hits in named.items()
    ]
    keep("explanation", title, header, rows)


if __name__ == "__main__":
    main()
