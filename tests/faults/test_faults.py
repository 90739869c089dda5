"""Faults, each met by a command in a process of its own: the exit code, the message, and the files afterwards.

`make faults` runs all of them and writes docs/reliability.md; without --faults only the fast ones run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

import pytest
import world
from table import TABLE, Fault
from world import Moment

FAULTS = [
    pytest.param(kind, fault, id=f"{kind}: {fault.name}", marks=[pytest.mark.faults] if fault.slow else [])
    for kind, faults in TABLE.items()
    for fault in faults
]
STOPPED = ["teacher", "labels", "student", "eval", "export"]  # the stages that are stopped, by folder
MOMENTS = 8  # evenly spread changes of files before which a run is stopped; the first and the last are among them
Record = Callable[..., None]


@pytest.fixture(scope="session")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.build(tmp_path_factory.mktemp("cascade") / "world")


@pytest.fixture
def folder(cascade: Path, tmp_path: Path) -> Path:
    """A private copy of the finished cascade."""
    return Path(shutil.copytree(cascade, tmp_path / "world", symlinks=True))


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    """Notes one row of docs/reliability.md: kind, fault, command, exit code, message, files afterwards."""
    return lambda *row: record_property("fault", json.dumps(row))


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_fault_is_reported_and_changes_nothing(kind: str, fault: Fault, folder: Path, record: Record) -> None:
    fault.damage(folder)
    before = world.contents(folder)
    result = world.run(folder, *fault.words.split())
    assert (result.code, fault.message in result.err) == (fault.code, True), result.err
    assert "Traceback" not in result.err and "bug in tinybert" not in result.err
    assert [name for name in world.changes(before, world.contents(folder)) if not name.endswith("/run.log")] == []
    record(kind, fault.name, fault.words, fault.code, result.message, "as before")


# -- stopped runs --------------------------------------------------------------------------------------------


def spread(total: int, moments: int) -> list[int]:
    """Numbers from 1 to `total`, evenly spread."""
    return sorted({1 + round(index * (total - 1) / max(moments - 1, 1)) for index in range(moments)})


def stop_and_rerun(folder: Path, name: str, number: Signals, moments: int) -> tuple[Counter[int | None], str]:
    """Stops the stage before a file changes, at this many moments, and runs the same command again each time.

    Returns:
        The exit codes of the stopped runs, counted, and the last message of one.
    """
    words = (world.STAGES[name][0], f"{name}.yaml")
    expected = world.results(folder / name)
    shutil.rmtree(folder / name)
    total = world.count_changes(folder, *words)
    assert world.results(folder / name) == expected
    codes: Counter[int | None] = Counter()
    message = ""
    for moment in spread(total, moments):
        shutil.rmtree(folder / name)
        stopped = world.run(folder, *words, moment=Moment(moment, number))
        codes[stopped.code] += 1
        message = stopped.message or message
        again = world.run(folder, *words)
        assert again.code == 0, f"change {moment} of {total}: {again.err}"
        assert world.results(folder / name) == expected, f"change {moment} of {total}"
    return codes, message


@pytest.mark.faults
@pytest.mark.parametrize("number", [SIGKILL, SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_ends_in_identical_bytes(name: str, number: Signals, folder: Path, record: Record) -> None:
    codes, message = stop_and_rerun(folder, name, number, MOMENTS)
    # SIGTERM: before the folder is open the signal just ends the process; 0: the folder was complete already
    wanted = {SIGKILL: {-SIGKILL}, SIGTERM: {-SIGTERM, 128 + SIGTERM, 0}}[number]
    assert set(codes) <= wanted and codes[-SIGTERM] <= 2
    command = f"{world.STAGES[name][0]} {name}.yaml"
    code = 137 if number == SIGKILL else 143
    after = "after the same command again: identical to those of a run without a stop"
    record("Stopped runs", f"{number.name} at {sum(codes.values())} moments", command, code, message, after)


def test_a_killed_distillation_ends_in_identical_bytes(folder: Path) -> None:
    assert stop_and_rerun(folder, "student", SIGKILL, 3) == ({-SIGKILL: 3}, "")


@pytest.mark.faults
@pytest.mark.parametrize("name", STOPPED)
def test_a_killed_replacement_never_leaves_a_mixture(name: str, folder: Path, record: Record) -> None:
    words = (world.STAGES[name][0], f"{name}.yaml", "--force", "seed=7")
    original = shutil.copytree(folder, folder.with_name("original"), symlinks=True)
    total = world.count_changes(folder, *words)
    expected = world.results(folder / name)
    moments = spread(total, MOMENTS)
    for moment in moments:
        shutil.rmtree(folder)
        shutil.copytree(original, folder, symlinks=True)
        stopped = world.run(folder, *words, moment=Moment(moment, SIGKILL))
        assert stopped.code == -SIGKILL
        complete = world.is_complete(folder / name)
        assert complete or world.is_being_replaced(folder / name), f"change {moment} of {total}"
        again = world.run(folder, *words)
        assert again.code == 0, f"change {moment} of {total}: {again.err}"
        assert world.results(folder / name) == expected, f"change {moment} of {total}"
    after = "the old run complete, or the new one, or no manifest, so that nothing reads it; after a rerun: the new one"
    record("Stopped runs", f"SIGKILL at {len(moments)} moments of --force", " ".join(words), 137, "", after)


def test_a_second_process_in_one_folder_is_refused(folder: Path, record: Record) -> None:
    shutil.rmtree(folder / "student")
    words = ("distill", "student.yaml", "training.max_steps=2000", "training.eval_steps=2000")
    with world.started(folder, *words) as first:
        assert first.wait_until((folder / "student" / "log.jsonl").exists)
        second = world.run(folder, *words)
        assert first.process.exitcode is None
    assert second.code == 4 and "another process" in second.err
    record(
        "Stopped runs", "two processes, one folder", " ".join(words), 4, second.message, "those of the first process"
    )


# -- disks ---------------------------------------------------------------------------------------------------


@contextmanager
def disk(path: Path, size: int) -> Iterator[Callable[[str], None]]:
    """A file system of `size` bytes at `path`; yields a function that changes its options."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", path], check=True) and None
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.faults
@pytest.mark.parametrize("name", STOPPED)
def test_a_run_on_a_full_disk_goes_on_after_making_room(name: str, folder: Path, record: Record) -> None:
    words = (world.STAGES[name][0], f"{name}.yaml", f"output_dir=disk/{name}")
    needed = sum(path.stat().st_size for path in (folder / name).rglob("*"))
    expected = world.results(folder / name)
    messages: list[str] = []
    for part in (0.02, 0.25, 0.5, 0.75, 0.95, 1.1, 1.6):
        with disk(folder / "disk", max(int(needed * part), 8192)) as change:
            full = world.run(folder, *words)
            assert full.code in (0, 1), full.err
            if full.code:
                assert "disk" in full.message and "bug in tinybert" not in full.err
                messages.append(full.message)
            change("size=64m")
            assert world.run(folder, *words).code == 0
            assert world.results(folder / "disk" / name) == expected
        (folder / "disk").rmdir()
    assert len(messages) > 2
    after = "after making room and the same command again: identical to those of a run without a fault"
    record("Disks", f"full at {len(messages)} sizes of the disk", " ".join(words), 1, messages[-1], after)


@pytest.mark.faults
def test_a_finished_run_on_a_read_only_disk_is_up_to_date(folder: Path, record: Record) -> None:
    words = ("distill", "student.yaml", "output_dir=disk/student")
    with disk(folder / "disk", 64 << 20) as change:
        assert world.run(folder, *words).code == 0
        change("ro")
        again = world.run(folder, *words)
        new = world.run(folder, "distill", "student.yaml", "output_dir=disk/new")
    assert again.code == 0 and "up to date" in again.err
    assert new.code == 4 and "Read-only file system" in new.message
    record("Disks", "read-only, finished run", " ".join(words), 0, "up to date", "as before")
    record("Disks", "read-only, new run", "distill student.yaml output_dir=disk/new", 4, new.message, "as before")


# -- damaged checkpoints -------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_damaged_checkpoint_costs_one_checkpoint(folder: Path, record: Record) -> None:
    expected = world.results(folder / "student")
    shutil.rmtree(folder / "student")
    words = ("distill", "student.yaml", "training.save_steps=4")
    total = world.count_changes(folder, *words)
    shutil.rmtree(folder / "student")
    assert world.run(folder, *words, moment=Moment(total // 2, SIGKILL)).code == -SIGKILL
    newest = max((folder / "student" / "checkpoints").glob("step-*"))
    for file in newest.iterdir():
        if file.suffix in (".bin", ".safetensors", ".pt", ".pkl"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
    again = world.run(folder, *words)
    assert again.code == 0 and newest.name in again.err
    assert {k: v for k, v in world.results(folder / "student").items() if k != "run.yaml"} == expected
    record("Flipped bits and missing parts", "newest checkpoint of a killed run", " ".join(words), 0,
           "resumes from the checkpoint before it", "identical to those of a run without a fault")  # fmt: skip
