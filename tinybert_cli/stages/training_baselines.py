"""The baselines beside a model that is trained: fitted on the gold labels of its training rows, scored on its
validation rows, before the training.

A training beside this one may have scored the same baselines on the same data: its numbers are read instead.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, baselines, events, metrics, processes, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.reports import model_card
from tinybert_cli.reports.finished_evals import own_metrics
from tinybert_cli.stages import baseline_scores
from tinybert_cli.stages.preparation import TrainingData, TrainingRun, Validation
from tinybert_cli.stages.validation_scores import RESAMPLES
from tinybert_cli.types import Layout

Numbers = dict[str, float]
NOTE = "baselines"  # in the notes of a run
THIS_MODEL = "this model"  # in warnings: folders and baselines may have the same name


@dataclass(frozen=True)
class BaselineScores:
    """Baselines on the validation rows of a training."""

    numbers: Mapping[str, Numbers] = field(default_factory=dict)  # name → metrics, ends of intervals, size, rows
    checksum: str | None = None  # of everything that the numbers depend on; None if they may not be read again
    reason: str | None = None  # why some or all are left out, in a sentence without an end mark

    @property
    def flat(self) -> Numbers:
        """`<name>.<metric>`, as in the metrics.json of `eval`."""
        return {f"{name}.{key}": value for name, own in self.numbers.items() for key, value in own.items()}

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"baselines": list(self.numbers), "baselines_checksum": self.checksum}


def chosen(run: TrainingRun, validation: Validation | None, *, scores_matter: bool) -> list[str]:
    """The names of the baselines to score; `auto` leaves them out where there is nothing to compare.

    Args:
        scores_matter: whether the scores of the model show how good it is; False if its head is not trained.

    Raises:
        InputError: the config names baselines, but no validation row can score them.
    """
    listed, task = run.config.baselines, run.task
    if listed == "auto":
        scorable = isinstance(task, tasks.PredictionTask) and validation is not None and scores_matter
        return baselines.names(task) if scorable and isinstance(task, tasks.PredictionTask) else []
    if listed and validation is None:
        raise InputError(
            f"no validation rows with labels, on which baselines could be scored ({', '.join(listed)})",
            hint="set data.validation_file, or `baselines: []`",
        )
    return list(listed)


def score(run: TrainingRun, training_data: TrainingData, names: list[str]) -> Generator[Event, None, BaselineScores]:
    """Scores the baselines in the first process, for which the others wait; a resumed run has their scores.

    Yields an event for each, and with `auto` a warning if the training rows do not allow any.

    Raises:
        InputError: the config names a baseline that cannot be fitted.
    """
    if not names:
        return BaselineScores()
    with processes.main_first():
        if not run.output.main:
            return BaselineScores()
        noted = run.output.notes.get(NOTE)
        if noted is not None:
            scores = BaselineScores(**noted)
            yield from (_event(run.task, name, own) for name, own in scores.numbers.items())
            return scores
        scores = yield from _score(run, training_data, names)
        run.output.note(NOTE, asdict(scores))
        return scores


def comparison(run: TrainingRun, result: model_card.Result | None, scores: BaselineScores) -> list[str]:
    """A warning if the trained model is no better than the best baseline."""
    metric = run.task.main_metric
    known = {name: own[metric] for name, own in scores.numbers.items() if metric in own}
    if result is None or not math.isfinite(result.scores.get(metric, math.nan)):
        return []
    sign = run.task.objective(metric)[1]
    return baseline_scores.comparison({THIS_MODEL: result.scores[metric], **known}, known, metric, sign)


def _score(run: TrainingRun, training_data: TrainingData, names: list[str]) -> Generator[Event, None, BaselineScores]:
    config, task, validation = run.config, run.task, training_data.validation
    assert isinstance(task, tasks.PredictionTask) and validation is not None and validation.metric is not None
    assert training_data.rows is not None  # they are stored after this
    checksum = _checksum(run, validation, names)
    earlier = None if checksum is None else _earlier(run.output.folder, names, checksum)
    if earlier is not None:
        folder, numbers = earlier
        yield from (_event(task, name, own, scored_by=folder.name) for name, own in numbers.items())
        return BaselineScores(numbers, checksum)
    numbers = {}
    try:
        rows = training_data.rows
        training = baseline_scores.labelled(task, config.data, validation.label_names, rows)
        for name in names:
            scored = baseline_scores.fitted(name, training, config.seed, validation.rows, validation.encoded)
            numbers[name] = _numbers(run, validation.metric, scored)
            yield _event(task, name, numbers[name])
    except InputError as error:
        if config.baselines != "auto":
            raise
        reason = baseline_scores.left_out([name for name in names if name not in numbers], error)
        yield events.warning(reason)
        return BaselineScores(numbers, reason=reason)
    return BaselineScores(numbers, checksum)


def _numbers(run: TrainingRun, metric: metrics.Metric, scored: baseline_scores.ScoredBaseline) -> Numbers:
    """The metrics that are watched in training, those that are defined, with the ends of their 95 % intervals."""
    statistics = metric.statistics(scored.predictions)
    undefined = metric.undefined(scored.predictions)
    watched = [name for name in run.task.metrics if name not in undefined]
    values = metrics.score(metric, scored.predictions, statistics)
    ends = metrics.intervals(metric, scored.predictions, statistics, watched, resamples=RESAMPLES, seed=run.config.seed)
    numbers: Numbers = {}
    for name in watched:
        if math.isfinite(values[name]):
            numbers[name] = values[name]
            if name in ends:
                numbers[f"{name}_low"], numbers[f"{name}_high"] = ends[name]
    return numbers | scored.facts


def _event(task: tasks.Task, name: str, numbers: Numbers, **facts: str) -> Event:
    return {"event": "baseline", "model": name, "metric": task.main_metric, **facts, **numbers}


def _checksum(run: TrainingRun, validation: Validation, names: list[str]) -> str | None:
    """The hash of everything that the numbers depend on; None for data on the Hub without a revision."""
    config, described = run.config, run.output.inputs
    inputs = {
        name: [_content(one) for one in (value if isinstance(value, list) else [value])]
        for name, value in described.items()
        if name == "label_dataset" or name.startswith("data.")
    }
    if any(one.get("revision") is None for own in inputs.values() for one in own if "hub_id" in one):
        return None
    sources = {name for name in type(config.data).model_fields if name.endswith("_file")} | {"dataset_name"}
    return artifacts.digest(
        {
            "baselines": names,
            "task": config.task,
            "data": config.data.model_dump(mode="json", exclude=sources),
            "inputs": inputs,
            "min_confidence": artifacts.settings_of(config).get("min_confidence"),
            "classes": list(validation.label_names),
            "layout": _layout_hash(validation.layout),
            "seed": config.seed,
            "resamples": RESAMPLES,
            "versions": {name: metadata.version(name) for name in ("tinybert", "scikit-learn", "numpy")},
        }
    )


def _content(described: Mapping[str, Any]) -> dict[str, Any]:
    """A described input without its path: equal content has an equal one."""
    return {key: value for key, value in described.items() if key != "path"}


def _layout_hash(layout: Layout | None) -> str | None:
    """Of where the predictions are: those of tokens depend on the tokenizer."""
    if layout is None:
        return None
    parts = [layout.row_offsets, *([] if layout.token_spans is None else [layout.token_spans])]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def _earlier(output: Path, names: list[str], checksum: str) -> tuple[Path, dict[str, Numbers]] | None:
    """The numbers of a finished training in a folder beside this one that have the same checksum, and that folder."""
    for file in sorted(output.resolve().parent.glob("*/manifest.json")):
        try:
            manifest = artifacts.read_manifest(file.parent)
            if manifest.get("baselines_checksum") != checksum or not artifacts.is_unchanged(
                file.parent, manifest, "metrics.json"
            ):
                continue
            flat = artifacts.read_metrics(file.parent)
        except InputError:  # of another version, or damaged
            continue
        return file.parent, {name: own_metrics(flat, name) for name in names}
    return None
