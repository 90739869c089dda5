"""Ctrl-C and SIGTERM during a run."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tinybert_cli import processes
from tinybert_cli.errors import Interrupted

SAME_SIGNAL = 1.0  # seconds in which two signals count as one


class Signals:
    """Handles Ctrl-C and SIGTERM: raises Interrupted at once or, inside `deferred`, only records the signal.

    A training loop runs inside `deferred` and checks `pending` between two steps, so that no step is interrupted.
    """

    def __init__(self) -> None:
        self.received = 0
        self._time = 0.0  # of the first signal
        self._deferring = False
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM)
            self._handlers_before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            if signal.getsignal(number) == self._handle:  # else another part has replaced it
                signal.signal(number, handler)

    def pending(self) -> int:
        """The number of the signal that was received inside `deferred`, or 0."""
        return self.received

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal is only recorded; a second one raises Interrupted at once. At the end, one that
        nothing inside has raised does: it is not lost.

        With several processes, a terminal and torchrun both pass Ctrl-C on to each of them: two signals count as one.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.received:
            raise _interrupted(self.received)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._deferring and not self.received:
            self.received, self._time = number, time.monotonic()
            return
        if self._deferring and processes.count() > 1 and time.monotonic() < self._time + SAME_SIGNAL:
            return
        raise _interrupted(number)


def _interrupted(number: int) -> Interrupted:
    return Interrupted(number, f"interrupted by {signal.Signals(number).name}", hint="run the same command again")
