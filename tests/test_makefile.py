"""make: a recipe is one call of tinybert; each stage is a file that is made again when it is outdated or failed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Replaces tinybert: records its arguments, touches the manifest of the stage, and exits with the given code.
FAKE = """#!/bin/sh
echo "$*" >> "$NOTES"
for stage in "$@"; do :; done
mkdir -p "$RUNS/demo/$stage" && touch "$RUNS/demo/$stage/manifest.json"
test "$stage" != "$FAILS" || exit 5
"""


class Make:
    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"
        (folder / "venv/bin").mkdir(parents=True)
        (folder / "venv/bin/tinybert").write_text(FAKE)
        (folder / "venv/bin/tinybert").chmod(0o755)
        (folder / "venv/installed").touch()

    def __call__(self, target: str, *words: str, fails: str = "") -> tuple[int, list[str]]:
        """Its exit code, and the arguments of each call of tinybert."""
        self.notes.write_text("")
        environment = {**os.environ, "NOTES": str(self.notes), "FAILS": fails}
        words = ("make", "--no-print-directory", target, f"RUNS={self.folder}", f"VENV={self.folder}/venv", *words)
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, self.notes.read_text().splitlines()

    def stages(self, stage: str, fails: str = "") -> tuple[int, list[str]]:
        """The exit code for the file of a stage of the demo, and the stages that ran."""
        code, lines = self(str(self.folder / "demo" / stage / "manifest.json"), fails=fails)
        assert all(line.startswith("run configs/demo --force --only ") for line in lines)
        return code, [line.split()[-1] for line in lines]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return Make(tmp_path)


def test_a_recipe_is_one_call_with_the_settings_of_each_command(make: Make) -> None:
    assert make("demo") == (0, ["run configs/demo --force"])
    words = ("OVERRIDES=seed=3", "OVERRIDES_finetune=training.max_steps=1 model=x", "OVERRIDES_export=opset=18")
    settings = "seed=3 finetune:training.max_steps=1 finetune:model=x export:opset=18"
    assert make("demo", *words) == (0, [f"run configs/demo --force {settings}"])


def test_a_stage_is_made_once_after_those_that_it_reads(make: Make) -> None:
    assert make.stages("student2") == (0, ["teacher", "teacher-labels", "student", "student-labels", "student2"])
    assert make.stages("student2") == (0, [])


def test_a_missed_requirement_stops_make_until_it_is_met(make: Make) -> None:
    code, stages = make.stages("student", fails="teacher-labels")
    assert code != 0 and stages == ["teacher", "teacher-labels"]
    code, stages = make.stages("student", fails="teacher-labels")
    assert code != 0 and stages == ["teacher-labels"]
    assert make.stages("student") == (0, ["teacher-labels", "student"])


@pytest.mark.parametrize("pip_exit_code", [0, 1])
def test_bench_runs_with_the_peers_that_can_be_installed(make: Make, pip_exit_code: int) -> None:
    python, peers = make.folder / "venv/bin/python", make.folder / "venv/peers"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH $*" >> "$NOTES"\ntest "$2" != pip || exit {pip_exit_code}\n')
    python.chmod(0o755)
    code, lines = make("bench", "BENCH=--only labelling")
    assert code == 0
    assert f"-m pip install --quiet --upgrade --target {peers} --no-deps -r benchmarks/requirements.txt" in lines[0]
    assert lines[1:] == [f"{peers} benchmarks/run_all.py --only labelling"]
    again = make("bench")[1]
    assert len(again) == 1 + pip_exit_code, "peers are installed once"


def test_students_of_the_sweep_are_made_from_the_labels_of_the_demo(make: Make) -> None:
    code, lines = make(str(make.folder / "sweep-demo" / "narrow" / "manifest.json"))
    assert code == 0
    assert [line.split()[1:] for line in lines] == [
        ["configs/demo", "--force", "--only", "teacher"], ["configs/demo", "--force", "--only", "teacher-labels"],
        ["configs/sweep-demo", "--force", "--only", "narrow"],
    ]  # fmt: skip
