"""`tinybert run`: the order of the stages, errors of recipes, and a small recipe run as a user does."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import QUICK, ROWS, write_base_model, write_sentences

from tinybert_cli import configuration, recipe_runner, stage_processes, stage_server
from tinybert_cli.configuration import RecipeStage
from tinybert_cli.errors import ConfigErrors, InputError, Interrupted, UserError
from tinybert_cli.recipe_runner import Options, run_recipe
from tinybert_cli.stages.checks import CHECKS

ROOT = Path(__file__).parents[1]
TASK = {"task": "text-classification", "data": {"train_file": "train.jsonl"}}
TEACHER = {"stage": "finetune", "model": "base", "output_dir": "out/teacher"}
LABELS = {"stage": "gen-soft-labels", "teacher": "out/teacher", "output_dir": "out/labels"}
STUDENT = {
    "stage": "distill", "label_dataset": "out/labels", "student": {"from": "out/teacher", "num_hidden_layers": 2},
    "output_dir": "out/student",
}  # fmt: skip
EVAL = {"stage": "eval", "models": {"teacher": "out/teacher", "student": "out/student"}, "output_dir": "out/eval"}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(*stages: dict[str, Any], file: str = "recipe.yaml", **shared: Any) -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**TASK, **shared, "stages": list(stages)}, sort_keys=False))
    return path


def load(recipe: Path, *overrides: str) -> list[RecipeStage]:
    return configuration.load_recipe(recipe, overrides, CHECKS)


def error_of(recipe: Path, *overrides: str) -> str:
    with pytest.raises((ConfigErrors, InputError)) as error:
        load(recipe, *overrides)
    return str(error.value)


# -- order and addresses ---------------------------------------------------------------------------------------


def test_stages_are_ordered_by_who_reads_whose_output() -> None:
    stages = load(write(EVAL, STUDENT, LABELS, TEACHER))
    assert [stage.name for stage in stages] == ["teacher", "labels", "student", "eval"]
    assert stages[3].reads == ("student", "teacher")


def test_independent_stages_run_in_the_order_of_the_file() -> None:
    others = [{**TEACHER, "output_dir": f"out/{name}"} for name in ("b", "a", "c")]
    assert [stage.name for stage in load(write(*others))] == ["b", "a", "c"]


def test_a_folder_of_files_is_ordered_by_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        Path(f"{number}-x.yaml").write_text(yaml.safe_dump({**TASK, **TEACHER, "output_dir": f"out/{number}"}))
    assert [stage.name for stage in load(tmp_path)] == ["2", "9", "10"]


def test_a_folder_with_a_recipe_file_is_this_recipe(tmp_path: Path) -> None:
    write(TEACHER, file="mine/recipe.yaml")
    assert [str(stage.file) for stage in load(Path("mine"))] == ["mine/recipe.yaml#teacher"]


def test_a_file_of_one_stage_is_a_recipe_of_one_stage() -> None:
    Path("one.yaml").write_text(yaml.safe_dump({**TASK, **TEACHER}))
    assert [stage.name for stage in load(Path("one.yaml"))] == ["teacher"]


def test_a_file_without_stage_that_fits_one_command_is_a_recipe() -> None:
    plain = {**TASK, **{key: value for key, value in TEACHER.items() if key != "stage"}}
    Path("one.yaml").write_text(yaml.safe_dump({**plain, "training": {"max_steps": 3}}))
    assert [stage.command for stage in load(Path("one.yaml"))] == ["finetune"]
    Path("one.yaml").write_text(yaml.safe_dump(plain))  # finetune and export have these settings
    assert "'one.yaml' is no recipe" in error_of(Path("one.yaml"))


@pytest.mark.parametrize("name", ["demo", "sst2-minilm", "multi30k", "sweep-demo", "general"])
def test_a_shipped_folder_is_a_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    files = [path for path in sorted(Path("configs", name).glob("*.yaml")) if path.name[0].isdigit()]
    assert sorted(stage.file for stage in load(Path("configs", name))) == files


def test_shared_settings_reach_the_stages_that_have_them() -> None:
    training = {"max_steps": 7}
    stages = load(write(TEACHER, LABELS, STUDENT, training=training, seed=5))
    assert [stage.config.seed for stage in stages] == [5, 5, 5]
    assert [getattr(stage.config, "training", None) is not None for stage in stages] == [True, False, True]
    assert stages[2].config.model_dump()["training"]["max_steps"] == 7


def test_a_stage_of_a_recipe_file_runs_alone_by_its_address() -> None:
    recipe = write(TEACHER, LABELS, STUDENT, seed=5)
    config = configuration.load("distill", f"{recipe}#student", ["seed=6"], CHECKS["distill"])
    assert (config.output_dir, config.seed) == ("out/student", 6)
    assert configuration.sources("distill", f"{recipe}#student") == ["recipe.yaml"]


def test_a_file_whose_name_contains_a_number_sign_is_that_file() -> None:
    Path("a#b.yaml").write_text(yaml.safe_dump({**TASK, **TEACHER}))
    assert configuration.load("finetune", "a#b.yaml").output_dir == "out/teacher"


def test_a_stage_may_extend_a_file_beside_the_recipe() -> None:
    Path("mine").mkdir()
    Path("mine/quick.yaml").write_text("training: {max_steps: 4}\n")
    stages = load(write({**TEACHER, "extends": "quick.yaml"}, file="mine/recipe.yaml"))
    assert stages[0].config.model_dump()["training"]["max_steps"] == 4


# -- KEY=VALUE -------------------------------------------------------------------------------------------------


def test_an_override_reaches_every_stage_that_has_the_setting() -> None:
    stages = load(write(TEACHER, LABELS, STUDENT), "training.max_steps=3", "seed=9")
    assert [stage.overrides for stage in stages] == [
        ("training.max_steps=3", "seed=9"), ("seed=9",), ("training.max_steps=3", "seed=9"),
    ]  # fmt: skip


def test_an_override_for_one_command_or_one_stage_reaches_only_these() -> None:
    second = {**TEACHER, "output_dir": "out/other"}
    stages = load(write(TEACHER, second, STUDENT), "finetune:seed=1", "other:training.max_steps=2")
    assert [stage.overrides for stage in stages] == [("seed=1",), ("seed=1", "training.max_steps=2"), ()]


def test_a_colon_in_the_value_of_an_override_is_no_scope() -> None:
    assert load(write(TEACHER), "model=package://a:b/c")[0].overrides == ("model=package://a:b/c",)


def test_an_override_for_an_unknown_stage_names_the_nearest() -> None:
    assert "no stage 'studnt'" in error_of(write(TEACHER, STUDENT), "studnt:seed=1")
    assert "did you mean 'student'?" in error_of(write(TEACHER, STUDENT), "studnt:seed=1")


# -- errors ----------------------------------------------------------------------------------------------------


def test_all_errors_of_all_stages_are_reported_once_with_locations() -> None:
    recipe = write({**TEACHER, "modle": 1}, {**STUDENT, "losses": {"soft_label": 1}}, sead=3)
    text = error_of(recipe)
    assert text.count("unknown key 'sead'") == 1
    assert "recipe.yaml:9:3" in text and "did you mean 'model'?" in text
    assert "did you mean 'soft_labels'?" in text


def test_a_shared_setting_that_no_stage_has_is_an_error() -> None:
    assert "no stage of this recipe has the setting 'losses'" in error_of(write(TEACHER, losses={"soft_labels": 1}))


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([{**TEACHER, "model": "out/b"}, {**TEACHER, "model": "out/teacher", "output_dir": "out/b"}], "read each other's"),
        ([TEACHER, {**TEACHER, "output_dir": "elsewhere/teacher"}], "two stages are named 'teacher'"),
        ([TEACHER, {**LABELS, "output_dir": "out/teacher/labels"}], "is inside that of another"),
        ([TEACHER, {**LABELS, "output_dir": "out"}], "is inside that of another"),
        ([{key: TEACHER[key] for key in ("model", "output_dir")}], "missing key 'stage'"),
        ([{**TEACHER, "stage": "finetun"}], "did you mean 'finetune'?"),
        (["finetune"], "expected the settings of a stage"),
        ([], "expected a list of stages"),
        ([{**TEACHER, "output_dir": None}], "output_dir"),
    ],
)  # fmt: skip
def test_an_invalid_recipe_is_rejected(stages: list[Any], expected: str) -> None:
    assert expected in error_of(write(*stages))


def test_two_stages_in_one_folder_by_another_spelling_are_rejected() -> None:
    assert "two stages are named 'teacher'" in error_of(write(TEACHER, {**LABELS, "output_dir": "out/x/../teacher/."}))
    Path("link").symlink_to("out/teacher")
    assert "is inside that of another" in error_of(write(TEACHER, {**LABELS, "output_dir": "link"}))


def test_a_file_without_stage_in_a_folder_of_stages_is_not_ignored() -> None:
    write(TEACHER, file="mine/1-x.yaml")
    Path("mine/1-x.yaml").write_text(yaml.safe_dump({**TASK, **TEACHER}))
    Path("mine/2-y.yaml").write_text(yaml.safe_dump({**TASK, **{k: v for k, v in LABELS.items() if k != "stage"}}))
    assert "has no `stage`, and no other file" in error_of(Path("mine"))


def test_a_folder_with_a_recipe_and_other_stages_is_ambiguous() -> None:
    write(TEACHER, file="mine/recipe.yaml")
    Path("mine/1-x.yaml").write_text(yaml.safe_dump({**TASK, **TEACHER}))
    assert "holds a recipe.yaml and other stages: 1-x.yaml" in error_of(Path("mine"))


@pytest.mark.parametrize("name", ["empty", "missing", "missing.yaml", "task.yaml"])
def test_what_is_no_recipe_is_named(name: str) -> None:
    Path("empty").mkdir()
    Path("task.yaml").write_text("task: text-classification\n")
    assert name in error_of(Path(name))


def test_data_given_to_run_names_init() -> None:
    Path("my tickets.csv").write_text("text,label\na,b\n")
    assert "tinybert init mine --data 'my tickets.csv'" in error_of(Path("my tickets.csv"))


def test_a_recipe_given_to_a_stage_command_names_both_ways() -> None:
    with pytest.raises(ConfigErrors) as error:
        configuration.load("distill", write(TEACHER, LABELS, STUDENT))
    assert "run: tinybert run recipe.yaml; or one stage: tinybert distill recipe.yaml#student" in str(error.value)


# -- runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A teacher and its score, with a requirement that is met."""
    write_base_model(tmp_path / "base")
    write_sentences(tmp_path / "data")
    data = {f"{split}_file": f"data/{split}.jsonl" for split in ROWS} | {"max_seq_length": 16}
    scores = {**EVAL, "models": {"teacher": "out/teacher"}, "latency": None, "require": {"teacher": {"accuracy": 0.2}}}
    return write({**TEACHER, "training": QUICK}, scores, data=data, file="recipe.yaml")


needs_fork = pytest.mark.skipif(not stage_processes.can_fork(), reason="no forks on this system")


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the stages without processes of their own, which import torch."""
    monkeypatch.setattr(stage_processes, "can_fork", lambda: False)
    monkeypatch.setattr(
        recipe_runner, "run_command", lambda command, words, stderr: stage_server.run_here(command, words)
    )
    monkeypatch.setattr(recipe_runner, "looks_finished", lambda stage: False)


def started_commands(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The arguments of tinybert in each process that starts from now on."""
    started: list[Sequence[str]] = []
    popen = subprocess.Popen

    def counted(words: Sequence[str], **options: Any) -> Any:
        started.append(words[3:])
        return popen(words, **options)

    monkeypatch.setattr(subprocess, "Popen", counted)
    return started


def test_a_finished_recipe_is_up_to_date_and_force_replaces_only_what_differs(
    recipe: Path, in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_recipe(recipe, [], Options()) == 0
    output = capsys.readouterr()
    assert "[1/2] teacher: tinybert finetune" in output.err and "accuracy (95 %)" in output.out
    assert "next: tinybert gen-soft-labels" not in output.err
    assert run_recipe(Path("out/teacher/run.yaml"), [], Options(dry_run=True)) == 0
    assert "other settings" not in capsys.readouterr().out  # it has the values that `auto` had
    assert run_recipe(recipe, [], Options(as_json=True)) == 0
    again = json.loads(capsys.readouterr().out)
    assert [stage["status"] for stage in again["stages"]] == ["up to date", "up to date"]
    assert again["report"]["models"][0]["quality"] > 0.2
    assert run_recipe(recipe, ["eval:bootstrap=10"], Options()) == 4
    assert "bootstrap: 1000 before, 10 now" in capsys.readouterr().err
    assert run_recipe(recipe, ["eval:bootstrap=10"], Options(force=True)) == 0
    forced = capsys.readouterr().err
    assert "up to date: out/teacher" in forced and "replacing out/eval" in forced


@pytest.mark.slow
def test_finished_stages_share_a_process_without_forks_and_end_like_their_commands(
    recipe: Path, in_this_process: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    assert run_recipe(recipe, [], Options()) == 0
    monkeypatch.undo()
    monkeypatch.setattr(stage_processes, "can_fork", lambda: False)
    monkeypatch.chdir(tmp_path)
    before = Path("out/teacher/manifest.json").stat().st_mtime_ns
    started = started_commands(monkeypatch)
    capsys.readouterr()
    assert run_recipe(recipe, [], Options(as_json=True)) == 0
    assert [stage["status"] for stage in json.loads(capsys.readouterr().out)["stages"]] == ["up to date"] * 2
    assert started == [["serve-stages"]]
    assert Path("out/teacher/manifest.json").stat().st_mtime_ns > before  # for make
    rows = Path("data/validation.jsonl").read_text()
    Path("data/validation.jsonl").write_text(rows.replace("good", "bad", 1))
    assert run_recipe(recipe, [], Options(as_json=True)) == 4
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert stage["exit_code"] == 4 and "data.validation_file" in stage["error"]


def test_force_replaces_a_damaged_folder(
    recipe: Path, in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["teacher:training.max_steps=2"]
    assert run_recipe(recipe, quick, Options(only=["teacher"])) == 0
    weights = Path("out/teacher/model.safetensors")
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert run_recipe(recipe, quick, Options(only=["teacher"])) == 3
    assert run_recipe(recipe, quick, Options(only=["teacher"], force=True)) == 0
    assert weights.read_bytes() == original


def test_a_missed_gate_ends_the_recipe_with_its_exit_code(
    recipe: Path, in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["eval:require.teacher.accuracy=1.5", "teacher:training.max_steps=2"]
    assert run_recipe(recipe, overrides, Options()) == 5
    output = capsys.readouterr()
    assert "eval ended with exit code 5; 1 stage before it finished" in output.err
    assert "accuracy" in output.out  # the table with the score that missed


def test_a_stage_that_fails_ends_the_recipe_with_its_exit_code(
    recipe: Path, in_this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_recipe(recipe, ["data.test_file=missing.jsonl", "eval:split=test", "training.max_steps=2"], Options()) == 3
    )
    output = capsys.readouterr()
    assert "missing.jsonl" in output.err and not output.out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_recipe_stopped_by_a_signal_resumes(
    number: signal.Signals, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processes are real: SIGTERM is passed on to the stage, Ctrl-C reaches both from the terminal."""
    longer = "training.num_train_epochs=2000"
    words = [sys.executable, "-m", "tinybert_cli", "run", "recipe.yaml", longer]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    log = Path("out/teacher/log.jsonl")
    for _ in range(1200):
        if log.exists() and '"evaluate"' in log.read_text():
            break
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert "run the same command again to resume" in stderr and stdout == ""
    assert run_recipe(recipe, [longer], Options(dry_run=True)) == 0
    plan = capsys.readouterr().out
    assert "interrupted" in plan and "other settings" not in plan


@pytest.mark.parametrize(
    ("name", "error", "code"), [("SIGTERM", Interrupted, 143), ("SIGINT", Interrupted, 130), ("SIGKILL", UserError, 1)]
)
def test_a_process_that_a_signal_ends_at_once_is_an_error_of_that_signal(
    name: str, error: type[UserError], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen
    script = f"import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.kill(os.getpid(), signal.{name})"
    monkeypatch.setattr(subprocess, "Popen", lambda words, **options: popen([sys.executable, "-c", script], **options))
    with pytest.raises(error, match=f"ended by {name}") as raised:
        recipe_runner.run_command("finetune", ["x.yaml"], sys.__stderr__)
    assert raised.value.exit_code == code


FORKED = """
import os, sys
from tinybert_cli import stage_server

def run(command, words):
    print("no result")
    os.write(1, b"not the answer\\n")
    assert sys.stdin.read() == ""
    if words:
        os.kill(os.getpid(), int(words[0]))
    return 5, '{"pid": %d}' % os.getpid()

stage_server._run, stage_server.import_stages = run, list
stage_server.serve(sys.stdin, sys.stdout, fork=True)
"""


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> Iterator[stage_processes.StageServer]:
    """A server whose forks end by the signal that their word names, or with exit code 5."""
    popen = subprocess.Popen
    monkeypatch.setattr(stage_processes, "can_fork", lambda: True)
    monkeypatch.setattr(subprocess, "Popen", lambda words, **options: popen([sys.executable, "-c", FORKED], **options))
    with stage_processes.StageServer(sys.__stderr__) as server:
        yield server


@needs_fork
def test_each_stage_is_a_fork_of_one_process_with_its_own_exit_code(forks: stage_processes.StageServer) -> None:
    (code, first), (_, second) = forks.run("eval", []), forks.run("eval", [])
    assert code == 5 and first["pid"] != second["pid"]


@needs_fork
@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGTERM, Interrupted, 143), (signal.SIGINT, Interrupted, 130), (signal.SIGKILL, UserError, 1)],
)
def test_a_fork_that_a_signal_ends_is_an_error_and_the_server_goes_on(
    number: signal.Signals, error: type[UserError], code: int, forks: stage_processes.StageServer
) -> None:
    with pytest.raises(error, match=f"ended by {number.name}") as raised:
        forks.run("eval", [str(int(number))])
    assert raised.value.exit_code == code
    assert forks.run("eval", [])[0] == 5


@needs_fork
@pytest.mark.slow
def test_forks_write_the_same_weights_as_commands(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = started_commands(monkeypatch)
    assert run_recipe(recipe, [], Options()) == 0
    assert started == [["serve-stages", "--fork"]]
    weights = Path("out/teacher/model.safetensors").read_bytes()
    shutil.rmtree("out")
    monkeypatch.setattr(stage_processes, "can_fork", lambda: False)
    assert run_recipe(recipe, [], Options(only=["teacher"])) == 0
    assert Path("out/teacher/model.safetensors").read_bytes() == weights


def test_a_gpu_driver_or_another_system_rules_out_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/dev/nvidiactl")
    assert not stage_processes.can_fork()
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert stage_processes.can_fork() == (sys.platform == "linux")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not stage_processes.can_fork()


def test_only_an_export_that_exists_is_next(tmp_path: Path) -> None:
    config = SimpleNamespace(output_dir=str(tmp_path / "export"))
    stages: list[Any] = [SimpleNamespace(command="export", config=config)]
    assert list(recipe_runner._next(stages)) == []
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "manifest.json").write_text('{"command": "export"}', encoding="utf-8")
    assert list(recipe_runner._next(stages)) == [f"next: tinybert predict {config.output_dir}"]


def test_only_and_from_select_stages(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (
        Options(dry_run=True, as_json=True, start="eval"),
        Options(dry_run=True, as_json=True, only=["eval"]),
    ):
        assert run_recipe(recipe, [], options) == 0
        assert [stage["stage"] for stage in json.loads(capsys.readouterr().out)["stages"]] == ["eval"]
    assert run_recipe(recipe, [], Options(dry_run=True, only=["techer"])) == 2
    assert "did you mean 'teacher'?" in capsys.readouterr().err
    assert run_recipe(recipe, [], Options(dry_run=True, only=["teacher"], start="eval")) == 2


def test_the_output_of_a_stage_reaches_a_stderr_that_is_no_file() -> None:
    lines = io.StringIO()  # as in a notebook
    with stage_processes._stream(lines) as stream:
        subprocess.run(
            [sys.executable, "-c", "import sys; print('step 1', file=sys.stderr)"], stderr=stream, check=True
        )
    assert lines.getvalue() == "step 1\n"


def test_stages_before_the_first_one_are_named_in_the_error() -> None:
    stages = load(write(TEACHER, LABELS))
    with pytest.raises(ConfigErrors, match="teacher comes before labels, so that nothing is left to run"):
        recipe_runner.select(stages, Options(only=["teacher"], start="labels"))
