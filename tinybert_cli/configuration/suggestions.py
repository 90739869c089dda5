"""Wording for config errors: expected types in words, and did-you-mean suggestions."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tinybert_cli.config import COMMANDS
from tinybert_cli.configuration.yaml_reader import COMMAND_LINE, Node, cropped_line, scalar

Path = tuple[str | int, ...]
Schema = dict[str, Any]  # a JSON schema, as pydantic writes it


def dotted(path: Path) -> str:
    """`training.report_to[0]`"""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def required(command: str) -> list[str]:
    """The top-level keys without a default."""
    return [field.alias or name for name, field in COMMANDS[command].model_fields.items() if field.is_required()]


def schemas_at(command: str, path: Path) -> list[Schema]:
    """The schemas that a setting may match; empty if the command has no such setting."""
    choices = _choices(command, _schema(command))
    for step in path:
        below = [child for choice in choices for child in _children(choice, step)]
        choices = [choice for child in below for choice in _choices(command, child)]
    return choices


def documentation(command: str, path: Path) -> str:
    """The documentation of a setting."""
    section = schemas_at(command, path[:-1])
    child = next((child for choice in section for child in _children(choice, path[-1])), {})
    texts = [child, *schemas_at(command, path)]
    return " ".join(next((text["description"] for text in texts if "description" in text), "").split())


def expected(choices: list[Schema]) -> str:
    """The allowed values in words: `true or false`, `a number above 0 or null`."""
    words = [_words(choice) for choice in choices]
    if words[0].startswith("one of"):
        return "; or ".join(words)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def describe(node: Node) -> str:
    """The value in the file, in words."""
    value = node.value
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if not isinstance(value, str):
        return cropped_line(node.spelled, 60) or "nothing"
    text = cropped_line(" ".join(value[:100].split("\n")), 60)
    return f"the string '{text}' (quoted)" if node.quoted and not isinstance(scalar(value), str) else f"'{text}'"


def replacement(node: Node, path: Path, choices: list[Schema]) -> str:
    """What to write instead of a value that matches none of the schemas; "" if there is no good guess."""
    types = {choice.get("type") for choice in choices}
    words = [word for choice in choices for word in _allowed_words(choice)]
    if words and (near := _nearest_word(node, words)):
        return f"did you mean '{near}'?"
    if isinstance(node.value, str) and types & {"number", "integer", "boolean"}:
        return _unquoted(node.value, node, types)
    if isinstance(node.value, float) and "integer" in types and node.value.is_integer():
        return f"write {int(node.value)}"
    if "string" in types and not words and isinstance(node.value, int | float):
        if node.at.source != COMMAND_LINE:
            return f"write '{node.spelled}'"
        if any(isinstance(part, int) for part in path):  # an item of a list, or a value in it
            return f"""write "{node.spelled}" with its quotes, and the whole argument in '...'"""
        return f"""write '{dotted(path)}="{node.spelled}"'"""
    if "array" in types and isinstance(node.value, str | int | float):
        return f"write a list: [{node.spelled}]"
    return ""


def intended(command: str, section: Path, name: str) -> list[tuple[str, ...]] | str:
    """The settings that an unknown key in this section may refer to, or advice about it; empty if there is no guess."""
    name = name.replace("-", "_")
    sections = list(_sections(command))
    if name in _ADVICE:
        required_setting, advice = _ADVICE[name]
        if not required_setting or _named(command, required_setting):
            return advice.format(command=command)
    if exact := _named(command, name):
        return exact
    for other in _SYNONYMS.get(name, ()):
        if paths := _named(command, other):
            return paths
    same_section = next((keys for path, keys in sections if path == _without_indices(section)), [])
    if near := difflib.get_close_matches(name, same_section, n=1, cutoff=0.6):
        return [(*map(str, section), near[0])]
    all_keys = [key for _, keys in sections for key in keys]
    near = difflib.get_close_matches(name, all_keys, n=1, cutoff=0.8)
    return _named(command, near[0]) if near else ""


def keys_of(command: str, section: Path) -> list[str]:
    """The keys that a section may contain."""
    if not section:  # without the schema, which takes longer to build than everything else here
        return [field.alias or name for name, field in COMMANDS[command].model_fields.items()]
    return next((keys for path, keys in _sections(command) if path == _without_indices(section)), [])


def other_command(command: str, keys: Iterable[str]) -> str | None:
    """The command whose settings match these top-level keys clearly better than those of `command` do."""
    current = {RENAMED.get(key, key) for key in keys}
    mismatches = {name: _mismatch(name, current) for name in COMMANDS}
    unknown, missing = mismatches.pop(command)

    def clearly_better(other: tuple[int, int]) -> bool:
        return other[0] < unknown and (other == (0, 0) or other[1] < missing)

    better = [name for name, mismatch in mismatches.items() if clearly_better(mismatch)]
    least = min((sum(mismatches[name]) for name in better), default=0)
    best = [name for name in better if sum(mismatches[name]) == least]
    return best[0] if len(best) == 1 else None


def only_command(keys: Iterable[str]) -> str | None:
    """The command that alone has all these top-level keys, and whose required keys are among them."""
    fitting = [command for command in COMMANDS if _mismatch(command, set(keys)) == (0, 0)]
    return fitting[0] if len(fitting) == 1 else None


@functools.cache
def _schema(command: str) -> Schema:
    return COMMANDS[command].model_json_schema()


def _without_indices(section: Path) -> tuple[str, ...]:
    """The section of an item of a list is that of the setting, which may also be a single item."""
    return tuple(step for step in section if isinstance(step, str))


def _choices(command: str, schema: Schema) -> list[Schema]:
    """The alternatives of a schema, with references and unions resolved."""
    if "$ref" in schema:
        return _choices(command, _schema(command)["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return [choice for one in schema["anyOf"] for choice in _choices(command, one)]
    return [schema]


def _children(schema: Schema, step: str | int) -> Iterator[Schema]:
    if isinstance(step, int):
        if "items" in schema:
            yield schema["items"]
    elif step in schema.get("properties", {}):
        yield schema["properties"][step]
    elif schema.get("additionalProperties"):
        yield {} if schema["additionalProperties"] is True else schema["additionalProperties"]


def _sections(command: str, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The path and the keys of every mapping with fixed keys; outer mappings first."""
    for choice in schemas_at(command, path):
        if "properties" in choice:
            yield path, list(choice["properties"])
            for key in choice["properties"]:
                yield from _sections(command, (*path, key))


def _named(command: str, name: str) -> list[tuple[str, ...]]:
    """The paths of the settings with this name, or with this dotted path."""
    if "." in name:
        path = tuple(name.split("."))
        return [path] if schemas_at(command, path) else []
    return [(*path, name) for path, keys in _sections(command) if name in keys]


def _mismatch(command: str, keys: set[str]) -> tuple[int, int]:
    """Number of keys that the command does not have, and of required keys that are missing."""
    return len(keys.difference(keys_of(command, ()))), len(set(required(command)) - keys)


def _words(schema: Schema, plural: bool = False) -> str:
    """One schema in words."""
    kind = "object" if "$ref" in schema else schema.get("type")
    if words := _allowed_words(schema):
        return f"'{words[0]}'" if len(words) == 1 else f"one of: {', '.join(words)}"
    if kind in ("integer", "number"):
        singular, plurals = ("an integer", "integers") if kind == "integer" else ("a number", "numbers")
        return f"{plurals if plural else singular}{_bounds(schema)}"
    if kind == "array":
        return f"{'lists' if plural else 'a list'} of{_items(schema)}{_length(schema)}"
    if kind == "string":
        return ("strings" if plural else "a string") + (" that is not empty" if schema.get("minLength") else "")
    if kind == "object":
        return ("mappings" if plural else "a mapping") + (" (not empty)" if schema.get("minProperties") else "")
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "anything")


def _items(schema: Schema) -> str:
    items = schema.get("items", {})
    if words := _allowed_words(items):
        return f": {', '.join(words)}"
    return " " + " or ".join(_words(item, plural=True) for item in items.get("anyOf", [items]))


def _bounds(schema: Schema) -> str:
    if schema["type"] == "integer" and "exclusiveMaximum" in schema:
        schema = {**schema, "maximum": schema["exclusiveMaximum"] - 1}
    if "minimum" in schema and "maximum" in schema:
        return f" from {_number(schema['minimum'])} to {_number(schema['maximum'])}"
    names = {
        "minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below",
    }  # fmt: skip
    bounds = [f"{word} {_number(schema[name])}" for name, word in names.items() if name in schema]
    return f" {' and '.join(bounds)}" if bounds else ""


def _number(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else str(number)


def _length(schema: Schema) -> str:
    least, most = schema.get("minItems"), schema.get("maxItems")
    if least and most:
        return f" ({least} to {most} items)"
    if least:
        return " (not empty)" if least == 1 else f" (at least {least} items)"
    return f" (at most {most} items)" if most else ""


def _allowed_words(schema: Schema) -> list[str]:
    return [str(word) for word in schema.get("enum", [schema["const"]] if "const" in schema else [])]


def _nearest_word(node: Node, words: list[str]) -> str:
    """The allowed word that this scalar most probably refers to; "" if none is similar."""
    if isinstance(node.value, str):
        lower = {word.lower(): word for word in words}
        near = difflib.get_close_matches(node.value.lower(), lower, n=1, cutoff=0.6)
        return lower[near[0]] if near else ""
    nothing = [word for word in ("no", "none") if word in words]
    return nothing[0] if nothing and (node.value is None or node.value is False) else ""


def _unquoted(text: str, node: Node, types: set[str | None]) -> str:
    meaning = scalar(text)
    if "${" in node.spelled and not isinstance(meaning, str):
        return "a variable is always a string; set this on the command line: KEY=VALUE"
    if node.quoted and not isinstance(meaning, str):
        return "write it without quotes"
    plain = re.sub(r"(?<=\d)[_,](?=\d)", "", text)
    if "boolean" not in types:
        return f"write {plain}" if plain != text and not isinstance(scalar(plain), str) else ""
    switch = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}.get(text.lower())
    return f"write {switch}" if switch else ""


RENAMED = {"soft_labels": "label_dataset", "labels": "label_dataset"}  # top-level keys of 0.1 → those of 0.2
OLD_VALUES = {("labels", "gold"): "leave it out: gold labels are the default"}  # of 0.1

# Names of settings in other tools and versions → our names; the first one that the command has is suggested.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    **{old: (new,) for old, new in RENAMED.items()},
    "evaluation_strategy": ("eval_strategy",),
    "teacher_model": ("teacher",),
    "teacher_model_name_or_path": ("teacher",),
    "teacher_name_or_path": ("teacher",),
    "student_model": ("student",),
    "student_model_name_or_path": ("student",),
    "student_name_or_path": ("student",),
    "model_name_or_path": ("model", "student", "teacher", "models"),
    "model_name": ("model", "student", "teacher", "models"),
    "base_model": ("model", "student"),
    "pretrained_model_name_or_path": ("model", "student", "teacher", "models"),
    "temperature": ("losses.soft_labels.temperature",),
    "T": ("losses.soft_labels.temperature",),
    "hard_labels": ("losses.hard_labels",),
    "batch_size": ("per_device_train_batch_size", "per_device_eval_batch_size"),
    "train_batch_size": ("per_device_train_batch_size",),
    "per_gpu_train_batch_size": ("per_device_train_batch_size",),
    "batch_tokens": ("per_device_train_batch_tokens",),
    "max_tokens": ("per_device_train_batch_tokens",),
    "eval_batch_size": ("per_device_eval_batch_size",),
    "per_gpu_eval_batch_size": ("per_device_eval_batch_size",),
    "lr": ("learning_rate",),
    "epochs": ("num_train_epochs",),
    "num_epochs": ("num_train_epochs",),
    "max_train_steps": ("max_steps",),
    "scheduler": ("lr_scheduler_type",),
    "lr_scheduler": ("lr_scheduler_type",),
    "scheduler_type": ("lr_scheduler_type",),
    "decay": ("weight_decay",),
    "max_length": ("max_seq_length",),
    "max_len": ("max_seq_length",),
    "max_seq_len": ("max_seq_length",),
    "patience": ("early_stopping_patience",),
    "random_seed": ("seed",),
    "block_size": ("max_seq_length",),
    "corpus": ("train_file",),
    "corpus_file": ("train_file",),
    "dataset": ("dataset_name",),
    "dataset_config": ("dataset_config_name",),
    "text_column": ("text_column_names",),
    "text_column_name": ("text_column_names",),
    "text_key": ("text_column_names",),
    "label_column": ("label_column_name",),
    "label_key": ("label_column_name",),
    "num_layers": ("num_hidden_layers",),
    "layers": ("num_hidden_layers",),
}

_ACCELERATE = "configure it with `accelerate config`, then run: accelerate launch -m tinybert_cli {command} CONFIG"
_ALPHA = (
    "write losses: {{soft_labels: ..., hard_labels: ...}}; "
    "alpha is the weight of the hard loss in some tools, of the soft loss in others"
)
_COMMANDS = "each stage is a command: tinybert finetune, tinybert distill, tinybert eval"

# Names of other tools without a counterpart → the setting that the advice is about (if any), and the advice.
_ADVICE: dict[str, tuple[str, str]] = {
    "overwrite_output_dir": ("", "use the option --force: tinybert {command} CONFIG --force"),
    "force": ("", "use the option --force: tinybert {command} CONFIG --force"),
    "dry_run": ("", "use the option --dry-run: tinybert {command} CONFIG --dry-run"),
    "do_train": ("", _COMMANDS),
    "do_eval": ("", _COMMANDS),
    "do_predict": ("", "each stage is a command: tinybert eval, tinybert predict"),
    "alpha": ("losses", _ALPHA),
    "warmup_steps": ("warmup_ratio", "use `warmup_ratio` in `training`: a share of the steps, for example 0.1"),
    "num_warmup_steps": ("warmup_ratio", "use `warmup_ratio` in `training`: a share of the steps, for example 0.1"),
    "fp16": ("mixed_precision", "use `mixed_precision` in `training`; auto selects bf16 where it is fast"),
    "bf16": ("mixed_precision", "use `mixed_precision` in `training`; auto selects bf16 where it is fast"),
    "no_cuda": ("", "hide the GPU: CUDA_VISIBLE_DEVICES= tinybert {command} CONFIG"),
    "use_cpu": ("", "hide the GPU: CUDA_VISIBLE_DEVICES= tinybert {command} CONFIG"),
    "logging_dir": ("", "the logs are in `output_dir`"),
    "load_best_model_at_end": ("keep", "use `keep: best` in `training`"),
    "save_strategy": ("save_steps", "use `save_steps` in `training`; null = at every evaluation"),
    "optimizer": ("training", "the optimizer is always AdamW; see `learning_rate` and `weight_decay` in `training`"),
    "optim": ("training", "the optimizer is always AdamW; see `learning_rate` and `weight_decay` in `training`"),
    "num_labels": (
        "label_names",
        "the classes are read from the data; their order can be set with `label_names` in `data`",
    ),
    "num_classes": (
        "label_names",
        "the classes are read from the data; their order can be set with `label_names` in `data`",
    ),
    "mlm": (
        "losses",
        "there is no masked-LM loss: a task-agnostic student learns from its teacher's layers; see `losses`",
    ),
    "mlm_probability": (
        "losses",
        "no tokens are masked: a task-agnostic student learns from its teacher's layers; see `losses`",
    ),
    "gradient_checkpointing": (
        "gradient_accumulation_steps",
        "to save memory, use a smaller `per_device_train_batch_size` and more `gradient_accumulation_steps`",
    ),
    "deepspeed": ("", _ACCELERATE),
    "fsdp": ("", _ACCELERATE),
}
