"""A recipe: the stages of one pipeline, as a folder of files or as one file, in the order in which they must run."""

from __future__ import annotations

import graphlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from tinybert_cli.config import COMMANDS, Stage
from tinybert_cli.configuration import recipe_file, suggestions, yaml_reader
from tinybert_cli.configuration.compose import Composed, in_order
from tinybert_cli.configuration.extends import Files, entries_of
from tinybert_cli.configuration.load import Check, stage_of, validated
from tinybert_cli.configuration.yaml_reader import MAX_BYTES, ConfigProblem
from tinybert_cli.errors import ConfigErrors, InputError, did_you_mean
from tinybert_cli.escaping import shell_word
from tinybert_cli.files import read_text

Checks = Mapping[str, Mapping[str | tuple[str, ...], Check]]  # of every command

RECIPE_FILE = "recipe.yaml"
DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".conll", ".txt", ".gz", ".xlsx")
_SCOPED = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9_.-]*):([^=]*=.*)", re.DOTALL)  # `student:training.max_steps=3`


@dataclass(frozen=True)
class RecipeStage:
    """One stage of a recipe."""

    name: str
    """The last part of its output_dir."""
    command: str
    file: Path
    """Its config file, or `recipe.yaml#name`: what the command takes."""
    overrides: tuple[str, ...]
    """The `KEY=VALUE`s that apply to it."""
    config: Stage
    reads: tuple[str, ...] = ()
    """The names of the stages whose output it reads."""


def load_recipe(recipe: Path, overrides: Sequence[str], checks: Checks) -> list[RecipeStage]:
    """The stages of a recipe, each after those whose output it reads.

    Args:
        recipe: a folder with a `recipe.yaml` or with one file per stage, or one such file.
        overrides: `KEY=VALUE` for every stage that has this setting, `finetune:KEY=VALUE` for the stages of one
            command, `student:KEY=VALUE` for one stage.

    Raises:
        ConfigErrors: all problems of all stages; two stages with one name or in one folder; a cycle.
        InputError: a file is missing, or the folder contains no recipe.
    """
    files = _stage_files(recipe)
    problems: list[ConfigProblem] = []
    sources: list[str] = []
    stages: list[RecipeStage] = []
    by_stage = _divided(overrides, files)
    for (command, file), own in zip(files, by_stage, strict=True):
        composed = Composed(command, file, own)
        config, more = validated(composed, file, checks.get(command, {}))
        problems += more
        sources += composed.sources
        if config is not None:
            name = PurePath(config.output_dir).name
            stages.append(RecipeStage(name, command, file, tuple(own), config))
    problems += _unused(recipe, [command for command, _ in files])
    if problems:
        unique = {(problem.what, problem.location): problem for problem in problems}  # of a setting that is shared
        raise in_order(list(unique.values()), list(dict.fromkeys(sources)))
    _check_folders(stages)
    return _ordered([replace(stage, reads=tuple(_reads(stage, stages))) for stage in stages])


def _stage_files(recipe: Path) -> list[tuple[str, Path]]:
    """The command and the file, or `file#name`, of every stage."""
    if recipe.is_dir():
        return _in_folder(recipe)
    path, name = recipe_file.split_address(recipe)
    if path.suffix.lower() in DATA_SUFFIXES and path.is_file():
        raise ConfigErrors(
            f"'{path}' is data, not a recipe",
            hint=f"a recipe for it: tinybert init mine --data {shell_word(str(path))}",
        )
    command = stage_of(recipe)
    if name is None:
        try:
            tree = Files().read(path)
            entries = recipe_file.entries(tree)
        except ConfigProblem as problem:
            raise ConfigErrors(str(problem)) from problem
        if entries:
            return [(_command_of(entry), path.with_name(f"{path.name}#{entry.name}")) for entry in entries]
        command = command or suggestions.only_command(entries_of(tree))
    if command is None:
        raise ConfigErrors(
            f"'{recipe}' is no recipe: it has no `stages`, and no `stage`",
            hint=f"list its stages below `stages:`, each with its `stage:`, one of {', '.join(COMMANDS)}",
        )
    return [(command, recipe)]


def _command_of(entry: recipe_file.Entry) -> str:
    if entry.command is not None:
        return entry.command
    stage = entries_of(entry.node).get("stage")
    if stage is None:
        raise ConfigErrors(
            str(ConfigProblem("missing key 'stage'", entry.node.at, f"stage: one of {', '.join(COMMANDS)}"))
        )
    what = f"unknown stage {suggestions.describe(stage)}"
    raise ConfigErrors(str(ConfigProblem(what, stage.at, did_you_mean(str(stage.value), COMMANDS))))


def _in_folder(folder: Path) -> list[tuple[str, Path]]:
    """The stages of a folder: those of its recipe.yaml, or its files with a `stage:`, by name."""
    files = sorted((path for path in folder.iterdir() if path.suffix in (".yaml", ".yml")), key=_by_number)
    commands = {path: stage_of(path) for path in files if path.name != RECIPE_FILE}
    stages = [(command, path) for path, command in commands.items() if command]
    if folder / RECIPE_FILE in files:
        if stages:
            others = ", ".join(path.name for _, path in stages[:3])
            raise ConfigErrors(
                f"'{folder}' holds a {RECIPE_FILE} and other stages: {others}",
                hint=f"name the file: tinybert run {folder / RECIPE_FILE}; or move one of them away",
            )
        return _stage_files(folder / RECIPE_FILE)
    extended = {os.path.realpath(source) for path in files for source in _sources(path)}
    for path in [path for path, command in commands.items() if command is None]:
        if os.path.realpath(path) not in extended:
            raise ConfigErrors(
                f"'{path}' has no `stage`, and no other file of the folder extends it",
                hint=f"add `stage:`, one of {', '.join(COMMANDS)}; or move the file away",
            )
    if not stages:
        raise InputError(f"'{folder}' contains no recipe", hint=f"a recipe is a {RECIPE_FILE}, or a file per stage")
    return stages


def _by_number(path: Path) -> tuple[float, str]:
    """`10-eval.yaml` comes after `9-plain.yaml`; files without a number come last."""
    number = re.match(r"\d+", path.name)
    return (int(number[0]) if number else float("inf"), path.name)


def following_stage(file: Path) -> tuple[str, Path] | None:
    """The command and the file of the stage after this one, if the names of the files begin with numbers."""
    if not file.name[:1].isdecimal():
        return None
    numbered = sorted(file.parent.glob("[0-9]*.yaml"), key=_by_number)
    following = (path for path in numbered if _by_number(path) > _by_number(file))
    return next(((command, path) for path in following if (command := stage_of(path)) is not None), None)


def _sources(path: Path) -> list[str]:
    """The files that a config file extends."""
    files = Files()
    try:
        files.read(path)
    except ConfigProblem:  # reported when the stage is loaded
        return []
    return files.sources[1:]


def _unused(recipe: Path, commands: Sequence[str]) -> list[ConfigProblem]:
    path, name = recipe_file.split_address(recipe / RECIPE_FILE if recipe.is_dir() else recipe)
    if name is not None or not path.is_file():
        return []
    tree = yaml_reader.read(read_text(path, most=MAX_BYTES, encoding="utf-8-sig"), str(path), [])
    return recipe_file.unused(tree, commands) if tree is not None and recipe_file.STAGES in entries_of(tree) else []


# -- KEY=VALUE -------------------------------------------------------------------------------------------------


def _divided(overrides: Sequence[str], files: Sequence[tuple[str, Path]]) -> list[list[str]]:
    """For each stage, the `KEY=VALUE`s that apply to it."""
    divided: list[list[str]] = [[] for _ in files]
    matches = [_SCOPED.fullmatch(override) for override in overrides]
    names = [_name_of(command, file) for command, file in files] if any(matches) else []
    for override, scoped in zip(overrides, matches, strict=True):
        if scoped is None:
            key = re.split("[.=]", override)[0]
            stages = [at for at, (command, _) in enumerate(files) if key in suggestions.keys_of(command, ())]
            stages = stages or [0]  # its error says what was probably meant
        else:
            stages = [at for at, (command, _) in enumerate(files) if scoped[1] in (command, names[at])]
            if not stages:
                known = list(dict.fromkeys([*names, *(command for command, _ in files)]))
                raise ConfigErrors(
                    f"no stage '{scoped[1]}' in this recipe, but '{override}' is for it",
                    hint=did_you_mean(scoped[1], known),
                )
        for at in stages:
            divided[at].append(override if scoped is None else scoped[2])
    return divided


def _name_of(command: str, file: Path) -> str:
    output_dir = entries_of(Composed(command, file, ()).tree).get("output_dir")
    return recipe_file.stage_name(output_dir) or file.stem


# -- who reads whose output ------------------------------------------------------------------------------------


def _check_folders(stages: Sequence[RecipeStage]) -> None:
    """Two stages that write one folder, or one into the other's, would destroy each other's files."""
    for at, stage in enumerate(stages):
        for other in stages[:at]:
            if stage.name == other.name:
                raise ConfigErrors(
                    f"two stages are named '{stage.name}': {other.file} and {stage.file}",
                    hint="the last part of output_dir names a stage; choose another one for one of them",
                )
            if _is_within(stage.config.output_dir, other.config.output_dir) or _is_within(
                other.config.output_dir, stage.config.output_dir
            ):
                raise ConfigErrors(
                    f"the output_dir of one stage is inside that of another: '{other.config.output_dir}' "
                    f"({other.file}) and '{stage.config.output_dir}' ({stage.file})",
                    hint="give each stage a folder of its own",
                )


def _reads(stage: RecipeStage, stages: Sequence[RecipeStage]) -> Iterator[str]:
    paths = list(_strings(stage.config.model_dump(by_alias=True, exclude={"output_dir"})))
    for other in stages:
        if any(_is_within(path, other.config.output_dir) for path in paths):
            yield other.name


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from _strings(item)


def _is_within(path: str, folder: str) -> bool:
    """Whether a setting names the folder or something in it; a name that is no path is in no folder."""
    try:
        inner, outer = os.path.realpath(path), os.path.realpath(folder)
    except (OSError, ValueError):
        return False
    return inner == outer or inner.startswith(f"{outer.rstrip(os.sep)}{os.sep}")


def _ordered(stages: Sequence[RecipeStage]) -> list[RecipeStage]:
    """Each stage after those that it reads, otherwise in the order of the recipe."""
    by_name = {stage.name: stage for stage in stages}
    sorter = graphlib.TopologicalSorter({stage.name: stage.reads for stage in stages})
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        *chain, _ = error.args[1]
        readers = " -> ".join([*chain, chain[0]])
        raise ConfigErrors(
            f"the stages of this recipe read each other's output: {readers}",
            hint="each stage must be able to run before those that read its output_dir",
        ) from error
    order: list[RecipeStage] = []
    waiting = [stage.name for stage in stages]
    ready: set[str] = set()
    while waiting:
        ready |= set(sorter.get_ready())
        first = next(name for name in waiting if name in ready)
        waiting.remove(first)
        sorter.done(first)
        order.append(by_name[first])
    return order
