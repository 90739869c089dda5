"""Layer states of a teacher beside a label dataset: plain arrays, read from where they lie, a batch at a time.

Of each shard one .npy file of every kind, without padding, the windows one after the other: <shard>.hidden_states.npy,
<shard>.scores.npy, ...; and the tokens that were shown, by which a student knows that they are its own.

Shapes: N windows (of most tasks a row is one), T tokens of one window, U units of it: T tokens, or T x T pairs of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.data.soft_labels import training_shards
from tinybert_cli.errors import InputError
from tinybert_cli.types import Array, Encoded

DTYPE = np.dtype(np.float16)
PAIRS = ("scores",)  # kept for each pair of tokens
IDS, OFFSETS = "input_ids", "offsets"

Shapes = Mapping[str, tuple[int, ...]]  # name → what is kept of one unit


def states_bytes(encoded: Encoded, shapes: Shapes) -> int:
    """Bytes on disk for the states of these windows, but for the tokens beside them."""
    lengths = np.diff(encoded.offsets)
    return sum(int(_units(name, lengths).sum() * np.prod(shape)) * DTYPE.itemsize for name, shape in shapes.items())


def states_files(shard: str, shapes: Shapes) -> list[str]:
    """The files that belong to the shard `train-00000-of-00001.parquet`."""
    return [_file(shard, name) for name in (IDS, OFFSETS, *shapes)]


class StatesWriter:
    """The files of one shard, filled in any order of windows."""

    def __init__(self, folder: Path, shard: str, encoded: Encoded, shapes: Shapes) -> None:
        self.paths = {name: folder / _file(shard, name) for name in shapes}
        self.shapes, self.lengths = shapes, np.diff(encoded.offsets)
        np.save(folder / _file(shard, IDS), encoded.tokens[IDS][0].astype(np.int32))
        np.save(folder / _file(shard, OFFSETS), encoded.offsets.astype(np.int64))
        self.begins = {name: _starts(_units(name, self.lengths)) for name in shapes}
        self.headers = {name: self._open(name) for name in shapes}

    def write(self, windows: Sequence[int], said: Mapping[str, Array]) -> None:
        """What a batch of windows was said to be: (B, T, ...), or (B, T, T, ...) of pairs, padded.

        Raises:
            InputError: a number is too large for float16.
        """
        for name, path in self.paths.items():
            size = int(np.prod(self.shapes[name])) * DTYPE.itemsize
            with path.open("r+b") as file:
                for window, values in zip(windows, said[name], strict=True):
                    tokens = self.lengths[window]
                    real = values[:tokens, :tokens] if name in PAIRS else values[:tokens]
                    if not np.isfinite(real).all():
                        raise InputError(
                            f"the teacher's {name.replace('_', ' ')} hold numbers that float16 cannot",
                            hint="leave them out of `states`, and let the teacher run beside the student: "
                            "distill with `teacher:`",
                        )
                    file.seek(self.headers[name] + int(self.begins[name][window]) * size)
                    file.write(real.astype(DTYPE).tobytes())

    def _open(self, name: str) -> int:
        """An array without numbers yet; where they begin."""
        shape = (int(self.begins[name][-1]), *self.shapes[name])
        with self.paths[name].open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(DTYPE), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            return file.tell()


@dataclass(frozen=True)
class LayerStates:
    """The states of N windows; nothing of them is in memory but what a batch asks for."""

    ids: Array  # (ΣT,) the tokens that the teacher was shown
    offsets: Array  # (N + 1,) where each window begins
    shards: Sequence[Mapping[str, Array]]  # name → (ΣU, ...)
    first: Array  # the first window of each shard
    starts: Mapping[str, Array]  # name → (N,) where the units of each window begin in its shard
    layers: Sequence[int] | None  # which of the layers that are kept; None: all

    def check(self, encoded: Encoded) -> None:
        """InputError if the student is shown other tokens than the teacher was; it may be shown fewer windows."""
        count = len(encoded.offsets)
        ids = encoded.tokens[IDS][0]
        if np.array_equal(encoded.offsets, self.offsets[:count]) and np.array_equal(ids, self.ids[: len(ids)]):
            return
        raise InputError(
            "the layer states were made of other tokens than the student is shown",
            hint="the same data, tokenizer and data.max_seq_length are needed; or run gen-soft-labels again",
        )

    def batch(self, windows: Array, tokens: int) -> dict[str, Tensor]:
        """`teacher_<name>` (B, T, ...), or (B, T, T, ...) of pairs, padded with zeros."""
        found = {}
        for name, starts in self.starts.items():
            shape = self.shards[0][name].shape[1:]
            if self.layers is not None and len(shape) > 1:
                shape = (len(self.layers), *shape[1:])
            padded = np.zeros((len(windows), *[tokens] * (2 if name in PAIRS else 1), *shape), dtype=DTYPE)
            for place, window in enumerate(windows):
                shard = self.shards[np.searchsorted(self.first, window, side="right") - 1]
                length = int(self.offsets[window + 1] - self.offsets[window])
                units = length * length if name in PAIRS else length
                block = shard[name][starts[window] : starts[window] + units]
                if self.layers is not None and len(block.shape) > 2:
                    block = block[:, self.layers]
                if name in PAIRS:
                    padded[place, :length, :length] = block.reshape(length, length, *shape)
                else:
                    padded[place, :length] = block
            found[f"teacher_{name}"] = torch.from_numpy(padded)
        return found


def read_states(folder: Path, files: Iterable[str], names: Iterable[str], layers: Sequence[int] | None) -> LayerStates:
    """The states beside the rows that `read_soft_labels` reads, in the same order.

    Args:
        names: which of them.
        layers: which of the layers that are kept, by their places; None: all.
    """
    shards = training_shards(files)
    lengths = [np.diff(np.load(folder / _file(shard, OFFSETS))) for shard in shards]
    names = sorted(names)
    return LayerStates(
        np.concatenate([np.load(folder / _file(shard, IDS)) for shard in shards]),
        _starts(np.concatenate(lengths)),
        [{name: np.asarray(np.load(folder / _file(shard, name), mmap_mode="r")) for name in names} for shard in shards],
        _starts(np.array([len(part) for part in lengths]))[:-1],
        {name: np.concatenate([_starts(_units(name, part))[:-1] for part in lengths]) for name in names},
        layers,
    )


def _file(shard: str, name: str) -> str:
    return f"{shard.removesuffix('.parquet')}.{name}.npy"


def _units(name: str, lengths: Array) -> Array:
    """How many tokens, or pairs of them, each window has."""
    counts = lengths.astype(np.int64)
    return counts**2 if name in PAIRS else counts


def _starts(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
