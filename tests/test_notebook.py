"""notebooks/tinybert.ipynb: its form, and, with `make test-notebook`, all of its cells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tinybert

ROOT = Path(__file__).parents[1]
FILE = ROOT / "notebooks" / "tinybert.ipynb"
NOTEBOOK = json.loads(FILE.read_text(encoding="utf-8"))
# In place of the cell with the tag `parameters`.
QUICK = 'SETTINGS = ["training.max_steps=25", "gen-soft-labels:augment.copies=1", "eval:bootstrap=50"]'
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_notebook_is_stored_without_outputs() -> None:
    assert all(
        not cell["outputs"] and cell["execution_count"] is None for cell in NOTEBOOK["cells"] if "outputs" in cell
    )


def test_badge_and_install_cell_name_the_repository_of_pyproject() -> None:
    repository = re.search(r'^Repository = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert repository
    path = repository[1].removeprefix("https://github.com/")
    first = "".join(NOTEBOOK["cells"][0]["source"])
    assert f"https://colab.research.google.com/github/{path}/blob/main/{FILE.relative_to(ROOT).as_posix()}" in first
    assert f"git+{repository[1]}" in CODE[0]


def test_install_cell_does_nothing_where_tinybert_is_installed() -> None:
    shell: list[str] = []
    code = CODE[0].replace("    %pip", "    shell.append('pip') #")
    exec(code, {"shell": shell})
    assert not shell


def test_size_of_the_export_is_that_of_the_file_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [code for code in CODE if code.startswith('export = stages["export"]')]
    exec(code, {"stages": {"export": tinybert.Run(Path("export"), "done", {"bytes": 6.5e6, "agreement": 0.99})}})
    assert capsys.readouterr().out == "export: 6.5 MB, agreement with student2 99.0%\n"


@pytest.mark.notebook
def test_notebook_runs_offline_with_table_plot_and_three_predictions(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(FILE, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = QUICK
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs: list[Any] = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [output.data for output in outputs if "data" in output]
    table = next(one["text/markdown"] for one in data if "text/markdown" in one)
    assert re.findall(r"^\| (teacher|student|student2) ", table, re.MULTILINE) == ["teacher", "student", "student2"]
    assert any("image/png" in one for one in data)
    lines = re.findall(r"^(delivery|billing|account) +0\.\d\d  (.*)$", outputs[-1].text, re.MULTILINE)
    assert [queue for queue, _ in lines] == ["delivery", "billing", "account"]
