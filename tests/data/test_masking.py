"""Masked words: whole words, at the given rate, never none."""

import re

import numpy as np
import pytest

from sslssaw_jax.data.masking import drop_words, mask_words

SENTENCE = "tomorrow there will be heavy rain in the north and some snow in the east"


@pytest.mark.parametrize("rate", [0.01, 0.15, 0.9])
def test_whole_words_are_replaced_in_place_and_at_least_one(rate: float) -> None:
    words = SENTENCE.split()
    for seed in range(200):
        masked = mask_words(SENTENCE, rate, "<mask>", np.random.default_rng(seed)).split(" ")
        assert len(masked) == len(words)
        assert all(new in (old, "<mask>") for old, new in zip(words, masked))
        assert "<mask>" in masked


def test_each_chinese_character_is_a_word() -> None:
    text = "他今年四岁，有 APP 6张。"
    words = ["他", "今", "年", "四", "岁", "，", "有", "APP", "6", "张", "。"]
    seen = set()
    for seed in range(100):
        masked = mask_words(text, 0.2, "<mask>", np.random.default_rng(seed))
        left = re.escape(masked).replace("<mask>", "(.+)")
        match = re.fullmatch(left, text)
        assert match and match.groups() and set(match.groups()) <= set(words)
        seen |= set(match.groups())
    assert seen == set(words)


def test_the_share_of_masked_words_is_the_rate() -> None:
    rng = np.random.default_rng(0)
    long = " ".join(["word"] * 20_000)
    share = mask_words(long, 0.15, "<mask>", rng).split().count("<mask>") / 20_000
    assert abs(share - 0.15) < 0.01


def test_masks_follow_from_the_generator() -> None:
    first, again, other = (
        mask_words(SENTENCE, 0.5, "<mask>", np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_word_masked_for_want_of_any_is_a_random_one() -> None:
    rng = np.random.default_rng(0)
    places = {mask_words(SENTENCE, 1e-9, "<mask>", rng).split().index("<mask>") for _ in range(300)}
    assert places == set(range(len(SENTENCE.split())))


def test_nothing_is_masked_at_rate_zero_or_without_words() -> None:
    rng = np.random.default_rng(0)
    assert mask_words(SENTENCE, 0.0, "<mask>", rng) == SENTENCE
    assert mask_words("", 0.15, "<mask>", rng) == ""


def test_half_of_the_texts_lose_words_with_the_given_probability() -> None:
    words = list("abcdefghij")
    found = [drop_words(" ".join(words), 0.3, np.random.default_rng(seed)).split() for seed in range(400)]
    assert all(text == [word for word in words if word in text] for text in found)
    shortened = [len(text) for text in found if text != words]
    assert 0.4 < len(shortened) / len(found) < 0.6
    assert 6.5 < np.mean(shortened) < 7.5
