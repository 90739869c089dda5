"""The losses of training steps, which stay on the device until they are needed, so that no step waits for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tinybert_cli.errors import UserError
from tinybert_cli.loops.inference import StepLoss, weighted_mean
from tinybert_cli.loops.progress import Progress


@dataclass(frozen=True)
class Step:
    """A step that is done, with L losses on the device."""

    means: Tensor  # (L,) over all its batches in all processes
    totals: Tensor  # (L + 1,) denominators of the means, and the number of rows
    norm: Tensor  # () of the gradients, before they were clipped
    rows: int  # of this process, times the number of processes


@dataclass(frozen=True)
class _Losses:
    """The losses of one step, over all its batches in all processes."""

    means: Mapping[str, float]
    denominators: Mapping[str, float]


@dataclass
class PendingSteps:
    """Steps that are done and in `progress.step`, but whose losses and rows are not in the progress yet.

    Args:
        scaled: whether a gradient scaler skips a step whose gradients are infinite, as in fp16.
    """

    progress: Progress
    scaled: bool
    loss: StepLoss | None = None  # of the training; None before it
    saved: int | None = None  # the step of the last checkpoint
    last_loss: float | None = None  # of the last step whose loss was read
    _steps: list[Step] = field(default_factory=list)
    _read: list[_Losses] = field(default_factory=list)  # since `take_means`

    def append(self, step: Step) -> None:
        self._steps.append(step)

    @property
    def rows(self) -> int:
        """As if all processes had as many as this one."""
        return sum(step.rows for step in self._steps)

    def settle(self) -> None:
        """Reads the losses from the device, all at once, and adds them to the progress.

        Raises:
            UserError: the loss or a gradient of a step is not finite; the weights are worthless from this step on.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        assert self.loss is not None  # the training has begun
        values = torch.stack([torch.cat([step.means, step.totals, step.norm[None]]) for step in steps]).tolist()
        names = list(self.loss.weights)
        for number, (*losses, rows, norm) in enumerate(values, self.progress.step - len(steps) + 1):
            means, totals = losses[: len(names)], losses[len(names) :]
            step = _Losses(dict(zip(names, means, strict=True)), dict(zip(names, totals, strict=True)))
            total = self.loss.total(step.means)
            self._check_finite(number, total, norm)
            self.progress.loss_sum += total
            self.progress.rows += int(rows)
            self._read.append(step)
            self.last_loss = total

    def take_means(self) -> dict[str, float]:
        """The mean of each loss over all rows of the steps that were settled since the last call."""
        assert self.loss is not None  # the training has begun
        steps, self._read = self._read, []
        return {
            name: weighted_mean((step.means[name], step.denominators[name]) for step in steps)
            for name in self.loss.weights
        }

    def _check_finite(self, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and (self.scaled or math.isfinite(norm)):
            return
        what = "gradient" if math.isfinite(loss) else "loss"
        checkpoint = (
            "no checkpoint was saved before this step"
            if self.saved is None
            else f"the checkpoint of step {self.saved} is kept"
        )
        raise UserError(
            f"the {what} is not finite at step {step}",
            hint=f"lower training.learning_rate, or try training.mixed_precision=no; {checkpoint}",
        )
