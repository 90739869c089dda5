"""Task-agnostic distillation from a stream: blocks of text that are read, shuffled and forgotten while it trains.

A buffer of blocks is filled, its blocks are drawn in random order, and it is filled again. When the stream ends, it
begins again. Which blocks a step gets depends only on rows and seed, so that a resumed run goes on with the same.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from tinybert_cli import data
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError, OutputError
from tinybert_cli.tasks.language_modeling import Blocks, encoded_blocks
from tinybert_cli.types import Array, Rows

BUFFER = 16_384  # blocks that are shuffled together; the last rows of a buffer may add some
PART = 1024  # rows that are read at a time
NOTHING = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class Position:
    """Where a buffer begins."""

    buffers: int = 0  # before it
    batches: int = 0  # before it
    passes: int = 0  # of the whole stream
    parts: int = 0  # of PART rows, in this pass
    rows: int = 0  # in all passes
    rest: Sequence[int] = ()  # tokens of rows before it
    sha256: str = NOTHING  # of the rows of this pass
    whole: str | None = None  # of all rows of a pass; None before the first one is over
    state: dict[str, Any] | None = None  # of the stream, see `data.Stream`


class StreamedBlocks:
    """The examples and the batches of a stream, see `loops.Batches`: those of the buffer that was filled last.

    Args:
        total: batches that the training needs, in all processes.
        step: batches of an optimizer step, in all processes.
    """

    decoder = None  # see `data.Examples`

    def __init__(
        self,
        stream: data.Stream,
        settings: Data,
        tokenizer: Any,
        *,
        batch_size: int,
        seed: int,
        total: int,
        step: int = 1,
    ) -> None:
        self.stream, self.settings, self.tokenizer = stream, settings, tokenizer
        self.batch_size, self.seed, self.total, self.step = batch_size, seed, total, step
        self.epoch = 0  # the whole training is one
        self.read = Position()  # what was read so far
        self._positions = [self.read]
        self._buffer: data.Examples | None = None

    def facts(self) -> dict[str, Any]:
        """What the manifest states about the rows: what was read, and how it was shuffled."""
        read, whole = self.read, self.read.whole
        numbers = {"rows": read.rows, "passes": read.passes, "sha256": whole or read.sha256, "shuffle_buffer": BUFFER}
        return {"streams": {"train": {**self.stream.facts, **numbers}}}

    # -- examples --------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.total

    @property
    def prediction_count(self) -> int:
        """Blocks of the buffer."""
        return 0 if self._buffer is None else len(self._buffer)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The blocks of the buffer with these indices, as one batch."""
        if self._buffer is None:
            next(self.after(0))
        assert self._buffer is not None  # a batch of it was drawn
        return self._buffer.__getitems__(indices)

    def prediction_indices(self, indices: Sequence[int]) -> Array:
        return np.asarray(indices)

    # -- batches ---------------------------------------------------------------------------------------------

    def count(self, epoch: int) -> int:
        return self.total

    def __iter__(self) -> Iterator[list[int]]:
        return self.after(0)

    def after(self, count: int) -> Iterator[list[int]]:
        """The batches after the first `count`; the stream is read from the buffer on that the first of them is in.

        Raises:
            InputError: a row is malformed, or the stream breaks.
            OutputError: the rows before have changed since an earlier run.
        """
        position = next(one for one in reversed(self._positions) if one.batches <= count)
        self._positions = [position]
        return itertools.islice(self._batches(position), count - position.batches, self.total - position.batches)

    def _batches(self, position: Position) -> Iterator[list[int]]:
        for encoded, following in self._buffers(position):
            self._buffer = encoded
            order = np.random.default_rng([self.seed, position.buffers]).permutation(len(encoded))
            batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
            for batch in batches:
                yield batch.tolist()
            position = replace(following, buffers=position.buffers + 1, batches=position.batches + len(batches))
            self._positions.append(position)
            # the batches of a step are read before it is done, and it may be repeated, or the first of a resumed run
            while len(self._positions) > 1 and self._positions[1].batches <= position.batches - 2 * self.step:
                del self._positions[0]

    def _buffers(self, position: Position) -> Iterator[tuple[data.Examples, Position]]:
        """The blocks of each buffer, and where the next one begins, without end."""
        builder = Blocks(self.tokenizer, self.settings, position.rest)
        builder.has_text = position.batches > 0
        blocks: list[Array] = []
        for rows, read in self._parts(position):
            if rows is None:
                if not builder.has_text:
                    raise InputError("these rows have no text", where=self.stream.origin)
                blocks.append(builder.finish())
            else:
                blocks.extend(builder.add(rows))
            self.read = replace(read, rest=builder.rest.tolist())
            if sum(map(len, blocks)) >= BUFFER if rows is not None else any(map(len, blocks)):
                ids = np.concatenate([part.reshape(-1) for part in blocks])
                blocks = []
                yield data.Examples.of(encoded_blocks(ids, self.settings, self.tokenizer)), self.read

    def _parts(self, position: Position) -> Iterator[tuple[Rows | None, Position]]:
        """The rows from a position on, and what was read with them; None for them at the end of each pass."""
        while True:
            for rows in self._pass(position):
                sha256 = _joined(position.sha256, rows)
                position = replace(
                    position, parts=position.parts + 1, rows=position.rows + len(rows), sha256=sha256,
                    state=self.stream.state(),
                )  # fmt: skip
                yield rows, position
            if position.whole not in (None, position.sha256):
                raise InputError(
                    f"'{self.stream.origin}' was changed while it was read",
                    hint="restore the data, or choose another output_dir",
                )
            whole = position.sha256
            position = replace(position, passes=position.passes + 1, parts=0, sha256=NOTHING, whole=whole, state=None)
            yield None, position

    def _pass(self, position: Position) -> Iterator[Rows]:
        """The rows of a pass from a position on. Files are read from their begin, to see whether they are the same."""
        most = data.most_rows(self.settings, "train")
        first = 0 if position.state is None else position.parts
        rest = data.stream_shards(self.stream, self.settings, PART, most=most, first=first, state=position.state)
        try:
            sha256 = NOTHING
            for rows in itertools.islice(rest, position.parts - first):
                sha256 = _joined(sha256, rows)
            if position.state is None and sha256 != position.sha256:
                raise OutputError(
                    "output_dir holds an unfinished run with other inputs: the rows that it has read have changed",
                    where=self.stream.origin,
                    hint="restore the data, or choose another output_dir",
                )
            yield from rest
        except InputError as error:
            again = "the same command goes on from the last checkpoint, if there is one"
            hint = f"{error.hint}; {again}" if error.hint else again
            raise InputError(error.what, where=error.where, hint=hint) from error

    # -- checkpoints -----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"positions": [asdict(position) for position in self._positions]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._positions = [Position(**position) for position in state["positions"]]


def _joined(sha256: str, rows: Rows) -> str:
    """The digest of rows with this digest, and of those that follow."""
    return hashlib.sha256(f"{sha256}{data.rows_digest(rows)}".encode()).hexdigest()
