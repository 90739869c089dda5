"""What Windows lacks: modules of POSIX, locks of folders, renaming of open files, `/` in paths."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import tinybert_cli
from tinybert_cli.artifacts import atomic_files, folder_lock
from tinybert_cli.artifacts.records import append_events
from tinybert_cli.errors import OutputError
from tinybert_cli.loops import profiling

POSIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty")

# torch and transformers import `resource` or `pwd` where these exist, so they are imported before.
IMPORT_ALL = f"""
import importlib, sys
import accelerate, datasets, matplotlib, onnxruntime, pyarrow.parquet, scipy.stats, sklearn.metrics, torch, transformers
import filelock, multiprocessing, subprocess, tempfile
for name in {POSIX_ONLY!r}:
    sys.modules[name] = None
for name in sys.argv[1:]:
    importlib.import_module(name)
"""

LOCK = """
import sys
from pathlib import Path
from tinybert_cli.artifacts import folder_lock
folder_lock.fcntl = None
with folder_lock.locked(Path(sys.argv[1]), skip=False):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_every_module_imports_without_the_modules_of_posix() -> None:
    packages = pkgutil.walk_packages(tinybert_cli.__path__, "tinybert_cli.")
    absent = {f"tinybert_cli.integrations.{name}" for name in ("flair", "spacy") if find_spec(name) is None}
    left_out = {"tinybert_cli.__main__", *absent}  # the integrations need their own packages
    names = ["tinybert", *(module.name for module in packages if module.name not in left_out)]
    completed = subprocess.run([sys.executable, "-c", IMPORT_ALL, *names], capture_output=True, encoding="utf-8")
    assert completed.returncode == 0, completed.stderr[-2000:]


@pytest.fixture
def without_fcntl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "fcntl", None)


@pytest.mark.usefixtures("without_fcntl")
def test_lock_file_excludes_another_process_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", LOCK, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(OutputError, match="another process"), folder_lock.locked(folder, skip=False):
            pass
        other.kill()
    with folder_lock.locked(folder, skip=False):
        pass


@pytest.mark.usefixtures("without_fcntl")
def test_lock_file_is_outside_of_the_folder_and_is_removed(tmp_path: Path) -> None:
    with folder_lock.locked(tmp_path / "run", skip=False):
        assert not list((tmp_path / "run").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_log_is_closed_between_two_events(tmp_path: Path) -> None:
    """Windows renames no open file, and a finished run that replaces another one moves its log."""
    new, final = tmp_path / "new.jsonl", tmp_path / "log.jsonl"
    paths = iter([new, new, final])
    events = append_events(lambda: next(paths), [{"event": "step"}, {"event": "done"}])
    next(events)
    assert not any(path.samefile(new) for path in Path("/proc/self/fd").glob("*") if path.exists())
    new.rename(final)
    next(events)
    assert [json.loads(line)["event"] for line in final.read_text(encoding="utf-8").splitlines()] == ["step", "done"]


def test_file_is_synced_through_a_descriptor_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FlushFileBuffers fails for others."""
    import fcntl

    modes: list[int] = []
    monkeypatch.setattr("os.fsync", lambda fd: modes.append(fcntl.fcntl(fd, fcntl.F_GETFL) & 3))
    (tmp_path / "file").write_text("content", encoding="utf-8")
    atomic_files.sync(tmp_path / "file")
    assert modes == [2]  # O_RDWR


def test_recorded_names_have_slashes() -> None:
    """Names in a manifest come from as_posix(), never from str() of a path."""
    sources = Path(tinybert_cli.__file__).parent.rglob("*.py")
    assert not [path.name for path in sources if "str(path.relative_to(" in path.read_text(encoding="utf-8")]


def test_peak_memory_without_resource_is_that_of_the_process() -> None:
    grow = [sys.executable, "-c", "block = bytearray(150 * 2**20); import time; time.sleep(0.1)"]
    starter = [sys.executable, "-c", profiling._STARTER_ON_WINDOWS]
    completed = subprocess.run([*starter, *grow], capture_output=True, check=True, encoding="utf-8")
    code, seconds, peak = json.loads(completed.stdout)
    assert code == 0 and seconds > 0.1 and 150 * 2**20 < peak < 300 * 2**20


@pytest.mark.parametrize(("given", "threads"), [("", 7), ("3", 3)])
def test_threads_are_counted_without_the_affinity_of_linux(
    given: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows and macOS have no sched_getaffinity."""
    from tinybert_cli.formats import ctranslate2

    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert ctranslate2._threads() == threads
