"""The baselines that `eval` scores beside the models: which ones, fitted on the training rows, and their costs.

`training_baselines` scores them beside a model that is trained, with the functions at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinybert_cli import baselines, data, events, tasks
from tinybert_cli.baselines import Baseline, Training
from tinybert_cli.config import Data, Eval, Latency
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.inspection import duplicates
from tinybert_cli.types import Encoded, Predictions, Rows


@dataclass(frozen=True)
class ScoredBaseline:
    """A fitted baseline with its predictions for the rows."""

    baseline: Baseline
    predictions: Predictions

    @property
    def facts(self) -> dict[str, float]:
        return {"bytes": self.baseline.bytes, "training_rows": self.baseline.training_rows}

    def costs(self, latency: Latency, rows: Rows) -> dict[str, float]:
        """`latency_ms_b1`, ... and their 95th percentiles: from text to prediction, unlike those of the models."""
        costs: dict[str, float] = {}
        for size in latency.batch_sizes if "data" in latency.lengths else ():
            times = self.baseline.latencies(rows, size)
            costs[f"latency_ms_b{size}"] = float(np.median(times))
            costs[f"latency_ms_b{size}_p95"] = float(np.percentile(times, 95))
        return costs


def chosen(config: Eval, task: tasks.PredictionTask | tasks.GenerationTask) -> list[str]:
    """The names of the baselines to score.

    `auto` leaves out those that have the name of a model, and all without training rows of their own.

    Raises:
        InputError: the training file does not exist.
    """
    if config.baselines != "auto":
        return list(config.baselines)
    if not isinstance(task, tasks.PredictionTask) or config.split == "train" or not data.has(config.data, "train"):
        return []
    return [name for name in baselines.names(task) if name not in config.models]


def training_inputs(
    config: Eval, task: tasks.PredictionTask | tasks.GenerationTask
) -> tuple[list[str], dict[str, Any]]:
    """The names of the baselines, and the sources of the rows that they are fitted on."""
    try:
        names = chosen(config, task)
        return names, data.sources(config.data, ["train"]) if names else {}
    except InputError:
        if config.baselines == "auto":  # the rows to score may be all that there is
            return [], {}
        raise


def fit(
    config: Eval, task: tasks.PredictionTask, names: list[str], classes: list[str], rows: Rows, encoded: Encoded
) -> Generator[Event, None, dict[str, ScoredBaseline]]:
    """The baselines by name; with `auto`, a warning if the training rows do not allow any.

    Also a warning about rows that are scored although they are training rows.
    """
    if not names:
        return {}
    scored: dict[str, ScoredBaseline] = {}
    try:
        training_rows = data.read(config.data, "train")
        task.label_names(training_rows, config.data, model_names=classes)
        training = labelled(task, config.data, classes, training_rows)
        yield from map(events.warning, _training_warnings(config, task, classes, training_rows, rows))
        for name in names:
            scored[name] = fitted(name, training, config.seed, rows, encoded)
            yield {"event": "scored", "model": name}
    except InputError as error:
        if config.baselines != "auto":
            raise
        yield events.warning(left_out([name for name in names if name not in scored], error))
    return scored


def _training_warnings(
    config: Eval, task: tasks.PredictionTask, classes: list[str], training_rows: Rows, rows: Rows
) -> Iterator[str]:
    """What the reader of the scores has to know: rows that are in both, and labels that are read in another way."""
    splits: dict[str, Rows] = {"train": training_rows, config.split: rows}
    yield from duplicates.leaks_between(splits, config.data, most=duplicates.SAMPLE)
    if not task.label_statements(rows, config.data, classes):  # else the plan has them
        for statement in task.label_statements(training_rows, config.data, classes):
            yield f"training rows of the baselines: {statement}"


def labelled(task: tasks.PredictionTask, settings: Data, classes: list[str], rows: Rows) -> Training:
    """The rows with their gold labels.

    Raises:
        InputError: no row has one, or one is not a label of the task.
    """
    labels = task.labels(rows, settings, classes)
    if labels is None:
        raise tasks.no_labels_error(rows, settings)
    if tasks.missing(labels).all():
        raise InputError("no training row has a gold label", where=rows.location(0))
    return Training(task, settings, classes, rows, labels)


def fitted(name: str, training: Training, seed: int, rows: Rows, encoded: Encoded) -> ScoredBaseline:
    """A baseline, fitted on the training rows, with its predictions for `rows`; `encoded`: these as a model reads them.

    Raises:
        InputError: nothing can be learned from the training rows.
    """
    baseline = baselines.BASELINES[training.task.name][name](training, seed)
    return ScoredBaseline(baseline, baseline.predictions(training, rows, encoded))


def left_out(names: Sequence[str], error: InputError) -> str:
    """Why baselines are missing, in a sentence without an end mark."""
    where = "" if error.where is None else f" ({error.where})"
    return f"no baseline {', '.join(names)}: {error.what}{where}"


def comparison(scores: Mapping[str, float], baseline_names: Collection[str], metric: str, sign: float) -> list[str]:
    """A warning for each model whose score (model or baseline → main metric) is not above the best baseline's."""
    known = [name for name in baseline_names if name in scores]
    if not known:
        return []
    best = max(known, key=lambda name: sign * scores[name])
    losers = [name for name in scores if name not in baseline_names and sign * scores[name] <= sign * scores[best]]
    return [
        f"{name} is no better than the baseline {best}: {metric} {scores[name]:.4f}, {scores[best]:.4f}"
        for name in losers
    ]
