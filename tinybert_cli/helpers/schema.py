"""schema: the settings of a stage, what they mean and what they default to: as text, as Markdown, as JSON Schema."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from textwrap import indent
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
    return "\n".join(f"{path}: {_kind(field)}\n{indent(_meaning(field), '    ')}".rstrip() for path, field in found)


def as_markdown() -> str:
    """Every setting of every stage as a page of tables; what is the same in several stages stands there once."""
    lines: dict[str, list[str]] = {}  # a line of a table → the stages that it is true of
    for stage in COMMANDS:
        schema = of_stage(stage)
        for path, field in _settings(schema, schema):
            lines.setdefault(_line(path, field), []).append(stage)
    tables: dict[tuple[str, ...], list[str]] = {}
    for line, stages in lines.items():
        tables.setdefault(tuple(stages), []).append(line)
    shared_first = sorted(tables, key=lambda stages: (-len(stages), list(COMMANDS).index(stages[0])))
    return "\n".join([_PAGE, *(_table(stages, tables[stages]) for stages in shared_first)]).rstrip()


def keys(stage: str) -> list[str]:
    """Every dotted setting of a stage but the options of losses, which torch would have to be imported for."""
    schema = COMMANDS[stage].model_json_schema()
    return [path for path, _ in _settings(schema, schema)]


def of_stage(stage: str) -> Schema:
    """The JSON Schema of a stage's config file, `extends` and the losses with their options among it."""
    schema = look_up(COMMANDS, stage, "stage").model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    files = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    meaning = "Files whose settings this one goes on from."
    schema["properties"]["extends"] = {**files, "default": None, "description": meaning}
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
            "default": 0.0,
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
        if "$ref" in child:
            child = {"description": _resolved(schema, child)["description"], **child}
        yield inner, child
        for choice in [child, *child.get("anyOf", [])]:
            yield from _settings(schema, choice, inner)


def _resolved(schema: Schema, field: Schema) -> Schema:
    found: Schema = schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field
    return found


def _kind(field: Schema) -> str:
    default = f", default {json.dumps(field['default'])}" if not isinstance(field.get("default", {}), dict) else ""
    return _words(field) + default


def _words(field: Schema) -> str:
    choices = [choice for choice in field.get("anyOf", [field]) if choice.get("type") != "null"]
    return " or ".join(dict.fromkeys(_word(choice) for choice in choices))


def _word(choice: Schema) -> str:
    if "enum" in choice:
        return "one of " + ", ".join(map(str, choice["enum"]))
    if "const" in choice:
        return str(choice["const"])
    if "$ref" in choice or "properties" in choice:
        return "section"
    if choice.get("type") == "object":
        return "mapping"
    if choice.get("type") == "array":
        return f"list of {_words(choice.get('items', {})).removeprefix('one of ')}"
    word = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return " ".join([word.get(choice.get("type", ""), "anything"), *_bounds(choice)])


def _bounds(choice: Schema) -> list[str]:
    found = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    return [said.format(f"{choice[name]:.10g}") for name, said in found.items() if name in choice]


def _meaning(field: Schema) -> str:
    return str(field.get("description", ""))


def _table(stages: tuple[str, ...], lines: list[str]) -> str:
    if len(stages) == 1:
        about = f"## {stages[0]}\n\n{(inspect.getdoc(COMMANDS[stages[0]]) or '').splitlines()[0]}"
    else:
        about = "## every stage" if len(stages) == len(COMMANDS) else f"## {' and '.join(stages)}"
    return "\n".join([about, "", "| setting | what | default | meaning |", "|---|---|---|---|", *lines, ""])


def _line(path: str, field: Schema) -> str:
    cells = [f"`{path}`", _words(field), _default(field), " ".join(_meaning(field).split())]
    return " | ".join(["", *(cell.replace("|", r"\|") for cell in cells), ""]).strip()


def _default(field: Schema) -> str:
    """Nothing for a section, whose settings have their own."""
    if "default" not in field:
        return "must be given"
    if any("$ref" in choice for choice in [field, *field.get("anyOf", [])]) and field["default"] is not None:
        return ""
    return f"`{field['default'] if isinstance(field['default'], str) else json.dumps(field['default'])}`"


def _dumped(value: Schema) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


_USUALLY_EXTENDED = {"task", "data"}  # they stand in the file that `extends` names
_PAGE = """# Every setting

Made by `make reference` from what `tinybert schema STAGE` says. A dot stands for a mapping: `training.learning_rate`
is `learning_rate:` under `training:` in a file, and `training.learning_rate=3e-5` on the command line. What is said on
the command line goes before what a file says, a file before the files that it `extends`, and they before the defaults.
Mappings are merged, anything else is replaced. In text, `${NAME}` is that variable of the environment, and
`${NAME:-other}` is `other` if it is not set. Paths start at the current directory, those in `extends` at the file's.
"""
