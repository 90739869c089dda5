"""Checks of `export`: formats that the task has, and settings that the format reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tinybert_cli import configuration, formats, tasks
from tinybert_cli.config import Export, Verify
from tinybert_cli.errors import ConfigError, look_up


def check_format(name: str) -> None:
    """A format of any task; `check_format_settings` checks whether this task has it."""
    look_up({**formats.TRANSLATION_FORMATS, **formats.FORMATS}, name, "format")


def _formats_of(task: str) -> Mapping[str, formats.Format] | Mapping[str, formats.TranslationFormat]:
    if isinstance(tasks.find(task), tasks.GenerationTask):
        return formats.TRANSLATION_FORMATS
    return {name: form for name, form in formats.FORMATS.items() if form.tasks is None or task in form.tasks}


def check_columns_of_format(name: str, data: Mapping[str, Any]) -> None:
    columns = data.get("text_column_names")
    if name == "spacy" and isinstance(columns, list) and len(columns) != 1:
        raise ConfigError(
            f"a Doc of spaCy is one text, and the model takes {tasks.in_words(columns)}",
            key=("format",),
            hint="format: onnx",
        )


def check_format_settings(task: str, name: str, verify: Mapping[str, Any], *values: object) -> None:
    """A setting that the format would ignore is an error, unless it has its default value."""
    settings, known = dict(zip(FORMAT_SETTINGS, values, strict=True)), _formats_of(task)

    def problems() -> Iterator[ConfigError]:
        if name not in known:
            yield ConfigError(
                f"models of {task} have no `format: {name}`", key=("format",), hint=f"one of: {', '.join(known)}"
            )
            return
        for setting, value in settings.items():
            readers = [key for key, other in known.items() if setting in other.settings]
            if value == Export.model_fields[setting].get_default():
                continue
            if name not in readers:
                others = f", or write format: {' or '.join(readers)}" if readers else f": {task} has none"
                hint = f"leave it out{others}"
                yield ConfigError(f"`{setting}` has no effect with `format: {name}`", key=(setting,), hint=hint)
            elif value == "fp16" and not (name in formats.FORMATS and formats.FORMATS[name].half):
                yield ConfigError("`quantize: fp16` writes ONNX models only", key=(setting,), hint="none or int8")
            elif setting in ("quantize_exclude", *formats.BITS) and settings["quantize"] != "int8":
                hint = "add quantize: int8"
                yield ConfigError(f"`{setting}` has no effect without quantization", key=(setting,), hint=hint)
        if known[name].precision != "float32" and verify.get("atol", Verify().atol) != Verify().atol:
            yield ConfigError(
                f"`atol` applies to float32 only; `format: {name}` writes fewer bits",
                key=("verify", "atol"),
                hint="leave it out: min_agreement and max_metric_drop decide",
            )

    configuration.raise_all(problems())


FORMAT_SETTINGS = tuple(
    name
    for name in Export.model_fields
    if any(name in form.settings for table in (formats.FORMATS, formats.TRANSLATION_FORMATS) for form in table.values())
)
