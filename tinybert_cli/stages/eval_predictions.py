"""What `eval` compares: the models, encoded rows and predictions, and how their costs are measured."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinybert_cli import artifacts, data, events, loops, metrics, models, processes, tasks
from tinybert_cli.config import Data, Eval, Latency
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.stages import translation_candidates
from tinybert_cli.stages.baseline_scores import ScoredBaseline
from tinybert_cli.stages.candidates import Candidate, costs_of, load_candidate, names_of_model, predictions_of
from tinybert_cli.stages.translation_candidates import TranslationCandidate
from tinybert_cli.types import Encoded, Predictions, Rows

if TYPE_CHECKING:
    from accelerate import Accelerator

Costs = dict[str, dict[str, float]]  # `latency_ms_b1`, ... → model → number


@dataclass(frozen=True)
class EvalRun:
    """What a run of `eval` has resolved once: its settings, models and rows."""

    config: Eval
    task: tasks.PredictionTask | tasks.GenerationTask
    sources: Mapping[str, models.Source]
    reference: str  # the model that the others are compared with
    baselines: list[str]
    output: artifacts.Output
    rows: Rows


@dataclass(frozen=True)
class Predicted:
    """The models with their predictions."""

    metric: metrics.Metric
    classes: list[str]  # none in translation
    candidates: Mapping[str, Candidate] | Mapping[str, TranslationCandidate]
    predictions: Mapping[str, Predictions]
    costs: Callable[[Latency, Mapping[str, ScoredBaseline]], Costs]
    devices: Mapping[str, str]  # model → what it ran on: cpu, cuda, ...
    notes: Sequence[str] = ()  # sentences for the reports, without an end mark


def predict(run: EvalRun) -> Generator[Event, None, Predicted | None]:
    """The predictions of all models, shared by several processes; None in a dry run."""
    if isinstance(run.task, tasks.Translation):
        return (yield from _translate(run, run.task))
    assert isinstance(run.task, tasks.PredictionTask)  # the only other kind
    return (yield from _predict(run, run.task))


def _predict(run: EvalRun, task: tasks.PredictionTask) -> Generator[Event, None, Predicted | None]:
    """Of models that compute logits."""
    config, rows, source = run.config, run.rows, run.sources[run.reference]
    classes = task.label_names(rows, config.data, model_names=names_of_model(config, task, source))
    metric = task.metric(rows, config.data, classes)
    if metric is None:
        raise tasks.no_labels_error(rows, config.data)
    # label_names in the config are about the reference, if it has no names of its own
    given = config.data.class_names is not None and models.read_label_names(source) is None
    unnamed = [
        statement
        for one in run.sources.values()
        for statement in tasks.unnamed_classes(
            task, one.name, classes, named=given or models.read_label_names(one) is not None
        )
    ]
    assumptions = events.assumptions([*unnamed, *task.label_statements(rows, config.data, classes)])
    candidates = {name: load_candidate(config, task, one, rows, classes) for name, one in run.sources.items()}
    for candidate in candidates.values():
        inputs = candidate.predictor.inputs
        yield from map(events.warning, inputs.check(config.data, candidate.source.name))
    notes = [
        f"{name} has its classes in another order than {run.reference}: its outputs were compared by class name"
        for name, candidate in candidates.items()
        if candidate.columns is not None
    ]
    devices = {name: loops.device_of(one.predictor.module).type for name, one in candidates.items()}
    notes += device_notes(config, devices)
    yield from map(events.warning, notes)
    beside = {"baselines": run.baselines} if run.baselines else {}
    yield _plan(run, **beside, **assumptions)
    yield from _row_warnings(run, {name: candidate.encoded for name, candidate in candidates.items()})
    if run.output.dry_run:
        return None
    accelerator = _accelerator()
    predictions: dict[str, Predictions] = {}
    for name, candidate in candidates.items():
        predictions[name] = predictions_of(config, task, candidate, rows, classes, accelerator=accelerator)
        yield {"event": "scored", "model": name}
    loops.return_freed_memory()

    def costs(latency: Latency, baselines: Mapping[str, ScoredBaseline]) -> Costs:
        measured = costs_of(candidates, latency)
        for name, baseline in baselines.items():
            for key, value in baseline.costs(latency, rows).items():
                measured[key][name] = value
        return measured | (_startup(run) if latency.startup else {})

    return Predicted(metric, classes, candidates, predictions, costs, devices, notes)


def _translate(run: EvalRun, task: tasks.Translation) -> Generator[Event, None, Predicted | None]:
    config, rows = run.config, run.rows
    metric = task.generation_metric(rows, config.data)
    if metric is None:
        rows.column(config.data.label_column)  # raises
    assert metric is not None
    if config.latency is not None and config.latency.startup:
        translation_candidates.check_startup(run.sources)
    yield from map(events.warning, task.pair_warnings(rows, config.data))
    accelerator = _accelerator()
    candidates: dict[str, TranslationCandidate] = {}
    for name, source in run.sources.items():
        own = translation_candidates.settings_of(config, source, run.sources.values())
        candidates[name] = translation_candidates.load_candidate(own, task, source, rows, accelerator=accelerator)
    for candidate in candidates.values():
        yield from map(events.warning, translation_candidates.warnings(config, candidate))
    loaded = {name: candidate.predictor.model for name, candidate in candidates.items()}
    devices = {name: "cpu" if model is None else model.device.type for name, model in loaded.items()}
    notes = device_notes(config, devices)
    yield from map(events.warning, notes)
    yield _plan(run)
    yield from _row_warnings(run, {name: candidate.encoded for name, candidate in candidates.items()})
    if run.output.dry_run:
        return None
    predictions: dict[str, Predictions] = {}
    for name, candidate in candidates.items():
        predictions[name] = candidate.translations(config, accelerator=accelerator)
        yield {"event": "scored", "model": name}
        cut = translation_candidates.cut_warning(config.data, config.search, predictions[name], name)
        yield from map(events.warning, cut)

    def costs(latency: Latency, _: Mapping[str, ScoredBaseline]) -> Costs:
        return translation_candidates.costs(candidates, config) | (_startup(run) if latency.startup else {})

    return Predicted(metric, [], candidates, predictions, costs, devices, notes)


def device_notes(config: Eval, devices: Mapping[str, str]) -> list[str]:
    """That latencies of different devices are not comparable, in a sentence without an end mark.

    Args:
        devices: model → what it runs on. Exports run on the CPU, also where models have a GPU.
    """
    if config.latency is None or len({*devices.values()}) < 2:
        return []
    names = {kind: [name for name, own in devices.items() if own == kind] for kind in devices.values()}
    each = "; ".join(f"{', '.join(own)} on {kind}" for kind, own in names.items())
    return [
        f"the models run on different devices ({each}), so their latencies and speed-ups are not comparable: "
        "ACCELERATE_USE_CPU=true runs all of them on the CPU"
    ]


def _row_warnings(run: EvalRun, encoded: Mapping[str, Encoded]) -> Iterator[Event]:
    """Warnings about the rows as each model reads them; those that differ from the reference's name the model."""
    config = run.config
    common = [row["message"] for row in data.row_warnings(config.split, encoded[run.reference], config.data)]
    yield from map(events.warning, common)
    for name, own in encoded.items():
        for row in data.row_warnings(config.split, own, config.data):
            if row["message"] not in common:
                yield events.warning(f"{name}: {row['message']}")


def _plan(run: EvalRun, **more: object) -> Event:
    return events.plan(len(run.rows), models=list(run.sources), reference=run.reference, split=run.config.split, **more)


def _accelerator() -> Accelerator | None:
    """Of this process, if it shares the rows with others."""
    if processes.count() == 1:
        return None
    from accelerate import Accelerator

    return Accelerator()


def _startup(run: EvalRun) -> Costs:
    text = _typed(run.rows, run.config.data)
    starts = {name: loops.cold_start(source.name, text) for name, source in run.sources.items()}
    return {
        "startup_ms": {name: milliseconds for name, (milliseconds, _) in starts.items()},
        "peak_memory_bytes": {name: float(peak) for name, (_, peak) in starts.items()},
    }


def _typed(rows: Rows, settings: Data) -> str:
    """The first row with text in every column, as a line of input for `tinybert predict`."""
    for values in zip(*map(rows.column, settings.text_columns), strict=True):
        words = [value if isinstance(value, list) else str(value).split() for value in values]
        if all(words):
            return "\t".join(" ".join(column) for column in words)
    raise InputError("every row is empty", where=rows.location(0), hint="set latency.startup: false")
