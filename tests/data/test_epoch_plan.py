"""Epoch plans: each clip once, within bounds, little waste on the real frame counts."""

import csv
import time

import numpy as np
import pytest

from sslssaw_jax.config.checks import ConfigError
from sslssaw_jax.data.epoch_plan import plan_epoch, plan_run
from tests.support.annotations import ANNOTATIONS, requires_phoenix

LENGTHS = np.random.default_rng(0).integers(16, 301, 500)


def phoenix_train_lengths(max_frames: int = 300) -> np.ndarray:
    with (ANNOTATIONS / "phoenix2014t_qa" / "num_frames.train.csv").open(encoding="utf-8") as file:
        return np.minimum([int(row["num_frames"]) for row in csv.DictReader(file)], max_frames)


def waste(num_frames: np.ndarray, batches: list[np.ndarray], frame_budget: int) -> float:
    return float(1 - num_frames.sum() / (len(batches) * frame_budget))


@pytest.mark.parametrize(("clips_per_batch", "frame_budget"), [(16, 1024), (8, 960), (1, 300), (64, 300)])
@pytest.mark.parametrize("epoch", [None, 0, 7])
def test_each_clip_comes_once_an_epoch_within_both_bounds(
    clips_per_batch: int, frame_budget: int, epoch: int | None
) -> None:
    batches = plan_epoch(LENGTHS, clips_per_batch, frame_budget, 1, epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(LENGTHS)))
    assert all(0 < len(batch) <= clips_per_batch for batch in batches)
    assert all(LENGTHS[batch].sum() <= frame_budget for batch in batches)


def test_plans_follow_from_seed_and_epoch_alone() -> None:
    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(plan_epoch(LENGTHS, 16, 1024, seed, epoch)).tolist()

    assert flat(0, 3) == flat(0, 3)
    assert flat(0, 3) != flat(0, 4)
    assert flat(0, 3) != flat(1, 3)


@requires_phoenix
@pytest.mark.parametrize(
    ("clips_per_batch", "frame_budget", "limit"),
    [(16, 1024, 0.03), (24, 1872, 0.02), (16, 944, 0.02)],  # the last two as in configs/phoenix_stage2.py
)
def test_little_of_the_frame_budget_is_wasted_on_phoenix(
    clips_per_batch: int, frame_budget: int, limit: float
) -> None:
    num_frames = phoenix_train_lengths()
    for epoch in range(3):
        batches = plan_epoch(num_frames, clips_per_batch, frame_budget, 0, epoch)
        assert waste(num_frames, batches, frame_budget) <= limit


def test_batches_are_not_sorted_by_length() -> None:
    trends, spreads = [], []
    for epoch in range(20):
        batches = plan_epoch(LENGTHS, 16, 1024, 0, epoch)
        means = [LENGTHS[batch].mean() for batch in batches]
        trends.append(np.corrcoef(np.arange(len(means)), means)[0, 1])
        spreads += [np.ptp(LENGTHS[batch]) for batch in batches]
    assert abs(np.mean(trends)) < 0.1
    assert np.median(spreads) > 150


def test_clips_of_two_kinds_share_no_batch_and_batches_of_all_kinds_are_mixed() -> None:
    kinds = np.arange(len(LENGTHS)) % 3
    batches = plan_epoch(LENGTHS, 16, 1024, 0, 0, kinds)
    assert sorted(np.concatenate(batches)) == [*range(len(LENGTHS))]
    of_batches = [set(kinds[batch]) for batch in batches]
    assert all(len(found) == 1 for found in of_batches)
    assert len({kind for found in of_batches[: len(batches) // 2] for kind in found}) == 3


def test_evaluation_stays_near_the_order_of_the_split() -> None:
    batches = plan_epoch(LENGTHS, 16, 1024, 0, None)
    assert np.corrcoef(np.concatenate(batches), np.arange(len(LENGTHS)))[0, 1] > 0.9
    assert all((np.diff(batch) > 0).all() for batch in batches)


def test_planning_the_whole_train_split_is_fast() -> None:
    num_frames = np.random.default_rng(0).integers(16, 301, 7096)
    begin = time.thread_time()  # processor time, so that a busy machine changes nothing
    plan_epoch(num_frames, 16, 1024, 0, 0)
    assert time.thread_time() - begin < 1  # a comparison of all pairs takes many times as long


def test_a_run_is_its_epochs_in_order() -> None:
    plan = plan_run(lambda epoch: (np.arange(len(LENGTHS)), LENGTHS, None), 16, 1024, seed=5, epochs=3)
    epochs = [plan_epoch(LENGTHS, 16, 1024, 5, epoch) for epoch in range(3)]
    assert plan.epoch_ends.tolist() == np.cumsum([len(batches) for batches in epochs]).tolist()
    assert plan.num_batches == plan.epoch_ends[-1]
    position = 0
    for epoch, batches in enumerate(epochs):
        for batch in batches:
            got_epoch, got_batch = plan.batch(position)
            assert got_epoch == epoch
            np.testing.assert_array_equal(got_batch, batch)
            position += 1


def test_a_clip_over_the_budget_is_named_with_the_knobs() -> None:
    with pytest.raises(ConfigError, match=r"clip 1 has 412 frames.*400.*frame_budget.*data\.max_frames"):
        plan_epoch(np.array([100, 412, 30]), 16, 400, 0, 0)
