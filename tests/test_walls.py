"""The house keeps its four walls."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tinybert_cli"
PARTS = ["augment", "plots", "page"]
STAGES = ["finetune", "gen_soft_labels", "distill", "evaluate", "export"]
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def imports(file: Path) -> set[str]:
    """The modules of this package that a file imports, wherever the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("tinybert_cli.") for name in found if name.startswith("tinybert_cli.")}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_config_and_errors(part: str) -> None:
    modules = {name.partition(".")[0] for name in imports(PACKAGE / f"{part}.py")}
    assert modules <= {"config", "errors"}


@pytest.mark.parametrize("part", ["tasks", "losses", "artifacts", "data", "models", "loops", "formats"])
def test_a_part_of_several_files_imports_only_config_errors_and_itself(part: str) -> None:
    for file in (PACKAGE / part).glob("*.py"):
        assert {name.partition(".")[0] for name in imports(file)} <= {"config", "errors", part}, file


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage: str) -> None:
    names = imports(PACKAGE / "stages" / f"{stage}.py")
    assert not {name for name in names for other in STAGES if name.startswith(f"stages.{other}")}


@pytest.mark.parametrize("module", ["fit", "augmenting", "findings", "evaluation_page", "card_of_export", "opening"])
def test_what_stages_stand_on_knows_none_of_them(module: str) -> None:
    assert not any(name.startswith("stages") for name in imports(PACKAGE / "stages" / f"{module}.py"))


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("cli.py", "console.py")])
def test_nothing_below_the_cli_prints_or_knows_the_command_line(module: str) -> None:
    tree = ast.parse((PACKAGE / module).read_text())
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "print" not in calls
    roots = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {root.partition(".")[0] for root in roots} & {"typer", "click", "rich"}


def test_only_models_reads_models() -> None:
    users = [
        name
        for name in MODULES
        for node in [ast.parse((PACKAGE / name).read_text())]
        if any(isinstance(part, ast.Attribute) and part.attr == "from_pretrained" for part in ast.walk(node))
    ]
    assert users == ["models/loading.py", "models/tokenizers.py"]


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import tinybert_cli.cli, sys; print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
