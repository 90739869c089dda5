"""Hidden states of both stacks of a translation model, stored beside a label dataset.

Each stack has its own files, as in `layer_states`: <shard>.encoder_hidden_states.npy, .encoder_input_ids.npy, ...;
those of the encoder are about source tokens, those of the decoder about target tokens of the chosen translations.

Shapes: W windows, B windows of one batch, T tokens of one sequence, L layers, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.data.layer_states import IDS, LayerStates, Shapes, StatesWriter, read_states, states_files
from tinybert_cli.errors import InputError
from tinybert_cli.types import Array, Encoded, concatenated_ranges, lengths_at

if TYPE_CHECKING:
    from torch import Tensor


def stack_states_files(shard: str, names: Iterable[str]) -> list[str]:
    """Names of the files of a shard; `names` are those of the layer outputs, such as `encoder_hidden_states`."""
    return [file for name in names for file in states_files(shard, [name], _prefix(name))]


class StackStatesWriter:
    """Creates the files of one shard; the windows of `encoded` may be written in any order."""

    def __init__(self, folder: Path, shard: str, encoded: Encoded, shapes: Shapes) -> None:
        self.writers = [
            StatesWriter(folder, shard, _sequence(encoded, name), {name: shape}, prefix=_prefix(name))
            for name, shape in shapes.items()
        ]

    def write(self, windows: Sequence[int], states: Mapping[str, Array]) -> None:
        """Write the states of a batch of windows, (B, T, L, H) of each stack, padded.

        Raises:
            InputError: a number is NaN or too large for float16.
        """
        for writer in self.writers:
            writer.write(windows, states)


@dataclass(frozen=True)
class StackStates:
    """The stored states of both stacks; only those of the current batch are read into memory."""

    states: Mapping[str, LayerStates]  # name → its states
    rows: Array | None = None  # (W,) the stored row of each window; None: the same order

    def select(self, rows: Array) -> StackStates:
        """For windows that are these rows."""
        return StackStates(self.states, rows if self.rows is None else self.rows[rows])

    def of_layers(self, indices: Mapping[str, Sequence[int]]) -> StackStates:
        """Only these of the stored layers: name → their indices."""
        states = {name: replace(stored, layers=indices[name]) for name, stored in self.states.items()}
        return StackStates(states, self.rows)

    def check(self, encoded: Encoded) -> None:
        """InputError if the tokens of student and teacher differ."""
        for name, stored in self.states.items():
            own = _sequence(encoded, name)
            rows = self._rows(np.arange(len(own.offsets) - 1))
            ids = stored.input_ids[concatenated_ranges(stored.offsets, rows)]
            same_lengths = np.array_equal(lengths_at(stored.offsets, rows), np.diff(own.offsets))
            if not (same_lengths and np.array_equal(ids, own.tokens[IDS][0])):
                raise InputError(
                    f"the stored states of the {_prefix(name).strip('_')} do not match the student's tokens",
                    hint="use the same data, tokenizer and lengths, or run gen-soft-labels again",
                )

    def batch(self, windows: Array, tokens: int) -> dict[str, Tensor]:
        """`teacher_<name>` (B, T, L, H) of each stack, padded to its longest sequence; `tokens` is unused."""
        rows = self._rows(windows)
        batch: dict[str, Tensor] = {}
        for stored in self.states.values():
            batch |= stored.batch(rows, int(lengths_at(stored.offsets, rows).max()))
        return batch

    def _rows(self, windows: Array) -> Array:
        return windows if self.rows is None else self.rows[windows]


def read_stack_states(folder: Path, files: Iterable[str], names: Iterable[str]) -> StackStates:
    """The states of the rows that `read_translations` reads, in the same order.

    Raises:
        InputError: a number is NaN or infinite.
    """
    files = list(files)
    return StackStates({name: read_states(folder, files, [name], None, prefix=_prefix(name)) for name in names})


def _sequence(encoded: Encoded, name: str) -> Encoded:
    """Source or target tokens alone, as rows of one sequence."""
    if name.startswith("encoder"):
        return Encoded(encoded.tokens, encoded.offsets, 0, [])
    assert encoded.labels is not None and encoded.window_offsets is not None  # of pairs
    return Encoded({IDS: (encoded.labels, 0)}, encoded.window_offsets, 0, [])


def _prefix(name: str) -> str:
    return f"{name.partition('_')[0]}_"
