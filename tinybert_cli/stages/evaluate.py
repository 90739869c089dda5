"""eval: score models side by side: quality, fidelity, size, latency."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinybert_cli import artifacts, data, events, loops, metrics, models, processes, tasks
from tinybert_cli.config import Data, Eval, Latency
from tinybert_cli.errors import ConfigError, GateError, InputError, did_you_mean
from tinybert_cli.events import Event
from tinybert_cli.metrics.calibration import temperature_scaling
from tinybert_cli.metrics.comparison import agreement_interval, bootstrap_p, confusion_matrix
from tinybert_cli.metrics.slices import prediction_columns, regressions, slice_scores, slices
from tinybert_cli.reports import evaluation_html, finished_exports, training_curves
from tinybert_cli.stages import baseline_scores, selection, translation_candidates
from tinybert_cli.stages.baseline_scores import ScoredBaseline
from tinybert_cli.stages.candidates import Candidate, costs_of, load_candidate, names_of_model, predictions_of
from tinybert_cli.stages.translation_candidates import TranslationCandidate
from tinybert_cli.types import Array, Predictions, Rows

if TYPE_CHECKING:
    from accelerate import Accelerator

MOST_CLASSES = 25  # classes with numbers of their own in report.md
ENDS = ("_low", "_high")  # of the names of an interval
MOST_INTERVALS = 1_000  # classes whose metrics get intervals, unless `metrics` lists them


def run(config: Eval, *, force: bool = False, dry_run: bool = False) -> Iterator[Event]:
    """Writes metrics.json, predictions.parquet and report.md; yields a `model` event for each model.

    Raises:
        GateError: a model does not reach what `require` demands; the folder is finished all the same.
    """
    task = tasks.find_scored_task(config.task)
    reference = next(iter(config.models)) if config.reference is None else config.reference
    sources = {name: models.locate(where) for name, where in config.models.items()}
    inputs: dict[str, Any] = {
        f"models.{name}": artifacts.describe_model(source.folder, source.name, models.commit(source))
        for name, source in sources.items()
    }
    listed, training = baseline_scores.training_inputs(config, task)
    inputs |= artifacts.describe_all(data.sources(config.data, [config.split]) | training)
    with artifacts.open_output("eval", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield from artifacts.read_rows(output.folder, "model")
            yield output.up_to_date()
        else:
            yield from output.record(_evaluate(config, task, sources, reference, listed, output))
        numbers = {} if dry_run else artifacts.read_metrics(output.folder)
    if not dry_run:
        _require(numbers, config)


_Candidates = Mapping[str, Candidate] | Mapping[str, TranslationCandidate]


@dataclass(frozen=True)
class _Scored:
    """The predictions of a model and everything that is computed from them once."""

    predictions: Predictions
    statistics: metrics.Statistics
    scores: Mapping[str, float]
    resampled: Mapping[str, Array]  # metric → (R,)


def _evaluate(
    config: Eval,
    task: tasks.PredictionTask | tasks.GenerationTask,
    sources: Mapping[str, models.Source],
    reference: str,
    listed: list[str],
    output: artifacts.Output,
) -> Iterator[Event]:
    rows = data.read(config.data, config.split)
    columns = {name: rows.column(name) for name in config.slices}  # raises if one is missing
    if isinstance(task, tasks.Translation):
        predicted = yield from _translate(config, task, sources, reference, rows, output)
    else:
        assert isinstance(task, tasks.PredictionTask)  # the only other kind
        predicted = yield from _predict(config, task, sources, reference, listed, rows, output)
    if predicted is None:  # a dry run
        return
    with processes.main_first():
        if output.main:  # the others wait, so that they do not disturb the latencies
            yield from _compare(config, task, sources, reference, listed, rows, columns, predicted, output)


def _compare(
    config: Eval,
    task: tasks.PredictionTask | tasks.GenerationTask,
    sources: Mapping[str, models.Source],
    reference: str,
    listed: list[str],
    rows: Rows,
    columns: Mapping[str, Sequence[Any]],
    predicted: _Predicted,
    output: artifacts.Output,
) -> Iterator[Event]:
    """Scores the predictions, fits the baselines, measures the costs, and writes the files; in one process."""
    metric, candidates, names = predicted.metric, predicted.candidates, predicted.names
    scored = {name: _scored(config, task, metric, own, names) for name, own in predicted.predictions.items()}
    baselines: dict[str, ScoredBaseline] = {}
    if isinstance(task, tasks.PredictionTask):
        encoded = candidates[reference].encoded
        baselines = yield from baseline_scores.fit(config, task, listed, names, rows, encoded)
        scored |= {name: _scored(config, task, metric, one.predictions, names) for name, one in baselines.items()}
    loops.return_freed_memory()  # of the resamples
    yield from map(events.warning, _left_out(task, metric, scored, reference))
    undefined = {name for name, model in scored.items() if task.main_metric in metric.undefined(model.predictions)}
    main_scores = {name: model.scores[task.main_metric] for name, model in scored.items() if name not in undefined}
    sign = task.objective(task.main_metric)[1]
    losers = baseline_scores.comparison(main_scores, baselines, task.main_metric, sign)
    yield from map(events.warning, losers)
    settings = artifacts.settings_of(config)
    selected = selection.selected_on(sources, settings, output.inputs, config.split)
    notes = list(selected.notes())
    yield from map(events.warning, notes)
    lengths, confidences = candidates[reference].lengths, scored[reference].predictions.confidences
    slice_rows = slices(lengths, metric.label_slices(), confidences, columns)
    costs = {} if config.latency is None else predicted.costs(config.latency, baselines)
    table: dict[str, dict[str, float]] = {}
    facts = {name: one.facts for name, one in [*candidates.items(), *baselines.items()]}
    for name in scored:
        numbers = _numbers(config, task, metric, scored[name], None if name == reference else scored[reference])
        numbers |= {**facts[name], **{key: value[name] for key, value in costs.items() if name in value}}
        if name != reference:
            numbers |= {
                key.replace("latency_ms", "speedup"): value[reference] / value[name]
                for key, value in costs.items()
                if key.startswith("latency_ms") and not key.endswith("_p95") and {name, reference} <= value.keys()
            }
        by_slice = slice_scores(metric, scored[name].statistics, slice_rows, task.slice_metric)
        numbers |= {f"{task.slice_metric}[{key}]": value for key, value in by_slice.items()}
        table[name] = numbers
        yield {
            "event": "model",
            "model": name,
            "is_reference": name == reference,
            "is_baseline": name in baselines,
            "metric": task.main_metric,
            **numbers,
        }

    flat = {f"{name}.{key}": value for name, numbers in table.items() for key, value in numbers.items()}
    texts = {key: rows.columns[key] for key in config.data.text_columns} | {"label": metric.references}
    predictions = {name: result.predictions for name, result in scored.items()}
    row_scores = {name: metric.row_scores(result.statistics) for name, result in scored.items()}
    outputs = {f"{name}_prediction": result.values for name, result in predictions.items()}
    beside = {} if isinstance(task, tasks.PredictionTask) else outputs
    own_predictions = {name: predictions[name] for name in candidates}
    lost = regressions(texts | beside, own_predictions, row_scores, reference)
    signatures = metric.description().get("signatures", {})
    title = f"{output.folder.name}: {len(rows):,} rows of {config.split}"
    pages = {"report.md": artifacts.markdown_table(title, _without_many_classes(flat, names), list(scored))}
    if signatures:
        pages["report.md"] += "\n" + "".join(f"- {name}: `{text}`\n" for name, text in signatures.items())
    pages["report.md"] += "".join(f"\n{note[:1].upper()}{note[1:]}.\n" for note in notes)
    try:
        pages["report.html"] = evaluation_html.as_html(
            evaluation_html.Evaluation(
                title=output.folder.name,
                lead=" ".join(
                    [
                        f"{len(rows):,} rows of {config.split}, scored on {artifacts.machine()}.",
                        *(f"{name}: {text}." for name, text in signatures.items()),
                        *(f"Note: {note}." for note in notes),
                    ]
                ),
                metric=task.main_metric, slice_metric=task.slice_metric,
                more_is_better=sign > 0,
                reference=reference, models=table, classes=names,
                confidences=_confidences(metric, scored), confusion_matrices=_confusions(metric, scored, names),
                slice_sizes={key: int(selected.sum()) for key, selected in slice_rows.items()}, regressions=lost,
                training_logs={
                    name: training_curves.read_log(source.folder)
                    for name, source in sources.items() if source.folder is not None
                },
                exports=finished_exports.beside(
                    output.folder, table, finished_exports.checksums(output.inputs),
                    metric=task.main_metric, reference=reference,
                ),
                baselines=[*baselines],
            )
        )  # fmt: skip
    except InputError as error:  # matplotlib is missing
        yield events.warning(f"no report.html: {error.what}; {error.hint}")

    def write(folder: Path) -> None:
        by_model = {name: prediction_columns(values) for name, values in predictions.items()}
        flat_columns: dict[str, Any] = {
            f"{name}_{key}": values for name, own in by_model.items() for key, values in own.items()
        }
        data.write_table(folder / "predictions.parquet", {**texts, **flat_columns})
        data.write_table(folder / "regressions.parquet", lost)
        for name, text in pages.items():
            (folder / name).write_text(text, encoding="utf-8")

    scored.clear()  # the statistics are large, and writing needs memory, too
    loops.return_freed_memory()
    output.put(write)
    described = {"label_names": names} if isinstance(task, tasks.PredictionTask) else metric.description()
    output.finish(
        flat,
        **described,
        selected_on_these_rows=selected.own,
        made_from_selected_on_these_rows=selected.inherited,
        scored_rows=len(rows),
        baselines=list(baselines),
        device=str(loops.device()),
        precision="no",
    )
    yield events.done(config.output_dir, flat)


@dataclass(frozen=True)
class _Predicted:
    """The models with their predictions."""

    metric: metrics.Metric
    names: list[str]  # the classes; none in translation
    candidates: _Candidates
    predictions: Mapping[str, Predictions]
    costs: Callable[[Latency, Mapping[str, ScoredBaseline]], dict[str, dict[str, float]]]


def _predict(
    config: Eval,
    task: tasks.PredictionTask,
    sources: Mapping[str, models.Source],
    reference: str,
    listed: list[str],
    rows: Rows,
    output: artifacts.Output,
) -> Generator[Event, None, _Predicted | None]:
    """The predictions of models that compute logits, shared by several processes; None in a dry run."""
    names = task.label_names(rows, config.data, model_names=names_of_model(config, task, sources[reference]))
    metric = task.metric(rows, config.data, names)
    if metric is None:
        raise tasks.no_labels_error(rows, config.data)
    named = config.data.class_names is not None or models.read_label_names(sources[reference]) is not None
    unnamed = tasks.unnamed_classes(task, sources[reference].name, names, named=named)
    assumptions = events.assumptions([*unnamed, *task.label_statements(rows, config.data, names)])
    candidates = {name: load_candidate(config, task, source, rows, names) for name, source in sources.items()}
    for candidate in candidates.values():
        inputs = candidate.predictor.inputs
        yield from map(events.warning, inputs.check(config.data, candidate.source.name))
    beside = {"baselines": listed} if listed else {}
    yield events.plan(len(rows), models=list(sources), reference=reference, split=config.split, **beside, **assumptions)
    yield from data.row_warnings(config.split, candidates[reference].encoded, config.data)
    if output.dry_run:
        return None
    accelerator = _accelerator()
    predictions: dict[str, Predictions] = {}
    for name, candidate in candidates.items():
        predictions[name] = predictions_of(config, task, candidate, rows, names, accelerator=accelerator)
        yield {"event": "scored", "model": name}
    loops.return_freed_memory()

    def costs(latency: Latency, baselines: Mapping[str, ScoredBaseline]) -> dict[str, dict[str, float]]:
        measured = costs_of(candidates, latency)
        for name, baseline in baselines.items():
            for key, value in baseline.costs(latency, rows).items():
                measured[key][name] = value
        return measured | (_startup(candidates, rows, config.data) if latency.startup else {})

    return _Predicted(metric, names, candidates, predictions, costs)


def _translate(
    config: Eval,
    task: tasks.Translation,
    sources: Mapping[str, models.Source],
    reference: str,
    rows: Rows,
    output: artifacts.Output,
) -> Generator[Event, None, _Predicted | None]:
    """The translations of the models, shared by several processes; None in a dry run."""
    metric = task.generation_metric(rows, config.data)
    if metric is None:
        rows.column(config.data.label_column)  # raises
    assert metric is not None
    yield from map(events.warning, task.pair_warnings(rows, config.data))
    accelerator = _accelerator()
    candidates = {
        name: translation_candidates.load_candidate(config, task, source, rows, accelerator=accelerator)
        for name, source in sources.items()
    }
    for candidate in candidates.values():
        yield from map(events.warning, translation_candidates.warnings(config, candidate))
    yield events.plan(len(rows), models=list(sources), reference=reference, split=config.split)
    yield from data.row_warnings(config.split, candidates[reference].encoded, config.data)
    if output.dry_run:
        return None
    predictions: dict[str, Predictions] = {}
    for name, candidate in candidates.items():
        predictions[name] = candidate.translations(config, accelerator=accelerator)
        yield {"event": "scored", "model": name}

    def costs(latency: Latency, _: Mapping[str, ScoredBaseline]) -> dict[str, dict[str, float]]:
        startup = _startup(candidates, rows, config.data) if latency.startup else {}
        return translation_candidates.costs(candidates, config) | startup

    return _Predicted(metric, [], candidates, predictions, costs)


def _accelerator() -> Accelerator | None:
    """Of this process, if it shares the rows with others."""
    if processes.count() == 1:
        return None
    from accelerate import Accelerator

    return Accelerator()


def _scored(
    config: Eval,
    task: tasks.PredictionTask | tasks.GenerationTask,
    metric: metrics.Metric,
    predictions: Predictions,
    names: list[str],
) -> _Scored:
    statistics = metric.statistics(predictions)
    scores = metrics.score(metric, predictions, statistics)
    listed = _without_many_classes(scores, names, most=MOST_INTERVALS) if config.metrics == "auto" else config.metrics
    resampled = metrics.resampled(
        metric, predictions, statistics,
        resamples=config.bootstrap, seed=config.seed, names={*listed, task.main_metric},
    )  # fmt: skip
    return _Scored(predictions, statistics, scores, resampled)


def _numbers(
    config: Eval,
    task: tasks.PredictionTask | tasks.GenerationTask,
    metric: metrics.Metric,
    model: _Scored,
    reference: _Scored | None,
) -> dict[str, float]:
    """Quality with 95 % intervals, calibration and, against the reference, differences and fidelity."""
    selected = list(model.scores) if config.metrics == "auto" else config.metrics
    numbers: dict[str, float] = {}
    undefined = metric.undefined(model.predictions)
    selected = [name for name in selected if name in model.scores or name != "loss"]  # see `Candidate.facts`
    for name in selected:
        if name not in model.scores:
            raise ConfigError(f"unknown metric '{name}'", key=("metrics",), hint=did_you_mean(name, model.scores))
        if name not in undefined:
            interval = metrics.interval(metric, model.statistics, name, model.resampled)
            numbers |= {name: model.scores[name], **_ends(name, interval)}
    decisions = metric.class_logits(model.predictions)
    numbers |= {} if decisions is None else temperature_scaling(*decisions)
    if reference is None:
        return numbers
    undefined |= metric.undefined(reference.predictions)
    for name in selected:
        if name in undefined:
            continue
        numbers[f"{name}_difference"] = model.scores[name] - reference.scores[name]
        if name in model.resampled:
            differences = model.resampled[name] - reference.resampled[name]
            interval = metrics.difference_interval(metric, model.statistics, reference.statistics, name, differences)
            numbers |= _ends(f"{name}_difference", interval)
            if isinstance(task, tasks.GenerationTask) and name in task.metrics:
                numbers[f"{name}_p"] = bootstrap_p(differences, model.scores[name] - reference.scores[name])
    best = reference.scores[task.main_metric]
    if best > 0 and task.main_metric not in undefined:
        numbers["retention"] = model.scores[task.main_metric] / best
    fidelity = task.fidelity(model.predictions, reference.predictions)
    if config.bootstrap and isinstance(task, tasks.PredictionTask) and task.agreement_counts_rows:
        numbers |= agreement_interval(fidelity["agreement"], len(model.predictions))
    return numbers | fidelity | metric.paired_test(model.statistics, reference.statistics)


def _left_out(
    task: tasks.PredictionTask | tasks.GenerationTask,
    metric: metrics.Metric,
    scored: Mapping[str, _Scored],
    reference: str,
) -> list[str]:
    """What is not defined on these rows, and why, in sentences."""
    sentences = []
    for name, model in scored.items():
        reasons = metric.undefined(model.predictions)
        for reason in dict.fromkeys(reasons.values()):
            numbers = [metric_name for metric_name, own in reasons.items() if own == reason]
            sentences.append(f"{name}: {', '.join(numbers)} left out, because {reason}")
    best = scored[reference].scores[task.main_metric]
    if len(scored) > 1 and best <= 0:
        sentences.append(f"retention left out, because {task.main_metric} of {reference} is {best:.4g}")
    return sentences


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, float]:
    return {} if interval is None else {f"{name}{end}": value for end, value in zip(ENDS, interval, strict=True)}


def _confidences(metric: metrics.Metric, scored: Mapping[str, _Scored]) -> dict[str, tuple[Array, Array]]:
    """model → confidence of each decision, and whether it is correct; empty for a task without confidences."""
    pairs = {name: metric.confidences(result.predictions, result.statistics) for name, result in scored.items()}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def _confusions(
    metric: metrics.Metric, scored: Mapping[str, _Scored], names: list[str]
) -> dict[str, list[list[float]]]:
    """model → confusion matrix (C, C); empty for a task without classes, and if there are too many to show."""
    if len(names) > evaluation_html.MOST_CLASSES:
        return {}
    decisions = {name: metric.class_logits(result.predictions) for name, result in scored.items()}
    return {name: confusion_matrix(*pair).tolist() for name, pair in decisions.items() if pair is not None}


def _without_many_classes(
    numbers: Mapping[str, float], names: list[str], *, most: int = MOST_CLASSES
) -> dict[str, float]:
    """All numbers; with more than `most` classes all but those of single classes, which are in metrics.json."""
    if len(names) <= most:
        return dict(numbers)
    single = {*names, *(name[2:] for name in names)}  # B-PER: metrics of PER
    return {key: value for key, value in numbers.items() if key.partition("[")[2].rpartition("]")[0] not in single}


def _startup(candidates: _Candidates, rows: Rows, settings: Data) -> dict[str, dict[str, float]]:
    text = _typed(rows, settings)
    starts = {name: loops.cold_start(candidate.source.name, text) for name, candidate in candidates.items()}
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


def _require(numbers: Mapping[str, float], config: Eval) -> None:
    missed = []
    for name, bounds in config.require.items():
        for metric, least in bounds.items():
            value = numbers.get(f"{name}.{metric}")
            if value is None:
                missed.append(f"{name}.{metric} was not measured")
            elif value < least:
                missed.append(f"{name}.{metric} is {value:.4f}, required is {least:g}")
    if missed:
        raise GateError("requirements not met: " + "; ".join(missed), where=config.output_dir)
