"""The baselines of `eval` beside the published scores: fitted on the same training rows, scored on the same rows.

    python experiments/baselines.py path/to/datasets [--reviews FOLDER] [NAME]...

A NAME is a published set of rows: the SST-2 cascade, or a subset of `experiments/defaults.py`, on its test rows or on
its held-out rows. `sweep-demo` needs `--reviews`, the folder configs/demo/reviews of version 0.1:
git archive 45d96a8 configs/demo/reviews | tar -x -C FOLDER. It takes seconds per set. Scores with 95 % intervals go to
experiments/results/baselines.json, from which `experiments/tables.py` adds them to the tables. `experiments/cascade.py`
scores the baselines of its datasets itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import result_files
from baseline_cells import RESULTS
from cascade_sets import MINILM

RESAMPLES, SEED = 1000, 42  # as `eval`
SST2_DATA = {"text_column_names": "sentence", "label_names": ["negative", "positive"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--reviews", type=Path, help="configs/demo/reviews of version 0.1")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, (task, data, split) in row_sets(arguments.datasets, Path(folder), arguments.reviews).items():
            if arguments.names and name not in arguments.names:
                continue
            begin = time.perf_counter()
            measured = scores(task, data, split)
            print(f"{name}: {time.perf_counter() - begin:.1f} s", *_lines(measured), sep="\n  ", flush=True)
            result_files.record(RESULTS, name, measured)


def row_sets(datasets: Path, folder: Path, reviews: Path | None) -> dict[str, tuple[str, dict[str, Any], str]]:
    """Name → task, `data` section and split of the published rows; subsets are written to `folder`."""
    import defaults

    sets: dict[str, tuple[str, dict[str, Any], str]] = {
        "sst2": ("text-classification", {"dataset_name": str(datasets / "sst2"), **SST2_DATA}, "validation")
    }
    for name, subset in defaults.SUBSETS.items():
        data = defaults.write_subset(subset, datasets / name, folder / name)
        sets[f"defaults/{name}"] = (subset.task, data, "test")
        if subset.held_out:
            held_out = {**data, "test_file": str(folder / name / "held-out.jsonl")}
            sets[f"defaults-held-out/{name}"] = (subset.task, held_out, "test")
    if reviews is not None:
        files = {f"{split}_file": str(reviews / f"{split}.jsonl") for split in ("train", "test")}
        sets["sweep-demo"] = ("text-classification", files, "test")
    return sets


def scores(task_name: str, data: Mapping[str, Any], split: Any) -> dict[str, Any]:
    """The main metric of each baseline with its interval, its size, and the numbers of rows."""
    from tinybert_cli import baselines, metrics, models, tasks
    from tinybert_cli import data as readers
    from tinybert_cli.config import Data
    from tinybert_cli.stages import baseline_scores

    task, settings = tasks.find_prediction_task(task_name), Data(**data)
    rows, training_rows = readers.read(settings, split), readers.read(settings, "train")
    classes = task.label_names(training_rows, settings, model_names=None)
    metric = task.metric(rows, settings, classes)
    assert metric is not None  # published rows have labels
    encoded = task.encode(rows, settings, models.load_tokenizer(models.locate(MINILM)))
    training = baseline_scores.labelled(task, settings, classes, training_rows)
    main, measured = task.main_metric, {}
    for name in baselines.names(task):
        scored = baseline_scores.fitted(name, training, SEED, rows, encoded)
        if main in metric.undefined(scored.predictions):
            continue
        statistics = metric.statistics(scored.predictions)
        ends = metrics.intervals(metric, scored.predictions, statistics, [main], resamples=RESAMPLES, seed=SEED)
        low, high = ends[main]
        value = metrics.score(metric, scored.predictions, statistics)[main]
        numbers = {"score": value, "low": low, "high": high}
        measured[name] = {key: round(number, 5) for key, number in numbers.items()} | scored.facts
    return {"rows": len(rows), "metric": main, "baselines": measured}


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    for name, numbers in result["baselines"].items():
        yield f"{name}: {result['metric']} {numbers['score']:.4f} ({numbers['low']:.3f}-{numbers['high']:.3f})"


if __name__ == "__main__":
    main()
