"""Multi-label classification: one text or a pair of texts, any number of C classes, none included."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.metrics import classification
from tinybert_cli.tasks.base import Exam, PredictionTask, Window, check_complete, encode_texts, missing, text_usage
from tinybert_cli.tasks.label_names import agreed_names, position_of, unknown_label
from tinybert_cli.types import Array, Rows

THRESHOLDS = "thresholds"  # in config.json: of each class the probability from which on a row has it
NAMES = {"f1": "f1_micro", "precision": "precision_micro", "recall": "recall_micro"}  # of what is `counted`
SEPARATOR = "|"  # between the names in one cell of a CSV file


class MultiLabelClassification(PredictionTask):
    name = "multi-label-classification"
    head = "sequence-classification"
    problem = "multi_label_classification"
    pipeline = "text-classification"
    outputs = "classes"
    decides = (THRESHOLDS,)
    main_metric = "f1_micro"
    metrics: ClassVar[Mapping[str, bool]] = {
        "f1_micro": True,
        "f1_macro": True,
        "precision_micro": True,
        "recall_micro": True,
        "accuracy": True,
        "map": True,
        "loss": False,
    }
    sliced = "accuracy"
    detailed = ("hamming_loss", "f1", "precision", "recall")

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        said = itertools.chain.from_iterable(row or [] for row in _said(rows, data) or [])
        return agreed_names(rows, data, said, model_names=model_names)

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """1 for every class that a row has, else 0 (N, C); NaN in a row without labels."""
        said = _said(rows, data)
        if said is None:
            return None
        position = {name: index for index, name in enumerate(names)}
        marks = np.zeros((len(said), len(names)), dtype=np.float32)
        for index, row in enumerate(said):
            if row is None:
                marks[index] = np.nan
                continue
            for value in row:
                place = position_of(value, position)
                if place is None:
                    raise unknown_label(value, names, rows.location(index))
                marks[index, place] = 1
        return marks

    def exam(self, rows: Rows, data: Data, names: Sequence[str]) -> Exam | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        check_complete(labels, rows)
        return ClassesExam(labels, list(names), _named(labels, names))

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        """Of a model's answers some may be missing, but of no row all."""
        check_complete(np.where(missing(labels).all(-1), np.nan, 0.0), rows)
        if not (labels == 1).any():
            raise InputError(
                f"none of {len(labels):,} rows has a label: there is nothing to learn",
                where=rows.location(0),
                hint=f"a list of names in each row, or names with '{SEPARATOR}' between them",
            )

    def settled(self, logits: Array, offsets: Array | None, config: Mapping[str, Any]) -> Array:
        """Less the logit of each class's threshold, so that 0 decides."""
        thresholds = config.get(THRESHOLDS)
        if thresholds is None:
            return logits
        if len(thresholds) != logits.shape[-1] or not all(0 < value < 1 for value in thresholds):
            raise InputError(
                f"config.json has {len(thresholds)} thresholds for {logits.shape[-1]} classes, or some are no share",
                hint="one between 0 and 1 for each class, or none at all: then it is 0.5",
            )
        values = np.asarray(thresholds, dtype=np.float64)
        moved: Array = (logits - (np.log(values) - np.log1p(-values))).astype(np.float32)
        return moved

    def hard_answers(self, logits: Array, offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        shares = _sigmoid(logits)
        sure = np.maximum(shares, 1 - shares) >= min_confidence
        return np.where(sure, shares >= 0.5, np.nan).astype(np.float32), sure.any(-1)

    def answers(
        self, logits: Array, offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> dict[str, list[Any]]:
        """`confidence` is that in the class that it is least sure of."""
        return {"prediction": _named(logits >= 0, names), "confidence": _least_sure(logits).tolist()}

    def reply(
        self, text: str, windows: Sequence[Window], names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The probabilities are the model's own; the thresholds are in the prediction."""
        ((logits, _),) = windows
        settled = self.settled(logits[None], None, config)
        (prediction,), (confidence,) = _named(settled >= 0, names), _least_sure(settled)
        probabilities = dict(zip(names, _sigmoid(logits).tolist(), strict=True))
        return {"prediction": prediction, "confidence": float(confidence), "probabilities": probabilities}

    def limit(self, names: Sequence[str]) -> str:
        return (
            f"A row has a label from the probability on that `{THRESHOLDS}` in config.json says, in the order of "
            "`id2label`; without that, from 0.5 on. Other programs do not read it."
        )

    def fidelity(self, logits: Array, reference: Array, offsets: Array | None) -> dict[str, float]:
        """`agreement` is the share of rows with the same classes; `kl` of each class from the reference's, the mean."""
        from scipy.stats import spearmanr

        p, q = _sigmoid(reference), _sigmoid(logits)
        kl = sum(
            a * (np.log(a.clip(classification.LEAST)) - np.log(b.clip(classification.LEAST)))
            for a, b in ((p, q), (1 - p, 1 - q))
        )
        sure = [_least_sure(reference), _least_sure(logits)]
        varied = all(np.ptp(values) > 0 for values in sure)  # else there is no order to compare
        return {
            "agreement": float(((logits >= 0) == (reference >= 0)).all(-1).mean()),
            "kl": max(0.0, float(np.mean(kl))),
            "confidence_correlation": float(spearmanr(*sure).statistic) if varied else 0.0,
        }

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float]) -> Array:
        """The logits of the weighted mean of the probabilities; of a single model its own."""
        if len(logits) == 1:
            return logits[0]
        mean = np.average([_sigmoid(values) for values in logits], axis=0, weights=weights)
        of_mean: Array = (
            np.log(mean.clip(classification.LEAST)) - np.log((1 - mean).clip(classification.LEAST))
        ).astype(np.float32)
        return of_mean

    def usage(self, folder: str, *, pair: bool) -> str:
        return text_usage(folder, ", top_k=None", pair=pair)


@dataclass(frozen=True)
class ClassesExam(Exam):
    """Yes or no for each of C classes, for every row: A = N."""

    labels: Array  # (N, C)
    names: list[str]
    words: list[list[str]]

    def score(self, logits: Array) -> dict[str, float]:
        """F1 over all decisions and over the classes, rows without a mistake, mean average precision, loss."""
        from sklearn.metrics import average_precision_score

        found = [
            average_precision_score(gold, said)
            for gold, said in zip(self.labels.T, logits.T, strict=True)
            if gold.any()
        ]
        return {
            **{name: value for name, value in self._counted(logits).items() if "[" not in name},
            "accuracy": float(self.credit(logits).mean()),
            "map": float(np.mean(found)) if found else 0.0,
            "loss": float(_losses(logits, self.labels).mean()),
        }

    def details(self, logits: Array) -> dict[str, float]:
        return {
            "hamming_loss": float(((logits >= 0) != self.labels).mean()),
            **{name: value for name, value in self._counted(logits).items() if "[" in name},
        }

    def resampled(self, logits: Array, *, resamples: int, seed: int) -> dict[str, Array]:
        """All but `map`, whose ranking would have to be made anew each time."""
        drawn = classification.drawn_rows(len(self.labels), resamples=resamples, seed=seed)
        tables = np.einsum("rn,nkc->rkc", drawn, self._tables(logits), optimize=True)
        means = {
            "accuracy": self.credit(logits),
            "loss": _losses(logits, self.labels).mean(-1),
            "hamming_loss": ((logits >= 0) != self.labels).mean(-1),
        }
        found = {NAMES.get(name, name): values for name, values in classification.counted(tables, self.names).items()}
        return found | {name: drawn @ values / len(self.labels) for name, values in means.items()}

    def discordant(self, logits: Array, reference: Array) -> dict[str, float]:
        return classification.discordant(self.credit(logits) == 1, self.credit(reference) == 1)

    def credit(self, logits: Array) -> Array:
        right: Array = ((logits >= 0) == self.labels).all(-1)
        return right.astype(np.float64)

    def tuned(self, logits: Array) -> dict[str, Any]:
        return {THRESHOLDS: best_thresholds(logits, self.labels)}

    def trivial(self) -> float:
        """The classes that most rows have, as many of them as pay."""
        frequent = np.sort(self.labels.sum(0))[::-1].cumsum()
        given = len(self.labels) * np.arange(1, len(frequent) + 1)
        return float((2 * frequent / (given + self.labels.sum())).max())

    def certainty(self, logits: Array) -> tuple[list[float], list[bool]]:
        """Of every decision, yes or no."""
        shares = _sigmoid(logits)
        return np.maximum(shares, 1 - shares).ravel().tolist(), ((logits >= 0) == self.labels).ravel().tolist()

    def kinds(self) -> dict[str, Array]:
        found = {name: self.labels[:, index] == 1 for index, name in enumerate(self.names)}
        return {**found, "none": ~self.labels.any(-1)}

    def _counted(self, logits: Array) -> dict[str, float]:
        found = classification.counted(self._tables(logits).sum(0)[None], self.names)
        return {NAMES.get(name, name): float(values[0]) for name, values in found.items()}

    def _tables(self, logits: Array) -> Array:
        """Right, given and gold decisions for each class, row by row (N, 3, C)."""
        given = logits >= 0
        return np.stack([given & (self.labels == 1), given, self.labels == 1], axis=1).astype(np.float64)


def best_thresholds(logits: Array, labels: Array) -> list[float]:
    """Of each class the probability from which on to say yes, so that f1_micro of all (N, C) decisions is best.

    The best one for all classes first, then class after class given the others, twice: no step makes it worse. Each
    lies half-way between the logits that it parts.
    """
    values, gold = logits.astype(np.float64), labels == 1
    (shared,) = _cut(values.reshape(-1, 1), gold.reshape(-1, 1), np.zeros(1), gold.sum())
    cuts = np.full(values.shape[1], shared)
    for _ in range(2):
        cuts = _cut(values, gold, cuts, gold.sum())
    thresholds: list[float] = _sigmoid(cuts).clip(1e-6, 1 - 1e-6).tolist()
    return thresholds


def _cut(values: Array, gold: Array, cuts: Array, total: int) -> Array:
    """The logit (C,) from which on each class is said, the best one given the cuts of the classes beside it."""
    found = cuts.copy()
    given, right = (values >= found).sum(0), ((values >= found) & gold).sum(0)  # (C,)
    for index in range(values.shape[1]):
        order = np.argsort(-values[:, index], kind="stable")
        falling = values[order, index]
        hits = np.concatenate([[0], np.cumsum(gold[order, index])])  # of the 0, 1, 2, ... surest rows
        counts = np.arange(len(hits))
        others_given, others_right = given.sum() - given[index], right.sum() - right[index]
        f1 = 2 * (others_right + hits) / np.maximum(others_given + counts + total, 1)
        f1[1:-1][falling[1:] == falling[:-1]] = -1  # equal logits cannot be parted
        best = int(f1.argmax())
        above = falling[best - 1] if best else falling[0] + 2
        below = falling[best] if best < len(falling) else falling[-1] - 2
        found[index] = (above + below) / 2
        given[index], right[index] = counts[best], hits[best]
    return found


def _least_sure(logits: Array) -> Array:
    """How sure each row (N,) is of the class that it is least sure of."""
    shares = _sigmoid(logits)
    sure: Array = np.maximum(shares, 1 - shares).min(-1)
    return sure


def _said(rows: Rows, data: Data) -> list[list[object] | None] | None:
    """The labels of each row as the data says them."""
    if data.label_column_name not in rows.columns:
        return None
    found: list[list[object] | None] = []
    for index, value in enumerate(rows.column(data.label_column_name)):
        if isinstance(value, str):
            found.append([name.strip() for name in value.split(SEPARATOR) if name.strip()])
        elif value is None or (isinstance(value, list) and all(isinstance(name, str | int) for name in value)):
            found.append(value)
        else:
            raise InputError(
                f"{value!r} is no list of labels",
                where=rows.location(index),
                hint=f"a list of names, or names with '{SEPARATOR}' between them",
            )
    return found


def _named(marks: Array, names: Sequence[str]) -> list[list[str]]:
    return [[name for name, marked in zip(names, row, strict=True) if marked] for row in marks]


def _sigmoid(logits: Array) -> Array:
    from scipy.special import expit

    shares: Array = expit(logits.astype(np.float64))
    return shares


def _losses(logits: Array, labels: Array) -> Array:
    """Binary cross-entropy of every decision (N, C)."""
    values: Array = np.logaddexp(0, logits.astype(np.float64)) - labels * logits
    return values
