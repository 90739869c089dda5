"""From YAML to typed settings: reading, merging, error messages, and writing."""

from __future__ import annotations

import json
import random
import subprocess
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tinybert_cli import artifacts, config, configuration
from tinybert_cli.configuration import yaml_reader, yaml_writer
from tinybert_cli.errors import ConfigError, ConfigErrors, InputError
from tinybert_cli.stages.checks import CHECKS, check

COMMON = {"task": "text-classification", "data": {"train_file": "train.csv"}, "output_dir": "out"}
REQUIRED: dict[str, dict[str, Any]] = {
    "finetune": {"model": "bert"},
    "gen-soft-labels": {"teacher": "bert"},
    "distill": {"label_dataset": "labels", "student": "bert"},
    "eval": {"models": {"teacher": "bert"}},
    "export": {"model": "bert"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own current directory, with a complete base per command to extend."""
    monkeypatch.chdir(tmp_path)
    for command, settings in REQUIRED.items():
        write(f"base/{command}.yaml", yaml_writer.write({**COMMON, **settings}))
    return tmp_path


def write(file: str, text: str) -> str:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def load(text: str, *overrides: str, command: str = "distill") -> Any:
    """The settings of a file that extends the complete base of its command; its own lines begin at line 2."""
    write("a.yaml", f"extends: base/{command}.yaml\n{textwrap.dedent(text)}")
    return configuration.load(command, "a.yaml", overrides)


def error_of(text: str, *overrides: str, command: str = "distill") -> str:
    with pytest.raises(ConfigErrors) as raised:
        load(text, *overrides, command=command)
    assert raised.value.exit_code == 2
    return str(raised.value)


def hint(text: str, *overrides: str, command: str = "distill") -> str:
    """The hint behind the carets of the only error."""
    message = error_of(text, *overrides, command=command)
    assert "\n\nerror: " not in message, message
    return message.splitlines()[-1].rpartition("^")[2].strip()


def lines(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


# YAML 1.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("3e-5", 3e-5),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2", -2),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("-.inf", float("-inf")),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2024-01-02", "2024-01-02"),
        ("tRUE", "tRUE"),
    ],
)
def test_a_plain_scalar_means_what_the_core_schema_says(text: str, value: Any) -> None:
    result = yaml_reader.scalar(text)
    assert result == value
    assert type(result) is type(value)


def test_a_quoted_scalar_is_a_string() -> None:
    node = yaml_reader.read("a: '1e-5'\nb: \"true\"\nc: |\n  1\n", "a.yaml", [])
    assert node is not None
    assert node.plain() == {"a": "1e-5", "b": "true", "c": "1\n"}


def test_a_very_long_integer_is_read_as_infinity() -> None:
    assert yaml_reader.scalar("9" * 5000) == float("inf")


def test_unquoted_no_is_a_string() -> None:
    assert load("training: {mixed_precision: no}").training.mixed_precision == "no"


def test_a_json_file_is_a_valid_config() -> None:
    write("a.yaml", '{"task":"t","data":{"train_file":"x"},"output_dir":"o","model":"m","opset":17}')
    assert configuration.load("export", "a.yaml").opset == 17  # type: ignore[attr-defined]


def test_byte_order_marks_and_windows_line_ends_are_accepted() -> None:
    Path("a.yaml").write_bytes(b"\xef\xbb\xbfextends: base/export.yaml\r\nopset: 17\r\n")
    assert configuration.load("export", "a.yaml").opset == 17  # type: ignore[attr-defined]


def test_a_byte_order_mark_does_not_move_the_caret() -> None:
    Path("a.yaml").write_bytes(b"\xef\xbb\xbfseed: x\nextends: base/export.yaml\n")
    with pytest.raises(ConfigErrors, match=r" --> a\.yaml:1:7\n"):
        configuration.load("export", "a.yaml")


def test_an_alias_has_the_value_of_its_anchor() -> None:
    settings = load("data: {train_file: &files [a.csv, b.csv], test_file: *files}")
    assert settings.data.test_file == ["a.csv", "b.csv"]


def test_paths_are_not_normalized() -> None:
    assert load("output_dir: ../runs/./x").output_dir == "../runs/./x"


# Invalid files


def test_a_duplicate_key_names_the_line_of_the_first_one() -> None:
    assert error_of("seed: 1\ntraining:\n  keep: best\n  keep: last\n") == lines("""
        duplicate key 'keep'
         --> a.yaml:5:3
          |
        5 |   keep: last
          |   ^^^^ already set in line 4
    """)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!new", "!!int"])
def test_a_yaml_tag_is_rejected(tag: str) -> None:
    assert error_of(f"seed: {tag} 3\n") == lines(f"""
        YAML tags are not supported
         --> a.yaml:2:7
          |
        2 | seed: {tag} 3
          |       {"^" * len(tag)} delete it: no setting needs a tag
    """)


def test_a_merge_key_hints_at_extends() -> None:
    assert error_of("training:\n  <<: {keep: last}\n") == lines("""
        merge keys (`<<`) are not part of YAML 1.2
         --> a.yaml:3:3
          |
        3 |   <<: {keep: last}
          |   ^^ write `extends: FILE` at the top level instead
    """)


def test_an_integer_key_is_read_as_a_string() -> None:
    problems: list[yaml_reader.ConfigProblem] = []
    node = yaml_reader.read("label_names: {0: bad, 1: good}\n", "a.yaml", problems)
    assert node is not None and not problems
    assert node.plain() == {"label_names": {"0": "bad", "1": "good"}}


def test_a_float_key_is_rejected() -> None:
    assert error_of("losses:\n  1.5: 0.5\n").startswith("a key must be a string, found 1.5\n --> a.yaml:3:3\n")


def test_a_list_as_key_is_rejected() -> None:
    assert error_of("? [a, b]\n: 1\n").startswith("a key must be a string\n --> a.yaml:2:3\n")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "~\n"])
def test_an_empty_file_is_rejected(text: str) -> None:
    write("a.yaml", text)
    with pytest.raises(ConfigErrors, match=r"^the file is empty\n --> a\.yaml:1:1\n"):
        configuration.load("export", "a.yaml")


def test_a_list_is_not_a_config() -> None:
    write("a.yaml", "- task: x\n")
    with pytest.raises(ConfigErrors, match=r"^expected a mapping, found a list of 1\n --> a\.yaml:1:1\n"):
        configuration.load("export", "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training: {keep: best\nseed: 1\n",
            """
            invalid YAML: this bracket is not closed
             --> a.yaml:2:11
              |
            2 | training: {keep: best
              |           ^
            """,
        ),
        (
            'output_dir: "runs\n',
            """
            invalid YAML: this quote is not closed
             --> a.yaml:2:13
              |
            2 | output_dir: "runs
              |             ^
            """,
        ),
        (
            "output_dir: a: b\n",
            """
            invalid YAML: mapping values are not allowed here
             --> a.yaml:2:14
              |
            2 | output_dir: a: b
              |              ^ quote a string that contains `: `, or fix the indentation
            """,
        ),
        (
            "training:\n\tkeep: best\n",
            """
            invalid YAML: found character TAB that cannot start any token
             --> a.yaml:3:1
              |
            3 | \tkeep: best
              | ^ indent with spaces
            """,
        ),
        (
            "training:\n    keep: best\n  max_steps: 3\n",
            """
            invalid YAML: the indentation matches no line above
             --> a.yaml:4:3
              |
            4 |   max_steps: 3
              |   ^ fix the indentation
            """,
        ),
        (
            "data: {train_file: ${HERE}/a.csv}\n",
            """
            invalid YAML: this bracket is not closed
             --> a.yaml:2:7
              |
            2 | data: {train_file: ${HERE}/a.csv}
              |       ^ inside brackets, write "${NAME}" in quotes
            """,
        ),
        (
            "seed: 1\n---\nseed: 2\n",
            """
            invalid YAML: found another document
             --> a.yaml:3:1
              |
            3 | ---
              | ^ a file contains one config: delete the `---`
            """,
        ),
    ],
)
def test_a_syntax_error_shows_its_location(text: str, message: str) -> None:
    assert error_of(text) == textwrap.dedent(message).strip("\n")


def test_a_control_character_is_an_error() -> None:
    message = error_of("output_dir: a\x1bb\n")
    assert message.startswith("the character with code 27 is not allowed in YAML\n --> a.yaml:2:14\n")
    assert "\x1b" not in message


def test_exponential_aliases_are_rejected() -> None:
    steps = zip("abcdefg", ["x", "*a", "*b", "*c", "*d", "*e", "*f"], strict=True)
    bomb = "".join(f"{name}: &{name} [{', '.join([below] * 10)}]\n" for name, below in steps)
    assert error_of(bomb).startswith("aliases expand to more than 20,000 values\n")


def test_an_alias_inside_its_own_anchor_is_rejected() -> None:
    assert error_of("data: &data {train_file: *data}\n").startswith("nested more than 50 levels deep\n")


def test_deeply_nested_brackets_are_rejected() -> None:
    assert error_of(f"data: {'[' * 5000}\n").startswith("nested more than 50 levels deep\n")


# extends


def test_mappings_are_merged_and_everything_else_is_replaced() -> None:
    write(
        "low.yaml", "extends: base/distill.yaml\ntraining: {keep: last, report_to: [wandb, mlflow]}\nstudent: {from: a}"
    )
    write("a.yaml", "extends: low.yaml\ntraining: {report_to: [trackio]}\nstudent: b")
    settings: Any = configuration.load("distill", "a.yaml")
    assert settings.training.keep == "last"
    assert settings.training.report_to == ["trackio"]
    assert settings.student.from_ == "b"


def test_later_extended_files_win_and_the_file_itself_wins_over_all() -> None:
    write("one.yaml", "seed: 1\ntraining: {max_steps: 1, eval_steps: 1, save_steps: 1}")
    write("two.yaml", "seed: 2\ntraining: {max_steps: 2, eval_steps: 2}")
    write("a.yaml", "extends: [base/distill.yaml, one.yaml, two.yaml]\ntraining: {max_steps: 3}")
    settings: Any = configuration.load("distill", "a.yaml")
    assert (settings.seed, settings.training.max_steps, settings.training.eval_steps) == (2, 3, 2)
    assert settings.training.save_steps == 1


def test_extends_is_relative_to_the_file_that_contains_it() -> None:
    write("configs/shared/task.yaml", "extends: ../../base/export.yaml\nopset: 13")
    write("configs/sst2/a.yaml", "extends: ../shared/task.yaml")
    assert configuration.load("export", "configs/sst2/a.yaml").opset == 13  # type: ignore[attr-defined]


def test_a_file_may_be_extended_twice() -> None:
    write("one.yaml", "extends: base/export.yaml\nopset: 13")
    write("two.yaml", "extends: base/export.yaml\nseed: 2")
    write("a.yaml", "extends: [one.yaml, two.yaml]")
    settings: Any = configuration.load("export", "a.yaml")
    assert (settings.opset, settings.seed) == (13, 2)


def test_circular_extends_shows_the_chain_of_files() -> None:
    write("b.yaml", "extends: sub/c.yaml")
    write("sub/c.yaml", "# c\nextends: [../b.yaml]")
    write("a.yaml", "extends: b.yaml")
    with pytest.raises(ConfigErrors) as raised:
        configuration.load("export", "a.yaml")
    assert str(raised.value) == lines("""
        `extends` is circular
         --> sub/c.yaml:2:11
          |
        2 | extends: [../b.yaml]
          |           ^^^^^^^^^ b.yaml -> sub/c.yaml -> sub/../b.yaml
    """)


def test_extends_below_the_top_level_is_rejected() -> None:
    assert error_of("training:\n  extends: b.yaml\n").startswith(
        "`extends` is allowed only at the top level of a file\n --> a.yaml:3:3\n"
    )


def test_extends_on_the_command_line_is_rejected() -> None:
    assert error_of("", "extends=b.yaml").startswith("`extends` is allowed only at the top level of a file\n")


def test_extends_must_be_a_file_or_a_list_of_files() -> None:
    write("a.yaml", "extends: {file: b.yaml}")
    with pytest.raises(
        ConfigErrors, match=r"^expected a file or a list of files, found a mapping\n --> a\.yaml:1:10\n"
    ):
        configuration.load("export", "a.yaml")


def test_an_error_names_the_file_that_contains_the_effective_value() -> None:
    write("low.yaml", "extends: base/distill.yaml\ntraining:\n  max_steps: a\n  eval_steps: b\n")
    write("a.yaml", "extends: low.yaml\ntraining:\n  eval_steps: c\n")
    with pytest.raises(ConfigErrors) as raised:
        configuration.load("distill", "a.yaml")
    assert str(raised.value) == lines("""
        `training.eval_steps`: expected an integer of at least 1 or null, found 'c'
         --> a.yaml:3:15
          |
        3 |   eval_steps: c
          |               ^

        error: `training.max_steps`: expected an integer from -1 to 1000000000, found 'a'
         --> low.yaml:3:14
          |
        3 |   max_steps: a
          |              ^
    """)


# Variables


def test_a_variable_is_expanded_inside_a_string(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "/data")
    assert load("output_dir: ${RUNS}/x").output_dir == "/data/x"


def test_a_default_replaces_an_unset_or_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNS", raising=False)
    assert load("output_dir: ${RUNS:-runs}/x").output_dir == "runs/x"
    monkeypatch.setenv("RUNS", "")
    assert load("output_dir: ${RUNS:-runs}/x").output_dir == "runs/x"


def test_two_dollar_signs_are_read_as_one() -> None:
    assert load("output_dir: $${RUNS}/$x$").output_dir == "${RUNS}/$x$"


def test_the_value_of_a_variable_is_not_expanded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "${HOME}")
    assert load("output_dir: ${RUNS}").output_dir == "${HOME}"


@pytest.mark.parametrize("mark", [",", "|", ";", "#", ":", "&", "*", "!", "%", "@", "`", "-", "?", ">", "/"])
def test_one_punctuation_mark_in_an_argument_is_itself(mark: str) -> None:
    config = load("", f"data.label_separator={mark}", "task=multi-label-classification")
    assert config.data.label_separator == mark


@pytest.mark.parametrize("mark", [",", "|", ">"])
def test_a_punctuation_mark_in_a_file_has_to_be_quoted(mark: str) -> None:
    assert hint(f"""
        data:
          label_separator: {mark}
        """) in (f"write '{mark}' for the character", "if it is text, quote it")  # fmt: skip


@pytest.mark.parametrize("value", ["#label", "a #b", '"a" # b'])
def test_a_comment_in_an_argument_is_an_error(value: str) -> None:
    assert "YAML reads this as a comment" in error_of("", f"data.label_column_name={value}")


def test_a_variable_in_an_overridden_value_is_ignored() -> None:
    assert load("output_dir: ${NEVER_SET_ANYWHERE}", "output_dir=x").output_dir == "x"


def test_an_unset_variable_shows_its_location() -> None:
    assert error_of("output_dir: runs/${NEVER_SET_ANYWHERE}/x\n") == lines("""
        the environment variable NEVER_SET_ANYWHERE is not set, but `output_dir` uses it
         --> a.yaml:2:18
          |
        2 | output_dir: runs/${NEVER_SET_ANYWHERE}/x
          |                  ^^^^^^^^^^^^^^^^^^^^^ set it, or write ${NEVER_SET_ANYWHERE:-default}; or $${NEVER_SET_ANYWHERE} for these characters
    """)


@pytest.mark.parametrize("text", ["${1}", "${A:=b}", "${}", "${A", "${A:-${B}}"])
def test_an_invalid_variable_is_rejected(text: str) -> None:
    assert hint(f"output_dir: {text}\n") == "write ${NAME} or ${NAME:-default}; or $${ for these characters"


def test_a_variable_is_never_converted_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "32")
    assert error_of("seed: ${N}\n") == lines("""
        `seed`: expected an integer from 0 to 4294967295, found '32'
         --> a.yaml:2:7
          |
        2 | seed: ${N}
          |       ^^^^ a variable is always a string; set this on the command line: KEY=VALUE
    """)


# The command line


def test_the_last_value_on_the_command_line_wins() -> None:
    settings = load("seed: 1", "seed=2", "training.learning_rate=3e-5", "seed=3")
    assert (settings.seed, settings.training.learning_rate) == (3, 3e-5)


def test_the_command_line_accepts_yaml_flow_style() -> None:
    settings = load("", "layer_mapping=[3,6,9,12]", "losses={soft_labels: {temperature: 4}}")
    assert settings.layer_mapping == [3, 6, 9, 12]
    assert settings.losses == {"soft_labels": {"temperature": 4}}


def test_a_value_on_the_command_line_replaces_a_mapping() -> None:
    assert load("training: {max_steps: 3}", "training={keep: last}").training.max_steps == -1


def test_a_value_may_contain_an_equals_sign() -> None:
    assert load("", "output_dir=runs/lr=3").output_dir == "runs/lr=3"


def test_nothing_after_the_equals_sign_is_null() -> None:
    assert load("teacher: x", "teacher=").teacher is None


def test_dashes_and_percent_signs_on_the_command_line_are_values() -> None:
    assert load("", "output_dir=---").output_dir == "---"
    assert hint("", "output_dir=%x") == "quote a string that starts with this character"


def test_a_loss_option_turns_the_weight_into_a_mapping() -> None:
    settings = load("losses: {soft_labels: 1.0}", "losses.soft_labels.temperature=4")
    assert settings.losses == {"soft_labels": {"weight": 1.0, "temperature": 4}}


def test_a_loss_on_the_command_line_keeps_the_default_losses() -> None:
    assert load("", "losses.hard_labels=0.5").losses == {"soft_labels": 1.0, "hard_labels": 0.5}


def test_a_loss_on_the_command_line_is_added_to_those_in_the_file() -> None:
    assert load("losses: {hard_labels: 1.0}", "losses.soft_labels=0.5").losses == {
        "hard_labels": 1.0,
        "soft_labels": 0.5,
    }


def test_a_shape_setting_turns_the_model_name_into_a_mapping() -> None:
    student = load("student: teacher", "student.num_hidden_layers=2").student
    assert (student.from_, student.num_hidden_layers) == ("teacher", 2)


def test_a_model_without_a_shape_has_no_subkeys() -> None:
    assert error_of("", "model.num_hidden_layers=2", command="export") == lines("""
        `model`: expected a string, found a mapping
          --> command line: model.num_hidden_layers=2
           |                ^^^^^
    """)


def test_an_invalid_value_on_the_command_line_shows_its_location() -> None:
    assert error_of("", "training.learning_rate=fast") == lines("""
        `training.learning_rate`: expected 'auto' or a number above 0, found 'fast'
          --> command line: training.learning_rate=fast
           |                                       ^^^^
    """)


def test_an_invalid_value_in_a_flow_mapping_shows_its_location() -> None:
    assert error_of("", "training={keep: best, max_steps: x}") == lines("""
        `training.max_steps`: expected an integer from -1 to 1000000000, found 'x'
          --> command line: training={keep: best, max_steps: x}
           |                                                 ^
    """)


def test_an_unknown_section_on_the_command_line_shows_its_location() -> None:
    assert error_of("", "trainin.max_steps=3") == lines("""
        unknown key 'trainin'
          --> command line: trainin.max_steps=3
           |                ^^^^^^^ did you mean 'training.max_steps=3'?
    """)


def test_invalid_yaml_on_the_command_line_shows_its_location() -> None:
    assert error_of("", "layer_mapping=[1,2") == lines("""
        invalid YAML: this bracket is not closed
          --> command line: layer_mapping=[1,2
           |                              ^
    """)


@pytest.mark.parametrize(
    ("arguments", "expected_hint"),
    [
        (["learning_rate=3e-5"], "did you mean 'training.learning_rate=3e-5'?"),
        (["lr=3e-5"], "did you mean 'training.learning_rate=3e-5'?"),
        (["training.lr=3e-5"], "did you mean 'training.learning_rate=3e-5'?"),
        (["--learning-rate=3e-5"], "did you mean 'training.learning_rate=3e-5'?"),
        (["--learning-rate", "3e-5"], "did you mean 'training.learning_rate=3e-5'?"),
        (["--learning_rate"], "did you mean 'training.learning_rate=VALUE'?"),
        (["--max-steps", "-1"], "did you mean 'training.max_steps=-1'?"),
        (["--training.learning-rate=3e-5"], "did you mean 'training.learning_rate=3e-5'?"),
        (["--seed=7"], "did you mean 'seed=7'?"),
        (["--temperature=4"], "did you mean 'losses.soft_labels.temperature=4'?"),
        (["max_length=64"], "did you mean 'data.max_seq_length=64'?"),
        (["--dryrun"], "did you mean '--dry-run'?"),
        (["other.yaml"], "only one config per command; combine files with `extends: [FILE, FILE]`"),
        (["learning_rate"], "write settings as KEY=VALUE, for example seed=7"),
        (["=7"], "write settings as KEY=VALUE, for example seed=7"),
        (["training..max_steps=7"], "write settings as KEY=VALUE, for example seed=7"),
    ],
)
def test_a_malformed_argument_hints_at_the_correct_form(arguments: list[str], expected_hint: str) -> None:
    assert hint("", *arguments) == expected_hint


def test_a_long_option_is_shown_with_its_value() -> None:
    assert error_of("", "--learning-rate", "3e-5", "seed=x") == lines("""
        expected KEY=VALUE, found '--learning-rate 3e-5'
          --> command line: --learning-rate 3e-5
           |                ^^^^^^^^^^^^^^^^^^^^ did you mean 'training.learning_rate=3e-5'?

        error: `seed`: expected an integer from 0 to 4294967295, found 'x'
          --> command line: seed=x
           |                     ^
    """)


def test_a_string_that_looks_like_a_number_is_quoted_for_the_shell() -> None:
    assert hint("", "data.dataset_revision=012") == "write 'data.dataset_revision=\"012\"'"


# Keys


def test_an_unknown_key_shows_its_location() -> None:
    write("configs/a.yaml", "extends: ../base/distill.yaml\n" + "#\n" * 7 + "training:\n  learnin_rate: 5e-5\n")
    with pytest.raises(ConfigErrors) as raised:
        configuration.load("distill", "configs/a.yaml")
    assert str(raised.value) == lines("""
        unknown key 'learnin_rate' in `training`
          --> configs/a.yaml:10:3
           |
        10 |   learnin_rate: 5e-5
           |   ^^^^^^^^^^^^ did you mean 'learning_rate'?
    """)


def test_a_missing_key_shows_its_documentation() -> None:
    write("a.yaml", "task: regression\ndata: {}\noutput_dir: o\nlabel_dataset: s\nstudent:\n  num_hidden_layers: 3\n")
    with pytest.raises(ConfigErrors) as raised:
        configuration.load("distill", "a.yaml", (), CHECKS["distill"])
    documented = "weights and tokenizer: a folder, a Hub id (`org/name`, `org/name@revision`) or"
    assert str(raised.value) == lines(f"""
        missing key 'from'
         --> a.yaml:5:1
          |
        5 | student:
          | ^^^^^^^ from: {documented} `package://import_name/path`.
    """)


def test_a_missing_top_level_key_points_at_the_file() -> None:
    write("a.yaml", "# export\ntask: t\ndata: {}\nmodel: m\n")
    with pytest.raises(ConfigErrors) as raised:
        configuration.load("export", "a.yaml")
    assert str(raised.value) == lines("""
        missing key 'output_dir'
         --> a.yaml:1:1
          |
        1 | # export
          | ^ output_dir: The folder that this stage writes.
    """)


@pytest.mark.parametrize(
    ("command", "text", "expected_hint"),
    [
        ("distill", "learning_rate: 1e-5", "`learning_rate` belongs in `training`"),
        ("distill", "training: {seed: 1}", "`seed` belongs at the top level"),
        ("distill", "training.max_steps: 3", "did you mean 'max_steps' in `training`?"),
        ("distill", "training: {learning-rate: 1}", "did you mean 'learning_rate'?"),
        ("distill", "training: {evaluation_strategy: epoch}", "did you mean 'eval_strategy'?"),
        ("distill", "teacher_model: x", "did you mean 'teacher'?"),
        ("distill", "teacher_model_name_or_path: x", "did you mean 'teacher'?"),
        ("distill", "student_model: x", "did you mean 'student'?"),
        ("finetune", "model_name_or_path: x", "did you mean 'model'?"),
        ("gen-soft-labels", "model_name_or_path: x", "did you mean 'teacher'?"),
        ("distill", "temperature: 4", "`temperature` belongs in `losses.soft_labels`"),
        ("distill", "T: 4", "did you mean 'temperature' in `losses.soft_labels`?"),
        ("distill", "hard_labels: 1.0", "`hard_labels` belongs in `losses`"),
        ("finetune", "training: {batch_size: 8}", "did you mean 'per_device_train_batch_size'?"),
        ("eval", "batch_size: 8", "did you mean 'per_device_eval_batch_size'?"),
        ("finetune", "training: {lr: 1}", "did you mean 'learning_rate'?"),
        ("finetune", "epochs: 3", "did you mean 'num_train_epochs' in `training`?"),
        ("finetune", "training: {decay: 0}", "did you mean 'weight_decay'?"),
        ("finetune", "training: {scheduler: linear}", "did you mean 'lr_scheduler_type'?"),
        ("export", "max_length: 64", "did you mean 'max_seq_length' in `data`?"),
        ("distill", "data: {block_size: 64}", "did you mean 'max_seq_length'?"),
        ("distill", "corpus: x.txt", "did you mean 'train_file' in `data`?"),
        ("export", "data: {dataset: x}", "did you mean 'dataset_name'?"),
        ("export", "data: {text_column: x}", "did you mean 'text_column_names'?"),
        ("export", "data: {label_key: x}", "did you mean 'label_column_name'?"),
    ],
)
def test_a_key_of_another_tool_hints_at_the_setting(command: str, text: str, expected_hint: str) -> None:
    assert hint(text, command=command) == expected_hint


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("alpha", "losses: {soft_labels: ..., hard_labels: ...}; alpha is the weight of the hard loss in some tools"),
        ("mlm_probability", "no tokens are masked"),
        ("overwrite_output_dir", "tinybert distill CONFIG --force"),
        ("warmup_steps", "`warmup_ratio` in `training`"),
        ("fp16", "`mixed_precision`"),
        ("bf16", "`mixed_precision`"),
        ("no_cuda", "CUDA_VISIBLE_DEVICES="),
        ("logging_dir", "`output_dir`"),
        ("do_train", "each stage is a command"),
        ("do_eval", "each stage is a command"),
        ("load_best_model_at_end", "`keep: best`"),
        ("optimizer", "AdamW"),
        ("num_labels", "`label_names` in `data`"),
        ("gradient_checkpointing", "`gradient_accumulation_steps`"),
        ("deepspeed", "accelerate launch -m tinybert_cli distill CONFIG"),
        ("fsdp", "accelerate launch -m tinybert_cli distill CONFIG"),
    ],
)
def test_a_key_without_counterpart_gives_advice(name: str, words: str) -> None:
    assert words in hint(f"{name}: 1\n")


@pytest.mark.parametrize("command", ["finetune", "distill"])
@pytest.mark.parametrize("old", ["soft_labels", "labels"])
def test_the_key_of_0_1_for_a_label_dataset_hints_at_the_new_one(command: str, old: str) -> None:
    assert hint(f"{old}: runs/labels", command=command) == "did you mean 'label_dataset'?"
    assert hint("", f"{old}=runs/labels", command=command) == "did you mean 'label_dataset=runs/labels'?"
    option = f"--{old.replace('_', '-')}"
    assert hint("", option, "runs/labels", command=command) == "did you mean 'label_dataset=runs/labels'?"


def test_a_config_of_0_1_has_one_error_per_renamed_key() -> None:
    write("a.yaml", "task: text-classification\ndata: {}\noutput_dir: o\nsoft_labels: s\nstudent: m\n")
    with pytest.raises(ConfigErrors) as raised:
        configuration.load("distill", "a.yaml", checks={("task", "label_dataset"): failing_check()})
    assert str(raised.value) == lines("""
        unknown key 'soft_labels'
         --> a.yaml:4:1
          |
        4 | soft_labels: s
          | ^^^^^^^^^^^ did you mean 'label_dataset'?
    """)


def test_the_loss_soft_labels_keeps_its_name() -> None:
    assert load("losses: {soft_labels: 2.0}", "losses.soft_labels.temperature=4").losses == {
        "soft_labels": {"weight": 2.0, "temperature": 4}
    }


def test_the_attribute_name_from__is_not_a_key() -> None:
    message = error_of("student: {from_: x}\n")
    assert "unknown key 'from_' in `student`" in message


def test_a_hint_never_names_a_setting_that_the_command_lacks() -> None:
    assert hint("alpha: 0.5", command="eval") == "all keys: tinybert schema eval"
    assert hint("optimizer: adam", command="gen-soft-labels") == "all keys: tinybert schema gen-soft-labels"


def test_a_key_of_an_item_of_a_list_gets_a_suggestion() -> None:
    text = "task: text-classification\ndata: {}\noutput_dir: o\nteacher: [{answers_fil: x, answers_file: x}]\n"
    assert hint(text, command="gen-soft-labels") == "did you mean 'answers_file'?"


# Values


@pytest.mark.parametrize(
    ("command", "text", "message", "expected_hint"),
    [
        ("distill", "training: {max_steps: three}", "expected an integer from -1 to 1000000000, found 'three'", ""),
        ("distill", "training: {max_steps: 1e3}", "expected an integer from -1 to 1000000000, found 1e3", "write 1000"),
        ("distill", "training: {warmup_ratio: 2}", "expected a number from 0 to 1, found 2", ""),
        (
            "finetune",
            "regularization: {dropout: 1}",
            "expected a number of at least 0 and below 1 or null, found 1",
            "",
        ),
        ("distill", "training: {group_by_length: yes}", "expected true or false, found 'yes'", "write true"),
        (
            "distill",
            "training: {max_steps: 1_000}",
            "expected an integer from -1 to 1000000000, found '1_000'",
            "write 1000",
        ),
        (
            "distill",
            "training: {learning_rate: '5e-5'}",
            "expected 'auto' or a number above 0, found the string '5e-5' (quoted)",
            "write it without quotes",
        ),
        ("distill", "training: {max_steps: true}", "expected an integer from -1 to 1000000000, found true", ""),
        ("distill", "training: {keep: besst}", "expected one of: best, last, found 'besst'", "did you mean 'best'?"),
        (
            "distill",
            "training: {eval_strategy: false}",
            "expected one of: auto, no, epoch, steps, found false",
            "did you mean 'no'?",
        ),
        ("export", "quantize: ~", "expected one of: none, int8, fp16, found ~", "did you mean 'none'?"),
        (
            "distill",
            "layer_mapping: unifrom",
            "expected one of: uniform, spread, first, last; or a list of integers of at least 1; or a mapping, found 'unifrom'",
            "did you mean 'uniform'?",
        ),
        (
            "distill",
            "losses: {soft_labels: [1]}",
            "expected a number or a mapping, found a list of 1",
            "",
        ),
        ("distill", "teacher: {a: b}", "expected a string or null, found a mapping", ""),
        ("distill", "student: [a]", "expected a string or a mapping, found a list of 1", ""),
        ("distill", "training: [a]", "expected a mapping, found a list of 1", ""),
        ("distill", "training:", "expected a mapping, found nothing", ""),
        (
            "export",
            "data: {text_column_names: [a, b, c]}",
            "expected a string or a list of strings (1 to 2 items), found a list of 3",
            "",
        ),
        ("export", "data: {dataset_revision: 1e10}", "expected a string or null, found 1e10", "write '1e10'"),
        (
            "gen-soft-labels",
            "splits: train",
            "expected a list of: train, validation, test, unlabeled (not empty), found 'train'",
            "write a list: [train]",
        ),
        ("export", "verify: {atol: .inf}", "expected a number above 0, found .inf", ""),
        (
            "finetune",
            "model: {from: x, preset: bert-tinny}",
            "`model.preset`: expected one of: tinybert-4l-312, tinybert-6l-768, distilbert-6l-768",
            "did you mean 'bert-tiny'?",
        ),
    ],
)
def test_an_invalid_value_shows_what_is_expected(command: str, text: str, message: str, expected_hint: str) -> None:
    result = error_of(text, command=command)
    assert message in result.splitlines()[0]
    assert hint(text, command=command) == expected_hint


@pytest.mark.parametrize(
    ("command", "text", "key"),
    [
        ("distill", "layer_mapping: [3, x]", "`layer_mapping[1]`: expected an integer of at least 1, found 'x'"),
        ("eval", "latency: {lengths: [dat]}", "`latency.lengths[0]`: expected 'data' or an integer from 1 to 1048576"),
        ("export", "data: {text_column_names: [a, 3]}", "`data.text_column_names[1]`: expected a string, found 3"),
        ("eval", "require: {a: {b: c}}", "`require.a.b`: expected a number, found 'c'"),
    ],
)
def test_a_union_gives_one_error_at_the_deepest_location(command: str, text: str, key: str) -> None:
    message = error_of(text, command=command)
    assert message.startswith(key)
    assert "\n\nerror: " not in message


def test_an_empty_mapping_of_models_is_rejected() -> None:
    write("a.yaml", "task: t\ndata: {}\noutput_dir: o\nmodels: {}\n")
    with pytest.raises(ConfigErrors, match=r"`models`: expected a mapping \(not empty\), found an empty mapping"):
        configuration.load("eval", "a.yaml")


def test_errors_are_ordered_by_file_line_then_by_command_line() -> None:
    message = error_of("seed: a\nfoo_bar: 1\ntraining: {max_steps: b}\nseed2: 3\n", "zzz_y=1", "min_x=2")
    locations = [line.strip() for line in message.splitlines() if "-->" in line]
    assert locations == [
        "--> a.yaml:2:7",
        "--> a.yaml:3:1",
        "--> a.yaml:4:23",
        "--> a.yaml:5:1",
        "--> command line: zzz_y=1",
        "--> command line: min_x=2",
    ]


def test_carets_are_aligned_under_wide_characters() -> None:
    assert error_of('data: {train_file: "日本", test_file: 3}\n') == lines("""
        `data.test_file`: expected a string, a list of strings or null, found 3
         --> a.yaml:2:37
          |
        2 | data: {train_file: "日本", test_file: 3}
          |                                       ^ write '3'
    """)


def test_a_very_long_line_is_cropped_around_the_carets() -> None:
    message = error_of(f"layer_mapping: [{'1, ' * 500}x, {'1, ' * 500}1]\n").splitlines()
    assert len(message[3]) < 160
    assert message[3][message[4].index("^")] == "x"


# The wrong stage


@pytest.mark.parametrize("command", ["finetune", "gen-soft-labels", "distill", "eval"])
def test_an_export_config_is_recognised_by_every_other_command(command: str) -> None:
    write("a.yaml", "task: t\ndata: {}\noutput_dir: o\nmodel: m\nquantize: int8\nverify: {atol: 1}\n")
    with pytest.raises(ConfigErrors) as raised:
        configuration.load(command, "a.yaml")
    message = str(raised.value)
    assert message.startswith("this looks like an export config\n --> a.yaml:")
    assert message.endswith("^ run: tinybert export a.yaml")
    assert message.count("-->") == 1


def test_a_distill_config_is_recognised_by_finetune() -> None:
    write("a.yaml", "task: t\ndata: {}\noutput_dir: o\nlabel_dataset: s\nstudent: m\ntraining: {}\n")
    with pytest.raises(ConfigErrors, match=r"^this looks like a distill config\n --> a\.yaml:5:1\n"):
        configuration.load("finetune", "a.yaml")


@pytest.mark.parametrize("stage", list(config.COMMANDS))
@pytest.mark.parametrize("command", list(config.COMMANDS))
def test_a_config_runs_only_with_the_command_in_its_stage_key(command: str, stage: str) -> None:
    if command == stage:
        assert load(f"stage: {stage}", command=command).stage == stage
    else:
        article = "an" if stage in ("eval", "export") else "a"
        assert error_of(f"seed: x\nstage: {stage}", command=command) == lines(f"""
            this is {article} {stage} config
             --> a.yaml:3:8
              |
            3 | stage: {stage}
              |        {"^" * len(stage)} run: tinybert {stage} a.yaml
        """)


def test_the_stage_key_is_optional_and_inherited_through_extends() -> None:
    assert load("").stage == "distill"
    write("low.yaml", "extends: base/export.yaml\nstage: export")
    write("a.yaml", "extends: low.yaml")
    with pytest.raises(ConfigErrors, match=r"^this is an export config\n --> low\.yaml:2:8\n"):
        configuration.load("eval", "a.yaml")


def test_a_misspelt_stage_hints_at_the_right_one() -> None:
    assert error_of("stage: distil").startswith("`stage`: expected 'distill', found 'distil'\n")
    assert hint("stage: distil") == "did you mean 'distill'?"


def test_a_stage_key_overrules_the_guess_from_the_other_keys() -> None:
    write("a.yaml", "task: t\ndata: {}\noutput_dir: o\nstage: finetune\nstudent: m\nteacher: x\n")
    with pytest.raises(ConfigErrors, match="unknown key 'student'"):
        configuration.load("finetune", "a.yaml")


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("# tinybert eval a.yaml\nstage: export  # and not eval\nseed: 1\n", "export"),
        ("seed: 1\n", None),
        ("stage: 3\n", None),
        ("stage: train\n", None),
        ("stage: [export]\n", None),
        ("- stage: export\n", None),
        ("stage: [\n", None),
        ("", None),
    ],
)
def test_stage_of_reads_the_stage_key_of_any_file(text: str, stage: str | None) -> None:
    assert configuration.stage_of(Path(write("a.yaml", text))) == stage
    assert configuration.stage_of(Path("missing.yaml")) is None


@pytest.mark.parametrize(("given", "old"), [("distill", "labels"), ("export", "labels"), ("eval", "labels")])
def test_a_finetune_config_of_0_1_is_recognised_by_other_stages(given: str, old: str) -> None:
    write("a.yaml", f"task: t\ndata: {{}}\noutput_dir: o\n{old}: s\nmodel: m\n")
    with pytest.raises(ConfigErrors, match=r"^this looks like a finetune config\n"):
        configuration.load(given, "a.yaml")


def test_one_misspelt_key_is_not_a_wrong_stage() -> None:
    write("a.yaml", "task: t\ndata: {}\noutput_dir: o\nlabel_datasett: s\nstudent: m\ntraining: {}\n")
    with pytest.raises(ConfigErrors, match="unknown key 'label_datasett'"):
        configuration.load("distill", "a.yaml")


def test_a_key_on_the_command_line_is_not_a_wrong_stage() -> None:
    assert error_of("", "format=onnx", command="finetune").startswith("unknown key 'format'")


# Checks, and errors that come later


def error_of_check(text: str, key: str, check: Callable[[Any], object]) -> str:
    write("a.yaml", f"extends: base/distill.yaml\n{text}")
    with pytest.raises(ConfigErrors) as raised:
        configuration.load("distill", "a.yaml", checks={key: check})
    return str(raised.value)


def failing_check(*key: str | int, what: str = "no") -> Callable[[Any], object]:
    def check(_: Any) -> None:
        raise ConfigError(what, key=key, hint="fix it")

    return check


def test_a_check_receives_plain_data_with_variables_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "x")
    seen: list[Any] = []
    write("a.yaml", "extends: base/distill.yaml\nlosses: {a: 1, b: {option: '${NAME}'}}")
    configuration.load("distill", "a.yaml", checks={"losses": seen.append, "training": seen.append})
    assert seen == [{"a": 1, "b": {"option": "x"}}, config.Training().model_dump()]


def test_a_failed_check_shows_the_location_of_the_setting() -> None:
    message = error_of_check(
        "losses:\n  soft_labels: {weight: 1, temperature: -1}\n", "losses", failing_check("soft_labels", "temperature")
    )
    assert message == lines("""
        no
         --> a.yaml:3:41
          |
        3 |   soft_labels: {weight: 1, temperature: -1}
          |                                         ^^ fix it
    """)


def test_a_check_of_an_unknown_key_points_at_the_key() -> None:
    message = error_of_check(
        "losses: {soft_label: 1}\n", "losses", failing_check("soft_label", what="unknown loss 'soft_label'")
    )
    assert message.splitlines()[-2:] == ["2 | losses: {soft_label: 1}", "  |          ^^^^^^^^^^ fix it"]


def test_a_check_of_a_missing_key_points_at_its_section() -> None:
    message = error_of_check("losses:\n  soft_labels: {weight: 1}\n", "losses", failing_check("hard_labels"))
    assert message.splitlines()[-2:] == ["2 | losses:", "  | ^^^^^^ fix it"]


def test_a_check_of_several_settings_receives_all_of_them() -> None:
    seen: list[Any] = []

    def check(*values: Any) -> None:
        seen.extend(values)
        raise ConfigError("no", key=("losses", "a"))

    write("a.yaml", "extends: base/distill.yaml\nlosses: {a: 1}\n")
    with pytest.raises(ConfigErrors, match=r"^no\n --> a\.yaml:2:13\n"):
        configuration.load("distill", "a.yaml", checks={("task", "losses", "teacher"): check})
    assert seen == ["text-classification", {"a": 1}, None]


@pytest.mark.parametrize("text", ["losses: [1]\n", "losses: {a: 1}\n"])
def test_a_check_of_several_settings_needs_all_of_them_valid(text: str) -> None:
    write("a.yaml", f"extends: base/distill.yaml\n{text}")
    seen: list[Any] = []
    with pytest.raises(ConfigErrors):
        configuration.load(
            "distill", "a.yaml", checks={("task", "losses"): lambda *_: seen.append(1), "losses": failing_check("a")}
        )
    assert not seen


def test_a_check_of_an_invalid_setting_does_not_run() -> None:
    message = error_of_check("losses: [1]\n", "losses", failing_check())
    assert message.startswith("`losses`: expected a mapping, found a list of 1\n")
    assert "fix it" not in message


def test_errors_of_checks_are_reported_with_all_others() -> None:
    message = error_of_check("seed: x\nlosses: {a: 1}\nteacher: 3\n", "losses", failing_check("a"))
    assert [line for line in message.splitlines() if "-->" in line] == [
        " --> a.yaml:2:7",
        " --> a.yaml:3:13",
        " --> a.yaml:4:10",
    ]


def test_a_later_error_shows_the_location_of_the_setting() -> None:
    load("training:\n  metric_for_best_model: acuracy\n", "training.max_steps=3")
    error = ConfigError("unknown metric 'acuracy'", key=("training", "metric_for_best_model"), hint="accuracy?")
    message = configuration.with_location(error, "distill", "a.yaml", ["training.max_steps=3"])
    assert isinstance(message, ConfigErrors)
    assert str(message) == lines("""
        unknown metric 'acuracy'
         --> a.yaml:3:26
          |
        3 |   metric_for_best_model: acuracy
          |                          ^^^^^^^ accuracy?
    """)


def test_a_later_error_about_the_command_line_shows_its_location() -> None:
    load("", "training.max_steps=3")
    message = configuration.with_location(
        ConfigError("no", key=("training", "max_steps")), "distill", "a.yaml", ["training.max_steps=3"]
    )
    assert str(message).endswith("  --> command line: training.max_steps=3\n   |                                   ^")


def test_a_later_error_is_reported_if_the_file_was_deleted() -> None:
    message = configuration.with_location(ConfigError("no", key=("seed",), hint="fix it"), "distill", "gone.yaml")
    assert str(message) == "no\n   = fix it"


# Files


def test_a_missing_file_hints_at_the_most_similar_name() -> None:
    write("configs/demo/1-teacher.yaml", "")
    with pytest.raises(InputError) as raised:
        configuration.load("finetune", "configs/demo/1-techer.yaml")
    assert raised.value.exit_code == 3
    assert str(raised.value) == lines("""
        no such config file: 'configs/demo/1-techer.yaml'
           = did you mean 'configs/demo/1-teacher.yaml'?
    """)


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(InputError, match="the folder 'nowhere' does not exist"):
        configuration.load("finetune", "nowhere/a.yaml")


def test_a_setting_before_the_file_hints_at_the_order() -> None:
    with pytest.raises(InputError, match="the config file comes first"):
        configuration.load("finetune", "seed=3")


def test_a_missing_extended_file_shows_the_file_that_extends_it() -> None:
    write("configs/task.yaml", "")
    write("configs/a.yaml", "# first\nextends: tsk.yaml\n")
    with pytest.raises(InputError) as raised:
        configuration.load("finetune", "configs/a.yaml")
    assert str(raised.value) == lines("""
        no such config file: 'configs/tsk.yaml'
          --> configs/a.yaml:2:10
           = did you mean 'task.yaml'?
    """)


def test_a_folder_is_not_a_config() -> None:
    write("configs/demo/1-teacher.yaml", "")
    with pytest.raises(InputError, match=r"is a folder.*\n.*configs: configs/demo/1-teacher\.yaml"):
        configuration.load("finetune", "configs/demo")


def test_a_file_that_is_not_utf8_is_rejected() -> None:
    Path("a.yaml").write_bytes("task: é".encode("latin-1"))
    with pytest.raises(InputError, match=r"'a\.yaml' is not UTF-8 text \(byte 7\)"):
        configuration.load("finetune", "a.yaml")


# dump


@pytest.mark.parametrize("command", list(config.COMMANDS))
def test_dumped_settings_load_as_equal_settings(command: str) -> None:
    names = ["no", "1e5", "0o7", "1:30", "null", "${X:-y}", "a: b", " ", "é", "\x85a\n b", "2024-01-02"]
    written = [name.replace("$", "$$") for name in names]
    settings = load(yaml_writer.write({"data": {"label_names": written}}), command=command)
    assert settings.data.label_names == names
    write("run.yaml", configuration.dump(settings))
    assert configuration.load(command, "run.yaml") == settings


def test_small_numbers_options_and_dollar_signs_survive_a_dump() -> None:
    settings = load("losses: {a: {weight: 1e-7, x: [1, {y: 1e300}], z: ~}}", "output_dir=$$$${a}/$x")
    write("run.yaml", configuration.dump(settings))
    again: Any = configuration.load("distill", "run.yaml")
    assert again == settings
    assert again.losses["a"] == {"weight": 1e-7, "x": [1, {"y": 1e300}], "z": None}
    assert again.output_dir == "$${a}/$x"


def test_a_dump_starts_with_stage_and_task_and_uses_yaml_names() -> None:
    dumped = configuration.dump(load(""))
    assert dumped.startswith("stage: distill\ntask: text-classification\ndata:\n  dataset_name: null\n")
    assert "student:\n  from: bert\n" in dumped
    assert "  learning_rate: auto\n" in dumped and "  weight_decay: 0.01\n" in dumped
    assert "  report_to: []\n" in dumped


def test_a_dump_is_deterministic() -> None:
    assert configuration.dump(load("seed: 1")) == configuration.dump(load("seed: 1"))


# run.yaml

HOSTILE = [
    "7e41234", "1e5", "1e3", "0o1", "0x1F", "012", "1_000", "1:30", ".5", "1.", "-2", ".inf", ".nan", "null", "~",
    "true", "no", "Off", "y", "2024-01-02", "=", "<<", "${X}", "${X:-y}", "$$", "$", "$${", "a: b", "a #b", "# a", "- a",
    "? a", "%a", "!a", "&a", "*a", "@a", "`a", "|", ">", "---", "...", "{a}", "[a]", "a,b", "'", '"', "\\", "\\n", " ",
    " a ", "a\nb", "\n", "a\r\nb", "\ta", "\x00", "\x1b", "\x7f", "\x85", "\xa0", "\u2028", "\ufeff", "é",
    "日本", "🙂", "word " * 40, "  " * 70, "x" * 200, "extends", "package://a/b", "org/name@7e41234",
]  # fmt: skip


def hostile(schema: dict[str, Any], definitions: dict[str, Any], draw: random.Random, key: str = "") -> Any:
    """A value that a JSON schema allows, with every optional setting and every text hostile."""
    if "$ref" in schema:
        return hostile(definitions[schema["$ref"].rpartition("/")[2]], definitions, draw)
    if "anyOf" in schema:
        return hostile(draw.choice(schema["anyOf"]), definitions, draw, key)
    if key == "delimiter":
        return draw.choice(["auto", ";", "\t", "$", "~"])
    if "enum" in schema or "const" in schema:
        return draw.choice(schema.get("enum", [schema.get("const")]))
    if "properties" in schema:
        return {name: hostile(one, definitions, draw, name) for name, one in schema["properties"].items()}
    if schema.get("type") == "object":
        names = [name for name in hostile_texts(draw) if name != "extends"]  # which no mapping can have as a key
        values = schema["additionalProperties"]
        return {name: hostile({"type": "string"} if values is True else values, definitions, draw) for name in names}
    if schema.get("type") == "array":
        count = draw.randint(schema.get("minItems", 0), min(schema.get("maxItems", 4), 4))
        items = [hostile(schema["items"], definitions, draw) for _ in range(count)]
        return hostile_texts(draw) if key == "label_names" else items  # which have to differ
    return {
        "string": lambda: draw.choice([*HOSTILE, "".join(draw.choices(HOSTILE, k=2))]),
        "integer": lambda: schema.get("minimum", 0) + draw.randint(2, 9),
        "number": lambda: draw.choice([0.5, 1e-5 + draw.random() / 2]),
        "boolean": lambda: draw.random() < 0.5,
        "null": lambda: None,
    }[schema["type"]]()


def hostile_texts(draw: random.Random) -> list[str]:
    return draw.sample(HOSTILE, 3)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("command", list(config.COMMANDS))
def test_settings_with_hostile_strings_load_as_equal_settings(command: str, seed: int) -> None:
    schema = config.COMMANDS[command].model_json_schema()
    values = hostile(schema, schema["$defs"], random.Random(f"{command} {seed}"))
    settings = config.COMMANDS[command].model_validate(values)
    write("run.yaml", configuration.dump(settings))
    assert configuration.load(command, "run.yaml") == settings


def run_file(settings: config.Stage) -> Path:
    """The run.yaml of a finished run."""
    with artifacts.open_output("export", settings, {}) as output:
        output.finish({})
    return Path(settings.output_dir) / "run.yaml"


@pytest.mark.parametrize(
    "changed",
    [
        {"data": {"dataset_name": "org/data", "dataset_revision": "7e41234"}},
        {"data": {"label_names": ["1e5", "1e3", "0o1"]}},
        {"data": {"label_names": {"0": "1e5", "1e3": "0o1"}}},
        {"data": {"train_file": "$$/${X}.csv"}},
        {"model": "${HOME}/model"},
        {"output_dir": "a\nb: c"},
        {"output_dir": "a\n# b \u2028'$HOME'"},
    ],
)
def test_the_run_yaml_of_a_finished_run_loads_equal_settings(changed: dict[str, Any]) -> None:
    settings = config.Export.model_validate({**COMMON, **REQUIRED["export"], **changed})
    assert configuration.load("export", run_file(settings)) == settings


def test_the_stage_key_does_not_make_a_finished_folder_outdated() -> None:
    settings = config.Export.model_validate({**COMMON, **REQUIRED["export"]})
    run_file(settings)
    assert "stage" not in artifacts.read_manifest(Path("out"))["settings"]
    with artifacts.open_output("export", settings, {}) as output:
        assert output.finished


@pytest.mark.parametrize("folder_name", ["out", "two words", "a\nb", "$HOME's \\ \x85", "日本"])
def test_run_yaml_starts_with_the_shell_command_of_the_run(folder_name: str) -> None:
    settings = config.Export.model_validate({**COMMON, **REQUIRED["export"], "output_dir": folder_name})
    file = run_file(settings)
    comment, _, rest = file.read_text(encoding="utf-8").partition("\n")
    assert comment.startswith("# tinybert export ") and not rest.startswith("#")
    words = comment.removeprefix("# tinybert export ").removesuffix("   repeats this run")
    done = subprocess.run(
        ["bash", "-c", f"printf %s {words}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode() == str(file)


def test_labels_gold_of_version_0_1_is_hinted_to_be_left_out(tmp_path: Path) -> None:
    file = tmp_path / "teacher.yaml"
    file.write_text("task: text-classification\ndata: {train_file: x}\nmodel: x\nlabels: gold\noutput_dir: y\n")
    with pytest.raises(ConfigErrors, match="leave it out: gold labels are the default"):
        configuration.load("finetune", file)


def test_a_misspelt_key_does_not_hide_errors_of_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "student.yaml"
    file.write_text(
        "task: text-classification\ndata: {train_file: x}\nstudent: x\nlabel_dataset: z\noutput_dir: y\n"
        "loses: {x: 1}\nlosses: {foo: 2}\n"
    )
    with pytest.raises(ConfigErrors) as caught:
        configuration.load("distill", file, (), CHECKS["distill"])
    assert "unknown key 'loses'" in str(caught.value) and "unknown loss 'foo'" in str(caught.value)


def test_an_unknown_metric_for_best_model_is_a_config_error(tmp_path: Path) -> None:
    file = tmp_path / "teacher.yaml"
    file.write_text(
        "task: text-classification\ndata: {train_file: x}\nmodel: x\noutput_dir: y\n"
        "training: {metric_for_best_model: acuracy}\n"
    )
    with pytest.raises(ConfigErrors, match="did you mean 'accuracy'"):
        configuration.load("finetune", file, (), CHECKS["finetune"])


@pytest.mark.parametrize("columns", ["label", ["text", "label"]])
def test_a_column_that_is_text_and_label_is_a_config_error(columns: object, tmp_path: Path) -> None:
    file = tmp_path / "teacher.yaml"
    data = json.dumps({"train_file": "x", "text_column_names": columns})
    file.write_text(f"task: text-classification\ndata: {data}\nmodel: x\noutput_dir: y\n")
    with pytest.raises(ConfigErrors, match="the column 'label' is both text and label"):
        configuration.load("finetune", file, (), CHECKS["finetune"])


@pytest.mark.parametrize(
    ("data", "is_repeated"),
    [
        ({"text_column_names": ["text", "text"]}, True),
        ({"text_column_names": "words", "conll_column_names": ["words", "label", "label"]}, True),
        ({"text_column_names": "words", "conll_column_names": ["words", "_", "_", "label"]}, False),
    ],
)
def test_a_column_that_is_named_twice_is_a_config_error(data: dict[str, object], is_repeated: bool) -> None:
    settings = {"task": "text-classification", "data": data, "model": "x", "output_dir": "y"}
    with pytest.raises(ConfigError, match="is named twice") if is_repeated else nullcontext():
        check("finetune", config.COMMANDS["finetune"].model_validate(settings))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"training": {"lr_scheduler_type": "constant", "warmup_ratio": 0.2}}, "has no warm-up"),
        ({"training": {"eval_strategy": "epoch", "eval_steps": 10}}, "`eval_steps` would be ignored"),
        ({"training": {"eval_strategy": "no", "early_stopping_patience": 2}}, "`early_stopping_patience` would be ign"),
        ({"training": {"eval_strategy": "no", "eval_steps": 10}}, "`eval_steps` would be ignored"),
        ({"training": {"eval_strategy": "no", "metric_for_best_model": "mcc"}}, "`metric_for_best_model` would be ign"),
        ({"training": {"eval_strategy": "no", "early_stopping_patience": None, "metric_for_best_model": "auto"}}, None),
        ({"regularization": {"r_drop": 1.0, "dropout": 0.0}}, "but `dropout` is 0"),
        ({"task": "regression", "data": {"train_file": "x", "label_names": ["a", "b"]}}, "has no classes"),
        ({"data": {"train_file": "x.csv", "doc_stride": 64}}, "truncates a long text"),
        ({"data": {"train_file": "x.csv", "doc_stride": 128}}, None),  # as in a run.yaml
        ({"task": "token-classification", "data": {"train_file": "x.conll", "doc_stride": 64}}, None),
        ({"data": {"train_file": "x.txt", "delimiter": ";"}}, "`delimiter` describes csv and tsv files"),
        ({"data": {"train_file": ["x.jsonl.gz", "y.parquet"], "quoting": "none"}}, "`quoting` describes csv and tsv"),
        ({"data": {"train_file": "x.csv", "conll_column_names": ["a", "b"]}}, "`conll_column_names` describes conll"),
        ({"data": {"train_file": "x.jsonl", "test_file": "y.TSV.gz", "delimiter": ";"}}, None),
        ({"data": {"dataset_name": "folder", "delimiter": ";", "dataset_config_name": "en"}}, None),
        ({"data": {"train_file": "x.csv", "dataset_config_name": "en"}}, "but there is no `dataset_name`"),
        ({"data": {"train_file": "x.csv", "validation_split_name": "dev"}}, "but there is no `dataset_name`"),
        ({"data": {"train_file": "x.csv", "dataset_name": None, "dataset_config_name": "en"}}, None),
        ({"training": {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "eval_steps": 10}}, None),
        ({"training": {"lr_scheduler_type": "constant", "warmup_ratio": 0.1}}, None),  # as in a run.yaml
        ({"regularization": {"r_drop": 1.0, "dropout": None}}, None),
    ],
)
def test_a_setting_that_would_be_ignored_is_a_config_error(
    settings: dict[str, object], message: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "teacher.yaml"
    rest = {"task": "text-classification", "data": {"train_file": "x"}, "model": "x", "output_dir": "y"}
    file.write_text(json.dumps(rest | settings))
    with nullcontext() if message is None else pytest.raises(ConfigErrors, match=message):
        configuration.load("finetune", file, (), CHECKS["finetune"])


@pytest.mark.parametrize(
    "command, settings, message",
    [
        ("gen-soft-labels", {"layer_mapping": "last"}, "but `states` is empty"),
        ("distill", {"projections": "shared"}, "but none has a weight"),
        ("distill", {"projections": "shared", "losses": {"hidden_states": 1.0}, "teacher": "x"}, None),
        ("eval", {"bootstrap": 0, "require": {"a": {"accuracy_low": 0.5}}}, "computes no interval for `accuracy_low`"),
        ("eval", {"latency": None, "require": {"b": {"speedup_b1": 2.0}}}, "`latency: null` measures no `speedup_b1`"),
        ("eval", {"require": {"b": {"speedup_b1": 2.0, "accuracy_low": 0.5}}}, None),
        ("eval", {"require": {"b": {"speedup_b8": 2.0}}}, "`latency` measures no `speedup_b8`"),
        ("eval", {"latency": {"batch_sizes": [1]}, "require": {"b": {"speedup_b32": 2.0}}}, "no `speedup_b32`"),
        ("eval", {"latency": {"batch_sizes": [8]}, "require": {"b": {"speedup_b8": 2, "speedup_b8_t128": 2}}}, None),
        ("eval", {"require": {"b": {"ece_high": 0.1}}}, "`ece` has no interval"),
        ("eval", {"require": {"b": {"ece_difference_high": 0.1}}}, "`ece` has no interval"),
        ("eval", {"require": {"a": {"retention": 0.9}}}, "'a' is the reference"),
        ("eval", {"require": {"a": {"accuracy_difference_low": -0.1}}}, "'a' is the reference"),
        ("eval", {"reference": "b", "require": {"a": {"retention": 0.9}}}, None),
        (
            "eval",
            {"metrics": ["f1_macro"], "require": {"b": {"accuracy_low": 0.9}}},
            "`metrics` does not list `accurac",
        ),
        ("eval", {"metrics": ["accuracy"], "require": {"b": {"accuracy_difference_low": 0, "retention": 1}}}, None),
        ("eval", {"require": {"b": {"recall": 0.5}}}, r"`recall` is a metric of each class[\s\S]*`recall\[CLASS\]`"),
        ("eval", {"require": {"b": {"recall_low": 0.5}}}, r"name a class: `recall\[CLASS\]_low`"),
        ("eval", {"metrics": ["recall"]}, r"`recall` is a metric of each class"),
        ("eval", {"metrics": ["accuracy"], "require": {"b": {"recall[x]_low": 0.5}}}, r"does not list `recall\[x\]`"),
        ("eval", {"metrics": ["recall[x]"], "require": {"b": {"recall[x]_low": 0.5}}}, None),
        ("eval", {"metrics": ["f1_macro"], "require": {"b": {"accuracy[length=low]": 0.5}}}, None),
        ("eval", {"task": "token-classification", "require": {"b": {"recall": 0.5, "recall[PER]": 0.5}}}, None),
        (
            "eval",
            {
                "task": "question-answering",
                "metrics": ["exact_match"],
                "require": {"b": {"f1[length=low]": 0.5}},
                "data": {"train_file": "x", "text_column_names": ["q", "c"]},
            },
            None,
        ),
    ],
)
def test_settings_of_every_stage_that_would_be_ignored_are_config_errors(
    command: str, settings: dict[str, object], message: str | None, tmp_path: Path
) -> None:
    required: dict[str, dict[str, object]] = {
        "gen-soft-labels": {"teacher": "x"}, "distill": {"student": "x", "label_dataset": "y"},
        "eval": {"models": {"a": "x", "b": "y"}},
    }  # fmt: skip
    file = tmp_path / "stage.yaml"
    rest = {"task": "text-classification", "data": {"train_file": "x"}, "output_dir": "z"}
    file.write_text(json.dumps(rest | required[command] | settings))
    with nullcontext() if message is None else pytest.raises(ConfigErrors, match=message):
        configuration.load(command, file, (), CHECKS[command])
