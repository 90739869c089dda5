"""The only loops over batches: training, with everything a checkpoint needs, and prediction."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.config import Training
from tinybert_cli.errors import Interrupted, UserError

if TYPE_CHECKING:
    from accelerate import Accelerator

Row = dict[str, Any]
Batch = dict[str, Tensor]
Array = np.ndarray[Any, np.dtype[Any]]
StepLoss = Callable[[torch.nn.Module, Batch], Mapping[str, Tensor]]  # must return "loss", and may name its parts


class Batches(Protocol):
    """An order of batches that is fixed by the epoch."""

    epoch: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[list[int]]: ...


class Examples(Protocol):
    """Rows that come as batches."""

    def __len__(self) -> int: ...
    def __getitems__(self, indices: Sequence[int]) -> Batch: ...


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


class Learner:
    """A model in training: `train` goes on from wherever `load` left off, and `save` may be called at any row."""

    def __init__(self, model: torch.nn.Module, examples: Examples, batches: Batches, training: Training, *, seed: int):
        from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
        from accelerate.utils import set_seed
        from transformers import get_scheduler

        self.training = training
        self.precision = precision(training.mixed_precision)
        self.accelerator = Accelerator(
            mixed_precision=self.precision,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            log_with=list(training.report_to) or None,
            dataloader_config=DataLoaderConfiguration(even_batches=True),
            # layer losses leave the head alone, and most families have a pooler that nothing reads
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
            step_scheduler_with_optimizer=False,
        )
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
        progress, training = self.progress, self.training
        since_log: list[Mapping[str, Tensor]] = []
        rows_logged, seconds_logged = progress.rows, progress.seconds
        self.model.train()
        while progress.step < self.max_steps and not self._out_of_patience():
            for batch in self._rest_of_epoch():
                begin = time.perf_counter()
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
                    yield {"event": "train", "step": progress.step, "epoch": self._epochs(), **_means(since_log),
                           "learning_rate": rate, "samples_per_second": round(speed, 1)}  # fmt: skip
                    since_log, rows_logged, seconds_logged = [], progress.rows, progress.seconds
                evaluated = evaluate is not None and (done or self._is_due(epoch_ends))
                if evaluate is not None and evaluated:
                    yield self._evaluated(evaluate, better)
                    self.model.train()
                signum = self._agreed(stop())
                if signum or (not done and self._saves(evaluated)):
                    yield {"event": "checkpoint", "step": progress.step}
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
        raise UserError(
            f"the {what} is not finite at step {self.progress.step + 1}",
            hint="lower training.learning_rate, or try training.mixed_precision=no; "
            "the last checkpoint from before it is kept",
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


def forward(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """What the model says about a batch: `logits` (B, ...)."""
    said: Mapping[str, Tensor] = model(**{name: value for name, value in batch.items() if name in MODEL_INPUTS})
    return said


def predict(
    model: torch.nn.Module, examples: Examples, batches: Sequence[list[int]], *, accelerator: Accelerator | None = None
) -> Iterator[tuple[list[int], Array]]:
    """The logits of each batch, float32 (B, ...), with the positions of its rows; in eval mode, without gradients.

    With several processes each takes every n-th batch; every process is given all the answers.
    """
    model.eval()
    device = _device_of(model)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    with torch.no_grad():
        for begin in range(0, len(batches), world):
            mine = batches[begin + rank] if begin + rank < len(batches) else []
            answer = (mine, _logits(model, examples, mine, device)) if mine else None
            if world == 1:
                assert answer is not None
                yield answer
                continue
            from accelerate.utils import gather_object

            yield from (item for item in gather_object([answer]) if item is not None)


def predict_all(model: torch.nn.Module, examples: Examples, batches: Sequence[list[int]], **options: Any) -> Array:
    """The logits of all rows, in their order (N, ...)."""
    parts = list(predict(model, examples, batches, **options))
    order = np.concatenate([np.asarray(rows) for rows, _ in parts])
    logits: Array = np.concatenate([values for _, values in parts])
    return logits[np.argsort(order)]


def latencies(nets: Mapping[str, torch.nn.Module], batches: Mapping[str, Sequence[Batch]]) -> dict[str, float]:
    """Median milliseconds of one forward pass of each model over its batches, after a warm-up.

    The models take turns batch by batch, so that the ratios hold on a machine whose speed drifts.
    """
    taken: dict[str, list[float]] = {name: [] for name in nets}
    places = {name: _device_of(net) for name, net in nets.items()}
    rounds = list(zip(*batches.values(), strict=True))
    with torch.no_grad():
        for number, shown in enumerate([*rounds[:3], *rounds]):  # the first three are the warm-up
            for name, batch in zip(batches, shown, strict=True):
                on_device = {key: value.to(places[name]) for key, value in batch.items()}
                begin = time.perf_counter()
                forward(nets[name].eval(), on_device)["logits"].cpu()
                if number >= len(rounds[:3]):
                    taken[name].append(1000 * (time.perf_counter() - begin))
    return {name: float(np.median(values)) for name, values in taken.items()}


def _device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's weights are; an exported model has none, and takes its input on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def to_bf16_if_faster(model: torch.nn.Module, asked: str) -> str:
    """For prediction: bf16 weights where the machine multiplies them faster; says which precision was taken."""
    taken = precision(asked)
    if taken == "bf16":
        model.to(torch.bfloat16)
    return taken


def fastest_attention(device: str, max_seq_length: int) -> str:
    """`eager` for training on short text on a CPU, where sdpa with dropout falls back to a slower path; else `sdpa`."""
    return "eager" if device == "cpu" and max_seq_length <= SHORT else "sdpa"


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _logits(model: torch.nn.Module, examples: Examples, rows: list[int], device: torch.device) -> Array:
    batch = {name: value.to(device) for name, value in examples.__getitems__(rows).items()}
    logits: Array = forward(model, batch)["logits"].float().cpu().numpy()
    return logits


def precision(asked: str) -> str:
    """What `auto` comes to: bf16 where the device computes it faster than float32 (no); fp16 on older GPUs."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    cpu = torch.cpu.get_capabilities()
    return "bf16" if cpu.get("avx512_bf16") or cpu.get("amx_bf16") else "no"


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


SHORT = 256  # tokens; below it sdpa gains nothing on a CPU
MODEL_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
