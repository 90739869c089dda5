"""What a baseline is, once it is fitted.

Shapes: N rows, P predictions, C numbers of each prediction.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.tasks import PredictionTask, missing, words_of
from tinybert_cli.types import Array, Encoded, Predictions, Rows

RAREST = 1e-6  # probability of a class without training rows
TIMED_ROWS = 256
PART = 8192  # rows whose features are in memory at a time


@dataclass(frozen=True)
class Training:
    """The rows that a baseline is fitted on, with their gold labels as `PredictionTask.labels` returns them."""

    task: PredictionTask
    settings: Data
    names: Sequence[str]  # the classes
    rows: Rows
    labels: Array


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline."""

    compute: Callable[[Rows], Array]  # logits (P, C) of rows; spans (N, 2) in question answering
    parts: Any  # what `compute` needs, for its size
    training_rows: int
    decide: Callable[[Array, Rows, Encoded], Predictions] | None = None  # None: the task decides from logits

    @property
    def bytes(self) -> int:
        """Size of everything that was learned from the training rows, pickled."""
        return len(pickle.dumps(self.parts))

    def predictions(self, training: Training, rows: Rows, encoded: Encoded) -> Predictions:
        """The predictions for rows; `encoded`: the rows as a model reads them, for the layout of the predictions."""
        parts = [rows.select(range(begin, min(begin + PART, len(rows)))) for begin in range(0, len(rows), PART)]
        outputs = np.concatenate([self.compute(part) for part in parts])
        if self.decide is not None:
            return self.decide(outputs, rows, encoded)
        return training.task.predictions(outputs, encoded.layout, training.names, rows, training.settings)

    def latencies(self, rows: Rows, batch_size: int) -> list[float]:
        """Milliseconds of each batch, from texts to predictions; the first one is a warm-up."""
        count = min(len(rows), TIMED_ROWS)
        batches = [rows.select(range(begin, min(begin + batch_size, count))) for begin in range(0, count, batch_size)]
        self.compute(batches[0])
        times = []
        for batch in batches:
            begin = time.perf_counter()
            self.compute(batch)
            times.append(1000 * (time.perf_counter() - begin))
        return times


Fit = Callable[[Training, int], Baseline]  # training rows and seed → a baseline


def rows_with_gold(training: Training) -> int:
    """The training rows with a gold label, in tagging those with a tag."""
    known = ~missing(training.labels).reshape(len(training.labels), -1).any(-1)
    if not training.task.splits_long_texts:
        return int(known.sum())
    row_of_word = np.repeat(
        np.arange(len(training.rows)), [len(row) for row in words_of(training.rows, training.settings)]
    )
    return len(np.unique(row_of_word[known]))


def log_probabilities(probabilities: Array) -> Array:
    """Logits (P, C) whose softmax are these probabilities, with RAREST in place of 0."""
    logits: Array = np.log(probabilities.clip(RAREST)).astype(np.float32)
    return logits


def logit(probabilities: Array) -> Array:
    """Logits whose sigmoid are these probabilities, within RAREST of 0 and 1."""
    clipped = probabilities.clip(RAREST, 1 - RAREST)
    logits: Array = (np.log(clipped) - np.log1p(-clipped)).astype(np.float32)
    return logits
