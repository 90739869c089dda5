"""make: a stage runs again when it is outdated, and a stage that failed runs again at the next make."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ["teacher", "teacher-labels", "student", "student-labels", "student2", "student2-plain", "eval", "export"]

# Replaces tinybert: records its arguments, writes or touches the manifest of its folder, and exits with the given code.
FAKE = """#!/bin/sh
echo "$*" >> "$NOTES"
case "$1" in report) exit 0;; esac
for word in "$@"; do case "$word" in configs/*) name=$(sed -n 's|^output_dir: .*demo/||p' "$word");; esac; done
case "$* " in *"--force"*) rm -f "$HOLDS_OTHER";; esac
test "$HOLDS_OTHER" = "$RUNS/$name.other" && test -e "$HOLDS_OTHER" && exit 4
mkdir -p "$RUNS/demo/$name" && touch "$RUNS/demo/$name/manifest.json"
test "$name" != "$FAILS" || exit 5
"""


class Make:
    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "notes"
        (folder / "venv/bin").mkdir(parents=True)
        (folder / "venv/bin/tinybert").write_text(FAKE)
        (folder / "venv/bin/tinybert").chmod(0o755)
        (folder / "venv/installed").touch()

    def __call__(self, *, fails: str = "", other: str = "") -> tuple[int, list[str]]:
        """Its exit code, and the names of the configs that a command was run on."""
        self.notes.write_text("")
        if other:
            (self.folder / f"{other}.other").touch()
        environment = {
            **os.environ, "NOTES": str(self.notes), "FAILS": fails, "HOLDS_OTHER": f"{self.folder}/{other}.other",
        }  # fmt: skip
        words = ["make", "--no-print-directory", "demo", f"RUNS={self.folder}", f"VENV={self.folder}/venv"]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        lines = self.notes.read_text().splitlines()
        return done.returncode, [line.split("configs/demo/")[1].split()[0] for line in lines if "configs" in line]

    def manifest(self, stage: str) -> Path:
        return self.folder / "demo" / stage / "manifest.json"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return Make(tmp_path)


def test_every_stage_runs_once_and_then_none(make: Make) -> None:
    code, configs = make()
    assert code == 0 and len(configs) == len(STAGES) == len(set(configs))
    assert all(make.manifest(stage).is_file() for stage in STAGES)
    assert make() == (0, [])


def test_a_missed_requirement_stops_make_until_it_is_met(make: Make) -> None:
    code, configs = make(fails="eval")
    assert code != 0 and configs[-1] == "7-eval.yaml" and make.manifest("eval").is_file()
    code, configs = make(fails="eval")
    assert code != 0 and configs == ["7-eval.yaml"]
    assert make() == (0, ["7-eval.yaml", "8-export.yaml"])


def test_a_folder_with_other_settings_is_rebuilt(make: Make) -> None:
    code, configs = make(other="student2")
    assert code == 0 and configs.count("5-student2.yaml") == 2
