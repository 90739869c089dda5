"""Limits: sizes that an input claims are checked before memory is allocated for them."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import os
import re
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
import transformers
from conftest import make_config, run, write_base_model, write_rows, write_sentences

from tinybert_cli import cli, configuration, loops, metrics, models, tasks
from tinybert_cli.config import Data
from tinybert_cli.configuration import yaml_reader
from tinybert_cli.errors import ConfigError, ConfigErrors, InputError, UserError, explained
from tinybert_cli.escaping import ESCAPED, as_json
from tinybert_cli.metrics import bootstrap
from tinybert_cli.metrics.calibration import brier
from tinybert_cli.stages import eval_scores, teacher_check
from tinybert_cli.types import Predictions, Rows

locate = importlib.import_module("tinybert_cli.models.locate")  # the package has a function of this name

MANY = 50_000  # classes


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Fails if the block allocates more memory than this."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert peak < megabytes, f"{peak:.0f} MB"


def _header(entries: dict[str, object]) -> bytes:
    """The begin of a safetensors file."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


# -- many classes --------------------------------------------------------------------------------------------


def test_brier_score_of_many_classes_needs_one_row_per_decision() -> None:
    probabilities = np.full((3, MANY), 1 / MANY)
    with at_most(20):
        scores = brier(probabilities, np.array([0, 7, MANY - 1]))
    assert scores == pytest.approx([1 - 1 / MANY] * 3)


def test_intervals_with_many_classes_need_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MOST_COUNTS", 2**20)
    names = [f"class {index}" for index in range(2_000)]
    rows = Rows({"text": ["a"] * 4, "label": names[:4]}, (("rows", 4),))
    task, logits = tasks.find_prediction_task("text-classification"), np.eye(4, 2_000, dtype=np.float32)
    metric = task.metric(rows, Data(), names)
    assert metric is not None
    predictions = task.predictions(logits, None, names, rows, Data())
    statistics = metric.statistics(predictions)
    with at_most(60):  # 600 resamples of a number per class are 10 MB, and there are a dozen such numbers
        intervals = metrics.intervals(metric, predictions, statistics, ["accuracy"], resamples=600, seed=0)
    assert intervals.keys() == {"accuracy"}


def test_metrics_of_single_classes_are_left_out_by_name() -> None:
    numbers = {"m.accuracy": 1.0, "m.recall[a[b]]_low": 0.5, "m.f1[PER]": 0.5, "m.accuracy[length=low]": 1.0}
    selected = eval_scores.without_many_classes(numbers, ["a[b]", "B-PER"], most=1)
    assert selected == {"m.accuracy": 1.0, "m.accuracy[length=low]": 1.0}


def test_weak_teacher_of_many_classes_is_rejected_without_reordering() -> None:
    names = [f"class {index}" for index in range(MANY)]
    rows = Rows({"text": ["a"] * 4, "label": names[:4]}, (("rows", 4),))
    task = tasks.find_prediction_task("text-classification")
    metric = task.metric(rows, Data(), names)
    assert metric is not None
    logits = np.roll(np.eye(4, MANY, dtype=np.float32), 9, axis=1)
    predictions: Predictions = task.predictions(logits, None, names, rows, Data())
    config = _labelling()
    with at_most(100), pytest.raises(teacher_check.InputError, match="does not beat the majority"):
        checked = teacher_check.CheckedRows("train", [0, 1, 2, 3], metric, has_names=True)
        teacher_check.check_teacher(config, task, predictions, checked, names)


def _labelling() -> teacher_check.GenSoftLabels:
    return teacher_check.GenSoftLabels(task="text-classification", data=Data(), output_dir="out", teacher="teacher")


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("eval", "bootstrap=1000000000"),
        ("eval", "latency.batch_sizes=[1000000000]"),
        ("eval", "latency.lengths=[1000000000]"),
        ("eval", "per_device_eval_batch_size=1000000000"),
        ("eval", "data.max_seq_length=1000000000000000000000"),
        ("finetune", "training.per_device_train_batch_size=1000000000"),
        ("finetune", "training.num_train_epochs=1e300"),
        ("finetune", f"training.max_steps=1{'0' * 400}"),
        ("finetune", "training.dataloader_num_workers=1000000000"),
        ("finetune", "model.num_hidden_layers=1000000"),
        ("finetune", "model.hidden_size=10000000"),
        ("gen-soft-labels", "augment.copies=1000000000"),
    ],
)
def test_sizes_that_no_machine_can_hold_are_config_errors(command: str, setting: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("task: text-classification\noutput_dir: out\ndata: {}\n")
    key = setting.partition("=")[0]
    with pytest.raises(ConfigErrors, match=rf"`{re.escape(key)}(\[0\])?`: expected .* (to|at most) \d+"):
        configuration.load(command, file, [setting])


def test_many_label_names_are_compared_once() -> None:
    names = [f"label {index}" for index in range(30_000)]  # each with each other: a minute
    with pytest.raises(ValueError, match="label 7 more than once"):
        Data(label_names=[*names, "label 7"])


# -- config files --------------------------------------------------------------------------------------------


def config_error(tmp_path: Path, text: str, *overrides: str) -> str:
    """The error of a config file with this text."""
    file = tmp_path / "config.yaml"
    file.write_text(f"task: regression\noutput_dir: out\nmodel: m\ndata: {{}}\n{text}")
    with pytest.raises(UserError) as caught:
        configuration.load("finetune", file, list(overrides))
    assert caught.value.exit_code in (2, 3)
    return str(caught.value)


def test_config_with_too_many_values_is_rejected_while_it_is_read(tmp_path: Path) -> None:
    assert "more than 20,000 values" in config_error(tmp_path, f"x: [{'[1,1],' * 100_000}]")
    assert "larger than 1 MB" in config_error(tmp_path, "# x\n" * 2**19)
    with pytest.raises(yaml_reader.ConfigProblem, match="more than 20,000 values"):
        yaml_reader.read_argument(f"x=[{'1,' * 30_000}]", 1, 2, [])


def test_thousands_of_problems_are_listed_up_to_a_hundred(tmp_path: Path) -> None:
    for text in (f"layer_mapping: [{'x,' * 2_000}]", "seed: 1\n" * 1_000, f'x: "{"${NO_SUCH_NAME}" * 9_000}"'):
        error = config_error(tmp_path, text)
        assert "there are more problems" in error and error.count("\n\nerror: ") <= 100


@pytest.mark.parametrize("value", ["9" * 100_000, f"0x{'f' * 100_000}", "x" * 500_000, "2024-01-01"])
def test_very_long_values_are_quoted_in_part(value: str, tmp_path: Path) -> None:
    error = config_error(tmp_path, f"seed: {value}\n")
    assert "`seed`: expected an integer from 0 to 4294967295, found " in error and len(error) < 1_000


def test_keys_and_extends_of_excessive_depth_are_rejected(tmp_path: Path) -> None:
    assert "a key of more than 50 parts" in config_error(tmp_path, "", f"{'.'.join('a' * 30_000)}=1")
    for number in range(200):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    assert "more than 50 files deep" in config_error(tmp_path, "extends: 0.yaml")


@pytest.mark.parametrize("kind", ["/dev/zero", "/proc/kmsg", "/proc/cpuinfo", "pipe", "socket", "folder"])
def test_extends_reads_regular_files_only(kind: str, tmp_path: Path) -> None:
    path = unreadable(kind, tmp_path)
    assert f"'{path}' is " in config_error(tmp_path, f"extends: {path}\n")
    with pytest.raises(InputError, match="is a"):
        configuration.load("finetune", path)


def unreadable(kind: str, folder: Path) -> Path:
    """A path that is no regular file."""
    path = Path(kind) if kind.startswith("/") else folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):  # its name may have 108 characters
            server.bind(kind)
    elif kind == "folder":
        path.mkdir()
    return path


def test_errors_with_thousands_of_names_are_cropped() -> None:
    error = InputError(f"unknown label; labels: {', '.join(map(str, range(200_000)))}", hint="fix it")
    assert len(str(error)) < 1_100 and str(error).endswith("…\n   = fix it")


# -- models --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_base_model(tmp_path / "model")


def edit(file: Path, **settings: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000, and no model has more than 10,000"),
        ({"num_hidden_layers": 9_000}, "it has 9,000 layers, the weights are"),
        ({"num_labels": 10**9}, "num_labels is 1000000000, and no model has more than 1,000,000"),
        ({"hidden_size": 10**7}, "it describes "),
        ({"intermediate_size": 10**9}, "it describes "),
        ({"vocab_size": 10**9}, "it describes "),
        ({"max_position_embeddings": 10**9}, "it describes "),
        ({"hidden_size": 10**30}, "hidden_size is 1000000000000000000000000000000, and no model"),
        ({"num_attention_heads": 0}, "no model can be built from config.json"),
        ({"hidden_size": 17}, "the config cannot be read|no model can be built"),
    ],
)
def test_config_is_compared_with_the_weights_first(settings: dict[str, object], message: str, folder: Path) -> None:
    edit(folder / "config.json", **settings)
    with at_most(50), pytest.raises(InputError, match=message):
        models.load(models.locate(str(folder)), "base")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        (10**18).to_bytes(8, "little") + b"{}",
        _header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        _header({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}) + bytes(8),
        _header({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        _header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
    ],
    ids=["empty", "length", "missing", "overlapping", "overflow", "negative"],
)
def test_malformed_safetensors_headers_are_rejected(header: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(header)
    with at_most(50), pytest.raises(InputError, match="damaged or incomplete"):
        models.load(models.locate(str(folder)), "base")


def test_weights_larger_than_the_free_memory_are_rejected(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 2**40)  # sparse: it needs no space on the disk
    with pytest.raises(InputError, match=r"the weights need 1.1e\+03 GB of memory"):
        models.load(models.locate(str(folder)), "base")


def test_pickled_weights_that_claim_a_larger_shape_are_rejected(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1).expand(10**12)}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="'a' claims a shape that the file does not hold"):
        models.load(models.locate(str(folder)), "base")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["/dev/zero", "pipe", "socket"])
def test_model_files_are_regular_files(name: str, kind: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(unreadable(kind, tmp_path))
    source = models.Source(folder=folder, hub_id=None, revision=None, name=str(folder))
    with pytest.raises(InputError, match="is a"):
        models.load_tokenizer(source) if name == "tokenizer.json" else models.load(source, "base")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_deeply_nested_json_of_a_model_is_rejected(name: str, folder: Path) -> None:
    (folder / name).write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(InputError, match="nested too deeply"):
        models.load_tokenizer(models.locate(str(folder)))


@pytest.mark.parametrize("pattern", ["(", "[", "(a|a)*$(", "\\"])
def test_tokenizer_with_a_broken_pattern_is_rejected(pattern: str, folder: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    edit(folder / "tokenizer.json", pre_tokenizer=split)
    with pytest.raises(InputError, match="cannot be read"):
        models.load_tokenizer(models.locate(str(folder)))


def test_tokenizer_with_a_catastrophic_pattern_is_an_input_error(folder: Path, tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    edit(folder / "tokenizer.json", pre_tokenizer=split, normalizer=None)
    data = write_sentences(tmp_path / "data")
    write_rows(data / "train.jsonl", [{"text": f"{'a' * 60}!", "label": label} for label in ("good", "bad")])
    config = make_config("finetune", data, tmp_path / "out", model=folder, training__max_steps=1)
    with pytest.raises(InputError, match=r"the tokenizer failed: .*retry-limit"):
        run("finetune", config)
    assert not (tmp_path / "out").exists()


def test_random_student_larger_than_the_memory_is_a_config_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinybert_cli.models.shapes.free_memory", lambda: 8 * 2**30)
    student = {"from": str(folder), "hidden_size": 2**16, "num_hidden_layers": 1_000, "initialize": "random"}
    config = make_config("finetune", write_sentences(tmp_path / "data"), tmp_path / "out", model=student)
    with pytest.raises(ConfigError, match=r"needs .* GB of memory, and 8.59 GB are free") as caught:
        run("finetune", config)
    assert caught.value.key == ("model", "hidden_size") and not (tmp_path / "out").exists()


# -- failures of libraries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: ... Error code 12"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation"),
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 99"),
        pa.ArrowMemoryError("malloc of size 99 failed"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_every_library_out_of_memory_is_one_error(error: Exception) -> None:
    user_error = explained(error)
    assert type(user_error) is UserError and user_error.exit_code == 1
    assert str(user_error).startswith("out of memory: ") and "halve the batch size" in str(user_error)


def test_bugs_are_not_explained_away() -> None:
    for error in (
        RuntimeError("size mismatch"),
        KeyError("memory"),
        ValueError("allocate"),
        FileNotFoundError(2, "no"),
    ):
        assert explained(error) is error


def test_out_of_memory_in_training_leaves_no_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinybert_cli.loops.forward", lambda *_: torch.empty(2**60))
    config = make_config("finetune", write_sentences(tmp_path / "data"), tmp_path / "out", model=folder)
    file = tmp_path / "config.yaml"
    file.write_text(configuration.dump(config))
    flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    code, output = cli.execute("finetune", file, [], **flags), capsys.readouterr().err
    assert code == 1 and "error: out of memory: " in output and "bug" not in output and "Traceback" not in output
    assert "per_device_train_batch_size" in output and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code"), [(errno.EROFS, 3), (errno.EACCES, 3), (errno.EIO, 1), (errno.ENOSPC, 1)])
def test_disks_that_cannot_be_used_are_no_bugs(number: int, code: int) -> None:
    error = explained(OSError(number, os.strerror(number), "/cache/x"))
    assert isinstance(error, UserError) and error.exit_code == code and "'/cache/x'" in str(error)


def test_a_hub_that_does_not_answer_is_given_up_on_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(locate, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(6) or [])  # no name server answers
    locate._hub_answers.cache_clear()
    begin = time.monotonic()
    with pytest.raises(InputError, match="is not in the cache, and the Hub cannot be reached") as caught:
        models.fetch(models.locate("org/name"))
    assert time.monotonic() - begin < 5 and "give the downloaded folder instead" in str(caught.value)
    locate._hub_answers.cache_clear()


# -- families ------------------------------------------------------------------------------------------------


def small_classifier(folder: Path, config: transformers.PreTrainedConfig) -> Path:
    """A random model of a family, with the tokenizer of the tests."""
    from transformers import AutoModelForSequenceClassification

    write_base_model(folder)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


SMALL = {
    "vocab_size": 31, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32,
    "max_position_embeddings": 66, "pad_token_id": 0,
}  # fmt: skip


def test_families_without_bf16_are_trained_in_float32(tmp_path: Path) -> None:
    folder = small_classifier(tmp_path / "fnet", transformers.FNetConfig(**SMALL))
    data = write_sentences(tmp_path / "data")
    settings = {"model": folder, "training__max_steps": 1, "training__keep": "last"}
    with pytest.raises(InputError, match="fnet models compute in float32 only") as caught:
        run("finetune", make_config("finetune", data, tmp_path / "out", training__mixed_precision="bf16", **settings))
    assert "mixed_precision: auto or no" in str(caught.value) and not (tmp_path / "out").exists()
    config = make_config("finetune", data, tmp_path / "out", training__mixed_precision="auto", **settings)
    assert next(row for row in run("finetune", config) if row["event"] == "plan")["precision"] == "no"


def test_family_that_needs_more_than_text_is_rejected_at_loading(tmp_path: Path) -> None:
    folder = small_classifier(tmp_path / "xmod", transformers.XmodConfig(**SMALL))
    with pytest.raises(InputError, match="xmod models cannot be run on text alone: Input language unknown"):
        models.load(models.locate(str(folder)), "sequence-classification")


def test_family_that_needs_more_token_types_is_rejected_at_loading(tmp_path: Path) -> None:
    folder = small_classifier(tmp_path / "tapas", transformers.TapasConfig(**SMALL))
    with pytest.raises(InputError, match="tapas models cannot be run on text alone"):
        models.load(models.locate(str(folder)), "sequence-classification")


def test_family_that_onnx_cannot_express_is_an_input_error(tmp_path: Path) -> None:
    folder = small_classifier(tmp_path / "fnet", transformers.FNetConfig(**SMALL, id2label={0: "bad", 1: "good"}))
    config = make_config("export", write_sentences(tmp_path / "data"), tmp_path / "out", model=folder)
    with pytest.raises(InputError, match=r"fnet models cannot be exported to ONNX: .*fft") as caught:
        run("export", config)
    assert "format: safetensors" in str(caught.value) and not (tmp_path / "out").exists()


def test_multiplications_of_sliced_embeddings_are_counted() -> None:
    config = transformers.DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"])
    model = transformers.DebertaV2ForSequenceClassification(config)
    ids = torch.ones((2, 8), dtype=torch.int64)
    assert loops.multiply_adds(model, [{"input_ids": ids, "attention_mask": ids}]) > 0
    assert all(parameter.requires_grad for parameter in model.parameters())


# -- terminals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_terminals_without_a_character_show_its_code(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=ESCAPED)
    print(as_json("中 😀 a"), file=stream, flush=True)
    written = stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert written == b'"\\u4e2d \\ud83d\\ude00 a"\n' and json.loads(written) == "中 😀 a"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_rejected_at_loading(value: float, folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][3, 2] = value
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"NaN or infinity in embeddings\.word_embeddings\.weight") as caught:
        models.load(models.locate(str(folder)), "base")
    assert caught.value.exit_code == 3
