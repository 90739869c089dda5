"""Training: one loop, with everything that a checkpoint needs."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tinybert_cli.config import Training
from tinybert_cli.errors import InputError, Interrupted, UserError
from tinybert_cli.loops.devices import keep_freed_memory, precision
from tinybert_cli.loops.inference import StepLoss
from tinybert_cli.types import Batch, Examples

if TYPE_CHECKING:
    from accelerate import Accelerator

Row = dict[str, Any]


class Batches(Protocol):
    """An order of batches that is fixed by the epoch."""

    epoch: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[list[int]]: ...


def make_accelerator(training: Training, logs: Path | None = None) -> Accelerator:
    """The device, precision and processes of a training run. Create it before anything is moved to a device.

    Args:
        logs: where a tracker that writes files may put them.

    Raises:
        ConfigError: fp16 without a GPU.
        InputError: the package of a tracker in `report_to` is not installed.
    """
    from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs

    return Accelerator(
        mixed_precision=precision(training.mixed_precision),
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        log_with=_trackers(training) or None,
        project_dir=logs,
        dataloader_config=DataLoaderConfiguration(even_batches=True),
        # layer losses leave the head alone, and most families have a pooler that nothing reads
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        step_scheduler_with_optimizer=False,
    )


@dataclass
class Progress:
    """Where a run stands; a checkpoint holds it next to weights, optimizer, schedule and random states."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done
    batch: int = 0  # batches done in this epoch
    batches: int = 0  # batches done in all
    rows: int = 0
    seconds: float = 0.0  # of training, without evaluation and saving
    loss_sum: float = 0.0  # over all batches
    best: float | None = None
    best_step: int = 0
    worse: int = 0  # evaluations since the best one


class Trainer:
    """A model in training: `train` goes on from wherever `load` left off, and `save` may be called at any row."""

    def __init__(
        self,
        model: torch.nn.Module,
        examples: Examples,
        batches: Batches,
        training: Training,
        *,
        accelerator: Accelerator,
        seed: int,
    ):
        from accelerate.utils import set_seed
        from transformers import get_scheduler

        self.training, self.accelerator = training, accelerator
        self.precision = accelerator.mixed_precision
        keep_freed_memory()
        set_seed(seed)
        self.batches = batches
        loader: Any = torch.utils.data.DataLoader(
            examples,  # type: ignore[arg-type]
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            num_workers=training.dataloader_num_workers,
            generator=torch.Generator(),  # else each epoch, and each resumed one, takes a number from dropout's
        )
        optimizer = torch.optim.AdamW(_groups(model, training.weight_decay), lr=training.learning_rate, fused=True)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(model, optimizer, loader)
        self.steps_per_epoch = math.ceil(len(self.loader) / training.gradient_accumulation_steps)
        asked = math.ceil(training.num_train_epochs * self.steps_per_epoch)
        self.max_steps = training.max_steps if training.max_steps > 0 else asked
        self.scheduler = get_scheduler(
            training.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=math.ceil(training.warmup_ratio * self.max_steps),
            num_training_steps=self.max_steps,
        )
        self.accelerator.register_for_checkpointing(self.scheduler)
        self.progress = Progress()
        self.saved: int | None = None  # the step of the last checkpoint

    @property
    def device(self) -> str:
        return str(self.accelerator.device.type)

    @property
    def plain_model(self) -> torch.nn.Module:
        """The model to predict with: what Accelerate wraps around it waits for the other processes at every batch."""
        model: torch.nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def save(self, folder: Path) -> None:
        """Everything that is needed to go on as if nothing had happened; every process must call it."""
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(folder))
        if self.accelerator.is_main_process:
            (folder / "progress.json").write_text(json.dumps(asdict(self.progress)))
        self.accelerator.wait_for_everyone()

    def load(self, folder: Path) -> None:
        self.accelerator.load_state(str(folder))
        self.progress = Progress(**json.loads((folder / "progress.json").read_text()))
        self.saved = self.progress.step

    def summary(self) -> dict[str, float]:
        """How the training went: mean loss, rows per second, seconds."""
        progress = self.progress
        return {
            "train_loss": progress.loss_sum / max(1, progress.batches),
            "train_samples_per_second": progress.rows / max(1e-9, progress.seconds),
            "train_runtime": progress.seconds,
            "steps": progress.step,
        }

    def train(
        self, loss: StepLoss, evaluate: Callable[[], dict[str, float]] | None, *, better: float, stop: Callable[[], int]
    ) -> Iterator[Row]:
        """Trains to the end, yielding a row whenever there is something to say.

        Rows: `progress` after every step, `train` every logging_steps, `evaluate` with its scores and `is_best`,
        `checkpoint` when it is time to save.

        Args:
            evaluate: the scores; `objective` among them is what the best checkpoint is chosen by.
            better: +1 if a larger objective is better, -1 if a smaller one is.
            stop: the number of a signal that asks to stop, or 0.

        Raises:
            UserError: the loss is NaN or infinite.
            Interrupted: `stop()` said so; the row before it is a `checkpoint`.
        """
        if self.training.report_to:
            settings = self.training.model_dump(exclude={"report_to"}, exclude_none=True)
            self.accelerator.init_trackers("tinybert", config=settings)
        try:
            yield from self._train(loss, evaluate, better, stop)
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def _train(
        self, loss: StepLoss, evaluate: Callable[[], dict[str, float]] | None, better: float, stop: Callable[[], int]
    ) -> Iterator[Row]:
        progress, training = self.progress, self.training
        since_log: list[Mapping[str, Tensor]] = []
        rows_logged, seconds_logged = progress.rows, progress.seconds
        self.model.train()
        while progress.step < self.max_steps and not self._out_of_patience():
            for begin, batch in _with_begin(self._rest_of_epoch()):
                with self.accelerator.accumulate(self.model):
                    parts = loss(self.model, batch)
                    self.accelerator.backward(parts["loss"] * self._of_short_group())
                    if self.accelerator.sync_gradients:
                        self._check_finite(parts["loss"])
                    self.optimizer.step()
                    self.optimizer.zero_grad()
                since_log.append({name: value.detach() for name, value in parts.items()})
                progress.batch += 1
                progress.batches += 1
                progress.rows += len(batch["input_ids"]) * self.accelerator.num_processes
                progress.loss_sum += float(parts["loss"].detach())
                progress.seconds += time.perf_counter() - begin
                if not self.accelerator.sync_gradients:
                    continue
                self.scheduler.step()
                progress.step += 1
                done = progress.step >= self.max_steps
                epoch_ends = progress.batch >= len(self.loader)
                if epoch_ends:
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                yield {"event": "progress", "step": progress.step, "max_steps": self.max_steps, "rows": progress.rows,
                       "loss": float(parts["loss"].detach()), "seconds": progress.seconds}  # fmt: skip
                if progress.step % training.logging_steps == 0 or done:
                    speed = (progress.rows - rows_logged) / max(1e-9, progress.seconds - seconds_logged)
                    rate = self.scheduler.get_last_lr()[0]
                    row = {"event": "train", "step": progress.step, "epoch": self._epochs(), **_means(since_log),
                           "learning_rate": rate, "samples_per_second": round(speed, 1)}  # fmt: skip
                    self._track(row)
                    yield row
                    since_log, rows_logged, seconds_logged = [], progress.rows, progress.seconds
                evaluated = evaluate is not None and (done or self._is_due(epoch_ends))
                if evaluate is not None and evaluated:
                    row = self._evaluated(evaluate, better)
                    self._track(row)
                    yield row
                    self.model.train()
                signum = self._agreed(stop())
                if signum or (not done and self._saves(evaluated)):
                    yield {"event": "checkpoint", "step": progress.step}
                    self.saved = progress.step
                if signum:
                    raise Interrupted(
                        signum, f"interrupted at step {progress.step} of {self.max_steps}; a checkpoint is saved",
                        hint="run the same command again to go on",
                    )  # fmt: skip
                if done or self._out_of_patience():
                    return

    def _of_short_group(self) -> float:
        """Accelerate divides every loss by the size of a full group; the last one of an epoch may be smaller."""
        full = self.training.gradient_accumulation_steps
        short = len(self.loader) % full
        return full / short if short and self.progress.batch >= len(self.loader) - short else 1.0

    def _track(self, row: Row) -> None:
        """To the trackers of `report_to`, if any: `train/loss`, `evaluate/accuracy`, ..."""
        numbers = {f"{row['event']}/{name}": value for name, value in row.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=row["step"])

    def _rest_of_epoch(self) -> Iterator[Batch]:
        self.batches.epoch = self.progress.epoch
        if self.progress.batch:
            yield from self.accelerator.skip_first_batches(self.loader, self.progress.batch)
        else:
            yield from self.loader

    def _check_finite(self, loss: Tensor) -> None:
        """Before the optimizer sees them: a NaN loss or gradient would ruin every weight."""
        limit = self.training.max_grad_norm or float("inf")
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        scaled = self.precision == "fp16"  # there an infinite gradient only skips the step
        if torch.isfinite(loss) and (scaled or torch.isfinite(torch.as_tensor(norm))):
            return
        what = "loss" if not torch.isfinite(loss) else "gradient"
        kept = (
            "there is no checkpoint from before it"
            if self.saved is None
            else f"the checkpoint of step {self.saved} is kept"
        )
        raise UserError(
            f"the {what} is not finite at step {self.progress.step + 1}",
            hint=f"lower training.learning_rate, or try training.mixed_precision=no; {kept}",
        )

    def _is_due(self, epoch_ends: bool) -> bool:
        if self.training.eval_strategy == "epoch":
            return epoch_ends
        steps = self.training.eval_steps or self.training.logging_steps
        return self.training.eval_strategy == "steps" and self.progress.step % steps == 0

    def _saves(self, evaluated: bool) -> bool:
        steps = self.training.save_steps
        return evaluated if steps is None else self.progress.step % steps == 0

    def _evaluated(self, evaluate: Callable[[], dict[str, float]], better: float) -> Row:
        scores = evaluate()
        objective = scores.pop("objective")
        progress = self.progress
        is_best = progress.best is None or better * objective > better * progress.best
        if is_best:
            progress.best, progress.best_step, progress.worse = objective, progress.step, 0
        else:
            progress.worse += 1
        return {"event": "evaluate", "step": progress.step, "epoch": self._epochs(), **scores, "is_best": is_best}

    def _out_of_patience(self) -> bool:
        patience = self.training.early_stopping_patience
        return patience is not None and self.progress.worse >= patience

    def _epochs(self) -> float:
        return round(self.progress.epoch + self.progress.batch / len(self.loader), 2)

    def _agreed(self, signum: int) -> int:
        """A signal that any process got, on all of them: one that stopped alone would leave the others waiting."""
        if self.accelerator.num_processes == 1:
            return signum
        asked = torch.tensor([signum], device=self.accelerator.device)
        return int(self.accelerator.gather(asked).max())


def _with_begin(batches: Iterator[Batch]) -> Iterator[tuple[float, Batch]]:
    """Each batch with the time at which it was asked for: reading it is part of training."""
    while True:
        begin = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield begin, batch


def _trackers(training: Training) -> list[str]:
    """The names in `report_to`; Accelerate would leave out, without a word, one whose package is missing."""
    for name in training.report_to:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"training.report_to: the package '{name}' is not installed",
                hint=f"pip install {name}, or leave it out",
            )
    return list(training.report_to)


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and layer norms (one dimension) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _means(values: list[Mapping[str, Tensor]]) -> dict[str, float]:
    if not values:
        return {}
    return {name: round(float(torch.stack([v[name] for v in values]).mean()), 6) for name in values[0]}


def _as_it_is(batch: Batch) -> Batch:
    return batch
