"""An output folder is new, unfinished or finished, also after errors, full disks, signals and killed processes."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from tinybert_cli import artifacts
from tinybert_cli.artifacts import Output, hashes, open_output
from tinybert_cli.artifacts.atomic_files import write_json
from tinybert_cli.artifacts.checkpoints import Checkpoints
from tinybert_cli.artifacts.manifests import differences, settings_of
from tinybert_cli.config import COMMANDS, Stage
from tinybert_cli.errors import InputError, Interrupted, OutputError, UserError
from tinybert_cli.events import Event

INPUTS = {"data.train_file": [{"path": "train.jsonl", "sha256": "a1"}]}
OTHER_INPUTS = {"data.train_file": [{"path": "train.jsonl", "sha256": "b2"}]}

FULL_DISKS = {
    "os": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    "torch stream": RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
}
full_disk = pytest.mark.parametrize("error", FULL_DISKS.values(), ids=FULL_DISKS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "teacher"


def stage(folder: Path, *, seed: int = 42, **data: Any) -> Stage:
    return Stage.model_validate(
        {"task": "text-classification", "data": data, "output_dir": str(folder), "seed": seed}
    )  # fmt: skip


def writer(name: str, text: str = "weights") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def finish(folder: Path, command: str = "finetune", **facts: Any) -> None:
    with open_output(command, stage(folder), INPUTS) as output:
        list(output.record([{"event": "train", "step": 1}]))
        output.files.put(writer("model.safetensors"))
        output.finish({"rows": 3}, **facts)


def interrupt(folder: Path, *, at: int = 3) -> None:
    """A run that SIGTERM stops after its checkpoint."""
    with pytest.raises(Interrupted), open_output("finetune", stage(folder), INPUTS) as output:
        list(output.record([{"event": "train", "step": at}]))
        output.checkpoints.seal(f"step-{at:08}", writer("state.bin"))
        raise Interrupted(signal.SIGTERM, "interrupted")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def run_in_subprocess(folder: Path, body: str) -> subprocess.Popen[str]:
    """Starts a process that opens the output folder and runs `body`."""
    code = f"""
import os, sys
from tinybert_cli.artifacts import open_output
from tinybert_cli.config import Stage
stage = Stage.model_validate({{"task": "text-classification", "data": {{}}, "output_dir": {str(folder)!r}}})
with open_output("finetune", stage, {INPUTS!r}) as output:
{textwrap.indent(textwrap.dedent(body), "    ")}
"""
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# -- new, unfinished, finished ---------------------------------------------------------------------------


def test_empty_folder_is_a_new_run(folder: Path) -> None:
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert not output.finished and not output.resumed and output.checkpoints.states() == []


def test_unfinished_run_resumes_from_its_newest_checkpoint(folder: Path) -> None:
    interrupt(folder, at=3)
    interrupt(folder, at=7)
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.resumed and output.checkpoints.states()[0] == folder / "checkpoints" / "step-00000007"


def test_finished_run_is_up_to_date(folder: Path) -> None:
    finish(folder)
    before = files(folder)
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished
    assert files(folder) == before


def test_up_to_date_run_renews_the_manifest_mtime_for_make(folder: Path) -> None:
    finish(folder)
    os.utime(folder / "manifest.json", (1, 1))
    with open_output("finetune", stage(folder), INPUTS):
        pass
    assert (folder / "manifest.json").stat().st_mtime > 1e9


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
def test_other_settings_are_rejected_with_the_differing_keys(make: Callable[[Path], None], folder: Path) -> None:
    make(folder)
    before = files(folder)
    with pytest.raises(OutputError) as error, open_output("finetune", stage(folder, seed=7, max_seq_length=64), INPUTS):
        pass
    assert error.value.exit_code == 4
    assert "seed: 42 before, 7 now" in str(error.value) and "data.max_seq_length: 128 before, 64 now" in str(
        error.value
    )
    assert "task" not in str(error.value) and "--force" in str(error.value)
    assert files(folder) == before


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
def test_changed_input_is_rejected_with_its_hash(make: Callable[[Path], None], folder: Path) -> None:
    make(folder)
    with (
        pytest.raises(OutputError, match=r"data\.train_file\.0\.sha256: a1 before, b2 now"),
        open_output("finetune", stage(folder), OTHER_INPUTS),
    ):
        pass


def test_folder_of_another_command_is_rejected(folder: Path) -> None:
    finish(folder)
    with (
        pytest.raises(OutputError, match="command: finetune before, distill now"),
        open_output("distill", stage(folder), INPUTS),
    ):
        pass


def test_moved_folder_is_the_same_run(folder: Path) -> None:
    finish(folder)
    moved = folder.rename(folder.with_name("moved"))
    with open_output("finetune", stage(moved), INPUTS) as output:
        assert output.finished


def replace(folder: Path, **settings: Any) -> None:
    """A finished run with seed 7 and --force."""
    with open_output("finetune", stage(folder, seed=7, **settings), INPUTS, force=True) as output:
        list(output.record([{"event": "train", "step": 1}]))
        (output.trackers / "new").mkdir(parents=True)
        output.files.put(writer("model.safetensors", "new weights"))
        output.finish({"rows": 4})


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
def test_force_removes_only_files_of_tinybert(make: Callable[[Path], None], folder: Path) -> None:
    make(folder)
    (folder / "notes.txt").write_text("foreign")
    (folder / "checkpoints" / "mine").mkdir(parents=True)
    (folder / "checkpoints" / "mine" / "model.bin").write_text("foreign")
    replace(folder)
    assert set(files(folder)) == {
        "notes.txt", "checkpoints/mine/model.bin", "log.jsonl", "manifest.json", "metrics.json", "model.safetensors",
        "run.yaml",
    }  # fmt: skip
    assert (folder / "model.safetensors").read_text() == "new weights"


def unchanged(folder: Path, before: dict[str, bytes]) -> bool:
    """Whether all files of before are there with their content."""
    return files(folder).items() >= before.items()


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
def test_earlier_run_stays_until_the_forced_one_is_finished(make: Callable[[Path], None], folder: Path) -> None:
    make(folder)
    before = files(folder)
    with open_output("finetune", stage(folder, seed=7), INPUTS, force=True) as output:
        assert not output.finished and not output.resumed and unchanged(folder, before)
        list(output.record([{"event": "train", "step": 1}]))
        output.files.put(writer("model.safetensors", "new weights"))
        output.checkpoints.seal("step-00000001", writer("state.bin"))
        assert unchanged(folder, before)
        output.finish({"rows": 4})
    assert (folder / "model.safetensors").read_text() == "new weights"
    assert artifacts.verify_folder(folder)["seed"] == 7
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
@pytest.mark.parametrize("error", [InputError("no such column"), ZeroDivisionError()], ids=["input", "bug"])
def test_forced_run_that_fails_leaves_the_earlier_one(
    error: Exception, make: Callable[[Path], None], folder: Path
) -> None:
    make(folder)
    before = files(folder)
    with (
        pytest.raises(type(error)),
        open_output("finetune", stage(folder, seed=7), INPUTS, force=True) as output,
    ):
        list(output.record([{"event": "plan"}]))
        raise error
    assert files(folder) == before


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
@pytest.mark.parametrize("force", [True, False])
def test_interrupted_forced_run_is_resumed(make: Callable[[Path], None], force: bool, folder: Path) -> None:
    make(folder)
    before = files(folder)
    with (
        pytest.raises(Interrupted) as caught,
        open_output("finetune", stage(folder, seed=7), INPUTS, force=True) as output,
    ):
        output.checkpoints.seal("step-00000004", writer("state.bin"))
        raise Interrupted(signal.SIGTERM, "interrupted")
    assert "run the same command again to resume" in str(caught.value) and unchanged(folder, before)
    with open_output("finetune", stage(folder, seed=7), INPUTS, force=force) as output:
        assert output.resumed and output.checkpoints.states()[0].name == "step-00000004" and unchanged(folder, before)
        output.finish({"rows": 4})
    assert artifacts.verify_folder(folder)["seed"] == 7 and not (folder / "checkpoints").exists()


def test_finished_run_is_up_to_date_beside_an_unfinished_forced_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finish(folder)
    with pytest.raises(Interrupted), open_output("finetune", stage(folder, seed=7), INPUTS, force=True) as output:
        output.checkpoints.seal("step-00000004", writer("state.bin"))
        raise Interrupted(signal.SIGTERM, "interrupted")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished
    assert "unfinished run" in caplog.text
    with open_output("finetune", stage(folder, seed=7), INPUTS) as output:
        assert output.resumed


def test_forced_run_does_not_discard_another_unfinished_one(folder: Path) -> None:
    finish(folder)
    with pytest.raises(Interrupted), open_output("finetune", stage(folder, seed=7), INPUTS, force=True) as output:
        output.checkpoints.seal("step-00000004", writer("state.bin"))
        raise Interrupted(signal.SIGTERM, "interrupted")
    with pytest.raises(InputError), open_output("finetune", stage(folder, seed=8), INPUTS, force=True):
        raise InputError("no such column")
    with open_output("finetune", stage(folder, seed=7), INPUTS, force=True) as output:
        assert output.resumed


def test_force_resumes_an_unfinished_run_with_the_same_settings(folder: Path) -> None:
    interrupt(folder, at=3)
    with open_output("finetune", stage(folder), INPUTS, force=True) as output:
        assert output.resumed


def test_files_that_only_the_earlier_run_wrote_are_removed_with_it(folder: Path) -> None:
    with open_output("finetune", stage(folder), INPUTS) as output:
        output.files.put(writer("train-00001-of-00002.parquet"))
        output.finish({})
    replace(folder)
    assert "train-00001-of-00002.parquet" not in files(folder)


def test_file_of_the_user_with_the_name_of_a_new_output_is_renamed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_output("finetune", stage(folder), INPUTS) as output:
        output.finish({})
    (folder / "model.safetensors").write_text("foreign")
    replace(folder)
    assert (folder / "model.safetensors.before").read_text() == "foreign" and "model.safetensors.before" in caplog.text


class Killed(BaseException):
    """Stands for SIGKILL: no code after it changes the disk."""


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
@pytest.mark.parametrize("force", [True, False])
def test_run_killed_while_it_replaces_another_is_completed_by_a_rerun(
    make: Callable[[Path], None], force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, moves, completed = Path.replace, 0, 0

    def replace_until(source: Path, target: Path) -> Path:
        nonlocal moves
        moves += source.parent.name.startswith(".replacement") or source.name in ("manifest.json", "started.json")
        if moves > allowed:
            raise Killed
        return original(source, target)

    for allowed in range(1, 12):
        folder, moves = tmp_path / str(allowed), 0
        make(folder)
        (folder / "notes.txt").write_text("foreign")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace_until)
            try:
                replace(folder)
            except Killed:
                pass
            else:
                break
        seed = 7
        if (folder / "manifest.json").exists():
            seed = artifacts.verify_folder(folder)["seed"]  # usable: the earlier run or the new one
        with open_output("finetune", stage(folder, seed=7), INPUTS, force=force or seed != 7) as output:
            assert not output.finished or (folder / "trackers" / "new").is_dir()
            if not output.finished:
                output.files.put(writer("model.safetensors", "new weights"))
                output.finish({"rows": 4})
        assert artifacts.verify_folder(folder)["seed"] == 7
        assert (folder / "notes.txt").exists() and not (folder / "checkpoints").exists()
        completed += output.finished
    assert completed > 4


def test_folder_with_foreign_files_is_rejected(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("foreign")
    with pytest.raises(OutputError, match=r"thesis\.tex"), open_output("finetune", stage(folder), INPUTS):
        pass
    assert set(files(folder)) == {"thesis.tex"}


def test_force_rejects_a_folder_with_foreign_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("foreign")
    with pytest.raises(OutputError), open_output("finetune", stage(folder), INPUTS, force=True):
        pass
    assert set(files(folder)) == {"thesis.tex"}


def test_force_removes_no_files_outside_the_folder(folder: Path, tmp_path: Path) -> None:
    finish(folder)
    (tmp_path / "thesis.tex").write_text("foreign")
    edit_json(folder / "manifest.json", outputs=[{"path": "../../thesis.tex"}, {"path": str(tmp_path / "thesis.tex")}])
    with open_output("finetune", stage(folder), INPUTS, force=True):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_output_dir_that_is_a_file_is_rejected(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    with pytest.raises(OutputError, match="not a folder"), open_output("finetune", stage(folder), INPUTS):
        pass


def test_output_dir_without_write_permission_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    folder.mkdir(parents=True)
    monkeypatch.setattr("tinybert_cli.artifacts.output.write_json", lambda path, value: deny(path))
    with pytest.raises(OutputError, match="Permission denied"), open_output("finetune", stage(folder), INPUTS):
        pass


def test_unreadable_input_is_not_reported_as_an_output_error(folder: Path) -> None:
    with pytest.raises(PermissionError), open_output("finetune", stage(folder), INPUTS):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/train.jsonl")


def test_finished_folder_of_another_user_is_up_to_date(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    finish(folder)
    monkeypatch.setattr(os, "utime", deny)
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished


def test_dry_run_writes_nothing(folder: Path) -> None:
    with open_output("finetune", stage(folder), INPUTS, dry_run=True) as output:
        list(output.record([{"event": "plan"}]))
    assert not folder.parent.exists()


def test_dry_run_with_force_leaves_a_finished_run_unchanged(folder: Path) -> None:
    finish(folder)
    before = files(folder)
    with open_output("finetune", stage(folder), INPUTS, dry_run=True, force=True) as output:
        assert not output.finished
    assert files(folder) == before


# -- manifests -----------------------------------------------------------------------------------------------


def test_all_files_have_the_same_permissions(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    before = os.umask(0o027)
    try:
        with open_output("finetune", stage(folder), INPUTS) as output:
            output.files.put(lambda partial: save_file({"weight": np.zeros(2)}, partial / "model.safetensors"))
            output.finish({"rows": 3})
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir() if path.is_file()}
    assert "model.safetensors" in modes and {*modes.values()} == {"0o640"}


def test_manifest_lists_every_output_with_size_and_sha256(folder: Path) -> None:
    finish(folder, label_names=["no", "yes"])
    manifest = artifacts.read_manifest(folder)
    assert [entry["path"] for entry in manifest["outputs"]] == ["metrics.json", "model.safetensors", "run.yaml"]
    assert manifest["outputs"][1]["bytes"] == 7 and manifest["label_names"] == ["no", "yes"]
    assert manifest["inputs"] == INPUTS and manifest["seed"] == 42 and manifest["command"] == "finetune"


def test_finished_folder_has_no_temporary_files(folder: Path) -> None:
    finish(folder)
    assert set(files(folder)) == {"log.jsonl", "manifest.json", "metrics.json", "model.safetensors", "run.yaml"}


def test_edited_manifest_is_rejected(folder: Path) -> None:
    finish(folder)
    edit_json(folder / "manifest.json", label_names=["yes", "no"])
    with pytest.raises(InputError, match="was changed after"):
        artifacts.read_manifest(folder)


def test_truncated_manifest_is_rejected(folder: Path) -> None:
    finish(folder)
    (folder / "manifest.json").write_text('{"command": "finet')
    with pytest.raises(InputError, match="cannot read"):
        artifacts.verify_folder(folder)


@pytest.mark.parametrize("text", ["Weights", "weights, more of them"], ids=["same size", "other size"])
def test_changed_output_is_rejected(text: str, folder: Path) -> None:
    finish(folder)
    (folder / "model.safetensors").write_text(text)
    with pytest.raises(InputError, match=r"model\.safetensors' is damaged or was changed"):
        artifacts.verify_folder(folder)


def test_missing_output_is_rejected(folder: Path) -> None:
    finish(folder)
    (folder / "model.safetensors").unlink()
    with (
        pytest.raises(InputError, match=r"model\.safetensors' is missing"),
        open_output("finetune", stage(folder), INPUTS),
    ):
        pass


def test_force_starts_over_if_an_output_is_missing(folder: Path) -> None:
    finish(folder)
    (folder / "model.safetensors").unlink()
    with open_output("finetune", stage(folder), INPUTS, force=True) as output:
        assert not output.finished


def test_finished_folder_is_identified_by_its_manifest(folder: Path) -> None:
    finish(folder)
    copied = Path(shutil.copytree(folder, folder.with_name("copied")))
    original, copy = artifacts.describe(folder), artifacts.describe(copied)
    assert original["manifest"] == copy["manifest"] and original["path"] != copy["path"]


def test_other_folder_is_identified_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    before = artifacts.describe(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert artifacts.describe(tmp_path / "model") != before


def test_hub_model_is_identified_by_id_and_revision() -> None:
    described = artifacts.describe_model(None, "org/name@v1", "v1")
    assert described == {"hub_id": "org/name", "revision": "v1"}


# -- origin of a label dataset -------------------------------------------------------------------------------------

LABEL_INPUTS = {
    "teacher": [{"path": "runs/teacher", "manifest": "t1"}],
    "data.train_file": [{"path": "train.jsonl", "sha256": "a1"}],
}


def check_origin(command: str = "gen-soft-labels", **expected: Any) -> None:
    artifacts.check_origin(Path("labels"), {"command": command, "inputs": LABEL_INPUTS}, expected)


def test_labels_of_moved_inputs_are_accepted() -> None:
    check_origin(
        teacher=[{"path": "/data/teacher", "manifest": "t1"}], **{"data.train_file": LABEL_INPUTS["data.train_file"]}
    )


def test_labels_of_other_data_are_rejected() -> None:
    with pytest.raises(InputError, match=r"another data\.train_file"):
        check_origin(**OTHER_INPUTS)


def test_labels_of_another_teacher_are_rejected() -> None:
    with pytest.raises(InputError, match="another teacher") as error:
        check_origin(teacher=[{"path": "runs/teacher", "manifest": "t2"}])
    assert "t1" in str(error.value) and "t2" in str(error.value)


def test_folder_of_another_stage_is_not_a_label_dataset() -> None:
    with pytest.raises(InputError, match="written by distill"):
        check_origin("distill")


# -- concurrent and killed processes -------------------------------------------------------------------------


def test_second_process_is_rejected_until_the_first_ends(folder: Path) -> None:
    with run_in_subprocess(folder, "print('open', flush=True); sys.stdin.read()") as first:
        assert first.stdout is not None and first.stdout.readline() == "open\n"
        with pytest.raises(OutputError, match="another process"), open_output("finetune", stage(folder), INPUTS):
            pass
        first.kill()
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert not output.finished


def test_process_killed_in_put_leaves_no_output_file(folder: Path) -> None:
    body = """
    def write(at):
        (at / "config.json").write_text("{}")
        (at / "model.safetensors").write_text("weig")
        os._exit(9)
    output.checkpoints.seal("step-00000005", lambda at: (at / "state.bin").write_text("state"))
    output.files.put(write)
    """
    with run_in_subprocess(folder, body):
        pass
    assert {path.name for path in folder.iterdir()} == {"checkpoints"}
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.resumed and output.checkpoints.states()


def test_process_killed_in_seal_leaves_the_older_checkpoint(folder: Path) -> None:
    body = """
    def write(at):
        (at / "state.bin").write_text("sta")
        os._exit(9)
    output.checkpoints.seal("step-00000005", lambda at: (at / "state.bin").write_text("state"))
    output.checkpoints.seal("step-00000009", write, drop=["step-00000005"])
    """
    with run_in_subprocess(folder, body):
        pass
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.checkpoints.states() == [folder / "checkpoints" / "step-00000005"]


def test_run_killed_before_any_checkpoint_allows_other_settings(folder: Path) -> None:
    with run_in_subprocess(folder, "os._exit(9)"):
        pass
    with open_output("finetune", stage(folder, seed=7), INPUTS) as output:
        assert not output.resumed


def test_process_killed_in_open_does_not_block_the_folder(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / ".started.json.partial").write_text("{")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert not output.finished


# -- failures ------------------------------------------------------------------------------------------------


def test_run_failing_before_any_checkpoint_leaves_no_folder(folder: Path) -> None:
    with pytest.raises(InputError), open_output("finetune", stage(folder), INPUTS) as output:
        for _ in output.record([{"event": "plan"}]):
            raise InputError("no such column")
    assert not folder.exists()


def test_rejected_export_is_no_checkpoint_to_resume_from(folder: Path) -> None:
    with pytest.raises(UserError), open_output("export", stage(folder), INPUTS) as output:
        output.checkpoints.seal("final", writer("model.onnx"))
        raise UserError("the exported model does not match")
    assert not folder.exists()


def test_tracker_files_are_removed_with_the_run(folder: Path) -> None:
    def track(output: Output) -> None:
        (output.trackers / "tinybert").mkdir(parents=True)
        (output.trackers / "tinybert" / "events").write_text("loss")

    with pytest.raises(UserError), open_output("finetune", stage(folder), INPUTS) as output:
        track(output)
        raise UserError("the loss is not finite")
    assert not folder.exists()
    with open_output("finetune", stage(folder), INPUTS) as output:
        track(output)
        output.finish({})
    replace(folder)
    assert [path.name for path in (folder / "trackers").iterdir()] == ["new"]


def test_run_failing_after_a_checkpoint_can_be_resumed(folder: Path) -> None:
    with pytest.raises(UserError), open_output("finetune", stage(folder), INPUTS) as output:
        output.checkpoints.seal("step-00000005", writer("state.bin"))
        raise UserError("the loss is not finite")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.resumed


def test_failure_after_the_manifest_leaves_a_finished_run(folder: Path) -> None:
    with pytest.raises(Interrupted), open_output("finetune", stage(folder), INPUTS) as output:
        output.files.put(writer("model.safetensors"))
        output.finish({"rows": 3})
        raise Interrupted(signal.SIGINT, "interrupted")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished


@full_disk
def test_full_disk_leaves_no_incomplete_output(error: Exception, folder: Path) -> None:
    def write(at: Path) -> None:
        (at / "config.json").write_text("{}")
        (at / "model.safetensors").write_text("weig")
        raise error

    with (
        pytest.raises(UserError, match="disk is full") as caught,
        open_output("finetune", stage(folder), INPUTS) as output,
    ):
        output.files.put(writer("train-0.parquet"))
        output.files.put(write)
    assert caught.value.exit_code == 1
    assert set(files(folder)) == {"train-0.parquet", "checkpoints/started.json"}


def test_folder_that_is_removed_during_a_run_is_no_bug(folder: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"'.*' is missing, which this run has written") as caught,
        open_output("finetune", stage(folder), INPUTS) as output,
    ):
        output.files.put(writer("model.safetensors"))
        shutil.rmtree(folder)
        output.finish({"rows": 3})
    assert caught.value.exit_code == 4


@full_disk
def test_full_disk_leaves_the_older_checkpoint(error: Exception, folder: Path) -> None:
    def write(at: Path) -> None:
        (at / "state.bin").write_text("sta")
        raise error

    with pytest.raises(UserError, match="disk is full"), open_output("finetune", stage(folder), INPUTS) as output:
        output.checkpoints.seal("step-00000005", writer("state.bin"))
        output.checkpoints.seal("step-00000009", write, drop=["step-00000005"])
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"started.json", "step-00000005"}


def test_full_disk_in_open_does_not_block_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.output, "write_json", disk_full)
        with pytest.raises(UserError, match="disk is full"), open_output("finetune", stage(folder), INPUTS):
            pass
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert not output.resumed


def test_full_disk_at_the_manifest_leaves_a_resumable_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = write_json

    def disk_full(path: Path, value: object) -> None:
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, value)

    monkeypatch.setattr(artifacts.output, "write_json", disk_full)
    with pytest.raises(UserError, match="disk is full"):
        finish(folder)
    assert not (folder / "manifest.json").exists()
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.resumed


def test_other_errors_of_a_writer_are_raised_unchanged(folder: Path) -> None:
    def write(at: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), open_output("finetune", stage(folder), INPUTS) as output:
        output.files.put(write)


# -- checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture
def output(folder: Path) -> Iterator[Output]:
    with open_output("finetune", stage(folder), INPUTS) as opened:
        yield opened


def truncate(checkpoint: Path) -> None:
    (checkpoint / "state.bin").write_text("weig")


def change_content(checkpoint: Path) -> None:
    (checkpoint / "state.bin").write_text("Weights")


def remove_seal(checkpoint: Path) -> None:
    (checkpoint / "seal.json").unlink()


@pytest.mark.parametrize("damage", [truncate, change_content, remove_seal])
def test_damaged_checkpoint_is_skipped(
    damage: Callable[[Path], None], output: Output, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = (output.checkpoints.seal(name, writer("state.bin")) for name in ("step-00000005", "step-00000009"))
    damage(newer)
    assert output.checkpoints.states() == [older]
    assert "step-00000009 is damaged" in caplog.text


def test_newest_checkpoint_has_the_most_steps(output: Output) -> None:
    for step in (1_000_000, 999_999, 20):
        output.checkpoints.seal(f"step-{step:08}", writer("state.bin"))
    assert output.checkpoints.states()[0] == output.folder / "checkpoints" / "step-01000000"


def checkpoint_names(output: Output) -> set[str]:
    return {path.name for path in (output.folder / "checkpoints").iterdir() if path.is_dir()}


def save_checkpoints(output: Output, *events: Event) -> list[Event]:
    return list(output.save_checkpoints(events, save_state=writer("state.bin"), save_model=writer("model.bin")))


def best(step: int, *, is_best: bool = True) -> Event:
    return {"event": "evaluate", "step": step, "is_best": is_best}


def state(step: int) -> Event:
    return {"event": "checkpoint", "step": step}


def test_the_two_newest_states_are_kept(output: Output) -> None:
    save_checkpoints(output, *map(state, (3, 6, 9)))
    assert checkpoint_names(output) == {"step-00000006", "step-00000009"}


def test_best_models_of_both_states_are_kept(output: Output) -> None:
    save_checkpoints(output, best(3), state(3), best(6), state(6), state(9), best(11))
    assert checkpoint_names(output) == {"best-00000006", "step-00000006", "step-00000009", "best-00000011"}
    save_checkpoints(output, state(12))
    assert checkpoint_names(output) == {"best-00000006", "step-00000009", "best-00000011", "step-00000012"}


def test_resuming_drops_the_checkpoints_after_the_state(output: Output) -> None:
    save_checkpoints(output, best(3), state(3), best(6), state(6), best(9))
    output.checkpoints.drop_newer(output.checkpoints.states()[1])
    assert checkpoint_names(output) == {"best-00000003", "step-00000003"}


def test_worse_model_is_not_saved(output: Output) -> None:
    save_checkpoints(output, best(5), best(9, is_best=False))
    assert output.checkpoints.best_model(5) == output.folder / "checkpoints" / "best-00000005"
    assert output.checkpoints.best_model(9) is None


def test_save_checkpoints_passes_every_event_on(output: Output) -> None:
    events = [{"event": "train", "step": 1}, {"event": "checkpoint", "step": 1}]
    assert save_checkpoints(output, *events) == events


# -- log -----------------------------------------------------------------------------------------------------


def logged(folder: Path) -> list[tuple[str, int]]:
    events = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(event["event"], event.get("step", 0)) for event in events]


def test_progress_events_are_not_logged(output: Output) -> None:
    events = [{"event": "progress", "step": 1}, {"event": "train", "step": 1}]
    assert list(output.record(events)) == events
    assert logged(output.folder) == [("train", 1)]


def test_resume_drops_the_events_after_the_checkpoint(output: Output) -> None:
    steps = [{"event": "train", "step": step} for step in (2, 4, 6)]
    list(output.record([{"event": "plan"}, *steps]))
    list(output.record([{"event": "plan"}, {"event": "resume", "step": 4}, {"event": "train", "step": 6}]))
    assert logged(output.folder) == [
        ("plan", 0), ("train", 2), ("train", 4), ("plan", 0), ("resume", 4), ("train", 6),
    ]  # fmt: skip


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing more than `size` bytes to a file fails, after the first `size` bytes were written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_failed_rewrite_on_resume_leaves_the_old_log_complete(output: Output) -> None:
    list(output.record([{"event": "plan"}, *({"event": "train", "step": step} for step in range(1, 101))]))
    path = output.folder / "log.jsonl"
    before = path.read_bytes()
    with pytest.raises(OSError), file_size_limit(1000):
        list(output.record([{"event": "resume", "step": 50}]))
    assert path.read_bytes() == before
    assert {file.name for file in output.folder.iterdir()} == {"log.jsonl", "checkpoints"}


def test_log_continues_in_the_rewritten_file_after_resume(output: Output) -> None:
    list(output.record([{"event": "train", "step": step} for step in (2, 4, 6)]))
    path = output.folder / "log.jsonl"
    old = path.open()
    for event in output.record([{"event": "resume", "step": 4}, {"event": "train", "step": 5}]):
        assert logged(output.folder)[-1] == (event["event"], event["step"])  # written before it is passed on
    assert logged(output.folder) == [("train", 2), ("train", 4), ("resume", 4), ("train", 5)]
    with old:
        assert len(old.readlines()) == 3  # replaced, not written in place


def test_incomplete_last_line_of_the_log_is_dropped(output: Output) -> None:
    list(output.record([{"event": "train", "step": 1}]))
    with (output.folder / "log.jsonl").open("a") as file:
        file.write('{"time": "2026-11-27", "event": "tra')
    list(output.record([{"event": "plan"}]))
    assert logged(output.folder) == [("train", 1), ("plan", 0)]


def test_incomplete_last_line_of_the_log_of_a_finished_run_is_skipped(output: Output) -> None:
    list(output.record([{"event": "model", "name": "teacher"}, {"event": "model", "name": "student"}]))
    log = output.folder / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    assert [row["name"] for row in artifacts.read_rows(output.folder, "model")] == ["teacher"]


def test_damaged_line_of_the_log_is_an_error(output: Output) -> None:
    (output.folder / "log.jsonl").write_text('{"event": "mod\n{"event": "model"}\n')
    with pytest.raises(InputError, match=r"log\.jsonl"):
        list(artifacts.read_rows(output.folder, "model"))


def test_unicode_line_separator_does_not_split_a_logged_event(output: Output) -> None:
    plan = {"event": "plan", "label_names": ["a\u2028b", "c\x85d"]}
    list(output.record([plan, {"event": "resume", "step": 4}]))
    (event,) = artifacts.read_rows(output.folder, "plan")
    assert event.items() >= plan.items()


# -- signals -------------------------------------------------------------------------------------------------

both_signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@both_signals
def test_signal_interrupts_at_once(number: int, output: Output) -> None:
    with pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number


@both_signals
def test_deferred_signal_is_pending_and_raised_at_the_end(number: int, output: Output) -> None:
    with pytest.raises(Interrupted) as caught, output.signals.deferred():
        os.kill(os.getpid(), number)
        assert output.signals.pending() == number
    assert caught.value.exit_code == 128 + number


def test_second_signal_interrupts_at_once(output: Output) -> None:
    with pytest.raises(Interrupted), output.signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_while_a_run_is_finished_ends_the_command(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "remove", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as caught:
        output.finish({})
    assert output.finished and "finished already" in str(output.close_failed(caught.value))


def test_save_checkpoints_defers_signals(output: Output) -> None:
    def loop() -> Iterator[Event]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield {"event": "checkpoint", "step": output.signals.pending()}

    events = output.save_checkpoints(loop(), save_state=writer("state.bin"), save_model=None)
    assert next(events) == {"event": "checkpoint", "step": signal.SIGTERM}
    with pytest.raises(Interrupted):
        next(events)


def test_signal_handlers_are_restored(folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    finish(folder)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(
    ("command", "old_key", "old", "new"),
    [
        ("finetune", "labels", "gold", None),
        ("finetune", "labels", "runs/labels", "runs/labels"),
        ("distill", "soft_labels", "runs/labels", "runs/labels"),
    ],
)
def test_keys_of_version_0_1_are_compared_under_their_new_name(
    command: str, old_key: str, old: str, new: str | None
) -> None:
    description = {"path": "runs/labels", "manifest": "c3"}
    inputs = {} if new is None else {"label_dataset": description}
    now = {"command": command, "settings": {"seed": 1, "label_dataset": new}, "inputs": inputs}
    old_inputs = {} if new is None else {old_key: description}
    earlier = {"command": command, "settings": {"seed": 1, old_key: old}, "inputs": old_inputs}
    assert differences(earlier, now) == []
    assert differences({**earlier, "settings": {"seed": 1, old_key: "runs/other"}}, now)[0].startswith("label_dataset")


# -- inputs of the run -----------------------------------------------------------------------------------------


def open_for(output: Path, inputs: dict[str, Any], **data: Any) -> None:
    with open_output("finetune", stage(output, **data), inputs):
        pass


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, `model`, in the current directory, with a link to it, `link`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "onnx").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to("model")
    return tmp_path / "model"


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    "output", ["model", "./model/", "link", "link/../model", "model/onnx/..", "{}/model", "model/out", "link/a/b", "."]
)
def test_output_dir_that_is_holds_or_lies_in_a_model_is_rejected(force: bool, output: str, model: Path) -> None:
    before = files(model.parent)
    where = Path(output.format(model.parent))
    for name in ("model", "link", "model/../model"):
        inputs = {"models.student": artifacts.describe_model(Path(name), name, None)}
        with (
            pytest.raises(OutputError, match=r"models\.student"),
            open_output("eval", stage(where), inputs, force=force),
        ):
            pass
        assert files(model.parent) == before


@pytest.mark.parametrize("key", ["train_file", "validation_file", "test_file", "unlabeled_file"])
@pytest.mark.parametrize("is_link", [True, False])
def test_output_dir_that_holds_a_data_file_is_rejected(key: str, is_link: bool, tmp_path: Path) -> None:
    finish(tmp_path / "out")
    file = tmp_path / "out" / "rows.jsonl"
    (tmp_path / "rows.jsonl").write_text("{}")
    file.symlink_to(tmp_path / "rows.jsonl") if is_link else file.write_text("{}")
    with pytest.raises(OutputError, match=f"contains an input of this run: data.{key}"):
        open_for(tmp_path / "out", {}, **{key: [str(tmp_path / "rows.jsonl"), str(file)]})


def test_output_dir_beside_a_data_file_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    open_for(tmp_path / "out", {}, train_file=str(tmp_path / "rows.jsonl"))


def test_output_dir_that_holds_the_config_is_rejected(folder: Path) -> None:
    finish(folder)
    artifacts.check_config_files(folder, [folder / "run.yaml", folder.parent / "other.yaml"])
    (folder / "task.yaml").write_text("task: text-classification")
    with pytest.raises(OutputError, match=r"contains an input of this run: the config '.*task\.yaml'"):
        artifacts.check_config_files(folder, [folder / "run.yaml", folder / "task.yaml"])


# -- what an edit means ----------------------------------------------------------------------------------------


def finish_model(folder: Path) -> None:
    with open_output("finetune", stage(folder), INPUTS) as output:
        for name in ("model.safetensors", "README.md", "report.html", "onnx/model.onnx"):
            (output.folder / "onnx").mkdir(exist_ok=True)
            output.files.put(
                lambda at, name=name: ((at / name).parent.mkdir(exist_ok=True), (at / name).write_text("text"))
            )
        output.finish({"rows": 3})


def test_edited_documents_and_extra_files_are_no_damage(folder: Path) -> None:
    finish_model(folder)
    checksum = artifacts.describe(folder)
    for name in ("README.md", "run.yaml", "metrics.json", "notes.txt", ".DS_Store"):
        (folder / name).write_text("edited")
    (folder / "report.html").unlink()
    os.utime(folder / "model.safetensors", (1, 1))
    assert artifacts.describe(folder) == checksum


def test_a_run_with_an_edited_model_card_is_up_to_date(folder: Path) -> None:
    finish_model(folder)
    (folder / "README.md").write_text("edited")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished
    assert (folder / "README.md").read_text() == "edited"


@pytest.mark.parametrize("name", ["model.safetensors", "onnx/model.onnx"])
def test_damaged_weights_are_an_error(name: str, folder: Path) -> None:
    finish_model(folder)
    (folder / name).write_text("tex_")
    with pytest.raises(InputError, match="is damaged or was changed"):
        artifacts.describe(folder)


def test_up_to_date_needs_undamaged_metrics(folder: Path) -> None:
    finish_model(folder)
    (folder / "metrics.json").write_text('{"rows": 4}')
    with pytest.raises(InputError, match=r"metrics\.json' is damaged"), open_output("finetune", stage(folder), INPUTS):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_folder_with_a_file_whose_name_is_not_utf8_can_be_an_input(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"f\xfcr.bin")).write_text("x")
    before = artifacts.describe(tmp_path)["sha256"]
    (tmp_path / os.fsdecode(b"f\xfcr.bin")).write_text("y")
    assert artifacts.describe(tmp_path)["sha256"] != before


def test_documents_and_hidden_files_do_not_identify_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model" / ".git").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    before = artifacts.describe(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("a model")
    (tmp_path / "model" / ".git" / "index").write_text("git")
    assert artifacts.describe(tmp_path / "model") == before


def test_manifest_of_another_tool_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text('{"name": "app", "version": 3}')
    assert "sha256" in artifacts.describe(tmp_path / "model")


def test_user_folders_in_checkpoints_survive_an_up_to_date_run(folder: Path) -> None:
    finish(folder)
    for name in ("mine", "step-one", "best", "finals"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "model.bin").write_text("foreign")
    (folder / "checkpoints" / "step-00000007").mkdir()  # left by a process that was killed after the manifest
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"mine", "step-one", "best", "finals"}


# -- remembered hashes -----------------------------------------------------------------------------------------


@pytest.fixture
def large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose hash is remembered: its times are not of just now."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "SETTLED", -1)
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(hashes.LARGE))
    return file


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    reads: list[Path] = []
    original = hashes.file_hash
    monkeypatch.setattr(hashes, "file_hash", lambda path: (reads.append(path), original(path))[1])
    return reads


def test_unchanged_large_file_is_read_once(large_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    assert hashes.remembered_hash(large_file) == hashes.remembered_hash(large_file) and len(reads) == 1


def test_changed_content_with_the_old_mtime_is_read_again(large_file: Path) -> None:
    before, times = hashes.remembered_hash(large_file), large_file.stat()
    with large_file.open("r+b") as file:
        file.write(b"\1")
    os.utime(large_file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashes.remembered_hash(large_file) != before


def test_file_that_was_just_written_is_read_again(large_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(large_file.parent / "cache"))
    reads = count_reads(monkeypatch)
    hashes.remembered_hash(large_file)
    hashes.remembered_hash(large_file)
    assert len(reads) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', '{"x": {"file": 1}}'])
def test_damaged_cache_of_hashes_is_ignored(content: str, large_file: Path) -> None:
    cache = large_file.parent / "cache" / "tinybert" / "hashes.json"
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    assert hashes.remembered_hash(large_file) == hashes.file_hash(large_file)


def test_hashes_need_no_cache_folder(large_file: Path) -> None:
    (large_file.parent / "cache").write_text("a file")
    assert hashes.remembered_hash(large_file) == hashes.file_hash(large_file)


# -- files of an unfinished run --------------------------------------------------------------------------------


def test_damaged_file_of_an_interrupted_run_is_noticed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError), open_output("finetune", stage(folder), INPUTS) as output:
        output.files.put(writer("train-0.parquet"))
        output.files.put(writer("train-1.parquet"))
        raise InputError("stop")
    (folder / "train-1.parquet").write_text("weightz")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert (
            output.files.has("train-0.parquet")
            and not output.files.has("train-1.parquet")
            and not output.files.has("train-2.parquet")
        )
    assert "train-1.parquet is damaged and is made again" in caplog.text


def test_resuming_with_another_number_of_processes_is_rejected(folder: Path) -> None:
    with (
        pytest.raises(UserError),
        open_output("finetune", stage(folder), INPUTS, same_processes=True) as output,
    ):
        output.checkpoints.seal("step-00000003", writer("state.bin"))
        raise UserError("the loss is not finite")
    edit_json(folder / "checkpoints" / "started.json", processes=2)
    with (
        pytest.raises(OutputError, match="processes: 2 before, 1 now"),
        open_output("finetune", stage(folder), INPUTS, same_processes=True),
    ):
        pass
    with open_output("finetune", stage(folder), INPUTS, same_processes=True, force=True) as output:
        assert not output.resumed


def test_finished_run_of_several_processes_is_up_to_date_for_one(folder: Path) -> None:
    with open_output("finetune", stage(folder), INPUTS, same_processes=True) as output:
        output.finish({})
    manifest = {**json.loads((folder / "manifest.json").read_text()), "processes": 2}
    checksum = hashes.digest({key: value for key, value in manifest.items() if key != "checksum"})
    edit_json(folder / "manifest.json", processes=2, checksum=checksum)
    with open_output("finetune", stage(folder), INPUTS, same_processes=True) as output:
        assert output.finished


# -- what a rerun finds ----------------------------------------------------------------------------------------

FAILURES = {
    "signal": (Interrupted(signal.SIGTERM, "interrupted"), "run the same command again"),
    "disk": (OSError(errno.ENOSPC, "No space left on device"), "free some space, then run the same command again"),
}
failures = pytest.mark.parametrize(("error", "hint"), FAILURES.values(), ids=FAILURES)


@failures
def test_a_failure_says_whether_a_rerun_resumes(error: Exception, hint: str, folder: Path) -> None:
    with pytest.raises(UserError) as caught, open_output("eval", stage(folder), INPUTS) as output:
        raise error
    assert f"{hint}; it starts from the beginning, as nothing was saved" in str(caught.value) and not folder.exists()
    with pytest.raises(UserError) as caught, open_output("eval", stage(folder), INPUTS) as output:
        output.files.put(writer("report.md"))
        raise error
    assert str(caught.value).endswith(f"{hint} to resume")
    with open_output("eval", stage(folder), INPUTS) as output:
        assert output.resumed
        output.finish({})
        with pytest.raises(UserError) as caught:
            raise output.close_failed(error)
    assert ("finished already" if isinstance(error, Interrupted) else "again") in str(caught.value)


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
def test_the_remedy_for_other_settings_works(make: Callable[[Path], None], folder: Path) -> None:
    make(folder)
    with pytest.raises(OutputError) as caught, open_output("finetune", stage(folder, seed=7), INPUTS):
        pass
    assert f"--force to {'replace it' if make is finish else 'start over'}" in str(caught.value)
    replace(folder)
    assert artifacts.verify_folder(folder)["seed"] == 7


@pytest.mark.parametrize("damage", ["edited", "truncated"])
def test_the_remedy_for_a_damaged_manifest_works(damage: str, folder: Path) -> None:
    finish(folder)
    if damage == "edited":
        edit_json(folder / "manifest.json", label_names=["yes", "no"])
    else:
        (folder / "manifest.json").write_text('{"command": "finet')
    with pytest.raises(InputError) as caught, open_output("finetune", stage(folder), INPUTS):
        pass
    if damage == "edited":
        assert "run the stage that wrote the folder again with --force" in str(caught.value)
        replace(folder)
    else:
        assert "move the folder away and run the stage that wrote it again" in str(caught.value)
        folder.rename(folder.with_name("away"))
        finish(folder)
    assert artifacts.verify_folder(folder)


def test_the_remedy_for_a_damaged_list_of_files_works(folder: Path) -> None:
    interrupt(folder)
    (folder / "checkpoints" / "started.json").write_text("{")
    with pytest.raises(InputError, match="remove that folder"), open_output("finetune", stage(folder), INPUTS):
        pass
    shutil.rmtree(folder)
    finish(folder)


def test_up_to_date_on_a_read_only_disk_succeeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, *_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    finish(folder)
    for name in ("utime", "mkdir", "unlink"):
        monkeypatch.setattr(os, name, deny)
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished


def test_settings_added_after_an_earlier_version_have_their_defaults() -> None:
    config = {"task": "text-classification", "data": {}, "model": "base", "output_dir": "out"}
    now: dict[str, Any] = {"command": "finetune", "settings": settings_of(COMMANDS["finetune"].model_validate(config))}
    earlier = copy.deepcopy(now)
    del earlier["settings"]["data"]["delimiter"]
    assert differences(earlier, now) == []
    now["settings"]["data"]["delimiter"] = ";"
    assert differences(earlier, now) == ["data.delimiter: auto before, ; now"]
