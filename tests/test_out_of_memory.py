"""A GPU without enough memory: steps and batches are computed in parts that fit, with the same results."""

from __future__ import annotations

import gc
import json
import logging
import math
import signal
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Configs, run
from torch import Tensor

from tinybert_cli import artifacts, console, event_lines, loops
from tinybert_cli.config import Training
from tinybert_cli.data import sorted_batches
from tinybert_cli.errors import Interrupted, UserError
from tinybert_cli.loops import out_of_memory
from tinybert_cli.loops.step_batches import smaller_batches
from tinybert_cli.types import Batch, Encoded, Hypothesis, Search

from test_loops import (  # isort: skip
    CROSS_ENTROPY, ROWS, Net, SequentialBatches, cross_entropy, equal, events, make_examples, make_trainer, step_loss,
    stop_at, train, weights,
)  # fmt: skip

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB."
SETTINGS: dict[str, Any] = {"num_train_epochs": 2.0, "per_device_train_batch_size": 8, "logging_steps": 1}


def limited(rows: int, *, calls: list[int] | None = None, after: int = 0) -> loops.StepLoss:
    """Cross-entropy on a GPU that has memory for a number of rows, from the forward pass number `after` on."""
    seen: list[int] = [] if calls is None else calls

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        seen.append(len(batch["attention_mask"]))
        value = cross_entropy(model, batch)
        if len(seen) > after and seen[-1] > rows:
            raise torch.OutOfMemoryError(MESSAGE)
        return value

    return step_loss(loss)


def trainer_of(*, size: int = 8, **settings: Any) -> loops.Trainer:
    return make_trainer(batches=SequentialBatches(size), **{**SETTINGS, **settings})


def assert_close(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-5)


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_without_enough_memory_ends_with_the_weights_of_whole_batches(accumulation: int) -> None:
    whole, parts = (trainer_of(gradient_accumulation_steps=accumulation) for _ in range(2))
    rows, calls = train(whole), list[int]()
    limited_rows = train(parts, limited(3, calls=calls))
    assert max(calls[3:]) <= 2 and parts.progress.micro_batches == 4  # 8 and 4 failed
    assert_close(weights(whole), weights(parts))
    assert parts.progress.step == whole.progress.step and parts.progress.rows == whole.progress.rows
    losses = [[row["loss"] for row in events(one, "train")] for one in (rows, limited_rows)]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)


def test_the_step_is_repeated_without_the_gradients_of_its_first_part() -> None:
    """The first of two batches fits, the second does not: its gradient is added once."""
    whole, parts = (trainer_of(gradient_accumulation_steps=2, max_steps=1) for _ in range(2))
    calls: list[int] = []
    train(whole)
    train(parts, limited(4, calls=calls, after=1))
    assert calls == [8, 8, 4, 4, 4, 4]
    assert_close(weights(whole), weights(parts))


def test_a_failure_in_the_backward_pass_repeats_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = trainer_of(), trainer_of()
    train(whole)
    backward, fails = parts.accelerator.backward, iter([False, True])

    def failing(loss: Tensor, **options: Any) -> None:
        backward(loss, **options)
        if next(fails, False):
            raise torch.OutOfMemoryError(MESSAGE)

    monkeypatch.setattr(parts.accelerator, "backward", failing)
    rows = train(parts)
    assert [row["step"] for row in events(rows, "out of memory")] == [2]
    assert_close(weights(whole), weights(parts))


@pytest.mark.parametrize("workers", [0, 1])
def test_later_steps_of_the_epoch_have_the_same_rows(workers: int) -> None:
    whole, parts = (make_trainer(**SETTINGS, dataloader_num_workers=workers) for _ in range(2))
    train(whole)
    rows = train(parts, limited(4, after=3))  # in the middle of the first epoch, in shuffled batches
    assert [row["step"] for row in events(rows, "out of memory")] == [4]
    assert_close(weights(whole), weights(parts))


def test_message_names_step_sizes_and_settings() -> None:
    trainer = trainer_of(gradient_accumulation_steps=2)
    first, second = events(train(trainer, limited(2, after=3)), "out of memory")
    assert first == {
        "event": "out of memory", "step": 2, "rows_before": 8, "rows": 4, "micro_batches": 2,
        "settings": "training.per_device_train_batch_size=4 training.gradient_accumulation_steps=4",
    }  # fmt: skip
    assert (second["rows_before"], second["rows"], second["micro_batches"]) == (4, 2, 4)
    line = event_lines.LINES["out of memory"](first)
    assert line is not None and line.startswith("out of memory at step 2: ")
    assert "4 instead of 8 rows" in line and first["settings"] in line


@pytest.mark.parametrize(
    ("settings", "count", "expected"),
    [
        ({"per_device_train_batch_size": 32}, 4, (8, 4)),
        ({"per_device_train_batch_size": 32, "gradient_accumulation_steps": 2}, 2, (16, 4)),
        ({"per_device_train_batch_size": 6}, 4, (2, 3)),  # micro-batches of 2, 2 and 2 rows
        ({"per_device_train_batch_size": 3}, 8, (1, 3)),
    ],
)
def test_settings_make_batches_of_the_size_of_micro_batches(
    settings: dict[str, int], count: int, expected: tuple[int, int]
) -> None:
    rows, accumulated = expected
    assert smaller_batches(Training(**settings), count) == (
        f"training.per_device_train_batch_size={rows} training.gradient_accumulation_steps={accumulated}"
    )


def test_settings_of_batches_with_tokens_are_tokens() -> None:
    training = Training(per_device_train_batch_tokens=4096, gradient_accumulation_steps=3)
    assert smaller_batches(training, 2) == (
        "training.per_device_train_batch_tokens=2048 training.gradient_accumulation_steps=6"
    )
    least = smaller_batches(Training(per_device_train_batch_tokens=20), 4)
    assert Training(per_device_train_batch_tokens=int(least.split()[0].partition("=")[2]))  # a valid setting


def test_memory_for_no_row_is_the_normal_error() -> None:
    trainer, calls = trainer_of(), list[int]()
    rows: list[dict[str, Any]] = []
    with pytest.raises(torch.OutOfMemoryError):
        for row in trainer.train(limited(0, calls=calls), None, better=1.0, stop=lambda: 0):
            rows.append(row)
    assert calls == [8, 4, 2, 1] and [row["rows"] for row in rows] == [4, 2, 1]
    assert trainer.progress.step == 0


def test_memory_of_the_cpu_is_not_waited_for() -> None:
    trainer, calls = trainer_of(), list[int]()

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        calls.append(1)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        train(trainer, step_loss(loss))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("MPS backend out of memory (MPS allocated: 9.00 GB)", True),
        ("CUDA error: device-side assert triggered", False),
    ],
)
def test_other_errors_of_a_gpu_without_memory_count(message: str, expected: bool) -> None:
    error = RuntimeError(message)
    assert out_of_memory.is_out_of_gpu_memory(error, torch.device("cuda")) == expected
    assert not out_of_memory.is_out_of_gpu_memory(error, torch.device("cpu"))


def test_failed_step_leaves_nothing_in_memory() -> None:
    """Neither gradients nor outputs: else the repeated step would have less memory than the first."""
    trainer, failed, repeated = trainer_of(gradient_accumulation_steps=2, max_steps=1), [], list[bool]()

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        value = cross_entropy(model, batch)
        if len(batch["attention_mask"]) == 8 and all(parameter.grad is not None for parameter in model.parameters()):
            failed.append(weakref.ref(value))
            raise torch.OutOfMemoryError(MESSAGE)
        if failed and not repeated:
            repeated.append(all(parameter.grad is None for parameter in model.parameters()))
            assert failed[0]() is None
        return value

    gc.disable()  # the garbage is collected by the trainer
    try:
        train(trainer, step_loss(loss))
    finally:
        gc.enable()
    assert len(failed) == 1 and repeated == [True]


def test_memory_that_the_optimizer_lacks_is_not_blamed_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of()

    def failing() -> None:
        raise torch.OutOfMemoryError(MESSAGE)

    monkeypatch.setattr(trainer.optimizer, "step", failing)
    with pytest.raises(UserError, match=r"step 1: out of memory in the optimizer") as raised:
        train(trainer)
    assert "smaller batches do not help" in str(raised.value.hint)
    assert trainer.progress.micro_batches == 1


def test_several_processes_end_with_the_settings_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of()
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 2)
    monkeypatch.setattr(trainer.accelerator, "reduce", lambda values, _: values)
    with pytest.raises(UserError, match="step 1: out of memory: CUDA out of memory") as caught:
        train(trainer, limited(4))
    assert "training.per_device_train_batch_size=4 training.gradient_accumulation_steps=2" in (caught.value.hint or "")


# -- resuming ------------------------------------------------------------------------------------------------


def test_resumed_training_goes_on_with_the_size_that_fitted(tmp_path: Path) -> None:
    whole = make_trainer(**SETTINGS)
    train(whole, limited(4, after=2))
    stopped = make_trainer(**SETTINGS)
    with pytest.raises(Interrupted):
        train(stopped, limited(4, after=2), stop=stop_at(stopped, 4))
    stopped.save(tmp_path)
    resumed, calls = make_trainer(**SETTINGS), list[int]()
    resumed.load(tmp_path)
    rows = train(resumed, limited(4, calls=calls))
    assert max(calls) == 4 and not events(rows, "out of memory")
    assert equal(weights(resumed), weights(whole))


def test_checkpoint_of_an_earlier_version_has_whole_batches(tmp_path: Path) -> None:
    trainer = trainer_of()
    train(trainer)
    trainer.save(tmp_path)
    file = tmp_path / "progress.json"
    state = json.loads(file.read_text())
    del state["micro_batches"]
    file.write_text(json.dumps(state))
    assert loops.read_progress(tmp_path).micro_batches == 1


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every training batch; there is memory for 4."""
    seen: list[int] = []
    forward = loops.forward

    def watched(model: torch.nn.Module, batch: Batch) -> Any:
        outputs = forward(model, batch)
        if model.training:
            seen.append(len(batch["attention_mask"]))
            if seen[-1] > 4:
                raise torch.OutOfMemoryError(MESSAGE)
        return outputs

    monkeypatch.setattr(loops, "forward", watched)
    return seen


def test_finetune_records_the_size_and_resumes_with_it(
    base_model: Path, configs: Configs, small_gpu: list[int], tmp_path: Path
) -> None:
    from tinybert_cli.stages import finetune

    short = {"training__max_steps": 6, "training__eval_strategy": "no", "training__save_steps": 2}

    def config(output: str) -> Any:
        return configs("finetune", output, model=base_model, regularization__dropout=0.0, **short)

    stage = finetune.run(config("out"))
    next(row for row in stage if row["event"] == "progress" and row["step"] == 3)
    with pytest.raises(Interrupted):
        stage.throw(Interrupted(signal.SIGTERM, "interrupted"))  # type: ignore[attr-defined]
    assert small_gpu == [8, *[4] * 6]
    small_gpu.clear()
    rows = run("finetune", config("out"))
    assert small_gpu == [4] * 8 and [row["step"] for row in events(rows, "resume")] == [2]
    assert artifacts.read_manifest(tmp_path / "out")["micro_batches"] == 2
    (logged,) = artifacts.read_rows(tmp_path / "out", "out of memory")
    assert (logged["step"], logged["rows_before"], logged["rows"]) == (1, 8, 4)


# -- inference -----------------------------------------------------------------------------------------------


class SmallGpu(Net):
    """The minimal classifier on a GPU that has memory for a number of tokens."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.calls: list[tuple[int, int]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        self.calls.append((input_ids.shape[0], input_ids.shape[1]))
        if input_ids.numel() > self.tokens:
            raise torch.OutOfMemoryError(MESSAGE)
        return super().forward(input_ids, attention_mask)


def nets(tokens: int) -> tuple[Net, SmallGpu]:
    torch.manual_seed(5)
    whole, small = Net(), SmallGpu(tokens)
    small.load_state_dict(whole.state_dict())
    return whole, small


@pytest.mark.parametrize("tokens", [8, 40, 100])
def test_predictions_in_parts_are_those_of_whole_batches(tokens: int) -> None:
    examples = make_examples()
    batches = sorted_batches(examples.lengths, 20)
    whole, small = nets(tokens)
    expected = loops.predict_all(whole, examples, batches)
    np.testing.assert_allclose(loops.predict_all(small, examples, batches), expected, atol=1e-6)
    losses = [loops.mean_loss(net, CROSS_ENTROPY, examples, batches)["loss"] for net in (whole, small)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


def test_parts_cover_the_rows_in_their_order() -> None:
    examples, (_, small) = make_examples(), nets(30)
    batches = sorted_batches(examples.lengths, 20)
    rows = [row for part, _ in loops.predict(small, examples, batches) for row in part]
    assert rows == [row for batch in batches for row in batch] and len(rows) == ROWS


def test_limit_holds_for_later_batches_and_calls(caplog: pytest.LogCaptureFixture) -> None:
    examples, (_, small) = make_examples(), nets(64)
    batches = sorted_batches(examples.lengths, 20)
    with caplog.at_level(logging.WARNING, "tinybert"):
        loops.predict_all(small, examples, batches)
        failed = [call for call in small.calls if math.prod(call) > 64]
        small.calls.clear()
        loops.predict_all(small, examples, batches)
    assert failed == [(20, 8), (10, 8)]
    assert small.calls and all(math.prod(call) <= 64 for call in small.calls)
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "out of memory for a batch of 20 rows with 160 tokens", "out of memory for a batch of 10 rows with 80 tokens",
    ]  # fmt: skip
    assert "batches of more than 40 tokens" in caplog.messages[1] and "per_device_eval_batch_size" in caplog.text


def test_short_rows_stay_in_whole_batches_within_the_limit() -> None:
    examples, (_, small) = make_examples(), nets(60)
    loops.predict_all(small, examples, sorted_batches(examples.lengths, 8))
    assert small.calls[:3] == [(8, 8), (4, 8), (4, 8)]  # 64 tokens fail, so that 32 are the limit
    assert small.calls[-1][0] == 8 and math.prod(small.calls[-1]) <= 32


def test_parts_of_one_process_are_gathered_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two processes: an exchange for each of its batches, whatever the number of parts."""
    exchanged: list[list[Any]] = []
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: exchanged.append(own) or own)
    accelerator: Any = SimpleNamespace(process_index=0, num_processes=2)
    examples, (_, small) = make_examples(), nets(40)
    batches = sorted_batches(examples.lengths, 8)  # five, of which the others compute two
    results = list(loops.predict(small, examples, batches, accelerator=accelerator))
    assert [[len(rows) for rows, _ in own] for own in exchanged] == [[4, 4], [4, 4], [8]]
    assert [row for rows, _ in results for row in rows] == [row for batch in batches[::2] for row in batch]


def test_memory_for_no_single_row_is_the_normal_error() -> None:
    examples, (_, small) = make_examples(), nets(2)
    with pytest.raises(torch.OutOfMemoryError):
        loops.predict_all(small, examples, sorted_batches(examples.lengths, 20))


def test_other_errors_of_inference_are_raised_at_once() -> None:
    examples, net = make_examples(), Net()
    calls: list[int] = []

    def fail(*_: object, **__: object) -> None:
        calls.append(1)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    net.forward = fail  # type: ignore[assignment, method-assign]
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        loops.predict_all(net, examples, sorted_batches(examples.lengths, 20))
    assert len(calls) == 1


class SmallTranslator:
    """Repeats its sources; there is memory for a number of tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def translate(self, sources: Any, search: Search) -> list[list[Hypothesis]]:
        if len(sources) * max(map(len, sources)) > self.tokens:
            raise torch.OutOfMemoryError(MESSAGE)
        return [[Hypothesis(tuple(source), -1.0, True)] for source in sources]


def test_translations_in_parts_are_those_of_whole_batches() -> None:
    examples = make_examples()
    encoded = Encoded(examples.tokens, examples.offsets, truncated=0, empty=[])
    whole, parts = (loops.translate_all(SmallTranslator(tokens), encoded, Search(beams=1)) for tokens in (10_000, 20))
    assert parts == whole and len(parts) == ROWS


def test_warning_is_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    examples, (_, small) = make_examples(), nets(64)
    screen = console.Screen("eval", as_json=False, quiet=False, verbose=False)
    with screen.silenced(tmp_path):
        loops.predict_all(small, examples, sorted_batches(examples.lengths, 20))
    assert "warning: out of memory for a batch of 20 rows" in " ".join(capsys.readouterr().err.split())
