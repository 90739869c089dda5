"""The precision of the labels of a label dataset, and how far it takes them from float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinybert_cli import artifacts, loops, models, processes, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.predictor import Predictor
from tinybert_cli.types import Array, Predictions

SAMPLED_ROWS = 64  # of the first shard, labelled in float32 as well
NOTE = "mixed_precision"  # in the notes of a run


@dataclass(frozen=True)
class LabelPrecision:
    """What the teachers compute in, and what their logits are stored in.

    The head of a teacher always computes in float32, and so does the whole teacher where it predicts numbers: bf16 has
    8 significant bits.
    """

    encoders: list[str]  # of each teacher: `no` (float32), `bf16`, or `as exported`
    storage: str  # float32 or float16

    @property
    def precision(self) -> str:
        """For the plan and the manifest, as in the other stages."""
        return ", ".join(dict.fromkeys(self.encoders))

    @property
    def is_reduced(self) -> bool:
        """Whether the labels can differ from those of a run in float32."""
        return "bf16" in self.encoders or self.storage != "float32"

    def for_manifest(self) -> dict[str, str]:
        weights = self.precision.replace("no", "float32")
        heads = dict.fromkeys("as exported" if name == "as exported" else "float32" for name in self.encoders)
        return {"weights": weights, "head": ", ".join(heads), "storage": self.storage}


def label_precision(
    config: GenSoftLabels, task: tasks.PredictionTask, teachers: Sequence[Predictor], output: artifacts.Output
) -> LabelPrecision:
    """The precision that these teachers, loaded in float32, will label in; see `reduce_precision`."""
    requested = "no" if task.output_type == "value" else config.mixed_precision
    auto = auto_precision(output) if requested == "auto" else None

    def of(teacher: Predictor) -> str:
        if teacher.model is None:
            return "as exported"
        family = models.float32_family_of(teacher.torch_model)
        chosen = auto if auto and family is None else loops.precision(requested, float32_family=family)
        return chosen if models.has_separate_head(teacher.model) else "no"

    return LabelPrecision([of(teacher) for teacher in teachers], config.logits_dtype)


def auto_precision(output: artifacts.Output) -> str:
    """`bf16` where the device of the main process computes it faster than float32, else `no`: older GPUs, which have
    fp16 only, label in float32.

    A run that is resumed keeps the precision of its first process, also on another machine: all its labels have one.
    """
    noted = output.notes.get(NOTE)
    if noted is not None:
        return str(noted)
    fastest = processes.results("bf16" if loops.precision("auto") == "bf16" else "no")[0]
    output.note(NOTE, fastest)
    return fastest


def reduce_precision(precision: LabelPrecision, teachers: Sequence[Predictor]) -> None:
    """Converts the encoders of the teachers to bf16 where `precision` says so."""
    for teacher, encoder in zip(teachers, precision.encoders, strict=True):
        if encoder == "bf16":
            models.to_bf16_with_float32_head(teacher.torch_model)


def drift(
    task: tasks.PredictionTask, stored: Array, exact: Array, predictions: Predictions, exact_predictions: Predictions
) -> dict[str, float]:
    """Differences between the logits as stored (P, C) and in float32, and the agreement of the predictions."""
    difference = np.abs(stored.astype(np.float64) - exact)
    return {
        "max_abs_logit_difference": float(difference.max()),
        "mean_abs_logit_difference": float(difference.mean()),
        "agreement": task.fidelity(predictions, exact_predictions)["agreement"],
    }


def sampled_rows(rows: range, seed: int) -> list[int]:
    """Which of the rows of the first shard are labelled in float32 as well."""
    drawn: list[int] = np.sort(np.random.default_rng(seed).permutation(rows)[:SAMPLED_ROWS]).tolist()
    return drawn
