"""The score of a model beside those of baselines on the same rows, for a model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tinybert_cli.escaping import markdown, markdown_cell

Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Scores of a model and of baselines on the same rows."""

    lead: str  # which rows and who scored them: a sentence before the table, in Markdown
    metric: str  # the task's main metric
    more_is_better: bool
    model: Numbers  # all metrics of the model, and its size and latency where they were measured
    baselines: Mapping[str, Numbers]  # name → the same; without the metric where it is not defined
    selected: bool  # whether these rows have selected the checkpoint of the model, or of one that it was made from
    trained: bool = False  # whether they are training rows of one of these

    @property
    def best(self) -> str | None:
        """The name of the baseline with the best score."""
        sign = 1 if self.more_is_better else -1
        scored = [name for name, own in self.baselines.items() if self.metric in own]
        return max(scored, key=lambda name: sign * self.baselines[name][self.metric], default=None)

    @property
    def is_beaten(self) -> bool:
        """Whether the model is no better than the best baseline."""
        if self.best is None or self.metric not in self.model:
            return False
        sign = 1 if self.more_is_better else -1
        return sign * self.model[self.metric] <= sign * self.baselines[self.best][self.metric]


def as_markdown(comparison: Comparison) -> str:
    """The lead, the table without columns that are empty, and what the reader has to know of it."""
    metric = comparison.metric
    columns: dict[str, Callable[[Numbers], str]] = {
        metric: lambda own: f"{own[metric]:.4f}" if metric in own else "",
        "95 % interval": lambda own: " to ".join(
            f"{own[key]:.4f}" for key in (f"{metric}_low", f"{metric}_high") if key in own
        ),
        "size": lambda own: _size(own["bytes"]) if "bytes" in own else "",
        "training rows": lambda own: f"{own['training_rows']:,.0f}" if "training_rows" in own else "",
        "ms, batch 1": lambda own: f"{own['latency_ms_b1']:.2f}" if "latency_ms_b1" in own else "",
    }
    compared = {"the model": comparison.model, **comparison.baselines}
    cells = {title: [cell(own) for own in compared.values()] for title, cell in columns.items()}
    cells = {title: values for title, values in cells.items() if any(values)}
    lines = [
        comparison.lead,
        "",
        f"| | {' | '.join(map(markdown_cell, cells))} |",
        f"|---|{'---:|' * len(cells)}",
    ]
    for name, *values in zip(compared, *cells.values(), strict=True):
        lines.append(f"| {markdown_cell(name)} | {' | '.join(values)} |")
    if any("latency_ms_b1" in own for own in comparison.baselines.values()):
        lines += ["", "The time of a baseline is from text to prediction, that of the model from token ids to logits."]
    if comparison.trained:
        lines += ["", "The model, or one that it was made from, has learned these rows: its score is too good."]
    elif comparison.selected:
        lines += ["", "These rows selected a checkpoint or thresholds, so the score of the model may be optimistic."]
    if comparison.is_beaten:
        lines += ["", f"On these rows the model is no better than the baseline {markdown(str(comparison.best))}."]
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / 1e6:.2g} MB" if count >= 50_000 else f"{count / 1e3:.2g} kB"
