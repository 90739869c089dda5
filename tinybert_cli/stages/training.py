"""Shared by finetune and distill: build the model, encode the rows, train, and finish the model folder."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from tinybert_cli import artifacts, data, events, loops, metrics, models, tasks
from tinybert_cli.config import Data, Distill, Finetune, Model, ResolvedTraining, encoder_rule
from tinybert_cli.errors import ConfigError, InputError, UserError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates
from tinybert_cli.inspection.vocabulary import unknown_warnings
from tinybert_cli.reports import model_card, training_card
from tinybert_cli.scratch_files import counts
from tinybert_cli.stages import auto_settings, selection
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Array, Layout, Predictions, Rows

if TYPE_CHECKING:
    from accelerate import Accelerator

RESAMPLES = 1000  # for the 95 % intervals, as many as `eval` draws by default


@dataclass(frozen=True)
class TrainingRun:
    """What a run has resolved once: its settings, task, objective, folder and device."""

    config: Finetune | Distill
    task: tasks.Task
    objective: tuple[str, float]  # the metric that selects checkpoints, and +1 if more of it is better, else -1
    output: artifacts.Output
    accelerator: Accelerator


@dataclass(frozen=True)
class TrainingRows:
    """Rows to learn from, and the targets of the losses."""

    rows: Rows
    targets: dict[str, Array]  # name → (P, ...): labels, label_weights, teacher_logits, see `Task.align`
    label_names: list[str] | None  # None if the task makes no predictions
    layout: Layout | None = None  # of teacher_logits
    originals: Rows | None = None  # the rows whose tokens a trimmed vocabulary keeps; None = all
    states: data.LayerStates | data.StackStates | None = None  # stored layer outputs of the teacher
    texts: list[str] | None = None  # the target text of each row, in translation
    top_k: data.TopK | None = None  # stored distributions of the teacher for the tokens of these texts
    origin: Mapping[str, Any] = field(default_factory=dict)  # inputs of the label dataset, from its manifest
    teacher_parameters: int | None = None  # None if unknown
    scale: models.OutputScale | None = None  # of regression targets that are in standard units


@dataclass(frozen=True)
class Validation:
    """Encoded validation rows with their metric."""

    rows: Rows
    examples: data.Examples
    layout: Layout | None  # see `Encoded`
    metric: metrics.Metric | None  # None if the task makes no predictions: then the loss is the score
    label_names: list[str]


@dataclass(frozen=True)
class TrainingData:
    """Training rows, encoded for one tokenizer, and validation rows."""

    source: TrainingRows
    examples: data.Examples
    validation: Validation | None


@dataclass(frozen=True)
class NewModel:
    """The model to train, in its new shape."""

    model: Any
    tokenizer: Any
    copied_layers: list[int]  # of the source model, counted from 1; of a translation model those of the encoder
    vocabulary: dict[str, int]  # numbers of a trimmed vocabulary, see `models.trim_vocabulary`
    decoder_layers: list[int] | None = None  # of a translation model, the same for the decoder


class Evaluation(Protocol):
    """Scores a model on the validation rows."""

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        """The metrics during training; the one that selects checkpoints is among them."""

    def result(
        self, folder: Path, trained: torch.nn.Module, best_loss: float | None
    ) -> tuple[model_card.Result, dict[str, Any]]:
        """The metrics of the finished folder with 95 % intervals, and the tuned settings for its config.json."""


def prepare(
    run: TrainingRun,
    setting: Model,
    source: models.Source,
    rows: TrainingRows,
    *,
    section: str,
    dropout: float | None = None,
) -> Generator[Event, None, tuple[NewModel, TrainingData]]:
    """Builds the model and encodes training and validation rows for it; yields warnings about the rows.

    Args:
        setting: the shape of the model; `section` is its key in the config, for error messages.
        source: where `setting.from` is.
        dropout: of the new model; None = as in the source.
    """
    config, task = run.config, run.task
    tokenizer = models.load_tokenizer(source)
    models.check_inputs(source, tokenizer, config.data)
    if isinstance(task, tasks.PredictionTask):
        models.record_length(tokenizer, config.data.max_seq_length)
    encoded = task.encode(rows.rows, config.data, tokenizer)
    yield from data.row_warnings("train", encoded, config.data)
    unknown = unknown_warnings("train", encoded, rows.rows, config.data, tokenizer, source.name)
    yield from map(events.warning, unknown)
    torch.manual_seed(config.seed)
    model, copied_layers = _build(run, setting, source, rows, tokenizer, section, dropout)
    vocabulary: dict[str, int] = {}
    if setting.trim_vocabulary:
        same = rows.originals is None or rows.originals is rows.rows
        needed = encoded if same else task.encode(rows.originals or rows.rows, config.data, tokenizer)
        used = counts(needed.tokens["input_ids"][0]).nonzero()[0].tolist()
        tokenizer, vocabulary = models.trim_vocabulary(model, tokenizer, used)
        encoded = task.encode(rows.rows, config.data, tokenizer)
    models.compute_head_in_float32(model)
    if rows.states is not None:
        rows.states.check(encoded)
    rows = _in_standard_units(rows, run, model, setting, source)
    examples = data.Examples.of(encoded, rows.states, **task.align(rows.targets, rows.layout, encoded))
    validation = yield from _read_validation(run, rows, tokenizer)
    return NewModel(model, tokenizer, copied_layers, vocabulary), TrainingData(rows, examples, validation)


def train(
    run: TrainingRun,
    new: NewModel,
    training_data: TrainingData,
    module: torch.nn.Module,
    loss: loops.StepLoss,
    *,
    made: Mapping[str, object],
    facts: Mapping[str, Any] | None = None,
    evaluation: Evaluation | None = None,
    scores_matter: bool = True,
) -> Iterator[Event]:
    """Trains to the end, from the last checkpoint if any, and finishes the folder; a dry run stops at the plan.

    Args:
        module: what is optimized: the model, or the model with its projections.
        made: statements of the model card about starting point, labels and loss.
        facts: for the plan and the manifest.
        evaluation: None = by the predictions for the validation rows, or by the loss if the task makes none.
        scores_matter: whether the validation scores show how good the model is; False if its head is not trained.
    """
    task, output, accelerator, validation = run.task, run.output, run.accelerator, training_data.validation
    examples, size, facts = training_data.examples, models.size(new.model), facts or {}
    label_names, scale = training_data.source.label_names, training_data.source.scale
    batches = _batches(run.config, examples)
    if evaluation is None and validation is not None:
        evaluation = _Evaluation(run, validation, loss, scale)
    evaluated = evaluation is not None and run.config.training.eval_strategy != "no"
    selects_best = run.config.training.keep == "best" and evaluated
    training, resolved = _resolved(run, new, batches, selects_best=selects_best and scores_matter)
    config = output.config = run.config.model_copy(update={"training": training})
    trainer = loops.Trainer(module, examples, batches, training, accelerator=accelerator, seed=config.seed)
    labels = {} if label_names is None else {"label_names": label_names}
    if new.decoder_layers is not None:
        facts = {**facts, "decoder_layers_copied_from": new.decoder_layers}
    assumptions: dict[str, Any] = {}
    if isinstance(task, tasks.PredictionTask) and label_names is not None:
        assumptions = events.assumptions(task.label_statements(training_data.source.rows, config.data, label_names))
    if scale is not None:
        facts = {**facts, "target_mean": scale.mean, "target_deviation": scale.deviation}
    yield events.plan(
        len(examples),
        steps=trainer.max_steps,
        **size,
        **new.vocabulary,
        layers_copied_from=new.copied_layers,
        **facts,
        **labels,
        **assumptions,
        resolved=resolved,
        evaluated=evaluated,
        validation=_in_words(validation),
        device=trainer.device,
        precision=trainer.precision,
    )
    yield from _size_warning(new, size["parameters"], training_data.source.teacher_parameters)
    if output.dry_run:
        return
    metric, better = run.objective

    def evaluate() -> dict[str, float]:
        assert evaluation is not None
        scores = evaluation.scores(trainer.plain_model)
        return {**scores, "objective": scores[metric]}

    def save_model(folder: Path) -> None:
        if accelerator.is_main_process:
            if isinstance(new.tokenizer, TranslationTokenizer):
                models.save_translation_model(new.model, new.tokenizer, folder)
                return
            model = new.model if scale is None else scale.restored(new.model)
            models.save(model, new.tokenizer, folder, truncate=tasks.cuts_long_texts(task))

    state = yield from _newest_state(output, with_best_model=selects_best)
    if state is not None:
        trainer.load(state)
        output.drop_newer(state)
        yield events.resume(trainer.progress.step, trainer.max_steps)
    yield from output.save_checkpoints(
        trainer.train(loss, evaluate if evaluated else None, better=better, stop=output.signals.pending),
        save_state=trainer.save,
        save_model=save_model if selects_best else None,
    )

    if evaluated and scores_matter:
        yield from _how_it_ended(trainer.progress, trainer.max_steps, training)
    accelerator.wait_for_everyone()  # the other processes must not look for files that the first has not written yet
    final = output.best_model(trainer.progress.best_step) if selects_best else output.seal("final", save_model)
    if final is None:
        raise UserError(
            f"the best checkpoint, of step {trainer.progress.best_step}, is damaged",
            where=config.output_dir,
            hint="run the same command again: it resumes from the checkpoint before it",
        )
    accelerator.wait_for_everyone()
    numbers = trainer.summary()
    if examples.decoder is not None:
        tokens = numbers["train_samples_per_second"] * numbers["train_runtime"] * examples.target_lengths.mean()
        numbers["train_target_tokens_per_second"] = tokens / max(1e-9, numbers["train_runtime"])
        numbers["train_target_tokens_per_cpu_second"] = tokens / max(1e-9, numbers["train_cpu_seconds"])
    result: model_card.Result | None = None
    tuned: dict[str, Any] = {}
    if evaluation is not None:
        best_loss = trainer.progress.best if selects_best else None
        result, tuned = evaluation.result(final, trainer.plain_model, best_loss)
        for name, value in result.scores.items():
            numbers[f"eval_{name}"] = value
            if name in result.intervals:
                numbers[f"eval_{name}_low"], numbers[f"eval_{name}_high"] = result.intervals[name]

    def write(folder: Path) -> None:
        shutil.copytree(final, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("seal.json"))
        inputs = tasks.recorded_settings(config.data, task)
        settings = {tasks.CONFIG_KEY: task.name, **inputs, **dict.fromkeys(task.tuned_settings), **tuned}
        models.rewrite_config(folder, settings)  # those of the source model are replaced
        machine = {
            "device": trainer.device,
            "precision": trainer.precision,
            "layers": new.model.config.num_hidden_layers,
        }
        described = {**size, **new.vocabulary, **numbers, **machine, "bytes": models.weights_bytes(folder)}
        card = training_card.card(
            config,
            training_card.Training(
                made, label_names, new.copied_layers, len(training_data.source.rows), described, result, training,
                selected=selects_best,
                made_from=selection.learned_from(config, output.inputs, "validation"),
                origin=training_data.source.origin,
            ),
            output,
        )  # fmt: skip
        (folder / "README.md").write_text(model_card.as_markdown(card), encoding="utf-8")

    output.put(write)
    output.finish(
        numbers, **labels, layer_mapping=new.copied_layers, **facts, device=trainer.device,
        precision=trainer.precision, **size, **new.vocabulary, scored_rows=None if result is None else result.rows,
    )  # fmt: skip
    yield events.done(config.output_dir, numbers)


def _resolved(
    run: TrainingRun, new: NewModel, batches: loops.Batches, *, selects_best: bool
) -> tuple[ResolvedTraining, dict[str, Any]]:
    """The training settings without `auto`, and the values that replaced it, by the names of the settings."""
    config = run.config
    values = auto_settings.auto_values(
        config.training,
        auto_settings.start_of(config.model if isinstance(config, Finetune) else config.student),
        steps_per_epoch=loops.steps_of_epoch(batches, config.training, run.accelerator.num_processes),
        hidden_size=new.model.config.hidden_size,
        selects_best=selects_best,
    )
    values = run.output.resolve(values)
    names = {key.removeprefix("training."): value for key, value in values.items()}
    return auto_settings.with_values(config.training, names), names


def _size_warning(new: NewModel, parameters: int, teacher_parameters: int | None) -> Iterator[Event]:
    """A warning if the model is no smaller than the one whose predictions it learns."""
    if teacher_parameters is not None and parameters >= teacher_parameters:
        fewer = max(1, new.model.config.num_hidden_layers // 2)
        yield events.warning(
            f"this model has {parameters / 1e6:.3g} M parameters and its teacher {teacher_parameters / 1e6:.3g} M: it "
            f"will be no smaller and no faster; for a smaller one set, for example, num_hidden_layers: {fewer} beside "
            "`from`"
        )


def _how_it_ended(progress: loops.Progress, max_steps: int, training: ResolvedTraining) -> Iterator[Event]:
    """That the run ended before its last step, or that more steps may help."""
    if progress.step < max_steps:
        yield {
            "event": "stopped",
            "step": progress.step,
            "max_steps": max_steps,
            "evaluations": training.early_stopping_patience,
        }
    elif progress.improving:
        longer = f"num_train_epochs={2 * training.num_train_epochs:g}"
        longer = f"max_steps={2 * training.max_steps}" if training.max_steps > 0 else longer
        yield {"event": "improving", "step": progress.step, "setting": f"training.{longer}"}


def _batches(config: Finetune | Distill, examples: data.Examples) -> data.BucketBatches | data.TokenBatches:
    training, lengths = config.training, examples.lengths
    if training.per_device_train_batch_tokens is not None:
        return data.TokenBatches(
            lengths, examples.target_lengths, training.per_device_train_batch_tokens,
            seed=config.seed, group_by_length=training.group_by_length,
        )  # fmt: skip
    return data.BucketBatches(
        lengths, training.per_device_train_batch_size, seed=config.seed, group_by_length=training.group_by_length
    )


def _newest_state(output: artifacts.Output, *, with_best_model: bool) -> Generator[Event, None, Path | None]:
    """The newest training state that is intact and, if needed, whose best model is; None for a new run."""
    states = output.states()
    for state in states:
        progress = loops.read_progress(state)
        if not with_best_model or progress.best is None or output.best_model(progress.best_step) is not None:
            return state
    if output.resumed:
        yield events.warning("no checkpoint of the earlier run can be used: the training starts from step 0")
    return None


@dataclass(frozen=True)
class _Evaluation:
    """Scores a model on the validation rows: by its predictions, or by the loss if the task makes none."""

    run: TrainingRun
    validation: Validation
    loss: loops.StepLoss
    scale: models.OutputScale | None  # of the outputs in training

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        """The task's metrics, during training."""
        metric = self.validation.metric
        if metric is None:
            return self._mean_loss(model)
        predictions, _ = self._predictions(model, metric, self.scale)
        return self._watched(metrics.score(metric, predictions))

    def result(
        self, folder: Path, trained: torch.nn.Module, best_loss: float | None
    ) -> tuple[model_card.Result, dict[str, Any]]:
        """The metrics of the finished folder with 95 % intervals, and the tuned settings for its config.json.

        A task with predictions is scored on the weights in `folder`, in float32, as `eval` will load them. The loss
        needs the projections, which are not in the folder: it is the best one of the training, or that of `trained`.
        """
        metric, rows = self.validation.metric, len(self.validation.rows)
        if metric is None:
            loss = self._mean_loss(trained)["loss"] if best_loss is None else best_loss
            return model_card.Result("validation", len(self.validation.examples), {"loss": loss}, {}), {}
        model = models.load(models.locate(str(folder)), self.run.task.head, cls_only=True)
        model = model.to(self.run.accelerator.device)
        predictions, tuned = self._predictions(model, metric, None)
        statistics = metric.statistics(predictions)
        scores = self._watched(metrics.score(metric, predictions, statistics))
        intervals = metrics.intervals(
            metric, predictions, statistics, self.run.task.metrics, resamples=RESAMPLES, seed=self.run.config.seed
        )
        return model_card.Result("validation", rows, scores, intervals), tuned

    def _predictions(
        self, model: torch.nn.Module, metric: metrics.Metric, scale: models.OutputScale | None
    ) -> tuple[Predictions, dict[str, Any]]:
        """The predictions with the thresholds that score best, and these thresholds."""
        task, validation = self.run.task, self.validation
        assert isinstance(task, tasks.PredictionTask)  # it has a metric
        logits = loops.predict_all(model, validation.examples, self._batches, accelerator=self.run.accelerator)
        logits = logits if scale is None else scale.from_standard(logits)
        tuned = metric.tune_thresholds(logits, validation.layout)
        names, rows, settings = validation.label_names, validation.rows, self.run.config.data
        return task.decide(logits, validation.layout, names, rows, settings, tuned), tuned

    def _mean_loss(self, model: torch.nn.Module) -> dict[str, float]:
        return loops.mean_loss(
            model, self.loss, self.validation.examples, self._batches, accelerator=self.run.accelerator
        )

    def _watched(self, scores: Mapping[str, float]) -> dict[str, float]:
        return {name: scores[name] for name in self.run.task.metrics}

    @property
    def _batches(self) -> list[list[int]]:
        return data.sorted_batches(
            self.validation.examples.lengths, self.run.config.training.per_device_eval_batch_size
        )


def _read_validation(
    run: TrainingRun, training: TrainingRows, tokenizer: Any
) -> Generator[Event, None, Validation | None]:
    """The validation rows, if the config names any that can be scored; yields warnings about them."""
    config, task = run.config, run.task
    if not data.has(config.data, "validation"):
        return None
    rows = data.read(config.data, "validation")
    names: list[str] = []
    metric: metrics.Metric | None = None
    if isinstance(task, tasks.PredictionTask):
        names = task.label_names(rows, config.data, model_names=training.label_names)
        metric = task.metric(rows, config.data, names)
    encoded = task.encode(rows, config.data, tokenizer)
    yield from data.row_warnings("validation", encoded, config.data)
    leaks = {"train": training.rows, "validation": rows}
    yield from map(events.warning, duplicates.leaks_between(leaks, config.data, most=duplicates.SAMPLE))
    if metric is None and isinstance(task, tasks.PredictionTask):
        reason = tasks.no_labels_error(rows, config.data).what
        yield events.warning(
            f"the validation rows have no labels ({reason}): no checkpoint is scored, and the last one is stored"
        )
        return None
    return Validation(rows, data.Examples.of(encoded), encoded.layout, metric, names)


def _in_words(validation: Validation | None) -> str:
    """The validation rows and their files, for the plan."""
    if validation is None:
        return "none, so the last checkpoint is stored"
    names = [Path(origin).name for origin, _ in validation.rows.origins]
    return f"{len(validation.rows):,} rows of {names[0]}{', ...' if len(names) > 1 else ''}"


def _build(
    run: TrainingRun,
    setting: Model,
    source: models.Source,
    rows: TrainingRows,
    tokenizer: Any,
    section: str,
    dropout: float | None,
) -> tuple[Any, list[int]]:
    """The model in its new shape, and the layers of the source (counted from 1) that its layers were copied from."""
    config, task = run.config, run.task
    attention = loops.fastest_attention(run.accelerator.device.type, config.data.max_seq_length)
    base = models.load(
        source, task.head,
        label_names=rows.label_names, problem=task.problem, new_head=True, dropout=dropout, attention=attention,
    )  # fmt: skip
    models.check_vocabulary(base, tokenizer, source)
    try:
        mapping = models.copied_layers(setting, encoder_rule(config.layer_mapping), base.config)
        student = models.build_student(setting, base, mapping, seed=config.seed, cls_only=True)
        return student, [layer + 1 for layer in mapping]
    except ConfigError as error:
        key = error.key if error.key[:1] == ("layer_mapping",) else (section, *error.key)
        raise ConfigError(error.what, key=key, hint=error.hint) from error


def check_text_columns(folder: Path, manifest: Mapping[str, Any], settings: Data) -> None:
    """InputError if the teacher of a label dataset read one text per row, and this config names two, or vice versa."""
    columns = manifest.get("text_columns")  # not in label datasets of tinybert 0.1
    if columns is not None and len(columns) != len(settings.text_columns):
        raise InputError(
            f"'{folder}' was made from {tasks.in_words(columns)}, but the config names "
            f"{tasks.in_words(settings.text_columns)}",
            hint="check data.text_column_names",
        )


def _in_standard_units(
    rows: TrainingRows, run: TrainingRun, model: Any, setting: Model, source: models.Source
) -> TrainingRows:
    """The rows with regression targets in standard units; a head that was trained before is changed to them, too."""
    task = run.task
    names: list[str] = [name for name in ("teacher_logits", "labels") if name in rows.targets]
    if not isinstance(task, tasks.PredictionTask) or task.output_type != "value" or not names:
        return rows
    scale = models.output_scale(rows.targets[names[0]], model, only_unusual=run.output.resumes_earlier_version)
    if scale is None:
        return rows
    if setting.initialize == "teacher" and models.has_head(source, task.head):
        scale.standardize(model)
    standard = {name: scale.to_standard(rows.targets[name]) for name in names}
    return replace(rows, targets={**rows.targets, **standard}, scale=scale)
