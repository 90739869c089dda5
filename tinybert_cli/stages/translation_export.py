"""export in translation: write a model in another format, and verify its translations against the original's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, data, events, formats, metrics, models, tasks
from tinybert_cli.config import Export
from tinybert_cli.errors import GateError
from tinybert_cli.events import Event
from tinybert_cli.reports import export_card, model_card
from tinybert_cli.stages import selection, translation_parity
from tinybert_cli.stages.parity import missing_labels
from tinybert_cli.stages.translation_candidates import cut_warning
from tinybert_cli.stages.translation_parity import TranslationParity
from tinybert_cli.translation_predictor import load_translation_predictor
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Predictions, Translator

RESAMPLES = 1000  # for the 95 % intervals in the model card


def export(config: Export, task: tasks.Translation, source: models.Source, output: artifacts.Output) -> Iterator[Event]:
    """Writes an export folder; yields events, `rejected` if int8 does not meet `verify`.

    Raises:
        GateError: the export does not match the original; nothing is stored.
    """
    form = formats.find_translation(config.format)
    original = load_translation_predictor(source, data=config.data)
    models.check_positions(source.name, original.config, original.tokenizer, config.data)
    yield from map(events.warning, original.check(config.data, source.name))
    model, tokenizer = original.torch_model.cpu(), original.tokenizer
    rows = data.read(config.data, config.verify.split).head(config.verify.max_samples)
    metric = task.generation_metric(rows, config.data)
    if metric is None:
        yield events.warning(missing_labels(rows, config.data, config.verify))
    encoded = task.encode_sources(rows, config.data, tokenizer)
    yield from data.row_warnings(config.verify.split, encoded, config.data)
    translator = models.torch_translator(model, tokenizer)
    search = tasks.search_of(config.search, config.data.max_target_length)
    parity = TranslationParity(translator, tokenizer, encoded, search, metric, original.weights_bytes)
    yield events.plan(len(rows), format=config.format, quantize=config.quantize, **models.size(model))
    if output.dry_run:
        return
    models.set_generation(model, tokenizer, search)
    stored = model
    if form.load is not None and tasks.MAX_LENGTHS in original.config:
        longest = max(*original.max_lengths, config.data.max_seq_length, config.data.max_target_length)
        stored = models.shorten_positions(model, longest)
    with output.scratch() as folder:
        precision = config.dtype or form.precision
        options = {name: getattr(config, name) for name in form.options}
        form.write(stored, tokenizer, folder, **options)
        yield {"event": "written", "bytes": translation_parity.weights_size(folder, form)}
        numbers, predictions = _compare(form, folder, tokenizer, parity)
        yield from map(events.warning, cut_warning(config.data, config.search, predictions, source.name))
        exact = precision == "float32"
        failures = translation_parity.translation_violations(numbers, config.verify, exact=exact)
        if failures:
            raise GateError(
                "the exported model does not match the original: " + "; ".join(failures),
                where=str(output.folder),
                hint=translation_parity.refusal_hint(len(rows), exact=exact),
            )
        if config.quantize == "int8" and form.int8:
            int8 = folder.with_name(f"{folder.name}-int8")
            int8.mkdir()
            try:
                form.write(stored, tokenizer, int8, **options, quantize="int8")
                int8_numbers, int8_predictions = _compare(form, int8, tokenizer, parity)
                failures = translation_parity.translation_violations(int8_numbers, config.verify, exact=False)
                if not failures:
                    precision, numbers, predictions = "int8", int8_numbers, int8_predictions
                    for name in form.weights:
                        (int8 / name).replace(folder / name)
                else:
                    yield {"event": "rejected", "message": "; ".join(failures)}
                    numbers |= {f"int8_{name}": value for name, value in int8_numbers.items()}
            finally:
                shutil.rmtree(int8)
        yield {"event": "verify", **numbers}
        own = tasks.recorded_settings(config.data, task)
        trained = (tasks.TEXT_COLUMNS, tasks.MAX_LENGTHS)  # of a model that tinybert has trained: as it records them
        recorded = {key: value for key, value in own.items() if key not in trained or key not in original.config}
        models.rewrite_config(
            folder, {tasks.CONFIG_KEY: task.name, **recorded, tasks.SEARCH: config.search.model_dump()}
        )
        result = None if metric is None else _result(config, task, predictions, metric)
        facts = {**numbers, **models.size(model)}
        notes = [] if result is None else selection.of_export(config, source, output)
        card = export_card.translation_card(config, form, precision, output, result, facts, notes)
        (folder / "README.md").write_text(model_card.as_markdown(card), encoding="utf-8")
        output.files.put(lambda target: shutil.copytree(folder, target, dirs_exist_ok=True))
    described = {} if metric is None else metric.description()
    parameters = models.size(model)["parameters"]
    output.finish(numbers, **described, device="cpu", precision=precision, parameters=parameters)
    yield events.done(config.output_dir, numbers)


def _compare(
    form: formats.TranslationFormat, folder: Path, tokenizer: TranslationTokenizer, parity: TranslationParity
) -> tuple[dict[str, float], Predictions]:
    exported: Translator | Any
    if form.load is None:
        exported = models.torch_translator(models.load_translation_model(models.locate(str(folder))), tokenizer)
    else:
        exported = form.load(folder)
    return parity.compare(exported, translation_parity.weights_size(folder, form), beams=form.beams)


def _result(
    config: Export, task: tasks.Translation, predictions: Predictions, metric: metrics.Metric
) -> model_card.Result:
    statistics = metric.statistics(predictions)
    scores = metrics.score(metric, predictions, statistics)
    intervals = metrics.intervals(metric, predictions, statistics, task.metrics, resamples=RESAMPLES, seed=config.seed)
    undefined = metric.undefined(predictions)
    watched = {name: scores[name] for name in task.metrics if name in scores and name not in undefined}
    return model_card.Result(config.verify.split, len(predictions), watched, intervals)
