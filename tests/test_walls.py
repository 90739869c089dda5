"""Import rules between the folders of the package, and words that stay out of its identifiers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tinybert_cli"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

GROUND = {
    "config",
    "configuration",
    "errors",
    "escaping",
    "wording",
    "events",
    "files",
    "input_limits",
    "input_versions",
    "label_values",
    "lazy_import",
    "memory",
    "presets",
    "processes",
    "scratch_files",
    "strict_json",
    "translation_tokenizer",
    "types",
    "user_paths",
}
PARTS = {"artifacts", "data", "formats", "loops", "losses", "models"}
PREDICTORS = {"predictor", "translation_predictor"}
BELOW_REPORTS = {"tasks", "metrics", *PARTS, *GROUND}
ALLOWED_IMPORTS = {  # folder or module → what it may import besides itself
    **dict.fromkeys([*GROUND, *PARTS, "metrics", "event_lines"], GROUND),
    "console": {"event_lines", *GROUND},
    "tasks": {"metrics", *GROUND},
    **{name: {"tasks", "artifacts", "formats", "loops", "models", *GROUND} for name in PREDICTORS},
    "baselines": {"tasks", "metrics", *GROUND},
    "answers": {"tasks", "metrics", "data", *GROUND},
    "inspection": BELOW_REPORTS,
    "reports": BELOW_REPORTS,
    "helpers": {"inspection", "reports", *PREDICTORS, *BELOW_REPORTS},
    "integrations": {*PREDICTORS, *BELOW_REPORTS},
    "stages": {"answers", "baselines", "inspection", "integrations", "reports", *PREDICTORS, *BELOW_REPORTS},
    "runner": {"stages", "console", *BELOW_REPORTS},
    "stage_server": {"runner", *GROUND},
    "stage_processes": {"stage_server", "runner", *GROUND},
    "recipe_runner": {"stage_processes", "stage_server", "runner", "stages", "console", "reports", *BELOW_REPORTS},
    "cli": {
        "",
        "recipe_runner",
        "stage_server",
        "runner",
        "stages",
        "helpers",
        "console",
        "inspection",
        "reports",
        *PREDICTORS,
    }
    | BELOW_REPORTS,
    "__main__": {"cli"},
    "": set(),
}
STAGES = {"finetune", "gen_soft_labels", "distill", "evaluate", "export"}

PRIVATE_WORDS = {"said", "found", "told", "shown", "heard", "place", "places", "asked", "reply", "kept"}


def module_name(file: str) -> str:
    """`stages/export.py` → `stages.export`, `stages/__init__.py` → `stages`, `__init__.py` → ``."""
    return file.removesuffix(".py").removesuffix("__init__").rstrip("/").replace("/", ".")


MODULES = {module_name(file): path for file, path in FILES.items()}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of this package that a module imports, also inside functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{module}: a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                names.add(submodule if submodule.removeprefix("tinybert_cli.") in MODULES else node.module)
    own = {name.removeprefix("tinybert_cli").removeprefix(".") for name in names if name.startswith("tinybert_cli")}
    assert own <= MODULES.keys(), f"{module}: {own - MODULES.keys()}"
    return frozenset(own - {module})


def top(module: str) -> str:
    """The folder of a module, or the module itself if it is in none."""
    return module.partition(".")[0]


def cycles(graph: Mapping[str, frozenset[str]]) -> list[str]:
    """The modules in import cycles, and those between two cycles."""
    rest = dict(graph)
    while True:
        users = frozenset[str]().union(*(rest.values()))
        ends = [module for module, imported in rest.items() if not imported & rest.keys() or module not in users]
        if not ends:
            return sorted(rest)
        for module in ends:
            del rest[module]


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of all variables, arguments, functions, classes, attributes and imported names."""
    for node in ast.walk(tree(path)):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield line, name
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield line, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield line, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield line, name
            case ast.MatchMapping(rest=str(name)):
                yield line, name
            case ast.alias():
                yield line, node.asname or node.name


# -- imports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    upward = {name for name in imports(module) if top(name) not in {top(module), *ALLOWED_IMPORTS[top(module)]}}
    assert not upward


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_no_stage_imports_another(stage: str) -> None:
    assert not imports(f"stages.{stage}") & {f"stages.{other}" for other in STAGES}


@pytest.mark.parametrize("module", [name for name in MODULES if top(name) == "stages"])
def test_shared_modules_of_stages_import_no_stage(module: str) -> None:
    if module.removeprefix("stages.") not in STAGES:
        assert not imports(module) & {f"stages.{stage}" for stage in STAGES}


def test_no_modules_import_each_other() -> None:
    assert cycles({module: imports(module) for module in MODULES}) == []


def test_cycles_are_detected() -> None:
    edges = {"a": {"b", "d"}, "b": {"c"}, "c": {"a"}, "d": set(), "e": {"a"}}
    assert cycles({module: frozenset(imported) for module, imported in edges.items()}) == ["a", "b", "c"]


@pytest.mark.parametrize("file", [name for name in FILES if name not in ("cli.py", "console.py")])
def test_nothing_below_cli_prints_or_imports_a_terminal_library(file: str) -> None:
    nodes = list(ast.walk(tree(FILES[file])))
    calls = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "print" not in calls
    roots = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    roots |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {root.partition(".")[0] for root in roots} & {"typer", "click", "rich"}


@pytest.mark.parametrize("file", [name for name in FILES if name != "runner.py"])
def test_only_the_runner_imports_modules_by_name(file: str) -> None:
    """An import by name would not be seen by the tests above."""
    texts = [node.value for node in ast.walk(tree(FILES[file])) if isinstance(node, ast.Constant)]
    assert not [text for text in texts if isinstance(text, str) and text.startswith("tinybert_cli.")]


def test_only_models_calls_from_pretrained() -> None:
    callers = {file for file, path in FILES.items() if "from_pretrained" in {name for _, name in identifiers(path)}}
    assert callers == {"models/loading.py", "models/tokenizers.py", "models/translation_tokenizers.py"}


# -- imports at run time -------------------------------------------------------------------------------------


def imported(code: str, *libraries: str) -> list[str]:
    """Which of the libraries a new process has imported after it ran this code."""
    report = f"{code}\nimport sys; print(*(name for name in {libraries!r} if name in sys.modules))"
    process = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return process.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "module", ["cli", "configuration", "stages.checks", "predictor", "tasks", "formats", "helpers.predict"]
)
def test_importing_these_modules_loads_no_heavy_library(module: str) -> None:
    assert imported(f"import tinybert_cli.{module}", "torch", "transformers", "datasets", "matplotlib") == []


def test_the_probe_reports_an_imported_library() -> None:
    assert imported("import numpy", "numpy", "torch") == ["numpy"]


# -- words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_identifiers_have_no_private_words(file: str) -> None:
    private = [f"line {line}: {name}" for line, name in identifiers(FILES[file]) if PRIVATE_WORDS & words_of(name)]
    assert not private


def words_of(name: str) -> set[str]:
    """`_is_shown` → is, shown"""
    return set(name.lower().replace(".", "_").split("_"))
