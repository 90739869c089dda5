"""Ctrl-C and SIGTERM while a run is open."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tinybert_cli.errors import Interrupted


class Signals:
    """Ctrl-C and SIGTERM while a run is open: raised at once, or kept until the loop asks between two steps."""

    def __init__(self) -> None:
        self.received = 0
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pending(self) -> int:
        """The signal that came in while deferred, or 0."""
        return self.received

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal only sets `received`; a second one does not wait."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._deferring and not self.received:
            self.received = number
            return
        raise Interrupted(
            number, f"interrupted by {signal.Signals(number).name}", hint="run the same command again to go on"
        )
