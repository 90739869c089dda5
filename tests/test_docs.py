"""The documentation is correct: links resolve, commands exist, YAML blocks load, Python blocks parse, shell blocks run."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import write_base_model

from tinybert_cli import cli, config, configuration, losses
from tinybert_cli.errors import ConfigErrors
from tinybert_cli.runner import STAGES
from tinybert_cli.stages import checks

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinybert_cli"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
HELPERS = {"run", "inspect", "schema", "predict", "report", "init", "doctor"}
README = (ROOT / "README.md").read_text()
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
REPOSITORY = URLS["Repository"]
RAW = REPOSITORY.replace("github.com", "raw.githubusercontent.com")


def anchors(page: Path) -> set[str]:
    """The anchors of a page, as GitHub derives them from the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """The targets of a page's links and images, with their anchors."""
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text())


def linked_file(page: Path, target: str) -> Path | None:
    """The file of this repository that a link names; None: a page of others, or of the repository's web site."""
    file = re.sub(rf"^{REPOSITORY}/(?:blob|tree)/main/|^{RAW}/main/", f"{ROOT}/", target.split("#")[0])
    return None if "://" in file else page.parent / file if file else page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_resolve(page: Path) -> None:
    for target in links(page):
        file, heading = linked_file(page, target), target.partition("#")[2]
        assert file is None or file.exists(), target
        assert file is None or not heading or f"#{heading}" in anchors(file), target


def test_links_of_the_readme_work_on_a_package_index() -> None:
    page = ROOT / "README.md"
    assert all(target.startswith("https://") for target in links(page)), "write https:// links, also for files"
    for image in re.findall(r"!\[[^]]*\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"", page.read_text()):
        assert "".join(image).startswith(f"{RAW}/main/"), f"{image}: GitHub shows a blob/ address as a page"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_name_the_repository_of_pyproject(page: Path) -> None:
    for target in links(page):
        if "github" in target:
            assert target.startswith((REPOSITORY, RAW)), target


def test_relative_links_of_docs_stay_inside_docs() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in links(page):
            assert "://" in target or not target.startswith(".."), f"{page.name}: {REPOSITORY}/blob/main/{target[3:]}"


def test_project_urls_and_site_name_files_of_the_repository() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    for url in [*URLS.values(), *re.findall(r"https?://[^\s,}]+", site)]:
        file = linked_file(ROOT / "pyproject.toml", url)
        assert url.startswith(REPOSITORY) and (file is None or file.exists()), url


def test_every_page_is_in_the_navigation_of_the_site_once() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1]
    pages = re.findall(r"[\w-]+\.md", navigation)
    assert sorted(pages) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_named_in_the_docs_exist(page: Path) -> None:
    for target in re.findall(r"configs/[\w./-]+\.yaml", page.read_text()):
        assert (ROOT / target).exists() or "teecher" in target, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_the_docs_exist(page: Path) -> None:
    for command in re.findall(r"`tinybert ([a-z][a-z-]+)", page.read_text()):
        assert command in {*STAGES, *HELPERS}, command


def test_readme_lists_every_stage_command() -> None:
    assert all(f"`tinybert {command} CONFIG`" in README for command in STAGES)


def test_readme_config_has_five_lines_and_loads(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block and len(block[1].splitlines()) == 5
    (tmp_path / "teacher.yaml").write_text(block[1])
    assert isinstance(configuration.load("finetune", tmp_path / "teacher.yaml"), config.Finetune)


def test_readme_override_example_loads() -> None:
    example = re.search(r"`tinybert distill (configs/demo/3-student.yaml)\s+([^`]+)`", README)
    assert example
    loaded = configuration.load("distill", ROOT / example[1], example[2].split())
    assert isinstance(loaded, config.Distill) and loaded.student.num_hidden_layers == 2


def test_make_targets_named_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    targets |= {file.parent.name for file in ROOT.glob("configs/*/*-export.yaml")}
    for page in PAGES:
        for names in re.findall(r"(?:^|`)make ((?:[a-z0-9-]+ ?)+)", page.read_text(), re.MULTILINE):
            assert set(names.split()) <= targets, page


def test_every_loss_has_a_row_in_the_explanation() -> None:
    page = (ROOT / "docs" / "explanation.md").read_text()
    assert all(f"| `{name}` |" in page for name in losses.LOSSES)


def test_architecture_names_functions_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    steps = re.findall(r"^\| +\d+ \| `([\w/.]+)` \| `(\w+)` \|", page, re.MULTILINE)
    assert len(steps) >= 12
    for file, function in steps:
        tree = ast.parse((PACKAGE / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert function in functions, f"{file}: {function}"


def test_contributing_shows_the_tree_of_the_package() -> None:
    tree = re.search(r"^tinybert_cli/\n((?:  .*\n)+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert tree
    shown = dict(re.findall(r"^  (\w+)/ +(.*(?:\n {4,}.*)*)", tree[1], re.MULTILINE))
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert shown.keys() == folders
    for folder, files in shown.items():
        assert set(files.split()) == {path.stem for path in (PACKAGE / folder).glob("*.py")} - {"__init__"}, folder
    modules = set(re.findall(r"\b\w+\.py\b", tree[1]))
    assert modules == {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}


def test_ci_runs_every_target_that_checks_the_project() -> None:
    targets = re.findall(r"^make ([\w-]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert targets == [
        "check",
        "wheel",
        "docs",
        "smoke",
        "test",
        "test-slow",
        "faults",
        "test-families",
        "test-integrations",
    ]


# A setting of each stage beside those that every config has; `tinybert` knows a block by it, if the block is a part only.
STARTS: list[tuple[str, dict[str, object]]] = [
    ("finetune", {"model": "m"}),
    ("gen-soft-labels", {"teacher": "t"}),
    ("distill", {"label_dataset": "l", "student": "s"}),
    ("distill", {"task": "language-modeling", "teacher": "t", "student": "s", "losses": {"hidden_states": 1.0}}),
    ("eval", {"models": {"a": "m"}, "data": {"validation_file": "v.csv"}}),
    ("export", {"model": "m", "data": {"validation_file": "v.csv"}}),
]
EVERY = {"task": "text-classification", "data": {"train_file": "t.csv"}, "output_dir": "o"}


def loads(settings: dict[str, object], command: str, file: Path) -> bool:
    file.write_text(yaml.safe_dump(settings))
    try:
        configuration.load(command, file, [], checks.CHECKS[command])
    except ConfigErrors:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_blocks_are_configs_or_parts_of_one(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        settings = next(yaml.safe_load_all(block))
        if "jobs" in settings or "apiVersion" in settings:  # of GitHub and Kubernetes
            continue
        shared = {key: value for key, value in settings.items() if key != "stages"}
        for stage in settings.get("stages", [{}]):
            parts = [(command, {**EVERY, **start, **shared, **stage}) for command, start in STARTS]
            assert any(loads(part, command, tmp_path / "x.yaml") for command, part in parts), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_installations_in_a_new_environment_name_the_repository(page: Path) -> None:
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in re.findall(r"^pip install .*\btinybert\b.*$", block, re.MULTILINE):
            assert f"@ git+{REPOSITORY}" in line, line


def test_shipped_yaml_also_loads_with_pyyaml() -> None:
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert isinstance(yaml.safe_load(file.read_text()), dict)


# Exit code -> arguments of the examples in docs/errors.md that need no earlier run.
ERROR_EXAMPLES = {
    2: ["training.learnin_rate", "configs/demo/8-export.yaml"],
    3: ["txt", "google-bert/bert-base-uncased"],
}


@pytest.mark.parametrize(
    ("code", "argument"), [(code, argument) for code, arguments in ERROR_EXAMPLES.items() for argument in arguments]
)
def test_error_examples_match_the_actual_output(
    code: int, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "docs/errors.md").read_text().split(f"**{code}** ")[1].split("\n**")[0]
    (example,) = (
        text for text in re.split(r"^\$ |^```", section, flags=re.MULTILINE) if re.match(rf".*{argument}.*\n", text)
    )
    command_line, _, expected = example.partition("\n")
    command, file, *overrides = command_line.split("tinybert ")[1].split()
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RUNS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    assert cli.execute(command, Path(file), overrides, **flags) == code
    assert capsys.readouterr().err.split() == expected.split()


# -- shell blocks --------------------------------------------------------------------------------------------

BLOCK = re.compile(r"(?:<!-- (not run): [^>]*-->\n)?```sh\n(.*?)```", re.DOTALL)
TINYBERT = f"""#!/bin/sh
small="data.max_train_samples=32 data.max_eval_samples=16 data.max_seq_length=32"
case $1 in
  finetune) small="$small model=base training.max_steps=1" ;;
  gen-soft-labels) small="$small check_teacher=false" ;;
  distill) small="$small training.max_steps=1" ;;
  eval) small="$small bootstrap=10 latency=null" ;;
  export) small="$small verify.min_agreement=0 verify.max_metric_drop=1" ;;
  run) small="$small finetune:model=base training.max_steps=1 gen-soft-labels:check_teacher=false bootstrap=10"
       small="$small latency=null verify.min_agreement=0 verify.max_metric_drop=1" ;;
  *) small= ;;
esac
exec {sys.executable} "$(dirname "$0")/one_process.py" "$@" $small
"""
PYTHON = f"""#!/bin/sh
exec {sys.executable} "$@"
"""
IN_ONE_PROCESS = """
from tinybert_cli import cli, recipe_runner, stage_processes, stage_server

def run_command(command, words, stderr):  # in a process of its own, each stage would import torch
    from accelerate.state import AcceleratorState, GradientState
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return stage_server.run_here(command, words)

recipe_runner.run_command = run_command
stage_processes.can_fork = lambda: False
cli.main()
"""


def blocks(page: str) -> list[str]:
    """The shell blocks of a page, except those after a `<!-- not run: ... -->` comment."""
    return [code for not_run, code in BLOCK.findall((ROOT / "docs" / page).read_text()) if not not_run]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Runs a block in a folder like the one after `make install`.

    `tinybert` is a wrapper that uses few rows, one step, and a tiny model instead of each model that finetune starts from.
    """
    folder = tmp_path_factory.mktemp("docs")
    write_base_model(folder / "base")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "bin").mkdir()
    scripts = {"tinybert": TINYBERT, "one_process.py": IN_ONE_PROCESS, "python": PYTHON}
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    paths = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(block: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=folder, capture_output=True, text=True, timeout=300,
            env={**os.environ, **paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def tutorial(shell: Callable[[str], str]) -> list[str]:
    """Stdout of each block of the tutorial."""
    return [shell(block) for block in blocks("tutorial.md")]


@pytest.mark.slow
def test_tutorial_blocks_run_and_end_with_predictions(tutorial: list[str]) -> None:
    assert tutorial[0].splitlines()[0] == "message,queue"
    assert {line.split("\t")[0] for line in tutorial[-1].splitlines()} <= {"billing", "login", "shipping"}


@pytest.mark.slow
def test_how_to_blocks_run_after_the_tutorial(tutorial: list[str], shell: Callable[[str], str]) -> None:
    assert [shell(block) for block in blocks("how-to.md")]
