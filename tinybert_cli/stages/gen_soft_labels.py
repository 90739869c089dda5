"""gen-soft-labels: run a model once over the data and store its answers, so that nobody need ever run it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from tinybert_cli import artifacts, data, loops, models, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.stages import augmenting

CHECKS: dict[str, Callable[[Any], object]] = {"task": tasks.find_answering}

ROWS_PER_SHARD = 16_384  # one file; a killed run loses at most this much work
CHECKED_ROWS = 1_000  # enough to see that a teacher is no better than chance


def run(config: GenSoftLabels, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes a label dataset; yields what happens on the way."""
    names = [config.teacher] if isinstance(config.teacher, str) else config.teacher
    if config.teacher_weights is not None and len(config.teacher_weights) != len(names):
        raise ConfigError(
            f"{len(config.teacher_weights)} weights for {len(names)} teachers", key=("teacher_weights",),
            hint="one weight per teacher",
        )  # fmt: skip
    if config.augment is not None and "train" not in config.splits:
        raise ConfigError("there is nothing to augment without train", key=("splits",), hint="splits: [train]")
    found = [models.locate(name) for name in names]
    inputs: dict[str, Any] = {
        "teacher": [artifacts.describe_model(source.folder, source.name, source.revision) for source in found]
    }
    for key, source in augmenting.sources(config.augment).items():
        inputs[f"augment.{key}"] = artifacts.describe_model(source.folder, source.name, source.revision)
    inputs |= artifacts.describe_all(data.sources(config.data, config.splits))
    with artifacts.open_output("gen-soft-labels", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield output.up_to_date()
        else:
            yield from output.record(_label(config, found, output))


@dataclass(frozen=True)
class _Teacher:
    model: Any
    tokenizer: Any
    weight: float


def _label(
    config: GenSoftLabels, sources: Sequence[models.Source], output: artifacts.Output
) -> Iterator[artifacts.Row]:
    task = tasks.find_answering(config.task)
    accelerator = Accelerator()
    teachers, names, precision = _load(config, sources, task, accelerator.device)
    splits: dict[str, data.Rows] = {split: data.read(config.data, split) for split in config.splits}
    labels = {}
    for split, rows in splits.items():
        agreed = task.label_names(rows, config.data, model_names=names)
        labels[split] = None if split == "unlabeled" else task.labels(rows, config.data, agreed)

    if config.augment is not None:
        copies = yield from augmenting.copies(
            config, config.augment, splits["train"], teachers[0].model, teachers[0].tokenizer, output=output,
            accelerator=accelerator,
        )  # fmt: skip
        if len(copies):
            splits["augmented"], labels["augmented"] = copies, None

    def logits_of(rows: data.Rows) -> Iterator[tuple[int, data.Array | None]]:
        """Rows done so far and None, again and again; at last all rows and their logits (N, C)."""
        parts = []
        for number, teacher in enumerate(teachers):
            encoded = task.encode(rows, config.data, teacher.tokenizer)
            examples = data.Examples.of(encoded)
            order = data.sorted_batches(examples.lengths, config.per_device_eval_batch_size)
            logits = np.zeros((len(rows), len(names)), dtype=np.float32)
            done = 0
            for indices, values in loops.predict(teacher.model, examples, order, accelerator=accelerator):
                logits[indices] = values
                done += len(indices)
                yield (number * len(rows) + done) // len(teachers), None
            parts.append(logits)
        yield len(rows), task.ensemble(parts, [teacher.weight for teacher in teachers])

    size = models.size(teachers[0].model)
    total = sum(map(len, splits.values()))
    yield {"event": "plan", "rows": total, **size, "teachers": len(teachers), "label_names": names,
           "device": str(accelerator.device), "precision": precision}  # fmt: skip
    if output.dry_run:
        return

    metrics: dict[str, float] = {"rows": total}
    checked = _rows_to_check(config, splits, labels)
    if checked is not None:
        rows, gold = checked
        answered = next(values for _, values in logits_of(rows) if values is not None)
        metrics |= _check(config, task, answered, gold, names)
        yield {"event": "teacher check", "checked_rows": len(rows), **metrics}

    shards = {
        f"{split}-{number:05d}-of-{-(-len(rows) // ROWS_PER_SHARD):05d}.parquet": (
            split,
            range(number * ROWS_PER_SHARD, min((number + 1) * ROWS_PER_SHARD, len(rows))),
        )
        for split, rows in splits.items()
        for number in range(-(-len(rows) // ROWS_PER_SHARD))
    }
    missing = [name for name in shards if not (output.folder / name).exists()]
    seen = total - sum(len(shards[name][1]) for name in missing)
    if seen:
        yield {"event": "resume", "step": seen, "max_steps": total}
    for split, rows in splits.items():
        yield from data.remarks(split, task.encode(rows, config.data, teachers[0].tokenizer), config.data)
    begin, labelled = time.perf_counter(), 0
    for name in missing:
        split, places = shards[name]
        part = splits[split].select(places)
        logits: data.Array | None = None
        for done, values in logits_of(part):
            logits = values
            yield {"event": "progress", "step": seen + labelled + done, "max_steps": total,
                   "rows": labelled + done, "seconds": time.perf_counter() - begin}  # fmt: skip
        assert logits is not None
        columns = {"teacher_prediction": task.answers(logits, names)["prediction"]}
        output.put(_writer(name, part, logits, columns, config.logits_dtype))
        labelled += len(part)
        yield {"event": "shard", "step": seen + labelled, "max_steps": total, "shard": name, "rows": len(part)}
    spent = time.perf_counter() - begin
    if labelled:
        metrics["rows_per_second"] = labelled / spent
    output.finish(metrics, label_names=names, device=str(accelerator.device), precision=precision)
    yield {"event": "done", "output_dir": config.output_dir, **metrics}


def _load(
    config: GenSoftLabels, sources: Sequence[models.Source], task: tasks.Answering, device: torch.device
) -> tuple[list[_Teacher], list[str], str]:
    teachers: list[_Teacher] = []
    names: list[str] | None = config.data.label_names
    precision = "no"
    for source, weight in zip(sources, config.teacher_weights or [1.0] * len(sources), strict=True):
        model = models.load(source, task.head, label_names=names)
        names = names or models.label_names(model) or [str(index) for index in range(model.config.num_labels)]
        tokenizer = models.load_tokenizer(source)
        models.check_vocabulary(model, tokenizer, source)
        precision = loops.to_bf16_if_faster(model.to(device), config.mixed_precision)
        teachers.append(_Teacher(model, tokenizer, weight))
    assert names is not None
    return teachers, names, precision


def _rows_to_check(
    config: GenSoftLabels, splits: dict[str, data.Rows], labels: dict[str, Any]
) -> tuple[data.Rows, Any] | None:
    """Up to CHECKED_ROWS rows with gold labels, drawn from the first split that has any."""
    if not config.check_teacher:
        return None
    for split, rows in splits.items():
        gold = labels[split]
        if gold is not None and (gold >= 0).all():
            drawn = np.sort(np.random.default_rng(config.seed).permutation(len(rows))[:CHECKED_ROWS])
            return rows.select(drawn.tolist()), gold[drawn]
    return None


def _check(
    config: GenSoftLabels, task: tasks.Answering, logits: Any, gold: Any, names: Sequence[str]
) -> dict[str, float]:
    """The teacher against always saying the most frequent class.

    Raises:
        InputError: it is no better; says so if the same answers under other names would be right.
    """
    metric = task.main_metric
    score, majority = task.score(logits, gold)[metric], task.majority(gold)
    if score > majority:
        return {f"teacher_{metric}": score, f"majority_{metric}": majority}
    order, permuted = task.best_order(logits, gold)
    hint = "fine-tune the teacher on this data first, or set check_teacher: false"
    if permuted > max(majority, score) + 0.1:
        right = ", ".join(names[index] for index in order)
        hint = f"its classes seem to mean {right}, in this order ({metric} {permuted:.3f}): name the labels in the data"
    raise InputError(
        f"the teacher is no better than always saying the most frequent class: {metric} {score:.3f}, "
        f"majority {majority:.3f}",
        where=config.teacher if isinstance(config.teacher, str) else ", ".join(config.teacher),
        hint=hint,
    )


def _writer(
    name: str, rows: data.Rows, logits: Any, columns: dict[str, list[Any]], dtype: str
) -> Callable[[Path], None]:
    return lambda folder: data.write_labels(folder / name, rows, logits, columns=columns, dtype=dtype)
