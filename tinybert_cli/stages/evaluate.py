"""eval: score models side by side: quality, fidelity, size, latency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli import artifacts, data, loops, models, tasks
from tinybert_cli.config import Data, Eval, Latency
from tinybert_cli.errors import ConfigError, GateError, InputError, did_you_mean
from tinybert_cli.metrics.slices import regressions, slices
from tinybert_cli.predictor import opened
from tinybert_cli.reports import evaluation_html
from tinybert_cli.types import Array, Encoded, Rows

TIMED_ROWS = 256  # rows that the latencies are taken on, or as many as there are
MOST_CLASSES = 25  # whose numbers stand in report.md one by one
COUNTED_ROWS = 64  # rows whose multiplications are counted


def run(config: Eval, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes metrics.json, predictions.parquet and report.md; yields a `model` row for each model.

    Raises:
        GateError: a model does not reach what `require` asks for; the folder is finished all the same.
    """
    reference = next(iter(config.models)) if config.reference is None else config.reference
    found = {name: models.locate(where) for name, where in config.models.items()}
    inputs: dict[str, Any] = {
        f"models.{name}": artifacts.describe_model(source.folder, source.name, models.commit(source))
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


@dataclass(frozen=True)
class _Contestant:
    source: models.Source
    model: Any
    encoded: Encoded
    examples: data.Examples
    facts: Mapping[str, float]


def _evaluate(
    config: Eval, sources: Mapping[str, models.Source], reference: str, output: artifacts.Output
) -> Iterator[artifacts.Row]:
    task = tasks.find_prediction_task(config.task)
    rows = data.read(config.data, config.split)
    names = task.label_names(rows, config.data, model_names=models.read_label_names(sources[reference]))
    gold = task.exam(rows, config.data, names)
    if gold is None:
        raise tasks.without_gold(rows, config.data)
    columns = {name: rows.column(name) for name in config.slices}  # raises if one is missing
    yield {"event": "plan", "rows": len(rows), "models": list(sources), "reference": reference, "split": config.split}
    contestants = {name: _enter(config, task, source, rows, names) for name, source in sources.items()}
    shown_to_reference = contestants[reference].encoded
    yield from data.row_warnings(config.split, shown_to_reference, config.data)
    if output.dry_run:
        return

    logits, offsets = {}, shown_to_reference.row_offsets
    for name, contestant in contestants.items():
        order = data.sorted_batches(contestant.examples.lengths, config.per_device_eval_batch_size)
        raw = loops.predict_all(contestant.model, contestant.examples, order)
        logits[name] = task.settled(raw, offsets, models.read_config(contestant.source))
        yield {"event": "scored", "model": name}
    said = {name: task.answers(values, offsets, names, rows, config.data) for name, values in logits.items()}
    judge = _Judge(config, task, gold, logits[reference], offsets)
    slice_rows = slices(_row_lengths(shown_to_reference), gold.kinds(), said[reference].get("confidence"), columns)
    credits = {name: gold.credit(values) for name, values in logits.items()}
    costs = {} if config.latency is None else _costs(contestants, config.latency, rows, config.data)
    table: dict[str, dict[str, float]] = {}
    for name, contestant in contestants.items():
        found = judge.scores(logits[name], is_reference=name == reference) | dict(contestant.facts)
        found |= {key: value[name] for key, value in costs.items() if name in value}
        if name != reference:
            found |= {
                key.replace("latency_ms", "speedup"): value[reference] / value[name]
                for key, value in costs.items()
                if key.startswith("latency_ms") and not key.endswith("_p95")
            }
        found |= {f"{task.sliced}[{key}]": float(credits[name][rows_in].mean()) for key, rows_in in slice_rows.items()}
        table[name] = found
        yield {"event": "model", "model": name, "is_reference": name == reference, "metric": task.main_metric, **found}

    metrics = {f"{name}.{key}": value for name, found in table.items() for key, value in found.items()}
    shown = {key: rows.columns[key] for key in data.text_columns(config.data)} | {"label": gold.words}
    lost = regressions(shown, said, credits, reference)
    title = f"{output.folder.name}: {len(rows):,} rows of {config.split}"
    pages = {"report.md": artifacts.markdown_table(title, _readable(metrics, names), list(sources))}
    try:
        pages["report.html"] = evaluation_html.as_html(
            evaluation_html.Evaluation(
                title=output.folder.name,
                lead=f"{len(rows):,} rows of {config.split}, scored on {artifacts.machine()}.",
                metric=task.main_metric, sliced=task.sliced, more_is_better=task.objective("auto")[1] > 0,
                reference=reference, models=table, classes=names,
                answers={name: sure for name, values in logits.items() if (sure := gold.certainty(values))},
                confusions={
                    name: matrix.tolist()
                    for name, values in logits.items() if (matrix := gold.confusion(values)) is not None
                },
                slices={key: int(chosen.sum()) for key, chosen in slice_rows.items()}, mistakes=lost,
                curves={name: _log(source) for name, source in sources.items()},
            )
        )  # fmt: skip
    except InputError as error:  # matplotlib is missing
        yield {"event": "warning", "message": f"no report.html: {error.what}; {error.hint}"}

    def write(folder: Path) -> None:
        answers = {f"{name}_{key}": values for name, columns in said.items() for key, values in columns.items()}
        data.write_table(folder / "predictions.parquet", {**shown, **answers})
        data.write_table(folder / "regressions.parquet", lost)
        for name, text in pages.items():
            (folder / name).write_text(text, encoding="utf-8")

    output.put(write)
    output.finish(metrics, label_names=names, device=str(loops.device()), precision="no")
    yield {"event": "done", "output_dir": config.output_dir, **metrics}


def _readable(metrics: Mapping[str, float], names: list[str]) -> dict[str, float]:
    """All of them, or, of very many classes, all but the numbers of each class, which metrics.json has."""
    if len(names) <= MOST_CLASSES:
        return dict(metrics)
    of_one = [f"[{name}]" for name in names]
    return {key: value for key, value in metrics.items() if not any(name in key for name in of_one)}


def _log(source: models.Source) -> list[artifacts.Row]:
    """How a model of ours learned; nothing of others."""
    if source.folder is None or not (source.folder / "log.jsonl").is_file():
        return []
    return [row for event in ("train", "evaluate") for row in artifacts.read_rows(source.folder, event)]


def _enter(
    config: Eval, task: tasks.PredictionTask, source: models.Source, rows: Rows, names: list[str]
) -> _Contestant:
    """A model with the rows as it wants them; its labels must be the reference's, in their order."""
    task.label_names(rows, config.data, model_names=models.read_label_names(source) or names)
    model = opened(source, task, names)
    encoded = task.encode(rows, config.data, model.tokenizer)
    examples = data.Examples.of(encoded)
    models.check_length(source, int(examples.lengths.max()))
    timed = [] if config.latency is None else [length for length in config.latency.lengths if isinstance(length, int)]
    models.check_length(source, max(timed, default=0), key=("latency", "lengths"))
    facts = {"bytes": models.weights_bytes(models.fetch(source)), **model.size}
    return _Contestant(source, model.net, encoded, examples, facts)


def _row_lengths(encoded: Encoded) -> Array:
    """Tokens of each row (N,), whatever windows it was parted into."""
    lengths = np.diff(encoded.offsets)
    if encoded.row_offsets is None or encoded.window_offsets is None:
        return lengths
    row = np.searchsorted(encoded.row_offsets, encoded.window_offsets[:-1], side="right") - 1  # of each window
    return np.bincount(row, weights=lengths, minlength=len(encoded.row_offsets) - 1)


class _Judge:
    """What the gold answers and the reference's logits say of a model's."""

    def __init__(
        self,
        config: Eval,
        task: tasks.PredictionTask,
        gold: tasks.Exam,
        reference: Array,
        offsets: Array | None,
    ) -> None:
        self.config, self.task, self.gold, self.reference, self.offsets = config, task, gold, reference, offsets
        self.reference_scores = self._points(reference)
        self.reference_draws = self._draws(reference)

    def scores(self, logits: Array, *, is_reference: bool) -> dict[str, float]:
        """Quality with its 95 % intervals, and, but for the reference itself, what it keeps of the reference."""
        gold, points = self.gold, self._points(logits)
        wanted = list(points) if self.config.metrics == "auto" else self.config.metrics
        draws = self.reference_draws if is_reference else self._draws(logits)
        found: dict[str, float] = {}
        for name in wanted:
            if name not in points:
                raise ConfigError(f"unknown metric '{name}'", key=("metrics",), hint=did_you_mean(name, points))
            found |= {name: points[name], **_interval(name, draws)}
        found |= gold.calibrated(logits)
        if is_reference:
            return found
        paired = {name: values - self.reference_draws[name] for name, values in draws.items()}
        for name in wanted:
            found[f"{name}_difference"] = points[name] - self.reference_scores[name]
            found |= _interval(name, paired, end="_difference")
        main = self.task.main_metric
        best = self.reference_scores[main]
        found["retention"] = points[main] / best if best else 0.0
        found |= self.task.fidelity(logits, self.reference, self.offsets)
        return found | gold.discordant(logits, self.reference)

    def _points(self, logits: Array) -> dict[str, float]:
        return self.gold.score(logits) | self.gold.details(logits)

    def _draws(self, logits: Array) -> dict[str, Array]:
        if not self.config.bootstrap:
            return {}
        return self.gold.resampled(logits, resamples=self.config.bootstrap, seed=self.config.seed)


def _interval(name: str, draws: Mapping[str, Array], *, end: str = "") -> dict[str, float]:
    """The middle 95 % of what was drawn."""
    if name not in draws:
        return {}
    low, high = tasks.interval(draws[name])
    return {f"{name}{end}_low": low, f"{name}{end}_high": high}


def _costs(
    contestants: Mapping[str, _Contestant], latency: Latency, rows: Rows, settings: Data
) -> dict[str, dict[str, float]]:
    """`latency_ms_b1`, `latency_ms_b32_t128_p95`, `multiply_adds`, ... → model → number."""
    found: dict[str, dict[str, float]] = {}
    nets = {name: contestant.model for name, contestant in contestants.items()}
    for size in latency.batch_sizes:
        for length in latency.lengths:
            key = f"latency_ms_b{size}" + ("" if length == "data" else f"_t{length}")
            shown = {
                name: contestant.examples.timing_batches(size, None if length == "data" else length, TIMED_ROWS)
                for name, contestant in contestants.items()
            }
            taken = loops.latencies(nets, shown)
            found[key] = {name: float(np.median(values)) for name, values in taken.items()}
            found[f"{key}_p95"] = {name: float(np.percentile(values, 95)) for name, values in taken.items()}
    found["multiply_adds"] = {
        name: loops.multiply_adds(contestant.model, contestant.examples.timing_batches(1, None, COUNTED_ROWS))
        for name, contestant in contestants.items()
        if "parameters" in contestant.facts
    }
    if latency.startup:
        text = "\t".join(str(rows.column(column)[0]) for column in data.text_columns(settings))
        first = {name: loops.cold_start(contestant.source.name, text) for name, contestant in contestants.items()}
        found["startup_ms"] = {name: taken for name, (taken, _) in first.items()}
        found["peak_memory_bytes"] = {name: held for name, (_, held) in first.items()}
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
