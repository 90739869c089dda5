"""Which batches a process computes in each step of training."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from tinybert_cli.config import LEAST_TOKENS, Training
from tinybert_cli.types import Batch, Examples

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
StepBatches = tuple[tuple[Batch, ...], ...]  # of one process in one optimizer step, each in its micro-batches


class Batches(Protocol):
    """A batch sampler whose order depends on the epoch."""

    epoch: int

    def __len__(self) -> int: ...
    def count(self, epoch: int) -> int: ...
    def __iter__(self) -> Iterator[list[int]]: ...
    def after(self, count: int) -> Iterator[list[int]]: ...


def steps_of_epoch(batches: Batches, training: Training, processes: int, epoch: int = 0) -> int:
    """Optimizer steps of an epoch."""
    return math.ceil(math.ceil(batches.count(epoch) / processes) / training.gradient_accumulation_steps)


class OwnBatches(torch.utils.data.Sampler[list[int]]):
    """The batches of one process: of every group of n batches, where n is the number of processes, one.

    All processes take equally many. One that the last group is too short for gets a row that does not count. Each batch
    is yielded when it is reached, not at the end of its group: those of a stream belong to the buffer that is filled.

    Args:
        skip: batches of this process that are done already.
    """

    def __init__(self, batches: Batches, accelerator: Accelerator, *, skip: int) -> None:
        self.batches, self.skip = batches, skip
        self.process, self.processes = accelerator.process_index, accelerator.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        count = 0
        for batch in self.batches.after(self.skip * self.processes):
            if count % self.processes == self.process:
                yield batch
            count += 1
        if 0 < count % self.processes <= self.process:
            yield [0]


class MicroBatches(torch.utils.data.Dataset[tuple[Batch, ...]]):
    """Examples whose batches come in parts of equally many rows, the last one of fewer.

    Args:
        count: parts of a batch that has enough rows.
    """

    def __init__(self, examples: Examples, count: int) -> None:
        self.examples, self.count = examples, count

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, indices: list[int]) -> tuple[Batch, ...]:
        rows = math.ceil(len(indices) / self.count)
        return tuple(
            self.examples.__getitems__(indices[begin : begin + rows]) for begin in range(0, len(indices), rows)
        )


def smaller_batches(training: Training, micro_batches: int) -> str:
    """The settings that make batches of the size of micro-batches, and as many steps, from the start."""
    if training.per_device_train_batch_tokens is not None:
        tokens = max(LEAST_TOKENS, math.ceil(training.per_device_train_batch_tokens / micro_batches))
        size, count = f"per_device_train_batch_tokens={tokens}", micro_batches
    else:
        rows = math.ceil(training.per_device_train_batch_size / micro_batches)
        size, count = f"per_device_train_batch_size={rows}", math.ceil(training.per_device_train_batch_size / rows)
    return f"training.{size} training.gradient_accumulation_steps={count * training.gradient_accumulation_steps}"


def groups(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """The items in groups of `size`; the last group may be smaller."""
    rest = iter(items)
    while group := tuple(itertools.islice(rest, size)):
        yield group


def with_start_times(
    batches: Iterator[StepBatches],
) -> Iterator[tuple[tuple[float, float], StepBatches]]:
    """The batches of each step with wall and CPU time before they were read: reading counts as training time."""
    while True:
        begin = time.perf_counter(), time.process_time()
        step = next(batches, None)
        if step is None:
            return
        yield begin, step
