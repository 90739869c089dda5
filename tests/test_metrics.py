"""All metrics: equal to scikit-learn, SciPy or the official script; bootstrap; degenerate data; numerical precision."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from official_scripts import conlleval, squad
from scipy import stats
from span_reference import word_layout

from tinybert_cli import metrics, scratch_files, tasks
from tinybert_cli.config import Data
from tinybert_cli.metrics import bootstrap, probabilities
from tinybert_cli.metrics.calibration import limit_reached, temperature_scaling
from tinybert_cli.metrics.comparison import class_fidelity
from tinybert_cli.metrics.probabilities import sigmoid, softmax
from tinybert_cli.metrics.regression import RegressionMetric
from tinybert_cli.metrics.slices import slice_scores
from tinybert_cli.types import Array, Layout, Predictions, Rows, concatenated_ranges

CLASSES = ["a", "b", "c", "d"]
TAGS = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
WORDS = ["the", "Ada", "wrote", "in", "London", "and", "1843", "."]
NO_INTERVAL = {"map", "ece"}


@dataclass(frozen=True)
class Scored:
    """Rows of a task, with logits for them."""

    task: tasks.PredictionTask
    rows: Rows
    names: list[str]
    logits: Array
    layout: Layout | None = None
    data: Data = field(default_factory=Data)

    @property
    def metric(self) -> metrics.Metric:
        metric = self.task.metric(self.rows, self.data, self.names)
        assert metric is not None
        return metric

    @property
    def predictions(self) -> Predictions:
        return self.task.predictions(self.logits, self.layout, self.names, self.rows, self.data)

    @property
    def statistics(self) -> metrics.Statistics:
        return self.metric.statistics(self.predictions)

    def scores(self) -> dict[str, float]:
        return metrics.score(self.metric, self.predictions)

    def resampled(self, *, resamples: int, seed: int) -> dict[str, Array]:
        return metrics.resampled(self.metric, self.predictions, self.statistics, resamples=resamples, seed=seed)

    def select(self, indices: Iterable[int]) -> Scored:
        """These rows in this order; a row may be repeated."""
        chosen = np.asarray(list(indices))
        rows = self.rows.select(chosen.tolist())
        if self.layout is None:
            return replace(self, rows=rows, logits=self.logits[chosen])
        logits = self.logits[concatenated_ranges(self.layout.row_offsets, chosen)]
        return replace(self, rows=rows, logits=logits, layout=self.layout.select(chosen))

    def with_logits(self, logits: Array) -> Scored:
        return replace(self, logits=logits)


def rows_of(**columns: list[Any]) -> Rows:
    return Rows(columns, (("rows", len(next(iter(columns.values())))),))


def classification(rows: int = 60, seed: int = 0, classes: int = 4) -> Scored:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=rows)
    logits = (random.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels]).astype(np.float32)
    data = rows_of(text=["a"] * rows, label=[CLASSES[label] for label in labels])
    return Scored(tasks.find_prediction_task("text-classification"), data, CLASSES[:classes], logits)


def multi_label(rows: int = 60, seed: int = 0) -> Scored:
    random = np.random.default_rng(seed)
    labels = random.random((rows, 4)) < [0.6, 0.4, 0.3, 0.2]
    logits = (random.normal(size=(rows, 4)) + 2.0 * labels - 1).astype(np.float32)
    lists = [[name for name, marked in zip(CLASSES, row, strict=True) if marked] for row in labels]
    data = rows_of(text=["a"] * rows, label=lists)
    return Scored(tasks.find_prediction_task("multi-label-classification"), data, CLASSES, logits)


def regression(rows: int = 60, seed: int = 0) -> Scored:
    random = np.random.default_rng(seed)
    labels = (random.random(rows) * 5).round(1)
    logits = (labels + random.normal(size=rows)).astype(np.float32)[:, None]
    data = rows_of(text=["a"] * rows, label=labels.tolist())
    return Scored(tasks.find_prediction_task("regression"), data, ["label"], logits)


def tagging(rows: int = 60, seed: int = 0) -> Scored:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, size=rows)
    labels = random.integers(5, size=counts.sum())
    logits = (random.normal(size=(len(labels), 5)) + 2 * np.eye(5)[labels]).astype(np.float32)
    row_offsets = np.cumsum([0, *counts])
    tags = [[TAGS[label] for label in labels[begin:end]] for begin, end in itertools.pairwise(row_offsets)]
    data = rows_of(tokens=[["word"] * len(row) for row in tags], tags=tags)
    columns = Data(text_column_names="tokens", label_column_name="tags")
    return Scored(tasks.find_prediction_task("token-classification"), data, TAGS, logits, Layout(row_offsets), columns)


def question_answering(rows: int = 60, seed: int = 0) -> Scored:
    random = np.random.default_rng(seed)
    contexts, answers, logits = [], [], []
    for _ in range(rows):
        words = random.choice(WORDS, size=random.integers(1, 12)).tolist()
        first = int(random.integers(len(words)))
        last = min(len(words) - 1, first + int(random.integers(3)))
        begin = len(" ".join([*words[:first], ""]))
        text, is_answerable = " ".join(words[first : last + 1]), random.random() < 0.6
        marks = np.zeros((len(words) + 1, 2))
        marks[first + 1 if is_answerable else 0, 0] = marks[last + 1 if is_answerable else 0, 1] = 3
        contexts.append(" ".join(words))
        answers.append({"text": [text] * is_answerable, "answer_start": [begin] * is_answerable})
        logits.append(marks + random.normal(size=marks.shape))
    data = rows_of(question=["q"] * rows, context=contexts, answers=answers)
    columns = Data(text_column_names=["question", "context"], label_column_name="answers")
    values = np.concatenate(logits).astype(np.float32)
    task = tasks.find_prediction_task("question-answering")
    return Scored(task, data, ["begin", "end"], values, word_layout(contexts), columns)


MAKERS = [classification, multi_label, regression, tagging, question_answering]
of_every_metric = pytest.mark.parametrize("make", MAKERS, ids=[make.__name__ for make in MAKERS])
seeds = pytest.mark.parametrize("seed", range(4))


# -- score = reference implementation ------------------------------------------------------------------------


def expected_calibration_error(probabilities: Array, labels: Array) -> float:
    """The mean gap of confidence and accuracy in 15 bins, weighted by their decisions (Guo et al. 2017, equation 3)."""
    confidence, correct = probabilities.max(-1), probabilities.argmax(-1) == labels
    edges = np.linspace(0, 1, 16)
    bins = [(confidence >= low) & (confidence < high) for low, high in itertools.pairwise(edges)]
    gaps = [abs(confidence[rows].mean() - correct[rows].mean()) * rows.sum() for rows in bins if rows.any()]
    return float(sum(gaps) / len(labels))


@seeds
@pytest.mark.parametrize("classes", [2, 4])
def test_classification_equals_scikit_learn(classes: int, seed: int) -> None:
    scored = classification(200, seed, classes)
    labels = np.array([CLASSES.index(name) for name in scored.rows.column("label")])
    predicted, probabilities = scored.logits.argmax(-1), softmax(scored.logits)
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    assert scored.scores() == pytest.approx({
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "f1_macro": f1.mean(),
        "f1_weighted": sklearn.metrics.f1_score(labels, predicted, average="weighted"),
        "mcc": sklearn.metrics.matthews_corrcoef(labels, predicted),
        "loss": sklearn.metrics.log_loss(labels, probabilities, labels=range(classes)),
        "brier": ((probabilities - np.eye(classes)[labels]) ** 2).sum(-1).mean(),
        "ece": expected_calibration_error(probabilities, labels),
        **{f"precision[{name}]": value for name, value in zip(CLASSES, precision, strict=False)},
        **{f"recall[{name}]": value for name, value in zip(CLASSES, recall, strict=False)},
    })  # fmt: skip


@seeds
def test_multi_label_equals_scikit_learn(seed: int) -> None:
    scored = multi_label(200, seed)
    labels = np.array([[name in row for name in CLASSES] for row in scored.rows.column("label")])
    predicted, probabilities = scored.logits >= 0, sigmoid(scored.logits)
    single = sklearn.metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)[:3]
    micro = sklearn.metrics.precision_recall_fscore_support(labels, predicted, average="micro")[:3]
    log_losses = [sklearn.metrics.log_loss(*pair) for pair in zip(labels.T, probabilities.T, strict=True)]
    assert scored.scores() == pytest.approx({
        **dict(zip(("precision_micro", "recall_micro", "f1_micro"), micro, strict=True)),
        "f1_macro": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "hamming_loss": sklearn.metrics.hamming_loss(labels, predicted),
        "map": sklearn.metrics.average_precision_score(labels, scored.logits, average="macro"),
        "loss": np.mean(log_losses),
        **{
            f"{metric}[{name}]": value
            for metric, values in zip(("precision", "recall", "f1"), single, strict=True)
            for name, value in zip(CLASSES, values, strict=True)
        },
    })  # fmt: skip


@seeds
def test_regression_equals_scipy_and_scikit_learn(seed: int) -> None:
    scored = regression(200, seed)
    labels = np.array(scored.rows.column("label"), dtype=np.float32).astype(np.float64)
    predicted = scored.logits[:, 0].astype(np.float64)
    nearness = (1 - np.abs(predicted - labels) / np.ptp(labels)).clip(0, 1).mean()
    assert scored.scores() == pytest.approx({
        "pearson": stats.pearsonr(predicted, labels).statistic,
        "spearman": stats.spearmanr(predicted, labels).statistic,
        "r2": sklearn.metrics.r2_score(labels, predicted),
        "mae": sklearn.metrics.mean_absolute_error(labels, predicted),
        "loss": sklearn.metrics.mean_squared_error(labels, predicted),
        "nearness": pytest.approx(nearness, rel=1e-6),  # float32
    })  # fmt: skip


@seeds
def test_token_classification_equals_conlleval_and_scikit_learn(seed: int) -> None:
    scored = tagging(200, seed)
    gold, predictions = scored.rows.column("tags"), list(scored.predictions.values)
    scores = scored.scores()
    for suffix, kind in (("", None), ("[LOC]", "LOC"), ("[PER]", "PER")):
        both = [[[tag if kind is None or tag.endswith(kind) else "O" for tag in row] for row in rows]
                for rows in (gold, predictions)]  # fmt: skip
        right, predicted, total = conlleval(*both)
        assert scores[f"precision{suffix}"] == pytest.approx(right / predicted)
        assert scores[f"recall{suffix}"] == pytest.approx(right / total)
        assert scores[f"f1{suffix}"] == pytest.approx(2 * right / (predicted + total))
    labels = np.array([TAGS.index(tag) for row in gold for tag in row])
    probabilities = softmax(scored.logits)
    assert scores["f1_macro"] == pytest.approx((scores["f1[LOC]"] + scores["f1[PER]"]) / 2)
    assert scores["word_accuracy"] == pytest.approx((probabilities.argmax(-1) == labels).mean())
    assert scores["ece"] == pytest.approx(expected_calibration_error(probabilities, labels))
    assert scores["loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities, labels=range(5)))


@seeds
def test_question_answering_equals_the_squad_script(seed: int) -> None:
    scored = question_answering(200, seed)
    gold = [answers["text"] for answers in scored.rows.column("answers")]
    values = np.array([squad(*pair) for pair in zip(scored.predictions.values, gold, strict=True)])
    answerable, scores = np.array([bool(texts) for texts in gold]), scored.scores()
    assert (scores["exact_match"], scores["f1"]) == pytest.approx(tuple(values.mean(0)))
    by_kind = scores["exact_match_answerable"], scores["f1_answerable"]
    assert by_kind == pytest.approx(tuple(values[answerable].mean(0)))
    assert scores["accuracy_unanswerable"] == pytest.approx(values[~answerable, 0].mean())


@pytest.mark.parametrize(
    ("right", "logit", "limit"),
    [
        (1.0, 2.0, "lower limit of its search, since all decisions, or many more than the confidences say, are right"),
        (0.8, 0.05, "lower limit of its search, since all decisions, or many more than the confidences say, are right"),
        (0.8, 2.0, None),
        (0.2, 2.0, "upper limit"),
    ],
)
def test_a_fitted_temperature_at_its_limit_says_why(right: float, logit: float, limit: str | None) -> None:
    labels, logits = np.arange(100) % 2, np.zeros((100, 2), dtype=np.float32)
    decisions = np.where(np.arange(100) < 100 * right, labels, 1 - labels)
    logits[np.arange(100), decisions] = logit
    reached = limit_reached(temperature_scaling(logits, labels)["temperature"])
    assert reached is None if limit is None else limit in str(reached)


# -- bootstrap -----------------------------------------------------------------------------------------------


@of_every_metric
def test_resampled_values_equal_the_score_of_the_drawn_rows(make: Any) -> None:
    scored, random = make(), np.random.default_rng(7)
    row_scores = scored.metric.row_scores(scored.statistics)
    result = scored.resampled(resamples=20, seed=7)
    assert result.keys() == scored.scores().keys() - NO_INTERVAL
    for index in range(20):
        drawn = random.integers(60, size=60)
        expected = scored.select(drawn).scores()
        if "nearness" in expected:  # relative to the range of all labels, not to that of the drawn ones
            expected["nearness"] = row_scores[drawn].mean()
        for name in result:
            assert result[name][index] == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name


@of_every_metric
@pytest.mark.parametrize("most_counts", [1, 60 * 7 + 5])
def test_drawing_in_chunks_changes_no_value(make: Any, most_counts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = make()
    whole = scored.resampled(resamples=20, seed=3)
    monkeypatch.setattr(bootstrap, "MOST_COUNTS", most_counts)
    chunked = scored.resampled(resamples=20, seed=3)
    assert chunked.keys() == whole.keys()
    for name, values in chunked.items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12, atol=1e-14, err_msg=name)


def test_chunks_hold_at_most_most_counts_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = bootstrap._drawn_counts(60, resamples=20, seed=3)
    monkeypatch.setattr(bootstrap, "MOST_COUNTS", 60 * 7 + 5)
    chunks = list(bootstrap._drawn_counts(60, resamples=20, seed=3))
    assert [chunk.shape for chunk in chunks] == [(7, 60), (7, 60), (6, 60)]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    assert (whole.sum(-1) == 60).all()


@of_every_metric
def test_interval_contains_the_score_and_has_the_percentiles(make: Any) -> None:
    scored = make()
    scores, values = scored.scores(), scored.resampled(resamples=200, seed=1)
    intervals = metrics.intervals(
        scored.metric, scored.predictions, scored.statistics, scored.task.metrics, resamples=200, seed=1
    )
    assert intervals.keys() == scored.task.metrics.keys() - NO_INTERVAL
    shares = {"accuracy", "exact_match"}
    for name, (low, high) in intervals.items():
        if name not in shares:
            assert (low, high) == pytest.approx(tuple(np.percentile(values[name], [2.5, 97.5])))
        assert low <= scores[name] <= high


@of_every_metric
def test_difference_of_a_model_from_itself_is_0_in_every_resample(make: Any) -> None:
    scored = make()
    first, second = (scored.resampled(resamples=10, seed=5) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_no_resamples_give_no_intervals() -> None:
    scored = classification()
    assert scored.resampled(resamples=0, seed=0) == {}


# -- slices are scores of their rows -------------------------------------------------------------------------


@of_every_metric
def test_slice_metric_equals_the_score_of_the_rows_of_the_slice(make: Any) -> None:
    scored, random = make(), np.random.default_rng(2)
    chosen = {name: random.random(60) < 0.5 for name in ("x", "y")}
    name = scored.task.slice_metric
    result = slice_scores(scored.metric, scored.statistics, chosen, name)
    row_scores = scored.metric.row_scores(scored.statistics)
    expected = {
        key: row_scores[rows].mean() if name == "nearness" else scored.select(np.flatnonzero(rows)).scores()[name]
        for key, rows in chosen.items()
    }
    assert result == pytest.approx(expected)


@of_every_metric
def test_every_metric_of_the_task_is_among_the_scores(make: Any) -> None:
    scored = make()
    names = {name.partition("[")[0] for name in scored.scores()}
    assert names == {*scored.task.metrics, *scored.task.extra_metrics}
    assert scored.task.slice_metric in names and scored.task.main_metric in names


# -- degenerate data -----------------------------------------------------------------------------------------


def check_finite(scored: Scored) -> None:
    """Every number that is computed from these predictions is finite."""
    statistics = scored.statistics
    numbers: dict[str, Any] = {
        f"resampled {name}": values for name, values in scored.resampled(resamples=20, seed=0).items()
    }
    numbers |= scored.scores()
    half = {"half": np.arange(len(scored.rows)) % 2 == 0}
    numbers |= slice_scores(scored.metric, statistics, half, scored.task.slice_metric)
    numbers |= scored.task.fidelity(scored.predictions, scored.predictions)
    numbers |= scored.metric.paired_test(statistics, statistics)
    numbers |= {"majority": scored.metric.majority_baseline(), "row scores": scored.metric.row_scores(statistics)}
    decisions = scored.metric.class_logits(scored.predictions)
    numbers |= {} if decisions is None else temperature_scaling(*decisions)
    assert {name: values for name, values in numbers.items() if not np.isfinite(values).all()} == {}


@of_every_metric
@pytest.mark.filterwarnings("error")
def test_constant_predictions_give_finite_numbers_without_warning(make: Any) -> None:
    scored = make()
    for constant in (np.zeros_like(scored.logits), np.full_like(scored.logits, -3.0)):
        check_finite(scored.with_logits(constant))


@of_every_metric
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_give_finite_numbers_without_warning(make: Any, rows: int) -> None:
    scored = make()
    nonempty = [0] if scored.layout is None else np.flatnonzero(np.diff(scored.layout.row_offsets))[:1]
    check_finite(scored.select([*nonempty, *range(1, rows)]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [classification, multi_label], ids=["classification", "multi_label"])
def test_missing_class_gives_finite_numbers_without_warning(make: Any) -> None:
    scored = make()
    logits = scored.logits.copy()
    logits[:, 3] = -99  # never predicted
    without = [index for index, label in enumerate(scored.rows.column("label")) if "d" not in label]
    assert 0 < len(without) < 60
    scored = scored.with_logits(logits).select(without)
    check_finite(scored)
    scores = scored.scores()
    assert (scores["precision[d]"], scores["recall[d]"]) == (0.0, 0.0)


@pytest.mark.filterwarnings("error")
def test_class_without_rows_is_not_part_of_f1_macro() -> None:
    scored = classification()
    logits = scored.logits.copy()
    logits[:, 3] = -99
    without = [index for index, label in enumerate(scored.rows.column("label")) if label != "d"]
    scored = scored.with_logits(logits).select(without)
    labels = [CLASSES.index(label) for label in scored.rows.column("label")]
    expected = sklearn.metrics.f1_score(labels, scored.logits.argmax(-1), average="macro")
    assert scored.scores()["f1_macro"] == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", [classification, multi_label], ids=["classification", "multi_label"])
def test_one_label_in_all_rows_gives_finite_numbers(make: Any) -> None:
    scored = make()
    check_finite(scored.select([0] * 10))
    check_finite(scored.select([0] * 10).with_logits(scored.logits[:10]))


@pytest.mark.filterwarnings("error")
def test_rows_without_labels_give_finite_multi_label_numbers() -> None:
    scored = multi_label()
    empty = rows_of(text=["a"] * 60, label=[[]] * 60)
    check_finite(replace(scored, rows=empty))
    check_finite(replace(scored, rows=empty, logits=np.full((60, 4), -9.0)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tag", ["O", "B-PER"])
def test_constant_tags_give_finite_numbers(tag: str) -> None:
    scored = tagging()
    tags = [[tag] * len(words) for words in scored.rows.column("tokens")]
    constant = np.tile(np.eye(5)[TAGS.index("O")], (len(scored.logits), 1))
    for logits in (scored.logits, constant):
        check_finite(replace(scored, rows=rows_of(tokens=scored.rows.column("tokens"), tags=tags), logits=logits))


@pytest.mark.filterwarnings("error")
def test_rows_without_words_give_finite_numbers() -> None:
    scored = tagging()
    assert scored.layout is not None
    counts = np.diff(scored.layout.row_offsets)
    empty, other = int(np.flatnonzero(counts == 0)[0]), int(np.flatnonzero(counts)[0])
    check_finite(scored.select([empty, empty, empty, other]))  # some resamples have no word


@pytest.mark.filterwarnings("error")
def test_tags_without_entities_give_finite_numbers() -> None:
    scored = tagging()
    tags = [["O"] * len(words) for words in scored.rows.column("tokens")]
    rows = rows_of(tokens=scored.rows.column("tokens"), tags=tags)
    check_finite(replace(scored, rows=rows, names=["O"], logits=np.ones((len(scored.logits), 1))))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("is_answerable", [True, False])
def test_rows_of_one_kind_give_finite_question_answering_numbers(is_answerable: bool) -> None:
    scored = question_answering()
    answers = scored.rows.column("answers")
    check_finite(scored.select(index for index in range(60) if bool(answers[index]["text"]) == is_answerable))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", [0.0, 0.1, 3.3, 1e6 + 0.1])
def test_constant_labels_have_no_correlation_and_r2_0(label: float) -> None:
    scored = replace(regression(), rows=rows_of(text=["a"] * 60, label=[label] * 60))
    check_finite(scored)
    check_finite(scored.with_logits(np.full((60, 1), label)))
    scores, values = scored.scores(), scored.resampled(resamples=20, seed=0)
    assert (scores["pearson"], scores["spearman"], scores["r2"]) == (0.0, 0.0, 0.0)
    assert not any(values[name].any() for name in ("pearson", "spearman", "r2"))


@pytest.mark.filterwarnings("error")
def test_constant_labels_in_a_resample_have_no_correlation_and_r2_0() -> None:
    labels = [0.1] * 6 + [0.7]
    scored = replace(regression(7), rows=rows_of(text=["a"] * 7, label=labels))
    values = scored.resampled(resamples=200, seed=0)
    random = np.random.default_rng(0)
    constant = np.array([len({labels[row] for row in random.integers(7, size=7)}) == 1 for _ in range(200)])
    assert 20 < constant.sum() < 180
    assert not any(values[name][constant].any() for name in ("pearson", "spearman", "r2"))
    assert all(values[name][~constant].all() for name in ("pearson", "r2"))


# -- numerical precision -------------------------------------------------------------------------------------


def offset_values(rows: int = 500) -> tuple[Array, Array]:
    """Labels and predictions around 1e6 with a spread of 1; subtracting 1e6 is exact."""
    random = np.random.default_rng(0)
    labels = 1e6 + random.normal(size=rows)
    return labels, labels + 0.5 * random.normal(size=rows)


def regression_scores(labels: Array, predicted: Array) -> dict[str, float]:
    return metrics.score(RegressionMetric(labels), Predictions(predicted.tolist(), None, predicted[:, None]))


def test_pearson_and_r2_have_9_digits_for_labels_around_1e6() -> None:
    labels, predicted = offset_values()
    small, small_predicted = labels - 1e6, predicted - 1e6
    scores = regression_scores(labels, predicted)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(small_predicted, small).statistic, rel=1e-9)
    assert scores["r2"] == pytest.approx(sklearn.metrics.r2_score(small, small_predicted), rel=1e-9)
    assert scores == pytest.approx(regression_scores(small, small_predicted), rel=1e-9)


def test_resampled_pearson_and_r2_have_9_digits_for_labels_around_1e6() -> None:
    labels, predicted = offset_values()
    metric, predictions = RegressionMetric(labels), Predictions([], None, predicted[:, None])
    predictions = replace(predictions, values=predicted.tolist())
    values = metrics.resampled(metric, predictions, metric.statistics(predictions), resamples=10, seed=4)
    random = np.random.default_rng(4)
    for index in range(10):
        drawn = random.integers(500, size=500)
        small, small_predicted = labels[drawn] - 1e6, predicted[drawn] - 1e6
        assert values["pearson"][index] == pytest.approx(stats.pearsonr(small_predicted, small).statistic, rel=1e-9)
        assert values["r2"][index] == pytest.approx(sklearn.metrics.r2_score(small, small_predicted), rel=1e-9)


def test_resamples_without_the_outlier_keep_their_pearson_and_r2() -> None:
    random = np.random.default_rng(0)
    labels = random.normal(size=50)
    predicted = labels + 0.5 * random.normal(size=50)
    labels[0] = predicted[0] = 1e9
    metric, predictions = RegressionMetric(labels), Predictions(predicted.tolist(), None, predicted[:, None])
    values = metrics.resampled(metric, predictions, metric.statistics(predictions), resamples=20, seed=4)
    random = np.random.default_rng(4)
    drawn = [random.integers(50, size=50) for _ in range(20)]
    without = [index for index, rows in enumerate(drawn) if 0 not in rows]
    assert 3 < len(without) < 17
    for index in without:
        gold, own = labels[drawn[index]], predicted[drawn[index]]
        assert values["pearson"][index] == pytest.approx(stats.pearsonr(own, gold).statistic, rel=1e-9)
        assert values["r2"][index] == pytest.approx(sklearn.metrics.r2_score(gold, own), rel=1e-9)


def test_predictions_with_an_offset_have_a_precise_r2() -> None:
    labels, _ = offset_values()
    scores = regression_scores(labels, labels + 3.0)
    assert scores["pearson"] == pytest.approx(1.0, rel=1e-9)
    assert scores["r2"] == pytest.approx(sklearn.metrics.r2_score(labels - 1e6, labels - 1e6 + 3.0), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_correlations_do_not_depend_on_the_scale(scale: float) -> None:
    labels, predicted = (values - 1e6 for values in offset_values())
    expected, scores = regression_scores(labels, predicted), regression_scores(labels * scale, predicted * scale)
    for name in ("pearson", "spearman", "r2", "nearness"):
        assert scores[name] == pytest.approx(expected[name], rel=1e-9)


def test_numbers_of_many_rows_in_parts_are_those_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    logits, other = random.normal(size=(2, 50, 4)).astype(np.float32)
    labels = random.integers(4, size=50)
    rows = Rows({"text": ["x"] * 50, "label": [CLASSES[label] for label in labels]}, (("t", 50),))
    task = tasks.find_prediction_task("text-classification")

    def numbers() -> dict[str, Any]:
        metric = task.metric(rows, Data(), CLASSES)
        assert metric is not None
        predictions = task.predictions(logits, None, CLASSES, rows, Data())
        statistics = metric.statistics(predictions)
        slices = {"first": np.arange(50) < 20, "others": np.arange(50) >= 20}
        resampled = metrics.resampled(metric, predictions, statistics, resamples=20, seed=1)
        return {
            **metrics.score(metric, predictions, statistics),
            **{f"sampled {name}": values.tolist() for name, values in resampled.items()},
            **temperature_scaling(logits, labels),
            **class_fidelity(logits, other),
            **slice_scores(metric, statistics, slices, "accuracy"),
            "confidences": np.asarray(predictions.confidences).tolist(),
        }

    expected = numbers()
    limits = {(probabilities, "PART"): 24, (bootstrap, "MOST_COUNTS"): 120, (bootstrap, "DRAWN"): 7}
    for (module, name), value in {**limits, (scratch_files, "IN_MEMORY"): 0}.items():
        monkeypatch.setattr(module, name, value)
    for name, value in numbers().items():
        assert value == pytest.approx(expected[name], rel=1e-6, abs=1e-12), name


def test_statistics_of_many_rows_take_few_bytes_each() -> None:
    count = 200_000
    logits = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    rows = Rows({"text": [""] * count, "label": ["a", "b"] * (count // 2)}, (("t", count),))
    task = tasks.find_prediction_task("text-classification")
    metric = task.metric(rows, Data(), CLASSES[:3])
    assert metric is not None
    predictions = task.predictions(logits, None, CLASSES[:3], rows, Data())
    tracemalloc.start()
    statistics = metric.statistics(predictions)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(statistics) == 7 and size < 80 * count and peak < 130 * count + (60 << 20)
