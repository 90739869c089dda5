"""Programs measured in turns, each time in a new process, and never two at once: speed, CPU time and peak memory.

A script describes its comparison as a `Benchmark` and calls `main`, which runs it alone and prints the result.
`run_all.py` runs all of them and records the results for docs/performance.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from common import data_name, scratch, seconds

ROOT = Path(__file__).parents[1]
VERSIONS = ("tinybert", "torch", "transformers", "onnxruntime", "ctranslate2", "textbrewer")
PREPARE, PEAK = "prepare", "peak"
PASSES = 4  # of each matrix product; the fastest one counts
MATRIX = 2048

Settings = Mapping[str, Any]
Measurement = dict[str, Any]  # see `Side`
Result = dict[str, Any]  # see `measure`


class MissingPeer(Exception):
    """A program that a side needs is not there; the message says how to get it."""


class FailedSide(Exception):
    """The process of a side ended with an error."""


@dataclass(frozen=True)
class Side:
    """One of the programs that are compared.

    `measure(folder, settings, prepared)` returns case → {"rows", "seconds", "cpu_seconds", "precision"} with the
    precision of its matrix products (float32, bf16 or int8), optionally with "flops" (floating-point operations of the
    model per row, without padding) and "equal" (share of outputs that are those of the first side). A benchmark with
    one case calls it "".

    Raises:
        MissingPeer: the program is not installed.
    """

    name: str
    measure: Callable[[Path, Settings, Settings], dict[str, Measurement]]
    own: bool = False  # whether it is tinybert's


@dataclass(frozen=True)
class Bar:
    """How many times as fast `side` has to be as `peer`."""

    side: str
    peer: str
    ratio: float


@dataclass(frozen=True)
class Benchmark:
    """Programs that do the same work.

    `prepare(folder, settings)` writes what all of them read and returns numbers for them and for the page; it is not
    timed. `settings` are JSON values; `quick` replaces some of them for a run that only shows that everything works.
    """

    name: str
    script: str  # __file__
    sides: tuple[Side, ...]
    settings: dict[str, Any]
    quick: dict[str, Any]
    prepare: Callable[[Path, Settings], dict[str, Any]]
    bars: tuple[Bar, ...] = ()
    threads: int | None = None  # None = one per core
    rounds: int = 3

    def quick_version(self) -> Benchmark:
        """The same with few rows, one round and one thread; its numbers mean nothing."""
        return replace(self, settings={**self.settings, **self.quick}, rounds=1, threads=1)


# -- one benchmark -------------------------------------------------------------------------------------------


def measure(benchmark: Benchmark, tell: Callable[[str], None]) -> Result:
    """All rounds of a benchmark, as JSON values.

    Returns {"sides": [{"name", "own", "missing" or "rounds": [{"cases", "peak_bytes"}, ...]}, ...],
    "peaks": [precision → operations per second, ...] by round, "busy": [percent, ...] of other programs before each
    round, "minutes" of everything, "prepared", "bars", and what `conditions` returns}.

    Raises:
        FailedSide: a process of it failed.
    """
    given, begin = conditions(benchmark), time.perf_counter()
    with scratch() as folder:
        tell(f"{benchmark.name}: preparing")
        prepared = child(benchmark, PREPARE, folder, {})
        sides: dict[str, dict[str, Any]] = {
            side.name: {"name": side.name, "own": side.own, "rounds": []} for side in benchmark.sides
        }
        peaks, busy = [], []
        for turn in range(benchmark.rounds):
            busy.append(other_load())
            peaks.append(child(benchmark, PEAK, folder, {}))
            for side in benchmark.sides:
                entry = sides[side.name]
                if "missing" in entry:
                    continue
                tell(f"{benchmark.name}: round {turn + 1} of {benchmark.rounds}, {side.name}")
                answer = child(benchmark, side.name, folder, prepared)
                if "missing" in answer:
                    entry["missing"] = answer["missing"]
                    del entry["rounds"]
                else:
                    entry["rounds"].append(answer)
    return {
        **given,
        "minutes": (time.perf_counter() - begin) / 60,
        "prepared": prepared,
        "peaks": peaks,
        "busy": busy,
        "sides": list(sides.values()),
        "bars": [vars(bar) for bar in benchmark.bars],
    }


def conditions(benchmark: Benchmark) -> dict[str, Any]:
    """What a result depends on; a recorded result with the same conditions, except for the date, is still valid."""
    return {
        "name": benchmark.name,
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "code": code_hash(benchmark.script),
        "data": data_name(),
        "reference": bool(os.environ.get("TINYBERT_REFERENCE")),
        "threads": benchmark.threads or cores(),
        "settings": benchmark.settings,
        "number_of_rounds": benchmark.rounds,
    }


def is_current(result: Result, benchmark: Benchmark) -> bool:
    """Whether a result was measured under the conditions of now."""
    now = json.loads(json.dumps(conditions(benchmark)))
    return all(result.get(key) == value for key, value in now.items() if key != "date")


def child(benchmark: Benchmark, part: str, folder: Path, prepared: Settings) -> dict[str, Any]:
    """The answer of a new process that runs one side, `prepare`, or `peak`, with the benchmark's number of threads."""
    threads = str(benchmark.threads or cores())
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    environment |= dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS"], threads)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as private:
        job, answer = Path(private) / "job.json", Path(private) / "answer.json"
        work = {"part": part, "folder": str(folder), "settings": benchmark.settings, "prepared": dict(prepared)}
        job.write_text(json.dumps({"benchmark": benchmark.name, **work}), encoding="utf-8")
        words = [sys.executable, benchmark.script, "--child", str(job), str(answer)]
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            last_lines = "\n".join(done.stdout.decode(errors="replace").splitlines()[-15:])
            raise FailedSide(f"{benchmark.name}, {part}: exit code {done.returncode}\n{last_lines}")
        result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return result


def answer_job(benchmark: Benchmark, job: Path, answer: Path) -> None:
    """The work of a process that `child` starts."""
    work = json.loads(job.read_text(encoding="utf-8"))
    folder, settings = Path(work["folder"]), work["settings"]
    if work["part"] == PREPARE:
        result = benchmark.prepare(folder, settings)
    elif work["part"] == PEAK:
        result = matmul_peaks()
    else:
        (side,) = (side for side in benchmark.sides if side.name == work["part"])
        try:
            result = {"cases": side.measure(folder, settings, work["prepared"]), "peak_bytes": peak_memory()}
        except MissingPeer as missing:
            result = {"missing": str(missing)}
    answer.write_text(json.dumps(result), encoding="utf-8")


# -- what is measured ----------------------------------------------------------------------------------------


class Clock:
    """Rows, seconds and CPU seconds of this process between the first and the last mark."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, float, float]] = []

    def mark(self, rows: int) -> None:
        """`rows` are done."""
        self.marks.append((rows, time.perf_counter(), time.process_time()))

    def measurement(self, *, precision: str, **more: Any) -> Measurement:
        (rows, begin, cpu), (last, end, cpu_end) = self.marks[0], self.marks[-1]
        numbers = {"rows": last - rows, "seconds": end - begin, "cpu_seconds": cpu_end - cpu}
        return {**numbers, "precision": precision, **more}


def timed(rows: int, function: Callable[[], object], *, precision: str, **more: Any) -> Measurement:
    """One call of a function that processes `rows` rows."""
    clock = Clock()
    clock.mark(0)
    function()
    clock.mark(rows)
    return clock.measurement(precision=precision, **more)


def peak_memory() -> int:
    """The largest resident size of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss of a child includes what its parent used when it was started
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def matmul_peaks() -> dict[str, float]:
    """Operations per second of a large matrix product in each precision: the fastest of several passes."""
    import torch

    left, right = torch.randn(2, MATRIX, MATRIX).unbind()
    pairs = {"float32": (left, right), "bf16": (left.bfloat16(), right.bfloat16())}
    products: dict[str, Callable[[], object]] = {
        name: lambda pair=pair: torch.matmul(*pair) for name, pair in pairs.items()
    }
    integers = torch.randint(-127, 127, (MATRIX, MATRIX), dtype=torch.int8)
    products["int8"] = lambda: torch._int_mm(integers, integers.t())
    return {name: 2 * MATRIX**3 / _fastest(product) for name, product in products.items()}


def _fastest(function: Callable[[], object]) -> float:
    return min(seconds(function) for _ in range(PASSES))


# -- conditions ----------------------------------------------------------------------------------------------


def cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def other_load() -> float:
    """The share of all cores that other programs use now, in percent."""
    import psutil

    return float(psutil.cpu_percent(interval=1.0))


def machine() -> dict[str, Any]:
    """The processor, its instructions for bf16 and int8, cores and memory; no names of hosts."""
    import psutil

    lines: list[str] = []
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if key}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    names = {"avx2": "AVX2", "avx512f": "AVX512", "avx512_bf16": "bf16", "avx512_vnni": "VNNI", "amx_tile": "AMX"}
    family = f"family {fields['cpu family']} model {fields['model']}" if "cpu family" in fields else ""
    return {
        "processor": " ".join(filter(None, [fields.get("model name", platform.processor()), family])),
        "instructions": [name for flag, name in names.items() if flag in flags],
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
    }


def versions() -> dict[str, str]:
    """Python and the packages that are compared; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def code_hash(script: str) -> str:
    """Of the package, of a script, and of the modules beside this file that the script imports."""
    files = {*(ROOT / "tinybert_cli").rglob("*.py"), *(ROOT / "tinybert").rglob("*.py"), *_scripts(Path(script))}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _scripts(script: Path) -> set[Path]:
    names = re.findall(r"^(?:from|import) (\w+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    imported = [file for name in names if (file := Path(__file__).with_name(f"{name}.py")).exists()]
    return {script, *(file for one in imported for file in _scripts(one))}


# -- a script alone ------------------------------------------------------------------------------------------


def main(benchmark: Benchmark, names: Sequence[str] = (), arguments: Sequence[str] | None = None) -> None:
    """Runs one benchmark and prints its tables; words on the command line replace the settings `names`, in order.

    OMP_NUM_THREADS replaces its number of threads.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--child"]:
        return answer_job(benchmark, Path(words[1]), Path(words[2]))
    if len(words) > len(names) or any(word.startswith("-") for word in words):
        raise SystemExit(f"usage: {Path(benchmark.script).name} {' '.join(f'[{name}]' for name in names)}")
    given = {name: type(benchmark.settings[name])(word) for name, word in zip(names, words, strict=False)}
    threads = int(os.environ.get("OMP_NUM_THREADS") or 0) or benchmark.threads
    result = measure(replace(benchmark, settings={**benchmark.settings, **given}, threads=threads), tell)
    print("\n".join(lines(result)))
    return None


def tell(message: str) -> None:
    """What is running now."""
    print(message, file=sys.stderr, flush=True)


def lines(result: Result) -> list[str]:
    """The tables of docs/performance.md for one result."""
    sys.path.append(str(ROOT / "experiments"))
    import performance

    return list(performance.tables_of(result))
