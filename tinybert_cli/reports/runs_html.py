"""The report as a page: the table, quality against what it costs, and how the models learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tinybert_cli import artifacts
from tinybert_cli.errors import OutputError
from tinybert_cli.reports import budget, html, plots
from tinybert_cli.reports.runs import FITTED, Model, Report, Run, short_names, table

COSTS = {"latency_ms_b1": ("milliseconds for one text", 1.0), "bytes": ("MB of weights", 1e6)}
MOST_CURVES = 12  # more cannot be told apart


def write(file: Path, report: Report, choice: budget.Choice | None = None) -> None:
    """Writes the page to `file`, over an older one.

    Raises:
        InputError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    text = as_html(report, choice)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write '{file}': {error.strerror}", hint="give a file: --html report.html") from error


def as_html(report: Report, choice: budget.Choice | None = None) -> str:
    """The page; the model that the budget chose stands out in the table."""
    header, rows = table(report)
    marked = [index for index, model in enumerate(report.models) if choice and model == choice.best]
    notes = map(html.paragraph, report.notes())
    blocks = [html.section("Models", html.table(header, rows, marked=marked, caption=_caption(report)), *notes)]
    if choice:
        names = short_names(model.name for model in report.models)
        lines = [(which, names.get(name, name), *more) for which, name, *more in budget.as_rows(choice)]
        found = html.table(["", "model", "what it gives", "against the best"], lines)
        blocks.append(html.section("Budget", found))
    blocks += _tradeoffs(report)
    blocks += _curves(report)
    return html.document("tinybert report", blocks, lead=f"{len(report.runs)} finished runs, {_span(report.runs)}.")


def _tradeoffs(report: Report) -> Iterator[html.Block]:
    """Quality against each cost that at least two models have, for each set of rows that models were scored on."""
    for rows in dict.fromkeys(model.scored_on for model in report.models if model.quality is not None):
        models = [model for model in report.models if model.scored_on == rows and model.quality is not None]
        names = short_names(model.name for model in models)
        metric = models[0].metric or ""
        drawn: list[html.Block] = []
        for cost, (label, unit) in COSTS.items():
            points = {
                names[model.name]: _point(model, price / unit)
                for model in models
                if (price := budget.fact(model, cost)) is not None
            }
            if len(points) > 1:
                svg = plots.tradeoff(points, label, metric, more_is_better=models[0].more_is_better)
                drawn.append(html.figure(svg, _FRONT if not drawn else ""))
        if drawn:
            yield html.section(f"Quality against cost: {rows}", html.side_by_side(*drawn))


def _point(model: Model, price: float) -> list[float]:
    assert model.quality is not None
    ends = [] if model.quality_low is None or model.quality_high is None else [model.quality_low, model.quality_high]
    return [price, model.quality, *ends]


def _curves(report: Report) -> Iterator[html.Block]:
    """The loss of every training by its steps, and, where it was scored on the way, its score."""
    order = {model.name: place for place, model in enumerate(report.models)}
    runs = sorted((run for run in report.runs if run.command in FITTED), key=lambda run: order.get(str(run.folder), 0))
    metrics = {model.name: model.metric or "" for model in report.models}
    names = short_names(str(run.folder) for run in runs)
    shown = runs[:MOST_CURVES]
    losses = {names[str(run.folder)]: _series(run, "train", "loss") for run in shown}
    scores = {names[str(run.folder)]: _series(run, "evaluate", metrics.get(str(run.folder), "")) for run in shown}
    metric = " / ".join(sorted({name for name in metrics.values() if name}))
    drawn = [
        html.figure(plots.curves(found, "step", label), caption)
        for series, label, caption in (
            (losses, "loss", _LOSSES),
            (scores, metric, "On the validation rows, in training."),
        )
        if (found := {name: points for name, points in series.items() if points[0]})
    ]
    left = f" (the best {MOST_CURVES} of {len(runs)})" if len(runs) > MOST_CURVES else ""
    if drawn:
        yield html.section(f"Training{left}", html.side_by_side(*drawn))


def _series(run: Run, event: str, key: str) -> tuple[list[float], list[float]]:
    rows = [row for row in _log(run, event) if key in row]
    return [row["step"] for row in rows], [row[key] for row in rows]


def _log(run: Run, event: str) -> Sequence[Mapping[str, float]]:
    """Rows of log.jsonl; none if somebody took that file away, for no manifest vouches for it."""
    return list(artifacts.read_rows(run.folder, event)) if (run.folder / "log.jsonl").is_file() else []


def _caption(report: Report) -> str:
    rows = {model.scored_on for model in report.models if model.quality is not None}
    machines = {model.machine for model in report.models if model.machine and model.latency_ms_b1 is not None}
    said = [f"Scored on {rows.pop()}." if len(rows) == 1 else ""]
    said += [f"Latencies: median, {machines.pop()}." if len(machines) == 1 else ""]
    return " ".join(filter(None, said))


def _span(runs: Sequence[Run]) -> str:
    days = sorted(run.manifest["end"][:10] for run in runs)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


_LOSSES = "On the training rows. Losses of different kinds, of soft and of hard labels, do not compare."
_FRONT = "Blue: no other model is both cheaper and better. Upright lines: 95 % intervals."
