"""Resumed training equals uninterrupted training; inference changes no state and keeps the order of the rows."""

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
from tinybert_cli.config import ResolvedTraining
from tinybert_cli.data import BucketBatches, Examples, sorted_batches
from tinybert_cli.errors import ConfigError, InputError, Interrupted, UserError
from tinybert_cli.loops import Trainer, profiling, trainer
from tinybert_cli.types import Batch

ROWS, VOCAB_SIZE, HIDDEN_SIZE = 40, 20, 8
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 3.0, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "mixed_precision": "no",
}  # fmt: skip
TRAINING = ResolvedTraining(**SETTINGS)


class Net(torch.nn.Module):
    """A minimal classifier: mean of the embeddings, layer norm, dropout, one linear layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(VOCAB_SIZE, HIDDEN_SIZE)
        self.norm = torch.nn.LayerNorm(HIDDEN_SIZE)
        self.dropout = torch.nn.Dropout(dropout)
        self.classifier = torch.nn.Linear(HIDDEN_SIZE, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = attention_mask[..., None].to(self.embeddings.weight.dtype)  # (B, T, 1)
        mean = (self.embeddings(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": self.classifier(self.dropout(self.norm(mean)))}


class SequentialBatches:
    """The same batches in every epoch: rows 0, 1, 2, ..."""

    def __init__(self, size: int, rows: int = ROWS) -> None:
        self.epoch = 0
        self.batches = [list(range(begin, min(begin + size, rows))) for begin in range(0, rows, size)]

    def __len__(self) -> int:
        return len(self.batches)

    def count(self, epoch: int) -> int:
        return len(self)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def after(self, count: int) -> Iterator[list[int]]:
        return iter(self.batches[count:])


def make_examples(rows: int = ROWS) -> Examples:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, rows)
    ids = rng.integers(1, VOCAB_SIZE, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.array([int(ids[begin] < VOCAB_SIZE / 2) for begin in offsets[:-1]])
    return Examples({"input_ids": (ids.astype(np.int32), 0)}, offsets, {"labels": labels})


def make_trainer(
    dropout: float = 0.0, *, batches: Any = None, rows: int = ROWS, seed: int = 3, **settings: Any
) -> Trainer:
    torch.manual_seed(1)
    training = ResolvedTraining(**(SETTINGS | settings))
    examples = make_examples(rows)
    order = batches or BucketBatches(examples.lengths, training.per_device_train_batch_size, seed=seed)
    accelerator = loops.make_accelerator(training)
    return Trainer(Net(dropout), examples, order, training, accelerator=accelerator, seed=seed)


def cross_entropy(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(loops.forward(model, dict(batch))["logits"], batch["labels"])


def step_loss(mean: Callable[[torch.nn.Module, Batch], Tensor], weight: float = 1.0) -> loops.StepLoss:
    """A loss with one part, a mean over rows."""
    return loops.StepLoss(
        lambda model, batch: {"part": mean(model, batch)},
        lambda batch: {"part": torch.tensor(len(batch["attention_mask"]))},
        {"part": weight},
    )


CROSS_ENTROPY = step_loss(cross_entropy)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def never() -> int:
    return 0


def train(
    trainer: Trainer,
    loss: loops.StepLoss = CROSS_ENTROPY,
    *,
    evaluate: Callable[[], dict[str, float]] | None = None,
    better: float = 1.0,
    stop: Callable[[], int] = never,
) -> list[dict[str, Any]]:
    return list(trainer.train(loss, evaluate, better=better, stop=stop))


def events(rows: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["event"] == event]


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def stop_at(trainer: Trainer, step: int) -> Callable[[], int]:
    return lambda: signal.SIGTERM if trainer.progress.step == step else 0


# -- resuming from a checkpoint ------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2, 3])  # 10 batches: 10, 5 or (last group short) 4 steps per epoch
@pytest.mark.parametrize("step", [1, 4, 5, 7, 10])
def test_resumed_training_ends_with_the_same_weights(step: int, accumulation: int, tmp_path: Path) -> None:
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
    assert equal(weights(resumed), weights(whole))
    assert resumed.progress.loss_sum == whole.progress.loss_sum and resumed.progress.rows == whole.progress.rows


def test_saving_during_training_changes_no_weights(tmp_path: Path) -> None:
    plain = make_trainer(0.5)
    train(plain)
    saving = make_trainer(0.5)
    for row in saving.train(CROSS_ENTROPY, None, better=1.0, stop=never):
        if row["event"] == "progress":
            saving.save(tmp_path)
    assert equal(weights(saving), weights(plain))


def test_evaluating_during_training_changes_no_weights() -> None:
    plain = make_trainer(0.5)
    train(plain)
    evaluating = make_trainer(0.5, eval_strategy="steps", eval_steps=3)
    examples = make_examples()

    def evaluate() -> dict[str, float]:
        loops.predict_all(evaluating.model, examples, sorted_batches(examples.lengths, 8))
        return {"objective": 0.0}

    train(evaluating, evaluate=evaluate)
    assert equal(weights(evaluating), weights(plain))


def test_resuming_a_finished_training_does_nothing(tmp_path: Path) -> None:
    trainer = make_trainer()
    train(trainer)
    trainer.save(tmp_path)
    resumed = make_trainer()
    resumed.load(tmp_path)
    assert train(resumed) == [] and equal(weights(resumed), weights(trainer))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_training_after_a_checkpoint(number: int) -> None:
    trainer = make_trainer()
    rows = []
    with pytest.raises(Interrupted, match="step 2 of 30") as caught:
        for row in trainer.train(CROSS_ENTROPY, None, better=1.0, stop=lambda: number * (trainer.progress.step == 2)):
            rows.append(row)
    assert rows[-1] == {"event": "checkpoint", "step": 2} and caught.value.exit_code == 128 + number


def test_same_seed_gives_the_same_weights() -> None:
    trained = []
    for seed in (3, 3, 4):
        trainer = make_trainer(0.5, seed=seed)
        train(trainer)
        trained.append(weights(trainer))
    assert equal(trained[0], trained[1]) and not equal(trained[0], trained[2])


# -- accelerator ---------------------------------------------------------------------------------------------


class AcceleratorOnMeta:
    """What Trainer uses of an Accelerator, on a device that is not the default one."""

    mixed_precision = "no"
    device = torch.device("meta")
    num_processes = 1

    def prepare(self, model: torch.nn.Module, *others: Any) -> tuple[Any, ...]:
        return model.to(self.device), *others

    def register_for_checkpointing(self, *_: object) -> None: ...
    def unwrap_model(self, model: torch.nn.Module) -> torch.nn.Module:
        return model


def test_trainer_uses_the_device_of_the_given_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops.devices, "device", lambda: pytest.fail("the default device is for prediction"))
    accelerator: Any = AcceleratorOnMeta()
    trainer = Trainer(Net(), make_examples(), SequentialBatches(4), TRAINING, accelerator=accelerator, seed=3)
    assert trainer.accelerator is accelerator and trainer.device == "meta"
    assert {parameter.device.type for parameter in trainer.plain_model.parameters()} == {"meta"}


def test_trainer_creates_no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = loops.make_accelerator(TRAINING)
    monkeypatch.setattr("accelerate.Accelerator", lambda *_, **__: pytest.fail("a second Accelerator was created"))
    trainer = Trainer(Net(), make_examples(), SequentialBatches(4), TRAINING, accelerator=accelerator, seed=3)
    train(trainer)
    assert trainer.accelerator is accelerator


def test_make_accelerator_applies_the_training_settings(tmp_path: Path) -> None:
    accelerator = loops.make_accelerator(ResolvedTraining(mixed_precision="bf16"), tmp_path)
    assert accelerator.mixed_precision == "bf16"
    assert accelerator.project_dir == tmp_path and accelerator.log_with == []


def test_accumulation_steps_in_the_environment_divide_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    accelerator, weight = loops.make_accelerator(TRAINING), torch.ones(1, requires_grad=True)
    accelerator.backward((3.0 * weight).sum())
    assert weight.grad is not None and weight.grad.item() == 3.0


# -- one step ------------------------------------------------------------------------------------------------


def test_two_accumulated_batches_equal_one_of_double_size() -> None:
    whole = make_trainer(batches=SequentialBatches(8), num_train_epochs=1.0)
    train(whole)
    halves = make_trainer(batches=SequentialBatches(4), num_train_epochs=1.0, gradient_accumulation_steps=2)
    train(halves)
    assert halves.progress.step == whole.progress.step == 5 and halves.progress.rows == whole.progress.rows
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(halves)[name], value, rtol=0, atol=1e-5)


def test_short_last_accumulation_group_makes_a_step() -> None:
    trainer = make_trainer(gradient_accumulation_steps=4, num_train_epochs=2.0)
    train(trainer)
    assert trainer.max_steps == trainer.progress.step == 6 and trainer.progress.rows == 2 * ROWS


def test_short_last_accumulation_group_is_a_mean_over_its_batches() -> None:
    whole = make_trainer(batches=SequentialBatches(16, rows=20), rows=20, num_train_epochs=1.0)  # 16 rows, and 4
    train(whole)
    parts = make_trainer(
        batches=SequentialBatches(4, rows=20), rows=20, num_train_epochs=1.0, gradient_accumulation_steps=4
    )
    train(parts)
    assert whole.progress.step == parts.progress.step == 2
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=0, atol=1e-5)


def test_max_steps_overrides_epochs() -> None:
    trainer = make_trainer(max_steps=7)
    assert len(events(train(trainer), "progress")) == 7


@pytest.mark.parametrize("epochs", [1e-9, 1.1, 2.3, 4.35])
def test_a_fraction_of_an_epoch_has_no_step_too_many(epochs: float) -> None:
    trainer = make_trainer(batches=SequentialBatches(1, rows=100), rows=100, num_train_epochs=epochs)
    assert trainer.max_steps == max(1, round(epochs * 100))


def test_polynomial_schedule_equals_linear_at_any_learning_rate() -> None:
    rates = []
    for kind in ("polynomial", "linear"):
        trainer = make_trainer(max_steps=4, lr_scheduler_type=kind, learning_rate=1e-8, logging_steps=1)
        rates.append([row["learning_rate"] for row in trainer.train(CROSS_ENTROPY, None, better=1.0, stop=lambda: 0)
                      if row["event"] == "train"])  # fmt: skip
    assert rates[0] == pytest.approx(rates[1]) and len(rates[0]) == 4


def test_training_for_a_fraction_of_an_epoch() -> None:
    trainer = make_trainer(num_train_epochs=0.5)
    train(trainer)
    assert trainer.progress.rows == ROWS / 2


def test_training_reduces_the_loss() -> None:
    trainer = make_trainer(num_train_epochs=20.0, learning_rate=5e-2, logging_steps=10)
    losses = [row["loss"] for row in events(train(trainer), "train")]
    assert losses[-1] < losses[0] / 2


def nan_at_step(step: int) -> Callable[[torch.nn.Module, Mapping[str, Tensor]], Tensor]:
    """A loss that is NaN at this step only."""
    calls: list[int] = []

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        calls.append(1)
        value = cross_entropy(model, batch)
        return value * float("nan") if len(calls) == step else value

    return loss


def test_nan_loss_is_reported_with_its_step_at_the_next_log() -> None:
    trainer = make_trainer(logging_steps=5)
    with pytest.raises(UserError, match="the loss is not finite at step 3") as caught:
        train(trainer, step_loss(nan_at_step(3)))
    assert caught.value.exit_code == 1 and trainer.progress.step == 5


def test_weights_after_a_nan_loss_are_not_saved(tmp_path: Path) -> None:
    trainer = make_trainer(logging_steps=5)
    events = trainer.train(step_loss(nan_at_step(3)), None, better=1.0, stop=never)
    for event in events:
        if event["step"] == 2:
            trainer.save(tmp_path / "before")
        if event["step"] == 3:
            break
    with pytest.raises(UserError, match="the loss is not finite at step 3"):
        trainer.save(tmp_path / "after")
    assert (tmp_path / "before" / "progress.json").exists() and not (tmp_path / "after").exists()


@pytest.mark.parametrize("due", [{"save_steps": 4}, {"eval_strategy": "steps", "eval_steps": 4}])
def test_losses_are_checked_before_weights_are_saved_or_scored(due: dict[str, Any]) -> None:
    trainer = make_trainer(logging_steps=100, **due)
    rows = []
    with pytest.raises(UserError, match="the loss is not finite at step 3"):
        rows += trainer.train(step_loss(nan_at_step(3)), lambda: {"objective": 1.0}, better=1.0, stop=never)
    assert trainer.progress.step == 4 and trainer.progress.best is None


def test_losses_are_read_from_the_device_once_per_log(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(max_steps=6, logging_steps=3)
    reads, tolist = [], Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: reads.append(tensor.shape) or tolist(tensor))
    train(trainer)
    assert [shape[0] for shape in reads if len(shape) == 2] == [3, 3]


def test_infinite_gradient_is_reported_with_its_step() -> None:
    trainer = make_trainer(max_grad_norm=0.0)

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        zero = (loops.forward(model, dict(batch))["logits"] * 0).sum()
        return cross_entropy(model, batch) + zero.sqrt()  # the derivative of sqrt at 0 is infinite

    with pytest.raises(UserError, match="the gradient is not finite at step 1"):
        train(trainer, step_loss(loss))


def test_nan_loss_of_an_accumulated_batch_is_detected() -> None:
    trainer = make_trainer(gradient_accumulation_steps=2)
    calls = []

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        calls.append(1)
        value = cross_entropy(model, batch)
        return value * float("nan") if len(calls) == 1 else value

    with pytest.raises(UserError, match="the loss is not finite at step 1"):
        train(trainer, step_loss(loss))


def test_gradients_are_clipped_to_max_grad_norm() -> None:
    trainer = make_trainer(max_steps=1, max_grad_norm=0.01)
    norms: list[float] = []
    trainer.optimizer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: norms.append(
            float(torch.cat([p.grad.ravel() for g in optimizer.param_groups for p in g["params"]]).norm())
        )
    )
    train(trainer, step_loss(cross_entropy, weight=1000.0))
    assert norms == [pytest.approx(0.01, rel=1e-3)]


def test_weight_decay_applies_to_matrices_only() -> None:
    net = Net()
    decaying, others = trainer._parameter_groups(net, 0.1)
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0.0
    assert {id(p) for p in decaying["params"]} == {id(net.embeddings.weight), id(net.classifier.weight)}
    assert {id(p) for p in others["params"]} == {id(net.norm.weight), id(net.norm.bias), id(net.classifier.bias)}


# -- schedule, logging, evaluation, saving ----------------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    trainer = make_trainer(max_steps=4, warmup_ratio=0.5, learning_rate=1e-2, logging_steps=1)
    rates = [row["learning_rate"] for row in events(train(trainer), "train")]
    assert rates == pytest.approx([0.005, 0.01, 0.005, 0.0])


def test_constant_learning_rate_does_not_change() -> None:
    trainer = make_trainer(max_steps=3, lr_scheduler_type="constant", learning_rate=1e-2, logging_steps=1)
    assert {row["learning_rate"] for row in events(train(trainer), "train")} == {1e-2}


def test_learning_rate_schedule_counts_optimizer_steps() -> None:
    trainer = make_trainer(warmup_ratio=0.0, gradient_accumulation_steps=2, num_train_epochs=1.0, logging_steps=1)
    rates = [row["learning_rate"] for row in events(train(trainer), "train")]
    assert rates == pytest.approx([0.008, 0.006, 0.004, 0.002, 0.0])


def test_trackers_receive_the_logged_numbers() -> None:
    tracked: list[tuple[int, dict[str, float]]] = []

    class Tracker(GeneralTracker):
        name = "recorder"
        requires_logging_directory = False
        tracker: Any = None

        def store_init_configuration(self, values: dict[str, Any]) -> None: ...
        def log(self, values: dict[str, float], step: int, **options: Any) -> None:
            tracked.append((step, values))

    trainer = make_trainer(num_train_epochs=1.0, logging_steps=5, eval_strategy="epoch")
    trainer.accelerator.trackers = [Tracker()]
    rows = [row for row in train(trainer, evaluate=metrics_in_turn(0.5)) if row["event"] in ("train", "evaluate")]
    assert [step for step, _ in tracked] == [row["step"] for row in rows] == [5, 10, 10]
    assert tracked[0][1]["train/loss"] == rows[0]["loss"]
    assert tracked[-1][1]["evaluate/accuracy"] == rows[-1]["accuracy"]


def test_missing_tracker_package_raises_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="'mlflow' is not installed"):
        make_trainer(report_to=["mlflow"])


def test_dataloader_workers_change_no_weights() -> None:
    in_process = make_trainer(0.5)
    train(in_process)
    in_worker = make_trainer(0.5, dataloader_num_workers=1)
    train(in_worker)
    assert equal(weights(in_process), weights(in_worker))


def test_train_event_every_logging_steps_and_at_the_end() -> None:
    rows = train(make_trainer(max_steps=7, logging_steps=3))
    assert [row["step"] for row in events(rows, "train")] == [3, 6, 7]


def test_train_event_has_the_mean_loss_since_the_last_one() -> None:
    values = iter([1.0, 2.0, 6.0, 10.0])

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        value = cross_entropy(model, batch)
        return value - value.detach() + next(values)

    rows = events(train(make_trainer(max_steps=4, logging_steps=2), step_loss(loss, weight=0.5)), "train")
    assert [row["part"] for row in rows] == [1.5, 8.0] and [row["loss"] for row in rows] == [0.75, 4.0]


def metrics_in_turn(*objectives: float) -> Callable[[], dict[str, float]]:
    values = iter(objectives)

    def evaluate() -> dict[str, float]:
        value = next(values)
        return {"accuracy": value, "objective": value}

    return evaluate


def test_every_epoch_is_evaluated_and_saved() -> None:
    rows = train(make_trainer(), evaluate=metrics_in_turn(0.5, 0.6, 0.7))
    assert [row["step"] for row in events(rows, "evaluate")] == [10, 20, 30]
    assert [row["step"] for row in events(rows, "checkpoint")] == [10, 20, 30]


def test_evaluation_by_steps_includes_the_last_step() -> None:
    trainer = make_trainer(eval_strategy="steps", eval_steps=4, max_steps=10)
    assert [row["step"] for row in events(train(trainer, evaluate=metrics_in_turn(1, 2, 3)), "evaluate")] == [4, 8, 10]


def test_the_last_step_is_saved_without_an_evaluation() -> None:
    assert train(make_trainer(max_steps=3))[-1] == {"event": "checkpoint", "step": 3}


@pytest.mark.parametrize(
    ("settings", "saved"),
    [({}, [10, 20, 25]), ({"eval_strategy": "steps", "eval_steps": 9}, [9, 18, 25]), ({"eval_strategy": "no"}, [25])],
)
def test_checkpoints_are_saved_where_an_evaluation_is_due_also_without_validation_rows(
    settings: dict[str, Any], saved: list[int]
) -> None:
    rows = train(make_trainer(max_steps=25, **settings))
    assert [row["step"] for row in events(rows, "checkpoint")] == saved


def test_save_steps_saves_without_an_evaluation() -> None:
    rows = train(make_trainer(save_steps=4, max_steps=10))
    assert [row["step"] for row in events(rows, "checkpoint")] == [4, 8, 10]


@pytest.mark.parametrize(
    ("better", "best"), [(1.0, [True, True, False]), (-1.0, [True, False, True])], ids=["more", "less"]
)
def test_best_objective_is_the_largest_or_the_smallest(better: float, best: list[bool]) -> None:
    rows = train(make_trainer(), evaluate=metrics_in_turn(0.5, 0.7, 0.3), better=better)
    assert [row["is_best"] for row in events(rows, "evaluate")] == best


def test_equal_objective_is_not_better() -> None:
    trainer = make_trainer()
    train(trainer, evaluate=metrics_in_turn(0.5, 0.5, 0.5))
    assert trainer.progress.best_step == 10


def with_losses(*scores: tuple[float, float]) -> Callable[[], dict[str, float]]:
    values = iter(scores)

    def evaluate() -> dict[str, float]:
        objective, loss = next(values)
        return {"loss": loss, "objective": objective}

    return evaluate


@pytest.mark.parametrize("better", [1.0, -1.0])
def test_of_equal_objectives_the_lower_loss_is_the_best(better: float) -> None:
    trainer = make_trainer(num_train_epochs=4.0)
    rows = train(trainer, evaluate=with_losses((0.5, 0.9), (0.5, 0.7), (0.5, 0.8), (0.5, 0.7)), better=better)
    assert [row["is_best"] for row in events(rows, "evaluate")] == [True, True, False, False]
    assert trainer.progress.best_step == 20


@pytest.mark.parametrize(
    ("losses", "evaluations"), [((0.9, 0.8, 0.7, 0.7, 0.7, 0.1), 5), ((0.9, 0.9, 0.95, 0.1), 3)], ids=["falls", "stays"]
)
def test_falling_loss_delays_early_stopping(losses: tuple[float, ...], evaluations: int) -> None:
    trainer = make_trainer(num_train_epochs=9.0, early_stopping_patience=2)
    rows = train(trainer, evaluate=with_losses(*((0.5, loss) for loss in losses)))
    assert len(events(rows, "evaluate")) == evaluations


@pytest.mark.parametrize(
    ("scores", "improving"),
    [
        (((0.5, 0.9), (0.6, 0.8), (0.7, 0.7)), True),
        (((0.5, 0.9), (0.6, 0.8), (0.6, 0.7)), True),
        (((0.5, 0.9), (0.6, 0.8), (0.7, 0.796)), False),
        (((0.5, 0.9), (0.7, 0.8), (0.6, 0.7)), False),
    ],
    ids=["both", "tie", "loss is flat", "score fell"],
)
def test_run_is_improving_if_its_last_scores_are_clearly_the_best(scores: Any, improving: bool) -> None:
    trainer = make_trainer()
    train(trainer, evaluate=with_losses(*scores))
    assert trainer.progress.improving == improving


def test_number_is_better_than_an_undefined_objective() -> None:
    rows = train(make_trainer(), evaluate=metrics_in_turn(float("nan"), 0.2, 0.1))
    assert [row["is_best"] for row in events(rows, "evaluate")] == [True, True, False]


def test_early_stopping_ends_training() -> None:
    trainer = make_trainer(num_train_epochs=9.0, early_stopping_patience=2)
    rows = train(trainer, evaluate=metrics_in_turn(0.5, 0.7, 0.6, 0.6, 0.9))
    assert len(events(rows, "evaluate")) == 4 and trainer.progress.best == 0.7


def test_early_stopping_survives_resume(tmp_path: Path) -> None:
    trainer = make_trainer(num_train_epochs=9.0, early_stopping_patience=1)
    train(trainer, evaluate=metrics_in_turn(0.5, 0.4))
    trainer.save(tmp_path)
    resumed = make_trainer(num_train_epochs=9.0, early_stopping_patience=1)
    resumed.load(tmp_path)
    assert train(resumed, evaluate=metrics_in_turn(0.9)) == []


def test_model_returns_to_train_mode_after_evaluation() -> None:
    trainer = make_trainer()
    modes: list[bool] = []

    def loss(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        modes.append(model.training)
        return cross_entropy(model, batch)

    def evaluate() -> dict[str, float]:
        trainer.model.eval()
        return {"objective": 0.0}

    train(trainer, step_loss(loss), evaluate=evaluate)
    assert all(modes)


def test_summary_counts_every_row_once() -> None:
    trainer = make_trainer(num_train_epochs=2.0)
    train(trainer)
    summary = trainer.summary()
    assert summary["steps"] == 20 and trainer.progress.rows == 2 * ROWS
    assert summary["train_samples_per_second"] == pytest.approx(2 * ROWS / summary["train_runtime"])


def test_training_time_includes_reading_batches() -> None:
    trainer = make_trainer(num_train_epochs=1.0)
    examples = make_examples()

    class SlowExamples:
        def __len__(self) -> int:
            return len(examples)

        def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
            time.sleep(0.02)
            return dict(examples.__getitems__(indices))

    slow = Trainer(
        Net(), SlowExamples(), SequentialBatches(4), trainer.training, accelerator=trainer.accelerator, seed=3
    )  # type: ignore[arg-type]
    list(slow.train(CROSS_ENTROPY, None, better=1.0, stop=lambda: 0))
    assert slow.summary()["train_runtime"] >= 0.02 * ROWS / 4


# -- inference ----------------------------------------------------------------------------------------------


@pytest.fixture
def net() -> Net:
    torch.manual_seed(5)
    return Net(dropout=0.9)


def predict_one_by_one(net: Net, examples: Examples) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return np.concatenate(
            [loops.forward(net.eval(), examples.__getitems__([i]))["logits"].numpy() for i in range(len(examples))]
        )


@pytest.mark.parametrize("size", [1, 7, 40])
def test_predictions_are_in_row_order(size: int, net: Net) -> None:
    examples = make_examples()
    logits = loops.predict_all(net, examples, sorted_batches(examples.lengths, size))
    np.testing.assert_allclose(logits, predict_one_by_one(net, examples), atol=1e-6)


def test_predict_yields_the_row_indices_of_every_batch(net: Net) -> None:
    examples = make_examples()
    batches = sorted_batches(examples.lengths, 16)
    assert [rows for rows, _ in loops.predict(net, examples, batches)] == list(batches)


def test_prediction_disables_dropout(net: Net) -> None:
    examples = make_examples()
    order = sorted_batches(examples.lengths, 8)
    net.train()
    np.testing.assert_array_equal(
        loops.predict_all(net, examples, order), loops.predict_all(net.train(), examples, order)
    )


def test_prediction_computes_no_gradients(net: Net) -> None:
    grad_enabled: list[bool] = []
    net.register_forward_hook(lambda *_: grad_enabled.append(torch.is_grad_enabled()))
    examples = make_examples()
    loops.predict_all(net, examples, sorted_batches(examples.lengths, 20))
    assert grad_enabled == [False, False] and torch.is_grad_enabled()


@pytest.mark.parametrize("size", [1, 7, 40])
def test_mean_loss_does_not_depend_on_the_batch_size(size: int) -> None:
    def means(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        mask = batch["attention_mask"].float()
        logit = model(batch["input_ids"], batch["attention_mask"])["logits"][:, 0].mean()
        return {"logit": logit, "id": (batch["input_ids"] * mask).sum() / mask.sum()}

    loss = loops.StepLoss(
        means,
        lambda batch: {"logit": torch.tensor(len(batch["input_ids"])), "id": batch["attention_mask"].sum()},
        {"logit": 2.0, "id": 0.5},
    )
    examples, net = make_examples(), Net(dropout=0.5)
    mean_logit, mean_id = predict_one_by_one(net, examples)[:, 0].mean(), examples.tokens["input_ids"][0].mean()
    found = loops.mean_loss(net.train(), loss, examples, sorted_batches(examples.lengths, size))
    assert found == pytest.approx({"loss": 2 * mean_logit + mean_id / 2, "logit": mean_logit, "id": mean_id})


def test_bf16_model_predicts_float32_logits(net: Net) -> None:
    examples = make_examples()
    order = sorted_batches(examples.lengths, 8)
    full = loops.predict_all(net, examples, order)
    half = loops.predict_all(net.to(torch.bfloat16), examples, order)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.05)


def test_forward_passes_only_model_inputs(net: Net) -> None:
    batch = make_examples().__getitems__([0, 1])
    assert "labels" in batch and loops.forward(net, batch)["logits"].shape == (2, 2)


class TimedNet(Net):
    """A model whose forward passes take the given times (seconds on CLOCK)."""

    def __init__(self, durations: list[float]) -> None:
        super().__init__()
        self.durations = durations

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        CLOCK[0] += self.durations.pop(0)
        return super().forward(input_ids, attention_mask)


CLOCK = [0.0]


def test_latency_excludes_the_warm_up_of_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: CLOCK[0])
    monkeypatch.setattr(profiling, "TURNS", 2)
    examples = make_examples()
    batches = [examples.__getitems__([row]) for row in range(5)]
    slow_warm_up, fast_warm_up = [9.0] * 3, [0.0045] * 5  # ended by the number of passes, and by time
    slow = TimedNet([*slow_warm_up, 0.4, 0.2, 0.3, *slow_warm_up, 7.0, 0.1])
    fast = TimedNet([*fast_warm_up, 0.1, 0.2, 0.3, *fast_warm_up, 0.4, 0.5])
    times = loops.latencies({"teacher": slow, "student": fast}, {"teacher": batches, "student": batches})
    assert times["teacher"] == pytest.approx([400.0, 200.0, 300.0, 7000.0, 100.0])
    assert times["student"] == pytest.approx([100.0, 200.0, 300.0, 400.0, 500.0])
    assert not slow.durations and not fast.durations


def test_multiply_adds_are_per_row() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.Linear(8, 2, bias=False))

    class LinearNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(input_ids.float())}

    batches = [{"input_ids": torch.ones(1, 4)}, {"input_ids": torch.ones(3, 4)}]
    assert loops.multiply_adds(LinearNet(), batches) == 4 * 8 + 8 * 2


def test_cold_start_fails_if_predict_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        loops.cold_start(str(tmp_path / "nothing"), "text")


def test_fp16_without_a_gpu_raises_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinybert_cli.loops.devices.device", lambda: torch.device("cpu"))
    with pytest.raises(ConfigError, match="needs a GPU") as caught:
        loops.precision("fp16")
    assert caught.value.key == ("training", "mixed_precision")


@pytest.mark.parametrize(("value", "expected"), [("true", "cpu"), ("1", "cpu"), ("false", "mps"), ("", "mps")])
def test_the_variable_of_accelerate_chooses_the_cpu_for_prediction_too(
    value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available: torch.device("mps"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", value)
    assert loops.device().type == expected


GROUP_SCRIPT = """
from pathlib import Path
import torch
from tinybert_cli import loops
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
import transformers.modeling_utils
def threads_of_group():
    return [task for task in Path("/proc/self/task").iterdir() if "gloo" in (task / "comm").read_text()]
assert threads_of_group()
loops.end_process_group()
assert not threads_of_group()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the names of threads from /proc")
def test_end_process_group_ends_its_threads() -> None:
    subprocess.run([sys.executable, "-c", GROUP_SCRIPT], check=True, timeout=120)


MEMORY_SCRIPT = """
import resource, torch
from tinybert_cli.loops import keep_freed_memory
def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
returned = new_pages()
keep_freed_memory()
new_pages()  # the first allocations still take new pages
print(returned / max(1, new_pages()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is a function of glibc")
def test_freed_memory_stays_with_the_process() -> None:
    completed = subprocess.run([sys.executable, "-c", MEMORY_SCRIPT], capture_output=True, text=True, check=True)
    assert float(completed.stdout) > 1000


GAPS_SCRIPT = """
import torch
from tinybert_cli.loops import keep_freed_memory, return_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
keep_freed_memory()
before = resident()
blocks = [torch.ones(2**20, dtype=torch.uint8) for _ in range(400)]
last = blocks[-1]
del blocks
kept = resident()
return_freed_memory()
print(kept - before, kept - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is a function of glibc")
def test_freed_memory_between_blocks_in_use_is_returned() -> None:
    completed = subprocess.run([sys.executable, "-c", GAPS_SCRIPT], capture_output=True, text=True, check=True)
    kept, returned = map(float, completed.stdout.split())
    assert kept > 350 and returned > 0.9 * kept


def test_trainer_returns_freed_memory_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(trainer, "TRIM_STEPS", 3)
    tried = make_trainer()
    monkeypatch.setattr(trainer, "return_freed_memory", lambda: called.append(tried.progress.step))
    train(tried)
    assert called and all(step % 3 == 0 for step in called)


def test_trainer_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: called.append(True))
    make_trainer()
    assert called
