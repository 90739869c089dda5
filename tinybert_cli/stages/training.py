"""What finetune and distill stand on: from rows, what to learn of them and a loss to a finished model folder.

No stage of its own, and it knows neither of them.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tinybert_cli import artifacts, data, loops, models, tasks
from tinybert_cli.config import Distill, Finetune, Model
from tinybert_cli.errors import ConfigError
from tinybert_cli.reports import model_card
from tinybert_cli.types import Array, Rows

RESAMPLES = 1000  # for the 95 % intervals, as many as `eval` draws unless it is told otherwise


@dataclass(frozen=True)
class Teaching:
    """What is trained around a model, the loss of that, and what the plan and the manifest say of it."""

    model: torch.nn.Module
    loss: loops.StepLoss
    facts: Mapping[str, Any] = field(default_factory=dict)


Teach = Callable[[Any], Teaching]


@dataclass(frozen=True)
class Lesson:
    """What a model is to learn, and from which model it starts."""

    rows: Rows
    targets: dict[str, Array]  # name → (A, ...) one of each answer to them, what the loss finds in a batch
    names: list[str] | None  # the classes in their order; None = the task has no answers
    teach: Teach
    model: Model
    source: models.Source  # where `model.from` is
    dropout: float | None = None
    states: data.LayerStates | None = None  # what a teacher's layers said of the rows
    originals: Rows | None = None  # those whose pieces a trimmed vocabulary keeps; None = all
    origin: Mapping[str, Any] = field(default_factory=dict)  # of a label dataset what its manifest names as inputs
    card: Mapping[str, object] = field(default_factory=dict)  # what the model card says of it


class _Exam(ABC):
    """How well a model does on the validation rows."""

    @abstractmethod
    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        """Of what is trained, as it stands; the task's metrics are among them."""

    @abstractmethod
    def result(
        self, kept: Path, trained: torch.nn.Module, best: float | None
    ) -> tuple[model_card.Result, dict[str, Any]]:
        """The metrics of the folder `kept`: the last of `trained`, or the one that was the best, if it was sought.

        And what its config.json is to say of how it is read, tuned on the same rows.
        """


@dataclass(frozen=True)
class _Answers(_Exam):
    """By the model's answers to the validation rows."""

    task: tasks.PredictionTask
    gold: tasks.Exam
    examples: data.Examples
    rows: Array | None  # (N + 1,) where the answers of each row begin; None: one each
    batches: list[list[int]]
    accelerator: Any
    seed: int  # of the resampling

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        settled, _ = self._settled(model)
        return self.gold.score(settled)

    def result(
        self, kept: Path, trained: torch.nn.Module, best: float | None
    ) -> tuple[model_card.Result, dict[str, Any]]:
        """Of the weights that are kept, in float32, as `eval` will find them, with 95 % intervals."""
        model = models.load(models.locate(str(kept)), self.task.head, cls_only=True).to(self.accelerator.device)
        settled, decision = self._settled(model)
        intervals = self.gold.intervals(settled, self.task.metrics, resamples=RESAMPLES, seed=self.seed)
        return model_card.Result("validation", len(self.gold.words), self.gold.score(settled), intervals), decision

    def _settled(self, model: torch.nn.Module) -> tuple[Array, dict[str, Any]]:
        """The logits as they are read best, and what config.json says then."""
        logits = self._logits(model)
        decision = self.gold.tuned(logits)
        return self.task.settled(logits, self.rows, decision), decision

    def _logits(self, model: torch.nn.Module) -> Array:
        return loops.predict_all(model, self.examples, self.batches, accelerator=self.accelerator)


@dataclass(frozen=True)
class _Nearness(_Exam):
    """By the loss: of a model that has no answers yet, only a teacher to be near to."""

    loss: loops.StepLoss
    examples: data.Examples
    batches: list[list[int]]
    accelerator: Any

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        return loops.mean_loss(model, self.loss, self.examples, self.batches, accelerator=self.accelerator)

    def result(
        self, kept: Path, trained: torch.nn.Module, best: float | None
    ) -> tuple[model_card.Result, dict[str, Any]]:
        """The folder alone does not say: the projections to the teacher's width are not in it."""
        loss = self.scores(trained)["loss"] if best is None else best
        return model_card.Result("validation", len(self.examples), {"loss": loss}, {}), {}


def fit(config: Finetune | Distill, lesson: Lesson, output: artifacts.Output) -> Iterator[artifacts.Row]:
    """Trains to the end, from the last checkpoint if any, and finishes the folder; a dry run stops at the plan."""
    task, training = tasks.find(config.task), config.training
    metric, better = task.objective(training.metric_for_best_model)
    tokenizer = models.load_tokenizer(lesson.source)
    encoded = task.encode(lesson.rows, config.data, tokenizer)
    yield from data.row_warnings("train", encoded, config.data)
    torch.manual_seed(config.seed)
    model, copied = _student(config, lesson, tokenizer)
    vocabulary: dict[str, int] = {}
    if lesson.model.trim_vocabulary:
        needed = encoded if lesson.originals is None else task.encode(lesson.originals, config.data, tokenizer)
        tokenizer, vocabulary = models.trim_vocabulary(model, tokenizer, set(needed.tokens["input_ids"][0].tolist()))
        encoded = task.encode(lesson.rows, config.data, tokenizer)
    if lesson.states is not None:
        lesson.states.check(encoded)
    examples = data.Examples.of(encoded, lesson.states, **lesson.targets)
    models.check_length(lesson.source, int(examples.lengths.max()))
    validation = yield from _validation(config, lesson, tokenizer)

    size = models.size(model)
    batches = data.BucketBatches(
        examples.lengths, training.per_device_train_batch_size,
        seed=config.seed, group_by_length=training.group_by_length,
    )  # fmt: skip
    teaching = lesson.teach(model)
    loss = teaching.loss
    trainer = loops.Trainer(
        teaching.model,
        examples,
        batches,
        training,
        accelerator=loops.make_accelerator(training, output.trackers),
        seed=config.seed,
    )
    exam = None if validation is None else _exam(config, validation, loss, trainer)
    evaluated = exam is not None and training.eval_strategy != "no"
    labels = {} if lesson.names is None else {"label_names": lesson.names}
    yield {"event": "plan", "rows": len(examples), "steps": trainer.max_steps, **size, **vocabulary,
           "layers_copied_from": copied, **teaching.facts, **labels, "evaluated": evaluated, "device": trainer.device,
           "precision": trainer.precision}  # fmt: skip
    if output.dry_run:
        return

    def evaluate() -> dict[str, float]:
        assert exam is not None
        found = exam.scores(trainer.plain_model)
        return {**found, "objective": found[metric]}

    def save_model(folder: Path) -> None:
        if trainer.accelerator.is_main_process:
            models.save(model, tokenizer, folder)

    state = output.latest_state()
    if state is not None:
        trainer.load(state)
        yield {"event": "resume", "step": trainer.progress.step, "max_steps": trainer.max_steps}
    keep_best = training.keep == "best" and evaluated
    yield from output.save_checkpoints(
        trainer.train(loss, evaluate if evaluated else None, better=better, stop=output.signals.pending),
        save_state=trainer.save,
        save_model=save_model if keep_best else None,
    )

    trainer.accelerator.wait_for_everyone()  # the others must not look for what the first has not written yet
    final = (output.best_model() if keep_best else None) or output.seal("final", save_model)
    trainer.accelerator.wait_for_everyone()
    metrics = trainer.summary()
    result: model_card.Result | None = None
    decision: dict[str, Any] = {}
    if exam is not None:
        result, decision = exam.result(final, trainer.plain_model, trainer.progress.best if keep_best else None)
        for name, value in result.scores.items():
            metrics[f"eval_{name}"] = value
            if name in result.intervals:
                metrics[f"eval_{name}_low"], metrics[f"eval_{name}_high"] = result.intervals[name]

    def write(folder: Path) -> None:
        shutil.copytree(final, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("seal.json"))
        models.rewrite_config(folder, dict.fromkeys(task.decides) | decision)  # those of `from` are not its own
        facts = {**size, **vocabulary, **metrics, "bytes": models.weights_bytes(folder)}
        ran = {"device": trainer.device, "precision": trainer.precision, "layers": model.config.num_hidden_layers}
        card = _card(config, lesson, output, result, copied, {**facts, **ran}, chosen=keep_best)
        (folder / "README.md").write_text(model_card.as_markdown(card), encoding="utf-8")

    output.put(write)
    output.finish(
        metrics, **labels, layer_mapping=copied, **teaching.facts, device=trainer.device, precision=trainer.precision,
        **size, **vocabulary,
    )  # fmt: skip
    yield {"event": "done", "output_dir": config.output_dir, **metrics}


def _card(
    config: Finetune | Distill, lesson: Lesson, output: artifacts.Output, result: model_card.Result | None,
    copied: Sequence[int], facts: Mapping[str, Any], *, chosen: bool,
) -> model_card.Card:  # fmt: skip
    """What the model card says; `chosen`: the weights were chosen on the rows of the exam."""
    task, training, folder = tasks.find(config.task), config.training, str(output.folder)
    pair = len(data.text_columns(config.data)) == 2
    usage = {"transformers": f"```python\n{task.usage(folder, pair=pair)}\n```"}
    if isinstance(task, tasks.PredictionTask):
        usage |= {
            "ONNX Runtime": "`tinybert export` writes it as ONNX, float32 or int8, and verifies that on real rows.",
            "tinybert": f"```sh\ntinybert predict {folder} {task.example(pair=pair)}\n```",
        }
    inputs = {**model_card.data_inputs(lesson.origin), **output.inputs}
    teacher = model_card.model_names(lesson.origin["teacher"]) if "teacher" in lesson.origin else None
    precision = "float32" if facts["precision"] == "no" else facts["precision"]
    limits = [f"Longer input than {config.data.max_seq_length} tokens was cut in training."]
    if isinstance(task, tasks.PredictionTask):
        limits.append(task.limit(lesson.names or []))
    if result is not None and chosen:
        limits.append(
            f"Its checkpoint was chosen on the same {result.rows:,} rows that the numbers are of: "
            "on new text expect a little less."
        )
    if teacher:
        limits.append(f"It learned the mistakes of {teacher} along with the answers.")
    if "pieces_kept" in facts:
        limits.append(
            f"Of {facts['pieces']:,} pieces of the vocabulary {facts['pieces_kept']:,} are left, those that its "
            "training text needs: it spells other words out in smaller pieces, or does not know them."
        )
    return model_card.Card(
        name=output.folder.name,
        task=config.task,
        pipeline=task.pipeline,
        summary=f"A model for {config.task} with {facts['layers']} layers and {facts['parameters'] / 1e6:.1f} M "
        f"parameters{f', which learned the answers of {teacher}' if teacher else ''}.",
        inputs=inputs,
        made={
            "command": f"`tinybert {output.command}`",
            **lesson.card,
            "teacher": teacher,
            "layers copied": ", ".join(map(str, copied)),
            "data": model_card.data_names(inputs),
            "labels": None if lesson.names is None else model_card.listed(lesson.names),
            "training rows": f"{len(lesson.rows):,}",
            "steps": f"{facts['steps']:,} of {training.per_device_train_batch_size} rows on each device",
            "learning rate": f"{training.learning_rate:g}, {training.lr_scheduler_type}",
            "seed": config.seed,
            "machine": f"{artifacts.machine()}; {precision} on {facts['device']}",
            "time": f"{facts['train_runtime'] / 60:,.1f} minutes",
        },
        result=result,
        costs={
            "parameters": f"{facts['parameters']:,}, of which embeddings {facts['embedding_parameters']:,}",
            "weights": f"{facts['bytes'] / 1e6:.1f} MB",
            "latency": "not measured in training; `tinybert eval` measures it",
        },
        usage=usage,
        limits=[*limits, *model_card.UNTESTED],
        library="transformers",
    )


_Validation = tuple[data.Examples, Array | None, tasks.Exam | None]  # the second: see _Answers.rows


def _validation(
    config: Finetune | Distill, lesson: Lesson, tokenizer: Any
) -> Generator[artifacts.Row, None, _Validation | None]:
    """The validation rows with their gold answers, if the config names any that say something; what is odd about them.

    Without answers in the task there is no gold either, but the rows will do.
    """
    if not data.has(config.data, "validation"):
        return None
    rows = data.read(config.data, "validation")
    gold = None
    if lesson.names is not None:
        task = tasks.find_prediction_task(config.task)
        gold = task.exam(rows, config.data, task.label_names(rows, config.data, model_names=lesson.names))
    encoded = tasks.find(config.task).encode(rows, config.data, tokenizer)
    models.check_length(lesson.source, int(data.Examples.of(encoded).lengths.max()))
    yield from data.row_warnings("validation", encoded, config.data)
    yield from data.overlap(lesson.rows, rows, config.data)
    if gold is None and lesson.names is not None:
        yield {"event": "warning", "message": "the validation rows have no labels: no checkpoint is scored, and the "
               "last one is kept"}  # fmt: skip
        return None
    targets = {} if gold is None else {"labels": gold.labels}
    return data.Examples.of(encoded, **targets), encoded.row_offsets, gold


def _exam(config: Finetune | Distill, validation: _Validation, loss: loops.StepLoss, trainer: loops.Trainer) -> _Exam:
    examples, rows, gold = validation
    batches = data.sorted_batches(examples.lengths, config.training.per_device_eval_batch_size)
    if gold is None:
        return _Nearness(loss, examples, batches, trainer.accelerator)
    task = tasks.find_prediction_task(config.task)
    return _Answers(task, gold, examples, rows, batches, trainer.accelerator, config.seed)


def _student(config: Finetune | Distill, lesson: Lesson, tokenizer: Any) -> tuple[Any, list[int]]:
    """The model in its new shape, and the layers of `from` (counted from 1) that its layers were copied from."""
    task, section = tasks.find(config.task), "model" if isinstance(config, Finetune) else "student"
    attention = loops.fastest_attention(str(loops.device()), config.data.max_seq_length)
    base = models.load(
        lesson.source, task.head,
        label_names=lesson.names, problem=task.problem, new_head=True, dropout=lesson.dropout, attention=attention,
    )  # fmt: skip
    models.check_vocabulary(base, tokenizer, lesson.source)
    try:
        mapping = models.copied_layers(lesson.model, config.layer_mapping, base.config)
        student = models.build_student(lesson.model, base, mapping, seed=config.seed, cls_only=True)
        return student, [layer + 1 for layer in mapping]
    except ConfigError as error:
        key = error.key if error.key[:1] == ("layer_mapping",) else (section, *error.key)
        raise ConfigError(error.what, key=key, hint=error.hint) from error
