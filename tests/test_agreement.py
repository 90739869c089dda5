"""Metrics equal those of seqeval, scikit-learn, SciPy and torchmetrics, on random and on lopsided data."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
import torch
import torchmetrics
from scipy import stats
from scipy.special import expit
from seqeval.scheme import IOB2, IOBES

from tinybert_cli import metrics
from tinybert_cli.metrics.answer_texts import exact_match, normalized, overlap
from tinybert_cli.metrics.classification import ClassificationMetric
from tinybert_cli.metrics.comparison import class_fidelity
from tinybert_cli.metrics.entities import TaggingMetric
from tinybert_cli.metrics.multi_label import MultiLabelMetric
from tinybert_cli.metrics.probabilities import softmax
from tinybert_cli.metrics.regression import RegressionMetric
from tinybert_cli.types import Array, Predictions

SEEDS = range(12)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the other packages, about undefined metrics


def predictions(logits: Array, count: int | None = None) -> Predictions:
    return Predictions([None] * (len(logits) if count is None else count), None, logits)


# -- text classification -------------------------------------------------------------------------------------


def classification(seed: int) -> tuple[Array, Array, int]:
    """Labels and logits; by seed: all classes, an absent class, one class only, ties, certain logits, one row."""
    draw = np.random.default_rng(seed)
    classes, rows = 2 + seed % 5, 1 if seed % 12 == 11 else 5 + 17 * (seed % 4)
    labels = draw.integers(classes, size=rows)
    logits = draw.normal(size=(rows, classes)).astype(np.float32) * (1 + seed % 3)
    logits[np.arange(rows), labels] += seed % 3
    if seed % 6 == 1:
        labels[labels == classes - 1] = 0
        logits[:, -1] = -50
    if seed % 6 == 2:
        labels[:] = 1
    if seed % 6 == 3:
        logits = np.round(logits)
    if seed % 6 == 4:
        logits *= 20
    return labels, logits, classes


@pytest.mark.parametrize("seed", SEEDS)
def test_classification_equals_scikit_learn(seed: int) -> None:
    labels, logits, classes = classification(seed)
    names = [f"c{index}" for index in range(classes)]
    scores = metrics.score(ClassificationMetric(labels, names), predictions(logits))
    predicted, probabilities = logits.argmax(-1), softmax(logits)
    per_class = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "f1_macro": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "f1_weighted": sklearn.metrics.f1_score(labels, predicted, average="weighted"),
        "mcc": sklearn.metrics.matthews_corrcoef(labels, predicted),
        "brier": sklearn.metrics.brier_score_loss(labels, probabilities, labels=range(classes), scale_by_half=False),
        **{f"precision[{name}]": value for name, value in zip(names, per_class[0], strict=True)},
        **{f"recall[{name}]": value for name, value in zip(names, per_class[1], strict=True)},
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_ece_loss_and_kl_equal_torchmetrics_and_torch(seed: int) -> None:
    labels, logits, classes = classification(seed)
    scores = metrics.score(ClassificationMetric(labels, [str(index) for index in range(classes)]), predictions(logits))
    probabilities, target = torch.from_numpy(softmax(logits)), torch.from_numpy(labels)
    ece = torchmetrics.functional.calibration_error(
        probabilities, target, task="multiclass", num_classes=classes, n_bins=15, norm="l1"
    )
    assert scores["ece"] == pytest.approx(float(ece), abs=1e-6)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), target)
    assert scores["loss"] == pytest.approx(float(loss))
    reference = np.random.default_rng(seed + 100).normal(size=logits.shape).astype(np.float32)
    kl = torch.nn.functional.kl_div(
        torch.from_numpy(logits).double().log_softmax(-1),
        torch.from_numpy(reference).double().log_softmax(-1), log_target=True, reduction="batchmean",
    )  # fmt: skip
    assert class_fidelity(logits, reference)["kl"] == pytest.approx(float(kl))
    if np.abs(logits).max() < 10:  # torchmetrics clips small probabilities
        p = torch.from_numpy(softmax(reference))
        assert float(kl) == pytest.approx(float(torchmetrics.functional.kl_divergence(p, probabilities)), rel=1e-5)


# -- several labels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_multi_label_equals_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows, classes = 4 + 13 * (seed % 4), 2 + seed % 4
    labels = (draw.random((rows, classes)) < 0.3).astype(np.float32)
    logits = draw.normal(size=(rows, classes)).astype(np.float32)
    labels[0], logits[0] = 0, -1  # a row without labels
    if seed % 3 == 1:
        labels[:, 0], logits[:, 0] = 0, -9  # a class that occurs nowhere
    if seed % 3 == 2:
        logits = np.round(logits)  # ties
    names = [f"c{index}" for index in range(classes)]
    scores = metrics.score(MultiLabelMetric(labels, names), predictions(logits))
    predicted = logits >= 0
    micro = sklearn.metrics.precision_recall_fscore_support(labels, predicted, average="micro", zero_division=0)
    occurring = labels.any(0)
    expected = {
        "precision_micro": micro[0],
        "recall_micro": micro[1],
        "f1_micro": micro[2],
        "f1_macro": sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=np.nan),
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "hamming_loss": sklearn.metrics.hamming_loss(labels, predicted),
        "map": sklearn.metrics.average_precision_score(labels[:, occurring], logits[:, occurring])
        if occurring.any() else 0.0,
        "loss": sklearn.metrics.log_loss(labels.ravel(), expit(logits.ravel().astype(np.float64)), labels=[0, 1]),
    }  # fmt: skip
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_regression_equals_scipy_and_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.normal(2022 if seed % 2 else 0, 3, size=3 + 20 * (seed % 4)).astype(np.float32)
    values = (labels + draw.normal(size=len(labels))).astype(np.float32)
    if seed % 3 == 0:
        labels, values = np.round(labels), np.round(values)  # ties
    scores = metrics.score(RegressionMetric(labels), predictions(values[:, None]))
    x, y = labels.astype(np.float64), values.astype(np.float64)
    assert {name: scores[name] for name in ("pearson", "spearman", "r2", "mae", "loss")} == pytest.approx({
        "pearson": stats.pearsonr(x, y).statistic,
        "spearman": stats.spearmanr(x, y).statistic,
        "r2": sklearn.metrics.r2_score(x, y),
        "mae": sklearn.metrics.mean_absolute_error(x, y),
        "loss": sklearn.metrics.mean_squared_error(x, y),
    })  # fmt: skip


# -- entities ------------------------------------------------------------------------------------------------


def tag_rows(draw: random.Random, types: Sequence[str], scheme: str, *, valid: bool) -> list[list[str]]:
    """Rows of tags, among them rows with one word and rows without entities; `valid` ones follow the scheme."""
    rows = []
    for _ in range(draw.randint(1, 12)):
        row: list[str] = []
        while len(row) < draw.randint(1, 12):
            kind, length = draw.choice([None, *types]), draw.randint(1, 3)
            if kind is None:
                row.append("O")
            elif not valid:
                row.append(f"{draw.choice('BI' if scheme == 'IOB2' else 'BIES')}-{kind}")
            elif scheme == "IOB2":
                row += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
            else:
                row += [f"S-{kind}"] if length == 1 else [f"B-{kind}", *[f"I-{kind}"] * (length - 2), f"E-{kind}"]
        rows.append(row)
    return rows


def with_errors(draw: random.Random, rows: list[list[str]], other: list[list[str]]) -> list[list[str]]:
    """Some rows, unchanged, beside rows with the tags of another draw, in the lengths of the first."""
    tags = [tag for row in other for tag in row] or ["O"]
    return [row if draw.random() < 0.5 else [draw.choice(tags) for _ in row] for row in rows]


def entity_scores(gold: list[list[str]], predicted: list[list[str]], names: list[str]) -> dict[str, float]:
    index = {name: position for position, name in enumerate(names)}
    flat = np.array([index[tag] for row in gold for tag in row])
    logits = np.eye(len(names))[[index[tag] for row in predicted for tag in row]]
    metric = TaggingMetric(flat, np.concatenate([[0], np.cumsum([len(row) for row in gold])]), names)
    return metrics.score(metric, predictions(logits, len(gold)))


def check_against_seqeval(scores: dict[str, float], gold: Any, predicted: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = seqeval.metrics.classification_report(gold, predicted, output_dict=True, zero_division=0, **options)
    for name, ours in {"micro avg": "", "macro avg": None}.items():
        if ours is None:
            assert scores["f1_macro"] == pytest.approx(report[name]["f1-score"])
            continue
        for metric, theirs in {"precision": "precision", "recall": "recall", "f1": "f1-score"}.items():
            assert scores[metric] == pytest.approx(report[name][theirs]), metric
    for kind in report.keys() - {"micro avg", "macro avg", "weighted avg"}:
        for metric, theirs in {"precision": "precision", "recall": "recall", "f1": "f1-score"}.items():
            assert scores[f"{metric}[{kind}]"] == pytest.approx(report[kind][theirs]), kind


@pytest.mark.parametrize("scheme", ["IOB2", "IOBES"])
@pytest.mark.parametrize("seed", SEEDS)
def test_entities_equal_seqeval_on_any_tags(seed: int, scheme: str) -> None:
    draw = random.Random(seed)
    types = ["PER", "LOC", "MISC"][: 1 + seed % 3]
    gold = tag_rows(draw, types, scheme, valid=seed % 2 == 0)
    predicted = with_errors(draw, gold, tag_rows(draw, types, scheme, valid=False))
    names = ["O", *(f"{letter}-{kind}" for kind in [*types, "ABSENT"] for letter in "BIES")]
    if not any(tag != "O" for rows in (gold, predicted) for row in rows for tag in row):
        pytest.skip("seqeval has no report without entities")
    check_against_seqeval(entity_scores(gold, predicted, names), gold, predicted)


@pytest.mark.parametrize("scheme", ["IOB2", "IOBES"])
@pytest.mark.parametrize("seed", SEEDS)
def test_entities_equal_strict_seqeval_on_tags_of_the_scheme(seed: int, scheme: str) -> None:
    draw = random.Random(seed)
    types = ["PER", "LOC", "MISC"][: 1 + seed % 3]
    gold = [*tag_rows(draw, types, scheme, valid=True), [f"{'B' if scheme == 'IOB2' else 'S'}-PER"]]
    other = tag_rows(draw, types, scheme, valid=True)
    predicted = [[*row, *["O"] * len(own)][: len(own)] for own, row in zip(gold, other * 13, strict=False)]
    if scheme == "IOBES":  # a row that is cut may end inside of an entity
        predicted = [own if row[-1][:1] in "BI" else row for own, row in zip(gold, predicted, strict=True)]
    names = ["O", *(f"{letter}-{kind}" for kind in types for letter in "BIES")]
    options = {"mode": "strict", "scheme": IOB2 if scheme == "IOB2" else IOBES}
    check_against_seqeval(entity_scores(gold, predicted, names), gold, predicted, **options)


def test_types_that_occur_nowhere_are_not_part_of_f1_macro() -> None:
    rows, names = [["B-PER", "I-PER", "O"], ["O"]], ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
    assert entity_scores(rows, rows, names)["f1_macro"] == 1.0


# -- answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_equal_torchmetrics_squad(seed: int) -> None:
    draw = random.Random(seed)
    words = ["the", "a", "Ada", "ada", "in", "1843", "U.S.", "U.S", "--", "New-York", "don't", "é", "An"]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 4)))

    rows = [(text(), [text() for _ in range(draw.randint(1, 3))]) for _ in range(20)]
    rows += [(rows[0][1][0], rows[0][1])]
    expected = torchmetrics.functional.text.squad(
        [{"prediction_text": answer, "id": str(index)} for index, (answer, _) in enumerate(rows)],
        [
            {"answers": {"answer_start": [0] * len(gold), "text": gold}, "id": str(i)}
            for i, (_, gold) in enumerate(rows)
        ],
    )
    pairs = [(normalized(answer), [normalized(one) for one in gold]) for answer, gold in rows]
    assert 100 * np.mean([exact_match(*pair) for pair in pairs]) == pytest.approx(float(expected["exact_match"]))
    assert 100 * np.mean([overlap(*pair) for pair in pairs]) == pytest.approx(float(expected["f1"]), rel=1e-5)
