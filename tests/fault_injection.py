"""Faults at a chosen change of a folder: the process is killed there, or the disk is full from there on.

A change is a file that Python opens for writing, or one that it renames, removes or creates, or the deletion of a tree.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDS_SPACE = ("open", "os.mkdir")
CHANGES = (*NEEDS_SPACE, "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.utime", "shutil.rmtree")


class Killed(BaseException):
    """Stands for SIGKILL: no code that runs after it changes the folder."""


@dataclass
class Fault:
    """`kind` is "kill", "full disk" or, to count the changes, "none"; `at` counts from 1."""

    folder: str
    kind: str
    at: int
    changes: int = 0

    @property
    def struck(self) -> bool:
        return self.kind != "none" and self.changes >= self.at

    def meet(self, event: str) -> None:
        if self.kind == "full disk" and event not in NEEDS_SPACE:
            return
        self.changes += 1
        if self.struck and self.kind == "kill":
            raise Killed
        if self.struck:
            raise OSError(errno.ENOSPC, "No space left on device", self.folder)


_active: list[Fault] = []
_installed: list[bool] = []


@contextmanager
def fault(folder: Path, kind: str, at: int = 0) -> Iterator[Fault]:
    """Inside, the fault strikes at the change number `at` in the folder, and at every later one."""
    if not _installed:  # a hook cannot be removed, so it does nothing without an active fault
        sys.addaudithook(_hook)
        _installed.append(True)
    _active.append(Fault(os.path.realpath(folder), kind, at))
    try:
        yield _active[-1]
    finally:
        _active.pop()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _active and event in CHANGES and _is_change(event, arguments):
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and os.path.realpath(path).startswith(_active[-1].folder):
            _active[-1].meet(event)


def _is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    if event != "open":
        return True
    _, mode, flags = arguments
    return (mode is not None and not {*mode}.isdisjoint("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
