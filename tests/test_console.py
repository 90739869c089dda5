"""Plain lines in a pipe, one JSON object with --json, a bar in a terminal, library output in run.log."""

# ruff: noqa: T201 (what libraries do)

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tinybert_cli import console
from tinybert_cli.console import Screen
from tinybert_cli.errors import GateError, InputError, UserError

Capture = pytest.CaptureFixture[str]
FILE = Path("task.yaml")
PLAN = {
    "event": "plan", "rows": 1200, "steps": 150, "parameters": 14_350_000, "layers_copied_from": [2, 5],
    "label_names": ["no", "yes"], "device": "cpu", "precision": "no",
}  # fmt: skip
PROGRESS = {"event": "progress", "step": 5, "max_steps": 150, "rows": 160, "seconds": 2.0, "loss": 0.7}
TRAIN = {"event": "train", "step": 50, "epoch": 1.25, "loss": 0.43214, "samples_per_second": 1234.5}
EVALUATE = {"event": "evaluate", "step": 75, "epoch": 2.0, "accuracy": 0.875, "loss": 0.31, "is_best": True}
WARNING = {"event": "warning", "message": "2 of 8 rows were cut"}
DONE = {"event": "done", "output_dir": "runs/student", "accuracy": 0.875, "train_seconds": 61.5, "device": "cpu"}
MODELS = [
    {"event": "model", "model": "teacher", "is_reference": True, "accuracy": 0.93, "accuracy_low": 0.91,
     "accuracy_high": 0.95, "parameters": 109_500_000, "bytes": 438_000_000, "latency_ms_b1": 30.0},
    {"event": "model", "model": "student", "is_reference": False, "accuracy": 0.91, "accuracy_low": 0.89,
     "accuracy_high": 0.93, "retention": 0.978, "agreement": 0.952, "parameters": 14_350_000, "bytes": 57_400_000,
     "latency_ms_b1": 3.0, "speedup_b1": 10.0},
]  # fmt: skip
ALL = [PLAN, PROGRESS, TRAIN, EVALUATE, WARNING, DONE]


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "CI", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def make_screen(command: str = "finetune", **options: bool) -> Screen:
    return Screen(command, **{"as_json": False, "quiet": False, "verbose": False, **options})


def show(*rows: dict[str, Any], **options: bool) -> Screen:
    screen = make_screen(**options)
    for row in rows:
        screen.show(row)
    return screen


def test_auto_values_and_the_end_of_a_run_are_one_line_each(capsys: Capture) -> None:
    resolved = {"num_train_epochs": 60.0, "learning_rate": 8e-5, "early_stopping_patience": None}
    show(
        PLAN | {"resolved": resolved},
        {"event": "stopped", "step": 240, "max_steps": 600, "evaluations": 6},
        {"event": "improving", "step": 36, "setting": "training.num_train_epochs=6"},
    )
    plan, stopped, improving = capsys.readouterr().err.splitlines()
    assert "auto: num_train_epochs 60, learning_rate 8e-05  " in plan
    assert stopped == "stopped at step 240 of 600: 6 evaluations without a better score or a lower loss"
    assert improving == "36 steps, still improving: more may help (training.num_train_epochs=6)"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# -- rows ----------------------------------------------------------------------------------------------------


def test_rows_are_plain_lines_without_a_terminal(capsys: Capture) -> None:
    show(*ALL)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1,200 rows  150 steps  14.3 M parameters  layers copied from source model: 2, 5  labels no, yes  cpu  float32",
        "step     50  epoch 1.25   loss 0.4321  1,234 rows/s",
        "step     75  epoch 2.0    accuracy 0.8750  loss 0.3100  (best)",
        "warning: 2 of 8 rows were cut",
        "done: runs/student  accuracy 0.875  train_seconds 61.5",
    ]


def test_plain_lines_have_no_escape_codes_or_carriage_returns(capsys: Capture) -> None:
    screen = show(*ALL)
    screen.fail(InputError("what", where="where", hint="hint"))
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\r" not in err


def test_long_lines_are_not_wrapped(capsys: Capture) -> None:
    show({"event": "warning", "message": "word " * 100 + "end"})
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_events_without_a_line_are_not_printed(capsys: Capture) -> None:
    show({"event": "verify", "agreement": 1.0})
    assert capsys.readouterr().err == ""


def test_brackets_in_messages_are_not_markup(capsys: Capture) -> None:
    show({"event": "warning", "message": "the label [red] and [/]"})
    assert capsys.readouterr().err == "warning: the label [red] and [/]\n"


def test_line_number_between_colons_is_not_an_emoji(capsys: Capture) -> None:
    make_screen().fail(InputError("malformed JSON", where="train.jsonl:100:7"))
    assert "train.jsonl:100:7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"event": "labels", "rows": 1000, "selected": 900, "min_confidence": 0.8}, "kept 900 of 1,000 rows with confidence >= 0.8"),
        ({"event": "resume", "step": 1000, "max_steps": 2000}, "resuming from step 1,000 of 2,000"),
        ({"event": "out of memory", "step": 1200, "rows_before": 32, "rows": 16, "micro_batches": 2, "settings": "a=16 b=2"},
         "out of memory at step 1,200: it is repeated, and training goes on, with each batch in 2 micro-batches, here of 16 "
         "instead of 32 rows, whose gradients add up to the same (permanent: a=16 b=2)"),
        ({"event": "shard", "step": 10, "max_steps": 20, "shard": "train-0.parquet"}, "10 of 20 rows  train-0.parquet"),
        ({"event": "candidates", "texts": 4096, "of": 67349}, "masked LM: replacements computed for 4,096 of 67,349 texts"),
        ({"event": "augmented", "rows": 900, "copies": 1790}, "augmentation: 1,790 variants of 900 rows"),
        ({"event": "augmented", "rows": 9, "copies": 18, "at_most": True}, "augmentation: at most 18 variants of 9 rows"),
        ({"event": "scored", "model": "student"}, "scored student"),
        ({"event": "up to date", "output_dir": "runs/t"}, "up to date: runs/t"),
        ({"event": "teacher check", "checked_rows": 9, "accuracy": 0.9, "majority": 0.5},
         "teacher check on 9 rows: accuracy 0.9000  majority 0.5000"),
        ({"event": "teacher check", "checked_rows": 9, "accuracy": 0.8, "confusion": {"a": {"a": 4, "b": 1}, "b": {"b": 4}}},
         "teacher check on 9 rows: accuracy 0.8000\n  gold a: 4 a, 1 b\n  gold b: 4 b"),
        ({"event": "labels", "rows": 9, "selected": 9, "min_confidence": 0.0, "unlabelled": 1234},
         "left out 1,234 rows that the teacher did not label"),
        ({"event": "calibration", "answers": "a.jsonl", "temperature": 9.0, "calibration_rows": 50,
          "ece": 0.1, "ece_scaled": 0.02, "brier": 0.3, "brier_scaled": 0.25},
         "temperature 9 for a.jsonl, fitted on 50 rows: calibration error 0.100 before, 0.020 after; Brier score 0.300 "
         "before, 0.250 after (each half at the temperature of the other)"),
        ({**EVALUATE, "is_best": False}, "step     75  epoch 2.0    accuracy 0.8750  loss 0.3100"),
    ],
)  # fmt: skip
def test_each_event_is_printed_as_its_line(row: dict[str, Any], line: str, capsys: Capture) -> None:
    show(row)
    assert capsys.readouterr().err == line + "\n"


def test_labels_without_min_confidence_print_nothing(capsys: Capture) -> None:
    show({"event": "labels", "rows": 1699, "selected": 1699, "min_confidence": 0.0})
    assert capsys.readouterr().err == ""


def test_quiet_prints_only_warnings_and_errors(capsys: Capture) -> None:
    screen = show(*ALL, quiet=True)
    screen.say("by the way")
    screen.finish(FILE, "runs/student", dry_run=False)
    screen.fail(InputError("no such file"))
    out, err = capsys.readouterr()
    assert err == "warning: 2 of 8 rows were cut\nerror: no such file\n"
    assert out == "runs/student\n"


# -- a terminal ----------------------------------------------------------------------------------------------


def test_terminal_shows_a_progress_bar_and_removes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    screen = make_screen()
    with screen.silenced(tmp_path):
        screen.show(PROGRESS)
        assert screen.bar is not None
    assert screen.bar is None
    assert "80 rows/s" in screen.stderr.getvalue()


@pytest.mark.parametrize("reason", ["CI", "quiet", "pipe"])
def test_no_progress_bar_in_ci_quiet_mode_or_a_pipe(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO() if reason == "pipe" else Terminal())
    if reason == "CI":
        monkeypatch.setenv("CI", "true")
    screen = show(PROGRESS, quiet=reason == "quiet")
    assert screen.bar is None
    assert screen.stderr.getvalue() == ""


def test_library_output_is_hidden_while_the_bar_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(sys, "stderr", Terminal())
    screen = make_screen()
    with screen.silenced(tmp_path):
        screen.show(PROGRESS)
        print("a library says hello")
    assert "hello" not in screen.stderr.getvalue()
    assert "hello" in (tmp_path / "run.log").read_text()


# -- library output ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def chat() -> None:
    print("printed")
    print("complained", file=sys.stderr)
    logging.getLogger("some.library").warning("logged")
    warnings.warn("warned", stacklevel=1)


def test_library_output_goes_to_the_run_log(folder: Path, capsys: Capture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)  # not pytest's
        with make_screen().silenced(folder):
            chat()
    log = (folder / "run.log").read_text()
    assert all(word in log for word in ("printed", "complained", "WARNING some.library: logged", "warned"))
    assert capsys.readouterr() == ("", "")


def test_warnings_of_tinybert_itself_are_printed(tmp_path: Path, capsys: Capture) -> None:
    with make_screen().silenced(tmp_path):
        logging.getLogger("tinybert").warning("an old format")
        logging.getLogger("transformers.modeling").warning("a long report")
    logging.getLogger("tinybert").warning("too late")
    assert capsys.readouterr().err == "warning: an old format\n"


def test_output_of_libraries_that_were_imported_before_goes_to_the_run_log(folder: Path, capsys: Capture) -> None:
    """transformers has a handler of its own, which keeps the stderr of its import: that of the process before a fork."""
    library, handler = logging.getLogger("some.library.before"), logging.StreamHandler()
    library.propagate = False
    library.addHandler(handler)
    with make_screen().silenced(folder):
        library.warning("a long report")
    assert (folder / "run.log").read_text() == "a long report\n"
    assert capsys.readouterr() == ("", "")
    library.warning("later")
    assert capsys.readouterr().err == "later\n"
    library.removeHandler(handler)


def test_rows_are_printed_while_library_output_is_redirected(folder: Path, capsys: Capture) -> None:
    screen = make_screen()
    with screen.silenced(folder):
        screen.show(WARNING)
    assert capsys.readouterr().err == "warning: 2 of 8 rows were cut\n"


def test_library_output_is_buffered_until_the_folder_exists(tmp_path: Path) -> None:
    with make_screen().silenced(tmp_path):
        print("early")
        assert not (tmp_path / "run.log").exists()
        (tmp_path / "checkpoints").mkdir()
        print("late")
    assert (tmp_path / "run.log").read_text() == "early\nlate\n"


def test_verbose_also_prints_library_output(folder: Path, capsys: Capture) -> None:
    with make_screen(verbose=True).silenced(folder):
        print("printed")
    assert capsys.readouterr() == ("", "printed\n")
    assert (folder / "run.log").read_text() == "printed\n"


def test_streams_and_loggers_are_restored_after_a_failure(folder: Path) -> None:
    before = sys.stdout, sys.stderr, list(logging.getLogger().handlers)
    with pytest.raises(ZeroDivisionError), make_screen().silenced(folder):
        raise ZeroDivisionError
    assert (sys.stdout, sys.stderr, list(logging.getLogger().handlers)) == before


@pytest.mark.parametrize("value", [None, "false", ""])
def test_command_leaves_no_setting_of_the_tokenizers_behind(
    value: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left behind, `true` would make the forks of a Python program wait for threads that they do not have."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if value is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", value)
    with pytest.raises(ZeroDivisionError), make_screen().silenced(folder):
        assert os.environ["TOKENIZERS_PARALLELISM"] == ("true" if value is None else value)
        raise ZeroDivisionError
    assert os.environ.get("TOKENIZERS_PARALLELISM") == value


# -- results -------------------------------------------------------------------------------------------------


def test_json_prints_exactly_one_object(folder: Path, capsys: Capture) -> None:
    screen = make_screen(as_json=True)
    with screen.silenced(folder):
        print("a library says hello")
        for row in ALL:
            screen.show(row)
    screen.finish(FILE, "runs/student", dry_run=False)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "command": "finetune", "status": "done", "output_dir": "runs/student", "accuracy": 0.875,
        "train_seconds": 61.5, "device": "cpu",
    }  # fmt: skip


def test_json_of_an_evaluation_has_no_table(capsys: Capture) -> None:
    screen = show(*MODELS, {**DONE, "teacher.accuracy": 0.93}, command="eval", as_json=True)
    screen.finish(FILE, "runs/eval", dry_run=False)
    assert json.loads(capsys.readouterr().out)["teacher.accuracy"] == 0.93


@pytest.mark.parametrize(
    ("last", "dry_run", "status"),
    [(DONE, False, "done"), ({"event": "up to date", "output_dir": "x"}, False, "up to date"), (PLAN, True, "dry run")],
)
def test_json_has_the_status(last: dict[str, Any], dry_run: bool, status: str, capsys: Capture) -> None:
    show(last, as_json=True).finish(FILE, "runs/x", dry_run=dry_run)
    assert json.loads(capsys.readouterr().out)["status"] == status


def test_json_of_an_error_has_exit_code_and_message(capsys: Capture) -> None:
    show(PLAN, as_json=True).fail(InputError("no such file", where="data.train_file"))
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "command": "finetune", "status": "error", "exit_code": 3, "error": "no such file\n  --> data.train_file",
    }  # fmt: skip
    assert err.endswith("error: no such file\n  --> data.train_file\n")


def test_a_pipe_receives_the_output_folder(capsys: Capture) -> None:
    show(DONE).finish(FILE, "runs/student", dry_run=False)
    assert capsys.readouterr().out == "runs/student\n"


def test_dry_run_prints_nothing_on_stdout_and_a_note_on_stderr(capsys: Capture) -> None:
    show(PLAN).finish(FILE, "runs/student", dry_run=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("dry run: nothing was written\n")


def table(capsys: Capture) -> list[str]:
    show(*MODELS, DONE, command="eval").finish(FILE, "runs/eval", dry_run=False)
    return capsys.readouterr().out.splitlines()


def test_evaluation_prints_a_table_of_models(capsys: Capture) -> None:
    head, teacher, student = ([cell.strip() for cell in line.split("  ") if cell.strip()] for line in table(capsys))
    assert head == ["model", "accuracy (95 %)", "retention", "agreement", "parameters", "size", "ms, batch 1"]
    assert teacher == ["teacher", "0.9300 (0.910-0.950)", "-", "-", "109.5 M", "438.0 MB", "30.00"]
    assert student == ["student", "0.9100 (0.890-0.930)", "97.8%", "95.2%", "14.3 M", "57.4 MB", "3.00 (10.0x)"]


def test_table_in_a_pipe_is_plain_text_of_one_line_per_model(capsys: Capture) -> None:
    lines = table(capsys)
    assert len(lines) == 3
    assert not any("\x1b" in line for line in lines)


def test_numbers_of_the_table_are_right_aligned(capsys: Capture) -> None:
    head, *lines = table(capsys)
    end = head.index("size") + len("size")
    assert [line[:end].rstrip()[-2:] for line in lines] == ["MB", "MB"]


def test_evaluation_table_is_printed_if_a_requirement_is_missed(capsys: Capture) -> None:
    show(*MODELS, DONE, command="eval").fail(GateError("student.accuracy is 0.9100, required is 0.95"))
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["model", "teacher", "student"]
    assert err.endswith("error: student.accuracy is 0.9100, required is 0.95\n")


@pytest.mark.parametrize(
    ("numbers", "same"),
    [({}, "99.6% equal predictions"), ({"concordance": 0.9912}, "correlation 0.9960, concordance 0.9912")],
)
def test_export_prints_size_speed_and_metric_difference(numbers: dict[str, float], same: str, capsys: Capture) -> None:
    last = {
        "event": "done", "output_dir": "runs/onnx", "bytes": 15_200_000, "bytes_ratio": 3.77, "latency_ratio_b1": 2.44,
        "agreement": 0.996, "metric_difference": -0.0023, **numbers,
    }  # fmt: skip
    show(last, command="export").finish(FILE, "runs/onnx", dry_run=False)
    assert capsys.readouterr().out == (
        f"runs/onnx: 15.2 MB, 3.8x smaller and 2.4x faster at batch 1 than the original; {same}; main metric -0.0023\n"
    )


def test_export_that_is_larger_and_slower_says_so(capsys: Capture) -> None:
    last = {"event": "done", "output_dir": "runs/onnx", "bytes": 59_000, "bytes_ratio": 0.8, "latency_ratio_b1": 0.5,
            "agreement": 1.0}  # fmt: skip
    show(last, command="export").finish(FILE, "runs/onnx", dry_run=False)
    assert "0.1 MB, 1.2x larger and 2.0x slower at batch 1 than the original" in capsys.readouterr().out


# -- next command ---------------------------------------------------------------------------------------


def test_next_command_is_the_stage_of_the_next_recipe_file(tmp_path: Path, capsys: Capture) -> None:
    following = tmp_path / "2-teacher-labels.yaml"
    following.write_text("# Comments are not read: tinybert finetune x.yaml\nstage: gen-soft-labels  # 1 min\n")
    show(DONE).finish(tmp_path / "1-teacher.yaml", "runs/teacher", dry_run=False)
    assert capsys.readouterr().err.endswith(f"next: tinybert gen-soft-labels {following}\n")


@pytest.mark.parametrize(
    ("file", "following"),
    [
        ("9-plain.yaml", "10-eval.yaml"),
        ("10-eval.yaml", "10-export.yaml"),
        ("10-export.yaml", None),
        ("plain.yaml", None),
    ],
)
def test_next_command_is_the_next_of_the_files_by_their_numbers(
    file: str, following: str | None, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("10-export.yaml", "10-eval.yaml", "9-plain.yaml", "2-eval.yaml"):
        (tmp_path / name).write_text("stage: eval\n")
    show(DONE).finish(tmp_path / file, "runs/teacher", dry_run=False)
    command = (
        f"tinybert eval {tmp_path / following}"
        if following
        else "tinybert gen-soft-labels with `teacher: runs/teacher`"
    )
    assert capsys.readouterr().err.endswith(f"next: {command}\n")


@pytest.mark.parametrize(
    ("command", "command_line"),
    [
        ("finetune", "tinybert gen-soft-labels with `teacher: runs/x`"),
        (
            "distill",
            "tinybert eval with `models: {student: runs/x}`; for a task-agnostic student, tinybert finetune with `model: runs/x`",
        ),
        ("export", "ship runs/x; its README.md explains how to load it"),
    ],
)
def test_next_command_outside_a_recipe_depends_on_the_stage(command: str, command_line: str, capsys: Capture) -> None:
    show(DONE, command=command).finish(FILE, "runs/x", dry_run=False)
    assert capsys.readouterr().err.endswith(f"next: {command_line}\n")


# -- bugs ----------------------------------------------------------------------------------------------------


def bug() -> Exception:
    try:
        raise RuntimeError("shapes [2, 3] do not fit")
    except RuntimeError as error:
        return error


def test_bug_is_one_line_and_its_traceback_is_in_the_run_log(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "[runs]"
    folder.mkdir()
    make_screen().fail_with_bug(bug(), folder)
    assert capsys.readouterr().err == (
        f"error: this is a bug in tinybert: RuntimeError: shapes [2, 3] do not fit; traceback in {folder}/run.log\n"
    )
    assert "Traceback (most recent call last)" in (folder / "run.log").read_text()


def test_bug_without_an_output_folder_prints_its_traceback(tmp_path: Path, capsys: Capture) -> None:
    make_screen().fail_with_bug(bug(), tmp_path / "missing")
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "run.log" not in err


def test_bug_with_verbose_prints_its_traceback(tmp_path: Path, capsys: Capture) -> None:
    make_screen(verbose=True).fail_with_bug(bug(), tmp_path)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_json_of_a_bug_is_one_object(capsys: Capture) -> None:
    make_screen(as_json=True).fail_with_bug(bug(), None)
    result = json.loads(capsys.readouterr().out)
    assert (result["status"], result["exit_code"], result["error"]) == ("error", 1, "shapes [2, 3] do not fit")


def test_bug_prints_its_traceback_if_the_log_is_not_writable(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "run.log").mkdir()
    make_screen().fail_with_bug(bug(), tmp_path)
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and "run.log" not in err


# -- closed pipes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_continues_if_both_pipes_are_closed(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        reading, writing = os.pipe()
        os.close(reading)
        monkeypatch.setattr(sys, name, os.fdopen(writing, "w"))
    show(*ALL, as_json=as_json).finish(FILE, "runs/x", dry_run=False)
    show(*MODELS, as_json=as_json).fail(GateError("not good enough"))
    sys.stdout.flush()


def test_a_full_disk_behind_stdout_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(UserError, match="stdout: No space left"):
        show(DONE).finish(FILE, "runs/x", dry_run=False)
    make_screen(as_json=True).fail(InputError("no such file"))  # and that is no reason to fail once more


def test_columns_without_room_are_named_with_the_option_that_prints_them() -> None:
    header, rows = ["stage", "command", "state", "output_dir"], [["teacher", "finetune", "new", "runs/" + "x" * 45]]

    def lines(width: int) -> list[str]:
        return re.sub(r"\x1b\[\d*m", "", console.table(header, rows, width=width, texts=header)).splitlines()

    assert max(map(len, lines(80))) <= 80 and len(lines(80)) == 2
    assert max(map(len, lines(60))) <= 60 and lines(60)[2] == "(output_dir: in a wider window, or with --json)"
