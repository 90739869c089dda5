"""Shards of a label dataset: which rows each holds, and the logits of the teachers for them.

Shapes: N rows, P predictions, C numbers of each prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_cli import artifacts, data, loops, models, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.predictor import Predictor, check_logits
from tinybert_cli.stages.layer_states import LayerStateSpec
from tinybert_cli.types import Array, Encoded, Layout, Rows, first_infinite_row

if TYPE_CHECKING:
    from accelerate import Accelerator

ROWS_PER_SHARD = 16_384  # one file; a killed run loses at most this much work
TRAINING_SPLITS = ("train", "unlabeled", "augmented")  # students learn from these, so layer states are stored for them


def size_of(sizes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """For the manifest, the parameters of all teachers together; nothing if one is an export, whose size is unknown."""
    return {"teacher_parameters": sum(size["parameters"] for size in sizes)} if all(sizes) else {}


@dataclass(frozen=True)
class RawLogits:
    """Logits for N rows, before any threshold is applied."""

    logits: Array  # (P, C)
    layout: Layout | None  # which predictions each row has; None: one each


@dataclass(frozen=True)
class Labeller:
    """The teachers, and how they label rows."""

    config: GenSoftLabels
    task: tasks.PredictionTask
    sources: Sequence[models.Source]
    teachers: Sequence[Predictor]
    spec: LayerStateSpec | None  # the layer states to store
    accelerator: Accelerator

    def label(
        self, rows: Rows, writer: Callable[[Encoded], data.StatesWriter | None] | None = None
    ) -> Generator[int, None, RawLogits]:
        """Yields how many rows are done, and returns the ensemble's logits.

        Args:
            writer: makes the writer of the layer states of these rows; without it none are computed.

        Raises:
            InputError: the logits of a teacher are NaN or infinite.
        """
        parts: list[Array] = []
        first: Encoded | None = None  # with the tokenizer of the first teacher, whose predictions the others are put on
        for number, teacher in enumerate(self.teachers):
            encoded = self.task.encode(rows, self.config.data, teacher.torch_tokenizer)
            examples, first = data.Examples.of(encoded), first or encoded
            net, outputs, states = teacher.module, ["logits"], None
            if self.spec is not None and writer is not None:
                net, outputs, states = self.spec.net, ["logits", *self.spec.shapes], writer(encoded)
            batches = data.sorted_batches(examples.lengths, self.config.per_device_eval_batch_size)
            count = len(rows) if encoded.layout is None else int(encoded.layout.row_offsets[-1])
            logits = np.zeros((count, len(teacher.label_names)), dtype=np.float32)
            done = 0
            for indices, values in loops.predict_outputs(net, examples, batches, outputs, accelerator=self.accelerator):
                logits[examples.prediction_indices(indices)] = values["logits"]
                if states is not None:
                    states.write(indices, values)
                done += len(indices)
                yield len(rows) * (number * len(examples) + done) // (len(self.teachers) * len(examples))
            check_logits(logits, encoded.layout, rows, self.sources[number].name)
            parts.append(self.task.align({"teacher_logits": logits}, encoded.layout, first)["teacher_logits"])
        assert first is not None  # there is a teacher
        weights = self.config.teacher_weights or [1.0] * len(self.teachers)
        return RawLogits(self.task.ensemble(parts, weights, first.layout), first.layout)


def as_stored(raw: RawLogits, rows: Rows, dtype: str) -> RawLogits:
    """The logits in the data type of the label dataset.

    Raises:
        InputError: one is too large for it.
    """
    with np.errstate(over="ignore"):
        logits = raw.logits.astype(dtype)
    row = first_infinite_row(logits, raw.layout)
    if row is not None:
        raise InputError(
            f"a logit of the teacher overflows {dtype} (max {np.finfo(dtype).max:,.0f})",
            where=rows.location(row),
            hint="set logits_dtype: float32",
        )
    return RawLogits(logits, raw.layout)


def shards_of(splits: Mapping[str, Rows]) -> dict[str, tuple[str, range]]:
    """The files of the label dataset, and which rows of which split each holds."""
    return {
        f"{split}-{number:05d}-of-{-(-len(rows) // ROWS_PER_SHARD):05d}.parquet": (
            split,
            range(number * ROWS_PER_SHARD, min((number + 1) * ROWS_PER_SHARD, len(rows))),
        )
        for split, rows in splits.items()
        for number in range(-(-len(rows) // ROWS_PER_SHARD))
    }


def is_finished(output: artifacts.Output, shard: str, split: str, spec: LayerStateSpec | None) -> bool:
    """Whether an earlier run wrote the shard with all its files, and they are undamaged."""
    states = [] if spec is None or split not in TRAINING_SPLITS else data.states_files(shard, spec.shapes)
    return all(output.has(name) for name in (shard, *states))


def shard_writer(
    shard: str,
    rows: Rows,
    raw: RawLogits,
    columns: Mapping[str, list[Any]],
    types: Mapping[str, Any],
    dtype: str,
    states: Path | None,
) -> Callable[[Path], None]:
    """Writes the shard, and moves its layer states there from the folder `states`."""

    def write(folder: Path) -> None:
        data.write_soft_labels(folder / shard, rows, raw.logits, raw.layout, columns=columns, dtype=dtype, types=types)
        for file in states.iterdir() if states else ():
            file.replace(folder / file.name)

    return write
