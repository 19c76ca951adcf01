import pytest

from benchmarks.readings import score_readings

TARGETS = ["tomorrow rain will come in the north", "on monday snow will stay in the south"]
MEANT = [
    {TARGETS[0], "tomorrow mother will bring tea"},
    {TARGETS[1], "on monday sister will keep flour", "x"},
]


def test_another_reading_of_the_signs_costs_nothing_and_a_wrong_word_does():
    other = ["tomorrow mother will bring tea", TARGETS[1]]
    wrong = ["tomorrow mother will bring bread", TARGETS[1]]
    first, second, third = score_readings([TARGETS, other, wrong], TARGETS, MEANT)
    assert (first.right, first.p_value) == (1, 1)
    assert [first.bleu4, second.any_reading] == pytest.approx([100, 100])
    assert max(second.bleu4, third.any_reading) < 99
    assert third.right == 0.5
