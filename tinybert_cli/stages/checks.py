"""Checks of a config that its types cannot express. Nothing here imports torch, so an error is reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tinybert_cli import configuration, losses, tasks
from tinybert_cli.config import Stage, Training
from tinybert_cli.errors import ConfigError, did_you_mean
from tinybert_cli.inspection import data_checks
from tinybert_cli.stages import answer_checks, eval_checks, export_checks, streaming_checks, translation_checks

LossSettings = Mapping[str, float | Mapping[str, Any]]
OF_EVALUATIONS = ("eval_steps", "early_stopping_patience", "metric_for_best_model")  # training settings


def check(command: str, config: Stage) -> None:
    """Runs all checks of a command: for Python code that calls a stage without `configuration.load`, which runs them.

    Raises:
        ConfigError: the first problem.
    """
    values = config.model_dump(by_alias=True) | config.model_dump(by_alias=True, exclude_unset=True)
    for keys, run in CHECKS[command].items():
        names, within = (keys, ()) if isinstance(keys, tuple) else ((keys,), (keys,))
        for error in configuration.errors_of(run, [values[name] for name in names]):
            raise ConfigError(error.what, key=(*within, *error.key), hint=error.hint) from error


def no_teacher(layer_losses: Sequence[str]) -> ConfigError:
    """The error for layer losses without a teacher: neither a model nor stored layer states."""
    names = ", ".join(layer_losses)
    return ConfigError(
        f"the losses compare layers ({names}), but there is no teacher",
        key=("teacher",),
        hint="set `teacher` to its folder, to run it beside the student; or store its layer outputs with "
        f"gen-soft-labels, `states: [{names}]`",
    )


def _check_source(setting: str | Mapping[str, Any]) -> None:
    """A model needs weights to start from, unless it is new."""
    if not isinstance(setting, str) and setting.get("from") is None and setting.get("family") is None:
        raise ConfigError(
            "missing key 'from'",
            key=("from",),
            hint="from: weights and tokenizer: a folder, a Hub id (`org/name`, `org/name@revision`) or "
            "`package://import_name/path`.",
        )


def _check_data_of(command: str) -> configuration.Check:
    def check(task: str, data: Mapping[str, Any]) -> None:
        streaming_checks.check_stage(command, task, data)
        translation_checks.check_sections("data")(task, data)
        translation_checks.check_text_columns(task, data)
        data_checks.check(task, data)

    return check


def _check_model(task: str, model: object) -> None:
    translation_checks.check_sections("model")(task, model)
    translation_checks.check_new_model(task, model)


def _check_student(task: str, student: object) -> None:
    translation_checks.check_sections("student")(task, student)
    if isinstance(student, Mapping) and (student.get("family") or student.get("vocabulary_size")):
        raise ConfigError(
            "a student starts `from` a model, whose tokenizer it has",
            key=("student", "family" if student.get("family") else "vocabulary_size"),
            hint="from: the teacher, with initialize: random for new weights",
        )


def _check_training(training: Mapping[str, Any]) -> None:
    """Settings that contradict each other, so that one of them would be ignored."""
    configuration.raise_all(itertools.chain(_batch_problems(training), _schedule_problems(training)))


def _batch_problems(training: Mapping[str, Any]) -> Iterator[ConfigError]:
    """A batch has a number of rows or of tokens; of a setting that is not given, the default is no contradiction."""
    rows, tokens = "per_device_train_batch_size", "per_device_train_batch_tokens"
    if rows in training and training.get(tokens) is not None:
        yield ConfigError(
            f"a batch has a number of rows or of tokens, but `{rows}` and `{tokens}` are both set",
            key=(tokens,),
            hint="leave one of them out",
        )


def _schedule_problems(training: Mapping[str, Any]) -> Iterator[ConfigError]:
    """A run.yaml has all settings, so that the default of `warmup_ratio` is no contradiction."""
    warmup, default = training.get("warmup_ratio"), Training.model_fields["warmup_ratio"].get_default()
    if training.get("lr_scheduler_type") == "constant" and warmup not in (None, 0, default):
        yield ConfigError(
            "`lr_scheduler_type: constant` has no warm-up, so `warmup_ratio` would be ignored",
            key=("warmup_ratio",),
            hint="set lr_scheduler_type: constant_with_warmup, or leave warmup_ratio out",
        )
    if training.get("eval_strategy") == "epoch" and training.get("eval_steps") is not None:
        yield ConfigError(
            "`eval_strategy: epoch` evaluates after every epoch, so `eval_steps` would be ignored",
            key=("eval_steps",),
            hint="set eval_strategy: steps, or leave eval_steps out",
        )
    for name in OF_EVALUATIONS if training.get("eval_strategy") == "no" else ():
        if training.get(name) not in (None, "auto"):
            yield ConfigError(
                f"`eval_strategy: no` never evaluates, so `{name}` would be ignored",
                key=(name,),
                hint=f"set eval_strategy: epoch or steps, or leave {name} out",
            )


# -- finetune --------------------------------------------------------------------------------------------------


def _check_regularization(task: str, regularization: Mapping[str, Any]) -> None:
    if regularization.get("r_drop") and regularization.get("dropout") == 0:
        raise ConfigError(
            "R-Drop compares two passes with different dropout, but `dropout` is 0",
            key=("regularization", "r_drop"),
            hint="leave r_drop out, or dropout",
        )
    if regularization.get("label_smoothing") and "label_smoothing" not in _hard_label_options(task):
        raise ConfigError(
            f"{task} has no classes, so labels cannot be smoothed",
            key=("regularization", "label_smoothing"),
            hint="leave label_smoothing out",
        )


def _check_class_weights(task: str, class_weights: str) -> None:
    if class_weights != "none" and "class_weights" not in _hard_label_options(task):
        raise ConfigError(
            f"{task} has no classes that could be balanced", key=("class_weights",), hint="leave class_weights out"
        )


def _check_min_confidence(task: str, min_confidence: float, label_dataset: str | None) -> None:
    definition = tasks.find_scored_task(task)
    if min_confidence and isinstance(definition, tasks.GenerationTask):
        raise ConfigError(
            "generated translations have a score that depends on their length, not a confidence",
            key=("min_confidence",),
            hint="leave min_confidence out, or leave unusual translations out: gen-soft-labels: drop: [cut, looping]",
        )
    if min_confidence and isinstance(definition, tasks.PredictionTask) and not definition.has_confidence:
        raise ConfigError(
            f"predictions of {task} are numbers without a confidence",
            key=("min_confidence",),
            hint="leave min_confidence out",
        )
    if min_confidence and label_dataset is None:
        raise ConfigError(
            "`min_confidence` needs the predictions of a model, but there is no `label_dataset`",
            key=("min_confidence",),
            hint="set label_dataset, or leave min_confidence out",
        )


def _hard_label_options(task: str) -> Iterable[str]:
    return losses.options_of(losses.LOSS_SETS[tasks.find_scored_task(task).output_type].hard_labels)


def _check_objective(task: str, training: Mapping[str, Any]) -> None:
    tasks.find(task).objective(training.get("metric_for_best_model", "auto"))


# -- gen-soft-labels -------------------------------------------------------------------------------------------


def _check_teacher_weights(teacher: object, teacher_weights: Sequence[float] | None) -> None:
    count = len(teacher) if isinstance(teacher, list) else 1
    if teacher_weights is not None and len(teacher_weights) != count:
        raise ConfigError(
            f"{len(teacher_weights)} weights for {count} teachers",
            key=("teacher_weights",),
            hint="one weight per teacher",
        )


def _check_augmentation(task: str, augment: object, splits: Sequence[str]) -> None:
    definition = tasks.find_scored_task(task)
    if augment is not None and isinstance(definition, tasks.GenerationTask):
        raise ConfigError(
            "a sentence with replaced words has another translation, which the label dataset would not have checked",
            key=("augment",),
            hint="leave augment out, and give more text as data.unlabeled_file",
        )
    if augment is not None and isinstance(definition, tasks.PredictionTask) and not definition.supports_augmentation:
        raise ConfigError(
            f"{task} has one tag per word, which a replaced word would not keep",
            key=("augment",),
            hint="leave augment out, and give more text as data.unlabeled_file",
        )
    if augment is not None and "train" not in splits:
        raise ConfigError(
            "`augment` needs the training rows, but `splits` has no train", key=("splits",), hint="splits: [train]"
        )


def _check_states(
    task: str, states: Sequence[str], student_layers: int | None, layer_mapping: str | Sequence[int]
) -> None:
    if isinstance(tasks.find(task), tasks.GenerationTask):
        translation_checks.check_states(states, student_layers, layer_mapping)
        return
    configuration.raise_all(
        ConfigError(
            f"unknown layer loss '{name}'", key=("states", index), hint=did_you_mean(name, losses.LAYER_OUTPUTS)
        )
        for index, name in enumerate(states)
        if name not in losses.LAYER_OUTPUTS
    )
    if states and student_layers is None and isinstance(layer_mapping, str):
        raise ConfigError(
            f"`layer_mapping: {layer_mapping}` depends on the number of student layers, which is not set",
            key=("states",),
            hint="student_layers: 4; or list the layers: layer_mapping: [3, 6, 9, 12]",
        )
    if not states and student_layers is not None:
        raise ConfigError(
            "`student_layers` selects the layers whose states are stored, but `states` is empty",
            key=("student_layers",),
            hint="states: [hidden_states, attentions], or leave it out",
        )
    if not states and layer_mapping != "uniform":
        raise ConfigError(
            "`layer_mapping` selects the layers whose states are stored, but `states` is empty",
            key=("layer_mapping",),
            hint="states: [hidden_states, attentions], or leave it out; the student's is set in distill",
        )


# -- distill ---------------------------------------------------------------------------------------------------


def _check_losses_of_task(task: str, settings: LossSettings) -> None:
    definition = tasks.find(task)
    if isinstance(definition, tasks.PredictionTask | tasks.GenerationTask):
        configuration.raise_all(
            ConfigError(error.what, key=("losses", *error.key), hint=error.hint)
            for error in losses.problems(settings, definition.output_type)
        )
        return
    configuration.raise_all(
        ConfigError(error.what, key=("losses", *error.key), hint=error.hint) for error in losses.problems(settings)
    )
    others = ", ".join(name for name in losses.LOSSES if name not in losses.TEXT_LEVEL_LOSSES)
    configuration.raise_all(
        ConfigError(
            f"the loss `{name}` compares whole texts, but the rows of {task} are blocks of running text",
            key=("losses", name),
            hint=f"use losses of {others}; for example losses: {{hidden_states: 1.0, attentions: 1.0}}",
        )
        for name in losses.combine(settings).text_level
    )


def _check_label_dataset(task: str, label_dataset: str | None) -> None:
    predicts = isinstance(tasks.find(task), tasks.PredictionTask | tasks.GenerationTask)
    if predicts and label_dataset is None:
        raise ConfigError(
            "missing key 'label_dataset'",
            key=("label_dataset",),
            hint="label_dataset: the folder that gen-soft-labels wrote",
        )
    if not predicts and label_dataset is not None:
        raise ConfigError(
            f"{task} takes no label dataset: its models make no predictions",
            key=("label_dataset",),
            hint="leave it out: the student learns from `data.train_file` and the layers of its `teacher`",
        )


def _check_layer_teacher(settings: LossSettings, teacher: str | None, label_dataset: str | None) -> None:
    layer_losses = _layer_losses(settings)
    if layer_losses and teacher is None and label_dataset is None:
        raise no_teacher(layer_losses)


def _check_projections(settings: LossSettings, projections: str) -> None:
    if projections != "per_layer" and not _layer_losses(settings):
        raise ConfigError(
            f"`projections: {projections}` is for losses that compare layers, but none has a weight",
            key=("projections",),
            hint="set losses: {hidden_states: 1.0}, or leave projections out",
        )


def _check_trimming(settings: LossSettings, student: str | Mapping[str, Any]) -> None:
    if _layer_losses(settings) and not isinstance(student, str) and student.get("trim_vocabulary"):
        raise ConfigError(
            "a student with a trimmed vocabulary cannot be compared layer by layer with a teacher that has all of it",
            key=("student", "trim_vocabulary"),
            hint="trim the vocabulary in the second step, which trains on logits only",
        )


def _layer_losses(settings: LossSettings) -> list[str]:
    """Names of the losses with a weight that compare layers."""
    return [name for name, setting in settings.items() if name in losses.LAYER_OUTPUTS and losses.weight_of(setting)]


# command → one setting or several → their check, see `configuration.load`; checks of one setting first, as those of
# several depend on them.
CHECKS: dict[str, dict[str | tuple[str, ...], configuration.Check]] = {
    "finetune": {
        "task": tasks.find_scored_task,
        "model": _check_source,
        ("task", "data"): _check_data_of("finetune"),
        "training": _check_training,
        ("task", "training"): _check_objective,
        ("task", "model"): _check_model,
        ("task", "layer_mapping"): translation_checks.check_layer_mapping,
        ("task", "regularization"): _check_regularization,
        ("task", "class_weights"): _check_class_weights,
        ("task", "min_confidence", "label_dataset"): _check_min_confidence,
        ("task", "baselines"): eval_checks.check_baselines,
    },
    "gen-soft-labels": {
        "task": tasks.find_scored_task,
        ("task", "data"): _check_data_of("gen-soft-labels"),
        ("task", "teacher"): answer_checks.check_teachers,
        ("teacher", "teacher_weights"): _check_teacher_weights,
        ("data", "teacher", "augment"): streaming_checks.check_labels,
        ("teacher", "states", "augment"): answer_checks.check_models_exist,
        ("task", "augment", "splits"): _check_augmentation,
        ("task", "states", "student_layers", "layer_mapping"): _check_states,
        ("task", "layer_mapping"): translation_checks.check_layer_mapping,
        "search": translation_checks.check_search,
        **translation_checks.top_level("gen-soft-labels"),
    },
    "distill": {
        "task": tasks.find,
        "student": _check_source,
        ("task", "data"): _check_data_of("distill"),
        "training": _check_training,
        ("task", "training"): _check_objective,
        ("task", "student"): _check_student,
        ("task", "layer_mapping"): translation_checks.check_layer_mapping,
        ("task", "label_dataset"): _check_label_dataset,
        ("task", "losses"): _check_losses_of_task,
        ("losses", "teacher", "label_dataset"): _check_layer_teacher,
        ("losses", "student"): _check_trimming,
        ("losses", "projections"): _check_projections,
        ("task", "data", "training"): streaming_checks.check_training,
        ("task", "losses", "targets"): translation_checks.check_top_k,
        ("task", "baselines"): eval_checks.check_baselines,
        **translation_checks.top_level("distill"),
    },
    "eval": {
        "task": tasks.find_scored_task,
        ("task", "data"): _check_data_of("eval"),
        ("models", "reference"): eval_checks.check_reference,
        ("task", "baselines"): eval_checks.check_baselines,
        ("models", "split", "baselines"): eval_checks.check_compared_baselines,
        ("task", "metrics"): eval_checks.check_metrics,
        ("task", "latency"): translation_checks.check_latency,
        ("task", "models", "baselines", "require"): eval_checks.check_require,
        ("task", "models", "reference", "metrics", "latency", "bootstrap", "require"): eval_checks.check_measured,
        **translation_checks.top_level("eval"),
    },
    "export": {
        "task": tasks.find_scored_task,
        "format": export_checks.check_format,
        ("task", "data"): _check_data_of("export"),
        ("format", "data"): export_checks.check_columns_of_format,
        ("task", "format", "verify", *export_checks.FORMAT_SETTINGS): export_checks.check_format_settings,
        **translation_checks.top_level("export"),
    },
}
