"""The position of a training run, which a checkpoint holds."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

PROGRESS = "progress.json"  # the file of a checkpoint that holds a Progress


@dataclass
class Progress:
    """Position of a run; a checkpoint holds it next to weights, optimizer, schedule and random states."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done
    batch: int = 0  # batches done in this epoch, of one process
    micro_batches: int = 1  # that each batch is computed in; more after a GPU ran out of memory
    rows: int = 0  # of all processes
    seconds: float = 0.0  # of training, without evaluation and saving
    cpu_seconds: float = 0.0  # of all threads of this process in that time
    loss_sum: float = 0.0  # over all steps
    best: float | None = None
    best_loss: float = math.inf
    best_step: int = 0
    lowest_loss: float = math.inf  # on the validation rows
    worse: int = 0  # evaluations since the last better score or lower loss
    improving: bool = False  # whether the last evaluation was clearly the best one, by score and by loss


def read_progress(folder: Path) -> Progress:
    """The progress in a checkpoint that `Trainer.save` wrote."""
    return Progress(**json.loads((folder / PROGRESS).read_text()))
