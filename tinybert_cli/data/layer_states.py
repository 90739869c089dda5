"""Layer states of a teacher, stored beside a label dataset as plain arrays and memory-mapped one batch at a time.

Each shard has one .npy file per layer output, <shard>.hidden_states.npy, <shard>.scores.npy, ...: all windows,
concatenated without padding. The teacher's token ids are stored too: a student compares them with its own.

Shapes: W windows (in most tasks one per row), B windows of one batch, T tokens of one window, E entries of one window:
its T tokens, or its T · T pairs of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinybert_cli.data.soft_labels import training_shards
from tinybert_cli.errors import InputError
from tinybert_cli.lazy_import import lazy_import
from tinybert_cli.types import Array, Encoded, concatenated_ranges

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy_import("torch")

DTYPE = np.dtype(np.float16)
PAIRS = ("scores",)  # stored per pair of tokens
IDS, OFFSETS = "input_ids", "offsets"

_EXPONENT = np.uint16(0x7C00)  # of float16; all ones in NaN and infinity
_CHECKED_NUMBERS = 2**20  # checked at once

Shapes = Mapping[str, tuple[int, ...]]  # name → shape of one entry


def states_bytes(encoded: Encoded, shapes: Shapes) -> int:
    """Bytes on disk of the layer states of these windows, without their token ids."""
    lengths = np.diff(encoded.offsets)
    return sum(int(_entries(name, lengths).sum() * np.prod(shape)) * DTYPE.itemsize for name, shape in shapes.items())


def states_files(shard: str, names: Iterable[str], prefix: str = "") -> list[str]:
    """Names of the layer state files of a shard such as `train-00000-of-00001.parquet`."""
    return [array_file(shard, name) for name in (prefix + IDS, prefix + OFFSETS, *names)]


class StatesWriter:
    """Creates the files of one shard; the windows may be written in any order.

    Args:
        prefix: of the names of the files with token ids and offsets.
    """

    def __init__(self, folder: Path, shard: str, encoded: Encoded, shapes: Shapes, *, prefix: str = "") -> None:
        self.paths = {name: folder / array_file(shard, name) for name in shapes}
        self.shapes, self.lengths = shapes, np.diff(encoded.offsets)
        self.shard, self.unit = shard, "row" if encoded.window_offsets is None else "window"
        np.save(folder / array_file(shard, prefix + IDS), encoded.tokens[IDS][0].astype(np.int32))
        np.save(folder / array_file(shard, prefix + OFFSETS), encoded.offsets.astype(np.int64))
        self.entry_offsets = {name: offsets_of(_entries(name, self.lengths)) for name in shapes}
        self.header_bytes = {name: self._create(name) for name in shapes}

    def write(self, windows: Sequence[int], states: Mapping[str, Array]) -> None:
        """Write the states of a batch of windows: (B, T, ...), or (B, T, T, ...) per pair of tokens, padded.

        Raises:
            InputError: a number is NaN or too large for float16.
        """
        for name, path in self.paths.items():
            size = int(np.prod(self.shapes[name])) * DTYPE.itemsize
            with path.open("r+b") as file:
                for window, values in zip(windows, states[name], strict=True):
                    tokens = self.lengths[window]
                    unpadded = values[:tokens, :tokens] if name in PAIRS else values[:tokens]
                    if not np.isfinite(unpadded).all():
                        raise _not_finite(name, unpadded, f"{self.shard}, {self.unit} {window + 1}")
                    file.seek(self.header_bytes[name] + int(self.entry_offsets[name][window]) * size)
                    file.write(unpadded.astype(DTYPE).tobytes())

    def _create(self, name: str) -> int:
        """Write the .npy header and return its size in bytes; the numbers follow with `write`."""
        shape = (int(self.entry_offsets[name][-1]), *self.shapes[name])
        with self.paths[name].open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(DTYPE), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            return file.tell()


@dataclass(frozen=True)
class LayerStates:
    """The memory-mapped layer states of W windows; only the states of the current batch are read into memory."""

    input_ids: Array  # (ΣT,) the tokens of the teacher
    offsets: Array  # (W + 1,) where each window begins in input_ids
    rows: int  # that these windows belong to
    shards: Sequence[Mapping[str, Array]]  # name → (ΣE, ...)
    first_windows: Array  # (shards,) the first window of each shard
    entry_starts: Mapping[str, Array]  # name → (W,) where the entries of each window begin in its shard
    layers: Sequence[int] | None  # indices into the stored layers; None: all of them
    windows: Array | None = None  # the stored window of each window of the student; None: they begin with the same ones

    def select(self, rows: Array) -> LayerStates:
        """The states of these rows (indices).

        Raises:
            InputError: they are not the first ones, and some row has several windows.
        """
        if np.array_equal(rows, np.arange(len(rows))):
            return self
        if self.rows != len(self.offsets) - 1:
            raise InputError(
                "stored layer states of texts in several windows cannot be selected by row",
                hint="run gen-soft-labels again with the same data.max_train_samples",
            )
        return replace(self, windows=rows)

    def check(self, encoded: Encoded) -> None:
        """InputError if the tokens of student and teacher differ; the student may have fewer windows."""
        count = len(encoded.offsets) - 1
        windows = np.arange(min(count, len(self.offsets) - 1)) if self.windows is None else self.windows
        ids = self.input_ids[concatenated_ranges(self.offsets, windows)]
        lengths = self.offsets[windows + 1] - self.offsets[windows]
        if np.array_equal(np.diff(encoded.offsets), lengths) and np.array_equal(encoded.tokens[IDS][0], ids):
            return
        raise InputError(
            "the stored layer states do not match the student's tokens",
            hint="use the same data, tokenizer and data.max_seq_length, or run gen-soft-labels again",
        )

    def batch(self, windows: Array, tokens: int) -> dict[str, Tensor]:
        """`teacher_<name>` (B, T, ...), or (B, T, T, ...) per pair of tokens, padded with zeros to `tokens` tokens."""
        batch = {}
        for name, starts in self.entry_starts.items():
            shape = self.shards[0][name].shape[1:]
            if self.layers is not None and len(shape) > 1:
                shape = (len(self.layers), *shape[1:])
            padded = np.zeros((len(windows), *[tokens] * (2 if name in PAIRS else 1), *shape), dtype=DTYPE)
            for index, window in enumerate(windows if self.windows is None else self.windows[windows]):
                shard = self.shards[np.searchsorted(self.first_windows, window, side="right") - 1]
                length = int(self.offsets[window + 1] - self.offsets[window])
                entries = length * length if name in PAIRS else length
                states = shard[name][starts[window] : starts[window] + entries]
                if self.layers is not None and len(states.shape) > 2:
                    states = states[:, self.layers]
                if name in PAIRS:
                    padded[index, :length, :length] = states.reshape(length, length, *shape)
                else:
                    padded[index, :length] = states
            batch[f"teacher_{name}"] = torch.from_numpy(padded)
        return batch


def read_states(
    folder: Path, files: Iterable[str], names: Iterable[str], layers: Sequence[int] | None, *, prefix: str = ""
) -> LayerStates:
    """The layer states of the rows that `read_soft_labels` reads, in the same order.

    Args:
        folder: the label dataset.
        files: names of its files.
        names: the layer outputs to read: hidden_states, scores, ...
        layers: indices into the stored layers; None: all of them.
        prefix: of the names of the files with token ids and offsets.

    Raises:
        InputError: a number is NaN or infinite.
    """
    shards = training_shards(files)
    lengths = [np.diff(np.load(folder / array_file(shard, prefix + OFFSETS))) for shard in shards]
    names = sorted(names)
    states = [
        {name: np.asarray(np.load(folder / array_file(shard, name), mmap_mode="r")) for name in names}
        for shard in shards
    ]
    for shard, own_lengths, arrays in zip(shards, lengths, states, strict=True):
        for name, values in arrays.items():
            window = _first_infinite(values, offsets_of(_entries(name, own_lengths)))
            if window is not None:
                unit = "row" if _row_count(folder / shard) == len(own_lengths) else "window"
                raise InputError(
                    f"the stored {_in_words(name)} are NaN or infinite",
                    where=f"{folder / array_file(shard, name)}, {unit} {window + 1}",
                    hint="run gen-soft-labels again with --force",
                )
    return LayerStates(
        np.concatenate([np.load(folder / array_file(shard, prefix + IDS)) for shard in shards]),
        offsets_of(np.concatenate(lengths)),
        sum(_row_count(folder / shard) for shard in shards),
        states,
        offsets_of(np.array([len(part) for part in lengths]))[:-1],
        {name: np.concatenate([offsets_of(_entries(name, part))[:-1] for part in lengths]) for name in names},
        layers,
    )


def array_file(shard: str, name: str) -> str:
    """The file with these numbers of a shard such as `train-00000-of-00001.parquet`."""
    return f"{shard.removesuffix('.parquet')}.{name}.npy"


def _first_infinite(values: Array, entry_offsets: Array) -> int | None:
    """The first window with a number that is NaN or infinite; reads the file once, piece by piece."""
    step = max(1, _CHECKED_NUMBERS // max(1, int(np.prod(values.shape[1:]))))
    for begin in range(0, len(values), step):
        exponents = values[begin : begin + step].view(np.uint16) & _EXPONENT  # twice as fast as np.isfinite
        infinite = (exponents == _EXPONENT).reshape(len(exponents), -1).any(-1)
        if infinite.any():
            return int(np.searchsorted(entry_offsets, begin + int(infinite.argmax()), side="right")) - 1
    return None


def _row_count(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def _in_words(name: str) -> str:
    return "attention scores" if name == "scores" else name.replace("_", " ")


def _not_finite(name: str, values: Array, where: str) -> InputError:
    if np.isnan(values).any():
        what = f"the teacher's {_in_words(name)} are NaN"
        hint = "the teacher is broken: train it again, or use another one"
    else:
        what = f"the teacher's {_in_words(name)} overflow float16 (max 65,504)"
        hint = "remove them from `states` and run the teacher during distillation: distill with `teacher:`"
    return InputError(what, where=where, hint=hint)


def _entries(name: str, lengths: Array) -> Array:
    """Number of tokens, or of pairs of tokens, of each window."""
    counts = lengths.astype(np.int64)
    return counts**2 if name in PAIRS else counts


def offsets_of(counts: Array) -> Array:
    """Where each of several ranges with these lengths begins, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
