"""The report as an HTML page: the table, quality vs. cost, and training curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tinybert_cli import artifacts
from tinybert_cli.errors import OutputError
from tinybert_cli.reports import budget, html, plots, training_curves
from tinybert_cli.reports.joined_models import TRAINING_COMMANDS, Model, Run, short_names
from tinybert_cli.reports.runs import Report
from tinybert_cli.reports.runs_table import table

COSTS = {"latency_ms_b1": ("latency (ms, batch size 1)", 1.0), "bytes": ("size (MB)", 1e6)}


def write(file: Path, report: Report, choice: budget.Choice | None = None) -> None:
    """Writes the page to `file`, and replaces an older one.

    Raises:
        InputError: matplotlib is not installed.
        OutputError: the file cannot be written, is no HTML page, or belongs to a finished run.
    """
    _check_replaceable(file)
    text = as_html(report, choice)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        artifacts.write_text(file, text)
    except OSError as error:
        raise OutputError(f"cannot write '{file}': {error.strerror}", hint="give a file: --html report.html") from error


def _check_replaceable(file: Path) -> None:
    """Raises OutputError for a file that is not an older page."""
    hint = "give another file: --html report.html"
    if artifacts.has_manifest(file.parent):
        outputs = [entry["path"] for entry in artifacts.read_manifest(file.parent)["outputs"]]
        if file.name in (*outputs, "manifest.json", "log.jsonl", "run.log"):
            raise OutputError(f"'{file}' belongs to the run in '{file.parent}'", hint=hint)
    if file.is_file():
        with file.open("rb") as stream:
            if not stream.read(100).lstrip().lower().startswith(b"<!doctype html"):
                raise OutputError(f"'{file}' is not an HTML page, so it is not replaced", hint=hint)


def as_html(report: Report, choice: budget.Choice | None = None) -> str:
    """The page; the model that the budget selects is highlighted in the table."""
    header, rows = table(report)
    marked = [index for index, model in enumerate(report.models) if choice and model == choice.best]
    notes = map(html.paragraph, report.notes())
    blocks = [html.section("Models", html.table(header, rows, marked=marked, caption=_caption(report)), *notes)]
    if choice:
        names = short_names(model.name for model in report.models)
        lines = [(role, names.get(name, name), *numbers) for role, name, *numbers in budget.as_rows(choice)]
        limits = map(html.paragraph, budget.notes(choice))
        blocks.append(
            html.section("Budget", html.table(["", "model", "numbers", "difference to the best"], lines), *limits)
        )
    blocks += _tradeoffs(report)
    blocks += _training_curves(report)
    lead = f"{len(report.runs)} finished runs, {_date_range(report.runs)}."
    return html.document("tinybert report", blocks, lead=lead)


def _tradeoffs(report: Report) -> Iterator[html.Block]:
    """For each set of rows with scores: quality vs. each cost that at least two models have."""
    for rows in dict.fromkeys(model.scored_on for model in report.models if model.quality is not None):
        models = [model for model in report.models if model.scored_on == rows and model.quality is not None]
        names = short_names(model.name for model in models)
        metric = models[0].metric or ""
        baselines = [model for model in models if model.is_baseline]
        levels = {names[model.name]: model.quality for model in baselines if model.quality is not None}
        figures: list[html.Block] = []
        for cost, (label, unit) in COSTS.items():
            points = {
                names[model.name]: _point(model, price / unit)
                for model in models
                if not model.is_baseline and (price := budget.measured(model, cost)) is not None
            }
            if len(points) > 1:
                svg = plots.tradeoff(points, label, metric, levels=levels, more_is_better=models[0].more_is_better)
                caption = f"{_FRONT} Dashed: baselines without a neural network." if levels else _FRONT
                figures.append(html.figure(svg, "" if figures else caption))
        if figures:
            yield html.section(f"Quality vs. cost: {rows}", html.side_by_side(*figures))


def _point(model: Model, price: float) -> list[float]:
    assert model.quality is not None
    ends = [] if model.quality_low is None or model.quality_high is None else [model.quality_low, model.quality_high]
    return [price, model.quality, *ends]


def _training_curves(report: Report) -> Iterator[html.Block]:
    """Losses and scores by step, of the runs in the order of the table."""
    order = {model.name: index for index, model in enumerate(report.models)}
    trained = [run for run in report.runs if run.command in TRAINING_COMMANDS]
    runs = sorted(trained, key=lambda run: order.get(str(run.folder), 0))
    names = short_names(str(run.folder) for run in runs)
    logs = {names[str(run.folder)]: training_curves.read_log(run.folder) for run in runs[: training_curves.MOST]}
    metrics = {names[model.name]: model.metric for model in report.models if model.name in names and model.metric}
    selection = f" (the best {training_curves.MOST} of {len(runs)})" if len(runs) > training_curves.MOST else ""
    if figures := training_curves.figures(logs, metrics):
        yield html.section(f"Training{selection}", html.side_by_side(*figures))


def _caption(report: Report) -> str:
    machines = {model.machine for model in report.models if model.machine and model.latency_ms_b1 is not None}
    return f"Latencies: median, measured on {machines.pop()}." if len(machines) == 1 else ""


def _date_range(runs: Sequence[Run]) -> str:
    days = sorted(run.manifest["end"][:10] for run in runs)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


_FRONT = "Blue: the Pareto front (no other model is both cheaper and better). Vertical lines: 95 % intervals."
