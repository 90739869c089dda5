"""The workflows of GitHub: they parse, and name what exists. `actionlint` checks them further, see CONTRIBUTING.md."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOW_TO = (ROOT / "docs" / "how-to.md").read_text(encoding="utf-8")
CI = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
(USER_TEXT,) = [block for block in re.findall(r"```yaml\n(.*?)```", HOW_TO, re.DOTALL) if "runs-on:" in block]
USER = yaml.safe_load(USER_TEXT)


def commands(workflow: Any) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", [CI, USER], ids=["ci", "user"])
def test_every_job_has_a_machine_a_limit_and_steps_with_pinned_actions(workflow: Any) -> None:
    for job in workflow["jobs"].values():
        assert job["runs-on"] and 0 < job["timeout-minutes"] <= 90
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert re.fullmatch(r"actions/[\w/-]+@v\d+", step.get("uses", "actions/checkout@v4"))


def test_runs_are_kept_when_a_requirement_is_not_met() -> None:
    """actions/cache saves nothing if a step fails."""
    steps = USER["jobs"]["distil"]["steps"]
    names = [step.get("uses", step.get("run", "")).partition("@")[0] for step in steps]
    restore, save = names.index("actions/cache/restore"), names.index("actions/cache/save")
    (run,) = [number for number, step in enumerate(steps) if step.get("run", "").startswith("tinybert run ")]
    assert restore < run < save and steps[save]["if"] == "${{ !cancelled() }}"
    assert steps[restore]["with"] == steps[save]["with"] and "--force" in steps[run]["run"]


def test_workflow_computes_on_the_cpu_with_a_torch_without_cuda() -> None:
    """The GPU of GitHub's macOS machines has no memory; two environments with CUDA fill the disk."""
    assert CI["env"]["ACCELERATE_USE_CPU"] == "true" and CI["env"]["PIP_EXTRA_INDEX_URL"].endswith("/cpu")


def test_make_targets_of_the_workflow_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    made = [command.removeprefix("make ") for command in commands(CI) if command.startswith("make ")]
    assert {"check", "docs", "test", "test-integrations"} <= set(made) <= set(targets)


def test_tested_python_versions_are_those_of_the_classifiers() -> None:
    versions = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert CI["jobs"]["tests"]["strategy"]["matrix"]["python"] == versions


def test_readme_commands_run_on_three_systems() -> None:
    job = CI["jobs"]["readme"]
    assert [name.partition("-")[0] for name in job["strategy"]["matrix"]["os"]] == ["ubuntu", "macos", "windows"]
    (block,) = [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "--data tickets.csv\n" in block]
    typed = [line for line in block.splitlines() if line.startswith("tinybert")]
    run = commands({"jobs": {"readme": job}})
    assert typed and all(any(command.startswith(line) for command in run) for line in typed)
    assert any(f"`{command}`" in README for command in run if command.startswith("tinybert predict"))


def test_tickets_of_the_workflow_have_the_columns_of_the_readme(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / ".github" / "tickets.py", "tickets.csv"], cwd=tmp_path, check=True)
    with (tmp_path / "tickets.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360 and rows[0].keys() == {"message", "queue"}


def test_workflow_of_the_how_to_distils_gates_and_uploads(tmp_path: Path) -> None:
    (run,) = [command for command in commands(USER) if command.startswith("tinybert run ")]
    assert "require" in run
    uploaded = [step["with"]["path"] for step in USER["jobs"]["distil"]["steps"] if "upload" in step.get("uses", "")]
    assert uploaded == ["runs/mine/export"]
    words = run.replace("mine/recipe.yaml", str(ROOT / "configs" / "demo")).split()[1:]
    done = subprocess.run(
        [sys.executable, "-m", "tinybert_cli", *words, "-n"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
