"""The evaluation as an HTML page: metrics, quality vs. cost, slices, calibration, confusion matrices, regressions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinybert_cli.reports import html, plots, training_curves
from tinybert_cli.types import Array
from tinybert_cli.wording import counted

Metrics = Mapping[str, float]

PAIRED_TESTS = {"mcnemar_p": "McNemar p", "wilcoxon_p": "Wilcoxon p"}
COSTS = {"latency_ms_b1": ("latency (ms, batch size 1)", 1.0), "bytes": ("size (MB)", 1e6)}
MOST_CLASSES = 25  # of a confusion matrix; larger ones are not readable
MOST_SLICES = 24
MOST_REGRESSIONS = 15  # for each model
MOST_CHARACTERS = 240  # of a text


@dataclass(frozen=True)
class Evaluation:
    """Contents of the page. N rows, C classes."""

    title: str
    lead: str
    metric: str  # the task's main metric
    slice_metric: str  # metric of the slices, `slice_metric[slice]` in `models`
    more_is_better: bool  # of the main metric
    reference: str
    models: Mapping[str, Metrics]  # model → all its metrics
    confidences: Mapping[str, tuple[Array, Array]]  # model → by decision: confidence, is correct
    classes: Sequence[str]
    confusion_matrices: Mapping[str, Sequence[Sequence[float]]]  # model → gold x predicted (C, C); {} without classes
    slice_sizes: Mapping[str, int]  # slice → number of rows
    regressions: Mapping[str, Sequence[Any]]  # the columns of `metrics.slices.regressions`
    training_logs: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)  # model → rows of its log
    exports: Mapping[str, Metrics] = field(default_factory=dict)  # finished export → its metrics, the score estimated
    baselines: Collection[str] = ()  # those of `models` that are no neural networks


def as_html(evaluation: Evaluation) -> str:
    """One page that needs no network.

    Raises:
        InputError: matplotlib is not installed.
    """
    blocks = [
        html.section("Models", _metrics(evaluation), _differences(evaluation)),
        *_tradeoffs(evaluation),
        *_slices(evaluation),
        *_calibration(evaluation),
        *_confusion_matrices(evaluation),
        *_regressions(evaluation),
        *_training_curves(evaluation),
    ]
    return html.document(evaluation.title, blocks, lead=evaluation.lead)


def with_exports(page: str, evaluation: Evaluation) -> str:
    """A page of `as_html` with the exports that were finished after it; only scores and costs of `evaluation` are read.

    Raises:
        InputError: matplotlib is not installed.
    """
    models = html.section("Models", _metrics(evaluation), _differences(evaluation))
    if models in page:
        return page
    page = html.replaced(page, "Quality vs. cost", [])
    return html.replaced(page, "Models", [models, *_tradeoffs(evaluation)])


def _metrics(evaluation: Evaluation) -> html.Block:
    marked = [index for index, name in enumerate(evaluation.models) if name == evaluation.reference]
    caption = f"Reference: {evaluation.reference}."
    if any(f"{evaluation.metric}_low" in metrics for metrics in evaluation.models.values()):
        caption = f"In parentheses: 95 % intervals (of shares of rows Wilson's, else from resampled rows). {caption}"
    if evaluation.exports:
        caption += " ~ estimated: the score of the model plus the difference that its export has measured."
    columns = [
        (title, write)
        for title, key, write in _columns(evaluation.metric)
        if any(key in metrics for metrics in evaluation.models.values())
    ]
    rows = [[name, *(write(metrics) for _, write in columns)] for name, metrics in evaluation.models.items()]
    for name, metrics in evaluation.exports.items():
        score, *others = [write(metrics) for _, write in columns]
        rows.append([name, f"~{score}", *others])
    return html.table(["model", *(title for title, _ in columns)], rows, caption=caption, marked=marked)


def _columns(metric: str) -> list[tuple[str, str, Callable[[Metrics], str]]]:
    """Title, key of the metric that the column needs, and how a cell is written."""

    def number(key: str, form: str, unit: float = 1.0) -> tuple[str, Callable[[Metrics], str]]:
        return key, lambda metrics: form.format(metrics[key] / unit) if key in metrics else ""

    def score(metrics: Metrics) -> str:
        if f"{metric}_low" not in metrics:
            return f"{metrics[metric]:.4f}" if metric in metrics else ""
        return f"{metrics[metric]:.4f} ({metrics[f'{metric}_low']:.3f}-{metrics[f'{metric}_high']:.3f})"

    return [
        (metric, metric, score),
        ("retention", *number("retention", "{:.1%}")),
        ("agreement", *number("agreement", "{:.1%}")),
        ("parameters, M", *number("parameters", "{:.1f}", 1e6)),
        ("size, MB", *number("bytes", "{:.1f}", 1e6)),
        ("MMACs per row", *number("multiply_adds", "{:,.0f}", 1e6)),
        ("ms, batch 1", *number("latency_ms_b1", "{:.2f}")),
        ("p95", *number("latency_ms_b1_p95", "{:.2f}")),
        ("ms, batch 32", *number("latency_ms_b32", "{:.1f}")),
        ("cold start, ms", *number("startup_ms", "{:,.0f}")),
        ("peak memory, MB", *number("peak_memory_bytes", "{:,.0f}", 1e6)),
    ]


def _differences(evaluation: Evaluation) -> html.Block:
    """Difference of each model to the reference, with its interval and the paired test of the task, if it has one."""
    metric = evaluation.metric
    tests = {**PAIRED_TESTS, f"{metric}_p": "bootstrap p"}
    test = next((key for key in tests for metrics in evaluation.models.values() if key in metrics), None)
    rows = []
    for name, metrics in evaluation.models.items():
        low, high = (metrics.get(f"{metric}_difference_{end}") for end in ("low", "high"))
        if low is None or high is None:
            continue
        significance = "not significant (95 %)" if low <= 0 <= high else "significant (95 %)"
        p = [] if test is None else [f"{metrics[test]:.3g}" if test in metrics else ""]
        rows.append([
            name, f"{metrics[f'{metric}_difference']:+.4f}", f"{low:+.4f} to {high:+.4f}",
            f"{metrics['rows_lost']:,.0f}", f"{metrics['rows_won']:,.0f}", *p, significance,
        ])  # fmt: skip
    if not rows:
        return html.paragraph("No other model was evaluated.")
    header = [
        f"vs. {evaluation.reference}",
        metric,
        "95 % interval",
        "rows lost",
        "rows won",
        *([] if test is None else [tests[test]]),
        "difference",
    ]
    return html.table(header, rows, caption="Rows lost: the reference is better. Rows won: the model is better.")


def _tradeoffs(evaluation: Evaluation) -> Iterator[html.Block]:
    figures: list[html.Block] = []
    for cost, (label, unit) in COSTS.items():
        points = {
            name: _point(evaluation.metric, metrics, metrics[cost] / unit)
            for name, metrics in {**evaluation.models, **evaluation.exports}.items()
            if cost in metrics and evaluation.metric in metrics and name not in evaluation.baselines
        }
        levels = {name: metrics[evaluation.metric] for name, metrics in evaluation.models.items()
                  if name in evaluation.baselines and evaluation.metric in metrics}  # fmt: skip
        if len(points) > 1:
            svg = plots.tradeoff(
                points, label, evaluation.metric, levels=levels, more_is_better=evaluation.more_is_better
            )
            caption = "" if figures else "Blue: the Pareto front (no other model is both cheaper and better)."
            caption += " Dashed: baselines without a neural network." if levels and not figures else ""
            figures.append(html.figure(svg, caption))
    if figures:
        yield html.section("Quality vs. cost", html.side_by_side(*figures))


def _point(metric: str, metrics: Metrics, cost: float) -> list[float]:
    ends = [metrics[key] for key in (f"{metric}_low", f"{metric}_high") if key in metrics]
    return [cost, metrics[metric], *(ends if len(ends) == 2 else [])]


def _slices(evaluation: Evaluation) -> Iterator[html.Block]:
    metric = evaluation.slice_metric
    sizes = dict(list(evaluation.slice_sizes.items())[:MOST_SLICES])
    figures = []
    for name, metrics in evaluation.models.items():
        values = {f"{key} ({size:,})": metrics[f"{metric}[{key}]"] for key, size in sizes.items()}
        figures.append(html.figure(plots.bars(values, metric, reference=metrics.get(metric), title=name), name))
    if sizes:
        title = f"{metric[0].upper()}{metric[1:].replace('_', ' ')} by slice"
        text = (
            "Slices by length in tokens (thirds), label, confidence of the reference (thirds) and the columns of the "
            "setting slices. Number of rows in parentheses."
        )
        yield html.section(title, html.paragraph(text), html.side_by_side(*figures))


def _calibration(evaluation: Evaluation) -> Iterator[html.Block]:
    if not evaluation.confidences:
        return
    keys = ("ece", "ece_scaled", "brier", "brier_scaled", "temperature")
    rows = [
        [name, *(f"{metrics[key]:.3f}" for key in keys)]
        for name, metrics in evaluation.models.items()
        if "ece" in metrics and "brier" in metrics
    ]
    header = ["model", "ECE", "ECE, scaled", "Brier score", "Brier score, scaled", "temperature"]
    caption = "Scaled: after temperature scaling, fitted on one half of the rows and evaluated on the other."
    svg = plots.reliability_diagram(evaluation.confidences)
    figure = html.figure(svg, "On the diagonal, accuracy equals confidence. Below it, the model is overconfident.")
    yield html.section("Calibration", figure, html.table(header, rows, caption=caption))


def _confusion_matrices(evaluation: Evaluation) -> Iterator[html.Block]:
    if evaluation.confusion_matrices and len(evaluation.classes) <= MOST_CLASSES:
        figures = [
            html.figure(plots.confusion_matrix(counts, evaluation.classes, title=name), name)
            for name, counts in evaluation.confusion_matrices.items()
        ]
        yield html.section("Confusion matrix (rows: gold, columns: predicted)", html.side_by_side(*figures))


def _regressions(evaluation: Evaluation) -> Iterator[html.Block]:
    columns = [name for name in evaluation.regressions if name != "model"]
    tables: list[html.Block] = []
    for model in evaluation.models:
        indices = [index for index, name in enumerate(evaluation.regressions["model"]) if name == model]
        rows = [
            [_cell(evaluation.regressions[name][index]) for name in columns] for index in indices[:MOST_REGRESSIONS]
        ]
        if rows:
            what = f"{model}: {counted(len(indices), 'row')}, largest loss of score first"
            what += f", {len(rows)} of them shown" if len(rows) < len(indices) else ""
            tables += [html.paragraph(f"{what}."), html.table(columns, rows)]
    if tables:
        yield html.section("Regressions: rows on which a model scores less than the reference", *tables)


def _training_curves(evaluation: Evaluation) -> Iterator[html.Block]:
    logs = evaluation.training_logs
    if figures := training_curves.figures(logs, dict.fromkeys(logs, evaluation.metric)):
        yield html.section("Training", html.side_by_side(*figures))


def _cell(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"
