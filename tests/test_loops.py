"""Training that is stopped and gone on with is the same training; prediction changes nothing and mixes up no rows."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from torch import Tensor
from torch.nn import functional as F

from tinybert_cli import loops
from tinybert_cli.config import Training
from tinybert_cli.data import BucketBatches, Examples, sorted_batches
from tinybert_cli.errors import ConfigError, InputError, Interrupted, UserError
from tinybert_cli.loops import Trainer, profiling, trainer
from tinybert_cli.types import Batch

ROWS, WORDS, WIDTH = 40, 20, 8
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 3.0, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "mixed_precision": "no",
}  # fmt: skip


class Net(torch.nn.Module):
    """Mean of the embeddings, layer norm, dropout, one linear layer: what a loop has to deal with, and no more."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(WORDS, WIDTH)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.dropout = torch.nn.Dropout(dropout)
        self.classifier = torch.nn.Linear(WIDTH, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = attention_mask[..., None].to(self.embeddings.weight.dtype)  # (B, T, 1)
        mean = (self.embeddings(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.classifier(self.dropout(self.norm(mean)))}


class InOrder:
    """Always the same batches: rows 0, 1, 2, ..."""

    def __init__(self, size: int, rows: int = ROWS) -> None:
        self.epoch = 0
        self.batches = [list(range(begin, min(begin + size, rows))) for begin in range(0, rows, size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def make_examples(rows: int = ROWS) -> Examples:
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 9, rows)
    ids = draw.integers(1, WORDS, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.array([int(ids[begin] < WORDS / 2) for begin in offsets[:-1]])
    return Examples({"input_ids": (ids.astype(np.int32), 0)}, offsets, {"labels": labels})


def make_trainer(
    dropout: float = 0.0, *, batches: Any = None, rows: int = ROWS, seed: int = 3, **settings: Any
) -> Trainer:
    torch.manual_seed(1)
    training = Training(**(SETTINGS | settings))
    examples = make_examples(rows)
    order = batches or BucketBatches(examples.lengths, training.per_device_train_batch_size, seed=seed)
    accelerator = loops.make_accelerator(training)
    return Trainer(Net(dropout), examples, order, training, accelerator=accelerator, seed=seed)


def cross_entropy(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"loss": F.cross_entropy(loops.forward(model, dict(batch))["logits"], batch["labels"])}


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def never() -> int:
    return 0


def train(
    trainer: Trainer,
    loss: loops.StepLoss = cross_entropy,
    *,
    evaluate: Callable[[], dict[str, float]] | None = None,
    better: float = 1.0,
    stop: Callable[[], int] = never,
) -> list[dict[str, Any]]:
    return list(trainer.train(loss, evaluate, better=better, stop=stop))


def events(rows: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["event"] == event]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def stop_at(trainer: Trainer, step: int) -> Callable[[], int]:
    return lambda: signal.SIGTERM if trainer.progress.step == step else 0


# -- going on from a checkpoint ------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2, 3])  # of 10 batches: 10, 5 or, the last one short, 4 steps an epoch
@pytest.mark.parametrize("step", [1, 4, 5, 7, 10])
def test_a_stopped_run_that_goes_on_ends_with_the_very_same_weights(
    step: int, accumulation: int, tmp_path: Path
) -> None:
    whole = make_trainer(0.5, gradient_accumulation_steps=accumulation)
    train(whole)
    stopped = make_trainer(0.5, gradient_accumulation_steps=accumulation)
    with pytest.raises(Interrupted):
        train(stopped, stop=stop_at(stopped, step))
    stopped.save(tmp_path)
    torch.manual_seed(999)
    resumed = make_trainer(0.5, gradient_accumulation_steps=accumulation)
    resumed.load(tmp_path)
    train(resumed)
    assert same(weights(resumed), weights(whole))
    assert resumed.progress.loss_sum == whole.progress.loss_sum and resumed.progress.rows == whole.progress.rows


def test_saving_on_the_way_changes_nothing(tmp_path: Path) -> None:
    plain = make_trainer(0.5)
    train(plain)
    saving = make_trainer(0.5)
    for row in saving.train(cross_entropy, None, better=1.0, stop=never):
        if row["event"] == "progress":
            saving.save(tmp_path)
    assert same(weights(saving), weights(plain))


def test_evaluating_on_the_way_changes_nothing() -> None:
    plain = make_trainer(0.5)
    train(plain)
    evaluating = make_trainer(0.5, eval_strategy="steps", eval_steps=3)
    examples = make_examples()

    def evaluate() -> dict[str, float]:
        loops.predict_all(evaluating.model, examples, sorted_batches(examples.lengths, 8))
        return {"objective": 0.0}

    train(evaluating, evaluate=evaluate)
    assert same(weights(evaluating), weights(plain))


def test_a_run_that_was_saved_at_its_end_has_nothing_left_to_do(tmp_path: Path) -> None:
    trainer = make_trainer()
    train(trainer)
    trainer.save(tmp_path)
    resumed = make_trainer()
    resumed.load(tmp_path)
    assert train(resumed) == [] and same(weights(resumed), weights(trainer))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_a_checkpoint(number: int) -> None:
    trainer = make_trainer()
    rows = []
    with pytest.raises(Interrupted, match="step 2 of 30") as caught:
        for row in trainer.train(cross_entropy, None, better=1.0, stop=lambda: number * (trainer.progress.step == 2)):
            rows.append(row)
    assert rows[-1] == {"event": "checkpoint", "step": 2} and caught.value.exit_code == 128 + number


def test_the_same_seed_trains_the_same_weights() -> None:
    found = []
    for seed in (3, 3, 4):
        trainer = make_trainer(0.5, seed=seed)
        train(trainer)
        found.append(weights(trainer))
    assert same(found[0], found[1]) and not same(found[0], found[2])


# -- one step ------------------------------------------------------------------------------------------------


def test_two_half_batches_add_up_to_one_whole_batch() -> None:
    whole = make_trainer(batches=InOrder(8), num_train_epochs=1.0)
    train(whole)
    halves = make_trainer(batches=InOrder(4), num_train_epochs=1.0, gradient_accumulation_steps=2)
    train(halves)
    assert halves.progress.step == whole.progress.step == 5 and halves.progress.batches == 10
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(halves)[name], value, rtol=0, atol=1e-5)


def test_a_short_last_group_of_batches_still_makes_a_step() -> None:
    trainer = make_trainer(gradient_accumulation_steps=4, num_train_epochs=2.0)
    train(trainer)
    assert trainer.max_steps == 6 and trainer.progress.batches == 20


def test_a_short_last_group_weighs_its_batches_like_a_group_of_its_own() -> None:
    whole = make_trainer(batches=InOrder(16, rows=20), rows=20, num_train_epochs=1.0)  # 16 rows, and 4
    train(whole)
    parts = make_trainer(batches=InOrder(4, rows=20), rows=20, num_train_epochs=1.0, gradient_accumulation_steps=4)
    train(parts)
    assert whole.progress.step == parts.progress.step == 2
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=0, atol=1e-5)


def test_max_steps_goes_before_epochs() -> None:
    trainer = make_trainer(max_steps=7)
    assert len(events(train(trainer), "progress")) == 7


def test_a_fraction_of_an_epoch_is_trained() -> None:
    trainer = make_trainer(num_train_epochs=0.5)
    train(trainer)
    assert trainer.progress.rows == ROWS / 2


def test_training_learns() -> None:
    trainer = make_trainer(num_train_epochs=20.0, learning_rate=5e-2, logging_steps=10)
    losses = [row["loss"] for row in events(train(trainer), "train")]
    assert losses[-1] < losses[0] / 2


def test_a_loss_that_is_not_finite_stops_before_any_weight_changes() -> None:
    trainer = make_trainer()
    seen: list[dict[str, Tensor]] = []

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen.append(weights(trainer))
        value = cross_entropy(model, batch)["loss"]
        return {"loss": value * float("nan") if len(seen) == 3 else value}

    with pytest.raises(UserError, match="the loss is not finite at step 3") as caught:
        train(trainer, loss)
    assert caught.value.exit_code == 1 and trainer.progress.step == 2
    assert same(weights(trainer), seen[2]) and not same(weights(trainer), seen[1])


def test_a_gradient_that_is_not_finite_stops_before_any_weight_changes() -> None:
    trainer = make_trainer(max_grad_norm=0.0)
    before = weights(trainer)

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        zero = (loops.forward(model, dict(batch))["logits"] * 0).sum()
        return {"loss": cross_entropy(model, batch)["loss"] + zero.sqrt()}  # whose slope at 0 is infinite

    with pytest.raises(UserError, match="the gradient is not finite at step 1"):
        train(trainer, loss)
    assert same(weights(trainer), before)


def test_a_loss_that_is_not_finite_is_found_in_every_half_batch() -> None:
    trainer = make_trainer(gradient_accumulation_steps=2)
    calls = []

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        calls.append(1)
        value = cross_entropy(model, batch)["loss"]
        return {"loss": value * float("nan") if len(calls) == 1 else value}

    with pytest.raises(UserError, match="not finite at step 1"):
        train(trainer, loss)


def test_gradients_are_clipped_to_the_norm() -> None:
    trainer = make_trainer(max_steps=1, max_grad_norm=0.01)
    norms: list[float] = []
    trainer.optimizer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: norms.append(
            float(torch.cat([p.grad.ravel() for g in optimizer.param_groups for p in g["params"]]).norm())
        )
    )
    train(trainer, lambda model, batch: {"loss": 1000 * cross_entropy(model, batch)["loss"]})
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_matrices_decay_and_biases_and_layer_norms_do_not() -> None:
    net = Net()
    decaying, others = trainer._groups(net, 0.1)
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0.0
    assert {id(p) for p in decaying["params"]} == {id(net.embeddings.weight), id(net.classifier.weight)}
    assert {id(p) for p in others["params"]} == {id(net.norm.weight), id(net.norm.bias), id(net.classifier.bias)}


# -- when ----------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    trainer = make_trainer(max_steps=4, warmup_ratio=0.5, learning_rate=1e-2, logging_steps=1)
    rates = [row["learning_rate"] for row in events(train(trainer), "train")]
    assert rates == pytest.approx([0.005, 0.01, 0.005, 0.0])


def test_a_constant_learning_rate_stays() -> None:
    trainer = make_trainer(max_steps=3, lr_scheduler_type="constant", learning_rate=1e-2, logging_steps=1)
    assert {row["learning_rate"] for row in events(train(trainer), "train")} == {1e-2}


def test_the_learning_rate_counts_steps_and_not_batches() -> None:
    trainer = make_trainer(warmup_ratio=0.0, gradient_accumulation_steps=2, num_train_epochs=1.0, logging_steps=1)
    rates = [row["learning_rate"] for row in events(train(trainer), "train")]
    assert rates == pytest.approx([0.008, 0.006, 0.004, 0.002, 0.0])


def test_trackers_are_told_what_the_log_says() -> None:
    told: list[tuple[int, dict[str, float]]] = []

    class Tracker(GeneralTracker):
        name = "told"
        requires_logging_directory = False
        tracker: Any = None

        def store_init_configuration(self, values: dict[str, Any]) -> None: ...
        def log(self, values: dict[str, float], step: int, **options: Any) -> None:
            told.append((step, values))

    trainer = make_trainer(num_train_epochs=1.0, logging_steps=5, eval_strategy="epoch")
    trainer.accelerator.trackers = [Tracker()]
    rows = [row for row in train(trainer, evaluate=scoring(0.5)) if row["event"] in ("train", "evaluate")]
    assert [step for step, _ in told] == [row["step"] for row in rows] == [5, 10, 10]
    assert told[0][1]["train/loss"] == rows[0]["loss"]
    assert told[-1][1]["evaluate/accuracy"] == rows[-1]["accuracy"]


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="'mlflow' is not installed"):
        make_trainer(report_to=["mlflow"])


def test_processes_that_prepare_batches_change_nothing() -> None:
    alone = make_trainer(0.5)
    train(alone)
    helped = make_trainer(0.5, dataloader_num_workers=1)
    train(helped)
    assert same(weights(alone), weights(helped))


def test_the_log_has_a_line_every_so_many_steps_and_at_the_end() -> None:
    rows = train(make_trainer(max_steps=7, logging_steps=3))
    assert [row["step"] for row in events(rows, "train")] == [3, 6, 7]


def test_a_line_of_the_log_is_the_mean_since_the_one_before() -> None:
    values = iter([1.0, 2.0, 6.0, 10.0])

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        value = cross_entropy(model, batch)["loss"]
        return {"loss": value - value.detach() + next(values), "part": torch.tensor(0.5)}

    rows = events(train(make_trainer(max_steps=4, logging_steps=2), loss), "train")
    assert [row["loss"] for row in rows] == [1.5, 8.0] and rows[0]["part"] == 0.5


def scoring(*objectives: float) -> Callable[[], dict[str, float]]:
    values = iter(objectives)

    def evaluate() -> dict[str, float]:
        value = next(values)
        return {"accuracy": value, "objective": value}

    return evaluate


def test_every_epoch_is_evaluated_and_saved() -> None:
    rows = train(make_trainer(), evaluate=scoring(0.5, 0.6, 0.7))
    assert [row["step"] for row in events(rows, "evaluate")] == [10, 20, 30]
    assert [row["step"] for row in events(rows, "checkpoint")] == [10, 20]  # after the last one the folder is finished


def test_evaluation_by_steps_also_comes_at_the_end() -> None:
    trainer = make_trainer(eval_strategy="steps", eval_steps=4, max_steps=10)
    assert [row["step"] for row in events(train(trainer, evaluate=scoring(1, 2, 3)), "evaluate")] == [4, 8, 10]


def test_save_steps_saves_without_an_evaluation() -> None:
    rows = train(make_trainer(save_steps=4, max_steps=10))
    assert [row["step"] for row in events(rows, "checkpoint")] == [4, 8]


@pytest.mark.parametrize(
    ("better", "best"), [(1.0, [True, True, False]), (-1.0, [True, False, True])], ids=["more", "less"]
)
def test_the_best_score_is_the_largest_or_the_smallest(better: float, best: list[bool]) -> None:
    rows = train(make_trainer(), evaluate=scoring(0.5, 0.7, 0.3), better=better)
    assert [row["is_best"] for row in events(rows, "evaluate")] == best


def test_an_equal_score_is_not_better() -> None:
    trainer = make_trainer()
    train(trainer, evaluate=scoring(0.5, 0.5, 0.5))
    assert trainer.progress.best_step == 10


def test_patience_ends_the_training() -> None:
    trainer = make_trainer(num_train_epochs=9.0, early_stopping_patience=2)
    rows = train(trainer, evaluate=scoring(0.5, 0.7, 0.6, 0.6, 0.9))
    assert len(events(rows, "evaluate")) == 4 and trainer.progress.best == 0.7


def test_patience_that_ran_out_before_a_checkpoint_stays_out(tmp_path: Path) -> None:
    trainer = make_trainer(num_train_epochs=9.0, early_stopping_patience=1)
    train(trainer, evaluate=scoring(0.5, 0.4))
    trainer.save(tmp_path)
    resumed = make_trainer(num_train_epochs=9.0, early_stopping_patience=1)
    resumed.load(tmp_path)
    assert train(resumed, evaluate=scoring(0.9)) == []


def test_dropout_is_on_again_after_an_evaluation() -> None:
    trainer = make_trainer()
    modes: list[bool] = []

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        modes.append(model.training)
        return cross_entropy(model, batch)

    def evaluate() -> dict[str, float]:
        trainer.model.eval()
        return {"objective": 0.0}

    train(trainer, loss, evaluate=evaluate)
    assert all(modes)


def test_the_summary_counts_every_row_once() -> None:
    trainer = make_trainer(num_train_epochs=2.0)
    train(trainer)
    summary = trainer.summary()
    assert summary["steps"] == 20 and trainer.progress.rows == 2 * ROWS
    assert summary["train_samples_per_second"] == pytest.approx(2 * ROWS / summary["train_runtime"])


def test_the_time_of_reading_batches_is_training_time_as_well() -> None:
    trainer = make_trainer(num_train_epochs=1.0)
    examples: Any = trainer.loader.dataset

    class Slow:
        def __len__(self) -> int:
            return len(examples)

        def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
            time.sleep(0.02)
            return dict(examples.__getitems__(indices))

    slow = Trainer(Net(), Slow(), InOrder(4), trainer.training, accelerator=trainer.accelerator, seed=3)  # type: ignore[arg-type]
    list(slow.train(cross_entropy, None, better=1.0, stop=lambda: 0))
    assert slow.summary()["train_runtime"] >= 0.02 * ROWS / 4


# -- prediction ----------------------------------------------------------------------------------------------


@pytest.fixture
def net() -> Net:
    torch.manual_seed(5)
    return Net(dropout=0.9)


def one_by_one(net: Net, examples: Examples) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return np.concatenate(
            [loops.forward(net.eval(), examples.__getitems__([i]))["logits"].numpy() for i in range(len(examples))]
        )


@pytest.mark.parametrize("size", [1, 7, 40])
def test_predictions_come_in_the_order_of_the_rows(size: int, net: Net) -> None:
    examples = make_examples()
    found = loops.predict_all(net, examples, sorted_batches(examples.lengths, size))
    np.testing.assert_allclose(found, one_by_one(net, examples), atol=1e-6)


def test_every_batch_comes_with_the_positions_of_its_rows(net: Net) -> None:
    examples = make_examples()
    batches = sorted_batches(examples.lengths, 16)
    assert [rows for rows, _ in loops.predict(net, examples, batches)] == batches


def test_prediction_switches_dropout_off(net: Net) -> None:
    examples = make_examples()
    order = sorted_batches(examples.lengths, 8)
    net.train()
    np.testing.assert_array_equal(
        loops.predict_all(net, examples, order), loops.predict_all(net.train(), examples, order)
    )


def test_prediction_builds_no_graph(net: Net) -> None:
    asked: list[bool] = []
    net.register_forward_hook(lambda *_: asked.append(torch.is_grad_enabled()))
    examples = make_examples()
    loops.predict_all(net, examples, sorted_batches(examples.lengths, 20))
    assert asked == [False, False] and torch.is_grad_enabled()


@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_mean_loss_counts_every_token_alike_however_the_rows_are_batched(size: int) -> None:
    def loss(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        said = model(batch["input_ids"], batch["attention_mask"])["logits"]  # of a row, so of each of its tokens
        mask = batch["attention_mask"].float()
        length = (mask.sum(1) * said[:, 0]).sum() / mask.sum()
        words = (batch["input_ids"] * mask).sum() / mask.sum()
        return {"loss": length + words, "words": words}

    examples, net = make_examples(), Net(dropout=0.5)
    logits = one_by_one(net, examples)[:, 0]
    found = loops.mean_loss(net.train(), loss, examples, sorted_batches(examples.lengths, size))
    words = examples.tokens["input_ids"][0].mean()
    assert found == pytest.approx({"loss": np.average(logits, weights=examples.lengths) + words, "words": words})


def test_a_model_in_bf16_answers_in_float32(net: Net) -> None:
    examples = make_examples()
    order = sorted_batches(examples.lengths, 8)
    full = loops.predict_all(net, examples, order)
    half = loops.predict_all(net.to(torch.bfloat16), examples, order)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.05)


def test_columns_that_are_no_model_inputs_are_not_passed_on(net: Net) -> None:
    batch = make_examples().__getitems__([0, 1])
    assert "labels" in batch and loops.forward(net, batch)["logits"].shape == (2, 2)


class Slow(Net):
    """Takes the time that it is told."""

    def __init__(self, ticks: list[float]) -> None:
        super().__init__()
        self.ticks = ticks

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        CLOCK[0] += self.ticks.pop(0)
        return super().forward(input_ids, attention_mask)


CLOCK = [0.0]


def test_the_latency_of_every_pass_is_taken_after_the_warm_up_of_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: CLOCK[0])
    monkeypatch.setattr(profiling, "TURNS", 2)
    examples = make_examples()
    batches = [examples.__getitems__([row]) for row in range(5)]
    long, short = [9.0] * 3, [0.0045] * 5  # by passes, and, of a fast model, by time
    slow = Slow([*long, 0.4, 0.2, 0.3, *long, 7.0, 0.1])
    fast = Slow([*short, 0.1, 0.2, 0.3, *short, 0.4, 0.5])
    found = loops.latencies({"teacher": slow, "student": fast}, {"teacher": batches, "student": batches})
    assert found["teacher"] == pytest.approx([400.0, 200.0, 300.0, 7000.0, 100.0])
    assert found["student"] == pytest.approx([100.0, 200.0, 300.0, 400.0, 500.0])
    assert not slow.ticks and not fast.ticks


def test_multiplications_are_counted_row_by_row() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.Linear(8, 2, bias=False))

    class Counted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(input_ids.float())}

    batches = [{"input_ids": torch.ones(1, 4)}, {"input_ids": torch.ones(3, 4)}]
    assert loops.multiply_adds(Counted(), batches) == 4 * 8 + 8 * 2


def test_a_model_that_cannot_answer_has_no_start_up_time(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        loops.cold_start(str(tmp_path / "nothing"), "text")


def test_bf16_is_taken_where_it_is_asked_for(net: Net) -> None:
    assert loops.to_bf16_if_faster(net, "bf16") == "bf16" and net.classifier.weight.dtype == torch.bfloat16


def test_full_precision_stays_where_it_is_asked_for(net: Net) -> None:
    assert loops.to_bf16_if_faster(net, "no") == "no" and net.classifier.weight.dtype == torch.float32


def test_fp16_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinybert_cli.loops.devices.device", lambda: torch.device("cpu"))
    with pytest.raises(ConfigError, match="needs a GPU") as caught:
        loops.precision("fp16")
    assert caught.value.key == ("training", "mixed_precision")


TOGETHER = """
from pathlib import Path
import torch
from tinybert_cli import loops
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
import transformers.modeling_utils
def of_the_group():
    return [task for task in Path("/proc/self/task").iterdir() if "gloo" in (task / "comm").read_text()]
assert of_the_group()
loops.end_process_group()
assert not of_the_group()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at its threads by name")
def test_a_group_of_processes_ends_with_all_its_threads() -> None:
    subprocess.run([sys.executable, "-c", TOGETHER], check=True, timeout=120)


IN_TRAINING = """
import resource, torch
from tinybert_cli.loops import keep_freed_memory
def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = new_pages()
keep_freed_memory()
new_pages()  # what it needs it takes once, in a few pieces
print(given_back / max(1, new_pages()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other rules")
def test_freed_memory_is_there_for_the_next_step() -> None:
    done = subprocess.run([sys.executable, "-c", IN_TRAINING], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 1000


def test_training_keeps_what_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: called.append(True))
    make_trainer()
    assert called
