"""export: write a model in another form, and verify it on real rows against the original."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli import artifacts, data, formats, loops, models, tasks
from tinybert_cli.config import Export, Verify
from tinybert_cli.errors import GateError
from tinybert_cli.reports import export_card, model_card
from tinybert_cli.types import Array

BATCH_SIZE = 32
RESAMPLES = 1000  # for the 95 % intervals in the model card
BLAMED = 3  # parts that are named when int8 is refused
TIMED_ROWS = 64  # rows whose batch-1 latency is taken, original and export in turn


def run(config: Export, *, force: bool = False, dry_run: bool = False) -> Iterator[artifacts.Row]:
    """Writes an export folder; yields what happens on the way.

    Raises:
        GateError: float32 does not keep what `verify` asks for: nothing is left under a final name. Or int8 does not:
            then the folder holds float32, and asking again says so again.
    """
    source = models.locate(config.model)
    inputs = {"model": artifacts.describe_model(source.folder, source.name, models.commit(source))}
    inputs |= artifacts.describe_all(data.sources(config.data, [config.verify.split]))
    with artifacts.open_output("export", config, inputs, force=force, dry_run=dry_run) as output:
        if output.finished:
            refused = [row["message"] for row in artifacts.read_rows(output.folder, "refused")]
            yield output.up_to_date()
        else:
            refused = []
            for row in output.record(_export(config, source, output)):
                yield row
                if row["event"] == "refused":
                    refused.append(row["message"])
    if refused:
        raise GateError(
            f"int8 was refused: {refused[-1]}",
            where=config.output_dir,
            hint="the folder holds float32; ship that, leave out of int8 what hurts it, or loosen verify",
        )


def _options(config: Export, names: Sequence[str]) -> dict[str, Any]:
    known = {"dtype": config.dtype, "embedding_bits": config.embedding_bits, "opset": config.opset}
    return {name: known[name] for name in names}


def _export(config: Export, source: models.Source, output: artifacts.Output) -> Iterator[artifacts.Row]:
    task, form = tasks.find_prediction_task(config.task), formats.find(config.format)
    model = models.load(source, task.head, label_names=config.data.class_names, problem=task.problem)
    tokenizer = models.load_tokenizer(source)
    models.check_vocabulary(model, tokenizer, source)
    names = models.label_names(model) or [str(index) for index in range(model.config.num_labels)]
    rows = data.read(config.data, config.verify.split).head(config.verify.max_samples)
    gold = task.exam(rows, config.data, task.label_names(rows, config.data, model_names=names))
    encoded = task.encode(rows, config.data, tokenizer)
    examples = data.Examples.of(encoded)
    models.check_length(source, int(examples.lengths.max()))
    yield from data.row_warnings(config.verify.split, encoded, config.data)
    check = _Check(task, model, examples, encoded.row_offsets, gold, models.weights_bytes(models.fetch(source)))
    yield {"event": "plan", "rows": len(rows), "format": config.format, "quantize": config.quantize,
           **models.size(model)}  # fmt: skip
    if output.dry_run:
        return

    def read(folder: Path) -> Any:
        if form.read is not None:
            return form.read(folder)
        return models.load(models.locate(str(folder)), task.head, problem=task.problem)  # computes in float32

    with output.scratch() as folder:
        weights, precision = folder / form.weights, config.dtype or form.precision
        form.write(model, check.sample(), folder, **_options(config, form.options))
        yield {"event": "written", "bytes": weights.stat().st_size}
        metrics, said = check.compare(read(folder), weights)
        complaints = check.complaints(metrics, config.verify, exact=precision == "float32")
        if complaints:
            raise GateError(
                "the export is not what the model was: " + "; ".join(complaints),
                where=str(output.folder),
                hint="nothing was kept; loosen verify if you can live with it",
            )
        if config.quantize == "int8" and form.int8 is not None:
            small = folder / "int8"
            small.mkdir()
            quantize = partial(form.int8.write, **_options(config, form.int8.options))
            quantize(weights, small / form.weights, config.quantize_exclude)
            found, answers = check.compare(read(small), small / form.weights)
            complaints = check.complaints(found, config.verify, exact=False)
            if complaints:
                blame = check.blame(
                    replace(form.int8, write=quantize), read, weights, small / form.weights, config.quantize_exclude
                )
                yield {"event": "refused", "message": "; ".join([*complaints, _spoken(blame)])}
                metrics |= {f"int8_{name}": value for name, value in found.items()}
            else:
                precision, metrics, said = "int8", found, answers
                (small / form.weights).replace(weights)
            shutil.rmtree(small)
        yield {"event": "verify", **metrics}
        if form.read is None:
            models.save_tokenizer(tokenizer, folder)
        else:
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        result = None if gold is None else _result(config, task, said, gold)
        card = export_card.card(config, precision, output, result, names, {**metrics, **models.size(model)})
        (folder / "README.md").write_text(model_card.as_markdown(card), encoding="utf-8")
        output.put(lambda target: shutil.copytree(folder, target, dirs_exist_ok=True))
    output.finish(metrics, label_names=names, device="cpu", precision=precision)
    yield {"event": "done", "output_dir": config.output_dir, **metrics}


@dataclass(frozen=True)
class _Check:
    """The original and the rows on which an export is compared with it."""

    task: tasks.PredictionTask
    model: Any
    examples: data.Examples
    offsets: Array | None  # where the answers of each row begin
    gold: tasks.Exam | None
    bytes: int  # of the original's weights

    def sample(self) -> dict[str, Any]:
        """Two rows as the model takes them, to trace it with."""
        batch = self.examples.__getitems__(self._order()[0][:2])
        return {name: value for name, value in batch.items() if name in loops.MODEL_INPUTS}

    def compare(self, exported: Any, weights: Path) -> tuple[dict[str, float], Array]:
        """How far the export says what the model says, how much faster on the same rows one by one; what it says."""
        original, said = (self._logits(net) for net in (self.model, exported))
        difference = np.abs(original - said)
        metrics = {
            "max_abs_logit_difference": float(difference.max()),
            "mean_abs_logit_difference": float(difference.mean()),
        }
        original, said = self._settled(original), self._settled(said)
        metrics["agreement"] = self.task.fidelity(said, original, self.offsets)["agreement"]
        if self.gold is not None:
            before, after = (self.gold.score(logits)[self.task.main_metric] for logits in (original, said))
            metrics["metric_difference"] = after - before
        single = self.examples.timing_batches(1, None, TIMED_ROWS)
        times = loops.latencies({"original": self.model, "export": exported}, {"original": single, "export": single})
        original_ms, export_ms = np.median(times["original"]), np.median(times["export"])
        metrics["latency_ms_b1"] = float(export_ms)
        metrics["latency_ratio_b1"] = float(original_ms / export_ms)
        metrics["bytes"] = weights.stat().st_size
        metrics["bytes_ratio"] = self.bytes / metrics["bytes"]
        return metrics, said

    def complaints(self, metrics: Mapping[str, float], verify: Verify, *, exact: bool) -> list[str]:
        """What `verify` asks for and these metrics do not have; logits must be alike in float32 alone (`exact`)."""
        found = []
        if exact and metrics["max_abs_logit_difference"] > verify.atol:
            found.append(f"logits differ by {metrics['max_abs_logit_difference']:.2g}, more than atol {verify.atol:g}")
        if metrics["agreement"] < verify.min_agreement:
            found.append(f"agreement {metrics['agreement']:.4f}, less than min_agreement {verify.min_agreement:g}")
        drop = -metrics.get("metric_difference", 0.0)
        if drop > verify.max_metric_drop:
            found.append(f"the metric falls by {drop:.4f}, more than max_metric_drop {verify.max_metric_drop:g}")
        return found

    def blame(
        self, int8: formats.Int8, read: Callable[[Path], Any], weights: Path, small: Path, exclude: Sequence[str]
    ) -> list[tuple[str, float]]:
        """Each part of the model, and how far the logits move (mean) when it alone is int8; the worst first.

        Args:
            weights: the float32 file.
            small: the file to write int8 to.
        """
        parts = int8.parts(weights)
        original = self._logits(self.model)
        found = []
        for part in parts:
            int8.write(weights, small, [*exclude, *(other for other in parts if other != part)])
            found.append((part, float(np.abs(self._logits(read(small.parent)) - original).mean())))
        return sorted(found, key=lambda pair: -pair[1])

    def _logits(self, net: Any) -> Array:
        return loops.predict_all(net, self.examples, self._order())

    def _settled(self, logits: Array) -> Array:
        return self.task.settled(logits, self.offsets, self.model.config.to_dict())

    def _order(self) -> list[list[int]]:
        return data.sorted_batches(self.examples.lengths, BATCH_SIZE)


def _result(config: Export, task: tasks.PredictionTask, said: Array, gold: tasks.Exam) -> model_card.Result:
    intervals = gold.intervals(said, task.metrics, resamples=RESAMPLES, seed=config.seed)
    return model_card.Result(config.verify.split, len(gold.words), gold.score(said), intervals)


def _spoken(blame: Sequence[tuple[str, float]]) -> str:
    worst = ", ".join(f"{part} {moved:.3f}" for part, moved in blame[:BLAMED])
    return f"parts that move the logits most when they alone are int8: {worst}; try quantize_exclude: [{blame[0][0]}]"
