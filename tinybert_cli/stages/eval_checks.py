"""Checks of the models, baselines and metrics of `eval`, and of the baselines beside a training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tinybert_cli import baselines, configuration, tasks
from tinybert_cli.errors import ConfigError, did_you_mean

# Metrics of `eval` that compare a model with the reference; the task's own metrics are in the task.
COMPARISONS = ("retention", "agreement", "confidence_correlation", "mcnemar_p", "speedup_b1", "speedup_b32")
_ENDS = {True: ("", "_low", "_difference_low"), False: ("", "_high", "_difference_high")}  # in `require`


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
    known = _metrics_of(task)
    configuration.raise_all(
        ConfigError(f"unknown metric '{name}'", key=("metrics", index), hint=did_you_mean(name, known))
        for index, name in enumerate([] if isinstance(metrics, str) else metrics)
        if _without_class(name) not in known
    )


def check_require(
    task: str, models: Mapping[str, str], listed: str | Sequence[str], require: Mapping[str, Mapping[str, float]]
) -> None:
    known = [f"{name}{end}" for name, more in _metrics_of(task).items() for end in _ENDS[more]]
    known += COMPARISONS
    scored = [*models, *([] if isinstance(listed, str) else listed)]

    def problems() -> Iterator[ConfigError]:
        for model, wanted in require.items():
            if model not in scored:
                hint = did_you_mean(model, scored)
                yield ConfigError(f"unknown model '{model}' in `require`", key=("require", model), hint=hint)
            for metric in wanted:
                if _without_class(metric) not in known:
                    key = ("require", model, metric)
                    yield ConfigError(f"unknown metric '{metric}'", key=key, hint=did_you_mean(metric, known))

    configuration.raise_all(problems())


def check_measured(latency: object, bootstrap: int, require: Mapping[str, Mapping[str, float]]) -> None:
    """Bounds of what these settings do not measure could never be met."""

    def problems() -> Iterator[ConfigError]:
        for model, metric in ((model, metric) for model, wanted in require.items() for metric in wanted):
            key = ("require", model, metric)
            if metric.endswith(("_low", "_high")) and not bootstrap:
                hint = "set bootstrap: 1000, or leave it out"
                yield ConfigError(f"`bootstrap: 0` computes no interval for `{metric}`", key=key, hint=hint)
            if metric.startswith("speedup") and latency is None:
                yield ConfigError(f"`latency: null` measures no `{metric}`", key=key, hint="leave one of them out")

    configuration.raise_all(problems())


def is_maximum(task: str, metric: str) -> bool:
    """Whether less of a metric is better, so that its bound in `require` is a maximum."""
    lower = [name for name, more in _metrics_of(task).items() if not more]
    return _without_class(metric) in {f"{name}{end}" for name in lower for end in _ENDS[False]}


def _metrics_of(task: str) -> dict[str, bool]:
    """Metric → whether more of it is better."""
    definition = tasks.find_scored_task(task)
    return {**definition.metrics, **definition.extra_metrics}


def _without_class(metric: str) -> str:
    """`recall[negative]_low` → `recall_low`: the names of the classes are not known before the data is read."""
    return re.sub(r"\[.*\]", "", metric)
