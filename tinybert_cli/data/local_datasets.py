"""A local dataset folder: the files of each split, by their names."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tinybert_cli.data.readers import READERS, format_of
from tinybert_cli.errors import InputError
from tinybert_cli.types import Rows

OTHER_NAMES = {  # names of splits that are equally common
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
MOST_NAMES = 4  # in a message
SAVED = "state.json"  # of a dataset that `datasets` wrote with save_to_disk

_SHARD = re.compile(r"(?P<name>.*?)(?P<separator>[-_.]?)(?P<number>\d+)(?:-of-(?P<count>\d+)(?:-[0-9a-f]+)?)?")


@dataclass(frozen=True)
class _Candidate:
    """Files that may be a split: one file, the shards of one table, or a folder of save_to_disk."""

    paths: list[Path]
    missing: Sequence[str] = ()  # names of the absent shards


def split_paths(folder: Path, name: str, config: str | None, *, key: str) -> list[Path]:
    """The files of a split, or its folder from save_to_disk; empty if there are none.

    They are called `train.csv`, `train-00000-of-00002.parquet`, ..., in the folder or in its subfolder `data`; or they
    are in a subfolder `train`. Upper case, .gz and the other names of a split are equivalent. If `config` is a
    subfolder, or if there is nothing but one subfolder with splits, it is read instead of the folder.

    Args:
        key: the setting that names files of this split, for messages.

    Raises:
        InputError: there are two candidates, or a shard is missing.
    """
    root = _root(folder, config)
    candidates = _candidates(root, name)
    if len(candidates) > 1:
        listed = ", ".join(str(candidate.paths[0].relative_to(folder)) for candidate in candidates[:MOST_NAMES])
        raise InputError(
            f"{len(candidates)} candidates for the split '{name}': {listed}",
            where=str(folder),
            hint=f"move all but one of them away, or set {key} to the file to read",
        )
    for candidate in candidates:
        if candidate.missing:
            raise InputError(
                f"the split '{name}' is incomplete: {', '.join(candidate.missing)} is missing",
                where=str(folder),
                hint="copy or download the missing files",
            )
        return candidate.paths
    return []


def read_saved(folder: Path) -> tuple[Rows, dict[str, Any]]:
    """The rows of a folder from save_to_disk, and the features of its columns."""
    import datasets

    with _loading(folder):
        loaded = datasets.load_from_disk(str(folder))
        rows = Rows(loaded.to_dict(), ((str(folder), len(loaded)),))
    return rows, dict(loaded.features.to_dict())


def saved_parts(folder: Path, size: int) -> tuple[dict[str, Any], Iterator[dict[str, list[Any]]]]:
    """The features of a folder from save_to_disk, and its columns in parts of `size` rows, as they are read."""
    import datasets

    with _loading(folder):
        loaded = datasets.load_from_disk(str(folder))

    def parts() -> Iterator[dict[str, list[Any]]]:
        for begin in range(0, len(loaded), size):
            with _loading(folder):
                part = dict(loaded[begin : begin + size])
            yield part

    return dict(loaded.features.to_dict()), parts()


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Errors of the `datasets` library as those of the folder."""
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"cannot load '{folder}': {error}", hint="write it again with save_to_disk") from error


def contents(folder: Path) -> str:
    """The names of the data files in a folder, for messages."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if _is_data(path)]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no data files"


def _root(folder: Path, config: str | None) -> Path:
    if config is not None:
        for named in (folder / config, folder / "data" / config):
            if named.is_dir():
                return named
    if _has_splits(folder):
        return folder
    nested = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_visible(path) and _has_splits(path)]
    if len(nested) > 1:
        names = ", ".join(path.name for path in nested)
        hint = "set data.dataset_config_name to one of them"
        raise InputError(f"several subfolders have splits: {names}", where=str(folder), hint=hint)
    return nested[0] if nested else folder


def _has_splits(folder: Path) -> bool:
    return any(_candidates(folder, name) for name in OTHER_NAMES)


def _candidates(root: Path, name: str) -> list[_Candidate]:
    names = [other.lower() for other in OTHER_NAMES.get(name, (name,))]
    candidates: list[_Candidate] = []
    for folder in (root, root / "data"):
        if (folder / SAVED).is_file():
            candidates += [_Candidate([folder])] if _saved_split(folder) in names else []
        elif folder.is_dir():
            for other in names:
                candidates += _files_named(folder, other)
            candidates += _subfolders_named(folder, names)
    return candidates


def _saved_split(folder: Path) -> str:
    """The split of a single dataset from save_to_disk: the one it was loaded as, or train."""
    try:
        split = json.loads((folder / SAVED).read_text(encoding="utf-8")).get("_split")
    except (ValueError, AttributeError):
        return "train"
    return str(split).lower() if split else "train"


def _files_named(folder: Path, name: str) -> Iterator[_Candidate]:
    """Files called `name.csv`, `name.anything.csv`, and shards called `name-00000-of-00002.csv` or `name_0.csv`."""
    numbered = []
    for path in _data_files(folder):
        stem = _stem(path)
        shard = _SHARD.fullmatch(stem)
        if stem == name or (stem.startswith(f"{name}.") and not (shard and shard["name"] == name)):
            yield _Candidate([path])
        elif shard and shard["name"] == name and shard["separator"]:
            numbered.append(path)
    yield from _shards(numbered)


def _subfolders_named(folder: Path, names: Sequence[str]) -> Iterator[_Candidate]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.lower() not in names:
            continue
        if (path / SAVED).is_file():
            yield _Candidate([path])
        else:
            yield from _shards(_data_files(path))


def _shards(paths: Sequence[Path]) -> Iterator[_Candidate]:
    """The files grouped by the tables that they are shards of; every other file by itself."""
    groups: dict[tuple[str, str, str | None], dict[int, Path]] = defaultdict(dict)
    widths: dict[tuple[str, str, str | None], int] = {}
    for path in paths:
        shard = _SHARD.fullmatch(_stem(path))
        if shard is None:
            yield _Candidate([path])
            continue
        key = (shard["name"] + shard["separator"], path.name[len(_stem(path)) :].lower(), shard["count"])
        widths.setdefault(key, len(shard["number"]))
        if int(shard["number"]) in groups[key]:
            yield _Candidate([path])
        else:
            groups[key][int(shard["number"])] = path
    for key, shards in groups.items():
        (prefix, ending, count), numbers = key, sorted(shards)
        if count is None and numbers[0] > 1:  # years, for example
            yield from (_Candidate([path]) for path in shards.values())
            continue
        first = numbers[0] if count is None else int(int(count) in shards)  # shards are numbered from 0 or 1
        last = numbers[-1] if count is None else first + int(count) - 1
        of = f"-of-{count}" if count else ""
        absent = (number for number in range(first, last + 1) if number not in shards)
        missing = [f"{prefix}{number:0{widths[key]}d}{of}{ending}" for number in islice(absent, MOST_NAMES)]
        yield _Candidate([shards[number] for number in numbers], missing)


def _data_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_data(path))


def _is_data(path: Path) -> bool:
    return _is_visible(path) and format_of(path) in READERS and (path.is_file() or path.is_symlink())


def _is_visible(path: Path) -> bool:
    return not path.name.startswith((".", "_", "~"))


def _stem(path: Path) -> str:
    """The name in lower case, without the ending of the format and .gz."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[0]
