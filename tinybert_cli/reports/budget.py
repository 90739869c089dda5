"""--budget: the best model that satisfies all limits, the next smaller one and the next larger one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinybert_cli.errors import ConfigError, GateError, InputError, did_you_mean
from tinybert_cli.reports.joined_models import Model

# Name in --budget → field of `Model`, and the unit of the bound. The task's metric is a lower bound as well.
UPPER_BOUNDS = {"latency_ms": ("latency_ms_b1", 1.0), "size_mb": ("bytes", 1e6), "parameters_m": ("parameters", 1e6)}
LOWER_BOUNDS = {"retention": ("retention", 1.0)}


@dataclass(frozen=True)
class Limit:
    """An upper or lower bound on one number of a model, in the unit of the command line."""

    name: str
    bound: float
    fact: str  # field of `Model`
    unit: float
    at_most: bool

    def __str__(self) -> str:
        return f"{self.name} {'<=' if self.at_most else '>='} {self.bound:g}"

    def measured(self, model: Model) -> float | None:
        """The number of a model that the bound is on; None if it was not measured, or is another task's metric."""
        return None if self.fact == "quality" and self.name != model.metric else measured(model, self.fact)

    def excess(self, model: Model) -> float:
        """Relative violation of the bound: 0 if it is satisfied, infinite if the number was not measured."""
        value = self.measured(model)
        if value is None:
            return float("inf")
        over = value / self.unit - self.bound if self.at_most else self.bound - value / self.unit
        return max(0.0, over) / (abs(self.bound) or 1.0)


@dataclass(frozen=True)
class Choice:
    """The chosen model, the best of the cheaper models, and the cheapest of the better models.

    `candidates`: how many models satisfy the limits. `left_out`: the models that cannot be compared with these, because
    they were scored on other rows.
    """

    limits: Sequence[Limit]
    best: Model
    smaller: Model | None
    larger: Model | None
    candidates: int
    left_out: Sequence[Model] = ()


def limits(arguments: Sequence[str], models: Sequence[Model]) -> list[Limit]:
    """Parses `latency_ms=3`, `retention=0.97,size_mb=15`, ...

    Raises:
        ConfigError: an unknown measure, or a bound that is not a positive number.
    """
    metrics = {model.metric: ("quality", 1.0) for model in models if model.metric and model.more_is_better}
    known = {**UPPER_BOUNDS, **LOWER_BOUNDS, **metrics}
    parsed = []
    for argument in ",".join(arguments).split(","):
        name, _, text = argument.partition("=")
        if name not in known:
            raise ConfigError(f"unknown measure '{name}' in --budget", hint=did_you_mean(name, [str(k) for k in known]))
        try:
            bound = float(text)
        except ValueError:
            bound = 0.0
        if not 0 < bound < float("inf"):
            message = f"--budget {argument}: expected a positive number, found '{text}'"
            raise ConfigError(message, hint=f"for example {name}=3")
        field, unit = known[name]
        parsed.append(Limit(name, bound, field, unit, at_most=name in UPPER_BOUNDS))
    return parsed


def choose(models: Sequence[Model], limits: Sequence[Limit]) -> Choice:
    """The best model that satisfies all limits; with lower bounds only, the cheapest one that satisfies them.

    The cost is the first upper bound; without one the latency if it is known for all candidates, else the size.
    Baselines are not chosen.

    Raises:
        InputError: a limit is on a number that was not measured, or the models were scored on different rows.
        GateError: no model satisfies the limits; the message names the closest one.
    """
    models = [model for model in models if not model.is_baseline]
    scored = _comparable(models)
    _check_measured(scored, limits)
    candidates = [model for model in scored if not any(limit.excess(model) for limit in limits)]
    if not candidates:
        raise _no_candidate(scored, limits)
    cost = next((limit.fact for limit in limits if limit.at_most), None) or (
        "latency_ms_b1" if all(model.latency_ms_b1 is not None for model in candidates) else "bytes"
    )

    def price(model: Model) -> float:
        value = measured(model, cost)
        return float("inf") if value is None else value

    if any(limit.at_most for limit in limits):
        best = min(candidates, key=lambda model: (-model.rank, price(model)))
    else:
        best = min(candidates, key=lambda model: (price(model), -model.rank))
    cheaper = [model for model in scored if price(model) < price(best)]
    better = [model for model in scored if model.rank > best.rank]
    return Choice(
        limits,
        best,
        smaller=max(cheaper, key=lambda model: (model.rank, -price(model)), default=None),
        larger=min(better, key=lambda model: (price(model), -model.rank), default=None),
        candidates=len(candidates),
        left_out=[model for model in models if model.quality is not None and model not in scored],
    )


def as_rows(choice: Choice) -> Iterator[tuple[str, str, str, str]]:
    """(role, model, its numbers, their differences to the best model) for the choice and its neighbours."""
    yield f"best with {', '.join(map(str, choice.limits))}", choice.best.name, ", ".join(_numbers(choice.best)), ""
    for role, other, text_if_none in (
        ("next smaller", choice.smaller, "nothing cheaper was scored"),
        ("next larger", choice.larger, "nothing better was scored"),
    ):
        if other is None:
            yield role, text_if_none, "", ""
        else:
            yield role, other.name, ", ".join(_numbers(other)), ", ".join(_differences(other, choice.best))


def as_lines(choice: Choice) -> Iterator[str]:
    """The choice and its neighbours as text."""
    for role, name, numbers, differences in as_rows(choice):
        yield f"{role}: {name}"
        yield from [f"  {text}" for text in (numbers, differences) if text]
    yield from notes(choice)


def notes(choice: Choice) -> Iterator[str]:
    """What limits the comparison."""
    if choice.candidates > 1:
        yield (
            f"{choice.best.name} is the choice among {choice.candidates} models by their scores on these rows, so its "
            "score here is optimistic; score it on other rows"
        )
    if choice.left_out:
        yield f"not compared, scored on other rows: {', '.join(model.name for model in choice.left_out)}"


def measured(model: Model, field: str) -> float | None:
    """The value of a numeric field of the model; None if it was not measured."""
    value: float | None = {
        "quality": model.quality,
        "retention": model.retention,
        "latency_ms_b1": model.latency_ms_b1,
        "bytes": model.bytes,
        "parameters": model.parameters,
    }[field]
    return value


def overlap(one: Model, other: Model) -> bool:
    """Whether both 95 % intervals are known and overlap."""
    ends = (one.quality_low, one.quality_high, other.quality_low, other.quality_high)
    if None in ends:
        return False
    low, high, other_low, other_high = (float(end) for end in ends if end is not None)
    return low <= other_high and other_low <= high


def _comparable(models: Sequence[Model]) -> list[Model]:
    """The models that were scored on the same rows: those of `eval`, if others have only a score of training.

    Raises:
        InputError: no model has a score, or there are several such sets of rows.
    """
    scored = [model for model in models if model.quality is not None]
    if not scored:
        raise InputError(
            "--budget needs a score, and no model has one", hint="name an eval folder: tinybert report RUN..."
        )
    compared = [model for model in scored if model.evaluated] or scored
    rows = list(dict.fromkeys(model.scored_on or "" for model in compared))
    if len(rows) > 1:
        hint = "score them on the same rows with `tinybert eval`"
        if compared[0].evaluated:
            command = f"tinybert report {compared[0].scored_by} --budget ..."
            hint = f"name one run of eval, and the exports of its models: {command}"
        raise InputError(
            f"--budget cannot compare models that were scored on different rows: {'; '.join(rows)}", hint=hint
        )
    return [model for model in scored if (model.scored_on or "") == rows[0]]


def _check_measured(scored: Sequence[Model], limits: Sequence[Limit]) -> None:
    """InputError if a limit is on a number that was measured for no model, or relative to different models."""
    for limit in limits:
        if all(limit.measured(model) is None for model in scored):
            raise InputError(
                f"{limit.name} was not measured for any model that was scored on {scored[0].scored_on}",
                hint="`tinybert eval` measures it; name its output folder, too",
            )
    references = {model.reference for model in scored if model.retention is not None}
    if len(references) > 1 and any(limit.fact == "retention" for limit in limits):
        raise InputError(
            f"retention is relative to different models: {', '.join(sorted(map(str, references)))}",
            hint="name one run of eval, or score the models in one: tinybert report RUN... --budget ...",
        )


def _no_candidate(scored: Sequence[Model], limits: Sequence[Limit]) -> GateError:
    closest = min(scored, key=lambda model: (max(limit.excess(model) for limit in limits), -model.rank))
    n_unknown = sum(any(limit.excess(model) == float("inf") for limit in limits) for model in scored)
    hint = "distil a smaller student, or export with quantize: int8"
    if n_unknown:
        hint += f"; not all of these were measured for {n_unknown} of the models: score them with `tinybert eval`"
    return GateError(
        f"none of {len(scored)} scored models satisfies {', '.join(map(str, limits))}; the closest is {closest.name}: "
        f"{', '.join(_numbers(closest))}",
        hint=hint,
    )


def _numbers(model: Model) -> list[str]:
    interval = "" if model.quality_low is None else f" ({model.quality_low:.3f}-{model.quality_high:.3f})"
    numbers = [f"{model.metric} {'~' if model.estimated else ''}{model.quality:.4f}{interval}"]
    numbers += [] if model.retention is None else [f"retention {model.retention:.1%}"]
    numbers += [] if model.latency_ms_b1 is None else [f"{model.latency_ms_b1:.2f} ms"]
    numbers += [] if model.bytes is None else [f"{model.bytes / 1e6:.1f} MB"]
    return numbers


def _differences(other: Model, best: Model) -> list[str]:
    """Score, latency and size of `other` minus those of `best`, and whether the scores' intervals overlap."""
    formats = {
        "quality": (f"{best.metric} {{:+.4f}}", 1.0),
        "latency_ms_b1": ("{:+.2f} ms", 1.0),
        "bytes": ("{:+.1f} MB", 1e6),
    }
    differences = []
    for field, (form, unit) in formats.items():
        value, best_value = measured(other, field), measured(best, field)
        if value is not None and best_value is not None:
            differences.append(form.format((value - best_value) / unit))
    if overlap(other, best):
        differences.append("their 95 % intervals overlap")
    return differences
