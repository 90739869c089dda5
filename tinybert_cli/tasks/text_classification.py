"""Text classification: one text or a pair of texts, one of C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError, did_you_mean
from tinybert_cli.tasks import scores
from tinybert_cli.tasks.base import Answering, Array, Encoded, Rows, texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LABEL = -100  # the class of a row that has none
_UNKNOWN = -1
_CHUNK = 1000  # rows that are tokenized in one call


class TextClassification(Answering):
    name = "text-classification"
    head = "sequence-classification"
    pipeline = "text-classification"
    main_metric = "accuracy"
    metrics: ClassVar[Mapping[str, bool]] = {
        "accuracy": True,
        "f1_macro": True,
        "mcc": True,
        "loss": False,
        "ece": False,
    }
    detailed = ("f1_weighted", "brier", "precision", "recall")

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        texts = texts_of(rows, data)
        names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
        padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        parts: dict[str, list[Array]] = {name: [] for name in names}
        lengths: list[int] = []
        truncated = 0
        for begin in range(0, len(rows), _CHUNK):
            chunk = tokenizer(
                *(column[begin : begin + _CHUNK] for column in texts), truncation=True, max_length=data.max_seq_length
            )
            lengths += [len(ids) for ids in chunk["input_ids"]]
            truncated += sum(bool(encoding.overflowing) for encoding in chunk.encodings or [])
            for name in names:
                parts[name].append(np.concatenate([np.asarray(ids, dtype=np.int32) for ids in chunk[name]]))
        return Encoded(
            tokens={name: (np.concatenate(parts[name]), padding[name]) for name in names},
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            truncated=truncated,
            empty=[i for i in range(len(rows)) if not any(column[i].strip() for column in texts)],
        )

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        said = data.label_names or rows.label_names
        if said is None and data.label_column_name in rows.columns:
            values = {value for value in rows.column(data.label_column_name) if value is not None}
            if all(isinstance(value, str) and not _is_position(value) for value in values):
                return _same_set(sorted(values), model_names, rows.place(0)) if model_names else sorted(values)
            if model_names is None:
                said = [str(position) for position in range(max([2, *(int(v) + 1 for v in values if _is_position(v))]))]
        if said is None and model_names is None:
            raise InputError(f"no labels in {rows.place(0)}", hint="set data.label_column_name or data.label_names")
        if said is not None and model_names is not None and list(said) != list(model_names):
            raise InputError(
                f"the labels are in another order or have other names\n"
                f"     data:  {', '.join(said)}\n     model: {', '.join(model_names)}",
                where=rows.place(0),
                hint="set data.label_names to the order that the integers in the data stand for",
            )
        return list(model_names or said or [])

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        if data.label_column_name not in rows.columns:
            return None
        position = {name: index for index, name in enumerate(names)}
        values = rows.column(data.label_column_name)
        if all(value == -1 for value in values):  # how the Hub marks the rows of a hidden test set
            return None
        labels = np.array([_position(value, position) for value in values], dtype=np.int64)
        if (labels == _UNKNOWN).any():
            bad = int(np.argmax(labels == _UNKNOWN))
            raise InputError(
                f"unknown label {values[bad]!r}",
                where=rows.place(bad),
                hint=f"{did_you_mean(str(values[bad]), names)}; labels: {', '.join(names)}",
            )
        return labels

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        if (labels < 0).any():
            raise InputError("a row without a label", where=rows.place(int(np.argmax(labels < 0))))
        present = np.unique(labels)
        if len(present) < 2:
            label = names[present[0]] if len(present) else "none"
            raise InputError(
                f"all {len(labels):,} rows have the same label, {label}: there is nothing to learn",
                where=rows.place(0),
                hint="check data.label_column_name, or shuffle the rows before data.max_train_samples cuts them",
            )

    def hard_answers(self, logits: Array, min_confidence: float) -> tuple[Array, Array]:
        probabilities = scores.softmax(logits)
        return probabilities.argmax(-1), probabilities.max(-1) >= min_confidence

    def answers(self, logits: Array, names: Sequence[str]) -> dict[str, list[Any]]:
        probabilities = scores.softmax(logits)
        best = probabilities.argmax(-1)
        return {"prediction": [names[i] for i in best], "confidence": probabilities.max(-1).tolist()}

    score = staticmethod(scores.score)
    details = staticmethod(scores.details)
    resampled = staticmethod(scores.resampled)
    fidelity = staticmethod(scores.fidelity)
    discordant = staticmethod(scores.discordant)
    calibrated = staticmethod(scores.calibrated)
    confusion = staticmethod(scores.confusion)

    def credit(self, logits: Array, labels: Array) -> Array:
        right: Array = logits.argmax(-1) == labels
        return right.astype(np.float64)

    def majority(self, labels: Array) -> float:
        return float(np.bincount(labels).max() / len(labels))

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float]) -> Array:
        """The logarithm of the weighted mean of the probabilities; of a single model its own logits."""
        if len(logits) == 1:
            return logits[0]
        mean = np.average([scores.softmax(values) for values in logits], axis=0, weights=weights)
        logits_of_mean: Array = np.log(mean.clip(1e-12)).astype(np.float32)
        return logits_of_mean

    def best_order(self, logits: Array, labels: Array) -> tuple[list[int], float]:
        from scipy.optimize import linear_sum_assignment

        classes = logits.shape[-1]
        table = np.bincount(labels * classes + logits.argmax(-1), minlength=classes**2).reshape(classes, classes)
        gold, predicted = linear_sum_assignment(table, maximize=True)
        return predicted.tolist(), float(table[gold, predicted].sum() / len(labels))

    def usage(self, folder: str) -> str:
        return (
            f'from transformers import pipeline\n\npipeline("text-classification", "{folder}")("Better than it looks.")'
        )


def _is_position(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit())


def _position(value: object, position: dict[str, int]) -> int:
    """Where a label stands: a name, a position, or a position written as text (CSV)."""
    if value is None:
        return NO_LABEL
    if isinstance(value, str) and value in position:
        return position[value]
    if _is_position(value) and 0 <= int(value) < len(position):  # type: ignore[call-overload]
        return int(value)  # type: ignore[call-overload, no-any-return]
    return _UNKNOWN


def _same_set(found: list[str], model_names: Sequence[str], where: str) -> list[str]:
    unknown = sorted(set(found) - set(model_names))
    if unknown:
        raise InputError(
            f"the data has labels that the model does not know: {', '.join(unknown)}\n"
            f"     data:  {', '.join(found)}\n     model: {', '.join(model_names)}",
            where=where,
        )
    return list(model_names)
