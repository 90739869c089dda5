"""Which rows each shard of a label dataset holds: of rows that are all known, or of streams.

The number of shards is in their names, and a stream tells it at its end only. Until then, a shard of a stream has a
name without it; `StreamedRows.finish` renames all.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, data, processes
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError, OutputError
from tinybert_cli.stages import labelling
from tinybert_cli.types import Rows
from tinybert_cli.wording import counted

NOTE = "streams"  # see `Output.note`
IsFinished = Callable[[str, str], bool]  # (shard, split) → whether an earlier run has written all its files


@dataclass(frozen=True)
class Shard:
    """One file of a label dataset, and the rows that it is made from."""

    name: str
    split: str
    indices: range  # of its rows in the split
    rows: Callable[[], Rows]

    def __len__(self) -> int:
        return len(self.indices)


class KnownRows:
    """The shards of splits whose rows are all known."""

    def __init__(self, splits: Mapping[str, Rows]) -> None:
        self.splits = splits  # the rows that are checked before the first shard is labelled
        self.total: int | None = sum(map(len, splits.values()))
        self.shards = [
            Shard(name, split, indices, functools.partial(splits[split].select, indices))
            for name, (split, indices) in labelling.shards_of(splits).items()
        ]
        self.done: list[str] = []  # names of the finished shards

    def find_finished(self, is_finished: IsFinished) -> int:
        """Looks for the shards of an earlier run; returns the number of their rows."""
        self.done = [shard.name for shard in self.shards if is_finished(shard.name, shard.split)]
        return sum(len(shard) for shard in self.shards if shard.name in self.done)

    def groups(self) -> Iterator[Sequence[Shard]]:
        """The unfinished shards in groups of as many as there are processes; each process writes one of a group."""
        yield from labelling.groups([shard for shard in self.shards if shard.name not in self.done])

    def finished_names(self) -> list[str]:
        """The names of the shards that `find_finished` has found."""
        return sorted(self.done)

    def is_last(self, group: Sequence[Shard]) -> bool:
        """Whether it is known that no group follows."""
        missing = [shard.name for shard in self.shards if shard.name not in self.done]
        return group[-1].name == missing[-1]

    def row_counts(self) -> dict[str, int]:
        """Rows of each split; of a stream those that were read."""
        return {split: len(rows) for split, rows in self.splits.items()}

    def names(self) -> list[tuple[str, str]]:
        """Name and split of each shard that is finished at the end."""
        return [(shard.name, shard.split) for shard in self.shards]

    def facts(self) -> dict[str, Any]:
        """What the manifest states about the rows."""
        return {}


class StreamedRows:
    """The shards of splits that are read as streams, once, and at most a group of shards ahead.

    Args:
        force: labels shards again whose rows have changed since an earlier run, instead of an error.

    Raises:
        InputError: a source is missing, or its first rows cannot be read.
    """

    def __init__(self, config: GenSoftLabels, output: artifacts.Output, *, force: bool) -> None:
        self.output, self.data, self.force = output, config.data, force
        self.notes: dict[data.Split, dict[str, Any]] = {
            split: output.notes.get(NOTE, {}).get(split, {"shards": [], "states": {}, "facts": {}})
            for split in config.splits
        }
        self.streams: dict[data.Split, data.Stream] = {}
        self.splits: dict[str, Rows] = {}  # the first rows of each
        self.rest: dict[data.Split, Iterator[Rows]] = {}
        for split in config.splits:
            self._open(split)
        self.total: int | None = None
        self.done: dict[tuple[data.Split, int], str] = {}  # split and number of each finished shard → its name
        self.read = dict.fromkeys(config.splits, 0)  # shards of each split that were read

    def _open(self, split: data.Split) -> None:
        revision = self.notes[split]["facts"].get("revision")  # the commit that an earlier run has begun with
        stream = self.streams[split] = data.open_stream(self.data, split, revision=revision)
        self.rest[split] = data.stream_shards(
            stream, self.data, labelling.ROWS_PER_SHARD, most=data.most_rows(self.data, split)
        )
        first = next(self.rest[split], None)
        if first is None:
            raise data.no_rows([stream.origin])
        self.splits[split] = first
        self.notes[split]["facts"] = dict(stream.facts)

    def find_finished(self, is_finished: IsFinished) -> int:
        """See `KnownRows`; of a shard that was renamed already, both names are tried."""
        rows = 0
        for split, note in self.notes.items():
            for number, shard in enumerate(note["shards"]):
                names = (_early_name(split, number), _final_name(split, number, len(note["shards"])))
                name = next((name for name in names if is_finished(name, split)), None)
                if name is not None:
                    self.done[split, number] = name
                    rows += shard["rows"]
        return rows

    def groups(self) -> Iterator[Sequence[Shard]]:
        """See `KnownRows`.

        Raises:
            InputError: a stream breaks, after the complete shards before were yielded.
            OutputError: the rows of a finished shard have changed.
        """
        group: list[Shard] = []
        for split in self.notes:
            shards = self._missing(split)
            while True:
                try:
                    shard = next(shards, None)
                except InputError as error:
                    if group:
                        yield self._recorded(group)
                    raise self._broken(split, error) from error
                if shard is None:
                    break
                own = len(group) == processes.rank()
                group.append(shard if own else Shard(shard.name, split, shard.indices, _of_another_process))
                if len(group) == processes.count():
                    yield self._recorded(group)
                    group = []
        if group:
            yield self._recorded(group)

    def _recorded(self, group: list[Shard]) -> list[Shard]:
        """The group, after what is known of its rows was recorded, with which a later run goes on."""
        self.output.note(NOTE, self.notes)
        return group

    def _missing(self, split: data.Split) -> Iterator[Shard]:
        note, known, stream = self.notes[split], self.notes[split]["shards"], self.streams[split]
        finished = [(split, number) in self.done for number in range(len(known))]
        first = 0
        shards: Iterator[Rows] = itertools.chain([self.splits[split]], self.rest[split])
        if starts := [int(start) for start in note["states"] if all(finished[: int(start)])]:
            first = max(starts)
            most = data.most_rows(self.data, split)
            state = note["states"][str(first)]
            shards = data.stream_shards(
                stream, self.data, labelling.ROWS_PER_SHARD, most=most, first=first, state=state
            )
        self.read[split] = first
        for number, rows in enumerate(shards, first):
            data.check_names(rows)
            entry = {"rows": len(rows), "sha256": data.rows_digest(rows)}
            if (split, number) not in self.done or known[number] != entry:
                self._forget_changed(split, number)
                known[number:] = [entry, *known[number + 1 :]]
                if (state := stream.state()) is not None:  # one per shard of a group, and the one before it
                    note["states"] = dict([*note["states"].items(), (str(number + 1), state)][-1 - processes.count() :])
                begin = number * labelling.ROWS_PER_SHARD
                yield Shard(
                    _early_name(split, number), split, range(begin, begin + len(rows)), functools.partial(_same, rows)
                )
                self.done[split, number] = _early_name(split, number)
            self.read[split] = number + 1
        for number in range(self.read[split], len(known)):  # of a file that had more rows in an earlier run
            self._forget_changed(split, number)
        del known[self.read[split] :]

    def _forget_changed(self, split: data.Split, number: int) -> None:
        """Removes a finished shard, if there is one, whose rows are others now.

        Raises:
            OutputError: unless --force is given.
        """
        name = self.done.get((split, number))
        if name is None:
            return
        if not self.force:
            raise OutputError(
                f"'{self.output.folder}' holds an unfinished run with other inputs: the rows of {name} have changed",
                where=self.streams[split].origin,
                hint="restore the data, or choose another output_dir; --force labels the changed rows again",
            )
        del self.done[split, number]
        for file in self._files_of(name):
            self.output.files.discard(file)

    def _files_of(self, shard: str) -> list[str]:
        stem = shard.removesuffix(".parquet")
        return [file for file in self.output.files.names() if file.startswith(f"{stem}.")]

    def _broken(self, split: data.Split, error: InputError) -> InputError:
        """The error of a stream, with what is finished."""
        count = self.read[split]
        rows = sum(shard["rows"] for shard in self.notes[split]["shards"][:count])
        done = f"the {rows:,} rows of {split} before it, {counted(count, 'shard')}, are finished" if count else ""
        hint = "; ".join(
            part for part in (error.hint, done, "the same command goes on from there" * bool(count)) if part
        )
        return InputError(error.what, where=error.where, hint=hint or None)

    def finished_names(self) -> list[str]:
        """See `KnownRows`."""
        return sorted(self.done.values())

    def is_last(self, group: Sequence[Shard]) -> bool:
        """Never: a stream tells it when it ends."""
        return False

    def row_counts(self) -> dict[str, int]:
        """See `KnownRows`."""
        return {split: sum(shard["rows"] for shard in note["shards"]) for split, note in self.notes.items()}

    def names(self) -> list[tuple[str, str]]:
        """See `KnownRows`."""
        return [
            (_final_name(split, number, len(note["shards"])), split)
            for split, note in self.notes.items()
            for number in range(len(note["shards"]))
        ]

    def finish(self, added: Sequence[str]) -> list[str]:
        """Gives all shards their final names and the same columns; may be called again if it was interrupted.

        Args:
            added: names of the columns that a label dataset adds.

        Returns:
            The columns that are stored as text from now on, because values of later shards have another type.

        Raises:
            InputError: a file was changed since it was read.
        """
        self.output.note(NOTE, self.notes)
        sources = data.sources(self.data, list(self.streams))
        self.output.inputs |= artifacts.describe_all(sources)
        for stream in self.streams.values():
            if isinstance(stream, data.FileStream):
                stream.check_unchanged()  # and so was hashed as it was read
        if not self.output.main:
            return []
        finals = {
            self.done[split, number]: _final_name(split, number, len(note["shards"]))
            for split, note in self.notes.items()
            for number in range(len(note["shards"]))
        }
        paths = {name: self.output.files.path(name) for name in finals}
        types = data.types_of_shards(list(paths.values()), added)
        as_text = data.columns_that_became_text(list(paths.values()), types)
        for name, path in paths.items():
            if not data.has_types(path, types, added):
                final = finals[name]
                self.output.files.put(functools.partial(_rewritten, path, final, types, added))
                if final != name:
                    self.output.files.discard(name)
        files = {
            file: final.removesuffix(".parquet") + file.removeprefix(name.removesuffix(".parquet"))
            for name, final in finals.items()
            for file in (self._files_of(name) if name != final else [])
        }
        self.output.files.rename(files)
        return as_text

    def facts(self) -> dict[str, Any]:
        """See `KnownRows`."""
        return {
            "streams": {
                split: {**note["facts"], "rows": self.row_counts()[split], "sha256": _digest(note["shards"])}
                for split, note in self.notes.items()
            }
        }


def describe_data(config: GenSoftLabels) -> dict[str, Any]:
    """The data for the manifest. A stream is read first and hashed later, unless there is a run to compare it with."""
    sources = data.sources(config.data, config.splits)
    if config.data.streaming and not artifacts.has_finished(Path(config.output_dir)):
        return artifacts.name_all(sources)
    return artifacts.describe_all(sources)


def _early_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.parquet"


def _final_name(split: str, number: int, count: int) -> str:
    return labelling.shard_name(split, number, count)


def _same(rows: Rows) -> Rows:
    return rows


def _of_another_process() -> Rows:
    raise AssertionError("the rows of a shard that another process labels")


def _rewritten(path: Path, name: str, types: dict[str, Any], added: Sequence[str], folder: Path) -> None:
    data.write_with_types(path, folder / name, types, added)


def _digest(shards: Sequence[Mapping[str, Any]]) -> str:
    """sha256 over those of all shards."""
    return hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()
