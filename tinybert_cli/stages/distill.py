"""distill: train a student to match a teacher's outputs, from a label dataset, and, optionally, its layers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinybert_cli import artifacts, data, events, loops, losses, models, tasks
from tinybert_cli.config import Distill, encoder_rule
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.events import Event
from tinybert_cli.stages import (
    label_dataset,
    layer_states,
    preparation,
    stack_teacher,
    stored_examples,
    streamed_blocks,
    training,
    translation_training,
)
from tinybert_cli.stages.checks import no_teacher
from tinybert_cli.stages.preparation import NewModel, StoredExamples, TrainingData, TrainingRows, TrainingRun
from tinybert_cli.stages.streamed_blocks import StreamedBlocks
from tinybert_cli.stages.translation_training import TranslationEvaluation
from tinybert_cli.tasks.gold_answers import IMPOSSIBLE
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Batch


def run(config: Distill, *, force: bool = False, dry_run: bool = False) -> Iterator[Event]:
    """Writes a model folder; yields events."""
    task = tasks.find(config.task)
    objective = task.objective(config.training.metric_for_best_model)
    output_type = task.output_type if isinstance(task, tasks.PredictionTask | tasks.GenerationTask) else "class"
    loss = losses.combine(config.losses, output_type)
    source = models.locate(config.student.source)
    inputs: dict[str, Any] = {"student": artifacts.describe_model(source.folder, source.name, models.commit(source))}
    splits: list[data.Split] = ["train", "validation"]
    if config.label_dataset is not None:
        inputs["label_dataset"] = artifacts.describe(data.existing_folder(config.label_dataset, "label_dataset"))
        splits = ["validation"]
    teacher = None if config.teacher is None else models.locate(config.teacher)
    if teacher is not None:
        inputs["teacher"] = artifacts.describe_model(teacher.folder, teacher.name, models.commit(teacher))
    inputs |= _describe_data(config, splits)
    with artifacts.open_output("distill", config, inputs, force=force, dry_run=dry_run, same_processes=True) as output:
        if output.finished:
            yield output.up_to_date()
        elif isinstance(task, tasks.Translation):
            if config.targets in ("teacher", "n_best"):
                objective = task.objective_of_labels(config.training.metric_for_best_model)
            yield from output.record(_distill_translator(config, task, objective, loss, source, teacher, output))
        else:
            yield from output.record(_distill(config, task, objective, loss, source, teacher, output))


def _distill(
    config: Distill,
    task: tasks.Task,
    objective: tuple[str, float],
    loss: losses.WeightedLoss,
    source: models.Source,
    teacher: models.Source | None,
    output: artifacts.Output,
) -> Iterator[Event]:
    family = models.float32_family(source)
    # before anything is moved to a device
    accelerator = loops.make_accelerator(config.training, output.trackers, float32_family=family)
    run = TrainingRun(config, task, objective, output, accelerator)
    if teacher is not None:
        yield from _tokenizer_warnings(teacher, source, loss)
    stored: models.StoredTeacher | None = None
    stream: data.Stream | None = None
    rows: TrainingRows | StoredExamples | None = stored_examples.read(output)
    if rows is None and config.data.streaming:
        stream, rows = _open_stream(config, output)
    elif rows is None:
        rows, stored = yield from _training_rows(run, loss, source, teacher)
    new, training_data = yield from preparation.prepare(run, config.student, source, rows, section="student")
    if stream is not None:
        step = config.training.gradient_accumulation_steps * accelerator.num_processes
        blocks = StreamedBlocks(
            stream, config.data, new.tokenizer, batch_size=config.training.per_device_train_batch_size,
            seed=config.seed, total=config.training.max_steps * step, step=step,
        )  # fmt: skip
        training_data = replace(training_data, stream=blocks)
    module: torch.nn.Module = new.model
    live: models.Teacher | models.StoredTeacher | None = stored
    facts: dict[str, Any] = {}
    if loss.layer_outputs:
        if live is None:
            assert teacher is not None  # checked above
            live = _load_teacher(config, task, teacher, new, loss, accelerator.device)
        module = models.Student(new.model, live, shared=config.projections == "shared")
        facts = {"layers_compared_with": [layer + 1 for layer in live.layers],
                 "teacher_states": "running beside it" if stored is None else "stored"}  # fmt: skip
    made = {
        "starts from": config.student.source,
        "trained on": config.label_dataset,
        "losses": "; ".join(_loss_in_words(name, setting) for name, setting in config.losses.items()),
    }
    yield from training.train(
        run, new, training_data, module, _step_loss(loss, live), made=made, facts=facts,
        scores_matter=config.label_dataset is None or loss.trains_head,
    )  # fmt: skip


def _training_rows(
    run: TrainingRun, loss: losses.WeightedLoss, source: models.Source, teacher: models.Source | None
) -> Generator[Event, None, tuple[TrainingRows, models.StoredTeacher | None]]:
    """Plain text, or the rows of a label dataset; and the teacher if the label dataset has its layer states."""
    config = run.config
    assert isinstance(config, Distill)
    if config.label_dataset is None:
        return TrainingRows(data.read(config.data, "train"), {}, None), None
    if config.training.keep == "best" and not loss.trains_head:
        yield events.warning(
            "these losses leave the classifier untrained, so its scores mean nothing: set `keep: last` under training"
        )
    folder = Path(config.label_dataset)
    manifest = artifacts.read_manifest(folder)  # `run` has verified its files
    if loss.layer_outputs and teacher is None and "states" not in manifest:
        raise no_teacher([name for name in loss.parts if name in losses.LAYER_OUTPUTS])
    rows = yield from _labelled_rows(config, run.task, loss, folder, manifest, run.output)
    if not loss.layer_outputs or "states" not in manifest:
        return rows, None
    layers = _compared_layers(config, source, manifest["states"]["teacher_layers"])
    gap = layer_states.missing_states(manifest["states"], loss, layers)
    if gap is None:
        states = layer_states.read(folder, manifest, loss.layer_outputs, layers)
        states = states if rows.stored_rows is None else states.select(rows.stored_rows)
        stored = models.StoredTeacher(loss.layer_outputs, manifest["states"]["width"], layers)
        return replace(rows, states=states), stored
    if teacher is None:
        raise InputError(
            f"there is no teacher to run beside the student, and '{folder}' {gap}",
            hint="run gen-soft-labels again with the `states` and layers that are compared, or set teacher",
        )
    yield events.warning(f"the teacher has to run beside the student: '{folder}' {gap}")
    return rows, None


def _describe_data(config: Distill, splits: Sequence[data.Split]) -> dict[str, Any]:
    """The data for the manifest. A stream is read first and hashed later, unless there is a run to compare it with."""
    described = artifacts.describe_all(data.sources(config.data, [split for split in splits if split != "train"]))
    if "train" not in splits:
        return described
    train = data.sources(config.data, ["train"])
    read_first = config.data.streaming and not artifacts.has_finished(Path(config.output_dir))
    return described | (artifacts.name_all(train) if read_first else artifacts.describe_all(train))


def _open_stream(config: Distill, output: artifacts.Output) -> tuple[data.Stream, TrainingRows]:
    """The training rows as a stream, from the commit that an earlier run has begun with, and its first rows."""
    stream = data.open_stream(config.data, "train", revision=output.notes.get("streams", {}).get("revision"))
    most = data.most_rows(config.data, "train")
    first = next(data.stream_shards(stream, config.data, streamed_blocks.PART, most=most), None)
    if first is None:
        raise data.no_rows([stream.origin])
    output.note("streams", dict(stream.facts))
    return stream, TrainingRows(first, {}, None)


def _distill_translator(
    config: Distill,
    task: tasks.Translation,
    objective: tuple[str, float],
    loss: losses.WeightedLoss,
    source: models.Source,
    teacher: models.Source | None,
    output: artifacts.Output,
) -> Iterator[Event]:
    accelerator = loops.make_accelerator(config.training, output.trackers)
    run = TrainingRun(config, task, objective, output, accelerator)
    assert config.label_dataset is not None  # see checks.py
    rows = yield from translation_training.translated_rows(
        config, task, Path(config.label_dataset), config.targets, with_top_k="soft_labels" in loss.parts
    )
    if teacher is not None:
        folder = Path(config.label_dataset)
        artifacts.check_origin(folder, artifacts.read_manifest(folder), {"teacher": [output.inputs["teacher"]]})
    states = stack_teacher.read_stored(config, loss.layer_outputs)
    if loss.layer_outputs and teacher is None and states is None:
        raise no_teacher(["hidden_states"])
    if states is not None and rows.stored_rows is not None:
        states = states.select(rows.stored_rows)
    rows = replace(rows, states=states)
    new, training_data = yield from translation_training.prepare(run, config.student, source, rows, section="student")
    made = {
        "starts from": config.student.source,
        "trained on": f"{config.label_dataset}, targets {config.targets}",
        "losses": "; ".join(_loss_in_words(name, setting) for name, setting in config.losses.items()),
    }
    validation = training_data.validation
    evaluation = None if validation is None else TranslationEvaluation(run, validation, new.tokenizer)
    module: torch.nn.Module = new.model
    live: models.StackTeacher | None = None
    facts: dict[str, Any] = {}
    if loss.layer_outputs:
        live, training_data = yield from _stack_teacher(config, teacher, new, training_data, loss, accelerator.device)
        module = models.StackStudent(new.model, live, shared=config.projections == "shared")
        facts = stack_teacher.facts(live)
    yield from training.train(
        run, new, training_data, module, _step_loss(loss, live), made=made, facts=facts, evaluation=evaluation,
        scores_matter=loss.trains_head,
    )  # fmt: skip


def _stack_teacher(
    config: Distill,
    teacher: models.Source | None,
    new: NewModel,
    training_data: TrainingData,
    loss: losses.WeightedLoss,
    device: torch.device,
) -> Generator[Event, None, tuple[models.StackTeacher, TrainingData]]:
    """The stored states of a label dataset if it has all of them, else the teacher beside the student."""
    examples = training_data.examples
    if isinstance(examples.states, data.StackStates):
        stored = stack_teacher.stored_teacher(config, examples.states, new.model)
        if not isinstance(stored, str):
            return stored[0], replace(training_data, examples=replace(examples, states=stored[1]))
        if teacher is None:
            raise InputError(
                f"there is no teacher to run beside the student, and '{config.label_dataset}' {stored}",
                hint="run gen-soft-labels again with the layers that are compared, or set teacher",
            )
        yield events.warning(f"the teacher has to run beside the student: '{config.label_dataset}' {stored}")
    assert teacher is not None and isinstance(new.tokenizer, TranslationTokenizer)  # checked before
    languages = tasks.language_warnings(models.read_config(teacher), config.data, teacher.name)
    yield from map(events.warning, languages)
    live = stack_teacher.load(config, teacher, new.model, new.tokenizer, loss.layer_outputs, device)
    return live, replace(training_data, examples=replace(examples, states=None))


def _labelled_rows(
    config: Distill,
    task: tasks.Task,
    loss: losses.WeightedLoss,
    folder: Path,
    manifest: Mapping[str, Any],
    output: artifacts.Output,
) -> Generator[Event, None, TrainingRows]:
    """The rows of the label dataset, with the teacher's logits and the gold labels."""
    assert isinstance(task, tasks.PredictionTask)  # see checks.py
    expected = artifacts.describe_all(data.sources(config.data, ["train", "unlabeled"]))
    if config.teacher is not None:
        expected["teacher"] = [output.inputs["teacher"]]
    artifacts.check_origin(folder, manifest, expected)
    yield from label_dataset.check(folder, manifest, config, task)
    dataset = data.read_soft_labels(folder, [entry["path"] for entry in manifest["outputs"]])
    dataset = dataset.with_gold_of_train([*config.data.label_columns, IMPOSSIBLE])
    stored_rows = dataset.first_rows(config.data.max_train_samples)
    dataset = dataset if stored_rows is None else dataset.select(stored_rows)
    if dataset.unlabelled:
        count = len(dataset.rows)
        yield {
            "event": "labels", "rows": count, "selected": count, "min_confidence": 0.0, "unlabelled": dataset.unlabelled
        }  # fmt: skip
    names: list[str] = manifest["label_names"]
    targets = {"teacher_logits": dataset.logits}
    labels = task.labels(dataset.rows, config.data, names)
    if "hard_labels" in loss.parts and labels is not None and tasks.missing(labels).all():
        raise InputError(
            f"no row of '{folder}' has a gold label, which hard_labels learns",
            hint="set losses.hard_labels to 0; or, in gen-soft-labels, name a split with gold labels: splits: [train]",
        )
    if labels is not None:
        targets["labels"] = labels
        balanced = losses.LOSS_SETS[task.output_type].balanced
        if balanced is not None:
            targets["label_weights"] = balanced(labels)
    elif "hard_labels" in loss.parts:
        raise tasks.no_labels_error(dataset.rows, config.data)
    return TrainingRows(
        dataset.rows, targets, names, dataset.layout, originals=dataset.originals, origin=manifest["inputs"],
        stored_rows=stored_rows, teacher_parameters=manifest.get("teacher_parameters"),
    )  # fmt: skip


def _load_teacher(
    config: Distill,
    task: tasks.Task,
    source: models.Source,
    new: NewModel,
    loss: losses.WeightedLoss,
    device: torch.device,
) -> models.Teacher:
    """The teacher that runs beside the student, on the device of this process."""
    models.check_length(source, config.data.max_seq_length)
    if isinstance(task, tasks.PredictionTask) and len(config.data.text_columns) == 2:
        models.check_token_types(source, new.tokenizer)
    model = models.load(source, task.head).to(device)
    family = models.float32_family_of(model)
    if loops.precision(config.training.mixed_precision, float32_family=family) == "bf16":
        models.to_bf16(model)
    layers = models.layer_map(
        encoder_rule(config.layer_mapping), new.model.config.num_hidden_layers, model.config.num_hidden_layers
    )
    return models.Teacher(model, layers, loss.layer_outputs)


def _step_loss(
    loss: losses.WeightedLoss, teacher: models.Teacher | models.StoredTeacher | models.StackTeacher | None
) -> loops.StepLoss:
    """The loss of a batch; the teacher's logits and stored states come with the batch."""

    def means(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        teacher_outputs = {"logits": batch["teacher_logits"]} if "teacher_logits" in batch else {}
        if teacher is not None:
            teacher_outputs |= teacher(batch, loops.MODEL_INPUTS)
        return loss(loops.forward(model, batch), teacher_outputs, batch)

    return loops.StepLoss(means, loss.denominators, loss.weights)


def _loss_in_words(name: str, setting: float | Mapping[str, Any]) -> str:
    """One loss with its weight and its options."""
    options = {"weight": setting} if isinstance(setting, int | float) else setting
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def _compared_layers(config: Distill, source: models.Source, teacher_layers: int) -> list[int]:
    """For each layer of the student the teacher layer, counted from 0, that it is compared with."""
    try:
        count = models.number_of_layers(config.student, source)
    except ConfigError as error:
        raise ConfigError(error.what, key=("student", *error.key), hint=error.hint) from error
    return models.layer_map(encoder_rule(config.layer_mapping), count, teacher_layers)


def _tokenizer_warnings(teacher: models.Source, student: models.Source, loss: losses.WeightedLoss) -> Iterator[Event]:
    """A warning if the tokenizers differ; an error if token-level outputs are compared."""
    difference = models.tokenizer_difference(models.load_tokenizer(teacher), models.load_tokenizer(student))
    if difference is None:
        return
    if loss.layer_outputs:
        raise InputError(
            f"teacher and student split text differently, so their layers cannot be compared: {difference}",
            where=student.name,
            hint="take a student with the teacher's tokenizer, or only the losses soft_labels and hard_labels",
        )
    yield events.warning(f"teacher and student split text differently: {difference}")
