"""The files of `eval`: report.md, report.html, predictions.parquet and regressions.parquet."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, data, events, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.events import Event
from tinybert_cli.metrics.comparison import confusion_matrix
from tinybert_cli.metrics.slices import PREDICTED, prediction_columns, regressions
from tinybert_cli.reports import evaluation_html, finished_evals, finished_exports, training_curves
from tinybert_cli.stages.eval_predictions import EvalRun, Predicted
from tinybert_cli.stages.eval_scores import Scored, without_many_classes
from tinybert_cli.types import Array, Predictions
from tinybert_cli.wording import counted


@dataclass(frozen=True)
class Comparison:
    """What the reports show."""

    run: EvalRun
    predicted: Predicted
    scored: Mapping[str, Scored]  # of models and baselines
    table: Mapping[str, Mapping[str, float]]  # model → metric → number
    notes: list[str]  # sentences without an end mark
    slice_sizes: Mapping[str, int]

    @property
    def flat(self) -> dict[str, float]:
        """`model.metric` → number."""
        return {f"{name}.{key}": value for name, own in self.table.items() for key, value in own.items()}

    @property
    def signatures(self) -> Mapping[str, str]:
        """Of the metrics of other libraries."""
        signatures: Mapping[str, str] = self.predicted.metric.description().get("signatures", {})
        return signatures


@dataclass(frozen=True)
class Reports:
    """The content of the files, without the statistics of the models, which take much memory."""

    pages: Mapping[str, str]  # name → content
    rows: Mapping[str, Sequence[Any]]  # column → value of each row
    predictions: Mapping[str, Predictions]
    regressions: Mapping[str, Sequence[Any]]

    def write(self, folder: Path) -> None:
        columns: dict[str, Any] = {
            f"{name}_{key}": values
            for name, own in self.predictions.items()
            for key, values in prediction_columns(own).items()
        }
        data.write_table(folder / "predictions.parquet", {**self.rows, **columns})
        data.write_table(folder / "regressions.parquet", self.regressions)
        for name, text in self.pages.items():
            (folder / name).write_text(text, encoding="utf-8")


def reports(comparison: Comparison) -> Generator[Event, None, Reports]:
    """The files; yields a warning if there is no report.html."""
    lost = _regressions(comparison)
    pages = {"report.md": _markdown(comparison)}
    try:
        pages["report.html"] = evaluation_html.as_html(_evaluation(comparison, lost))
    except InputError as error:  # matplotlib is missing
        yield events.warning(f"no report.html: {error.what}; {error.hint}")
    predictions = {name: model.predictions for name, model in comparison.scored.items()}
    return Reports(pages, _texts(comparison), predictions, lost)


def _texts(comparison: Comparison) -> dict[str, Sequence[Any]]:
    """The text columns, and `label`; a text column with the name of a column of the reports gets `_text` at its end."""
    run, references = comparison.run, comparison.predicted.metric.references
    taken = {"model", "row", "label", *PREDICTED, *(f"{name}_{key}" for name in comparison.scored for key in PREDICTED)}
    texts: dict[str, Sequence[Any]] = {}
    for name in run.config.data.text_columns:
        free = name
        while free in taken:
            free += "_text"
        taken.add(free)
        texts[free] = run.rows.columns[name]
    return {**texts, "label": references}


def _regressions(comparison: Comparison) -> dict[str, list[Any]]:
    """The rows that lost most, with the predictions of the models; in translation with all of them."""
    run, predicted = comparison.run, comparison.predicted
    scored, metric = comparison.scored, predicted.metric
    texts = _texts(comparison)
    if not isinstance(run.task, tasks.PredictionTask):
        texts |= {f"{name}_prediction": model.predictions.values for name, model in scored.items()}
    own = {name: scored[name].predictions for name in predicted.candidates}
    row_scores = {name: metric.row_scores(model.statistics) for name, model in scored.items()}
    return regressions(texts, own, row_scores, run.reference)


def _markdown(comparison: Comparison) -> str:
    run = comparison.run
    title = f"{run.output.folder.name}: {counted(len(run.rows), 'row')} of {run.config.split}"
    selected = without_many_classes(comparison.flat, comparison.predicted.classes)
    page = artifacts.markdown_table(title, selected, list(comparison.scored))
    if comparison.signatures:
        page += "\n" + "".join(f"- {name}: `{text}`\n" for name, text in comparison.signatures.items())
    return page + "".join(f"\n{note[:1].upper()}{note[1:]}.\n" for note in comparison.notes)


def _evaluation(comparison: Comparison, lost: Mapping[str, list[Any]]) -> evaluation_html.Evaluation:
    run, predicted = comparison.run, comparison.predicted
    machine = artifacts.machine()
    lead = [
        f"{counted(len(run.rows), 'row')} of {run.config.split}, scored on {machine}{_accelerators(predicted)}.",
        *(f"{name}: {text}." for name, text in comparison.signatures.items()),
        *(f"Note: {note}." for note in comparison.notes),
    ]
    exports = finished_exports.beside(
        run.output.folder, comparison.table, finished_exports.checksums(run.output.inputs),
        metric=run.task.main_metric, reference=run.reference,
        beams=finished_evals.beams_of(artifacts.settings_of(run.config)), machine=machine,
        devices=predicted.devices.values(),
    )  # fmt: skip
    logs = {
        name: training_curves.read_log(source.folder)
        for name, source in run.sources.items()
        if source.folder is not None
    }
    return evaluation_html.Evaluation(
        title=run.output.folder.name,
        lead=" ".join(lead),
        metric=run.task.main_metric,
        slice_metric=run.task.slice_metric,
        more_is_better=run.task.objective(run.task.main_metric)[1] > 0,
        reference=run.reference,
        models=comparison.table,
        classes=predicted.classes,
        confidences=_confidences(comparison),
        confusion_matrices=_confusion_matrices(comparison),
        slice_sizes=comparison.slice_sizes,
        regressions=lost,
        training_logs=logs,
        exports=exports,
        baselines=[name for name in comparison.scored if name not in predicted.candidates],
    )


def _accelerators(predicted: Predicted) -> str:
    """What models ran on besides the CPU, to be written after the machine."""
    return "".join(f", {device}" for device in dict.fromkeys(predicted.devices.values()) if device != "cpu")


def _confidences(comparison: Comparison) -> dict[str, tuple[Array, Array]]:
    """model → confidence of each decision, and whether it is correct; empty for a task without confidences."""
    metric = comparison.predicted.metric
    pairs = {name: metric.confidences(one.predictions, one.statistics) for name, one in comparison.scored.items()}
    return {name: pair for name, pair in pairs.items() if pair is not None}


def _confusion_matrices(comparison: Comparison) -> dict[str, list[list[float]]]:
    """model → confusion matrix (C, C); empty for a task without classes, and if there are too many to show."""
    if len(comparison.predicted.classes) > evaluation_html.MOST_CLASSES:
        return {}
    metric = comparison.predicted.metric
    decisions = {name: metric.class_logits(one.predictions) for name, one in comparison.scored.items()}
    return {name: confusion_matrix(*pair).tolist() for name, pair in decisions.items() if pair is not None}
