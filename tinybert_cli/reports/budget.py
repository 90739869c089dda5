"""budget: the best of the finished models that costs no more than it may, and what its neighbours cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinybert_cli.errors import ConfigError, GateError, InputError, did_you_mean
from tinybert_cli.reports.runs import Model

MOST = {"latency_ms": ("latency_ms_b1", 1.0), "size_mb": ("bytes", 1e6), "parameters_m": ("parameters", 1e6)}
LEAST = {"retention": ("retention", 1.0)}  # and the task's metric, by its own name


@dataclass(frozen=True)
class Limit:
    """One bound, in the unit that the user wrote it in."""

    name: str
    bound: float
    fact: str  # which of a model's facts it is about
    unit: float
    at_most: bool

    def __str__(self) -> str:
        return f"{self.name} {'<=' if self.at_most else '>='} {self.bound:g}"

    def excess(self, model: Model) -> float:
        """By which share of the bound the model misses it; 0 if it keeps it, infinite if nobody measured it."""
        value = fact(model, self.fact)
        if value is None:
            return float("inf")
        over = value / self.unit - self.bound if self.at_most else self.bound - value / self.unit
        return max(0.0, over) / (abs(self.bound) or 1.0)


@dataclass(frozen=True)
class Choice:
    """The model that fits best, the best of the cheaper ones, and the cheapest of the better ones."""

    limits: Sequence[Limit]
    best: Model
    smaller: Model | None
    larger: Model | None


def limits(words: Sequence[str], models: Sequence[Model]) -> list[Limit]:
    """`latency_ms=3`, `retention=0.97,size_mb=15`, ... as limits.

    Raises:
        ConfigError: a name that is no measure, or a bound that is no positive number.
    """
    metrics = {model.metric: ("quality", 1.0) for model in models if model.metric and model.more_is_better}
    known = {**MOST, **LEAST, **metrics}
    found = []
    for word in ",".join(words).split(","):
        name, _, text = word.partition("=")
        if name not in known:
            raise ConfigError(f"unknown measure '{name}' in --budget", hint=did_you_mean(name, [str(k) for k in known]))
        try:
            bound = float(text)
        except ValueError:
            bound = 0.0
        if not 0 < bound < float("inf"):
            raise ConfigError(f"--budget {word}: '{text}' is no positive number", hint=f"for example {name}=3")
        fact, unit = known[name]
        found.append(Limit(name, bound, fact, unit, at_most=name in MOST))
    return found


def choose(models: Sequence[Model], limits: Sequence[Limit]) -> Choice:
    """The best model within the limits; if they only say what it must be worth, the cheapest that is.

    Raises:
        InputError: nobody measured what a limit is about, or the models were scored on different rows.
        GateError: no model fits; names the nearest.
    """
    scored = [model for model in models if model.quality is not None]
    _check(scored, limits)
    fitting = [model for model in scored if not any(limit.excess(model) for limit in limits)]
    if not fitting:
        raise _nothing_fits(scored, limits)
    cost = next((limit.fact for limit in limits if limit.at_most), None) or (
        "latency_ms_b1" if all(model.latency_ms_b1 is not None for model in fitting) else "bytes"
    )

    def price(model: Model) -> float:
        value = fact(model, cost)
        return float("inf") if value is None else value

    if any(limit.at_most for limit in limits):
        best = min(fitting, key=lambda model: (-model.rank, price(model)))
    else:
        best = min(fitting, key=lambda model: (price(model), -model.rank))
    cheaper = [model for model in scored if price(model) < price(best)]
    better = [model for model in scored if model.rank > best.rank]
    return Choice(
        limits,
        best,
        smaller=max(cheaper, key=lambda model: (model.rank, -price(model)), default=None),
        larger=min(better, key=lambda model: (price(model), -model.rank), default=None),
    )


def as_rows(choice: Choice) -> Iterator[tuple[str, str, str, str]]:
    """The choice and its neighbours: which it is, its name, its numbers, and how those differ from the choice's."""
    yield f"best with {', '.join(map(str, choice.limits))}", choice.best.name, ", ".join(_facts(choice.best)), ""
    for which, other, none in (
        ("next smaller", choice.smaller, "nothing cheaper was scored"),
        ("next larger", choice.larger, "nothing better was scored"),
    ):
        if other is None:
            yield which, none, "", ""
        else:
            yield which, other.name, ", ".join(_facts(other)), ", ".join(_differences(other, choice.best))


def as_lines(choice: Choice) -> Iterator[str]:
    """The choice in words."""
    for which, name, facts, differences in as_rows(choice):
        yield f"{which}: {name}"
        yield from [f"  {text}" for text in (facts, differences) if text]


def fact(model: Model, name: str) -> float | None:
    """A number of the model by its field's name."""
    value: float | None = {
        "quality": model.quality,
        "retention": model.retention,
        "latency_ms_b1": model.latency_ms_b1,
        "bytes": model.bytes,
        "parameters": model.parameters,
    }[name]
    return value


def _check(scored: Sequence[Model], limits: Sequence[Limit]) -> None:
    if not scored:
        raise InputError("no model here has a score to choose by", hint="name an eval folder: tinybert report RUN...")
    rows = sorted({model.scored_on or "" for model in scored})
    if len(rows) > 1:
        raise InputError(
            f"the models were scored on different rows and do not compare: {'; '.join(rows)}",
            hint="name an eval folder and its exports alone: tinybert report RUN/eval RUN/export --budget ...",
        )
    for limit in limits:
        if all(fact(model, limit.fact) is None for model in scored):
            raise InputError(
                f"no model here has a {limit.name.partition('_')[0]}",
                hint="`tinybert eval` measures it; name its folder, too",
            )


def _nothing_fits(scored: Sequence[Model], limits: Sequence[Limit]) -> GateError:
    nearest = min(scored, key=lambda model: (max(limit.excess(model) for limit in limits), -model.rank))
    unknown = sum(any(limit.excess(model) == float("inf") for limit in limits) for model in scored)
    return GateError(
        f"none of {len(scored)} scored models fits {', '.join(map(str, limits))}; the nearest is {nearest.name}: "
        f"{', '.join(_facts(nearest))}",
        hint="distil a smaller one, or export it with quantize: int8"
        + (f"; of {unknown} the budget's measures are not known: score them with `tinybert eval`" if unknown else ""),
    )


def _facts(model: Model) -> list[str]:
    interval = "" if model.quality_low is None else f" ({model.quality_low:.3f}-{model.quality_high:.3f})"
    facts = [f"{model.metric} {'~' if model.estimated else ''}{model.quality:.4f}{interval}"]
    facts += [] if model.retention is None else [f"retention {model.retention:.1%}"]
    facts += [] if model.latency_ms_b1 is None else [f"{model.latency_ms_b1:.2f} ms"]
    facts += [] if model.bytes is None else [f"{model.bytes / 1e6:.1f} MB"]
    return facts


def _differences(other: Model, best: Model) -> list[str]:
    """What the other one costs or saves, and whether its better or worse score is more than noise."""
    forms = {
        "quality": (f"{best.metric} {{:+.4f}}", 1.0),
        "latency_ms_b1": ("{:+.2f} ms", 1.0),
        "bytes": ("{:+.1f} MB", 1e6),
    }
    said = []
    for name, (form, unit) in forms.items():
        there, here = fact(other, name), fact(best, name)
        if there is not None and here is not None:
            said.append(form.format((there - here) / unit))
    if overlap(other, best):
        said.append("their 95 % intervals overlap")
    return said


def overlap(one: Model, other: Model) -> bool:
    """Whether the 95 % intervals of both scores are known and have values in common."""
    ends = (one.quality_low, one.quality_high, other.quality_low, other.quality_high)
    if None in ends:
        return False
    low, high, other_low, other_high = (float(end) for end in ends if end is not None)
    return low <= other_high and other_low <= high
