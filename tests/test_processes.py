"""Several processes share the work of a run, end together, and name the one that ended first."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Configs, run, sentences, write_rows
from safetensors.numpy import load_file

from tinybert_cli import artifacts, console, processes
from tinybert_cli.config import Stage
from tinybert_cli.errors import ConfigError, InputError, OutputError, UserError
from tinybert_cli.events import Event
from tinybert_cli.stages import labelling

SMALL_RUN = {"training__max_steps": 100_000, "training__eval_strategy": "no", "training__save_steps": 5}
HOW_TO = (Path(__file__).parents[1] / "docs" / "how-to.md").read_text()
SCALE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text()
LAUNCHERS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PMI_SIZE",
    "PMI_RANK",
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "TORCHELASTIC_")) or name in LAUNCHERS]:
        monkeypatch.delenv(name)


def launch(command: str, config: Stage, tmp_path: Path) -> subprocess.Popen[str]:
    """Starts the documented command with this stage and config."""
    file = tmp_path / f"{Path(config.output_dir).name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
    documented = re.search(r"^torchrun (.*) tinybert_cli distill \S+$", HOW_TO, re.MULTILINE)
    assert documented is not None
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(documented[1]), "tinybert_cli", command]
    return subprocess.Popen([*words, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# -- processes that work together: real runs -----------------------------------------------------------


@pytest.mark.slow
def test_documented_command_trains_and_labels_as_one_process_does(
    teacher: Path, base_model: Path, configs: Configs, tmp_path: Path
) -> None:
    """33 rows in one step: one batch, or three of 11 rows, two in one process, one and a filler in the other."""
    settings = json.loads((base_model / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (base_model / "config.json").write_text(json.dumps(settings))

    def distill(labels: str, output: str, size: int, accumulated: int) -> Stage:
        return configs(
            "distill", output, label_dataset=tmp_path / labels, teacher=teacher,
            student={"from": str(base_model), "num_hidden_layers": 2},
            losses={"soft_labels": 1.0, "hard_labels": {"weight": 1.0, "class_weights": "balanced"},
                    "hidden_states": 1.0, "attentions": 1.0, "pooled": 1.0},
            data__max_train_samples=33, training__num_train_epochs=3.0, training__logging_steps=1,
            training__per_device_train_batch_size=size, training__gradient_accumulation_steps=accumulated,
            training__keep="last",
        )  # fmt: skip

    def labelled(output: str) -> Stage:
        return configs("gen-soft-labels", output, teacher=teacher)

    for command, config in (("gen-soft-labels", labelled("labels")), ("distill", distill("labels", "shared", 11, 2))):
        process = launch(command, config, tmp_path)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0 and stdout == f"{config.output_dir}\n", stderr
    run("gen-soft-labels", labelled("labels-alone"))
    run("distill", distill("labels", "alone", 33, 1))

    tables = [
        pq.read_table(*(tmp_path / name).glob("train-*.parquet")).to_pydict() for name in ("labels", "labels-alone")
    ]
    assert tables[0]["text"] == tables[1]["text"]
    np.testing.assert_allclose(tables[0]["teacher_logits"], tables[1]["teacher_logits"], atol=1e-5)
    logs = [list(artifacts.read_rows(tmp_path / name, "train")) for name in ("shared", "alone")]
    losses = [[[row[name] for name in ("loss", "hard_labels", "attentions", "pooled")] for row in log] for log in logs]
    assert len(logs[0]) == 3
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("shared", "alone")]
    for name, values in weights[1].items():
        np.testing.assert_allclose(weights[0][name], values, atol=2e-3, err_msg=name)
    scores = [
        {name: value for name, value in artifacts.read_metrics(tmp_path / folder).items() if name.startswith("tfidf.")}
        for folder in ("shared", "alone")
    ]
    assert scores[0] == scores[1] and scores[0]["tfidf.training_rows"] == 33


@pytest.mark.slow
def test_baseline_that_cannot_be_fitted_ends_all_processes(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, splits=["unlabeled"]))
    labels = tmp_path / "labels"
    config = configs("finetune", "out", model=str(teacher), label_dataset=labels, baselines=["majority"])
    process = launch("finetune", config, tmp_path)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode != 0 and stderr.count("error: no column 'label'") == 1, stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_each_process_writes_shards_with_the_bytes_of_one_process(
    streaming: bool, teacher: Path, data: Path, configs: Configs, tmp_path: Path
) -> None:
    """Three shards: one of each process, then one of the first; also if the rows are a stream."""
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    count = labelling.ROWS_PER_SHARD + 6
    write_rows(data / "train.jsonl", [rows[index % len(rows)] for index in range(count)])

    def labelled(output: str, *, streaming: bool = False) -> Stage:
        splits = ["train", "unlabeled"]
        return configs(
            "gen-soft-labels", output, teacher=teacher, splits=splits, states=["hidden_states"], student_layers=2,
            data__streaming=streaming,
        )  # fmt: skip

    process = launch("gen-soft-labels", labelled("shared", streaming=streaming), tmp_path)
    stdout, stderr = process.communicate(timeout=1200)
    assert process.returncode == 0 and stdout == f"{tmp_path / 'shared'}\n", stderr
    run("gen-soft-labels", labelled("alone"))
    outputs = [artifacts.read_manifest(tmp_path / name)["outputs"] for name in ("shared", "alone")]
    names = [{entry["path"] for entry in entries} for entries in outputs]
    assert names[0] == names[1] and not (tmp_path / "shared" / "checkpoints").exists()
    files = [name for name in names[0] if name.endswith((".parquet", ".npy"))]
    assert len([name for name in files if name.endswith(".parquet")]) == 3 and len(files) == 3 * 4
    for name in files:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


@pytest.mark.slow
def test_processes_share_the_rows_of_eval(teacher: Path, base_model: Path, configs: Configs, tmp_path: Path) -> None:
    def evaluated(output: str) -> Stage:
        return configs(
            "eval", output, models={"teacher": str(teacher), "again": str(teacher)}, reference="teacher", split="test",
            per_device_eval_batch_size=3, latency={"batch_sizes": [1], "lengths": ["data"]},
        )  # fmt: skip

    process = launch("eval", evaluated("shared"), tmp_path)
    stdout, stderr = process.communicate(timeout=1200)
    assert process.returncode == 0 and stdout.startswith("model ") and stdout.count("again ") == 1, (stdout, stderr)
    run("eval", evaluated("alone"))
    shared, alone = (artifacts.read_metrics(tmp_path / name) for name in ("shared", "alone"))
    assert shared.keys() == alone.keys() and "teacher.latency_ms_b1" in shared
    measured = ("latency", "speedup")
    for name in [name for name in alone if not any(word in name for word in measured)]:
        assert shared[name] == pytest.approx(alone[name], abs=1e-6), name
    tables = [pq.read_table(tmp_path / name / "predictions.parquet").to_pydict() for name in ("shared", "alone")]
    assert tables[0]["teacher_prediction"] == tables[1]["teacher_prediction"]


@pytest.mark.slow
def test_processes_train_a_student_whose_pooler_gets_no_gradient(
    teacher: Path, teacher_labels: Path, base_model: Path, configs: Configs, tmp_path: Path
) -> None:
    settings = json.loads((base_model / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (base_model / "config.json").write_text(json.dumps(settings))

    def distill(output: str, size: int) -> Stage:
        return configs(
            "distill", output, label_dataset=teacher_labels, teacher=teacher,
            student={"from": str(base_model), "num_hidden_layers": 2}, losses={"hidden_states": 1.0},
            data__max_train_samples=32, training__num_train_epochs=3.0, training__logging_steps=1,
            training__per_device_train_batch_size=size, training__keep="last", training__weight_decay=0.1,
        )  # fmt: skip

    process = launch("distill", distill("shared", 16), tmp_path)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 0 and stdout == f"{tmp_path / 'shared'}\n", stderr
    run("distill", distill("alone", 32))
    shared, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("shared", "alone"))
    pooler = [name for name in alone if "pooler" in name]
    assert pooler
    for name, values in alone.items():
        np.testing.assert_allclose(shared[name], values, atol=0 if name in pooler else 2e-3, rtol=0, err_msg=name)
    losses = [[row["loss"] for row in artifacts.read_rows(tmp_path / name, "train")] for name in ("shared", "alone")]
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)


def files_of_two_machines() -> tuple[str, list[Any]]:
    """The batch script of Slurm and the objects of Kubernetes in docs/scale.md."""
    script, objects = (
        re.search(r"```bash\n(.*?)```", SCALE, re.DOTALL),
        re.search(r"```yaml\n(.*?)```", SCALE, re.DOTALL),
    )
    assert script is not None and objects is not None
    return script[1], list(yaml.safe_load_all(objects[1]))


def test_files_of_two_machines_start_the_same_processes() -> None:
    script, (service, job) = files_of_two_machines()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    of_slurm, of_pod = (
        re.sub(r"SLURM_NODEID|JOB_COMPLETION_INDEX", "NODE", re.sub(r"(master_addr) \S+", r"\1 FIRST", command))
        for command in (re.findall(r"'(exec torchrun .*)'", script)[0], container["args"][0])
    )
    assert of_slurm == of_pod and "--nnodes 2 " in of_pod and "--nproc_per_node 8 " in of_pod
    assert "#SBATCH --nodes=2" in script and "#SBATCH --gpus-per-node=8" in script
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2 and job["kind"] == "Job"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert f"--master_addr {first} " in container["args"][0] and pod["subdomain"] == service["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.slow
def test_two_launchers_start_one_run_as_on_two_machines(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    """The documented command for two machines, with one process of each instead of 8."""
    config = configs(
        "distill", "out", label_dataset=teacher_labels, student=str(teacher), **SMALL_RUN | {"training__max_steps": 3}
    )
    (file := tmp_path / "distill.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    _, (_, job) = files_of_two_machines()
    command = job["spec"]["template"]["spec"]["containers"][0]["args"][0].replace("$JOB_COMPLETION_INDEX", "{node}")
    launchers = []
    for node in range(2):
        words = shlex.split(command.format(node=node))
        assert words[:2] == ["exec", "torchrun"] and words.count("8") == 1 and words[-1].endswith(".yaml")
        words[words.index("8")] = "1"
        words[words.index("--master_addr") + 1], words[words.index("--master_port") + 1] = "127.0.0.1", port
        command_of_node = [sys.executable, "-m", "torch.distributed.run", *words[2:-1], str(file)]
        launchers.append(subprocess.Popen(command_of_node, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    results = [launcher.communicate(timeout=1200) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], results
    assert [stdout for stdout, _ in results] == [f"{config.output_dir}\n", ""]
    assert artifacts.read_manifest(Path(config.output_dir))["processes"] == 2


@pytest.mark.slow
def test_killed_process_is_named_by_the_other_which_ends_with_code_1(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    config = configs("distill", "out", label_dataset=teacher_labels, student=str(teacher), **SMALL_RUN)
    process = launch("distill", config, tmp_path)
    states, end = tmp_path / "out" / "checkpoints", time.monotonic() + 300
    while not list(states.glob("step-*")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.05)
    os.kill(pid_of_rank(1, process), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=120)
    errors = re.findall(r"^error: .*", stderr, re.MULTILINE)
    assert errors == ["error: rank 0: the process of rank 1 has ended, one of 2 of this run"] and stdout == ""
    assert re.search(r"rank +: 0 .*\n +exitcode +: 1 ", stderr)
    assert list(states.glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["distill", "finetune"])
def test_sigterm_to_the_launcher_saves_on_all_ranks_and_the_same_command_resumes(
    command: str, data: Path, teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    settings = SMALL_RUN | {"training__max_steps": 40, "training__save_steps": 1000, "training__logging_steps": 1}

    def config(output: str) -> Stage:
        if command == "finetune":
            return configs("finetune", output, model=str(teacher), **settings)
        return configs("distill", output, label_dataset=teacher_labels, student=str(teacher), **settings)

    if command == "finetune":  # of so many rows that they are stored
        write_rows(data / "train.jsonl", sentences("train") * 2000)
    process = launch(command, config("out"), tmp_path)
    folder, end = tmp_path / "out", time.monotonic() + 300
    while not ((folder / "log.jsonl").exists() and '"train"' in (folder / "log.jsonl").read_text()):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.02)
    process.terminate()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0 and re.search(r"interrupted at step \d+ of 40; a checkpoint is saved", stderr), (
        stderr
    )
    (checkpoint,) = (folder / "checkpoints").glob("step-*")
    assert len(list(checkpoint.glob("random_states_*"))) == 2
    assert (folder / "checkpoints" / "rows").exists() == (command == "finetune")

    for output in ("out", "whole"):
        process = launch(command, config(output), tmp_path)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    steps = [row["step"] for row in artifacts.read_rows(folder, "train")]
    assert steps == list(range(1, 41))
    weights = [load_file(tmp_path / output / "model.safetensors") for output in ("out", "whole")]
    for name, values in weights[1].items():
        np.testing.assert_array_equal(weights[0][name], values, err_msg=name)


@pytest.mark.slow
def test_locked_folder_is_refused_in_every_process(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    config = configs("distill", "out", label_dataset=teacher_labels, student=str(teacher), **SMALL_RUN)
    with artifacts.open_output("distill", config, {}):
        _, stderr = launch("distill", config, tmp_path).communicate(timeout=300)
    assert re.findall(r"^error: .*", stderr, re.MULTILINE) == [
        f"error: another process is writing to '{config.output_dir}'"
    ]
    # -15, -6: the launcher stops the second process, or gloo aborts as it exits
    assert set(re.findall(r"exitcode +: (\S+)", stderr)) <= {"4", "-6", "-15"} and "exitcode  : 4 " in stderr


def pid_of_rank(rank: int, launcher: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for child in children:
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


# -- what the environment says -------------------------------------------------------------------------------

WORLD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("command", "variables", "message"),
    [
        ("export", WORLD, "export runs in one process, and 2 were started"),
        ("distill", {"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, .* RANK and MASTER_ADDR and MASTER_PORT is not set"),
        ("distill", {"PMI_SIZE": "8", "PMI_RANK": "0"}, "PMI_SIZE is 8, .* MASTER_ADDR and MASTER_PORT is not set"),
        ("distill", {"RANK": "1"}, "number 1 of a run"),
        ("distill", {**WORLD, "RANK": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        (
            "distill",
            {"LOCAL_RANK": "0", "RANK": "0"},
            "LOCAL_RANK is set, .* WORLD_SIZE and MASTER_ADDR and MASTER_PORT",
        ),
        ("distill", {"WORLD_SIZE": "two"}, "WORLD_SIZE is not a number: 'two'"),
        ("distill", {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}, "started only one process"),
    ],
)
def test_processes_that_cannot_share_the_work_are_refused(
    command: str, variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        processes.check(command)


ONE = {**WORLD, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


@pytest.mark.parametrize("variables", [WORLD, ONE, {}, {"RANK": "0", "WORLD_SIZE": "1"}, {"MASTER_PORT": "29500"}])
def test_processes_that_share_the_work_are_accepted(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    processes.check("distill")


def test_world_that_accelerate_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone:
        num_processes = 1

    for name, value in WORLD.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("accelerate.PartialState", lambda cpu: Alone())
    with pytest.raises(ConfigError, match="2 processes were started, but Accelerate sees 1"):
        processes.connect()


# -- what processes tell each other --------------------------------------------------------------------------


@pytest.mark.parametrize("others", [[], ["second"]])
def test_results_are_those_of_all_processes(others: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 1 + len(others))
    monkeypatch.setattr(processes, "_gather", lambda pair: [pair, *((value, None) for value in others)])
    assert processes.results("first") == ["first", *others]


def test_error_of_the_first_process_that_fails_is_raised_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [None, InputError("bad row 3"), InputError("bad row 9")]
    monkeypatch.setattr(processes, "count", lambda: 3)
    monkeypatch.setattr(processes, "_gather", lambda pair: [(None, error) for error in errors])
    with pytest.raises(InputError, match="bad row 3"):
        processes.results("finished")


def test_shards_of_a_group_are_checked_before_they_are_published(
    configs: Configs, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process is the second of two; the other one has an error, too, or none."""
    with artifacts.open_output("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher), {}) as output:
        monkeypatch.setattr(processes, "rank", lambda: 1)
        monkeypatch.setattr(processes, "count", lambda: 2)
        waits: list[int] = []

        def gather(pair: Any) -> list[Any]:
            waits.append(len(waits))
            return [((10, {"a.parquet": [1, "hash"]}), None), pair] if len(waits) == 1 else [pair, pair]

        monkeypatch.setattr(processes, "_gather", gather)

        def write(shard: str, folder: Path) -> Any:
            yield {"event": "progress"}
            (folder / shard).write_text("written by rank 1")
            return 20

        assert labelling.groups(["a.parquet", "b.parquet", "c.parquet"]) == [["a.parquet", "b.parquet"], ["c.parquet"]]
        steps = labelling.write_group(output, ["a.parquet", "b.parquet"], write, lambda counts: waits.extend(counts))
        events = []
        try:
            while True:
                events.append(next(steps))
        except StopIteration as stop:
            assert stop.value == [10, 20]
        assert events == [{"event": "progress"}] and waits[:3] == [0, 10, 20] and len(waits) == 5
        assert (
            output.files.path("b.parquet").read_text() == "written by rank 1"
            and not output.files.path("a.parquet").exists()
        )
        assert not list((output.folder / "checkpoints").glob(".partial*"))

        def failing_write(shard: str, folder: Path) -> Any:
            yield {"event": "progress"}
            raise InputError("the logits are NaN", where="train.jsonl:9")

        waits.clear()
        with pytest.raises(InputError, match="the logits are NaN"):
            list(labelling.write_group(output, ["c.parquet", "d.parquet"], failing_write))
        assert not output.files.path("c.parquet").exists()


# -- processes that end --------------------------------------------------------------------------------------


def failing(error: Exception) -> Iterator[Event]:
    yield {"event": "progress"}
    raise error


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """This process as rank 0 of a run."""
    monkeypatch.setattr(processes, "_peers", [(socket.gethostname(), os.getpid())])
    monkeypatch.setattr(processes, "_PATIENCE", 0.1)
    before = signal.getsignal(signal.SIGTERM)
    yield processes._peers
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_ended_process_is_named_by_its_rank(reaped: bool, peers: list[tuple[str, int]]) -> None:
    child = subprocess.Popen(["true"])
    if reaped:
        child.wait()
    time.sleep(0.2)
    peers.append((socket.gethostname(), child.pid))
    with pytest.raises(UserError, match="the process of rank 1 has ended") as caught:
        list(processes.naming_lost(failing(RuntimeError("Connection closed by peer"))))
    assert caught.value.exit_code == 1
    child.wait()


def test_error_is_not_changed_while_all_processes_live(peers: list[tuple[str, int]]) -> None:
    peers.append((socket.gethostname(), os.getppid()))
    with pytest.raises(RuntimeError, match="shapes"):
        list(processes.naming_lost(failing(RuntimeError("shapes do not match"))))


def test_process_that_ended_on_another_machine_is_reported(peers: list[tuple[str, int]]) -> None:
    peers.append(("another machine", 1))
    with pytest.raises(UserError, match="a process on another machine has ended"):
        list(processes.naming_lost(failing(RuntimeError("Connection closed by peer [10.0.0.2]:4000"))))


def test_processes_that_see_different_folders_are_refused(configs: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "agree", lambda state: state == (False, False, "out", []))  # not ["started.json"]
    with (
        pytest.raises(OutputError, match="do not see the same files"),
        artifacts.open_output("finetune", configs("finetune", "out", model="base"), {}),
    ):
        pass


def test_killed_dataloader_worker_is_one_line_of_a_user_error(
    base_model: Path, configs: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinybert_cli.data import Examples

    parent, get = os.getpid(), Examples.__getitems__

    def killed(examples: Examples, indices: Any) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return get(examples, indices)

    monkeypatch.setattr(Examples, "__getitems__", killed)
    with pytest.raises(UserError, match=r"reads batches .* has ended: pid") as caught:
        run("finetune", configs("finetune", "out", model=base_model, training__dataloader_num_workers=2))
    assert caught.value.exit_code == 1 and "\n" not in caught.value.what


# -- output --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "error", "stopped", "expected"),
    [
        ("0", InputError("no file"), False, "error: no file\n"),
        ("1", InputError("no file"), True, ""),
        ("1", InputError("no file"), False, "error: rank 1: no file\n"),
        ("1", OutputError("in use"), True, ""),
        ("1", UserError("the loss is not finite"), False, "error: rank 1: the loss is not finite\n"),
    ],
)
def test_errors_that_processes_have_in_common_are_printed_once(
    rank: str,
    error: UserError,
    stopped: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**WORLD, "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "is_stopped", lambda: stopped)
    console.Screen("distill", as_json=True, quiet=False, verbose=False).fail(error)
    captured = capsys.readouterr()
    assert captured.err == expected
    assert len(captured.out.splitlines()) == (rank == "0")


def test_stopped_process_ends_with_its_own_exit_code() -> None:
    code = "import sys; from tinybert_cli import processes; print(1, flush=True); sys.exit(4 * processes.is_stopped())"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    time.sleep(0.2)
    process.terminate()
    assert process.wait(timeout=30) == 4
