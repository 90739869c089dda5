"""gen-soft-labels in translation: a teacher translates the rows, and its distributions are stored if asked for.

Shapes: N rows, P target tokens, K stored tokens of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from tinybert_cli import artifacts, data, events, input_limits, loops, metrics, models, processes, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates
from tinybert_cli.inspection.vocabulary import unknown_warnings
from tinybert_cli.metrics.generation import KINDS, unusual_translations
from tinybert_cli.reports import label_dataset_card
from tinybert_cli.stages import label_precision, label_shards, labelling, stack_teacher, translation_engine
from tinybert_cli.stages.label_progress import LabellingProgress, UnusualRows
from tinybert_cli.stages.label_shards import Shard
from tinybert_cli.stages.translation_labeller import TranslationLabeller
from tinybert_cli.translation_predictor import TranslationPredictor, load_translation_predictor
from tinybert_cli.types import Array, Encoded, Hypothesis, Predictions, Rows
from tinybert_cli.wording import verb

CHECKED_ROWS = 200  # enough to see that a teacher copies its source
TOO_LONG = "too_long"  # key of the number of translations that are left out because the teacher has too few positions
_NAMES = {"bleu": "BLEU", "chrf": "chrF"}
MOST_CUT = 0.01  # share of the translations of a shard that may be cut at the limit


def label(
    config: GenSoftLabels, task: tasks.Translation, source: models.Source, output: artifacts.Output, *, force: bool
) -> Iterator[Event]:
    """Writes the shards; yields events."""
    accelerator = Accelerator()  # sets the device of this process
    stream = label_shards.StreamedRows(config, output, force=force) if config.data.streaming else None
    splits: dict[str, Rows] = (  # of a stream its first rows
        {split: data.read(config.data, split) for split in config.splits} if stream is None else {**stream.splits}
    )
    _check_references(config, splits)
    for split, rows in splits.items():
        data.check_translation_names(rows)
        yield from map(events.warning, task.pair_warnings(rows, config.data, complete=split != "unlabeled"))
    yield from map(events.warning, duplicates.leaks_between(splits, config.data, most=duplicates.SAMPLE))
    types = data.column_types(list(splits.values()))
    teacher = load_translation_predictor(source, data=config.data, device=accelerator.device)
    models.check_positions(source.name, teacher.config, teacher.tokenizer, config.data)
    yield from map(events.warning, teacher.check(config.data, source.name))
    if config.top_k and teacher.model is None:
        raise InputError(
            "an export has no distributions to store (`top_k`)", where=source.name, hint="name the model folder"
        )
    precision = _precision(config, teacher, output)
    spec = stack_teacher.state_spec(config, teacher.model)
    shards = label_shards.KnownRows(splits) if stream is None else stream
    finished = shards.find_finished(lambda name, split: _is_finished(config, output, name, split))
    yield events.plan(
        shards.total,
        **teacher.size,
        teachers=1,
        **({"top_k": config.top_k} if config.top_k else {}),
        device=str(accelerator.device),
        precision=precision,
    )
    if output.dry_run:
        return
    if precision == "bf16" and teacher.model is not None:
        teacher.model.to(torch.bfloat16)

    first = next(iter(splits.values()))
    sample = task.encode_sources(first.head(translation_engine.SAMPLED_ROWS), config.data, teacher.tokenizer)
    with ExitStack() as stack:
        engine = yield from translation_engine.choose(config, teacher, sample, stack.enter_context(output.scratch()))
        yield {"event": "engine", **engine.for_manifest()}
        if not processes.agree((engine.name, engine.version)):
            raise InputError(
                f"the processes of this run translate with different engines, this one with {engine.name}",
                hint="install the same packages on all machines, or set engine: transformers",
            )
        labeller = TranslationLabeller(config, task, teacher, engine.translator)
        numbers: dict[str, float] = {"rows": 0}
        if config.check_teacher:
            checked_rows, checked = _check_teacher(labeller, splits)
            numbers |= checked
            if checked:
                yield {"event": "teacher check", "checked_rows": checked_rows, **checked}
        if finished:
            yield events.resume(finished, shards.total)
        for split, rows in splits.items() if output.main else ():
            encoded = task.encode_sources(rows, config.data, teacher.tokenizer)
            if stream is None:
                yield from data.row_warnings(split, encoded, config.data)
            unknown = unknown_warnings(split, encoded, rows, config.data, teacher.tokenizer, source.name)
            yield from map(events.warning, unknown)
        counts: Counter[str] = Counter()
        for name in shards.finished_names():
            counts.update(data.read_counts(output.files.path(name)))
            _check_engine(data.read_engine(output.files.path(name)), engine.name, output)
        unusual = UnusualRows(config.data)
        progress = LabellingProgress(finished, shards.total)

        def write(shard: Shard, folder: Path) -> Generator[Event, None, tuple[Counter[str], dict[str, Any]]]:
            name, split, rows = shard.name, shard.split, shard.rows()
            of_rows: dict[str, Any] = {}
            if stream is not None:
                data.check_translation_names(rows)
                of_rows = unusual.of(shard, task.encode_sources(rows, config.data, teacher.tokenizer))
            hypotheses = yield from progress.events(labeller.translate(rows), len(group))
            labels = labeller.labels(rows, hypotheses)
            selected, kinds = _selected(labels, config, name)
            labels = labels.select(np.flatnonzero(selected).tolist())
            if split in labelling.TRAINING_SPLITS and (config.top_k or spec is not None):
                fitting = _fitting(labels, teacher)
                kinds[TOO_LONG] = len(labels) - len(fitting)
                labels = labels.select(fitting)
            kinds |= {"rows": len(labels)}
            columns = types if stream is None else data.widened_types(types, rows)
            data.write_translations(folder / name, labels, columns, kinds, engine=engine.name)
            if config.top_k and split in labelling.TRAINING_SPLITS:
                _top_k(labeller, labels).save(folder, name)
            if spec is not None and split in labelling.TRAINING_SPLITS:
                pairs = _forced(task, labels, config, teacher) if len(labels) else stack_teacher.NO_PAIRS
                spec.store(pairs, folder, name)
            return kinds, of_rows

        def check(several: Sequence[tuple[Counter[str], dict[str, Any]]]) -> None:
            if shards.is_last(group):
                _check_some(counts["rows"] + sum(kinds["rows"] for kinds, _ in several), shards.total, config)

        for group in shards.groups():
            several = yield from labelling.write_group(output, group, write, check)
            for shard, (kinds, of_rows) in zip(group, several, strict=True):
                counts.update(kinds)
                unusual.add(shard, of_rows)
                yield progress.shard_event(shard, **{kind: count for kind, count in kinds.items() if count})
    yield from unusual.warnings()
    if stream is not None:
        _check_some(counts["rows"], sum(stream.row_counts().values()), config)
        if as_text := stream.finish(data.TRANSLATION_COLUMNS):
            yield labelling.stored_as_text(as_text)
    total = sum(shards.row_counts().values())
    yield from _unusual_warning(counts, total, config)
    if counts[TOO_LONG]:
        yield events.warning(
            f"{counts[TOO_LONG]:,} of {total:,} translations {verb(counts[TOO_LONG], 'is', 'are')} left out: their "
            f"texts have more tokens than '{source.name}' has positions "
            f"({input_limits.max_positions(teacher.config)}), so that it has no outputs "
            "for them; a lower data.max_target_length leaves out fewer"
        )
    numbers["rows"] = total
    if progress.labelled:
        numbers["rows_per_second"] = progress.rows_per_second()
    numbers |= {"stored_rows": counts["rows"], **{f"share_{kind}": counts[kind] / total for kind in KINDS}}
    search = {**config.search.model_dump(), "max_target_length": config.data.max_target_length}
    facts = {} if spec is None else {"states": spec.for_manifest()}

    def write_card(folder: Path) -> None:
        rows: Counter[str] = Counter()
        for name, split in shards.names():
            rows[split] += data.read_counts(output.files.path(name)).get("rows", 0)
        card = label_dataset_card.as_markdown(config, task.pipeline, rows, output.inputs)
        (folder / "README.md").write_text(card, encoding="utf-8")

    output.files.put(write_card)
    output.finish(
        numbers, **facts, text_columns=config.data.text_columns, search=search, **engine.for_manifest(),
        drop=config.drop, top_k=config.top_k, vocabulary=teacher.tokenizer.size,
        device=str(accelerator.device), precision=precision, **labelling.size_of([teacher.size]), **shards.facts(),
    )  # fmt: skip
    yield events.done(config.output_dir, numbers)


def _check_references(config: GenSoftLabels, splits: Mapping[str, Rows]) -> None:
    """InputError if `search.select` compares with references, and labelled rows have no column of them."""
    by, column = config.search.select, config.data.label_column
    without = {split: rows for split, rows in splits.items() if column not in rows.columns}
    labelled = [split for split in without if split != "unlabeled"]
    if by != "score" and (labelled or without == splits):
        split = (labelled or list(without))[0]
        columns = ", ".join(without[split].columns)
        raise InputError(
            f"search.select is {by}, and the rows of {split} have no column '{column}' with references; their columns "
            f"are {columns}",
            where=without[split].location(0),
            hint="set data.label_column_name, or search.select: score",
        )


def _check_some(count: int, total: int | None, config: GenSoftLabels) -> None:
    """InputError if `drop` leaves none of the translations, or all of them are too long."""
    if not count and not config.drop:
        raise InputError(
            f"all {total:,} translations have more tokens than the teacher has positions",
            where=str(config.teacher),
            hint="lower data.max_target_length, or store no outputs of the teacher: top_k: 0, states: []",
        )
    if not count:
        raise InputError(
            f"all {total:,} translations are left out by `drop`",
            where=", ".join(config.drop),
            hint="drop fewer kinds, or train the teacher first",
        )


def _check_engine(earlier: str, engine: str, output: artifacts.Output) -> None:
    """InputError if an interrupted run used another engine: their translations may differ in near-ties."""
    if earlier and earlier != engine:
        raise InputError(
            f"the finished shards were translated by {earlier}, and this run would go on with {engine}",
            where=str(output.folder),
            hint=f"make {earlier} available again, or start anew with --force",
        )


def _precision(config: GenSoftLabels, teacher: TranslationPredictor, output: artifacts.Output) -> str:
    """What the teacher computes in. A small model on a CPU gains nothing from bf16, so `auto` is float32 there."""
    if teacher.model is None or (teacher.model.device.type == "cpu" and config.mixed_precision == "auto"):
        return "no"
    return label_precision.auto_precision(output) if config.mixed_precision == "auto" else config.mixed_precision


def _check_teacher(labeller: TranslationLabeller, splits: Mapping[str, Rows]) -> tuple[int, dict[str, float]]:
    """The number of rows of one split with references, and the BLEU of the teacher and of copying the source on them;
    chrF where all references are too short for BLEU.

    Unlabeled text alone is not checked: 0 rows, and no scores.

    Raises:
        InputError: the teacher is not better; or there are no references to check it with.
    """
    config, task = labeller.config, labeller.task
    for split, rows in splits.items():
        if split == "unlabeled" or config.data.label_column not in rows.columns:
            continue
        indices = np.random.default_rng(config.seed).permutation(len(rows))[:CHECKED_ROWS]
        drawn = rows.select(np.sort(indices).tolist())
        metric = task.generation_metric(drawn, config.data)
        assert metric is not None  # the column is there
        hypotheses = _result_of(labeller.translate(drawn))
        predictions = loops.best_texts(labeller.teacher.tokenizer, hypotheses)
        name = "chrf" if "bleu" in metric.undefined(predictions) else "bleu"
        copy = Predictions(task.sources(drawn, config.data))
        score, copied = (metrics.score(metric, one)[name] for one in (predictions, copy))
        if score > copied:
            return len(drawn), {f"teacher_{name}": score, f"copied_source_{name}": copied}
        scores = f"{_NAMES[name]} {score:.2f}, copied source {copied:.2f}"
        raise InputError(
            f"the teacher is not better than copying its source: {scores}",
            where=str(config.teacher),
            hint="check its languages, or train it first; or set check_teacher: false",
        )
    if all(split == "unlabeled" for split in splits):
        return 0, {}
    raise InputError(
        f"there are no references to check the teacher with: no column '{config.data.label_column}'",
        where=", ".join(splits),
        hint="set data.label_column_name; or, without references, set check_teacher: false",
    )


def _selected(labels: data.Translations, config: GenSoftLabels, shard: str) -> tuple[Array, Counter[str]]:
    """Which rows (N,) are stored, and how many translations are of each unusual kind.

    Raises:
        InputError: too many translations are cut, before anything is written.
    """
    sources = labels.rows.column(config.data.text_columns[0])
    unusual = unusual_translations(sources, labels.texts, labels.finished.tolist())
    counts = Counter({kind: int(rows.sum()) for kind, rows in unusual.items()})
    if counts["cut"] > MOST_CUT * len(labels) and counts["cut"] > 1 and "cut" not in config.drop:
        first = int(unusual["cut"].argmax())
        raise InputError(
            f"{counts['cut']:,} of {len(labels):,} translations of {shard} are cut at the limit of their length",
            where=labels.rows.location(first),
            hint="raise data.max_target_length or search.max_length_factor; a teacher that repeats itself needs more "
            "training; or leave these rows out: drop: [cut]",
        )
    left_out = [unusual[kind] for kind in config.drop]
    return ~np.any(left_out, axis=0) if left_out else np.ones(len(labels), dtype=bool), counts


def _fitting(labels: data.Translations, teacher: TranslationPredictor) -> list[int]:
    """The rows whose target texts the teacher has positions for.

    A text that is split into tokens again may have more of them than were generated, and gets its end and its language
    code even if it was cut.
    """
    most = input_limits.max_positions(teacher.config)
    if most is None:
        return list(range(len(labels)))
    return [row for row, ids in enumerate(teacher.tokenizer.target_ids(labels.texts)) if len(ids) <= most]


def _unusual_warning(counts: Mapping[str, int], total: int, config: GenSoftLabels) -> Iterator[Event]:
    unusual = {kind: counts[kind] for kind in KINDS if counts.get(kind)}
    if not unusual:
        return
    listed = ", ".join(
        f"{count:,} {kind}{' (left out)' if kind in config.drop else ''}" for kind, count in unusual.items()
    )
    hint = "" if unusual.keys() <= set(config.drop) else f"; drop: [{', '.join(unusual)}] leaves them out"
    yield events.warning(f"unusual translations of {total:,}: {listed}{hint}")


def _top_k(labeller: TranslationLabeller, labels: data.Translations) -> data.TopKWriter:
    """The teacher's distributions at each token of the stored translations, from one teacher-forced pass."""
    config, teacher, task = labeller.config, labeller.teacher, labeller.task
    assert teacher.model is not None  # checked before
    ids = teacher.tokenizer.target_ids(labels.texts)
    writer = data.TopKWriter(ids, config.top_k, int(teacher.model.config.vocab_size))
    if not len(labels):
        return writer
    encoded = _forced(task, labels, config, teacher)
    examples = data.Examples.of(encoded)
    batches = data.sorted_batches(examples.target_lengths, config.per_device_eval_batch_size)
    for rows, values in loops.top_k(teacher.model, examples, batches, config.top_k):
        writer.write(rows, values)
    return writer


def _forced(
    task: tasks.Translation, labels: data.Translations, config: GenSoftLabels, teacher: TranslationPredictor
) -> Encoded:
    """Sources with the stored translations as targets, none of them left out."""
    settings = config.data.model_copy(update={"max_target_length": 2**20})
    return task.encode_targets(labels.rows, settings, teacher.tokenizer, labels.texts)


def _is_finished(config: GenSoftLabels, output: artifacts.Output, shard: str, split: str) -> bool:
    files: list[str] = []
    if split in labelling.TRAINING_SPLITS:
        files += data.top_k_files(shard) if config.top_k else []
        files += data.stack_states_files(shard, stack_teacher.NAMES) if config.states else []
    return all(output.files.has(name) for name in (shard, *files))


def _result_of(steps: Generator[int, None, list[list[Hypothesis]]]) -> list[list[Hypothesis]]:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            hypotheses: list[list[Hypothesis]] = stop.value
            return hypotheses
