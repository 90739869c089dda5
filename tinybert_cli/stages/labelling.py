"""Shards of a label dataset: which rows each holds, the logits of the teachers for them, and its card.

Shapes: N rows, P predictions, C numbers of each prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinybert_cli import artifacts, data, events, loops, models, processes, tasks
from tinybert_cli.answers import AnswerLabels, AnswerTeacher, combined
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError, Interrupted, UserError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates
from tinybert_cli.predictor import Predictor, check_logits
from tinybert_cli.reports import label_dataset_card
from tinybert_cli.stages.layer_states import LayerStateSpec
from tinybert_cli.stages.teacher_check import TeacherCheck
from tinybert_cli.types import Array, Encoded, Layout, Rows, first_infinite_row

S = TypeVar("S")
T = TypeVar("T")

ROWS_PER_SHARD = 16_384  # one file; a killed run loses at most this much work
TRAINING_SPLITS = ("train", "unlabeled", "augmented")  # students learn from these, so layer states are stored for them


def total_size(sizes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The size of all teachers together; empty if one of them is an export, whose size is unknown."""
    return {name: sum(size[name] for size in sizes) for name in sizes[0]} if all(sizes) else {}


def size_of(sizes: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The parameters of all teachers for the manifest."""
    total = total_size(sizes)
    return {"teacher_parameters": total["parameters"]} if total else {}


@dataclass(frozen=True)
class RawLogits:
    """Logits for N rows, before any threshold is applied."""

    logits: Array  # (P, C)
    layout: Layout | None  # which predictions each row has; None: one each
    labelled: Array | None = None  # (N,) which rows have a label; None: all


@dataclass(frozen=True)
class Labeller:
    """The teachers, and how they label rows; at least one of them is a model."""

    config: GenSoftLabels
    task: tasks.PredictionTask
    sources: Sequence[models.Source]
    teachers: Sequence[Predictor]
    spec: LayerStateSpec | None  # the layer states to store
    splits: Mapping[str, Rows]
    weights: Sequence[float]  # of the models, then of the answers
    answers: Sequence[AnswerTeacher] = ()  # the teachers that are no models
    encoded: dict[str, Encoded] = field(default_factory=dict)  # splits as tokens of the first teacher, see `encode`

    def encode(self, split: str) -> Encoded:
        """All rows of a split as tokens of the first teacher, of which `label` then takes those that it needs."""
        encoded = self.task.encode(self.splits[split], self.config.data, self.teachers[0].torch_tokenizer)
        self.encoded[split] = encoded
        return encoded

    def of_rows(self, split: str, rows: Rows) -> Labeller:
        """The same teachers, for rows that are not among `splits`."""
        return replace(self, splits={split: rows}, encoded={})

    def label(
        self,
        split: str,
        indices: Sequence[int],
        writer: Callable[[Encoded], data.StatesWriter] | None = None,
    ) -> Generator[int, None, RawLogits]:
        """Yields how many rows are done, and returns the ensemble's logits; see `label_each`."""
        return self.together((yield from self.label_each(split, indices, writer)))

    def together(self, labels: Sequence[AnswerLabels]) -> RawLogits:
        """The weighted mean of what `label_each` has returned."""
        layout = labels[0].layout
        return RawLogits(combined(self.task, labels, self.weights[: len(labels)], layout).logits, layout)

    def label_each(
        self,
        split: str,
        indices: Sequence[int],
        writer: Callable[[Encoded], data.StatesWriter] | None = None,
    ) -> Generator[int, None, list[AnswerLabels]]:
        """Yields how many rows are done, and returns the labels of each teacher, with the layout of the first.

        Args:
            indices: the rows of the split.
            writer: makes the writer of the layer states of these rows; without it none are computed.

        Returns:
            Those of the models, then those of the answers, which label no augmented examples.

        Raises:
            InputError: the logits of a teacher are NaN or infinite.
        """
        rows = self.splits[split].select(indices)
        parts: list[Array] = []
        first: Encoded | None = None  # with the tokenizer of the first teacher, whose predictions the others are put on
        for number, teacher in enumerate(self.teachers):
            known = self.encoded.get(split) if number == 0 and isinstance(indices, range) else None
            encoded = None if known is None else known.part(indices[0], indices[-1] + 1)
            encoded = encoded or self.task.encode(rows, self.config.data, teacher.torch_tokenizer)
            examples, first = data.Examples.of(encoded), first or encoded
            net, outputs, states = teacher.module, ["logits"], None
            if self.spec is not None and writer is not None:
                net, outputs, states = self.spec.net, ["logits", *self.spec.shapes], writer(encoded)
            batches = data.sorted_batches(examples.lengths, self.config.per_device_eval_batch_size)
            count = len(rows) if encoded.layout is None else int(encoded.layout.row_offsets[-1])
            logits = np.zeros((count, len(teacher.label_names)), dtype=np.float32)
            done = 0
            for batch, values in loops.predict_outputs(net, examples, batches, outputs):
                logits[examples.prediction_indices(batch)] = values["logits"]
                if states is not None:
                    states.write(batch, values)
                done += len(batch)
                yield len(rows) * (number * len(examples) + done) // (len(self.teachers) * len(examples))
            check_logits(logits, encoded.layout, rows, self.sources[number].name)
            parts.append(self.task.align({"teacher_logits": logits}, encoded.layout, first)["teacher_logits"])
        assert first is not None  # there is a teacher
        everything = np.ones(len(rows), dtype=bool)
        labels = [AnswerLabels(part, first.layout, everything) for part in parts]
        for answers in self.answers:
            if split in answers.labels:
                own = answers.labels[split].select(np.asarray(indices))
                aligned = self.task.align({"teacher_logits": own.logits}, own.layout, first)["teacher_logits"]
                labels.append(AnswerLabels(aligned, first.layout, own.answered))
        return labels


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
    return RawLogits(logits, raw.layout, raw.labelled)


def shards_of(splits: Mapping[str, Rows]) -> dict[str, tuple[str, range]]:
    """The files of the label dataset, and which rows of which split each holds."""
    return {
        shard_name(split, number, -(-len(rows) // ROWS_PER_SHARD)): (
            split,
            range(number * ROWS_PER_SHARD, min((number + 1) * ROWS_PER_SHARD, len(rows))),
        )
        for split, rows in splits.items()
        for number in range(-(-len(rows) // ROWS_PER_SHARD))
    }


def shard_name(split: str, number: int, count: int) -> str:
    """The file of a shard: its number, from 0, and how many the split has."""
    return f"{split}-{number:05d}-of-{count:05d}.parquet"


def groups(shards: Sequence[T]) -> list[Sequence[T]]:
    """The shards in groups of as many as there are processes; each process writes one of a group."""
    return [shards[begin : begin + processes.count()] for begin in range(0, len(shards), processes.count())]


def write_group(
    output: artifacts.Output,
    group: Sequence[S],
    write: Callable[[S, Path], Generator[Event, None, T]],
    check: Callable[[Sequence[T]], None] = lambda _: None,
) -> Generator[Event, None, list[T]]:
    """Writes a group of shards, in this process the one with the number of its rank; nothing else is exchanged.

    Args:
        write: writes the files of a shard to a folder; yields events.
        check: what `write` has returned for each shard, before the files are moved to the output folder.

    Returns:
        What `write` has returned for each shard.

    Raises:
        UserError, OSError: of the first shard that cannot be written, in all processes.
    """
    own = next(iter(group[processes.rank() :]), None)
    result, files, error = None, {}, None
    with output.files.own_folder() as folder:
        if own is not None:
            try:
                result = yield from write(own, folder)
                files = output.files.complete(folder)
            except Interrupted:
                raise
            except (UserError, OSError) as caught:
                error = caught
        pairs = processes.results((result, files), error)
        results: list[Any] = [result for result, _ in pairs[: len(group)]]
        check(results)
        output.files.publish(folder, [files for _, files in pairs])
    return results


def is_finished(output: artifacts.Output, shard: str, split: str, spec: LayerStateSpec | None) -> bool:
    """Whether an earlier run wrote the shard with all its files, and they are undamaged."""
    states = [] if spec is None or split not in TRAINING_SPLITS else data.states_files(shard, spec.shapes)
    return all(output.files.has(name) for name in (shard, *states))


def shard_writer(
    shard: str,
    rows: Rows,
    raw: RawLogits,
    columns: Mapping[str, list[Any]],
    types: Mapping[str, Any],
    dtype: str,
) -> Callable[[Path], None]:
    """Writes the shard."""

    def write(folder: Path) -> None:
        data.write_soft_labels(
            folder / shard, rows, raw.logits, raw.layout,
            columns=columns, dtype=dtype, types=types, labelled=raw.labelled,
        )  # fmt: skip

    return write


# -- rows ------------------------------------------------------------------------------------------------------


def column_types(splits: Sequence[Rows]) -> Generator[Event, None, Mapping[str, Any]]:
    """The types of the columns in the label dataset; a warning names those that are stored as text.

    Raises:
        InputError: a column has a name that the label dataset needs.
    """
    for rows in splits:
        data.check_names(rows)
    types = data.column_types(splits)
    if converted := data.converted_columns(splits, types):
        yield stored_as_text(converted)
    return types


def stored_as_text(columns: Sequence[str]) -> Event:
    """The warning about columns whose values have no common type."""
    what = "values of several types, mappings with different keys, or integers of more than 64 bits"
    return events.warning(f"columns stored as text, because they have {what}: {', '.join(columns)}")


def gold_labels(
    config: GenSoftLabels, task: tasks.PredictionTask, splits: Mapping[str, Rows], names: Sequence[str]
) -> dict[str, Array | None]:
    """The gold labels of each split, None for those without any."""
    labels: dict[str, Array | None] = {}
    for split, rows in splits.items():
        split_names = task.label_names(rows, config.data, model_names=names)
        labels[split] = None if split == "unlabeled" else task.labels(rows, config.data, split_names)
    return labels


def data_warnings(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    splits: Mapping[str, Rows],
    labels: Mapping[str, Array | None],
    names: Sequence[str],
) -> Iterator[str]:
    """Warnings about the gold labels of the training rows, and about rows that are in two splits."""
    if labels.get("train") is not None:
        yield from task.label_warnings(splits["train"], config.data, names)
        yield from duplicates.contradiction_warnings("train", splits["train"], config.data, task.name)
    yield from duplicates.leaks_between(splits, config.data, most=duplicates.SAMPLE)


def card_writer(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    rows: Mapping[str, int],
    check: TeacherCheck | None,
    output: artifacts.Output,
) -> Callable[[Path], None]:
    """Writes the dataset card; `rows` is their number in each split."""

    def write(folder: Path) -> None:
        numbers = {} if check is None else check.numbers
        confusion = {} if check is None else check.confusion
        card = label_dataset_card.as_markdown(
            config, task.pipeline, rows, output.inputs,
            numbers=numbers, checked_rows=0 if check is None else check.rows, confusion=confusion,
        )  # fmt: skip
        (folder / "README.md").write_text(card, encoding="utf-8")

    return write
