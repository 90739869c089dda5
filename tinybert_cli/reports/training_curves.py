"""Figures of training curves: the loss in training and on the validation rows, and the score on the validation rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts
from tinybert_cli.reports import html, plots

Log = Sequence[Mapping[str, Any]]  # rows of log.jsonl, in their order

MOST = 6  # models in one plot, as many as there are colours


def read_log(folder: Path) -> Log:
    """The training events in a model folder; none if tinybert did not train it, or its log was deleted."""
    if not (folder / "log.jsonl").is_file():
        return []
    return [row for event in ("train", "evaluate") for row in artifacts.read_rows(folder, event)]


def figures(logs: Mapping[str, Log], metrics: Mapping[str, str]) -> list[html.Block]:
    """One figure of losses and one of scores, of the first `MOST` models; none without points.

    Args:
        logs: model → its log.
        metrics: model → its main metric; none for a model without a score.
    """
    selected = dict(list(logs.items())[:MOST])
    training = _not_empty({name: _points(log, "train", "loss") for name, log in selected.items()})
    validation = _not_empty({name: _points(log, "evaluate", "loss") for name, log in selected.items()})
    scored = {name: metric for name in selected if (metric := metrics.get(name, "loss")) != "loss"}
    scores = _not_empty({name: _points(selected[name], "evaluate", metric) for name, metric in scored.items()})
    blocks: list[html.Block] = []
    if training or validation:
        positive = all(min(ys) >= 0 for series in (training, validation) for _, ys in series.values())
        svg = plots.curves(training, "step", "loss", dashed=validation, from_zero=positive)
        blocks.append(html.figure(svg, _LOSSES))
    if scores:
        label = " / ".join(sorted({scored[name] for name in scores}))
        blocks.append(html.figure(plots.curves(scores, "step", label), _SCORES))
    return blocks


def _points(log: Log, event: str, key: str) -> tuple[list[float], list[float]]:
    rows = [row for row in log if row["event"] == event and row.get(key) is not None]
    return [row["step"] for row in rows], [row[key] for row in rows]


def _not_empty(series: plots.Series) -> plots.Series:
    return {name: points for name, points in series.items() if points[0]}


_LOSSES = (
    "Solid: the loss in training. Dashed: the loss on the validation rows, against their labels. "
    "Losses of different types (soft labels, hard labels) are not comparable."
)
_SCORES = "Score on the validation rows during training."
