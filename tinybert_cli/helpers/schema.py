"""schema: the settings of a stage, what they mean and what they default to; as text, or as JSON Schema for editors."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from tinybert_cli.config import COMMANDS
from tinybert_cli.errors import ConfigError, did_you_mean, look_up

Schema = dict[str, Any]


def as_json(stage: str | None = None, key: str | None = None) -> str:
    """The JSON Schema of one stage, of one setting, or of all stages by their names."""
    if stage is None:
        return _dumped({name: of_stage(name) for name in COMMANDS})
    return _dumped(of_stage(stage) if key is None else _of_key(stage, key))


def as_text(stage: str | None = None, key: str | None = None) -> str:
    """Every setting with its kind, default and meaning; without a stage, what the stages are."""
    if stage is None:
        lines = [f"{name:<17}{(inspect.getdoc(command) or '').splitlines()[0]}" for name, command in COMMANDS.items()]
        return "\n".join([*lines, "", "tinybert schema STAGE [KEY] says more"])
    schema = of_stage(stage)
    found = [
        (path, field) for path, field in _settings(schema, schema) if key is None or f"{path}.".startswith(f"{key}.")
    ]
    if not found:
        _of_key(stage, str(key))  # raises, with the nearest name
    return "\n".join(f"{path}: {_kind(field)}\n    {field.get('description', '')}".rstrip() for path, field in found)


def keys(stage: str) -> list[str]:
    """Every dotted setting of a stage but the options of losses, which torch would have to be imported for."""
    schema = COMMANDS[stage].model_json_schema()
    return [path for path, _ in _settings(schema, schema)]


def of_stage(stage: str) -> Schema:
    """The JSON Schema of a stage's config file, `extends` and the losses with their options among it."""
    schema = look_up(COMMANDS, stage, "stage").model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    files = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    schema["properties"]["extends"] = {**files, "description": "Files whose settings this one goes on from."}
    schema["required"] = [name for name in schema["required"] if name not in _USUALLY_EXTENDED]
    if "losses" in schema["properties"]:
        schema["properties"]["losses"] |= _losses()
    return schema


def _losses() -> Schema:
    from tinybert_cli.losses import LOSSES, options_of

    weight = {"type": "number", "minimum": 0, "default": 1.0, "description": "How much it counts."}
    properties = {}
    for name, loss in LOSSES.items():
        options = {option: TypeAdapter(kind).json_schema() for option, kind in options_of(loss).items()}
        for option in options:
            options[option]["default"] = inspect.signature(loss).parameters[option].default
        properties[name] = {
            "description": (inspect.getdoc(loss) or "").splitlines()[0],
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "object", "properties": {"weight": weight, **options}, "additionalProperties": False},
            ],
        }
    return {"properties": properties, "additionalProperties": False}


def _of_key(stage: str, key: str) -> Schema:
    schema = of_stage(stage)
    settings = dict(_settings(schema, schema))
    if key not in settings:
        raise ConfigError(f"{stage} has no setting '{key}'", hint=did_you_mean(key, settings))
    return settings[key]


def _settings(schema: Schema, field: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every setting with its dotted path, sections before what is in them."""
    for name, child in _resolved(schema, field).get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        yield inner, child
        for choice in [child, *child.get("anyOf", [])]:
            yield from _settings(schema, choice, inner)


def _resolved(schema: Schema, field: Schema) -> Schema:
    found: Schema = schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field
    return found


def _kind(field: Schema) -> str:
    choices = [choice for choice in field.get("anyOf", [field]) if choice.get("type") != "null"]
    words = " or ".join(dict.fromkeys(_word(choice) for choice in choices))
    default = f", default {json.dumps(field['default'])}" if not isinstance(field.get("default", {}), dict) else ""
    return words + default


def _word(choice: Schema) -> str:
    if "enum" in choice:
        return "one of " + ", ".join(map(str, choice["enum"]))
    if "const" in choice:
        return str(choice["const"])
    if "$ref" in choice or choice.get("type") == "object":
        return "section"
    if choice.get("type") == "array":
        return f"list of {_word(choice.get('items', {}))}"
    return {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}.get(
        choice.get("type", ""), "anything"
    )


def _dumped(value: Schema) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


_USUALLY_EXTENDED = {"task", "data"}  # they stand in the file that `extends` names
