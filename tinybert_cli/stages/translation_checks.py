"""Settings that only translation has, and settings that translation does not have: either is an error elsewhere.

A setting with its default value is no error, because it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinybert_cli import losses, tasks
from tinybert_cli.config import COMMANDS, Data, Latency, Model, Section
from tinybert_cli.errors import ConfigError

Settings = Mapping[str, Any]

ONLY = {"data": ("source_language", "target_language", "max_target_length"),
        "model": ("family", "num_decoder_layers", "vocabulary_size"),
        "student": ("family", "num_decoder_layers", "vocabulary_size")}  # fmt: skip
"""Section → its settings that only translation has."""
NEVER = {
    "data": {
        "label_names": "translations have no classes",
        "label_separator": "a reference is one text; several references are a list",
        "doc_stride": "a source text is cut at max_seq_length, not split",
        "conll_column_names": "conll files have a label per word; use csv, tsv or jsonl with two text columns",
    },
    "model": {"trim_vocabulary": "its ids are also those of the output layer; give a new model a vocabulary_size"},
    "student": {"trim_vocabulary": "its ids are also those of the output layer"},
}
"""Section → its settings that translation does not have, and why."""
TOP_LEVEL_ONLY = {
    "gen-soft-labels": ("engine", "search", "top_k", "drop"),
    "distill": ("targets",),
    "eval": ("search",),
    "export": ("search",),
}
TOP_LEVEL_NEVER = {
    "gen-soft-labels": {
        "teacher_weights": "several translators cannot be averaged: use one teacher",
        "logits_dtype": "the label dataset holds texts; the log-probabilities of top_k are float16",
    },
}
_SECTIONS: dict[str, type[Section]] = {"data": Data, "model": Model, "student": Model}


def check_sections(section: str) -> Any:
    """A check of a section of the config: (task, section)."""

    def check(task: str, value: object) -> None:
        if not isinstance(value, Mapping):
            return
        translates = isinstance(tasks.find(task), tasks.GenerationTask)
        reasons = NEVER.get(section, {}) if translates else dict.fromkeys(ONLY.get(section, ()), "")
        for name, reason in reasons.items():
            if name in value and value[name] != _SECTIONS[section].model_fields[name].get_default():
                raise _error(task, (section, name), reason)

    return check


def top_level(command: str) -> dict[str | tuple[str, ...], Any]:
    """The checks of the settings outside of any section."""

    def check_one(name: str, reason: str, *, in_translation: bool) -> Any:
        default = COMMANDS[command].model_fields[name].get_default(call_default_factory=True)
        default = default.model_dump() if hasattr(default, "model_dump") else default

        def check(task: str, value: object) -> None:
            given = {**default, **value} if isinstance(default, dict) and isinstance(value, Mapping) else value
            if isinstance(tasks.find(task), tasks.GenerationTask) is in_translation and given != default:
                raise _error(task, (name,), reason)

        return check

    checks: dict[str | tuple[str, ...], Any] = {}
    for name in TOP_LEVEL_ONLY.get(command, ()):
        checks["task", name] = check_one(name, "", in_translation=False)
    for name, reason in TOP_LEVEL_NEVER.get(command, {}).items():
        checks["task", name] = check_one(name, reason, in_translation=True)
    return checks


def check_text_columns(task: str, data: Settings) -> None:
    """Translation reads one text column, and another one with the references."""
    if not isinstance(tasks.find(task), tasks.GenerationTask):
        return
    columns = Data(**{key: data[key] for key in ("text_column_names",) if key in data}).text_columns
    if len(columns) != 1:
        raise ConfigError(
            "translation reads one source text per row",
            key=("data", "text_column_names"),
            hint="name one column; that of the translations is data.label_column_name",
        )
    label = data.get("label_column_name", "label")
    if not isinstance(label, str):
        raise ConfigError(
            "translation reads its references from one column",
            key=("data", "label_column_name"),
            hint="name one column; several references of a row are a list in it",
        )
    if label == columns[0]:
        raise ConfigError(
            f"source and references are the same column, '{label}'",
            key=("data", "label_column_name"),
            hint="name the column with the translations",
        )


def check_new_model(task: str, model: object) -> None:
    """A model is either new or starts from another one."""
    if not isinstance(model, Mapping) or not isinstance(tasks.find(task), tasks.GenerationTask):
        return
    if model.get("family") is None:
        if model.get("vocabulary_size") is not None:
            raise ConfigError(
                "`vocabulary_size` is that of a new model; this one has the tokenizer of `from`",
                key=("model", "vocabulary_size"),
                hint="leave it out, or set family: marian instead of `from`",
            )
    elif model.get("from") is not None:
        raise ConfigError(
            "a model is either new (`family`) or starts `from` another one", key=("model", "family"), hint="remove one"
        )


def check_search(search: object) -> None:
    """`keep` is at most `beams`."""
    if isinstance(search, Mapping) and search.get("keep", 1) > search.get("beams", 4):
        raise ConfigError(
            f"`keep` ({search['keep']}) is more than `beams` ({search.get('beams', 4)}): beam search ends with as many "
            "translations as it has beams",
            key=("keep",),
            hint=f"beams: {search['keep']}",
        )


def check_latency(task: str, latency: object) -> None:
    """Translations have no fixed number of tokens."""
    lengths = latency.get("lengths") if isinstance(latency, Mapping) else None
    if lengths not in (None, ["data"], Latency().lengths) and isinstance(tasks.find(task), tasks.GenerationTask):
        raise ConfigError(
            "whole translations of the rows are timed, not passes over texts of a fixed length",
            key=("latency", "lengths"),
            hint="leave `lengths` out",
        )


def check_one_teacher(task: str, teacher: object) -> None:
    """Translations of several models cannot be averaged."""
    if isinstance(tasks.find(task), tasks.GenerationTask) and isinstance(teacher, list) and len(teacher) > 1:
        raise ConfigError(
            "translations of several teachers cannot be averaged",
            key=("teacher",),
            hint="label with each of them, and train on the dataset of the best one",
        )


def check_layer_mapping(task: str, layer_mapping: object) -> None:
    """One mapping per stack is for translation."""
    if isinstance(layer_mapping, Mapping) and not isinstance(tasks.find(task), tasks.GenerationTask):
        raise ConfigError(
            f"models of {task} have no decoder",
            key=("layer_mapping",),
            hint="write one rule, such as layer_mapping: uniform",
        )


def check_states(states: Sequence[str], student_layers: int | None, layer_mapping: object) -> None:
    """Stored states are those of listed layers of both stacks."""
    for index, name in enumerate(states):
        if name != "hidden_states":
            raise ConfigError(
                f"`states` of translation are hidden_states, found {name}", key=("states", index),
                hint="states: [hidden_states]",
            )  # fmt: skip
    lists = isinstance(layer_mapping, Mapping) and all(isinstance(rule, list) for rule in layer_mapping.values())
    if student_layers is not None or (states and not lists):
        raise ConfigError(
            "translation models have two stacks: list the layers of each whose states are stored",
            key=("states",) if student_layers is None else ("student_layers",),
            hint="layer_mapping: {encoder: [2, 4], decoder: [4]}, without student_layers",
        )


def check_top_k(task: str, settings: Mapping[str, Any], targets: str) -> None:
    """The teacher's distributions belong to its own translations."""
    if not isinstance(tasks.find(task), tasks.GenerationTask):
        return
    if "soft_labels" in losses.combine(settings, "tokens").parts and targets == "gold":
        raise ConfigError(
            "the teacher's distributions (`soft_labels`) belong to its own translations, not to the references",
            key=("targets",),
            hint="targets: teacher or both",
        )


def _error(task: str, key: tuple[str, ...], reason: str) -> ConfigError:
    if reason:
        return ConfigError(f"`{key[-1]}` has no effect in {task}: {reason}", key=key, hint="leave it out")
    return ConfigError(f"`{key[-1]}` has no effect in {task}", key=key, hint="leave it out, or set task: translation")
