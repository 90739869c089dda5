"""How far labelling is, and what is unusual about the rows that were labelled."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tinybert_cli import data, events
from tinybert_cli.config import Data
from tinybert_cli.events import Event
from tinybert_cli.stages.label_shards import Shard
from tinybert_cli.types import Encoded

T = TypeVar("T")


class LabellingProgress:
    """Rows that are labelled, by this run and by earlier ones.

    Args:
        finished: rows that earlier runs have labelled.
        total: of the whole run; None for a stream.
    """

    def __init__(self, finished: int, total: int | None) -> None:
        self.finished, self.total = finished, total
        self.labelled = 0  # rows, by this run
        self._begin = time.perf_counter()

    def events(self, steps: Generator[int, None, T], processes: int) -> Generator[Event, None, T]:
        """Progress events while each of the processes labels a shard, as if all were as fast as this one."""
        while True:
            try:
                done = self.labelled + processes * next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            done = done if self.total is None else min(done, self.total - self.finished)
            seconds = time.perf_counter() - self._begin
            yield events.progress(self.finished + done, self.total, rows=done, seconds=seconds)

    def shard_event(self, shard: Shard, **numbers: Any) -> Event:
        """The event of a shard that is finished."""
        self.labelled += len(shard)
        done = self.finished + self.labelled
        return {"event": "shard", "step": done, "max_steps": self.total, "shard": shard.name, **numbers}

    def rows_per_second(self) -> float:
        return self.labelled / (time.perf_counter() - self._begin)


@dataclass
class _Counts:
    rows: int = 0
    truncated: int = 0
    empty: int = 0
    first_empty: list[int] = field(default_factory=list)  # numbers of rows in the split, from 1
    questions: bool = False  # whether only these were truncated


class UnusualRows:
    """Rows of a stream that were truncated or have no text, counted shard by shard."""

    def __init__(self, settings: Data) -> None:
        self.settings = settings
        self._splits: dict[str, _Counts] = {}

    @staticmethod
    def of(shard: Shard, encoded: Encoded) -> dict[str, Any]:
        """The counts of a shard."""
        first = [shard.indices.start + row + 1 for row in encoded.empty[: data.FIRST_ROWS]]
        counts = {"truncated": encoded.truncated, "empty": len(encoded.empty), "first_empty": first}
        return {**counts, "questions": encoded.cuts_questions}

    def add(self, shard: Shard, counts: Mapping[str, Any]) -> None:
        """Adds the counts of a shard; none if its rows are not those of a stream."""
        if not counts:
            return
        total = self._splits.setdefault(shard.split, _Counts())
        total.rows += len(shard)
        total.questions = counts["questions"]
        total.truncated += counts["truncated"]
        total.empty += counts["empty"]
        total.first_empty = [*total.first_empty, *counts["first_empty"]][: data.FIRST_ROWS]

    def warnings(self) -> Generator[Event, None, None]:
        """Warnings about all rows that were labelled by this run."""
        for split, counts in self._splits.items():
            yield from data.rows_warnings(
                split, counts.rows, counts.truncated, counts.empty, counts.first_empty, self.settings,
                questions=counts.questions,
            )  # fmt: skip
