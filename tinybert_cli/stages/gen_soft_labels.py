"""gen-soft-labels: run a model once over the data and store its answers, so that nobody need ever run it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from tinybert_cli import artifacts, data, loops, models, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.predictor import Opened, opened
from tinybert_cli.stages import augmentation, layer_states
from tinybert_cli.types import Array, Encoded, Rows

ROWS_PER_SHARD = 16_384  # one file; a killed run loses at most this much work
TRAINING = ("train", "unlabeled", "augmented")  # splits that students learn from, and need states of
CHECKED_ROWS = 1_000  # enough to see that a teacher is no better than chance


def run(config: GenSoftLabels, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes a label dataset; yields what happens on the way."""
    names = [config.teacher] if isinstance(config.teacher, str) else config.teacher
    found = [models.locate(name) for name in names]
    inputs: dict[str, Any] = {
        "teacher": [artifacts.describe_model(source.folder, source.name, models.commit(source)) for source in found]
    }
    for key, source in augmentation.sources(config.augment).items():
        inputs[f"augment.{key}"] = artifacts.describe_model(source.folder, source.name, models.commit(source))
    inputs |= artifacts.describe_all(data.sources(config.data, config.splits))
    with artifacts.open_output("gen-soft-labels", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield output.up_to_date()
        else:
            yield from output.record(_label(config, found, output))


@dataclass(frozen=True)
class _Said:
    """The answers to N rows."""

    logits: Array  # (A, C)
    offsets: Array | None  # (N + 1,) where the answers of each row begin; None: one each


_Keep = Callable[[Encoded], data.StatesWriter | None]


def _label(
    config: GenSoftLabels, sources: Sequence[models.Source], output: artifacts.Output
) -> Iterator[artifacts.Row]:
    task = tasks.find_prediction_task(config.task)
    accelerator = Accelerator()
    teachers, precision = _load(config, sources, task)
    tokenizer = teachers[0].tokenizer
    names, weights = teachers[0].names, config.teacher_weights or [1.0] * len(teachers)
    kept = layer_states.layer_state_spec(config, [teacher.net if teacher.size else None for teacher in teachers])
    decision = _decision(task, sources)
    splits: dict[str, Rows] = {split: data.read(config.data, split) for split in config.splits}
    labels = {}
    for split, rows in splits.items():
        agreed = task.label_names(rows, config.data, model_names=names)
        labels[split] = None if split == "unlabeled" else task.labels(rows, config.data, agreed)

    if config.augment is not None:
        copies = yield from augmentation.copies(
            config, config.augment, splits["train"], teachers[0].net, tokenizer, output=output,
            accelerator=accelerator,
        )  # fmt: skip
        if len(copies):
            splits["augmented"], labels["augmented"] = copies, None

    def said_of(rows: Rows, keep: _Keep | None = None) -> Iterator[tuple[int, _Said | None]]:
        """Rows done so far and None, again and again; at last all rows and what is said of them."""
        parts = []
        offsets = None
        for number, teacher in enumerate(teachers):
            encoded = task.encode(rows, config.data, teacher.tokenizer)
            examples, offsets = data.Examples.of(encoded), encoded.row_offsets
            models.check_length(sources[number], int(examples.lengths.max()))
            net, wanted, states = teacher.net, ["logits"], None
            if kept is not None and keep is not None:
                net, wanted, states = kept.net, ["logits", *kept.shapes], keep(encoded)
            order = data.sorted_batches(examples.lengths, config.per_device_eval_batch_size)
            answers = len(rows) if offsets is None else int(offsets[-1])
            logits = np.zeros((answers, len(names)), dtype=np.float32)
            done = 0
            for indices, said in loops.predict_outputs(net, examples, order, wanted, accelerator=accelerator):
                logits[examples.prediction_indices(indices)] = said["logits"]
                if states is not None:
                    states.write(indices, said)
                done += len(indices)
                yield len(rows) * (number * len(examples) + done) // (len(teachers) * len(examples)), None
            parts.append(logits)
        yield len(rows), _Said(task.ensemble(parts, weights), offsets)

    total = sum(map(len, splits.values()))
    shards = _shards(splits)
    missing = [name for name in shards if not _is_there(output.folder, name, shards[name][0], kept)]
    planned: dict[str, Any] = {}
    needed = 0
    if kept is not None:
        sizes = {
            name: data.states_bytes(task.encode(splits[split].select(places), config.data, tokenizer), kept.shapes)
            for name, (split, places) in shards.items()
            if split in TRAINING
        }
        needed = sum(sizes[name] for name in missing if name in sizes)
        planned = {"states_bytes": sum(sizes.values()), "states_of_layers": kept.described()["layers"]}
    yield {"event": "plan", "rows": total, **teachers[0].size, "teachers": len(teachers), "label_names": names,
           **planned, "device": str(accelerator.device), "precision": precision}  # fmt: skip
    artifacts.check_free_space(output.folder, needed)
    if output.dry_run:
        return

    metrics: dict[str, float] = {"rows": total}
    checked = _rows_to_check(config, task, splits, labels, names)
    if checked is not None:
        rows, gold = checked
        answered = next(said for _, said in said_of(rows) if said is not None)
        metrics |= _check(config, task, task.settled(answered.logits, answered.offsets, decision), gold, names)
        yield {"event": "teacher check", "checked_rows": len(rows), **metrics}

    seen = total - sum(len(shards[name][1]) for name in missing)
    if seen:
        yield {"event": "resume", "step": seen, "max_steps": total}
    for split, rows in splits.items():
        yield from data.row_warnings(split, task.encode(rows, config.data, tokenizer), config.data)
    begin, labelled = time.perf_counter(), 0
    for name in missing:
        split, places = shards[name]
        part = splits[split].select(places)
        said: _Said | None = None
        with ExitStack() as stack:
            keep: _Keep | None = None
            folder = None
            if kept is not None and split in TRAINING:
                folder = stack.enter_context(output.scratch()) if output.main else None
                keep = partial(_states_writer, folder, name, kept.shapes)
            for done, last in said_of(part, keep):
                said = last
                yield {"event": "progress", "step": seen + labelled + done, "max_steps": total,
                       "rows": labelled + done, "seconds": time.perf_counter() - begin}  # fmt: skip
            assert said is not None
            columns = {
                "teacher_prediction": task.answers(
                    task.settled(said.logits, said.offsets, decision), said.offsets, names, part, config.data
                )["prediction"]
            }
            output.put(_writer(name, part, said, columns, config.logits_dtype, folder))
        labelled += len(part)
        yield {"event": "shard", "step": seen + labelled, "max_steps": total, "shard": name, "rows": len(part)}
    spent = time.perf_counter() - begin
    if labelled:
        metrics["rows_per_second"] = labelled / spent
    facts = {} if kept is None else {"states": kept.described()}
    output.finish(
        metrics, label_names=names, decision=decision, **facts, device=str(accelerator.device), precision=precision
    )
    yield {"event": "done", "output_dir": config.output_dir, **metrics}


def _shards(splits: Mapping[str, Rows]) -> dict[str, tuple[str, range]]:
    """The files of the label dataset, and which rows of which split each holds."""
    return {
        f"{split}-{number:05d}-of-{-(-len(rows) // ROWS_PER_SHARD):05d}.parquet": (
            split,
            range(number * ROWS_PER_SHARD, min((number + 1) * ROWS_PER_SHARD, len(rows))),
        )
        for split, rows in splits.items()
        for number in range(-(-len(rows) // ROWS_PER_SHARD))
    }


def _is_there(folder: Path, shard: str, split: str, kept: layer_states.LayerStateSpec | None) -> bool:
    """Whether an earlier run wrote the shard, with all that belongs to it."""
    states = [] if kept is None or split not in TRAINING else data.states_files(shard, kept.shapes)
    return all((folder / name).exists() for name in (shard, *states))


def _load(
    config: GenSoftLabels, sources: Sequence[models.Source], task: tasks.PredictionTask
) -> tuple[list[Opened], str]:
    """The teachers, all of which have the classes of the first, and the precision of the last."""
    teachers: list[Opened] = []
    precision = "no"
    for source in sources:
        teachers.append(opened(source, task, teachers[0].names if teachers else config.data.class_names))
        exported = not teachers[-1].size
        precision = "as exported" if exported else loops.to_bf16_if_faster(teachers[-1].net, config.mixed_precision)
    return teachers, precision


def _decision(task: tasks.PredictionTask, sources: Sequence[models.Source]) -> dict[str, Any]:
    """How the teacher's logits are read, by its config.json; the mean of several is read as it stands."""
    if len(sources) > 1:
        return {}
    said = models.read_config(sources[0])
    return {name: said[name] for name in task.decides if said.get(name) is not None}


def _rows_to_check(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    splits: dict[str, Rows],
    labels: dict[str, Array | None],
    names: Sequence[str],
) -> tuple[Rows, tasks.Exam] | None:
    """Up to CHECKED_ROWS rows with gold labels, drawn from the first split that has any."""
    if not config.check_teacher:
        return None
    for split, rows in splits.items():
        gold = labels[split]
        if gold is not None and not tasks.missing(gold).any():
            drawn = np.sort(np.random.default_rng(config.seed).permutation(len(rows))[:CHECKED_ROWS])
            chosen = rows.select(drawn.tolist())
            exam = task.exam(chosen, config.data, names)
            return None if exam is None else (chosen, exam)
    return None


def _check(
    config: GenSoftLabels, task: tasks.PredictionTask, logits: Array, gold: tasks.Exam, names: Sequence[str]
) -> dict[str, float]:
    """The teacher against always giving the same answer.

    Raises:
        InputError: it is no better; says so if the same answers under other names would be right.
    """
    metric = task.main_metric
    score, majority = gold.score(logits)[metric], gold.trivial()
    if score > majority:
        return {f"teacher_{metric}": score, f"majority_{metric}": majority}
    hint = "fine-tune the teacher on this data first, or set check_teacher: false"
    order, permuted = gold.best_order(logits) or ([], 0.0)
    if permuted > max(majority, score) + 0.1:
        right = ", ".join(names[index] for index in order)
        hint = f"its classes seem to mean {right}, in this order ({metric} {permuted:.3f}): name the labels in the data"
    raise InputError(
        f"the teacher is no better than always giving the most frequent answer: {metric} {score:.3f}, "
        f"majority {majority:.3f}",
        where=config.teacher if isinstance(config.teacher, str) else ", ".join(config.teacher),
        hint=hint,
    )


def _states_writer(
    folder: Path | None, shard: str, shapes: Mapping[str, tuple[int, ...]], encoded: Encoded
) -> data.StatesWriter | None:
    """For one process: the others know what is said, and write nothing."""
    return None if folder is None else data.StatesWriter(folder, shard, encoded, shapes)


def _writer(
    name: str, rows: Rows, said: _Said, columns: dict[str, list[Any]], dtype: str, states: Path | None
) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        data.write_soft_labels(folder / name, rows, said.logits, said.offsets, columns=columns, dtype=dtype)
        for file in states.iterdir() if states else ():
            file.replace(folder / file.name)

    return write
