"""What a user can mend, and the exit code that says so.

UserError            1  failed while running
├── ConfigError      2  wrong usage or invalid config
├── InputError       3  an input is missing or unfit
├── OutputError      4  `output_dir` holds something else
├── GateError        5  a gate was not met
└── Interrupted      130 / 143  Ctrl-C / SIGTERM; run again to resume
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something that the user can mend: what is wrong, where, and what to do about it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.hint:
            lines.append(f"   = {self.hint}")
        return "\n".join(lines)


class ConfigError(UserError):
    """A setting that cannot be; `key` is its path in the config, ("losses", "soft_labels", "temperature")."""

    exit_code = 2

    def __init__(
        self, what: str, *, key: tuple[str | int, ...] = (), where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.key = key


class ConfigErrors(UserError):
    """Every complaint about one config, each already set out with its place in the file."""

    exit_code = 2


class InputError(UserError):
    """A file, column, model, label dataset, optional package or the network is missing or unfit."""

    exit_code = 3


class OutputError(UserError):
    """`output_dir` holds something else, or another process is writing to it."""

    exit_code = 4


class GateError(UserError):
    """A gate was not met: `require` in eval, `verify` in export."""

    exit_code = 5


class Interrupted(UserError):
    """Ctrl-C or SIGTERM; everything up to the last step is saved."""

    def __init__(self, signum: int, what: str, *, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.exit_code = 128 + signum


def look_up(table: Mapping[str, T], name: str, what: str, *, key: tuple[str | int, ...] = ()) -> T:
    """The entry called `name`; a ConfigError that names the nearest spelling and all the others if there is none."""
    if name in table:
        return table[name]
    raise ConfigError(f"unknown {what} '{name}'", key=key, hint=did_you_mean(name, table))


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`did you mean 'x'?` for the nearest name, else the list of names."""
    known = list(names)
    return nearest(name, known) or f"one of: {', '.join(known)}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for the nearest name, or None if none is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else None
