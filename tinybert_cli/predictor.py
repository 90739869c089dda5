"""Models that are asked for answers, whatever form they are in: a model folder, a Hub id or an export.

No stage of its own; `evaluate` and `gen_soft_labels` stand on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinybert_cli import formats, loops, models, tasks


@dataclass(frozen=True)
class Opened:
    """A model on its device, and its tokenizer."""

    net: Any
    tokenizer: Any
    names: list[str]  # the classes in the order of its outputs
    size: dict[str, int]  # its parameters; empty of an export, which does not say


def opened(source: models.Source, task: tasks.PredictionTask, names: list[str] | None) -> Opened:
    """The model with a head for the task.

    Raises:
        InputError: it cannot be read, or its classes are not `names`.
    """
    tokenizer = models.load_tokenizer(source)
    found = models.check_outputs(source, names, task.problem)
    net = formats.read_exported(models.fetch(source))
    if net is not None:
        return Opened(net, tokenizer, found, {})
    model = models.load(source, task.head, label_names=names, problem=task.problem, cls_only=True)
    models.check_vocabulary(model, tokenizer, source)
    return Opened(model.to(loops.device()), tokenizer, found, models.size(model))
