"""Training: one loop, and the state that its checkpoints hold."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinybert_cli import events
from tinybert_cli.config import ResolvedTraining, Training
from tinybert_cli.errors import InputError, Interrupted, UserError, explained
from tinybert_cli.events import Event
from tinybert_cli.loops.devices import keep_freed_memory, precision, return_freed_memory
from tinybert_cli.loops.inference import StepLoss
from tinybert_cli.loops.out_of_memory import is_out_of_gpu_memory, release_gpu_memory
from tinybert_cli.loops.pending_steps import PendingSteps, Step
from tinybert_cli.loops.progress import PROGRESS, Progress, read_progress
from tinybert_cli.loops.step_batches import (
    Batches,
    MicroBatches,
    OwnBatches,
    StepBatches,
    groups,
    smaller_batches,
    steps_of_epoch,
    with_start_times,
)
from tinybert_cli.loops.unused_parameters import drops_layers
from tinybert_cli.types import Batch, Examples

if TYPE_CHECKING:
    from accelerate import Accelerator

TRIM_STEPS = 250  # after which freed memory is returned: seldom enough to cost nothing
FALL = 0.99  # of the lowest loss before: a validation loss below it has clearly fallen
Evaluate = Callable[[], dict[str, float]]  # the validation metrics, and `objective`, which selects the best checkpoint


def make_accelerator(training: Training, logs: Path | None = None, *, float32_family: str | None = None) -> Accelerator:
    """Device, precision and processes of a training run. Create it before anything is moved to a device.

    Args:
        logs: the folder for trackers that write files.
        float32_family: the family of the model, if it cannot compute in fewer bits.

    Raises:
        ConfigError: fp16 without a GPU.
        InputError: the package of a tracker in `report_to` is not installed.
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin

    return Accelerator(
        mixed_precision=precision(training.mixed_precision, float32_family=float32_family),
        # the loop accumulates; a number in the environment would divide every gradient once more
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=_trackers(training) or None,
        project_dir=logs,
        step_scheduler_with_optimizer=False,
    )


class Trainer:
    """Trains one model. `load` before `train` resumes from a checkpoint; `save` may be called after any event.

    Args:
        unused: parameters without a gradient, which are frozen: several processes wait for the gradients of all others.
        stateful: what else a checkpoint holds, with `state_dict` and `load_state_dict`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        examples: Examples,
        batches: Batches,
        training: ResolvedTraining,
        *,
        accelerator: Accelerator,
        seed: int,
        unused: Iterable[torch.nn.Parameter] = (),
        stateful: Iterable[Any] = (),
    ):
        from accelerate.utils import DistributedDataParallelKwargs, set_seed
        from transformers import get_scheduler

        self.training, self.accelerator = training, accelerator
        self.precision = accelerator.mixed_precision
        keep_freed_memory()
        set_seed(seed)
        self.examples, self.batches = examples, batches
        parameters = _parameter_groups(model, training.weight_decay)
        optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, fused=True)
        for parameter in unused:
            parameter.requires_grad_(False)
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=drops_layers(model))
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.max_steps = training.max_steps if training.max_steps > 0 else self._steps_of_epochs()
        self.scheduler = get_scheduler(
            training.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=math.ceil(training.warmup_ratio * self.max_steps),
            num_training_steps=self.max_steps,
            scheduler_specific_kwargs={"lr_end": 0.0} if training.lr_scheduler_type == "polynomial" else None,
        )
        self.accelerator.register_for_checkpointing(self.scheduler, *stateful)
        self.progress = Progress()
        self.pending = PendingSteps(self.progress, scaled=self.precision == "fp16")

    def _steps_of_epochs(self) -> int:
        """Steps of all epochs; the last one may be a fraction of an epoch."""
        epochs = self.training.num_train_epochs
        whole: int = sum(map(self._steps_of_epoch, range(int(epochs))))
        part = round((epochs - int(epochs)) * self._steps_of_epoch(int(epochs)), 6)  # 1.1 - 1 is above 0.1
        return max(1, whole + math.ceil(part))

    def _steps_of_epoch(self, epoch: int) -> int:
        return steps_of_epoch(self.batches, self.training, self.accelerator.num_processes, epoch)

    def _batches_of_epoch(self, epoch: int) -> int:
        """Batches of one process."""
        processes: int = self.accelerator.num_processes
        return math.ceil(self.batches.count(epoch) / processes)

    @property
    def device(self) -> str:
        return str(self.accelerator.device.type)

    @property
    def plain_model(self) -> torch.nn.Module:
        """The model for prediction, without Accelerate's wrapper, whose forward pass synchronizes all processes."""
        model: torch.nn.Module = self.accelerator.unwrap_model(self.model)
        return model

    def save(self, folder: Path) -> None:
        """Saves all state that an exact resume needs; every process must call it.

        Raises:
            UserError: the loss or a gradient of a step since the last event was not finite (nothing is saved).
        """
        self.pending.settle()
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(folder))
        if self.accelerator.is_main_process:
            (folder / PROGRESS).write_text(json.dumps(asdict(self.progress)))
        self.accelerator.wait_for_everyone()

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote."""
        self.accelerator.load_state(str(folder))
        self.progress = self.pending.progress = read_progress(folder)
        self.pending.saved = self.progress.step

    def summary(self) -> dict[str, float]:
        """Mean loss, rows per second, wall and CPU seconds, and steps of the whole training, earlier runs included."""
        progress = self.progress
        return {
            "train_loss": progress.loss_sum / max(1, progress.step),
            "train_samples_per_second": progress.rows / max(1e-9, progress.seconds),
            "train_runtime": progress.seconds,
            "train_cpu_seconds": progress.cpu_seconds,
            "steps": progress.step,
        }

    def train(
        self, loss: StepLoss, evaluate: Evaluate | None, *, better: float, stop: Callable[[], int]
    ) -> Iterator[Event]:
        """Trains to the end.

        Yields `progress` after every step, `train` every logging_steps, `evaluate` with the metrics and `is_best`, and
        `checkpoint` when the caller should save, the last time after the last step. Losses stay on the device until
        one of the last three: no step waits for the device, and no weights are saved before their losses were checked.
        `out of memory` comes before a step is repeated in smaller micro-batches, which all later steps have, too.

        Args:
            evaluate: returns the metrics; the best checkpoint is selected by the one called `objective`.
            better: +1 if a larger objective is better, -1 if a smaller one is.
            stop: returns the number of a signal that requests a stop, or 0. Several processes agree on it only after
                a step that logs, evaluates or saves: agreeing makes them wait for each other.

        Raises:
            UserError: the loss or a gradient is NaN or infinite, with its step.
            Interrupted: `stop()` returned a signal; the event before it is a `checkpoint`.
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
        self, loss: StepLoss, evaluate: Evaluate | None, better: float, stop: Callable[[], int]
    ) -> Iterator[Event]:
        progress, training = self.progress, self.training
        self.pending.loss = loss
        rows_logged, seconds_logged = progress.rows, progress.seconds
        self.model.train()
        while progress.step < self.max_steps and not self._out_of_patience():
            for (begin, cpu_begin), batches in with_start_times(self._rest_of_epoch()):
                step = self._step(loss, batches)
                if step is None:
                    progress.micro_batches *= 2
                    progress.seconds += time.perf_counter() - begin
                    progress.cpu_seconds += time.process_time() - cpu_begin
                    yield self._out_of_memory_event(batches)
                    break  # the rest of the epoch, from this step, is read again in smaller micro-batches
                self.pending.append(step)
                self.scheduler.step()
                progress.step += 1
                progress.batch += len(batches)
                done = progress.step >= self.max_steps
                epoch_ends = progress.batch >= self._batches_of_epoch(progress.epoch)
                logs = progress.step % training.logging_steps == 0 or done
                due = done or self._is_due(epoch_ends)
                evaluates = evaluate is not None and due
                settles = logs or evaluates or self._saves(due)
                if settles:
                    self.pending.settle()
                progress.seconds += time.perf_counter() - begin
                progress.cpu_seconds += time.process_time() - cpu_begin
                if progress.step % TRIM_STEPS == 0:
                    return_freed_memory()
                if epoch_ends:
                    progress.epoch, progress.batch = progress.epoch + 1, 0
                yield self._progress_event()
                if logs:
                    rows, seconds = progress.rows - rows_logged, progress.seconds - seconds_logged
                    event = self._train_event(loss, samples_per_second=rows / max(1e-9, seconds))
                    self._track(event)
                    yield event
                    rows_logged, seconds_logged = progress.rows, progress.seconds
                if evaluate is not None and evaluates:
                    event = self._evaluate_event(evaluate, better)
                    self._track(event)
                    yield event
                    self.model.train()
                signum = self._any_signal(stop()) if settles or self.accelerator.num_processes == 1 else 0
                if signum or done or self._out_of_patience() or self._saves(due):
                    self.pending.settle()
                    yield {"event": "checkpoint", "step": progress.step}
                    self.pending.saved = progress.step
                if signum:
                    raise Interrupted(
                        signum,
                        f"interrupted at step {progress.step} of {self.max_steps}; a checkpoint is saved",
                        hint="run the same command again to resume",
                    )
                if done or self._out_of_patience():
                    return

    def _step(self, loss: StepLoss, batches: StepBatches) -> Step | None:
        """One optimizer step; None, with no gradient and unchanged weights, if smaller micro-batches may fit.

        Raises:
            UserError: there are several processes, and a GPU has not enough memory. Those of them that had enough wait
                for the gradients of this one, so that they cannot agree on a size.
            RuntimeError: the memory does not suffice for micro-batches of one row.
        """
        try:
            means, totals = self._add_gradients(loss, batches)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error, self.accelerator.device):
                raise
            if self.accelerator.num_processes > 1:
                raise UserError(
                    f"step {self.progress.step + 1}: {explained(error).args[0]}",
                    hint=f"only a single process divides its batches: set {smaller_batches(self.training, 2)}",
                ) from error
            if max(_rows(batches)) == 1:
                raise
        else:
            return self._update(means, totals, batches)
        self.optimizer.zero_grad()
        release_gpu_memory()
        return None

    def _add_gradients(self, loss: StepLoss, batches: StepBatches) -> tuple[Tensor, Tensor]:
        """Adds up the gradients of all micro-batches; returns the means of the losses, and their denominators.

        The losses are means over all rows of the step: of all batches, in all processes. Gradients are averaged over
        the processes, so that each process multiplies its part by their number.
        """
        processes = self.accelerator.num_processes
        micro_batches = [(index, part) for index, parts in enumerate(batches) for part in parts]
        denominators = torch.stack([self._denominators(loss, batch, index) for index, batch in micro_batches])
        totals = self._sum(denominators.sum(0))  # (L + 1,)
        shares = denominators[:, :-1] / torch.where(totals > 0, totals, 1)[:-1]  # (number of micro-batches, L)
        means = torch.zeros_like(totals[:-1])  # over the step, the part of this process
        for number, (_, batch) in enumerate(micro_batches):
            is_last = number == len(micro_batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                of_batch = loss.means(
                    self.model, {name: values.to(totals.device, non_blocking=True) for name, values in batch.items()}
                )
                parts = {name: share * of_batch[name] for name, share in zip(loss.weights, shares[number], strict=True)}
                self.accelerator.backward(loss.total(parts) * processes)
            means += torch.stack([part.detach() for part in parts.values()])
        return means, totals

    def _update(self, means: Tensor, totals: Tensor, batches: StepBatches) -> Step:
        """Updates the weights by the gradients, which it then drops.

        Raises:
            UserError: a GPU has not enough memory for the optimizer.
        """
        limit = self.training.max_grad_norm or float("inf")
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        try:
            self.optimizer.step()
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error, self.accelerator.device):
                raise
            raise UserError(
                f"step {self.progress.step + 1}: out of memory in the optimizer, which has two float32 numbers "
                "for each trained parameter",
                hint="smaller batches do not help here: train a student with fewer parameters, or free the GPU",
            ) from error
        self.optimizer.zero_grad()
        rows = sum(_rows(batches)) * self.accelerator.num_processes
        return Step(self._sum(means), totals, norm.to(totals), rows)

    def _denominators(self, loss: StepLoss, batch: Batch, index: int) -> Tensor:
        """The denominators (L + 1,) of the losses for the batch `index` of a step, and its number of rows.

        All are 0 for a batch that only fills up the last group of an epoch, see `OwnBatches`.
        """
        denominators = loss.denominators(batch)
        values = [float(denominators[name]) for name in loss.weights] + [float(len(batch["attention_mask"]))]
        position = (self.progress.batch + index) * self.accelerator.num_processes + self.accelerator.process_index
        if position >= len(self.batches):
            values = [0.0] * len(values)
        return torch.tensor(values, device=self.accelerator.device)

    def _sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        total: Tensor = self.accelerator.reduce(values, "sum")
        return total

    def _rest_of_epoch(self) -> Iterator[StepBatches]:
        """The batches of every further step, on the CPU."""
        self.batches.epoch = self.progress.epoch
        loader: Any = torch.utils.data.DataLoader(
            MicroBatches(self.examples, self.progress.micro_batches),
            batch_sampler=OwnBatches(self.batches, self.accelerator, skip=self.progress.batch),
            collate_fn=_identity,  # type: ignore[arg-type]
            num_workers=self.training.dataloader_num_workers,
            pin_memory=self.device == "cuda",
            generator=torch.Generator(),  # else every epoch, also a resumed one, draws from the generator of dropout
        )
        yield from groups(loader, self.training.gradient_accumulation_steps)

    def _progress_event(self) -> Event:
        """Rows of pending steps are counted as if all processes had as many as this one."""
        progress = self.progress
        rows, last_loss = progress.rows + self.pending.rows, self.pending.last_loss
        known = {} if last_loss is None else {"loss": last_loss}
        return events.progress(progress.step, self.max_steps, rows=rows, seconds=progress.seconds, **known)

    def _out_of_memory_event(self, batches: StepBatches) -> Event:
        """That the next step, of these batches, is repeated in smaller micro-batches."""
        rows = max(_rows(batches))
        return {
            "event": "out of memory",
            "step": self.progress.step + 1,
            "rows_before": rows,
            "rows": math.ceil(rows / 2),
            "micro_batches": self.progress.micro_batches,
            "settings": smaller_batches(self.training, self.progress.micro_batches),
        }

    def _train_event(self, loss: StepLoss, *, samples_per_second: float) -> Event:
        """The means of the losses over all rows since the last one."""
        means = self.pending.take_means()
        return {
            "event": "train",
            "step": self.progress.step,
            "epoch": self._epochs(),
            "loss": round(loss.total(means), 6),
            **{name: round(value, 6) for name, value in means.items()},
            "learning_rate": self.scheduler.get_last_lr()[0],
            "samples_per_second": round(samples_per_second, 1),
        }

    def _evaluate_event(self, evaluate: Evaluate, better: float) -> Event:
        """The metrics, and whether they are the best; of two equal scores, that with the lower loss is the best."""
        metrics = evaluate()
        objective, loss = metrics.pop("objective"), metrics.get("loss", math.inf)
        progress = self.progress
        first = progress.best is None or math.isnan(progress.best)
        is_better = first or better * objective > better * (progress.best or 0.0)
        is_best = is_better or (objective == progress.best and loss < progress.best_loss)
        if is_best:
            progress.best, progress.best_loss, progress.best_step = objective, loss, progress.step
        falls = "loss" not in metrics or loss < FALL * progress.lowest_loss
        progress.improving = is_best and falls and not first
        progress.worse = 0 if is_better or loss < progress.lowest_loss else progress.worse + 1
        progress.lowest_loss = min(loss, progress.lowest_loss)
        return {"event": "evaluate", "step": progress.step, "epoch": self._epochs(), **metrics, "is_best": is_best}

    def _track(self, event: Event) -> None:
        """Reports the numbers to the trackers of `report_to`, if any, as `train/loss`, `evaluate/accuracy`, ..."""
        numbers = {f"{event['event']}/{name}": value for name, value in event.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=event["step"])

    def _is_due(self, epoch_ends: bool) -> bool:
        """Whether `eval_strategy` requires an evaluation after this step, if there are validation rows."""
        if self.training.eval_strategy == "epoch":
            return epoch_ends
        steps = self.training.eval_steps or self.training.logging_steps
        return self.training.eval_strategy == "steps" and self.progress.step % steps == 0

    def _saves(self, due: bool) -> bool:
        """Whether a checkpoint is saved after this step: without `save_steps` where an evaluation is due, also without
        validation rows, so that a killed run does not lose everything."""
        steps = self.training.save_steps
        return due if steps is None else self.progress.step % steps == 0

    def _out_of_patience(self) -> bool:
        patience = self.training.early_stopping_patience
        return patience is not None and self.progress.worse >= patience

    def _epochs(self) -> float:
        return round(self.progress.epoch + self.progress.batch / self._batches_of_epoch(self.progress.epoch), 2)

    def _any_signal(self, signum: int) -> int:
        """A signal that any process received, on all processes: if only one stopped, the others would wait for it."""
        if self.accelerator.num_processes == 1:
            return signum
        signals = torch.tensor([signum], device=self.accelerator.device)
        return int(self.accelerator.gather(signals).max())


def _trackers(training: Training) -> list[str]:
    """The names in `report_to`; Accelerate would silently skip one whose package is missing."""
    for name in training.report_to:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"training.report_to: the package '{name}' is not installed",
                hint=f"pip install {name}, or leave it out",
            )
    return list(training.report_to)


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for biases and layer norms (one dimension)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _rows(batches: StepBatches) -> list[int]:
    """Rows of each micro-batch of a step."""
    return [len(batch["attention_mask"]) for batch in itertools.chain(*batches)]


def _identity(batch: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """The collate function: `MicroBatches` are whole batches."""
    return batch
