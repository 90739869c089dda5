"""gen-soft-labels: run a model once over the data and store its predictions, so that it need not run again.

Teachers that are no models, files with answers, are read in `answer_teachers`; without any model, they label in
`answer_labelling`.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from tinybert_cli import artifacts, data, events, loops, models, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.inspection import vocabulary
from tinybert_cli.label_values import example_list
from tinybert_cli.predictor import Predictor, load_predictor
from tinybert_cli.stages import (
    answer_labelling,
    answer_teachers,
    augmentation,
    label_precision,
    label_shards,
    labelling,
    layer_states,
    teacher_check,
    translating,
)
from tinybert_cli.stages.label_progress import LabellingProgress, UnusualRows
from tinybert_cli.stages.label_shards import Shard
from tinybert_cli.stages.labelling import Labeller, RawLogits
from tinybert_cli.types import Encoded, Predictions, Rows

T = TypeVar("T")


def run(config: GenSoftLabels, *, force: bool = False, dry_run: bool = False) -> Iterator[Event]:
    """Writes a label dataset; yields events."""
    task = tasks.find_scored_task(config.task)
    files = label_shards.describe_data(config)
    sources = [models.locate(name) for name in config.model_names]  # may download them: data first
    described = [artifacts.describe_model(source.folder, source.name, models.commit(source)) for source in sources]
    inputs: dict[str, Any] = {"teacher": [*described, *answer_teachers.describe(config)]}
    for key, source in augmentation.sources(config.augment).items():
        inputs[f"augment.{key}"] = artifacts.describe_model(source.folder, source.name, models.commit(source))
    inputs |= files
    with artifacts.open_output("gen-soft-labels", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield output.up_to_date()
        elif isinstance(task, tasks.Translation):
            yield from output.record(translating.label(config, task, sources[0], output, force=force))
        elif not sources:
            assert isinstance(task, tasks.PredictionTask)  # see checks.py
            yield from output.record(answer_labelling.label(config, task, output))
        else:
            assert isinstance(task, tasks.PredictionTask)  # the only other kind
            yield from output.record(_label(config, task, sources, output, force=force))


def _label(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    sources: Sequence[models.Source],
    output: artifacts.Output,
    *,
    force: bool,
) -> Iterator[Event]:
    accelerator = Accelerator()  # sets the device of this process
    stream = label_shards.StreamedRows(config, output, force=force) if config.data.streaming else None
    splits: dict[str, Rows] = (  # of a stream its first rows
        {split: data.read(config.data, split) for split in config.splits} if stream is None else {**stream.splits}
    )
    types = yield from labelling.column_types(list(splits.values()))
    teachers = _load_teachers(config, sources, task, accelerator.device)
    precision = label_precision.label_precision(config, task, teachers, output)
    names, tokenizer = teachers[0].label_names, teachers[0].torch_tokenizer
    for source, teacher in zip(sources, teachers, strict=True):
        models.check_inputs(source, teacher.torch_tokenizer, config.data)
        yield from map(events.warning, teacher.inputs.check(config.data, source.name))
    spec = layer_states.layer_state_spec(config, [teacher.model for teacher in teachers])
    tuned = _tuned_settings(config, task, teachers)
    labels = labelling.gold_labels(config, task, splits, names)
    yield from map(events.warning, labelling.data_warnings(config, task, splits, labels, names))
    if config.check_teacher:
        teacher_check.check_gold_labels(config, splits, labels)
    statements = [task.label_statements(rows, config.data, names) for rows in splits.values()]
    answers = yield from answer_teachers.read(config, task, splits, names, labels)
    statements += [teacher.statements() for teacher in answers.teachers]
    labeller = Labeller(
        config, task, sources, teachers, spec, splits, answer_teachers.weights(config), answers.teachers
    )
    if config.augment is not None:
        augmented = yield from augmentation.augmented_rows(
            config, config.augment, splits["train"], teachers[0], output=output, accelerator=accelerator
        )
        if len(augmented):
            splits["augmented"], labels["augmented"] = augmented, None

    shards = label_shards.KnownRows(splits) if stream is None else stream
    finished = shards.find_finished(lambda name, split: labelling.is_finished(output, name, split, spec))
    planned: dict[str, Any] = {}
    needed = 0
    if spec is not None and isinstance(shards, label_shards.KnownRows):
        sizes = {
            shard.name: data.states_bytes(task.encode(shard.rows(), config.data, tokenizer), spec.shapes)
            for shard in shards.shards
            if shard.split in labelling.TRAINING_SPLITS
        }
        needed = sum(size for name, size in sizes.items() if name not in shards.done)
        planned = {"states_bytes": sum(sizes.values()), "states_of_layers": spec.for_manifest()["layers"]}
    yield events.plan(
        shards.total,
        **labelling.total_size([teacher.size for teacher in teachers]),
        teachers=len(config.teachers),
        label_names=names,
        **events.assumptions(
            [
                *itertools.chain.from_iterable(
                    tasks.unnamed_classes(task, source.name, names, named=_are_named(config, source))
                    for source in sources
                ),
                *dict.fromkeys(itertools.chain.from_iterable(statements)),
            ]
        ),
        **planned,
        device=str(accelerator.device),
        precision=precision.precision,
    )
    artifacts.check_free_space(output.folder, needed)
    if output.dry_run:
        return

    def predictions(raw: RawLogits, rows: Rows) -> Predictions:
        return task.decide(raw.logits, raw.layout, names, rows, config.data, tuned)

    numbers: dict[str, float] = {"rows": 0, **answers.numbers}
    split = next(iter(splits))
    drawn = label_precision.sampled_rows(range(min(len(splits[split]), labelling.ROWS_PER_SHARD)), config.seed)
    exact = _result_of(labeller.label(split, drawn)) if precision.is_reduced else None
    label_precision.reduce_precision(precision, teachers)
    if exact is not None:
        sample = splits[split].select(drawn)
        stored = labelling.as_stored(_result_of(labeller.label(split, drawn)), sample, config.logits_dtype)
        drift = label_precision.drift(
            task, stored.logits, exact.logits, predictions(stored, sample), predictions(exact, sample)
        )
        numbers |= {f"drift_{name}": value for name, value in drift.items()}
        yield {"event": "drift", "rows": len(sample), **precision.for_manifest(), **drift}
    checked: teacher_check.CheckedRows | None = None
    if config.check_teacher:
        checked = teacher_check.rows_to_check(config, task, splits, labels, names)
    check: teacher_check.TeacherCheck | None = None
    if checked is not None:
        rows = splits[checked.split].select(checked.indices)
        each = _result_of(labeller.label_each(checked.split, checked.indices))
        own = each[: len(sources)] if len(each) > 1 else []
        of_models = [predictions(RawLogits(one.logits, one.layout), rows) for one in own]
        check = teacher_check.check_teacher(
            config, task, predictions(labeller.together(each), rows), checked, names, of_models
        )
        numbers |= check.numbers
        yield check.event()
        for source, one in zip(sources, of_models, strict=False):
            yield from map(events.warning, teacher_check.weak_teacher(task, one, checked, source.name))

    if finished:
        yield events.resume(finished, shards.total)
    # the other processes, and a run that has warned before it was interrupted, encode only the shards to write
    for split, rows in splits.items() if output.main and not finished else ():
        yield from map(events.warning, _row_warnings(labeller, split, rows, complete=stream is None))
    unusual = UnusualRows(config.data)
    progress = LabellingProgress(finished, shards.total)

    def write(shard: Shard, folder: Path) -> Generator[Event, None, dict[str, Any]]:
        split, rows, writer, counts = shard.split, shard.rows(), None, {}
        own, indices = labeller, shard.indices
        if stream is not None:
            labelling.gold_labels(config, task, {split: rows}, names)  # raises
            own, indices = labeller.of_rows(split, rows), range(len(rows))
            counts = unusual.of(shard, own.encode(split))
        if spec is not None and split in labelling.TRAINING_SPLITS:
            writer = partial(_states_writer, folder, shard.name, spec.shapes)
        raw = yield from progress.events(own.label(split, indices, writer), len(group))
        columns = {data.PREDICTION: list(predictions(raw, rows).values)}
        stored = labelling.as_stored(raw, rows, config.logits_dtype)
        kinds = types if stream is None else data.widened_types(types, rows)
        labelling.shard_writer(shard.name, rows, stored, columns, kinds, config.logits_dtype)(folder)
        return counts

    for group in shards.groups():
        several = yield from labelling.write_group(output, group, write)
        for shard, counts in zip(group, several, strict=True):
            unusual.add(shard, counts)
            yield progress.shard_event(shard, rows=len(shard))
        loops.return_freed_memory()
    yield from unusual.warnings()
    if progress.labelled:
        numbers["rows_per_second"] = progress.rows_per_second()
    if stream is not None and (as_text := stream.finish([data.LOGITS, data.PREDICTION, data.TOKEN_SPANS])):
        yield labelling.stored_as_text(as_text)
    numbers["rows"] = sum(shards.row_counts().values())
    facts: dict[str, Any] = {} if spec is None else {"states": spec.for_manifest()}
    facts |= {"answers": [teacher.facts() for teacher in answers.teachers]} if answers.teachers else {}
    output.files.put(labelling.card_writer(config, task, shards.row_counts(), check, output))
    output.finish(
        numbers, label_names=names, text_columns=config.data.text_columns, tuned_settings=tuned,
        **facts, **shards.facts(), device=str(accelerator.device),
        precision=precision.precision, label_precision=precision.for_manifest(),
        **labelling.size_of([teacher.size for teacher in teachers]),
    )  # fmt: skip
    yield events.done(config.output_dir, numbers)


def _load_teachers(
    config: GenSoftLabels, sources: Sequence[models.Source], task: tasks.PredictionTask, device: torch.device
) -> list[Predictor]:
    """The teachers in float32, all with the classes of the first.

    Raises:
        InputError: a teacher cannot be loaded, or has other classes.
    """
    teachers: list[Predictor] = []
    for source in sources:
        names = teachers[0].label_names if teachers else config.data.class_names
        if teachers and config.data.class_names is None:
            _check_classes(source, sources[0], names or [])
        teachers.append(load_predictor(source, task=task, label_names=names, device=device))
    return teachers


def _check_classes(source: models.Source, first: models.Source, names: Sequence[str]) -> None:
    """InputError if a teacher has other classes than the first, or has them in another order."""
    own = models.read_label_names(source)
    if own is None or own == names:
        return
    hint = "the predictions of teachers with other classes have no mean: leave one of them out"
    if models.read_label_names(first) is None:
        hint = f"'{first.name}' does not name its classes; if they are the same, set {example_list(own)}"
    elif sorted(own) == sorted(names):
        hint = teacher_check.same_order(names)
    raise InputError(
        f"'{source.name}' has other labels than '{first.name}', or another order of them:\n"
        f"     {source.name}: {', '.join(own)}\n     {first.name}: {', '.join(names)}",
        hint=hint,
    )


def _row_warnings(labeller: Labeller, split: str, rows: Rows, *, complete: bool) -> Iterator[str]:
    """Warnings about the rows as the first teacher reads them, and as those with other tokenizers do.

    Args:
        complete: whether these are all rows of the split; those of a stream are counted while they are labelled.
    """
    settings, common, first = labeller.config.data, set[str](), labeller.teachers[0].torch_tokenizer
    for number, (source, teacher) in enumerate(zip(labeller.sources, labeller.teachers, strict=True)):
        tokenizer = teacher.torch_tokenizer
        if number and models.tokenizer_difference(first, tokenizer) is None:
            continue
        encoded = labeller.task.encode(rows, settings, tokenizer) if number else labeller.encode(split)
        for row in data.row_warnings(split, encoded, settings) if complete else ():
            if row["message"] not in common:
                yield f"{source.name}: {row['message']}" if number else row["message"]
            common.add(row["message"])
        yield from vocabulary.unknown_warnings(split, encoded, rows, settings, tokenizer, source.name)


def _tuned_settings(config: GenSoftLabels, task: tasks.PredictionTask, teachers: Sequence[Predictor]) -> dict[str, Any]:
    """The teacher's tuned thresholds, from its config.json; of several models their mean. Answers do not change it."""
    settings: list[dict[str, Any]] = [
        {name: teacher.config[name] for name in task.tuned_settings if teacher.config.get(name) is not None}
        for teacher in teachers
    ]
    if len(settings) == 1:
        return settings[0]
    weights = answer_teachers.weights(config)[: len(settings)]
    return task.mean_settings(settings, weights, teachers[0].label_names)


def _are_named(config: GenSoftLabels, source: models.Source) -> bool:
    return config.data.class_names is not None or models.read_label_names(source) is not None


def _result_of(steps: Generator[int, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


def _states_writer(
    folder: Path, shard: str, shapes: Mapping[str, tuple[int, ...]], encoded: Encoded
) -> data.StatesWriter:
    return data.StatesWriter(folder, shard, encoded, shapes)
