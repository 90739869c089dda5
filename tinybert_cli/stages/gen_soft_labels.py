"""gen-soft-labels: run a model once over the data and store its predictions, so that it need not run again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from tinybert_cli import artifacts, data, events, metrics, models, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates, vocabulary
from tinybert_cli.metrics.comparison import best_class_order
from tinybert_cli.predictor import Predictor, load_predictor
from tinybert_cli.reports import label_dataset_card
from tinybert_cli.stages import augmentation, label_precision, labelling, layer_states, translating
from tinybert_cli.stages.labelling import Labeller, RawLogits
from tinybert_cli.types import Array, Encoded, Predictions, Rows

MOST_REORDERED = 1_000  # classes; the best order of more takes too long
CHECKED_ROWS = 1_000  # enough to see that a teacher does not beat the majority-class baseline


def run(config: GenSoftLabels, *, force: bool = False, dry_run: bool = False) -> Iterator[Event]:
    """Writes a label dataset; yields events."""
    names = [config.teacher] if isinstance(config.teacher, str) else config.teacher
    task = tasks.find_scored_task(config.task)
    sources = [models.locate(name) for name in names]
    inputs: dict[str, Any] = {
        "teacher": [artifacts.describe_model(source.folder, source.name, models.commit(source)) for source in sources]
    }
    for key, source in augmentation.sources(config.augment).items():
        inputs[f"augment.{key}"] = artifacts.describe_model(source.folder, source.name, models.commit(source))
    inputs |= artifacts.describe_all(data.sources(config.data, config.splits))
    with artifacts.open_output("gen-soft-labels", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield output.up_to_date()
        elif isinstance(task, tasks.Translation):
            yield from output.record(translating.label(config, task, sources[0], output))
        else:
            assert isinstance(task, tasks.PredictionTask)  # the only other kind
            yield from output.record(_label(config, task, sources, output))


def _label(
    config: GenSoftLabels, task: tasks.PredictionTask, sources: Sequence[models.Source], output: artifacts.Output
) -> Iterator[Event]:
    accelerator = Accelerator()  # sets the device of this process
    splits: dict[str, Rows] = {split: data.read(config.data, split) for split in config.splits}
    types = yield from _column_types(list(splits.values()))
    teachers = _load_teachers(config, sources, task, accelerator.device)
    precision = label_precision.label_precision(config, task, teachers)
    names, tokenizer = teachers[0].label_names, teachers[0].torch_tokenizer
    for source, teacher in zip(sources, teachers, strict=True):
        models.check_inputs(source, teacher.torch_tokenizer, config.data)
        yield from map(events.warning, teacher.inputs.check(config.data, source.name))
    spec = layer_states.layer_state_spec(config, [teacher.model for teacher in teachers])
    labeller = Labeller(config, task, sources, teachers, spec, accelerator)
    tuned = _tuned_settings(task, teachers)
    labels: dict[str, Array | None] = {}
    for split, rows in splits.items():
        split_names = task.label_names(rows, config.data, model_names=names)
        labels[split] = None if split == "unlabeled" else task.labels(rows, config.data, split_names)
    yield from map(events.warning, _data_warnings(config, task, splits, labels, names))
    if config.check_teacher:
        _check_gold_labels(config, splits, labels)
    statements = [task.label_statements(rows, config.data, names) for rows in splits.values()]
    if config.augment is not None:
        augmented = yield from augmentation.augmented_rows(
            config, config.augment, splits["train"], teachers[0], output=output, accelerator=accelerator
        )
        if len(augmented):
            splits["augmented"], labels["augmented"] = augmented, None

    total = sum(map(len, splits.values()))
    shards = labelling.shards_of(splits)
    missing = [name for name, (split, _) in shards.items() if not labelling.is_finished(output, name, split, spec)]
    planned: dict[str, Any] = {}
    needed = 0
    if spec is not None:
        sizes = {
            name: data.states_bytes(task.encode(splits[split].select(rows), config.data, tokenizer), spec.shapes)
            for name, (split, rows) in shards.items()
            if split in labelling.TRAINING_SPLITS
        }
        needed = sum(sizes[name] for name in missing if name in sizes)
        planned = {"states_bytes": sum(sizes.values()), "states_of_layers": spec.for_manifest()["layers"]}
    yield events.plan(
        total,
        **teachers[0].size,
        teachers=len(teachers),
        label_names=names,
        **events.assumptions(
            [
                *tasks.unnamed_classes(task, sources[0].name, names, named=_are_named(config, sources[0])),
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

    numbers: dict[str, float] = {"rows": total}
    split, shard_rows = next(iter(shards.values()))
    sample = splits[split].select(label_precision.sampled_rows(shard_rows, config.seed))
    exact = _result_of(labeller.label(sample)) if precision.is_reduced else None
    label_precision.reduce_precision(precision, teachers)
    if exact is not None:
        stored = labelling.as_stored(_result_of(labeller.label(sample)), sample, config.logits_dtype)
        drift = label_precision.drift(
            task, stored.logits, exact.logits, predictions(stored, sample), predictions(exact, sample)
        )
        numbers |= {f"drift_{name}": value for name, value in drift.items()}
        yield {"event": "drift", "rows": len(sample), **precision.for_manifest(), **drift}
    checked = _rows_to_check(config, task, splits, labels, names)
    if checked is not None:
        rows, metric = checked
        raw = _result_of(labeller.label(rows))
        numbers |= _check_teacher(config, task, predictions(raw, rows), metric, names)
        yield {"event": "teacher check", "checked_rows": len(rows), **numbers}

    finished = total - sum(len(shards[name][1]) for name in missing)
    if finished:
        yield events.resume(finished, total)
    for split, rows in splits.items():
        encoded = task.encode(rows, config.data, tokenizer)
        yield from data.row_warnings(split, encoded, config.data)
        unknown = vocabulary.unknown_warnings(split, encoded, rows, config.data, tokenizer, sources[0].name)
        yield from map(events.warning, unknown)
    begin, labelled = time.perf_counter(), 0
    for name in missing:
        split, indices = shards[name]
        rows = splits[split].select(indices)
        with ExitStack() as stack:
            writer, folder = None, None
            if spec is not None and split in labelling.TRAINING_SPLITS:
                folder = stack.enter_context(output.scratch()) if output.main else None
                writer = partial(_states_writer, folder, name, spec.shapes)
            raw = yield from _with_progress(labeller.label(rows, writer), finished, labelled, total, begin)
            columns = {data.PREDICTION: list(predictions(raw, rows).values)}
            stored = labelling.as_stored(raw, rows, config.logits_dtype)
            output.put(labelling.shard_writer(name, rows, stored, columns, types, config.logits_dtype, folder))
        labelled += len(rows)
        yield {"event": "shard", "step": finished + labelled, "max_steps": total, "shard": name, "rows": len(rows)}
    if labelled:
        numbers["rows_per_second"] = labelled / (time.perf_counter() - begin)
    facts = {} if spec is None else {"states": spec.for_manifest()}

    def write_card(folder: Path) -> None:
        rows = {split: len(rows) for split, rows in splits.items()}
        card = label_dataset_card.as_markdown(config, task.pipeline, rows, output.inputs)
        (folder / "README.md").write_text(card, encoding="utf-8")

    output.put(write_card)
    output.finish(
        numbers, label_names=names, text_columns=config.data.text_columns, tuned_settings=tuned, **facts,
        device=str(accelerator.device),
        precision=precision.precision, label_precision=precision.for_manifest(),
        **labelling.size_of([teacher.size for teacher in teachers]),
    )  # fmt: skip
    yield events.done(config.output_dir, numbers)


def _column_types(splits: Sequence[Rows]) -> Generator[Event, None, Mapping[str, Any]]:
    """The types of the columns in the label dataset; a warning names those that are stored as text.

    Raises:
        InputError: a column has a name that the label dataset needs.
    """
    for rows in splits:
        data.check_names(rows)
    types = data.column_types(splits)
    if converted := data.converted_columns(splits, types):
        what = "values of several types, mappings with different keys, or integers of more than 64 bits"
        yield events.warning(f"columns stored as text, because they have {what}: {', '.join(converted)}")
    return types


def _load_teachers(
    config: GenSoftLabels, sources: Sequence[models.Source], task: tasks.PredictionTask, device: torch.device
) -> list[Predictor]:
    """The teachers in float32, all with the classes of the first."""
    teachers: list[Predictor] = []
    for source in sources:
        names = teachers[0].label_names if teachers else config.data.class_names
        teachers.append(load_predictor(source, task=task, label_names=names, device=device))
    return teachers


def _tuned_settings(task: tasks.PredictionTask, teachers: Sequence[Predictor]) -> dict[str, Any]:
    """The teacher's tuned thresholds, from its config.json; the mean of several teachers has none."""
    if len(teachers) > 1:
        return {}
    settings = teachers[0].config
    return {name: settings[name] for name in task.tuned_settings if settings.get(name) is not None}


def _are_named(config: GenSoftLabels, source: models.Source) -> bool:
    return config.data.class_names is not None or models.read_label_names(source) is not None


def _data_warnings(
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


def _check_gold_labels(config: GenSoftLabels, splits: Mapping[str, Rows], labels: Mapping[str, Array | None]) -> None:
    """InputError if the teacher is to be checked, and splits that have gold labels in other projects have none here."""
    expected = [split for split in splits if split != "unlabeled"]
    if not expected or any(labels[split] is not None for split in expected):
        return
    error = tasks.no_labels_error(splits[expected[0]], config.data)
    raise InputError(
        f"there are no gold labels to check the teacher with: {error.what}",
        where=error.where,
        hint=f"{error.hint}; or, without labels, set check_teacher: false",
    )


def _rows_to_check(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    splits: Mapping[str, Rows],
    labels: Mapping[str, Array | None],
    names: Sequence[str],
) -> tuple[Rows, metrics.Metric] | None:
    """Up to CHECKED_ROWS rows with gold labels, drawn from the first split that has any."""
    if not config.check_teacher:
        return None
    for split, rows in splits.items():
        gold = labels[split]
        if gold is None:
            continue
        complete = ~tasks.missing(gold).reshape(len(gold), -1).any(-1)
        indices = np.flatnonzero(complete) if len(gold) == len(rows) else np.arange(len(rows) * bool(complete.all()))
        if len(indices):
            drawn = indices[np.sort(np.random.default_rng(config.seed).permutation(len(indices))[:CHECKED_ROWS])]
            selected = rows.select(drawn.tolist())
            metric = task.metric(selected, config.data, names)
            return None if metric is None else (selected, metric)
    return None


def _check_teacher(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    predictions: Predictions,
    metric: metrics.Metric,
    names: Sequence[str],
) -> dict[str, float]:
    """The teacher's score, and that of the majority-class baseline.

    Raises:
        InputError: the teacher does not beat the baseline; says so if its classes seem to be in another order.
    """
    main = task.main_metric
    score, majority = metrics.score(metric, predictions)[main], metric.majority_baseline()
    if score > majority:
        return {f"teacher_{main}": score, f"majority_{main}": majority}
    hint = "fine-tune the teacher on this data first, or set check_teacher: false"
    decisions = metric.class_logits(predictions)
    if decisions is not None and len(names) <= MOST_REORDERED:
        logits, gold = decisions
        order = best_class_order(logits, gold)
        permuted = metrics.score(metric, Predictions(predictions.values, None, logits[:, order], predictions.layout))[
            main
        ]
        if permuted > max(majority, score) + 0.1:
            right = ", ".join(names[index] for index in order)
            hint = f"its classes seem to be {right}, in this order ({main} {permuted:.3f}): name the labels in the data"
    raise InputError(
        f"the teacher does not beat the majority-class baseline: {main} {score:.3f}, majority {majority:.3f}",
        where=config.teacher if isinstance(config.teacher, str) else ", ".join(config.teacher),
        hint=hint,
    )


def _with_progress(
    steps: Generator[int, None, RawLogits], finished: int, labelled: int, total: int, begin: float
) -> Generator[Event, None, RawLogits]:
    """Progress events while the rows of one shard are labelled."""
    while True:
        try:
            done = labelled + next(steps)
        except StopIteration as stop:
            raw: RawLogits = stop.value
            return raw
        yield events.progress(finished + done, total, rows=done, seconds=time.perf_counter() - begin)


def _result_of(steps: Generator[int, None, RawLogits]) -> RawLogits:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            raw: RawLogits = stop.value
            return raw


def _states_writer(
    folder: Path | None, shard: str, shapes: Mapping[str, tuple[int, ...]], encoded: Encoded
) -> data.StatesWriter | None:
    """Only the main process writes; it receives the outputs of the others."""
    return None if folder is None else data.StatesWriter(folder, shard, encoded, shapes)
