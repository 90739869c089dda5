"""eval: score models side by side: quality, fidelity, size, latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, data, formats, loops, models, tasks
from tinybert_cli.config import Eval, Latency
from tinybert_cli.errors import ConfigError, GateError, did_you_mean

CHECKS: dict[str, Callable[[Any], object]] = {"task": tasks.find_answering}

MEASURES = ("retention", "agreement", "speedup_b1", "speedup_b32")  # what `require` may ask for besides the metrics
TIMED_ROWS = 256  # rows that the latencies are taken on, or as many as there are


def run(config: Eval, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes metrics.json, predictions.parquet and report.md; yields a `model` row for each model.

    Raises:
        GateError: a model does not reach what `require` asks for; the folder is finished all the same.
    """
    reference = _check(config)
    found = {name: models.locate(where) for name, where in config.models.items()}
    inputs: dict[str, Any] = {
        f"models.{name}": artifacts.describe_model(source.folder, source.name, source.revision)
        for name, source in found.items()
    }
    inputs |= artifacts.describe_all(data.sources(config.data, [config.split]))
    with artifacts.open_output("eval", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            yield from artifacts.read_rows(output.folder, "model")
            metrics = artifacts.read_metrics(output.folder)
            yield output.up_to_date()
        else:
            metrics = {}
            for row in output.record(_evaluate(config, found, reference, output)):
                yield row
                if row["event"] == "done":
                    metrics = artifacts.read_metrics(output.folder)
    if not dry_run:
        _require(metrics, config)


def _check(config: Eval) -> str:
    task = tasks.find_answering(config.task)
    names = list(config.models)
    reference = names[0] if config.reference is None else config.reference
    if reference not in names:
        raise ConfigError(f"`reference` '{reference}' is not among the models", key=("reference",),
                          hint=did_you_mean(reference, names))  # fmt: skip
    for index, metric in enumerate([] if config.metrics == "auto" else config.metrics):
        if metric not in task.metrics:
            raise ConfigError(
                f"unknown metric '{metric}'", key=("metrics", index), hint=did_you_mean(metric, task.metrics)
            )
    known = [*task.metrics, *(f"{metric}_low" for metric in task.metrics), *MEASURES]
    for name, wanted in config.require.items():
        if name not in names:
            raise ConfigError(f"unknown model '{name}' in `require`", key=("require", name),
                              hint=did_you_mean(name, names))  # fmt: skip
        for metric in wanted:
            if metric not in known:
                raise ConfigError(f"unknown metric '{metric}'", key=("require", name, metric),
                                  hint=did_you_mean(metric, known))  # fmt: skip
    return reference


@dataclass(frozen=True)
class _Contestant:
    model: Any
    examples: data.Examples
    facts: dict[str, float]


def _evaluate(
    config: Eval, sources: Mapping[str, models.Source], reference: str, output: artifacts.Output
) -> Iterator[artifacts.Row]:
    task = tasks.find_answering(config.task)
    rows = data.read(config.data, config.split)
    names = task.label_names(rows, config.data, model_names=models.read_label_names(sources[reference]))
    gold = task.labels(rows, config.data, names)
    if gold is None:
        rows.column(config.data.label_column_name)  # raises, with the columns that there are
    assert gold is not None
    yield {"event": "plan", "rows": len(rows), "models": list(sources), "reference": reference, "split": config.split}
    contestants = {}
    for name, source in sources.items():
        contestants[name], encoded = _enter(config, task, source, rows, names)
        if name == reference:
            yield from data.remarks(config.split, encoded, config.data)
    if output.dry_run:
        return

    logits = {}
    for name, contestant in contestants.items():
        order = data.sorted_batches(contestant.examples.lengths, config.per_device_eval_batch_size)
        logits[name] = loops.predict_all(contestant.model, contestant.examples, order)
        yield {"event": "scored", "model": name}
    times = {} if config.latency is None else _latencies(contestants, config.latency)
    metrics: dict[str, float] = {}
    for name, contestant in contestants.items():
        found = _scores(config, task, logits[name], gold, logits[reference], is_reference=name == reference)
        found |= contestant.facts | {key: value[name] for key, value in times.items()}
        found |= {
            key.replace("latency_ms", "speedup"): value[reference] / value[name]
            for key, value in times.items()
            if name != reference
        }
        metrics |= {f"{name}.{key}": value for key, value in found.items()}
        yield {"event": "model", "model": name, "is_reference": name == reference, **found}

    def write(folder: Path) -> None:
        columns: dict[str, Any] = {key: rows.columns[key] for key in data.text_columns(config.data)}
        columns["label"] = [names[label] for label in gold]
        for name, values in logits.items():
            said = task.answers(values, names)
            columns |= {f"{name}_prediction": said["prediction"], f"{name}_confidence": said["confidence"]}
        data.write_table(folder / "predictions.parquet", columns)
        title = f"{output.folder.name}: {len(rows):,} rows of {config.split}"
        (folder / "report.md").write_text(artifacts.markdown_table(title, metrics, list(sources)), encoding="utf-8")

    output.put(write)
    output.finish(metrics, label_names=names, device=str(loops.device()), precision="no")
    yield {"event": "done", "output_dir": config.output_dir, **metrics}


def _enter(
    config: Eval, task: tasks.Answering, source: models.Source, rows: data.Rows, names: list[str]
) -> tuple[_Contestant, Any]:
    """A model with the rows as it wants them; its labels must be the reference's, in their order."""
    tokenizer = models.load_tokenizer(source)
    folder = models.fetch(source)
    model = formats.read_exported(folder)
    facts: dict[str, float] = {"bytes": models.weights_bytes(folder)}
    task.label_names(rows, config.data, model_names=models.read_label_names(source) or names)
    if model is None:
        model = models.load(source, task.head, label_names=names)
        models.check_vocabulary(model, tokenizer, source)
        facts["parameters"] = models.size(model)["parameters"]
        model = model.to(loops.device())
    encoded = task.encode(rows, config.data, tokenizer)
    return _Contestant(model, data.Examples.of(encoded), facts), encoded


def _scores(
    config: Eval,
    task: tasks.Answering,
    logits: data.Array,
    gold: data.Array,
    reference: data.Array,
    *,
    is_reference: bool,
) -> dict[str, float]:
    """Quality with its 95 % intervals, and, but for the reference itself, retention and fidelity."""
    scores = task.score(logits, gold)
    wanted = list(scores) if config.metrics == "auto" else config.metrics
    found = {}
    intervals = task.intervals(logits, gold, resamples=config.bootstrap, seed=config.seed) if config.bootstrap else {}
    for name in wanted:
        found[name] = scores[name]
        if name in intervals:
            found[f"{name}_low"], found[f"{name}_high"] = intervals[name]
    if not is_reference:
        best = task.score(reference, gold)[task.main_metric]
        found["retention"] = scores[task.main_metric] / best if best else 0.0
        found |= task.fidelity(logits, reference)
    return found


def _latencies(contestants: Mapping[str, _Contestant], latency: Latency) -> dict[str, dict[str, float]]:
    """`latency_ms_b1`, `latency_ms_b32_t128`, ... → model → median milliseconds."""
    found = {}
    for size in latency.batch_sizes:
        for length in latency.lengths:
            key = f"latency_ms_b{size}" + ("" if length == "data" else f"_t{length}")
            shown = {
                name: contestant.examples.timing_batches(size, None if length == "data" else length, TIMED_ROWS)
                for name, contestant in contestants.items()
            }
            found[key] = loops.latencies({name: contestant.model for name, contestant in contestants.items()}, shown)
    return found


def _require(metrics: Mapping[str, float], config: Eval) -> None:
    missed = []
    for name, wanted in config.require.items():
        for metric, least in wanted.items():
            value = metrics.get(f"{name}.{metric}")
            if value is None:
                missed.append(f"{name}.{metric} was not measured")
            elif value < least:
                missed.append(f"{name}.{metric} is {value:.4f}, required is {least:g}")
    if missed:
        raise GateError("not good enough: " + "; ".join(missed), where=config.output_dir)
