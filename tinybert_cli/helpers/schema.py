"""schema: the settings of a stage with their types, defaults and meanings, as text, Markdown or JSON Schema."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from textwrap import indent
from typing import Any

from pydantic import TypeAdapter

from tinybert_cli.config import COMMANDS
from tinybert_cli.errors import ConfigError, did_you_mean, look_up

Schema = dict[str, Any]

RECIPE = "recipe"  # what lists all stages of a pipeline in one file


def as_json(stage: str | None = None, key: str | None = None) -> str:
    """The JSON Schema of one stage, of one setting, or of all stages by their names."""
    if stage is None:
        return _dumped({name: of_stage(name) for name in COMMANDS})
    return _dumped(of_stage(stage) if key is None else _of_key(stage, key))


def as_text(stage: str | None = None, key: str | None = None) -> str:
    """Every setting with its type, default and meaning; without a stage, the list of stages."""
    if stage is None:
        lines = [f"{name:<17}{(inspect.getdoc(command) or '').splitlines()[0]}" for name, command in COMMANDS.items()]
        return "\n".join([*lines, "", "details: tinybert schema STAGE [KEY]"])
    schema = of_stage(stage)
    selected = [
        (path, field) for path, field in _settings(schema, schema) if key is None or f"{path}.".startswith(f"{key}.")
    ]
    if not selected:
        _of_key(stage, str(key))  # raises, with the most similar name
    return "\n".join(f"{path}: {_type(field)}\n{indent(_meaning(field), '    ')}".rstrip() for path, field in selected)


def as_markdown() -> str:
    """Every setting of every stage as a page of tables; a setting that several stages share is listed once."""
    lines: dict[str, list[str]] = {}  # row of a table → the stages that have this setting
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
    """Every dotted setting of a stage, except `extends` and the individual losses."""
    schema = COMMANDS[stage].model_json_schema()
    return [path for path, _ in _settings(schema, schema)]


def of_stage(stage: str) -> Schema:
    """The JSON Schema of a stage's config file, including `extends`, and the losses with their options.

    With `recipe` as the stage: of a file that lists all stages of a pipeline.
    """
    if stage == RECIPE:
        return _of_recipe()
    schema = look_up(COMMANDS, stage, "stage").model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    files = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    meaning = "A file, or a list of files, whose settings this file inherits and overrides."
    schema["properties"]["extends"] = {**files, "default": None, "description": meaning}
    schema["required"] = [name for name in schema["required"] if name not in _USUALLY_EXTENDED]
    if "losses" in schema["properties"]:
        schema["properties"]["losses"] |= _losses()
    return schema


def _of_recipe() -> Schema:
    """Each item of `stages` by the command in its `stage`; every setting may be shared, so none is required there."""
    shared: Schema = {}
    definitions: Schema = {}
    by_command = []
    for name in COMMANDS:
        schema = of_stage(name)
        definitions |= schema.pop("$defs")
        shared = {**schema["properties"], **shared}
        schema["required"] = ["stage", "output_dir"]
        del schema["$schema"]
        definitions[name] = schema
        is_command = {"properties": {"stage": {"const": name}}, "required": ["stage"]}
        by_command.append({"if": is_command, "then": {"$ref": f"#/$defs/{name}"}})
    properties = {key: field for key, field in shared.items() if key not in ("stage", "output_dir")}
    stage = {"enum": list(COMMANDS), "description": "The command that runs this stage."}
    item = {"type": "object", "properties": {"stage": stage}, "required": ["stage"], "allOf": by_command}
    meaning = "The stages of a pipeline; they run in the order in which they read each other's output_dir."
    properties["stages"] = {"type": "array", "minItems": 1, "items": item, "description": meaning}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe",
        "description": "All stages of a pipeline, for `tinybert run`. Settings beside `stages` are shared by all "
        "stages that have them.",
        "type": "object",
        "properties": properties,
        "required": ["stages"],
        "additionalProperties": False,
        "$defs": definitions,
    }  # fmt: skip


def _losses() -> Schema:
    from tinybert_cli.losses import LOSS_SETS, LOSSES, options_of

    weight = {"type": "number", "minimum": 0, "default": 1.0, "description": "Weight of the loss in the sum."}
    properties = {}
    for name, loss in LOSSES.items():
        options = {option: TypeAdapter(kind).json_schema() for option, kind in options_of(loss).items()}
        for option in options:
            options[option]["default"] = inspect.signature(loss).parameters[option].default
        for stack in (stack for loss_set in LOSS_SETS.values() for stack in loss_set.stacks.get(name, ())):
            options[stack] = {**weight, "description": f"In translation, the weight of the {stack}'s layers."}
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
    """Every setting with its dotted path; a section comes before its settings."""
    for name, child in _resolved(schema, field).get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        if "$ref" in child:
            child = {"description": _resolved(schema, child)["description"], **child}
        yield inner, child
        for choice in [child, *child.get("anyOf", [])]:
            yield from _settings(schema, choice, inner)


def _resolved(schema: Schema, field: Schema) -> Schema:
    resolved: Schema = schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field
    return resolved


def _type(field: Schema) -> str:
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
        items = _words(choice.get("items", {})).removeprefix("one of ")
        return "list of " + re.sub(r"(?<![^ ])(string|integer|number)\b", r"\1s", items)
    word = {"integer": "integer", "number": "number", "string": "string", "boolean": "true or false"}
    return " ".join([word.get(choice.get("type", ""), "anything"), *_bounds(choice)])


def _bounds(choice: Schema) -> list[str]:
    names = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    return [text.format(f"{choice[name]:.10g}") for name, text in names.items() if name in choice]


def _meaning(field: Schema) -> str:
    return str(field.get("description", ""))


def _table(stages: tuple[str, ...], lines: list[str]) -> str:
    if len(stages) == 1:
        heading = f"## {stages[0]}\n\n{(inspect.getdoc(COMMANDS[stages[0]]) or '').splitlines()[0]}"
    else:
        heading = "## every stage" if len(stages) == len(COMMANDS) else f"## {' and '.join(stages)}"
    return "\n".join([heading, "", "| setting | type | default | meaning |", "|---|---|---|---|", *lines, ""])


def _line(path: str, field: Schema) -> str:
    cells = [f"`{path}`", _words(field), _default(field), " ".join(_meaning(field).split())]
    return " | ".join(["", *(cell.replace("|", r"\|") for cell in cells), ""]).strip()


def _default(field: Schema) -> str:
    """The default; empty for a section, whose settings have their own defaults."""
    if "default" not in field:
        return "required"
    if any("$ref" in choice for choice in [field, *field.get("anyOf", [])]) and field["default"] is not None:
        return ""
    return f"`{field['default'] if isinstance(field['default'], str) else json.dumps(field['default'])}`"


def _dumped(value: Schema) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


_USUALLY_EXTENDED = {"task", "data"}  # usually set in a file that `extends` names
_PAGE = """# Every setting

Generated by `make reference` from `tinybert schema STAGE`. A dot separates the levels of nested mappings:
`training.learning_rate` is `learning_rate:` under `training:` in a file, and `training.learning_rate=3e-5` on the
command line. The command line takes precedence over the file, the file over the files that it `extends`, and these
over the defaults. Mappings are merged, all other values are replaced. In strings, `${NAME}` is the environment variable
NAME, `${NAME:-default}` is `default` if NAME is not set, and `$$` is a dollar sign. `~` at the start of a path is the
home folder. Paths in arguments of `predict`, `report` and the other commands are read by the same rules. Paths are
relative to the current directory, except in `extends`, where they are relative to the file.
"""
