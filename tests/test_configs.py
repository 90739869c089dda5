"""Every shipped YAML file is valid and shows its command, and every setting is documented and used."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from tinybert_cli import config, configuration, formats, tasks
from tinybert_cli.configuration import yaml_reader
from tinybert_cli.helpers import schema

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path for path in (ROOT / "configs").glob("*/*.yaml") if path.name[0].isdigit())


def command_of(file: Path) -> str:
    command = configuration.stage_of(file)
    assert command, f"{file} must have a `stage`"
    return command


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_shipped_config_loads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    loaded = configuration.load(command_of(file), file)
    assert Path(loaded.output_dir) == Path("runs") / file.parent.name / file.stem.partition("-")[2]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_the_first_line_of_a_config_shows_the_command_of_its_stage(file: Path) -> None:
    first, *others = file.read_text().splitlines()
    assert first == f"# tinybert {command_of(file)} {file.relative_to(ROOT)}"
    assert f"stage: {command_of(file)}" in others


TOGETHER = (["student2-direct", "student2-plain"], ["eval", "export"])  # none of them reads what another one writes


@pytest.mark.parametrize("folder", sorted({file.parent for file in RECIPES}), ids=lambda folder: folder.name)
def test_the_files_of_a_recipe_are_numbered_without_gaps(folder: Path) -> None:
    files: dict[int, list[str]] = {}
    for file in RECIPES:
        if file.parent == folder:
            number, _, name = file.stem.partition("-")
            files.setdefault(int(number), []).append(name)
    assert sorted(files) == list(range(1, len(files) + 1))
    for names in files.values():
        own = sorted(name for name in names if not name.endswith("-small"))  # beside the model of the same step
        assert len(own) == 1 or own in TOGETHER


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_config_comes_after_the_configs_whose_output_it_reads(file: Path) -> None:
    loaded = {other: _plain(other)["output_dir"] for other in RECIPES if other.parent == file.parent}
    later = [folder for other, folder in loaded.items() if other.name > file.name]
    assert not [folder for folder in later if re.search(rf": {re.escape(folder)}$", file.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_shipped_config_fits_its_json_schema(file: Path) -> None:
    plain = json.loads(json.dumps(_plain(file)))
    jsonschema.validate(plain, schema.of_stage(command_of(file)))


@pytest.mark.parametrize("stage", [*config.COMMANDS, schema.RECIPE])
def test_the_shipped_schemas_are_current(stage: str) -> None:
    shipped = (ROOT / "configs" / "schemas" / f"{stage}.json").read_text()
    assert shipped == schema.as_json(stage) + "\n", "run: make schemas"


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs" / "reference.md").read_text() == schema.as_markdown() + "\n", "run: make reference"


@pytest.mark.parametrize("key", ["stages.0.modle", "data.trian_file", "seeds"])
def test_the_schema_of_a_recipe_rejects_a_misspelt_key(key: str) -> None:
    teacher = {"stage": "finetune", "model": "base", "output_dir": "out"}
    recipe: dict[str, Any] = {"task": "text-classification", "data": {}, "stages": [teacher]}
    jsonschema.validate(recipe, schema.of_stage(schema.RECIPE))
    *path, name = key.split(".")
    section: Any = recipe
    for step in path:
        section = section[int(step) if step.isdecimal() else step]
    section[name] = 1
    with pytest.raises(jsonschema.ValidationError, match=name):
        jsonschema.validate(recipe, schema.of_stage(schema.RECIPE))


@pytest.mark.parametrize("stage", config.COMMANDS)
def test_the_reference_lists_every_setting_once(stage: str) -> None:
    _, *parts = re.split(r"^## (.*)$", (ROOT / "docs" / "reference.md").read_text(), flags=re.MULTILINE)
    tables = dict(zip(parts[::2], parts[1::2], strict=True))
    listed = "".join(
        table for title, table in tables.items() if title == "every stage" or stage in title.split(" and ")
    )
    rows = re.findall(r"^\| `([\w.]+)` \|", listed, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert {row for row in rows if not row.startswith("losses.")} == {*schema.keys(stage), "extends"}


def test_the_description_of_task_names_every_task() -> None:
    description = config.Stage.model_fields["task"].description
    assert description and all(name in description for name in tasks.TASKS)


def test_every_setting_is_used() -> None:
    read: set[str] = set()
    for file in (ROOT / "tinybert_cli").rglob("*.py"):
        read |= {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    names = {name for section in _sections(config.Section) for name in section.model_fields}
    # The shape of a student is taken from the setting by the names of Shape's fields.
    by_name = {"num_hidden_layers", "num_decoder_layers", "hidden_size", "num_attention_heads", "intermediate_size"}
    by_name |= {name for form in formats.FORMATS.values() for name in form.settings}  # see Format.options
    assert names - read - by_name == {"stage"}  # read before there are typed settings: configuration.stage_of, load


def test_every_setting_has_a_description() -> None:
    for section in _sections(config.Section):
        for name, field in section.model_fields.items():
            description = field.description or field.annotation.__doc__
            assert description and description.strip(), f"{section.__name__}.{name}"


def test_the_stage_of_each_settings_class_is_its_command() -> None:
    assert {command: settings.model_fields["stage"].default for command, settings in config.COMMANDS.items()} == {
        command: command for command in config.COMMANDS
    }


def _plain(file: Path) -> Any:
    problems: list[yaml_reader.ConfigProblem] = []
    node = yaml_reader.read(file.read_text(), str(file), problems)
    assert node is not None and not problems
    return node.plain()


def _sections(base: type[BaseModel]) -> set[type[BaseModel]]:
    return {section for child in base.__subclasses__() for section in {child, *_sections(child)}}
