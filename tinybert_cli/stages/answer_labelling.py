"""gen-soft-labels without a model: a label dataset from files with answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinybert_cli import artifacts, data, events, tasks
from tinybert_cli.answers import AnswerLabels, AnswerTeacher, combined, common_layout, decided_by_majority
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.events import Event
from tinybert_cli.stages import answer_teachers, labelling, teacher_check
from tinybert_cli.stages.labelling import RawLogits
from tinybert_cli.types import Predictions, Rows
from tinybert_cli.wording import verb


def label(config: GenSoftLabels, task: tasks.PredictionTask, output: artifacts.Output) -> Iterator[Event]:
    """Writes the label dataset; rows without an answer have no label in it."""
    splits: dict[str, Rows] = {split: data.read(config.data, split) for split in config.splits}
    types = dict((yield from labelling.column_types(list(splits.values()))))
    names = answer_teachers.class_names(config, task, splits)
    gold = labelling.gold_labels(config, task, splits, names)
    yield from map(events.warning, labelling.data_warnings(config, task, splits, gold, names))
    answers = yield from answer_teachers.read(config, task, splits, names, gold)
    labels = {
        split: _together(config, task, [teacher.labels[split] for teacher in answers.teachers], rows)
        for split, rows in splits.items()
    }
    total, labelled = sum(map(len, splits.values())), sum(int(own.answered.sum()) for own in labels.values())
    yield events.plan(
        total,
        teachers=len(config.teachers),
        label_names=names,
        **events.assumptions(_statements(config, task, splits, names, answers.teachers)),
    )
    if labelled < total:
        yield events.warning(
            f"{total - labelled:,} of {total:,} rows {verb(total - labelled, 'has', 'have')} no label: distill and "
            f"finetune will leave {verb(total - labelled, 'it', 'them')} out"
        )
    numbers: dict[str, float] = {"rows": total, "labelled_rows": labelled, **answers.numbers}
    checked: teacher_check.CheckedRows | None = None
    if config.check_teacher:
        checked = teacher_check.rows_to_check(
            config, task, splits, gold, names, answered={split: own.answered for split, own in labels.items()}
        )
    check: teacher_check.TeacherCheck | None = None
    if checked is not None:
        rows, own = splits[checked.split].select(checked.indices), labels[checked.split]
        predictions = _predictions(config, task, own.select(np.array(checked.indices)), names, rows)
        check = teacher_check.check_teacher(config, task, predictions, checked, names)
        numbers |= {"checked_rows": check.rows, **check.numbers}
        yield check.event()
    elif config.check_teacher:
        yield events.warning("no row has both an answer and a gold label: the answers were not checked")
    if output.dry_run:
        return

    columns = {split: _columns(config, task, labels[split], names, rows) for split, rows in splits.items()}
    types |= data.column_types([Rows({data.PREDICTION: own}, (("predictions", len(own)),)) for own in columns.values()])
    done = 0
    for name, (split, indices) in labelling.shards_of(splits).items():
        done += len(indices)
        if labelling.is_finished(output, name, split, None):
            continue
        rows, own = splits[split].select(indices), labels[split].select(np.asarray(indices))
        raw = labelling.as_stored(RawLogits(own.logits, own.layout, own.answered), rows, config.logits_dtype)
        written = {data.PREDICTION: columns[split][indices.start : indices.stop]}
        output.files.put(labelling.shard_writer(name, rows, raw, written, types, config.logits_dtype))
        yield {"event": "shard", "step": done, "max_steps": total, "shard": name, "rows": len(rows)}
    counts = {split: len(rows) for split, rows in splits.items()}
    output.files.put(labelling.card_writer(config, task, counts, check, output))
    output.finish(
        numbers, label_names=names, text_columns=config.data.text_columns, tuned_settings={},
        answers=[teacher.facts() for teacher in answers.teachers],
    )  # fmt: skip
    yield events.done(config.output_dir, numbers)


def _together(
    config: GenSoftLabels, task: tasks.PredictionTask, parts: Sequence[AnswerLabels], rows: Rows
) -> AnswerLabels:
    """The weighted mean of all files."""
    weights = answer_teachers.weights(config)
    if len(parts) == 1:
        return parts[0]
    if not task.labels_of_rows:
        return combined(task, parts, weights, parts[0].layout)
    parts = common_layout(parts)
    _, contexts = tasks.text_columns_of(rows, config.data)
    return decided_by_majority(combined(task, parts, weights, parts[0].layout), contexts)


def _predictions(
    config: GenSoftLabels, task: tasks.PredictionTask, own: AnswerLabels, names: Sequence[str], rows: Rows
) -> Predictions:
    return task.decide(own.logits, own.layout, names, rows, config.data, {})


def _columns(
    config: GenSoftLabels, task: tasks.PredictionTask, own: AnswerLabels, names: Sequence[str], rows: Rows
) -> list[Any]:
    """The prediction of each row, None without an answer."""
    values = _predictions(config, task, own, names, rows).values
    return [value if answered else None for value, answered in zip(values, own.answered, strict=True)]


def _statements(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    splits: Mapping[str, Rows],
    names: Sequence[str],
    teachers: Sequence[AnswerTeacher],
) -> list[str]:
    of_rows = [statement for rows in splits.values() for statement in task.label_statements(rows, config.data, names)]
    return [*dict.fromkeys(of_rows), *(statement for teacher in teachers for statement in teacher.statements())]
