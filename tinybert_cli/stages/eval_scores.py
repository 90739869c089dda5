"""The numbers of `eval`: quality with intervals, calibration, and how a model differs from the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinybert_cli import metrics, tasks
from tinybert_cli.errors import ConfigError, did_you_mean
from tinybert_cli.metrics.calibration import limit_reached, temperature_scaling
from tinybert_cli.metrics.comparison import agreement_interval, bootstrap_p
from tinybert_cli.stages.eval_predictions import Costs, EvalRun, Predicted
from tinybert_cli.types import Array, Predictions

MOST_CLASSES = 25  # classes with numbers of their own in report.md
MOST_INTERVALS = 1_000  # classes whose metrics get intervals, unless `metrics` lists them
ENDS = ("_low", "_high")  # of the names of an interval


@dataclass(frozen=True)
class Scored:
    """The predictions of a model and everything that is computed from them once."""

    predictions: Predictions
    statistics: metrics.Statistics
    scores: Mapping[str, float]
    resampled: Mapping[str, Array]  # metric → (R,)


def scored(run: EvalRun, predicted: Predicted, predictions: Predictions) -> Scored:
    """The scores of predictions, and those of the resamples that their intervals need."""
    config, metric = run.config, predicted.metric
    statistics = metric.statistics(predictions)
    scores = metrics.score(metric, predictions, statistics)
    few = without_many_classes(scores, predicted.classes, most=MOST_INTERVALS)
    listed = few if config.metrics == "auto" else config.metrics
    resampled = metrics.resampled(
        metric, predictions, statistics,
        resamples=config.bootstrap, seed=config.seed, names={*listed, run.task.main_metric},
    )  # fmt: skip
    return Scored(predictions, statistics, scores, resampled)


def numbers(run: EvalRun, metric: metrics.Metric, model: Scored, reference: Scored | None) -> dict[str, float]:
    """Quality with 95 % intervals, calibration and, against the reference, differences and fidelity.

    Raises:
        ConfigError: `metrics` names one that the task does not have.
    """
    config = run.config
    selected = list(model.scores) if config.metrics == "auto" else config.metrics
    selected = [name for name in selected if name in model.scores or name != "loss"]  # see `Candidate.facts`
    undefined = metric.undefined(model.predictions)
    own: dict[str, float] = {}
    for name in selected:
        if name not in model.scores:
            raise ConfigError(f"unknown metric '{name}'", key=("metrics",), hint=did_you_mean(name, model.scores))
        if name not in undefined:
            interval = metrics.interval(metric, model.statistics, name, model.resampled)
            own |= {name: model.scores[name], **_ends(name, interval)}
    decisions = metric.class_logits(model.predictions)
    own |= {} if decisions is None else temperature_scaling(*decisions)
    if reference is None:
        return own
    undefined |= metric.undefined(reference.predictions)
    return own | _differences(run, metric, model, reference, [name for name in selected if name not in undefined])


def _differences(
    run: EvalRun, metric: metrics.Metric, model: Scored, reference: Scored, names: list[str]
) -> dict[str, float]:
    """Differences of metrics that are defined for both, with 95 % intervals; retention and fidelity."""
    config, task = run.config, run.task
    differences: dict[str, float] = {}
    for name in names:
        difference = model.scores[name] - reference.scores[name]
        differences[f"{name}_difference"] = difference
        if name in model.resampled:
            draws = model.resampled[name] - reference.resampled[name]
            interval = metrics.difference_interval(metric, model.statistics, reference.statistics, name, draws)
            differences |= _ends(f"{name}_difference", interval)
            if isinstance(task, tasks.GenerationTask) and name in task.metrics:
                differences[f"{name}_p"] = bootstrap_p(draws, difference)
    best = reference.scores[task.main_metric]
    undefined = metric.undefined(model.predictions) | metric.undefined(reference.predictions)
    if best > 0 and task.main_metric not in undefined:
        differences["retention"] = model.scores[task.main_metric] / best
    fidelity = task.fidelity(model.predictions, reference.predictions)
    if config.bootstrap and isinstance(task, tasks.PredictionTask) and task.agreement_counts_rows:
        differences |= agreement_interval(fidelity["agreement"], len(model.predictions))
    return differences | fidelity | metric.paired_test(model.statistics, reference.statistics)


def costs_of(name: str, reference: str, costs: Costs) -> dict[str, float]:
    """The costs of a model and, if it is not the reference, how many times as fast it is."""
    own = {key: values[name] for key, values in costs.items() if name in values}
    if name == reference:
        return own
    return own | {
        key.replace("latency_ms", "speedup"): values[reference] / values[name]
        for key, values in costs.items()
        if key.startswith("latency_ms") and not key.endswith("_p95") and {name, reference} <= values.keys()
    }


def left_out(run: EvalRun, metric: metrics.Metric, models: Mapping[str, Scored]) -> list[str]:
    """What is not defined on these rows, and why, in sentences."""
    sentences = []
    for name, model in models.items():
        reasons = metric.undefined(model.predictions)
        for reason in dict.fromkeys(reasons.values()):
            missing = [metric_name for metric_name, own in reasons.items() if own == reason]
            sentences.append(f"{name}: {', '.join(missing)} left out, because {reason}")
    main_metric = run.task.main_metric
    best = models[run.reference].scores[main_metric]
    if len(models) > 1 and best <= 0:
        sentences.append(f"retention left out, because {main_metric} of {run.reference} is {best:.4g}")
    return sentences


def temperature_notes(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Which fitted temperatures are no best ones but limits of the search, and why, in sentences."""
    reached = {name: limit_reached(own["temperature"]) for name, own in table.items() if "temperature" in own}
    return [
        f"temperature of {', '.join(name for name, own in reached.items() if own == limit)} is {limit}; "
        "ece_scaled and brier_scaled depend on this limit"
        for limit in dict.fromkeys(filter(None, reached.values()))
    ]


def without_many_classes(
    scores: Mapping[str, float], classes: list[str], *, most: int = MOST_CLASSES
) -> dict[str, float]:
    """All numbers; with more than `most` classes all but those of single classes, which are in metrics.json."""
    if len(classes) <= most:
        return dict(scores)
    single = {*classes, *(name[2:] for name in classes)}  # B-PER: metrics of PER
    return {key: value for key, value in scores.items() if key.partition("[")[2].rpartition("]")[0] not in single}


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, float]:
    return {} if interval is None else {f"{name}{end}": value for end, value in zip(ENDS, interval, strict=True)}
