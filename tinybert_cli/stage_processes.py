"""Processes of stages, and what is passed to them and back: one for each command, or one for all stages of a recipe."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tinybert_cli.errors import Interrupted, UserError
from tinybert_cli.stage_server import FORK, SERVE, Result, parsed

_CTRL_C_ON_WINDOWS = 0xC000013A  # the exit code of a process that Ctrl-C ended before it could handle it


def run_command(command: str, words: Sequence[str], stderr: TextIO) -> tuple[int, Result]:
    """Runs the command of a stage in a process of its own. Returns its exit code and what it prints with --json.

    Raises:
        Interrupted: Ctrl-C or SIGTERM ended the process before the stage had begun.
        UserError: another signal ended it, for example for lack of memory.
    """
    words = [sys.executable, "-m", "tinybert_cli", command, *words, "--json", "--in-recipe"]
    with _stream(stderr) as stream, _forwarding() as started:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stream, text=True, encoding="utf-8")
        started.append(process)
        assert process.stdout is not None
        output = process.stdout.read()
        code = process.wait()
    _check_signal(command, code)
    return code, parsed(command, code, output)


class StageServer:
    """One process that runs stage after stage; `stage_server.serve` is its other end.

    It starts with the first stage. A stage ends as its command would, with the same exit code and result.
    """

    def __init__(self, stderr: TextIO) -> None:
        self.stderr = stderr
        self.forks = can_fork()
        """Whether it forks for each stage; if not, it is for stages that look finished."""
        self._process: subprocess.Popen[str] | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> StageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the process; the next stage would start another one."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended
                self._process.stdin.close()
            self._process.wait()
        self._process = None
        self._open.close()

    def run(self, command: str, words: Sequence[str]) -> tuple[int, Result]:
        """As `run_command`.

        Raises:
            Interrupted, UserError: as `run_command`.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        with _forwarding() as started:
            started.append(process)
            with contextlib.suppress(OSError):  # it has ended, as the missing answer says
                process.stdin.write(json.dumps({"command": command, "words": list(words)}) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
            answer: dict[str, Any] = json.loads(line) if line else {"exit_code": process.wait() or 1, "output": ""}
        code = int(answer["exit_code"])
        _check_signal(command, code)
        return code, parsed(command, code, answer["output"])

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tinybert_cli", SERVE, *([FORK] if self.forks else [])], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=self._open.enter_context(_stream(self.stderr)), text=True,
                encoding="utf-8",
            )  # fmt: skip
        return self._process


def can_fork() -> bool:
    """Whether stages may be forked: only on Linux, as a fork after the import of torch is unsafe elsewhere, and only
    without a GPU driver, which does not work in a fork if an import has used it."""
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/dri/renderD128", "/dev/accel")
    return sys.platform == "linux" and not any(Path(driver).exists() for driver in drivers)


def _check_signal(command: str, code: int) -> None:
    """Raises the error of a process that a signal has ended."""
    if code == _CTRL_C_ON_WINDOWS:
        code = -signal.SIGINT
    if code < 0:
        what = f"the process of tinybert {command} was ended by {signal.Signals(-code).name}"
        if -code in (signal.SIGINT, signal.SIGTERM):
            raise Interrupted(-code, what, hint="run the same command again")
        raise UserError(
            what, hint="the system sends SIGKILL when memory runs out; run the same command again to resume"
        )


@contextlib.contextmanager
def _stream(stderr: TextIO) -> Iterator[Any]:
    """A file for the output of a process: stderr itself or, where it is no file (a notebook), a pipe to it."""
    try:
        stderr.fileno()
    except (AttributeError, OSError, ValueError):
        pass
    else:
        yield stderr
        return
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8", errors="replace") as lines:  # noqa: PTH123  a descriptor
        copier = threading.Thread(target=lambda: [stderr.write(line) for line in lines], daemon=True)
        copier.start()
        try:
            yield writing
        finally:
            os.close(writing)
            copier.join()


@contextlib.contextmanager
def _forwarding() -> Iterator[list[subprocess.Popen[str]]]:
    """Signals that end this process go to the stage, which saves its state; Ctrl-C reaches it from the terminal."""
    running: list[subprocess.Popen[str]] = []
    if threading.current_thread() is not threading.main_thread():
        yield running
        return

    def forward(signum: int, _: object) -> None:
        for process in running:
            if signum != signal.SIGINT:
                process.send_signal(signum)

    earlier = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield running
    finally:
        for signum, handler in earlier.items():
            signal.signal(signum, handler)
