"""The scores of a model on the validation rows, during training and of the finished folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from tinybert_cli import data, loops, metrics, models, tasks
from tinybert_cli.reports import model_card
from tinybert_cli.stages.preparation import TrainingRun, Validation
from tinybert_cli.types import Predictions

RESAMPLES = 1000  # for the 95 % intervals, as many as `eval` draws by default


class Evaluation(Protocol):
    """Scores a model on the validation rows."""

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        """The metrics during training; the one that selects checkpoints is among them."""

    def result(
        self, folder: Path, trained: torch.nn.Module, best_loss: float | None
    ) -> tuple[model_card.Result, dict[str, Any]]:
        """The metrics of the finished folder with 95 % intervals, and the tuned settings for its config.json."""


@dataclass(frozen=True)
class ValidationScores:
    """Scores a model on the validation rows: by its predictions, or by the loss if the task makes none."""

    run: TrainingRun
    validation: Validation
    loss: loops.StepLoss
    scale: models.OutputScale | None  # of the outputs in training

    def scores(self, model: torch.nn.Module) -> dict[str, float]:
        """The task's metrics, during training."""
        metric = self.validation.metric
        if metric is None:
            return self._mean_loss(model)
        predictions, _ = self._predictions(model, metric, self.scale)
        return self._watched(metrics.score(metric, predictions))

    def result(
        self, folder: Path, trained: torch.nn.Module, best_loss: float | None
    ) -> tuple[model_card.Result, dict[str, Any]]:
        """The metrics of the finished folder with 95 % intervals, and the tuned settings for its config.json.

        A task with predictions is scored on the weights in `folder`, in float32, as `eval` will load them. The loss
        needs the projections, which are not in the folder: it is the best one of the training, or that of `trained`.
        """
        metric, rows = self.validation.metric, len(self.validation.rows)
        if metric is None:
            loss = self._mean_loss(trained)["loss"] if best_loss is None else best_loss
            return model_card.Result("validation", len(self.validation.examples), {"loss": loss}, {}), {}
        model = models.load(models.locate(str(folder)), self.run.task.head, cls_only=True)
        model = model.to(self.run.accelerator.device)
        predictions, tuned = self._predictions(model, metric, None)
        statistics = metric.statistics(predictions)
        scores = self._watched(metrics.score(metric, predictions, statistics))
        intervals = metrics.intervals(
            metric, predictions, statistics, self.run.task.metrics, resamples=RESAMPLES, seed=self.run.config.seed
        )
        return model_card.Result("validation", rows, scores, intervals), tuned

    def _predictions(
        self, model: torch.nn.Module, metric: metrics.Metric, scale: models.OutputScale | None
    ) -> tuple[Predictions, dict[str, Any]]:
        """The predictions with the thresholds that score best, and these thresholds."""
        task, validation = self.run.task, self.validation
        assert isinstance(task, tasks.PredictionTask)  # it has a metric
        logits = loops.predict_all(model, validation.examples, self._batches, accelerator=self.run.accelerator)
        logits = logits if scale is None else scale.from_standard(logits)
        tuned = metric.tune_thresholds(logits, validation.layout)
        names, rows, settings = validation.label_names, validation.rows, self.run.config.data
        return task.decide(logits, validation.layout, names, rows, settings, tuned), tuned

    def _mean_loss(self, model: torch.nn.Module) -> dict[str, float]:
        return loops.mean_loss(
            model, self.loss, self.validation.examples, self._batches, accelerator=self.run.accelerator
        )

    def _watched(self, scores: Mapping[str, float]) -> dict[str, float]:
        return {name: scores[name] for name in self.run.task.metrics}

    @property
    def _batches(self) -> Sequence[list[int]]:
        return data.sorted_batches(
            self.validation.examples.lengths, self.run.config.training.per_device_eval_batch_size
        )
