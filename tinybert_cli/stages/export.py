"""export: write a model in another format, and verify it on real rows against the original."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, data, events, formats, loops, metrics, models, tasks
from tinybert_cli.config import Export
from tinybert_cli.errors import GateError
from tinybert_cli.events import Event
from tinybert_cli.reports import export_card, model_card
from tinybert_cli.stages import parity, selection, spacy_parity, translation_export
from tinybert_cli.stages.int8_search import Int8Result, Int8Search
from tinybert_cli.stages.parity import Parity
from tinybert_cli.types import Predictions

RESAMPLES = 1000  # for the 95 % intervals in the model card


def run(config: Export, *, force: bool = False, dry_run: bool = False) -> Iterator[Event]:
    """Writes an export folder; yields events.

    Raises:
        GateError: float32 does not meet `verify`: nothing is left under a final name. Or int8 does not: then the folder
            holds float32, and running the command again raises the same error.
    """
    task, source = tasks.find_scored_task(config.task), models.locate(config.model)
    inputs = {"model": artifacts.describe_model(source.folder, source.name, models.commit(source))}
    inputs |= artifacts.describe_all(data.sources(config.data, [config.verify.split]))
    with artifacts.open_output("export", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            names = ("rejected", "refused")  # the second in folders of tinybert 0.1
            rejected = [row["message"] for name in names for row in artifacts.read_rows(output.folder, name)]
            yield output.up_to_date()
        else:
            rejected = []
            for row in output.record(_of_task(config, task, source, output)):
                yield row
                if row["event"] == "rejected":
                    rejected.append(row["message"])
    if rejected:
        raise GateError(
            f"int8 rejected: {rejected[-1]}",
            where=config.output_dir,
            hint="the folder holds float32; ship that, or loosen verify",
        )


def _of_task(
    config: Export,
    task: tasks.PredictionTask | tasks.GenerationTask,
    source: models.Source,
    output: artifacts.Output,
) -> Iterator[Event]:
    if isinstance(task, tasks.Translation):
        return translation_export.export(config, task, source, output)
    assert isinstance(task, tasks.PredictionTask)  # the only other kind
    return _export(config, task, formats.find(config.format), source, output)


def _options(config: Export, names: Sequence[str]) -> dict[str, Any]:
    """The settings of these names that a format reads; None and defaults included."""
    return {name: getattr(config, name) for name in names}


def _export(
    config: Export,
    task: tasks.PredictionTask,
    form: formats.Format,
    source: models.Source,
    output: artifacts.Output,
) -> Iterator[Event]:
    model = models.load(source, task.head, label_names=config.data.class_names, problem=task.problem, cls_only=True)
    tokenizer = models.load_tokenizer(source)
    models.check_vocabulary(model, tokenizer, source)
    models.check_inputs(source, tokenizer, config.data)
    inputs = tasks.read_model_inputs(models.read_config(source), models.read_tokenizer_config(source))
    yield from map(events.warning, inputs.check(config.data, source.name))
    names = models.label_names(model) or [str(index) for index in range(model.config.num_labels)]
    all_rows = data.read(config.data, config.verify.split)
    rows = all_rows.head(config.verify.max_samples)
    others = range(len(rows), min(len(all_rows), len(rows) + parity.CALIBRATION_ROWS))  # int8 is not compared on these
    measured = all_rows.select(others) if len(others) == parity.CALIBRATION_ROWS else rows
    metric = task.metric(rows, config.data, task.label_names(rows, config.data, model_names=names))
    if metric is None:
        yield events.warning(parity.missing_labels(rows, config.data, config.verify))
    unnamed = tasks.unnamed_classes(task, source.name, names, named=models.label_names(model) is not None)
    assumptions = events.assumptions([*unnamed, *task.label_statements(rows, config.data, names)])
    encoded = task.encode(rows, config.data, tokenizer)
    examples = data.Examples.of(encoded)
    yield from data.row_warnings(config.verify.split, encoded, config.data)
    if config.quantize != "none":
        measured_rows = len(measured) if config.quantize == "int8" else None
        yield from map(events.warning, parity.too_few_rows(len(rows), measured_rows, config.verify))
    original_bytes = models.weights_bytes(models.fetch(source))
    verification = Parity(
        task, model, names, rows, config.data, examples, encoded.layout, metric, original_bytes,
        measured=data.Examples.of(task.encode(measured, config.data, tokenizer)),
    )  # fmt: skip
    yield events.plan(len(rows), format=config.format, quantize=config.quantize, **models.size(model), **assumptions)
    if output.dry_run:
        return

    def load_model(folder: Path) -> Any:
        return models.load(models.locate(str(folder)), task.head, problem=task.problem, cls_only=True)

    load = partial(parity.load_module, form, load_model=load_model)
    with output.scratch() as whole:
        folder = whole / form.subfolder
        folder.mkdir(exist_ok=True)
        weights, precision = folder / form.weights, config.dtype or form.precision
        form.write(model, verification.sample(), folder, **_options(config, form.options))
        yield {"event": "written", "bytes": weights.stat().st_size}
        exact = precision == "float32"
        numbers, predictions = verification.compare(load(folder), weights, exact=exact)
        failures = parity.violations(numbers, config.verify, exact=exact)
        stored = ""
        if failures:
            raise GateError(
                "the exported model does not match the original: " + "; ".join(failures),
                where=str(output.folder),
                hint="nothing was stored; loosen verify if you can accept the difference",
            )
        if config.quantize == "int8" and form.int8 is not None:
            options = _options(config, form.int8.options)
            int8 = Int8Search(
                form, form.int8, verification, config.verify, folder, load, config.quantize_exclude, options
            ).run()
            for name, why in int8.without_effect.items():
                yield events.warning(f"`{name}: {getattr(config, name)}` has no effect: {why}")
            if int8.rejection is None:
                precision, numbers, predictions = "int8", int8.numbers, int8.predictions
                stored = _weights_in_words(config, int8)
                if 8 in int8.parts:
                    yield {"event": "eight_bit_parts", "parts": int8.parts[8], "cost": int8.cost}
                if 12 in int8.parts:
                    yield {"event": "float32_parts", "parts": int8.parts[12], "cost": int8.cost}
            else:
                yield {"event": "rejected", "message": int8.rejection}
                numbers |= {f"int8_{name}": value for name, value in int8.numbers.items()}
        if config.quantize == "fp16" and form.half is not None:
            form.half.write(weights, folder / form.half.file)
            half = loops.SessionModule(form.half.load(folder / form.half.file))
            precision, (numbers, predictions) = "float16", verification.compare(half, folder / form.half.file)
            failures = parity.violations(numbers, config.verify, exact=False)
            if failures:
                raise GateError(
                    "the float16 model does not match the original: " + "; ".join(failures),
                    where=str(output.folder),
                    hint="nothing was stored; leave out quantize: fp16, or loosen verify",
                )
        if form.load is not None:
            model.config.save_pretrained(folder)
        models.record_length(tokenizer, inputs.max_seq_length)
        models.save_tokenizer(tokenizer, folder, truncate=tasks.cuts_long_texts(task))
        own = {} if form.load is None else {formats.LAYOUT_KEY: formats.LAYOUT, **models.names_in_config(model.config)}
        models.rewrite_config(folder, {tasks.CONFIG_KEY: task.name, **own})
        result = None if metric is None else _result(config, task, predictions, metric)
        facts = {**numbers, **models.size(model), "rows": len(rows)}
        example = ""
        if form.example is not None:
            loaded = form.file(folder) or weights
            example = tasks.onnx_example(task, config.data, names, loaded.relative_to(folder).as_posix())
            (folder / form.example).write_text(example, encoding="utf-8")
        notes = [] if result is None else selection.of_export(config, source, output)
        card = export_card.card(config, precision, output, result, names, facts, stored or precision, example, notes)
        if form.finish is not None:
            form.finish(whole, **_options(config, form.options))
            numbers["pipeline_agreement"] = spacy_parity.verify(whole, folder, rows, config)
        yield {"event": "verify", **numbers}
        (whole / "README.md").write_text(model_card.as_markdown(card), encoding="utf-8")
        output.files.put(lambda target: shutil.copytree(whole, target, dirs_exist_ok=True))
    parameters = models.size(model)["parameters"]
    output.finish(numbers, label_names=names, device="cpu", precision=precision, parameters=parameters)
    yield events.done(config.output_dir, numbers)


def _weights_in_words(config: Export, int8: Int8Result) -> str:
    """`int8, matrices in 4 bits, embeddings in 6 bits, except classifier, encoder.layer.0 (8 bits)`"""
    bits = {"matrices": "matrix_bits", "embeddings": "embedding_bits"}
    fewer = [f"{what} in {getattr(config, name)} bits" for what, name in bits.items()
             if int8.has_fewer_bits and getattr(config, name) < 8 and name not in int8.without_effect]  # fmt: skip
    in_more = [f"{part} ({count} bits)" for count, parts in int8.parts.items()
               if int8.has_fewer_bits or count != 8 for part in parts]  # fmt: skip
    exceptions = ", ".join([*config.quantize_exclude, *in_more])
    return ", ".join(["int8", *fewer, *([f"except {exceptions}"] if exceptions else [])])


def _result(
    config: Export, task: tasks.PredictionTask, predictions: Predictions, metric: metrics.Metric
) -> model_card.Result:
    statistics = metric.statistics(predictions)
    scores = metrics.score(metric, predictions, statistics)
    intervals = metrics.intervals(metric, predictions, statistics, task.metrics, resamples=RESAMPLES, seed=config.seed)
    watched = {name: scores[name] for name in task.metrics}
    return model_card.Result(config.verify.split, len(predictions), watched, intervals)
