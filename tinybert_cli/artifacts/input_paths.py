"""An output folder must not be an input, hold one or lie in one: a run would change what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tinybert_cli.config import Stage
from tinybert_cli.errors import OutputError

DATA_FILES = ("train_file", "validation_file", "test_file", "unlabeled_file")


def check_output_dir(folder: Path, config: Stage, inputs: Mapping[str, Any]) -> None:
    """Checks the output folder against the inputs of a run and all files in `data`, also those that it does not read.

    Args:
        inputs: name → description or descriptions, see `manifests.describe`.

    Raises:
        OutputError: it is one of them, holds one, or lies in one.
    """
    for key, path in [*_described(inputs), *_data_files(config)]:
        check_is_apart(folder, key, path)


def check_config_files(folder: Path, files: Iterable[str | Path]) -> None:
    """Checks that an output folder holds no config file of the run, except the run.yaml of an earlier run.

    Raises:
        OutputError: it does.
    """
    for file in map(Path, files):
        if not (file.name == "run.yaml" and _is_same(file.parent, folder)):
            check_is_apart(folder, "the config", file)


def check_is_apart(folder: Path, key: str, path: Path) -> None:
    """Checks that an output folder is not `path`, does not hold it and does not lie in it; links are followed.

    Args:
        key: the setting that names the path.

    Raises:
        OutputError: it does.
    """
    if not path.exists():
        return
    same, holds, within = _is_same(folder, path), _is_in(path, folder), path.is_dir() and _is_in(folder, path)
    relation = "is" if same else "contains" if holds else "is inside" if within else None
    if relation is not None:
        raise OutputError(
            f"output_dir '{folder}' {relation} an input of this run: {key} '{path}'", hint="choose another output_dir"
        )


def _described(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    for key, value in inputs.items():
        for description in value if isinstance(value, list) else [value]:
            if "path" in description:
                yield key, Path(description["path"])


def _data_files(config: Stage) -> Iterator[tuple[str, Path]]:
    for name in DATA_FILES:
        value = getattr(config.data, name)
        for file in [value] if isinstance(value, str) else value or []:
            yield f"data.{name}", Path(file)


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path, or what it links to, is a folder or lies in it, whatever the spelling of both."""
    locations = (path.resolve(), path.parent.resolve() / path.name)
    return any(_is_same(parent, folder) for location in locations for parent in (location, *location.parents))


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
