"""`~` and variables mean the same in a config and on the command line; what the program makes is never read so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run
from typer.testing import CliRunner

from tinybert_cli import cli, configuration, models
from tinybert_cli.config import Distill, Eval, Finetune, GenSoftLabels
from tinybert_cli.errors import ConfigError, ConfigErrors, InputError
from tinybert_cli.user_paths import argument_path

Monkey = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Monkey) -> Path:
    """An empty home folder, and the variable FOLDER with its path; the current folder is another one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOLDER", str(tmp_path / "home"))
    return tmp_path / "home"


def loaded(command: str, text: str, *arguments: str) -> Any:
    Path("c.yaml").write_text(text, encoding="utf-8")
    return configuration.load(command, "c.yaml", arguments)


BASE = "task: text-classification\ndata: {train_file: t.csv}\nmodel: m\noutput_dir: o\n"


@pytest.mark.parametrize("path", ["~/x", "${FOLDER}/x", "${NEVER_SET_HERE:-~}/x"])
def test_a_path_means_the_same_in_yaml_and_as_argument(path: str, home: Path) -> None:
    in_yaml = loaded("finetune", BASE.replace("output_dir: o", f"output_dir: {path}"))
    as_argument = loaded("finetune", BASE, f"output_dir={path}")
    assert in_yaml.output_dir == as_argument.output_dir == argument_path(path) == f"{home}/x"


def test_every_setting_that_is_a_path_knows_the_home_folder(home: Path) -> None:
    data: dict[str, Any] = {"dataset_name": "~/d", "train_file": ["~/t"], "validation_file": "~/v", "test_file": "~/t"}
    common: dict[str, Any] = {"task": "t", "data": data, "output_dir": "~/o"}
    configs = [
        Finetune.model_validate({**common, "model": "~/m", "label_dataset": "~/l"}),
        GenSoftLabels.model_validate(
            {**common, "teacher": ["~/m"], "augment": {"masked_lm": "~/m", "embeddings": "~/m"}}
        ),
        Distill.model_validate({**common, "student": {"from": "~/m"}, "teacher": "~/m", "label_dataset": "~/l"}),
        Eval.model_validate({**common, "models": {"a": "~/m"}}),
    ]
    for config in configs:
        assert "~" not in json.dumps(config.model_dump())


def test_names_on_the_hub_and_in_packages_stay_as_they_are() -> None:
    for name in ("org/name@v1", "package://a/b", "~nobody-with-this-name/x"):
        assert loaded("finetune", BASE, f"model={name}").model.from_ == name


def test_extends_knows_the_home_folder(home: Path) -> None:
    (home / "base.yaml").write_text("seed: 7\n", encoding="utf-8")
    assert loaded("finetune", f"extends: ~/base.yaml\n{BASE}").seed == 7


@pytest.mark.parametrize("text", ["$FOLDER/x", "a$FOLDER"])
def test_a_variable_without_braces_is_rejected(text: str) -> None:
    with pytest.raises(ConfigErrors, match=r"`\$FOLDER` in `output_dir` is not expanded"):
        loaded("finetune", BASE, f"output_dir={text}")
    with pytest.raises(ConfigError, match=r"write \$\{FOLDER\}; or \$\$FOLDER for these characters"):
        argument_path(text)
    escaped = text.replace("$", "$$")
    assert loaded("finetune", BASE, f"output_dir={escaped}").output_dir == argument_path(escaped) == text


def test_an_argument_that_exists_as_written_is_not_expanded() -> None:
    for name in ("~", "${FOLDER}", "$FOLDER", "${"):
        Path(name).mkdir()
        assert argument_path(name) == name


def test_locate_takes_a_tilde_literally(home: Path) -> None:
    (home / "m").mkdir()
    (home / "m" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError):
        models.locate("~/m")
    assert models.locate(str(home / "m")).folder == home / "m"


NAMES = ["~/o", "./~/o", "x@v1/k=v", "a $b ${c} $${d}", "quotes'\"\\, -tab\tand\nline é🙂 #: {x}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_works_in_a_folder_of_any_name(name: str, configs: Configs, base_model: Path, home: Path) -> None:
    config = configs("finetune", "x", model=base_model, training__max_steps=1, training__num_train_epochs=1.0)
    config = type(config).model_validate({**config.model_dump(by_alias=True), "output_dir": name})
    folder = home / "o" if name == "~/o" else Path(name)
    run("finetune", config)
    assert (folder / "manifest.json").is_file()
    again = configuration.load("finetune", folder / "run.yaml")
    assert again.model_copy(update={"training": config.training}) == config  # its `auto` values are resolved
    assert [event["event"] for event in run("finetune", again)][-1] == "up to date"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert len([line for line in card.split("\n") if line.startswith("# ")]) == 1


@pytest.mark.parametrize("path", ["~/teacher", "${FOLDER}/teacher"])
def test_predict_and_report_read_paths_like_a_config(path: str, teacher: Path, home: Path) -> None:
    teacher.rename(home / "teacher")
    predicted = CliRunner().invoke(cli.app, ["predict", path, "fine film"])
    assert predicted.exit_code == 0 and predicted.stdout.startswith("good\t")
    reported = CliRunner().invoke(cli.app, ["report", path, "--markdown"])
    assert reported.exit_code == 0 and "| teacher |" in reported.stdout


def test_a_config_file_is_a_path_like_any_other(home: Path) -> None:
    (home / "c.yaml").write_text("no_such_key: 1\n", encoding="utf-8")
    for words in (["~/c.yaml"], ["--config", "${FOLDER}/c.yaml"]):
        result = CliRunner().invoke(cli.app, ["finetune", *words])
        assert result.exit_code == 2, words
