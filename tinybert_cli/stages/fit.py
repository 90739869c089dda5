"""What finetune and distill stand on: from rows, labels to learn and a loss to a finished model folder.

No stage of its own, and it knows neither of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tinybert_cli import artifacts, data, loops, models, tasks
from tinybert_cli.config import Distill, Finetune, Model
from tinybert_cli.errors import ConfigError

Teach = Callable[[Any], tuple[torch.nn.Module, loops.StepLoss]]


@dataclass(frozen=True)
class Lesson:
    """What a model is to learn, and from which model it starts. N rows, C classes."""

    rows: data.Rows
    targets: dict[str, data.Array]  # name → (N, ...), what the loss finds in a batch
    names: list[str]  # the classes in their order
    teach: Teach  # of the model: what is trained around it, and the loss of that
    model: Model
    source: models.Source  # where `model.from` is
    dropout: float | None = None
    card: dict[str, Any] = field(default_factory=dict)  # what the model card says of it


@dataclass(frozen=True)
class _Exam:
    """The validation rows, N of them, and how well a model does on them."""

    task: tasks.Task
    examples: data.Examples
    gold: data.Array  # (N,)
    batch_size: int

    def scores(self, model: torch.nn.Module, learner: loops.Learner) -> dict[str, float]:
        order = data.sorted_batches(self.examples.lengths, self.batch_size)
        return self.task.score(
            loops.predict_all(model, self.examples, order, accelerator=learner.accelerator), self.gold
        )


def fit(config: Finetune | Distill, lesson: Lesson, output: artifacts.Output) -> Iterator[artifacts.Row]:
    """Trains to the end, from the last checkpoint if any, and finishes the folder; a dry run stops at the plan."""
    task, training = tasks.find(config.task), config.training
    metric, better = task.objective(training.metric_for_best_model)
    tokenizer = models.load_tokenizer(lesson.source)
    encoded = task.encode(lesson.rows, config.data, tokenizer)
    yield from data.remarks("train", encoded, config.data)
    torch.manual_seed(config.seed)
    model, copied = _student(config, lesson, tokenizer)
    vocabulary: dict[str, int] = {}
    if lesson.model.trim_vocabulary:
        tokenizer, vocabulary = models.trim_vocabulary(model, tokenizer, set(encoded.tokens["input_ids"][0].tolist()))
        encoded = task.encode(lesson.rows, config.data, tokenizer)
    examples = data.Examples.of(encoded, **lesson.targets)
    exam = yield from _exam(config, lesson, tokenizer)

    size = models.size(model)
    batches = data.BucketBatches(
        examples.lengths, training.per_device_train_batch_size,
        seed=config.seed, group_by_length=training.group_by_length,
    )  # fmt: skip
    trained, loss = lesson.teach(model)
    learner = loops.Learner(trained, examples, batches, training, seed=config.seed, logs=output.folder)
    evaluated = exam is not None and training.eval_strategy != "no"
    yield {"event": "plan", "rows": len(examples), "steps": learner.max_steps, **size, **vocabulary,
           "layers_copied_from": copied, "label_names": lesson.names, "evaluated": evaluated, "device": learner.device,
           "precision": learner.precision}  # fmt: skip
    if output.dry_run:
        return

    def evaluate() -> dict[str, float]:
        assert exam is not None
        found = exam.scores(learner.plain_model, learner)
        return {**found, "objective": found[metric]}

    def save_model(folder: Path) -> None:
        if learner.accelerator.is_main_process:
            models.save(model, tokenizer, folder)

    state = output.latest_state()
    if state is not None:
        learner.load(state)
        yield {"event": "resume", "step": learner.progress.step, "max_steps": learner.max_steps}
    keep_best = training.keep == "best" and evaluated
    yield from output.keep(
        learner.train(loss, evaluate if evaluated else None, better=better, stop=output.signals.asked),
        save_state=learner.save,
        save_model=save_model if keep_best else None,
    )

    learner.accelerator.wait_for_everyone()  # the others must not look for what the first has not written yet
    final = (output.best_model() if keep_best else None) or output.seal("final", save_model)
    learner.accelerator.wait_for_everyone()
    metrics = learner.summary()
    if exam is not None:  # of the weights that are kept, in float32, as `eval` will find them
        kept = models.load(models.locate(str(final)), task.head).to(learner.accelerator.device)
        metrics |= {f"eval_{name}": value for name, value in exam.scores(kept, learner).items()}

    def write(folder: Path) -> None:
        shutil.copytree(final, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("seal.json"))
        facts = {**lesson.card, "label names": ", ".join(lesson.names), **size, **vocabulary, **metrics}
        card = artifacts.model_card(output.folder.name, facts, task=config.task, load=task.usage(str(output.folder)))
        (folder / "README.md").write_text(card, encoding="utf-8")

    output.put(write)
    output.finish(
        metrics, label_names=lesson.names, layer_mapping=copied, device=learner.device, precision=learner.precision,
        **size, **vocabulary,
    )  # fmt: skip
    yield {"event": "done", "output_dir": config.output_dir, **metrics}


def _exam(config: Finetune | Distill, lesson: Lesson, tokenizer: Any) -> Generator[artifacts.Row, None, _Exam | None]:
    """The validation rows, if the config names any; yields what is odd about them."""
    if not data.has(config.data, "validation"):
        return None
    task = tasks.find(config.task)
    rows = data.read(config.data, "validation")
    gold = task.labels(rows, config.data, task.label_names(rows, config.data, model_names=lesson.names))
    encoded = task.encode(rows, config.data, tokenizer)
    yield from data.remarks("validation", encoded, config.data)
    yield from data.overlap(lesson.rows, rows, config.data)
    if gold is None:
        return None
    return _Exam(task, data.Examples.of(encoded), gold, config.training.per_device_eval_batch_size)


def _student(config: Finetune | Distill, lesson: Lesson, tokenizer: Any) -> tuple[Any, list[int]]:
    """The model in its new shape, and the layers of `from` (counted from 1) that its layers were copied from."""
    section = "model" if isinstance(config, Finetune) else "student"
    attention = loops.fastest_attention(str(loops.device()), config.data.max_seq_length)
    base = models.load(
        lesson.source, tasks.find(config.task).head,
        label_names=lesson.names, new_head=True, dropout=lesson.dropout, attention=attention,
    )  # fmt: skip
    models.check_vocabulary(base, tokenizer, lesson.source)
    try:
        mapping = models.copied_layers(lesson.model, config.layer_mapping, base.config)
        return models.build(lesson.model, base, mapping, seed=config.seed), [layer + 1 for layer in mapping]
    except ConfigError as error:
        key = error.key if error.key[:1] == ("layer_mapping",) else (section, *error.key)
        raise ConfigError(error.what, key=key, hint=error.hint) from error
