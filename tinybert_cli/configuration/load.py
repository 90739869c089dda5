"""Validates a tree of settings: typed settings, or all problems with line and column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tinybert_cli.config import COMMANDS, Stage
from tinybert_cli.configuration import suggestions, yaml_reader
from tinybert_cli.configuration.compose import Composed, default_of, settings_hint
from tinybert_cli.configuration.extends import Key, entries_of
from tinybert_cli.configuration.yaml_reader import (
    COMMAND_LINE,
    MAX_BYTES,
    MAX_PROBLEMS,
    ConfigProblem,
    Location,
    Node,
)
from tinybert_cli.errors import ConfigError, ConfigErrors, InputError
from tinybert_cli.files import read_text

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
        ConfigErrors: all problems, in the order of the files, then of the command line.
        InputError: a file is missing, a folder, or not UTF-8.
    """
    composed = Composed(command, file, overrides)
    config, problems = validated(composed, file, checks or {})
    if problems or config is None:
        raise composed.errors(problems)
    return config


def validated(
    composed: Composed, file: str | Path, checks: Mapping[str | tuple[str, ...], Check]
) -> tuple[Stage | None, list[ConfigProblem]]:
    """The settings, and all problems: those of reading the files, of the types and of the checks."""
    command, problems = composed.command, composed.problems
    if fatal := composed.fatal:
        return None, [*problems, fatal]
    if wrong_stage := _wrong_stage(command, composed, file):
        return None, [wrong_stage]
    config, invalid = _validated(command, composed.tree)
    problems += [problem for _, problem in invalid]
    bad_keys = {key[:1] for key, _ in invalid} | {(name,) for name in _intended_by_unknown_keys(command, composed.tree)}
    for keys, check in sorted(checks.items(), key=lambda entry: isinstance(entry[0], tuple)):
        names = keys if isinstance(keys, tuple) else (keys,)
        if not bad_keys & {(name,) for name in names} and COMMANDS[command].model_fields.keys() >= set(names):
            within = () if isinstance(keys, tuple) else names
            failed = _check_problems(command, composed.tree, names, check, within=within)
            problems += failed
            bad_keys |= {names[:1] for _ in failed if len(names) == 1}
    return config, problems


def stage_of(file: Path) -> str | None:
    """The command in the `stage` key of a config file; None if the file cannot be read or does not name a command."""
    try:
        node = yaml_reader.read(read_text(file, most=MAX_BYTES), str(file), [])
    except (InputError, OSError, UnicodeDecodeError, ConfigProblem):
        return None
    stage = None if node is None else entries_of(node).get("stage")
    return str(stage.value) if stage is not None and _is_command(stage) else None


def sources(command: str, file: str | Path, overrides: Sequence[str] = ()) -> list[str]:
    """The config file and the files that it extends."""
    return Composed(command, file, overrides).sources


def errors_of(check: Check, values: Iterable[object]) -> list[ConfigError]:
    """The errors that a check of these values raises: a ConfigError, or an ExceptionGroup of several."""
    errors: list[ConfigError] = []
    try:
        check(*values)
    except* ConfigError as group:
        errors += [error for error in group.exceptions if isinstance(error, ConfigError)]
    return errors


def raise_all(errors: Iterable[ConfigError]) -> None:
    """Raises all problems of one check together, if there are any."""
    problems = list(errors)
    if problems:
        raise ExceptionGroup("problems of one check", problems)


def with_location(error: ConfigError, command: str, file: str | Path, overrides: Sequence[str] = ()) -> ConfigErrors:
    """A ConfigError that was raised after `load`, with the location of the setting that its `key` names."""
    try:
        composed = Composed(command, file, overrides)
    except InputError:  # the file was deleted in the meantime; the first error is more important
        return ConfigErrors(error.what, where=error.where, hint=error.hint)
    if not error.key or composed.fatal:
        return ConfigErrors(error.what, where=error.where, hint=error.hint)
    return composed.errors([_located(error, error.key, composed.tree)])


def _wrong_stage(command: str, composed: Composed, file: str | Path) -> ConfigProblem | None:
    """The problem that a config belongs to another command: by its `stage` key or, without one, by its other keys."""
    entries = entries_of(composed.tree)
    stage = entries.get("stage")
    if stage is not None:
        if not _is_command(stage) or stage.value == command:
            return None
        what, other, location = "this is", str(stage.value), stage.at
    else:
        guess = suggestions.other_command(command, composed.file_keys)
        if guess is None:
            return None
        only_in_other = set(suggestions.keys_of(guess, ())).difference(suggestions.keys_of(command, ()))
        node = next(entries[key] for key in composed.file_keys if suggestions.RENAMED.get(key, key) in only_in_other)
        what, other, location = "this looks like", guess, node.key_at or node.at
    article = "an" if other[0] in "aeiou" else "a"
    return ConfigProblem(f"{what} {article} {other} config", location, f"run: tinybert {other} {file}")


def _is_command(node: Node) -> bool:
    return isinstance(node.value, str) and node.value in COMMANDS


def _intended_by_unknown_keys(command: str, tree: Node) -> set[str]:
    """The absent top-level keys that unknown keys probably refer to: an error about them would be a duplicate."""
    unknown = entries_of(tree).keys() - suggestions.keys_of(command, ())
    intended = (suggestions.intended(command, (), key) for key in sorted(unknown)[:MAX_PROBLEMS])
    names = {paths[0][0] for paths in intended if not isinstance(paths, str) and len(paths[0]) == 1}
    return names - entries_of(tree).keys()


def _validated(command: str, tree: Node) -> tuple[Stage | None, list[tuple[Key, ConfigProblem]]]:
    """The settings, or their problems by key."""
    plain = tree.plain()
    try:
        return COMMANDS[command].model_validate(plain, by_alias=True, by_name=False), []
    except ValidationError as invalid:
        by_key: dict[Key, Mapping[str, object]] = {}
        for error in invalid.errors(include_url=False):
            key = _real_path(plain, error["loc"])
            by_key.setdefault((*key, error["loc"][-1]) if error["type"] == "missing" else key, error)
    # The deepest error of a union is in the branch that was intended.
    outer = {key[:length] for key in by_key for length in range(len(key))}
    deepest = [key for key in by_key if key not in outer]
    return None, [(key, _problem(command, tree, key, by_key[key])) for key in deepest[:MAX_PROBLEMS]]


def _real_path(plain: Any, steps: Sequence[str | int]) -> Key:
    """Pydantic's path without the names of union branches."""
    path: list[str | int] = []
    for step in steps:
        is_key = isinstance(plain, dict) and step in plain
        is_index = isinstance(plain, list) and isinstance(step, int) and step < len(plain)
        if is_key or is_index:
            path.append(step)
            plain = plain[step]
    return tuple(path)


def _problem(command: str, tree: Node, key: Key, error: Mapping[str, object]) -> ConfigProblem:
    """Pydantic's error in our words."""
    *_, node = tree.along(key)
    location = node.key_at or node.at
    section, name = key[:-1], str(key[-1]) if key else ""
    inside = f" in `{suggestions.dotted(section)}`" if section else ""
    if error["type"] == "missing":
        return ConfigProblem(
            f"missing key '{name}'{inside}", location, f"{name}: {suggestions.documentation(command, key)}"
        )
    if error["type"] == "extra_forbidden":
        hint = suggestions.OLD_VALUES.get((name, node.value)) if isinstance(node.value, str) and not section else None
        return ConfigProblem(f"unknown key '{name}'{inside}", location, hint or _key_hint(command, key, location))
    choices = suggestions.schemas_at(command, key)
    if not choices or error["type"] == "value_error":
        return ConfigProblem(str(error["msg"]).removeprefix("Value error, "), node.at)
    what = f"`{suggestions.dotted(key)}`: expected {suggestions.expected(choices)}, found {suggestions.describe(node)}"
    return ConfigProblem(what, node.at, suggestions.replacement(node, key, choices))


def _key_hint(command: str, key: Key, location: Location) -> str:
    """The intended key, written as it must be written at this location."""
    section, name = key[:-1], str(key[-1])
    intended = suggestions.intended(command, section, name)
    if isinstance(intended, str):
        keys = suggestions.keys_of(command, section)
        listed = f"one of: {', '.join(keys)}" if len(keys) <= 8 else f"all keys: tinybert schema {command}"
        return intended or listed
    argument, _, value = location.text.partition("=")
    if location.source == COMMAND_LINE and location.column <= len(argument):
        return settings_hint(intended, tuple(argument.split(".")[len(key) :]), value)
    path = intended[0]
    if path[:-1] == tuple(map(str, section)):
        return f"did you mean '{path[-1]}'?"
    sections = [f"in `{suggestions.dotted(one[:-1])}`" if one[:-1] else "at the top level" for one in intended]
    if path[-1] == name:
        return f"`{name}` belongs {' or '.join(sections)}"
    return f"did you mean '{path[-1]}' {' or '.join(sections)}?"


def _check_problems(command: str, tree: Node, keys: Sequence[str], check: Check, *, within: Key) -> list[ConfigProblem]:
    nodes = {key: entries_of(tree).get(key) for key in keys}
    values = [default_of(command, key) if node is None else node.plain() for key, node in nodes.items()]
    return [_located(error, (*within, *error.key), tree) for error in errors_of(check, values)]


def _located(error: ConfigError, key: Key, tree: Node) -> ConfigProblem:
    """The error with the location of its setting, or of the innermost mapping around it."""
    nodes = list(tree.along(key))
    node = nodes[-1]
    about_key = error.what.startswith("unknown ") and f"'{key[-1]}'" in error.what
    at_key = about_key or (len(nodes) <= len(key) and isinstance(node.value, dict))
    return ConfigProblem(error.what, (at_key and node.key_at) or node.at, error.hint or "")
