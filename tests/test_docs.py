"""What the documents say is so: links lead somewhere, commands exist, the YAML loads, the shell blocks run."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import write_base_model

from tinybert_cli import cli, config, configuration, losses
from tinybert_cli.cli import STAGES

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
HELPERS = {"schema", "predict", "report", "init", "doctor"}
README = (ROOT / "README.md").read_text()


def anchors(page: Path) -> set[str]:
    """What a link may name in a page, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)(#[^)]+)?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not heading or heading in anchors(file), f"{target}{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_config_that_a_page_names_exists(page: Path) -> None:
    for target in re.findall(r"configs/[\w./-]+\.yaml", page.read_text()):
        assert (ROOT / target).exists() or "teecher" in target, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    for command in re.findall(r"`tinybert ([a-z][a-z-]+)", page.read_text()):
        assert command in {*STAGES, *HELPERS}, command


def test_the_readme_names_every_command() -> None:
    assert all(f"`tinybert {command} CONFIG`" in README for command in STAGES)


def test_the_config_for_your_own_data_loads_and_has_five_lines(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block and len(block[1].splitlines()) == 5
    (tmp_path / "teacher.yaml").write_text(block[1])
    assert isinstance(configuration.load("finetune", tmp_path / "teacher.yaml"), config.Finetune)


def test_the_example_override_changes_settings_that_exist() -> None:
    said = re.search(r"`tinybert distill (configs/demo/3-student.yaml)\s+([^`]+)`", README)
    assert said
    loaded = configuration.load("distill", ROOT / said[1], said[2].split())
    assert isinstance(loaded, config.Distill) and loaded.student.num_hidden_layers == 2


def test_make_targets_that_the_pages_name_exist() -> None:
    known = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    known |= {file.parent.name for file in ROOT.glob("configs/*/*-export.yaml")}
    for page in PAGES:
        for words in re.findall(r"(?:^|`)make ((?:[a-z0-9-]+ ?)+)", page.read_text(), re.MULTILINE):
            assert set(words.split()) <= known, page


def test_every_loss_is_explained() -> None:
    page = (ROOT / "docs" / "explanation.md").read_text()
    assert all(f"| `{name}` |" in page for name in losses.LOSSES)


def test_ci_runs_checks_smoke_and_tests() -> None:
    assert re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE) == ["check", "smoke", "test"]


def test_every_shipped_yaml_is_yaml_for_other_tools_too() -> None:
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert isinstance(yaml.safe_load(file.read_text()), dict)


SHOWN = {2: ["training.learnin_rate", "configs/demo/8-export.yaml"], 3: ["txt", "google-bert/bert-base-uncased"]}


@pytest.mark.parametrize(("code", "argument"), [(code, word) for code, words in SHOWN.items() for word in words])
def test_what_the_page_of_errors_shows_is_what_comes_out(
    code: int, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that need no run before them."""
    section = (ROOT / "docs/errors.md").read_text().split(f"**{code}** ")[1].split("\n**")[0]
    (example,) = (
        text for text in re.split(r"^\$ |^```", section, flags=re.MULTILINE) if re.match(rf".*{argument}.*\n", text)
    )
    command, _, shown = example.partition("\n")
    words = command.split("tinybert ")[1].split()
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RUNS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    assert cli.execute(words[0], Path(words[1]), words[2:], **flags) == code
    assert capsys.readouterr().err.split() == shown.split()


# -- shell blocks --------------------------------------------------------------------------------------------

BLOCK = re.compile(r"(?:<!-- (not run): [^>]*-->\n)?```sh\n(.*?)```", re.DOTALL)
TINYBERT = f"""#!/bin/sh
few="data.max_train_samples=32 data.max_eval_samples=16 data.max_seq_length=32"
case $1 in
  finetune) few="$few model=base training.max_steps=1" ;;
  gen-soft-labels) few="$few check_teacher=false" ;;
  distill) few="$few training.max_steps=1" ;;
  eval) few="$few bootstrap=10 latency=null" ;;
  export) few="$few verify.min_agreement=0 verify.max_metric_drop=1" ;;
  *) few= ;;
esac
exec {sys.executable} -m tinybert_cli "$@" $few
"""


def blocks(page: str) -> list[str]:
    """The shell blocks of a page but those that a comment before them, which no reader sees, says cannot run here."""
    return [code for marked, code in BLOCK.findall((ROOT / "docs" / page).read_text()) if not marked]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Runs a block where `make install` would have left the reader.

    There `tinybert` takes a few rows, one step, and a tiny model in place of every one that finetune starts from.
    """
    folder = tmp_path_factory.mktemp("docs")
    write_base_model(folder / "base")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "bin").mkdir()
    for name, script in {"tinybert": TINYBERT, "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'}.items():
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    paths = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(block: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=folder, capture_output=True, text=True, timeout=120,
            env={**os.environ, **paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def tutorial(shell: Callable[[str], str]) -> list[str]:
    """What each block of the tutorial says on stdout."""
    return [shell(block) for block in blocks("tutorial.md")]


def test_the_blocks_of_the_tutorial_run_and_end_in_answers(tutorial: list[str]) -> None:
    assert tutorial[0].splitlines()[0] == "text,label"
    assert {line.split("\t")[0] for line in tutorial[-1].splitlines()} <= {"negative", "positive"}


@pytest.mark.slow
def test_the_blocks_of_the_how_to_run_after_the_tutorial(tutorial: list[str], shell: Callable[[str], str]) -> None:
    assert [shell(block) for block in blocks("how-to.md")]
