"""Training batches with a number of tokens: their size, their order, and how an epoch is continued."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert_cli.data import TokenBatches
from tinybert_cli.loops.step_batches import OwnBatches

LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=80)


def batches_of(lengths: list[tuple[int, int]], budget: int, *, epoch: int = 0, **options: Any) -> list[list[int]]:
    source, target = np.array(lengths).T
    batches = TokenBatches(source, target, budget, **{"seed": 3, **options})
    batches.epoch = epoch
    return list(batches)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(16, 400), st.booleans())
def test_every_window_comes_once_and_no_batch_exceeds_the_budget(
    lengths: list[tuple[int, int]], budget: int, group_by_length: bool
) -> None:
    batches = batches_of(lengths, budget, group_by_length=group_by_length)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(max(lengths[row]) for row in batch) <= budget


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(16, 400), st.integers(0, 5))
def test_the_order_depends_on_seed_and_epoch_alone(lengths: list[tuple[int, int]], budget: int, epoch: int) -> None:
    source, target = np.array(lengths).T
    batches = TokenBatches(source, target, budget, seed=3)
    for earlier in range(epoch):  # as in a run that was not interrupted
        batches.epoch = earlier
        list(batches)
    batches.epoch = epoch
    assert list(batches) == batches_of(lengths, budget, epoch=epoch)
    assert batches.count(epoch) == len(batches) == len(list(batches))


def test_epochs_and_seeds_have_other_batches() -> None:
    draw = np.random.default_rng(0)
    lengths = [(int(a), int(a)) for a in draw.integers(1, 40, size=300)]
    first = batches_of(lengths, 200)
    assert batches_of(lengths, 200, epoch=1) != first and batches_of(lengths, 200, seed=4) != first
    assert batches_of(lengths, 200) == first


def test_an_epoch_is_continued_with_the_batches_that_were_left() -> None:
    lengths = [(1 + row % 17, 1 + row % 13) for row in range(90)]
    source, target = np.array(lengths).T
    batches = TokenBatches(source, target, 64, seed=5)
    batches.epoch = 2
    whole = list(batches)
    assert list(OwnBatches(batches, Accelerator(), skip=4)) == whole[4:]


def test_batches_of_similar_lengths_have_little_padding() -> None:
    draw = np.random.default_rng(0)
    source = draw.integers(4, 40, size=2000)
    target = np.clip(source + draw.integers(-3, 4, size=2000), 3, None)
    lengths = list(zip(source.tolist(), target.tolist(), strict=True))

    def share(**options: Any) -> float:
        cells = [len(batch) * max(max(lengths[row]) for row in batch) for batch in batches_of(lengths, 512, **options)]
        return float(np.maximum(source, target).sum() / sum(cells))

    assert share() > 0.85 > share(group_by_length=False)
