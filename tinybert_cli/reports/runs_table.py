"""The table of a report: models first, then label datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tinybert_cli.escaping import markdown_cell
from tinybert_cli.reports.joined_models import Model, as_model, short_names
from tinybert_cli.reports.runs import Report

TEXTS = ("model", "made by", "scored on")  # the columns that hold no numbers


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows, the columns in order of importance; columns without any value are omitted."""
    names = short_names([*(model.name for model in report.models), *(str(run.folder) for run in report.labels)])
    metrics = {model.metric for model in report.models if model.metric}
    has_several_row_sets = len({model.scored_on for model in report.models if model.quality is not None}) > 1
    columns: dict[str, Callable[[Model], str]] = {
        "model": lambda model: names[model.name],
        f"{next(iter(metrics)) if len(metrics) == 1 else 'score'} (95 %)": lambda model: _quality(model, metrics),
        "retention": lambda model: _number("{:.1%}", model.retention),
        "ms, batch 1": lambda model: _number("{:.2f}", model.latency_ms_b1),
        "size": lambda model: _number("{:.1f} MB", model.bytes, 1e6),
        "made by": lambda model: model.made_by or "",
        "parameters": lambda model: _number("{:.1f} M", model.parameters, 1e6),
        "agreement": lambda model: _number("{:.1%}", model.agreement),
        "ms, batch 32": lambda model: _number("{:.2f}", model.latency_ms_b32),
        "time": lambda model: _number("{:.1f} min", model.seconds, 60),
        "scored on": lambda model: (model.scored_on or "") if has_several_row_sets else "",
    }
    models = [*report.models, *(as_model(run) for run in report.labels)]
    cells = {title: [cell(model) for model in models] for title, cell in columns.items()}
    header = [title for title, values in cells.items() if any(values)]
    return header, [list(values) for values in zip(*(cells[title] for title in header), strict=True)]


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One Markdown table: columns of numbers are right-aligned, the others left-aligned."""
    alignment = "".join("---|" if title in TEXTS else "---:|" for title in header)
    lines = ["| " + " | ".join(map(markdown_cell, header)) + " |", f"|{alignment}"]
    lines += ["| " + " | ".join(map(markdown_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _quality(model: Model, metrics: set[str]) -> str:
    if model.quality is None:
        return ""
    interval = "" if model.quality_low is None else f" ({model.quality_low:.3f}-{model.quality_high:.3f})"
    metric = f" {model.metric}" if len(metrics) > 1 else ""
    return f"{'~' if model.estimated else ''}{model.quality:.4f}{interval}{metric}"


def _number(form: str, value: float | None, unit: float = 1.0) -> str:
    return "" if value is None else form.format(value / unit)
