"""The evaluation as a page: the table, quality against cost, confidence, confusion, slices, and the worst mistakes.

No stage of its own; `evaluate` stands on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinybert_cli.reports import html, plots

Numbers = Mapping[str, float]

COSTS = {"latency_ms_b1": ("milliseconds for one row", 1.0), "bytes": ("MB of weights", 1e6)}
MOST_CLASSES = 25  # more cannot be read in a square
MOST_SLICES = 24
MOST_MISTAKES = 15  # of each model
LONGEST = 240  # characters of a text


@dataclass(frozen=True)
class Evaluation:
    """What there is to show. N rows, C classes."""

    title: str
    lead: str
    metric: str  # the main one
    sliced: str  # the one that slices are scored by
    more_is_better: bool
    reference: str
    models: Mapping[str, Numbers]  # model → every number of it
    answers: Mapping[
        str, tuple[Sequence[float], Sequence[bool]]
    ]  # model → how sure each answer is, whether it is right
    classes: Sequence[str]
    confusions: Mapping[str, Sequence[Sequence[float]]]  # model → gold by predicted (C, C); empty without classes
    slices: Mapping[str, int]  # slice → its rows
    mistakes: Mapping[str, Sequence[Any]]  # columns of what `findings.regressions` says
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)  # model → rows of its log


def as_html(found: Evaluation) -> str:
    """One page that needs no network.

    Raises:
        InputError: matplotlib is not installed.
    """
    blocks = [
        html.section("Models", _table(found), _verdict(found)),
        *_tradeoffs(found),
        *_slices(found),
        *_confidence(found),
        *_confusions(found),
        *_mistakes(found),
        *_curves(found),
    ]
    return html.document(found.title, blocks, lead=found.lead)


def _table(found: Evaluation) -> html.Block:
    marked = [index for index, name in enumerate(found.models) if name == found.reference]
    caption = f"95 % intervals by resampling the rows. The reference is {found.reference}."
    columns = [
        (title, write)
        for title, key, write in _columns(found.metric)
        if any(key in numbers for numbers in found.models.values())
    ]
    lines = [[name, *(write(numbers) for _, write in columns)] for name, numbers in found.models.items()]
    return html.table(["model", *(title for title, _ in columns)], lines, caption=caption, marked=marked)


def _columns(metric: str) -> list[tuple[str, str, Callable[[Numbers], str]]]:
    """Title, the number that must be there for it, and how it is written."""

    def number(key: str, form: str, unit: float = 1.0) -> tuple[str, Callable[[Numbers], str]]:
        return key, lambda numbers: form.format(numbers[key] / unit) if key in numbers else ""

    def scored(numbers: Numbers) -> str:
        if f"{metric}_low" not in numbers:
            return f"{numbers[metric]:.4f}" if metric in numbers else ""
        return f"{numbers[metric]:.4f} ({numbers[f'{metric}_low']:.3f}-{numbers[f'{metric}_high']:.3f})"

    return [
        (metric, metric, scored),
        ("retention", *number("retention", "{:.1%}")),
        ("agreement", *number("agreement", "{:.1%}")),
        ("parameters, M", *number("parameters", "{:.1f}", 1e6)),
        ("MB", *number("bytes", "{:.1f}", 1e6)),
        ("MMAC a row", *number("multiply_adds", "{:,.0f}", 1e6)),
        ("ms, batch 1", *number("latency_ms_b1", "{:.2f}")),
        ("p95", *number("latency_ms_b1_p95", "{:.2f}")),
        ("ms, batch 32", *number("latency_ms_b32", "{:.1f}")),
        ("start, ms", *number("startup_ms", "{:,.0f}")),
        ("memory, MB", *number("peak_memory_bytes", "{:,.0f}", 1e6)),
    ]


def _verdict(found: Evaluation) -> html.Block:
    """What may be said of each model's difference to the reference."""
    lines = []
    for name, numbers in found.models.items():
        low, high = (numbers.get(f"{found.metric}_difference_{end}") for end in ("low", "high"))
        if low is None or high is None:
            continue
        sure = "no difference can be told" if low <= 0 <= high else "the difference is no accident"
        p = f"{numbers['mcnemar_p']:.3g}" if "mcnemar_p" in numbers else ""
        lines.append([
            name, f"{numbers[f'{found.metric}_difference']:+.4f}", f"{low:+.4f} to {high:+.4f}",
            f"{numbers['rows_lost']:,.0f}", f"{numbers['rows_won']:,.0f}", p, sure,
        ])  # fmt: skip
    head = ["against the reference", found.metric, "95 %", "rows lost", "rows won", "McNemar p", "so"]
    return html.table(head, lines) if lines else html.paragraph("There is no other model.")


def _tradeoffs(found: Evaluation) -> Iterator[html.Block]:
    drawn: list[html.Block] = []
    for cost, (label, unit) in COSTS.items():
        points = {
            name: _point(found.metric, numbers, numbers[cost] / unit)
            for name, numbers in found.models.items()
            if cost in numbers and found.metric in numbers
        }
        if len(points) > 1:
            svg = plots.tradeoff(points, label, found.metric, more_is_better=found.more_is_better)
            drawn.append(html.figure(svg, "" if drawn else "Blue: no other model is both cheaper and better."))
    if drawn:
        yield html.section("Quality against cost", html.side_by_side(*drawn))


def _point(metric: str, numbers: Numbers, cost: float) -> list[float]:
    ends = [numbers[key] for key in (f"{metric}_low", f"{metric}_high") if key in numbers]
    return [cost, numbers[metric], *(ends if len(ends) == 2 else [])]


def _slices(found: Evaluation) -> Iterator[html.Block]:
    shown = list(found.slices)[:MOST_SLICES]
    drawn = []
    for name, numbers in found.models.items():
        values = {f"{key} ({found.slices[key]:,})": numbers[f"{found.sliced}[{key}]"] for key in shown}
        drawn.append(
            html.figure(plots.bars(values, found.sliced, reference=numbers.get(found.sliced), title=name), name)
        )
    if shown:
        said = "Thirds of length in tokens, each label, and thirds of the reference's confidence; rows in brackets."
        yield html.section("Where it hurts", html.paragraph(said), html.side_by_side(*drawn))


def _confidence(found: Evaluation) -> Iterator[html.Block]:
    lines = [
        [name, *(f"{numbers[key]:.3f}" for key in ("ece", "ece_scaled", "brier", "brier_scaled", "temperature"))]
        for name, numbers in found.models.items()
        if "ece" in numbers and "brier" in numbers
    ]
    if not found.answers:
        return
    head = ["", "ece", "ece, scaled", "brier", "brier, scaled", "temperature"]
    drawn = html.figure(plots.reliability(found.answers), "On the line, a model is as often right as it is sure.")
    yield html.section("Is its confidence to be believed?", drawn, html.table(head, lines))


def _confusions(found: Evaluation) -> Iterator[html.Block]:
    if found.confusions and len(found.classes) <= MOST_CLASSES:
        drawn = [
            html.figure(plots.confusion(matrix, found.classes, title=name), name)
            for name, matrix in found.confusions.items()
        ]
        yield html.section("Gold labels (rows) and answers (columns)", html.side_by_side(*drawn))


def _mistakes(found: Evaluation) -> Iterator[html.Block]:
    columns = [name for name in found.mistakes if name != "model"]
    drawn: list[html.Block] = []
    for model in found.models:
        places = [index for index, name in enumerate(found.mistakes["model"]) if name == model]
        lines = [[_shown(found.mistakes[name][index]) for name in columns] for index in places[:MOST_MISTAKES]]
        if lines:
            said = f"{model}: {len(places):,} rows that the reference gets right, the surest mistakes first"
            drawn.append(html.table(columns, lines, caption=said))
    if drawn:
        yield html.section("Lost against the reference", *drawn)


def _curves(found: Evaluation) -> Iterator[html.Block]:
    drawn: list[html.Block] = []
    for event, key, label in (("train", "loss", "loss"), ("evaluate", found.metric, found.metric)):
        series = {}
        for name, rows in found.curves.items():
            steps = [(row["step"], row[key]) for row in rows if row["event"] == event and key in row]
            if steps:
                series[name] = ([step for step, _ in steps], [value for _, value in steps])
        if series:
            drawn.append(html.figure(plots.curves(series, "step", label)))
    if drawn:
        yield html.section("Training", html.side_by_side(*drawn))


def _shown(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
