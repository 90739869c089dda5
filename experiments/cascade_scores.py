"""What the models of `cascade.py` score on the reported rows, and how the arms differ."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cascade_runs import ARMS
from cascade_sets import EXPERIMENTS, SPLIT_SEED, Experiment, count_rows

REFERENCES = ("direct", "gold")  # the arms that the others are compared with
RESAMPLES = 1000


@dataclass(frozen=True)
class Scores:
    """Scores of finished models on the reported rows, in one file per seed, with bootstrap samples for the pairs."""

    name: str
    data: dict[str, Any]
    folder: Path

    @property
    def experiment(self) -> Experiment:
        return EXPERIMENTS[self.name]

    def add(self, seed: int, model: str, candidates: Mapping[float, Path]) -> None:
        """Scores the candidate that is best on the selection rows, unless that was done before."""
        selection = {f"{rate:g}": self._metrics(folder)[f"eval_{self.experiment.metric}"]
                     for rate, folder in candidates.items()}  # fmt: skip
        rate = max(candidates, key=lambda rate: selection[f"{rate:g}"])
        checksum = json.loads((candidates[rate] / "manifest.json").read_text(encoding="utf-8"))["checksum"]
        file = self.folder / f"scores-{seed}.json"
        scores = self._read(file)
        if scores.get(model, {}).get("checksum") != checksum:
            scores[model] = {"checksum": checksum, **self._score(candidates[rate])}
        folders = [candidates[rate]]
        if model in ARMS and ARMS[model].before:
            folders.append(folders[0].with_name(f"{ARMS[model].before}-{rate:g}"))
        minutes = sum(self._metrics(folder)["train_cpu_seconds"] for folder in folders) / 60
        scores[model] |= {"rate": rate, "selection": selection, "minutes": minutes}
        file.write_text(json.dumps(scores), encoding="utf-8")

    def result(self) -> dict[str, Any]:
        """All finished models: scores by seed, and the arms' differences to the arms in REFERENCES."""
        files = sorted(self.folder.glob("scores-*.json"))
        seeds = {file.stem.partition("-")[2]: self._read(file) for file in files}
        models: dict[str, dict[str, Any]] = {}
        recorded = ("score", "low", "high", "selection", "rate", "minutes")
        for model in ("teacher", "student", *ARMS):
            if own := {seed: scores[model] for seed, scores in seeds.items() if model in scores}:
                models[model] = {"seeds": {seed: {key: one[key] for key in recorded} for seed, one in own.items()}}
        for model in set(models) & set(ARMS):
            for reference in REFERENCES:
                pairs = {seed: (scores[model], scores[reference]) for seed, scores in seeds.items()
                         if {model, reference} <= scores.keys()}  # fmt: skip
                if pairs and model != reference:
                    models[model][f"minus {reference}"] = difference(pairs)
        rows = {part: count_rows(self.folder / "data" / f"{part}.jsonl") for part in ("train", "validation", "test")}
        return {
            "rows": rows, "test_file": self.experiment.test_file, "metric": self.experiment.metric,
            "epochs": self.experiment.epochs, "baselines": self._baselines(), "models": models,
        }  # fmt: skip

    def _score(self, folder: Path) -> dict[str, Any]:
        from tinybert_cli import models
        from tinybert_cli.stages import candidates

        source = models.locate(str(folder))
        candidate = candidates.load_candidate(self._config, self._task, source, self._rows, self._names)
        predictions = candidates.predictions_of(self._config, self._task, candidate, self._rows, self._names)
        score, values = self._measured(predictions)
        return {**score, "resampled": values}

    def _baselines(self) -> dict[str, Any]:
        """The baselines of `eval`, fitted on the training rows, on the reported rows."""
        from tinybert_cli import baselines

        file = self.folder / "baselines.json"
        known = self._read(file)
        if known.get("data") != self.data:
            training_rows = self._read_rows("train")
            labels = self._task.labels(training_rows, self._config.data, self._names)
            training = baselines.Training(self._task, self._config.data, self._names, training_rows, labels)
            encoded = self._encoded
            scores = {}
            for name in baselines.names(self._task):
                fitted = baselines.BASELINES[self._task.name][name](training, SPLIT_SEED)
                scores[name] = self._measured(fitted.predictions(training, self._rows, encoded))[0]
            known = {"data": self.data, "scores": scores}
            file.write_text(json.dumps(known), encoding="utf-8")
        return dict(known["scores"])

    def _measured(self, predictions: Any) -> tuple[dict[str, float], list[float]]:
        """Score with its interval, and the scores of bootstrap samples, which are the same for all models."""
        from tinybert_cli import metrics

        name, statistic = self.experiment.metric, self._metric.statistics(predictions)
        resampled = metrics.resampled(
            self._metric, predictions, statistic, resamples=RESAMPLES, seed=SPLIT_SEED, names=[name]
        )
        score = {"score": metrics.score(self._metric, predictions, statistic)[name]}
        interval = metrics.interval(self._metric, statistic, name, resampled)
        if interval is not None:
            score |= dict(zip(("low", "high"), interval, strict=True))
        return score, resampled[name].tolist()

    @cached_property
    def _config(self) -> Any:
        from tinybert_cli.config import Eval

        settings = {"task": self.experiment.task, "data": self.data, "models": {"teacher": str(self._teacher)},
                    "split": "test", "latency": None, "output_dir": str(self.folder / "eval")}  # fmt: skip
        return Eval.model_validate(settings)

    @cached_property
    def _teacher(self) -> Path:
        return next(iter(sorted(self.folder.glob("seed-*/teacher"))))

    @cached_property
    def _task(self) -> Any:
        from tinybert_cli import tasks

        return tasks.find_prediction_task(self.experiment.task)

    @cached_property
    def _rows(self) -> Any:
        return self._read_rows("test")

    def _read_rows(self, part: str) -> Any:
        from tinybert_cli import data

        return data.read(self._config.data, part)

    @cached_property
    def _names(self) -> list[str]:
        from tinybert_cli import models
        from tinybert_cli.stages import candidates

        own = candidates.names_of_model(self._config, self._task, models.locate(str(self._teacher)))
        return list(self._task.label_names(self._rows, self._config.data, model_names=own))

    @cached_property
    def _metric(self) -> Any:
        return self._task.metric(self._rows, self._config.data, self._names)

    @cached_property
    def _encoded(self) -> Any:
        from tinybert_cli import models
        from tinybert_cli.stages import candidates

        source = models.locate(str(self._teacher))
        return candidates.load_candidate(self._config, self._task, source, self._rows, self._names).encoded

    @staticmethod
    def _metrics(folder: Path) -> dict[str, float]:
        return dict(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def with_other_seeds(own: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the seeds of a recorded result whose models are not here, such as those of another machine.

    Their bootstrap samples are not here either, so the interval of a difference over all seeds is the mean of the
    intervals of the seeds, which is no narrower than the interval of the mean.
    """
    if any(known.get(key) != own[key] for key in ("rows", "test_file", "metric", "epochs")):
        return dict(own)
    models: dict[str, dict[str, Any]] = {}
    for model in ("teacher", "student", *ARMS):
        if not (measured := [result["models"][model] for result in (known, own) if model in result["models"]]):
            continue
        models[model] = {"seeds": {seed: one for part in measured for seed, one in part["seeds"].items()}}
        for key in (f"minus {reference}" for reference in REFERENCES):
            if differences := [part[key] for part in measured if key in part]:
                models[model][key] = _joined(differences[0], differences[-1])
    return {**own, "models": models}


def _joined(known: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A difference over the seeds of both."""
    seeds = {**known["seeds"], **own["seeds"]}
    if seeds.keys() == own["seeds"].keys():
        return dict(own)
    intervals = {**known.get("intervals", {}), **own.get("intervals", {})}
    result = {"difference": statistics.mean(seeds.values()), "seeds": seeds, "intervals": intervals}
    if intervals.keys() == seeds.keys():
        low, high = (statistics.mean(bounds) for bounds in zip(*intervals.values(), strict=True))
        result |= {"low": low, "high": high}
    return result


def difference(pairs: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any]:
    """The mean difference of two models over the seeds, with 95 % intervals over the rows, also of each seed.

    Args:
        pairs: seed → both models, with the `score` and the scores of the same bootstrap samples (`resampled`).
    """
    import numpy as np

    by_seed = {seed: one["score"] - other["score"] for seed, (one, other) in pairs.items()}
    samples = {seed: np.subtract(one["resampled"], other["resampled"]) for seed, (one, other) in pairs.items()}
    result: dict[str, Any] = {"difference": statistics.mean(by_seed.values()), "seeds": by_seed}
    result["intervals"] = {seed: _interval(own) for seed, own in samples.items() if np.ptp(own) > 0}
    if np.ptp(mean := np.mean(list(samples.values()), axis=0)) > 0:
        result |= dict(zip(("low", "high"), _interval(mean), strict=True))
    return result


def _interval(samples: Any) -> list[float]:
    import numpy as np

    return [float(bound) for bound in np.percentile(samples, [2.5, 97.5])]
