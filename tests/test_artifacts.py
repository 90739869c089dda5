"""A folder is new, unfinished or finished, and never anything in between, whatever happens to the run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from tinybert_cli import artifacts
from tinybert_cli.artifacts import Output, open_output
from tinybert_cli.artifacts.atomic_files import write_json
from tinybert_cli.config import Stage
from tinybert_cli.errors import InputError, Interrupted, OutputError, UserError

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


def writing(name: str, text: str = "weights") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def finish(folder: Path, command: str = "finetune", **facts: Any) -> None:
    with open_output(command, stage(folder), INPUTS) as output:
        list(output.record([{"event": "train", "step": 1}]))
        output.put(writing("model.safetensors"))
        output.finish({"rows": 3}, **facts)


def interrupt(folder: Path, *, at: int = 3) -> None:
    """A run that is stopped by SIGTERM after its checkpoint."""
    with pytest.raises(Interrupted), open_output("finetune", stage(folder), INPUTS) as output:
        list(output.record([{"event": "train", "step": at}]))
        output.seal(f"step-{at:08}", writing("state.bin"))
        raise Interrupted(signal.SIGTERM, "interrupted")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def in_another_process(folder: Path, body: str) -> subprocess.Popen[str]:
    """Runs `body` inside an open output folder, in a process of its own."""
    code = f"""
import os, sys
from tinybert_cli.artifacts import open_output
from tinybert_cli.config import Stage
stage = Stage.model_validate({{"task": "text-classification", "data": {{}}, "output_dir": {str(folder)!r}}})
with open_output("finetune", stage, {INPUTS!r}) as output:
{textwrap.indent(textwrap.dedent(body), "    ")}
"""
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


# -- nothing, unfinished, finished ---------------------------------------------------------------------------


def test_an_empty_place_is_a_new_run(folder: Path) -> None:
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert not output.finished and not output.resumed and output.latest_state() is None


def test_an_unfinished_run_is_gone_on_with_from_its_newest_checkpoint(folder: Path) -> None:
    interrupt(folder, at=3)
    interrupt(folder, at=7)
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.resumed and output.latest_state() == folder / "checkpoints" / "step-00000007"


def test_a_finished_run_is_up_to_date(folder: Path) -> None:
    finish(folder)
    before = files(folder)
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished
    assert files(folder) == before


def test_the_manifest_of_a_run_that_is_up_to_date_becomes_newer_for_make(folder: Path) -> None:
    finish(folder)
    os.utime(folder / "manifest.json", (1, 1))
    with open_output("finetune", stage(folder), INPUTS):
        pass
    assert (folder / "manifest.json").stat().st_mtime > 1e9


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
def test_other_settings_are_refused_and_the_keys_that_differ_are_listed(
    make: Callable[[Path], None], folder: Path
) -> None:
    make(folder)
    before = files(folder)
    with pytest.raises(OutputError) as error, open_output("finetune", stage(folder, seed=7, max_seq_length=64), INPUTS):
        pass
    assert error.value.exit_code == 4
    assert "seed: 42 there, 7 now" in str(error.value) and "data.max_seq_length: 128 there, 64 now" in str(error.value)
    assert "task" not in str(error.value) and "--force" in str(error.value)
    assert files(folder) == before


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
def test_an_input_that_has_changed_since_is_listed(make: Callable[[Path], None], folder: Path) -> None:
    make(folder)
    with (
        pytest.raises(OutputError, match=r"data\.train_file\.0\.sha256: a1 there, b2 now"),
        open_output("finetune", stage(folder), OTHER_INPUTS),
    ):
        pass


def test_another_command_is_refused(folder: Path) -> None:
    finish(folder)
    with (
        pytest.raises(OutputError, match="command: finetune there, distill now"),
        open_output("distill", stage(folder), INPUTS),
    ):
        pass


def test_the_folder_may_be_moved_without_becoming_another_run(folder: Path) -> None:
    finish(folder)
    moved = folder.rename(folder.with_name("moved"))
    with open_output("finetune", stage(moved), INPUTS) as output:
        assert output.finished


@pytest.mark.parametrize("make", [finish, interrupt], ids=["finished", "unfinished"])
def test_force_starts_over_and_removes_only_what_tinybert_wrote(make: Callable[[Path], None], folder: Path) -> None:
    make(folder)
    (folder / "notes.txt").write_text("mine")
    with open_output("finetune", stage(folder, seed=7), INPUTS, force=True) as output:
        assert not output.finished and not output.resumed
        assert set(files(folder)) == {"notes.txt", "checkpoints/started.json"}


def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.tex"), open_output("finetune", stage(folder), INPUTS):
        pass
    assert set(files(folder)) == {"thesis.tex"}


def test_force_does_not_take_a_folder_of_somebody_else(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError), open_output("finetune", stage(folder), INPUTS, force=True):
        pass
    assert set(files(folder)) == {"thesis.tex"}


def test_a_manifest_cannot_make_force_remove_files_elsewhere(folder: Path, tmp_path: Path) -> None:
    finish(folder)
    (tmp_path / "thesis.tex").write_text("mine")
    edit_json(folder / "manifest.json", outputs=[{"path": "../../thesis.tex"}, {"path": str(tmp_path / "thesis.tex")}])
    with open_output("finetune", stage(folder), INPUTS, force=True):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    with pytest.raises(OutputError, match="not a folder"), open_output("finetune", stage(folder), INPUTS):
        pass


def test_a_folder_that_cannot_be_written_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    folder.mkdir(parents=True)
    monkeypatch.setattr("tinybert_cli.artifacts.output.write_json", lambda path, value: forbidden(path))
    with pytest.raises(OutputError, match="Permission denied"), open_output("finetune", stage(folder), INPUTS):
        pass


def test_an_input_that_cannot_be_read_is_not_the_fault_of_the_folder(folder: Path) -> None:
    with pytest.raises(PermissionError), open_output("finetune", stage(folder), INPUTS):
        raise PermissionError(errno.EACCES, "Permission denied", "/data/train.jsonl")


def test_a_finished_folder_of_somebody_else_is_up_to_date(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    finish(folder)
    monkeypatch.setattr(os, "utime", forbidden)
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished


def test_a_dry_run_touches_nothing(folder: Path) -> None:
    with open_output("finetune", stage(folder), INPUTS, dry_run=True) as output:
        list(output.record([{"event": "plan"}]))
    assert not folder.parent.exists()


def test_a_dry_run_with_force_leaves_a_finished_run_alone(folder: Path) -> None:
    finish(folder)
    before = files(folder)
    with open_output("finetune", stage(folder), INPUTS, dry_run=True, force=True) as output:
        assert not output.finished
    assert files(folder) == before


# -- manifests -----------------------------------------------------------------------------------------------


def test_who_may_read_one_file_of_a_folder_may_read_them_all(folder: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    before = os.umask(0o027)
    try:
        with open_output("finetune", stage(folder), INPUTS) as output:
            output.put(lambda partial: save_file({"weight": np.zeros(2)}, partial / "model.safetensors"))
            output.finish({"rows": 3})
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir() if path.is_file()}
    assert "model.safetensors" in modes and {*modes.values()} == {"0o640"}


def test_the_manifest_names_every_output_with_its_size_and_sha256(folder: Path) -> None:
    finish(folder, label_names=["no", "yes"])
    manifest = artifacts.read_manifest(folder)
    assert [entry["path"] for entry in manifest["outputs"]] == ["metrics.json", "model.safetensors", "run.yaml"]
    assert manifest["outputs"][1]["bytes"] == 7 and manifest["label_names"] == ["no", "yes"]
    assert manifest["inputs"] == INPUTS and manifest["seed"] == 42 and manifest["command"] == "finetune"


def test_nothing_of_the_workshop_is_left_in_a_finished_folder(folder: Path) -> None:
    finish(folder)
    assert set(files(folder)) == {"log.jsonl", "manifest.json", "metrics.json", "model.safetensors", "run.yaml"}


def test_a_manifest_that_was_edited_by_hand_is_refused(folder: Path) -> None:
    finish(folder)
    edit_json(folder / "manifest.json", label_names=["yes", "no"])
    with pytest.raises(InputError, match="was changed after"):
        artifacts.read_manifest(folder)


def test_a_manifest_that_is_cut_short_is_refused(folder: Path) -> None:
    finish(folder)
    (folder / "manifest.json").write_text('{"command": "finet')
    with pytest.raises(InputError, match="cannot read"):
        artifacts.verify_folder(folder)


@pytest.mark.parametrize("text", ["Weights", "weights, more of them"], ids=["same size", "other size"])
def test_an_output_that_was_changed_is_noticed(text: str, folder: Path) -> None:
    finish(folder)
    (folder / "model.safetensors").write_text(text)
    with pytest.raises(InputError, match=r"model\.safetensors' is not what"):
        artifacts.verify_folder(folder)


def test_an_output_that_is_missing_is_noticed(folder: Path) -> None:
    finish(folder)
    (folder / "model.safetensors").unlink()
    with (
        pytest.raises(InputError, match=r"model\.safetensors' is missing"),
        open_output("finetune", stage(folder), INPUTS),
    ):
        pass


def test_force_repairs_a_folder_that_lost_a_file(folder: Path) -> None:
    finish(folder)
    (folder / "model.safetensors").unlink()
    with open_output("finetune", stage(folder), INPUTS, force=True) as output:
        assert not output.finished


def test_a_finished_folder_is_known_by_its_manifest_wherever_it_lies(folder: Path) -> None:
    finish(folder)
    copied = Path(shutil.copytree(folder, folder.with_name("copied")))
    there, here = artifacts.describe(folder), artifacts.describe(copied)
    assert there["manifest"] == here["manifest"] and there["path"] != here["path"]


def test_any_other_folder_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    before = artifacts.describe(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert artifacts.describe(tmp_path / "model") != before


def test_a_hub_model_is_known_by_its_id_and_revision() -> None:
    described = artifacts.describe_model(None, "org/name@v1", "v1")
    assert described == {"hub_id": "org/name", "revision": "v1"}


# -- who made the labels -------------------------------------------------------------------------------------

MADE_FROM = {
    "teacher": [{"path": "runs/teacher", "manifest": "t1"}],
    "data.train_file": [{"path": "train.jsonl", "sha256": "a1"}],
}


def check_origin(command: str = "gen-soft-labels", **wanted: Any) -> None:
    artifacts.check_origin(Path("labels"), {"command": command, "inputs": MADE_FROM}, wanted)


def test_labels_of_the_same_files_elsewhere_are_taken() -> None:
    check_origin(
        teacher=[{"path": "/data/teacher", "manifest": "t1"}], **{"data.train_file": MADE_FROM["data.train_file"]}
    )


def test_labels_from_other_data_are_refused() -> None:
    with pytest.raises(InputError, match=r"another data\.train_file"):
        check_origin(**OTHER_INPUTS)


def test_labels_of_another_teacher_are_refused() -> None:
    with pytest.raises(InputError, match="another teacher") as error:
        check_origin(teacher=[{"path": "runs/teacher", "manifest": "t2"}])
    assert "t1" in str(error.value) and "t2" in str(error.value)


def test_a_folder_that_is_no_label_dataset_is_refused() -> None:
    with pytest.raises(InputError, match="written by distill"):
        check_origin("distill")


# -- two processes, killed processes -------------------------------------------------------------------------


def test_a_second_process_is_refused_until_the_first_is_gone(folder: Path) -> None:
    with in_another_process(folder, "print('open', flush=True); sys.stdin.read()") as first:
        assert first.stdout is not None and first.stdout.readline() == "open\n"
        with pytest.raises(OutputError, match="another process"), open_output("finetune", stage(folder), INPUTS):
            pass
        first.kill()
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert not output.finished


def test_a_process_killed_while_it_writes_leaves_no_file_under_a_final_name(folder: Path) -> None:
    body = """
    def write(at):
        (at / "config.json").write_text("{}")
        (at / "model.safetensors").write_text("weig")
        os._exit(9)
    output.seal("step-00000005", lambda at: (at / "state.bin").write_text("state"))
    output.put(write)
    """
    with in_another_process(folder, body):
        pass
    assert {path.name for path in folder.iterdir()} == {"checkpoints"}
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.resumed and output.latest_state() is not None


def test_a_process_killed_while_it_saves_keeps_the_checkpoint_before(folder: Path) -> None:
    body = """
    def write(at):
        (at / "state.bin").write_text("sta")
        os._exit(9)
    output.seal("step-00000005", lambda at: (at / "state.bin").write_text("state"))
    output.seal("step-00000009", write, drop=["step-00000005"])
    """
    with in_another_process(folder, body):
        pass
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.latest_state() == folder / "checkpoints" / "step-00000005"


def test_a_process_killed_before_any_progress_may_be_followed_by_other_settings(folder: Path) -> None:
    with in_another_process(folder, "os._exit(9)"):
        pass
    with open_output("finetune", stage(folder, seed=7), INPUTS) as output:
        assert not output.resumed


def test_a_process_killed_while_it_opens_the_folder_does_not_block_it(folder: Path) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / ".started.json.partial").write_text("{")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert not output.finished


# -- failures ------------------------------------------------------------------------------------------------


def test_a_run_that_fails_before_any_progress_leaves_nothing(folder: Path) -> None:
    with pytest.raises(InputError), open_output("finetune", stage(folder), INPUTS) as output:
        for _ in output.record([{"event": "plan"}]):
            raise InputError("no such column")
    assert not folder.exists()


def test_a_run_that_fails_before_any_progress_keeps_the_notes(folder: Path) -> None:
    finish(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError), open_output("finetune", stage(folder), INPUTS, force=True):
        raise InputError("no such column")
    assert set(files(folder)) == {"notes.txt"}


def test_an_export_that_was_sealed_but_not_accepted_is_no_progress(folder: Path) -> None:
    with pytest.raises(UserError), open_output("export", stage(folder), INPUTS) as output:
        output.seal("export", writing("model.onnx"))
        raise UserError("not what the model was")
    assert not folder.exists()


def test_what_trackers_wrote_goes_with_the_run(folder: Path) -> None:
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
    with open_output("finetune", stage(folder, seed=7), INPUTS, force=True):
        assert not output.trackers.exists()


def test_a_run_that_fails_after_a_checkpoint_keeps_it(folder: Path) -> None:
    with pytest.raises(UserError), open_output("finetune", stage(folder), INPUTS) as output:
        output.seal("step-00000005", writing("state.bin"))
        raise UserError("the loss is not finite")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.resumed


def test_a_failure_after_the_manifest_takes_nothing_back(folder: Path) -> None:
    with pytest.raises(Interrupted), open_output("finetune", stage(folder), INPUTS) as output:
        output.put(writing("model.safetensors"))
        output.finish({"rows": 3})
        raise Interrupted(signal.SIGINT, "interrupted")
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.finished


@full_disk
def test_a_full_disk_leaves_no_half_written_output(error: Exception, folder: Path) -> None:
    def write(at: Path) -> None:
        (at / "config.json").write_text("{}")
        (at / "model.safetensors").write_text("weig")
        raise error

    with (
        pytest.raises(UserError, match="disk is full") as caught,
        open_output("finetune", stage(folder), INPUTS) as output,
    ):
        output.put(writing("train-0.parquet"))
        output.put(write)
    assert caught.value.exit_code == 1
    assert set(files(folder)) == {"train-0.parquet", "checkpoints/started.json"}


@full_disk
def test_a_full_disk_leaves_the_checkpoint_before(error: Exception, folder: Path) -> None:
    def write(at: Path) -> None:
        (at / "state.bin").write_text("sta")
        raise error

    with pytest.raises(UserError, match="disk is full"), open_output("finetune", stage(folder), INPUTS) as output:
        output.seal("step-00000005", writing("state.bin"))
        output.seal("step-00000009", write, drop=["step-00000005"])
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"started.json", "step-00000005"}


def test_a_disk_that_is_full_before_the_start_is_said_and_does_not_block_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.output, "write_json", full)
        with pytest.raises(UserError, match="disk is full"), open_output("finetune", stage(folder), INPUTS):
            pass
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert not output.resumed


def test_a_disk_that_is_full_at_the_manifest_leaves_a_run_to_go_on_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = write_json

    def full(path: Path, value: object) -> None:
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        really(path, value)

    monkeypatch.setattr(artifacts.output, "write_json", full)
    with pytest.raises(UserError, match="disk is full"):
        finish(folder)
    assert not (folder / "manifest.json").exists()
    with open_output("finetune", stage(folder), INPUTS) as output:
        assert output.resumed


def test_another_error_of_a_writer_keeps_its_own_name(folder: Path) -> None:
    def write(at: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), open_output("finetune", stage(folder), INPUTS) as output:
        output.put(write)


# -- checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture
def output(folder: Path) -> Iterator[Output]:
    with open_output("finetune", stage(folder), INPUTS) as opened:
        yield opened


def cut_short(checkpoint: Path) -> None:
    (checkpoint / "state.bin").write_text("weig")


def flip_a_byte(checkpoint: Path) -> None:
    (checkpoint / "state.bin").write_text("Weights")


def unseal(checkpoint: Path) -> None:
    (checkpoint / "seal.json").unlink()


@pytest.mark.parametrize("damage", [cut_short, flip_a_byte, unseal])
def test_a_damaged_checkpoint_is_passed_over(
    damage: Callable[[Path], None], output: Output, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = (output.seal(name, writing("state.bin")) for name in ("step-00000005", "step-00000009"))
    damage(newer)
    assert output.latest_state() == older
    assert "step-00000009 is damaged" in caplog.text


def test_the_newest_checkpoint_is_the_one_with_most_steps(output: Output) -> None:
    for step in (1_000_000, 999_999, 20):
        output.seal(f"step-{step:08}", writing("state.bin"))
    assert output.latest_state() == output.folder / "checkpoints" / "step-01000000"


def kept(output: Output) -> set[str]:
    return {path.name for path in (output.folder / "checkpoints").iterdir() if path.is_dir()}


def pass_on(output: Output, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    return list(output.save_checkpoints(rows, save_state=writing("state.bin"), save_model=writing("model.bin")))


def test_a_better_model_replaces_the_one_before_when_its_state_is_saved(output: Output) -> None:
    better = [{"event": "evaluate", "step": 5, "is_best": True}, {"event": "checkpoint", "step": 5}]
    pass_on(output, *better)
    pass_on(output, {"event": "evaluate", "step": 9, "is_best": True})
    assert kept(output) == {"best-00000005", "step-00000005", "best-00000009"}
    pass_on(output, {"event": "checkpoint", "step": 9})
    assert kept(output) == {"best-00000009", "step-00000009"}


def test_a_worse_model_is_not_kept(output: Output) -> None:
    pass_on(
        output, {"event": "evaluate", "step": 5, "is_best": True}, {"event": "evaluate", "step": 9, "is_best": False}
    )
    assert output.best_model() == output.folder / "checkpoints" / "best-00000005"


def test_every_row_of_the_loop_is_passed_on(output: Output) -> None:
    rows = [{"event": "train", "step": 1}, {"event": "checkpoint", "step": 1}]
    assert pass_on(output, *rows) == rows


# -- log -----------------------------------------------------------------------------------------------------


def logged(folder: Path) -> list[tuple[str, int]]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(row["event"], row.get("step", 0)) for row in rows]


def test_progress_is_for_the_screen_only(output: Output) -> None:
    rows = [{"event": "progress", "step": 1}, {"event": "train", "step": 1}]
    assert list(output.record(rows)) == rows
    assert logged(output.folder) == [("train", 1)]


def test_what_was_logged_after_the_checkpoint_is_forgotten(output: Output) -> None:
    steps = [{"event": "train", "step": step} for step in (2, 4, 6)]
    list(output.record([{"event": "plan"}, *steps]))
    list(output.record([{"event": "plan"}, {"event": "resume", "step": 4}, {"event": "train", "step": 6}]))
    assert logged(output.folder) == [
        ("plan", 0), ("train", 2), ("train", 4), ("plan", 0), ("resume", 4), ("train", 6),
    ]  # fmt: skip


# -- signals -------------------------------------------------------------------------------------------------

both_signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@both_signals
def test_a_signal_interrupts_at_once(number: int, output: Output) -> None:
    with pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number


@both_signals
def test_between_two_steps_a_signal_waits_to_be_asked_for(number: int, output: Output) -> None:
    with output.signals.deferred():
        os.kill(os.getpid(), number)
        assert output.signals.pending() == number


def test_a_second_signal_does_not_wait(output: Output) -> None:
    with output.signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_loop_that_keeps_checkpoints_is_not_torn_apart(output: Output) -> None:
    def loop() -> Iterator[dict[str, Any]]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield {"event": "checkpoint", "step": output.signals.pending()}

    rows = list(output.save_checkpoints(loop(), save_state=writing("state.bin"), save_model=None))
    assert rows == [{"event": "checkpoint", "step": signal.SIGTERM}]


def test_the_handlers_from_before_come_back(folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    finish(folder)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
