"""Checks of the models, baselines and metrics of `eval`, and of the baselines beside a training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tinybert_cli import baselines, configuration, tasks
from tinybert_cli.config import Latency
from tinybert_cli.errors import ConfigError, did_you_mean

# Metrics of `eval` that compare a model with the reference; the task's own metrics are in the task.
COMPARISONS = ("retention", "agreement", "confidence_correlation", "mcnemar_p")
SPEEDUP = re.compile(r"speedup_b\d+(_t\d+)?")  # at a batch size, and in texts of so many tokens
WITHOUT_INTERVAL = ("ece", "map")  # see `Metric.biased`, and `rank_metrics` of several labels
OF_CLASSES = ("f1", "precision", "recall")  # `recall[CLASS]`
_ENDS = {True: ("", "_low", "_difference_low"), False: ("", "_high", "_difference_high")}  # in `require`
_INTERVAL = re.compile(r"(_difference)?(_low|_high)$")


def check_reference(models: Mapping[str, str], reference: str | None) -> None:
    if reference is not None and reference not in models:
        raise ConfigError(
            f"`reference` '{reference}' is not among the models",
            key=("reference",),
            hint=did_you_mean(reference, models),
        )


def check_baselines(task: str, names: str | Sequence[str]) -> None:
    definition = tasks.find(task)
    known = baselines.names(definition) if isinstance(definition, tasks.PredictionTask) else []
    hint = f"{task} has none: leave `baselines` out"
    configuration.raise_all(
        ConfigError(
            f"unknown baseline '{name}'", key=("baselines", index), hint=did_you_mean(name, known) if known else hint
        )
        for index, name in enumerate([] if isinstance(names, str) else names)
        if name not in known
    )


def check_compared_baselines(models: Mapping[str, str], split: str, names: str | Sequence[str]) -> None:
    def problems() -> Iterator[ConfigError]:
        for index, name in enumerate([] if isinstance(names, str) else names):
            if name in models:
                hint = "give the model another name"
                yield ConfigError(f"'{name}' is a model and a baseline", key=("baselines", index), hint=hint)
            elif split == "train":
                hint = "set `split` to validation or test, or `baselines: []`"
                yield ConfigError(
                    "baselines are fitted on the training rows, which cannot score them",
                    key=("baselines", index), hint=hint,
                )  # fmt: skip

    configuration.raise_all(problems())


def check_metrics(task: str, metrics: str | Sequence[str]) -> None:
    known, of_classes = _metrics_of(task), _metrics_of_classes(task)

    def problems() -> Iterator[ConfigError]:
        for index, name in enumerate([] if isinstance(metrics, str) else metrics):
            if _without_class(name) not in known:
                yield ConfigError(f"unknown metric '{name}'", key=("metrics", index), hint=did_you_mean(name, known))
            elif name in of_classes:
                yield _without_a_class(name, name, ("metrics", index))

    configuration.raise_all(problems())


def check_require(
    task: str, models: Mapping[str, str], listed: str | Sequence[str], require: Mapping[str, Mapping[str, float]]
) -> None:
    known = [f"{name}{end}" for name, more in _metrics_of(task).items() for end in _ENDS[more]]
    known += (*COMPARISONS, "speedup_b1")
    of_classes = _metrics_of_classes(task)
    scored = [*models, *([] if isinstance(listed, str) else listed)]

    def problems() -> Iterator[ConfigError]:
        for model, wanted in require.items():
            if model not in scored:
                hint = did_you_mean(model, scored)
                yield ConfigError(f"unknown model '{model}' in `require`", key=("require", model), hint=hint)
            for metric in wanted:
                key = ("require", model, metric)
                if _without_class(metric) not in known and not SPEEDUP.fullmatch(metric):
                    yield ConfigError(f"unknown metric '{metric}'", key=key, hint=did_you_mean(metric, known))
                elif (plain := _INTERVAL.sub("", metric)) in of_classes:
                    yield _without_a_class(metric, plain, key)

    configuration.raise_all(problems())


def check_measured(
    task: str,
    models: Mapping[str, str],
    reference: str | None,
    metrics: str | Sequence[str],
    latency: Mapping[str, Sequence[int | str]] | Latency | None,
    bootstrap: int,
    require: Mapping[str, Mapping[str, float]],
) -> None:
    """Bounds of what these settings do not measure could never be met."""
    compared_with = reference or next(iter(models), None)
    speedups, slice_metric = _speedups(latency), tasks.find_scored_task(task).slice_metric

    def problem(model: str, metric: str) -> tuple[str, str] | None:
        plain, is_speedup = _INTERVAL.sub("", metric), SPEEDUP.fullmatch(metric)
        base = _without_class(plain)
        if is_speedup and latency is None:
            return f"`latency: null` measures no `{metric}`", "leave one of them out"
        if is_speedup and metric not in speedups:
            return f"`latency` measures no `{metric}`", f"it measures {', '.join(speedups)}"
        if metric.endswith(("_low", "_high")) and not bootstrap:
            return f"`bootstrap: 0` computes no interval for `{metric}`", "set bootstrap: 1000, or leave it out"
        if metric != plain and plain in WITHOUT_INTERVAL:
            return f"`{metric}` is not measured: `{plain}` has no interval", f"set a bound for `{plain}`"
        if model == compared_with and (is_speedup or metric in COMPARISONS or "_difference_" in metric):
            return (
                f"`{metric}` compares a model with the reference, and '{model}' is the reference",
                "leave it out, or name another model as `reference`",
            )
        listed = plain in _metrics_of(task) or (plain != base != slice_metric and base in OF_CLASSES)
        if listed and metrics != "auto" and plain not in metrics:
            return f"`{metric}` is not measured: `metrics` does not list `{plain}`", "add it there, or leave it out"
        return None

    configuration.raise_all(
        ConfigError(what_and_hint[0], key=("require", model, metric), hint=what_and_hint[1])
        for model, wanted in require.items()
        for metric in wanted
        if (what_and_hint := problem(model, metric)) is not None
    )


def _speedups(latency: Mapping[str, Sequence[int | str]] | Latency | None) -> list[str]:
    """The speed-ups that these settings measure."""
    if latency is None:
        return []
    own = latency if isinstance(latency, Latency) else Latency.model_validate(latency)
    lengths = ["" if length == "data" else f"_t{length}" for length in own.lengths]
    return [f"speedup_b{size}{length}" for size in own.batch_sizes for length in lengths]


def is_maximum(task: str, metric: str) -> bool:
    """Whether less of a metric is better, so that its bound in `require` is a maximum."""
    lower = [name for name, more in _metrics_of(task).items() if not more]
    return _without_class(metric) in {f"{name}{end}" for name in lower for end in _ENDS[False]}


def _metrics_of(task: str) -> dict[str, bool]:
    """Metric → whether more of it is better."""
    definition = tasks.find_scored_task(task)
    return {**definition.metrics, **definition.extra_metrics}


def _metrics_of_classes(task: str) -> set[str]:
    """The metrics that each class has, and all classes together have not."""
    return {*OF_CLASSES} & _metrics_of(task).keys() - tasks.find_scored_task(task).metrics.keys()


def _without_a_class(metric: str, plain: str, key: tuple[str | int, ...]) -> ConfigError:
    hint = f"name a class: `{plain}[CLASS]{metric.removeprefix(plain)}`"
    return ConfigError(f"`{plain}` is a metric of each class", key=key, hint=hint)


def _without_class(metric: str) -> str:
    """`recall[negative]_low` → `recall_low`: the names of the classes are not known before the data is read."""
    return re.sub(r"\[.*\]", "", metric)
