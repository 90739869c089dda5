"""The processes of one run: who is in it according to the environment, and what they tell each other.

`torchrun`, `accelerate launch` and `mpirun` start every process with its rank and the number of processes. Process 0 is
the main one: it prints and writes the output folder. Nothing here imports torch unless there are several processes.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tinybert_cli.errors import ConfigError, Interrupted, UserError
from tinybert_cli.events import Event

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")

SHARED = ("finetune", "gen-soft-labels", "distill", "eval")  # the stages whose work several processes share
_PATIENCE = 3.0  # seconds that a process that has closed its connections is given to end
_LONGEST_WAIT = timedelta(days=7)  # for other processes; one that has ended is noticed at once
_PATIENCE_AT_END = 10.0  # seconds that the first process of a machine is given to print the error

_RERUN = "Run the same command again; it resumes from the last checkpoint, if there is one"
_DEAD_WORKER = re.compile(r"DataLoader worker \((pid[^)]*\).*)")  # as torch words it
_CLOSED = re.compile(r"connection (closed|reset)|broken pipe", re.IGNORECASE)  # as gloo and NCCL word it
_peers: list[tuple[str, int]] = []  # machine and process id of every process, by rank
_groups: list[ProcessGroup] = []  # the one that `_gather` uses: on the CPU, as it may wait for hours


def rank() -> int:
    """The number of this process, from 0."""
    return _number(_RANK, 0)


def count() -> int:
    """The number of processes of this run."""
    return _number(_COUNT, 1)


def is_main() -> bool:
    return rank() == 0


def is_first_on_machine() -> bool:
    """Whether this process prints errors that all processes of a machine have in common."""
    return _number(_LOCAL_RANK, rank()) == 0


def check(command: str) -> None:
    """ConfigError if the processes cannot share the work of this stage, or do not know of each other."""
    for name in (*_RANK, *_COUNT, *_LOCAL_RANK):
        value = os.environ.get(name, "0")
        if not value.isdecimal():
            raise ConfigError(f"the environment variable {name} is not a number: {value!r}", hint=f"unset {name}")
    if count() == 1:
        if rank():
            raise ConfigError(
                f"this process is number {rank()} of a run, but the number of processes is not set",
                hint=f"start it with torchrun, or unset {_name_of(_RANK)}",
            )
        launched = "ACCELERATE_MIXED_PRECISION" in os.environ and not _is_set(_RANK)
        if launched and "MASTER_PORT" in os.environ:  # accelerate launch sets it if `--num_processes` is above 1
            raise ConfigError(
                "accelerate launch started only one process, as it does on CPUs",
                hint=f"torchrun --standalone --nproc_per_node N -m tinybert_cli {command} ... starts N",
            )
        missing = [name for name in _OF_TORCH if not os.environ.get(name)]
        if command in SHARED and "LOCAL_RANK" in os.environ and missing:
            raise ConfigError(
                f"LOCAL_RANK is set, as if there were several processes, but {' and '.join(missing)} is not set",
                hint="start them with torchrun, or unset LOCAL_RANK to run in one process",
            )
        return
    missing = [names[0] for names in (_RANK, ("MASTER_ADDR",), ("MASTER_PORT",)) if not _is_set(names)]
    if missing:
        raise ConfigError(
            f"{_name_of(_COUNT)} is {count()}, so there are several processes, but {' and '.join(missing)} is not set",
            hint=f"start them with torchrun, or unset {_name_of(_COUNT)} to run in one process",
        )
    if rank() >= count():
        what = f"{_name_of(_RANK)} is {rank()}, but {_name_of(_COUNT)} is {count()}"
        raise ConfigError(what, hint="start the processes with torchrun")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings bypass run.log
    if command not in SHARED:
        raise ConfigError(
            f"{command} runs in one process, and {count()} were started",
            hint=f"run: tinybert {command} ...; several processes share the work of {', '.join(SHARED)}",
        )


def connect() -> None:
    """Connects the processes of this run, on the CPU where there is no GPU. With one process does nothing.

    Raises:
        ConfigError: there are more processes on this machine than GPUs, or they do not see each other.
    """
    if count() == 1 or _peers:
        return
    import torch
    from accelerate import PartialState

    gpu = torch.accelerator.current_accelerator(check_available=True)
    on_cpu = gpu is None or gpu.type == "mps" or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    here = _number(("LOCAL_WORLD_SIZE",), 1)
    if not on_cpu and here > torch.accelerator.device_count():
        raise ConfigError(
            f"{here} processes were started on this machine, which has {torch.accelerator.device_count()} GPU(s)",
            hint="start one process per GPU, or set ACCELERATE_USE_CPU=true to use the CPU",
        )
    state = PartialState(cpu=on_cpu)
    if state.num_processes != count():
        raise ConfigError(
            f"{count()} processes were started, but Accelerate sees {state.num_processes}",
            hint="start them with torchrun or accelerate launch",
        )
    _groups.append(torch.distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT))
    _peers.extend(_gather((socket.gethostname(), os.getpid())))


def disconnect() -> None:
    """Forgets the connections: a group is freed with the last reference to it."""
    _groups.clear()
    _peers.clear()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block first. If it fails, every other process raises the same error instead."""
    connect()
    if count() > 1 and not is_main():
        error = _gather(None)[0]
        if error is not None:
            raise error
    try:
        yield
    except BaseException as error:
        if count() > 1 and is_main():
            known = isinstance(error, UserError) and not isinstance(error, Interrupted)
            _gather(error if known else UserError(f"process 0 failed: {error}"))
        raise
    if count() > 1 and is_main():
        _gather(None)


def results(value: T, error: Exception | None = None) -> list[T]:
    """The values of all processes, by rank.

    Raises:
        Exception: the error of the first process that has one, in all processes.
    """
    pairs = [(value, error)] if count() == 1 else _gather((value, error))
    for _, other in pairs:
        if other is not None:
            raise other
    return [own for own, _ in pairs]


def wait() -> None:
    """Waits until all processes have called this function."""
    results(None)


def agree(value: object) -> bool:
    """Whether the value is the same in all processes."""
    return count() == 1 or all(other == value for other in _gather(value))


def naming_lost(events: Iterable[Event]) -> Iterator[Event]:
    """Passes the events of a stage on. If it fails because a process it works with has ended, the error names that.

    Raises:
        UserError: another process of this run, or one that reads batches for it, has ended.
    """
    try:
        yield from events
    except (RuntimeError, Interrupted) as error:
        worker = _DEAD_WORKER.search(str(error))
        if worker is not None:
            raise UserError(
                f"a process that reads batches (training.dataloader_num_workers) has ended: {worker[1].strip(' .')}",
                hint=f"it was killed, for example for lack of memory. {_RERUN}",
            ) from error
        lost = _lost(error)
        if lost is None:
            raise
        raise lost from error


def is_stopped() -> bool:
    """Whether the launcher stops this process, as it does when another one has failed; waits a few seconds for it."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        time.sleep(_PATIENCE_AT_END)
    except _Stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process ends with its own exit code
        return True
    return False


class _Stopped(Exception):
    pass


def _stop(*_: object) -> None:
    raise _Stopped


def _lost(error: Exception) -> UserError | None:
    """The error that names the processes of this run that have ended; None if none has."""
    if len(_peers) < 2:
        return None
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun stops the others, which end anyway
    ended = _ended(patience=0.0 if isinstance(error, Interrupted) else _PATIENCE)
    if ended:
        who = f"the process of rank {' and '.join(map(str, ended))}"
    elif _CLOSED.search(str(error)) and len({machine for machine, _ in _peers}) > 1:
        who = "a process on another machine"
    else:
        signal.signal(signal.SIGTERM, handler)
        return None
    return UserError(
        f"{who} has ended, one of {count()} of this run",
        hint=f"see its own error; if it has none, it was killed, for example for lack of memory. {_RERUN}",
    )


def _ended(*, patience: float) -> list[int]:
    """The ranks on this machine whose processes have ended; waits up to `patience` seconds for one to end."""
    machine, end = socket.gethostname(), time.monotonic() + patience
    here = [(number, pid) for number, (host, pid) in enumerate(_peers) if host == machine]
    while True:
        ended = [number for number, pid in here if not _is_alive(pid)]
        if ended or time.monotonic() > end:
            return ended
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)  # a zombie has ended
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # of another user
        return True


def _gather(value: object) -> Sequence[Any]:
    """The value of every process, on all processes."""
    import torch

    values: list[Any] = [None] * count()
    try:
        torch.distributed.all_gather_object(values, value, group=_groups[0])
    except RuntimeError as error:
        lost = _lost(error)
        if lost is None:
            raise
        raise lost from error
    return values


def _is_set(names: Sequence[str]) -> bool:
    return any(os.environ.get(name) for name in names)


def _name_of(names: Sequence[str]) -> str:
    """The first of these environment variables that is set."""
    return next(name for name in names if os.environ.get(name))


def _number(names: Sequence[str], default: int) -> int:
    """The value of the first of these environment variables that is set to a number."""
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), default)


_OF_TORCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # which it connects processes by
# as in Accelerate
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
