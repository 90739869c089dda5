"""eval: score models side by side: quality, fidelity, size, latency."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

from tinybert_cli import artifacts, data, events, loops, models, processes, tasks
from tinybert_cli.config import Eval
from tinybert_cli.errors import GateError
from tinybert_cli.events import Event
from tinybert_cli.metrics.slices import slice_scores, slices
from tinybert_cli.stages import baseline_scores, eval_checks, eval_predictions, eval_reports, eval_scores, selection
from tinybert_cli.stages.baseline_scores import ScoredBaseline
from tinybert_cli.stages.eval_predictions import EvalRun, Predicted
from tinybert_cli.stages.eval_reports import Comparison
from tinybert_cli.stages.eval_scores import Scored


def run(config: Eval, *, force: bool = False, dry_run: bool = False) -> Iterator[Event]:
    """Writes metrics.json, predictions.parquet and report.md; yields a `model` event for each model.

    Raises:
        GateError: a model does not reach what `require` demands; the folder is finished all the same.
    """
    task = tasks.find_scored_task(config.task)
    sources = {name: models.locate(where) for name, where in config.models.items()}
    inputs: dict[str, Any] = {
        f"models.{name}": artifacts.describe_model(source.folder, source.name, models.commit(source))
        for name, source in sources.items()
    }
    baselines, training = baseline_scores.training_inputs(config, task)
    inputs |= artifacts.describe_all(data.sources(config.data, [config.split]) | training)
    with artifacts.open_output("eval", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield from artifacts.read_rows(output.folder, "model")
            yield output.up_to_date()
        else:
            yield from output.record(_evaluate(config, task, sources, baselines, output))
        numbers = {} if dry_run else artifacts.read_metrics(output.folder)
    if not dry_run:
        _require(numbers, config)


def _evaluate(
    config: Eval,
    task: tasks.PredictionTask | tasks.GenerationTask,
    sources: Mapping[str, models.Source],
    baselines: list[str],
    output: artifacts.Output,
) -> Iterator[Event]:
    reference = next(iter(sources)) if config.reference is None else config.reference
    rows = data.read(config.data, config.split)
    columns = {name: rows.column(name) for name in config.slices}  # raises if one is missing
    run = EvalRun(config, task, sources, reference, baselines, output, rows)
    predicted = yield from eval_predictions.predict(run)
    if predicted is None:  # a dry run
        return
    with processes.main_first():
        if output.main:  # the others wait, so that they do not disturb the latencies
            yield from _compare(run, predicted, columns)


def _compare(run: EvalRun, predicted: Predicted, columns: Mapping[str, Sequence[Any]]) -> Iterator[Event]:
    """Scores the predictions, fits the baselines, measures the costs, and writes the files; in one process."""
    config, output = run.config, run.output
    scored = {name: eval_scores.scored(run, predicted, own) for name, own in predicted.predictions.items()}
    baselines = yield from _baselines(run, predicted)
    scored |= {name: eval_scores.scored(run, predicted, one.predictions) for name, one in baselines.items()}
    loops.return_freed_memory()  # of the resamples
    yield from map(events.warning, eval_scores.left_out(run, predicted.metric, scored))
    yield from map(events.warning, _no_better_than_baselines(run, predicted, scored, baselines))
    selected = selection.selected_on(run.sources, artifacts.settings_of(config), output.inputs, config.split)
    notes = list(selected.notes())
    yield from map(events.warning, notes)
    table, sizes = yield from _table(run, predicted, scored, baselines, columns)
    limits = eval_scores.temperature_notes(table)
    yield from map(events.warning, limits)
    comparison = Comparison(run, predicted, scored, table, [*predicted.notes, *notes, *limits], sizes)
    reports, flat, devices = (yield from eval_reports.reports(comparison)), comparison.flat, dict(predicted.devices)
    del comparison, scored  # the statistics are large, and writing needs memory, too
    loops.return_freed_memory()
    output.files.put(reports.write)
    described = {"label_names": predicted.classes}
    output.finish(
        flat,
        **(described if isinstance(run.task, tasks.PredictionTask) else predicted.metric.description()),
        selected_on_these_rows=list(selected.own),
        made_from_selected_on_these_rows=selected.inherited,
        trained_on_these_rows=selected.trained,
        scored_rows=len(run.rows),
        baselines=list(baselines),
        device=str(loops.device()),
        devices=devices,
        precision="no",
    )
    yield events.done(config.output_dir, flat)


def _baselines(run: EvalRun, predicted: Predicted) -> Generator[Event, None, dict[str, ScoredBaseline]]:
    if not isinstance(run.task, tasks.PredictionTask):
        return {}
    encoded = predicted.candidates[run.reference].encoded
    return (yield from baseline_scores.fit(run.config, run.task, run.baselines, predicted.classes, run.rows, encoded))


def _no_better_than_baselines(
    run: EvalRun, predicted: Predicted, scored: Mapping[str, Scored], baselines: Mapping[str, ScoredBaseline]
) -> list[str]:
    metric = run.task.main_metric
    scores = {
        name: model.scores[metric]
        for name, model in scored.items()
        if metric not in predicted.metric.undefined(model.predictions)
    }
    return baseline_scores.comparison(scores, baselines, metric, run.task.objective(metric)[1])


def _table(
    run: EvalRun,
    predicted: Predicted,
    scored: Mapping[str, Scored],
    baselines: Mapping[str, ScoredBaseline],
    columns: Mapping[str, Sequence[Any]],
) -> Generator[Event, None, tuple[dict[str, dict[str, float]], dict[str, int]]]:
    """All numbers of each model, and the rows in each slice; yields the `model` events.

    Args:
        columns: those of `slices`, name → value of each row.
    """
    metric, reference, main_metric = predicted.metric, run.reference, run.task.main_metric
    slice_rows = slices(
        predicted.candidates[reference].lengths,
        metric.label_slices(),
        scored[reference].predictions.confidences,
        columns,
    )
    costs = {} if run.config.latency is None else predicted.costs(run.config.latency, baselines)
    facts = {name: one.facts for name, one in [*predicted.candidates.items(), *baselines.items()]}
    table: dict[str, dict[str, float]] = {}
    for name, model in scored.items():
        numbers = eval_scores.numbers(run, metric, model, None if name == reference else scored[reference])
        numbers |= {**facts[name], **eval_scores.costs_of(name, reference, costs)}
        by_slice = slice_scores(metric, model.statistics, slice_rows, run.task.slice_metric)
        numbers |= {f"{run.task.slice_metric}[{key}]": value for key, value in by_slice.items()}
        table[name] = numbers
        yield {
            "event": "model",
            "model": name,
            "is_reference": name == reference,
            "is_baseline": name in baselines,
            "metric": main_metric,
            **numbers,
        }
    return table, {key: int(selected.sum()) for key, selected in slice_rows.items()}


def _require(numbers: Mapping[str, float], config: Eval) -> None:
    missed = []
    for name, bounds in config.require.items():
        for metric, bound in bounds.items():
            value, is_maximum = numbers.get(f"{name}.{metric}"), eval_checks.is_maximum(config.task, metric)
            if value is None:
                missed.append(f"{name}.{metric} was not measured")
            elif is_maximum and value > bound:
                missed.append(f"{name}.{metric} is {value:.4f}, required is at most {bound:g}")
            elif not is_maximum and value < bound:
                missed.append(f"{name}.{metric} is {value:.4f}, required is {bound:g}")
    if missed:
        raise GateError("requirements not met: " + "; ".join(missed), where=config.output_dir)
