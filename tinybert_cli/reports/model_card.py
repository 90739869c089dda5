"""The model card (README.md): summary, provenance, evaluation, size and speed, usage, limitations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinybert_cli import tasks
from tinybert_cli.escaping import markdown, markdown_cell
from tinybert_cli.reports import baseline_table
from tinybert_cli.reports.base_model import base_facts
from tinybert_cli.reports.baseline_table import Comparison
from tinybert_cli.wording import counted

METRICS: dict[str, tuple[str, dict[str, str]]] = {  # metric → its name on the Hub, and the arguments
    "f1_macro": ("f1", {"average": "macro"}),
    "mcc": ("matthews_correlation", {}),
}
UNTESTED = (  # limitations of every model
    "Other domains, other languages, fairness between groups of people and adversarial text were not evaluated.",
)


@dataclass(frozen=True)
class Result:
    """Metrics of a model, and the rows they were computed on."""

    split: str
    rows: int
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # metric → its 95 % interval


@dataclass(frozen=True)
class Card:
    """Contents of a model card. Values that are None are omitted; sentences are Markdown."""

    name: str
    task: str
    pipeline: str  # pipeline_tag of the task on the Hub
    summary: str
    inputs: Mapping[str, Any]  # as in the manifest; those from the Hub are listed in the front matter
    made: Mapping[str, object]  # provenance: command, source models, data, settings
    costs: Mapping[str, object]  # size, and speed if it was measured
    usage: Mapping[str, str]  # heading → Markdown
    limits: Sequence[str]
    result: Result | None = None
    comparison: Comparison | None = None  # with baselines
    no_comparison: str | None = None  # why there is none: a sentence, in Markdown
    library: str | None = None  # library_name on the Hub
    tags: Sequence[str] = ()


def as_markdown(card: Card) -> str:
    """README.md of a model folder with the Hub's front matter; license and language are those of the base model."""
    from huggingface_hub import ModelCard, ModelCardData

    results = _results(card)
    base = base_facts(card.inputs)
    front = ModelCardData(
        pipeline_tag=card.pipeline,
        library_name=card.library,
        tags=["knowledge-distillation", "tinybert", *card.tags],
        **base,
        datasets=hub_ids(data_inputs(card.inputs).values()),
        model_name=card.name if results else None,  # only used in the model-index
        eval_results=results or None,
    )
    origin = "Made by `tinybert`. `run.yaml` repeats the run; `manifest.json` lists all inputs with their hashes."
    parts = [
        f"# {markdown(card.name)}",
        card.summary,
        origin,
        "## Provenance",
        _table(card.made),
        "## Evaluation",
        _evaluation(card),
        *([] if card.comparison is None else [baseline_table.as_markdown(card.comparison)]),
        *([] if card.no_comparison is None else [card.no_comparison]),
        "## Size and speed",
        _table(card.costs),
        "## Usage",
    ]
    parts += [f"**{heading}**\n\n{text}" for heading, text in card.usage.items()]
    parts += ["## Limitations", "\n".join(f"- {sentence}" for sentence in (*card.limits, _license(base)))]
    return str(ModelCard(f"---\n{front.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _license(base: Mapping[str, Any]) -> str:
    """A sentence about the license."""
    if "license" not in base:
        return "No license is given here: the licenses of the base model and of the training data apply."
    return (
        f"The license in the front matter ({markdown(str(base['license']))}) is that of the base model; those of the "
        "training data apply, too."
    )


def listed(names: Sequence[str], most: int = 20) -> str:
    """The names, separated by commas; at most `most` of them."""
    more = f" and {len(names) - most} more, in config.json" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def model_names(described: Any) -> str:
    """Names of the models that a manifest describes, as written in the config."""
    items = described if isinstance(described, Sequence) else [described]
    return ", ".join(item["path"] if "path" in item else _hub_name(item) for item in items)


def data_names(inputs: Mapping[str, Any]) -> str:
    """Names of the data among the inputs of a manifest: Hub ids, and file names without folders."""
    names = []
    for described in data_inputs(inputs).values():
        files = described if isinstance(described, list) else [described]
        names += [Path(file["path"]).name if "path" in file else _hub_name(file) for file in files]
    return ", ".join(dict.fromkeys(names))


def data_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a manifest that are data."""
    return {name: value for name, value in inputs.items() if name.startswith("data.")}


def _results(card: Card) -> list[Any]:
    from huggingface_hub import EvalResult

    if card.result is None:
        return []
    split, inputs = card.result.split, data_inputs(card.inputs)
    hub: dict[str, Any] = next((value for value in inputs.values() if _on_hub(value)), {})
    local = {name: value for name, value in inputs.items() if name == f"data.{split}_file"} or inputs
    results = []
    for name, value in card.result.scores.items():
        metric_type, arguments = METRICS.get(name, (name, {}))
        if math.isfinite(value):
            results.append(
                EvalResult(
                    task_type=card.pipeline,
                    dataset_type=hub.get("hub_id", "local"),
                    dataset_name=data_names({"data.": hub} if hub else local) or "local",
                    dataset_config=hub.get("config"),
                    dataset_revision=hub.get("revision"),
                    dataset_split=split,
                    metric_type=metric_type,
                    metric_name=name,
                    metric_value=round(value, 6),
                    metric_args=arguments or None,
                )
            )
    return results


def hub_ids(described: Iterable[Any]) -> list[str] | None:
    """The ids of those inputs of a manifest that are from the Hub; None if there are none."""
    return list(dict.fromkeys(value["hub_id"] for value in described if _on_hub(value))) or None


def _on_hub(described: Any) -> bool:
    return isinstance(described, Mapping) and "hub_id" in described


def _hub_name(described: Mapping[str, Any]) -> str:
    name = " ".join(word for word in (described["hub_id"], described.get("config")) if word)
    return f"{name}@{described['revision']}" if described.get("revision") else name


def _evaluation(card: Card) -> str:
    if card.result is None:
        if isinstance(tasks.find(card.task), tasks.PredictionTask | tasks.GenerationTask):
            reason = "there were no rows to score the model on, or they had no labels"
            return f"Not evaluated: {reason}. `tinybert eval` scores it."
        return "Not evaluated: there were no validation rows."
    lines = [
        f"On {counted(card.result.rows, 'row')} of {card.result.split}:",
        "",
        "| metric | value | 95 % interval |",
        "|---|---:|---:|",
    ]
    for name, value in card.result.scores.items():
        low, high = card.result.intervals.get(name, (None, None))
        lines.append(f"| {markdown_cell(name)} | {value:.4f} | {'' if low is None else f'{low:.4f} to {high:.4f}'} |")
    return "\n".join(lines)


def _table(facts: Mapping[str, object]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
