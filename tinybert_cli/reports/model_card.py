"""The model card: what a model is, how it was made, its numbers, what it costs, how to load it, where it ends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METRICS: dict[str, tuple[str, dict[str, str]]] = {  # what the Hub calls a metric, with what it is computed with
    "f1_macro": ("f1", {"average": "macro"}),
    "mcc": ("matthews_correlation", {}),
}
UNTESTED = (  # true of every model that comes out of these stages
    "Nothing was measured about other domains and languages, about fairness between groups of people, or about text "
    "that is written to fool it.",
    "No license is stated here: those of the model that it starts from and of its data apply.",
)


@dataclass(frozen=True)
class Result:
    """What a model scored, and on which rows."""

    split: str
    rows: int
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # metric → its 95 % interval


@dataclass(frozen=True)
class Card:
    """What a model card says. Facts that are None are left out; sentences are Markdown."""

    name: str
    task: str
    pipeline: str  # what the Hub calls models of that task
    summary: str
    inputs: Mapping[str, Any]  # as the manifest describes them: what of them is on the Hub goes into the front matter
    made: Mapping[str, object]  # how it was made
    costs: Mapping[str, object]  # its size, and its speed where it was measured
    usage: Mapping[str, str]  # heading → Markdown: how to load it
    limits: Sequence[str]
    result: Result | None = None
    library: str | None = None  # the Hub's name for what loads it
    tags: Sequence[str] = ()


def as_markdown(card: Card) -> str:
    """README.md of a model folder, with the front matter that the Hub reads; no license, for nobody stated one."""
    from huggingface_hub import ModelCard, ModelCardData

    results = _results(card)
    bases = (card.inputs[name] for name in ("model", "student") if name in card.inputs)
    front = ModelCardData(
        pipeline_tag=card.pipeline,
        library_name=card.library,
        tags=["knowledge-distillation", "tinybert", *card.tags],
        base_model=_hub_ids(bases),
        datasets=_hub_ids(data_inputs(card.inputs).values()),
        model_name=card.name if results else None,  # only the model-index has a place for it
        eval_results=results or None,
    )
    origin = "Made by `tinybert`; `run.yaml` repeats the run, `manifest.json` names every input by its hash."
    parts = [
        f"# {card.name}",
        card.summary,
        origin,
        "## How it was made",
        _table(card.made),
        "## Numbers",
        _numbers(card),
    ]
    parts += ["## Size and speed", _table(card.costs), "## How to load it"]
    parts += [f"**{heading}**\n\n{text}" for heading, text in card.usage.items()]
    parts += ["## Limits", "\n".join(f"- {sentence}" for sentence in card.limits)]
    return str(ModelCard(f"---\n{front.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def listed(names: Sequence[str], most: int = 20) -> str:
    """The names, or of very many the first."""
    more = f" and {len(names) - most} more, in config.json" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def model_names(described: Any) -> str:
    """What a person calls the models that a manifest describes: as they were written in the config."""
    items = described if isinstance(described, Sequence) else [described]
    return ", ".join(item["path"] if "path" in item else _hub_name(item) for item in items)


def data_names(inputs: Mapping[str, Any]) -> str:
    """What a person calls the data among the inputs of a manifest: Hub ids, and the names of files without folders."""
    names = []
    for described in data_inputs(inputs).values():
        files = described if isinstance(described, list) else [described]
        names += [Path(file["path"]).name if "path" in file else _hub_name(file) for file in files]
    return ", ".join(dict.fromkeys(names))


def data_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Of the inputs that a manifest describes those that are data."""
    return {name: value for name, value in inputs.items() if name.startswith("data.")}


def _results(card: Card) -> list[Any]:
    from huggingface_hub import EvalResult

    if card.result is None:
        return []
    task, split = card.pipeline, card.result.split
    source = data_inputs(card.inputs)
    hub: dict[str, Any] = next((value for value in source.values() if _on_hub(value)), {})
    local = {name: value for name, value in source.items() if name == f"data.{split}_file"} or source
    results = []
    for name, value in card.result.scores.items():
        kind, arguments = METRICS.get(name, (name, {}))
        if math.isfinite(value):
            results.append(
                EvalResult(
                    task_type=task,
                    dataset_type=hub.get("hub_id", "local"),
                    dataset_name=data_names({"data.": hub} if hub else local) or "local",
                    dataset_config=hub.get("config"),
                    dataset_revision=hub.get("revision"),
                    dataset_split=split,
                    metric_type=kind,
                    metric_name=name,
                    metric_value=round(value, 6),
                    metric_args=arguments or None,
                )
            )
    return results


def _hub_ids(described: Iterable[Any]) -> list[str] | None:
    return list(dict.fromkeys(value["hub_id"] for value in described if _on_hub(value))) or None


def _on_hub(described: Any) -> bool:
    return isinstance(described, Mapping) and "hub_id" in described


def _hub_name(described: Mapping[str, Any]) -> str:
    name = " ".join(word for word in (described["hub_id"], described.get("config")) if word)
    return f"{name}@{described['revision']}" if described.get("revision") else name


def _numbers(card: Card) -> str:
    if card.result is None:
        return "None: there were no labelled rows to score it on. `tinybert eval` scores it."
    lines = [
        f"On {card.result.rows:,} rows of {card.result.split}:",
        "",
        "| metric | value | 95 % interval |",
        "|---|---:|---:|",
    ]
    for name, value in card.result.scores.items():
        low, high = card.result.intervals.get(name, (None, None))
        lines.append(f"| {name} | {value:.4f} | {'' if low is None else f'{low:.4f} to {high:.4f}'} |")
    return "\n".join(lines)


def _table(facts: Mapping[str, object]) -> str:
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())
