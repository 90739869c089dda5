"""From a tree of settings to typed ones, or to complaints with line and column about all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tinybert_cli.config import COMMANDS, Stage
from tinybert_cli.configuration import suggestions, yaml_reader
from tinybert_cli.configuration.compose import Composed, Key, default_of, entries_of, settings_hint
from tinybert_cli.configuration.yaml_reader import COMMAND_LINE, Complaint, Location, Node
from tinybert_cli.errors import ConfigError, ConfigErrors, InputError

Check = Callable[..., object]


def load(
    command: str,
    file: str | Path,
    overrides: Sequence[str] = (),
    checks: Mapping[str | tuple[str, ...], Check] | None = None,
) -> Stage:
    """The settings of `command` from a file, the files it extends and the command line's `KEY=VALUE`s.

    `checks` express what the types cannot. A check is called with the setting of its top-level key as plain data,
    unless that setting is invalid already; its ConfigErrors have keys relative to the setting. A check of several keys
    runs after the others, with all their settings, and its ConfigErrors have whole keys.

    Raises:
        ConfigErrors: all that is wrong, in the order of the files and then of the command line.
        InputError: a file is missing, a folder, or not UTF-8.
    """
    composed = Composed(command, file, overrides)
    complaints = composed.complaints
    if fatal := composed.fatal:
        raise composed.errors([*complaints, fatal])
    stage = entries_of(composed.tree).get("stage")
    if stage is not None and stage.value in COMMANDS and stage.value != command:
        what, hint = f"this is {_config_of(str(stage.value))}", f"run: tinybert {stage.value} {file}"
        raise composed.errors([Complaint(what, stage.at, hint)])
    if stage is None and (other := suggestions.other_command(command, composed.file_keys)):
        raise composed.errors([_wrong_stage(command, other, composed, file)])
    config, invalid = _validated(command, composed.tree)
    complaints += [complaint for _, complaint in invalid]
    bad_keys = {key[:1] for key, _ in invalid} | {(name,) for name in _meant_by_unknown(command, composed.tree)}
    for keys, check in sorted((checks or {}).items(), key=lambda entry: isinstance(entry[0], tuple)):
        names = keys if isinstance(keys, tuple) else (keys,)
        if not bad_keys & {(name,) for name in names} and COMMANDS[command].model_fields.keys() >= set(names):
            found = _checked(command, composed.tree, names, check, within=() if isinstance(keys, tuple) else names)
            complaints += found
            bad_keys |= {names[:1] for _ in found if len(names) == 1}
    if complaints or config is None:
        raise composed.errors(complaints)
    return config


def stage_of(file: Path) -> str | None:
    """The command in the `stage` key of a config file; None if the file cannot be read or does not name a command."""
    try:
        node = yaml_reader.read(file.read_text(encoding="utf-8"), str(file), [])
    except (OSError, UnicodeDecodeError, Complaint):
        return None
    stage = None if node is None else entries_of(node).get("stage")
    return stage.value if stage is not None and isinstance(stage.value, str) and stage.value in COMMANDS else None


def errors_of(check: Check, values: Iterable[object]) -> list[ConfigError]:
    """The errors that a check of these values raises: a ConfigError, or an ExceptionGroup of several."""
    errors: list[ConfigError] = []
    try:
        check(*values)
    except* ConfigError as group:
        errors += [error for error in group.exceptions if isinstance(error, ConfigError)]
    return errors


def complain(error: ConfigError, command: str, file: str | Path, overrides: Sequence[str] = ()) -> ConfigErrors:
    """An error raised after `load`, whose `key` is the whole path of a setting, with the location of that setting."""
    try:
        composed = Composed(command, file, overrides)
    except InputError:  # the file went away meanwhile; that is not what the user has to hear now
        return ConfigErrors(error.what, where=error.where, hint=error.hint)
    if not error.key or composed.fatal:
        return ConfigErrors(error.what, where=error.where, hint=error.hint)
    return composed.errors([_placed(error, error.key, composed.tree)])


def _wrong_stage(command: str, other: str, composed: Composed, file: str | Path) -> Complaint:
    only_in_other = set(suggestions.keys_of(other, ())).difference(suggestions.keys_of(command, ()))
    entries = entries_of(composed.tree)
    node = next(entries[key] for key in composed.file_keys if suggestions.RENAMED.get(key, key) in only_in_other)
    return Complaint(f"this looks like {_config_of(other)}", node.key_at or node.at, f"run: tinybert {other} {file}")


def _config_of(command: str) -> str:
    return f"{'an' if command[0] in 'aeiou' else 'a'} {command} config"


def _meant_by_unknown(command: str, tree: Node) -> set[str]:
    """The top-level keys that unknown ones probably stand for: an error about them would be a second one."""
    unknown = entries_of(tree).keys() - suggestions.keys_of(command, ())
    meant = (suggestions.meant(command, (), key) for key in unknown)
    return {paths[0][0] for paths in meant if not isinstance(paths, str) and len(paths[0]) == 1}


def _validated(command: str, tree: Node) -> tuple[Stage | None, list[tuple[Key, Complaint]]]:
    """The settings, or what is wrong with them and under which key."""
    plain = tree.plain()
    try:
        return COMMANDS[command].model_validate(plain, by_alias=True, by_name=False), []
    except ValidationError as invalid:
        by_key: dict[Key, Mapping[str, object]] = {}
        for error in invalid.errors(include_url=False):
            key = _real_path(plain, error["loc"])
            by_key.setdefault((*key, error["loc"][-1]) if error["type"] == "missing" else key, error)
    # Of a union, the branch that came further knows better what was meant.
    deepest = [key for key in by_key if not any(other[: len(key)] == key != other for other in by_key)]
    return None, [(key, _complaint(command, tree, key, by_key[key])) for key in deepest]


def _real_path(plain: Any, steps: Sequence[str | int]) -> Key:
    """Pydantic's path without its names for the branches of unions."""
    path: list[str | int] = []
    for step in steps:
        held = dict(enumerate(plain)) if isinstance(plain, list) else plain
        if isinstance(held, dict) and step in held:
            path.append(step)
            plain = held[step]
    return tuple(path)


def _complaint(command: str, tree: Node, key: Key, error: Mapping[str, object]) -> Complaint:
    """What pydantic found, in our words."""
    *_, node = tree.along(key)
    location = node.key_at or node.at
    section, name = key[:-1], str(key[-1]) if key else ""
    inside = f" in `{suggestions.dotted(section)}`" if section else ""
    if error["type"] == "missing":
        return Complaint(f"missing key '{name}'{inside}", location, f"{name}: {suggestions.about(command, key)}")
    if error["type"] == "extra_forbidden":
        return Complaint(f"unknown key '{name}'{inside}", location, _key_hint(command, key, location))
    choices = suggestions.may_be(command, key)
    if not choices or error["type"] == "value_error":
        return Complaint(str(error["msg"]).removeprefix("Value error, "), node.at)
    what = f"`{suggestions.dotted(key)}`: expected {suggestions.expected(choices)}, found {suggestions.found(node)}"
    return Complaint(what, node.at, suggestions.instead(node, key, choices))


def _key_hint(command: str, key: Key, location: Location) -> str:
    """Which key was meant, written as it has to be written there."""
    section, name = key[:-1], str(key[-1])
    meant = suggestions.meant(command, section, name)
    if isinstance(meant, str):
        keys = suggestions.keys_of(command, section)
        listed = f"one of: {', '.join(keys)}" if len(keys) <= 8 else f"all keys: tinybert schema {command}"
        return meant or listed
    argument, _, value = location.text.partition("=")
    if location.source == COMMAND_LINE and location.column <= len(argument):
        return settings_hint(meant, tuple(argument.split(".")[len(key) :]), value)
    path = meant[0]
    if path[:-1] == section:
        return f"did you mean '{path[-1]}'?"
    sections = [f"in `{suggestions.dotted(one[:-1])}`" if one[:-1] else "at the top level" for one in meant]
    if path[-1] == name:
        return f"`{name}` belongs {' or '.join(sections)}"
    return f"did you mean '{path[-1]}' {' or '.join(sections)}?"


def _checked(command: str, tree: Node, keys: Sequence[str], check: Check, *, within: Key) -> list[Complaint]:
    nodes = {key: entries_of(tree).get(key) for key in keys}
    values = [default_of(command, key) if node is None else node.plain() for key, node in nodes.items()]
    return [_placed(error, (*within, *error.key), tree) for error in errors_of(check, values)]


def _placed(error: ConfigError, key: Key, tree: Node) -> Complaint:
    """The error with the location of its setting, or of the nearest mapping around it."""
    nodes = list(tree.along(key))
    node = nodes[-1]
    about_key = error.what.startswith("unknown ") and f"'{key[-1]}'" in error.what
    at_key = about_key or (len(nodes) <= len(key) and isinstance(node.value, dict))
    return Complaint(error.what, (at_key and node.key_at) or node.at, error.hint or "")
