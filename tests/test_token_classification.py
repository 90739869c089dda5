"""Token classification: tags of words, read at their first tokens, and entities as in conlleval."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import numpy as np
import pytest
from conftest import write_base_model, write_rows
from official_scripts import conlleval

from tinybert_cli import losses, metrics, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import Examples, splits
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics.entities import TaggingMetric, entities, scheme_of
from tinybert_cli.models import load_tokenizer, locate
from tinybert_cli.stages import candidates
from tinybert_cli.tasks.token_classification import _windows
from tinybert_cli.types import Array, Layout, Predictions, Rows, concatenated_ranges

TASK = tasks.find_prediction_task("token-classification")
NAMES = ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
TOKENS = ["ada", "wrote", "it", "in", "lon", "##don", "new", "york", ".", "-", "北", "京", "市", "在", "我"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(locate(str(write_base_model(tmp_path_factory.mktemp("base"), TOKENS))))


def settings(**values: Any) -> Data:
    return Data(text_column_names="tokens", label_column_name="tags", **values)


def rows_of(*rows: tuple[list[str], list[Any] | None]) -> Rows:
    columns: dict[str, list[Any]] = {"tokens": [words for words, _ in rows], "tags": [tags for _, tags in rows]}
    return Rows(columns, (("ner.jsonl", len(rows)),))


def test_row_lengths_count_the_tokens_of_rows_without_words(tokenizer: Any) -> None:
    rows = rows_of(([], []), (["ada"], ["O"]), ([], []), ([], []), (["ada", "wrote", "it"], ["O"] * 3), ([], []))
    assert candidates.row_lengths(TASK.encode(rows, settings(max_seq_length=8), tokenizer)).tolist() == [
        2,
        3,
        2,
        2,
        5,
        2,
    ]


# -- entities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),  # IOB1, or predictions of a model
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("B-PER I-PER E-PER S-LOC", [("PER", 0, 3), ("LOC", 3, 4)]),
        ("S-PER I-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER E-PER I-PER", [("PER", 0, 2), ("PER", 2, 3)]),
        ("U-PER B-LOC L-LOC O", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("O O", []),
        ("", []),
    ],
)
def test_entities_of_tags_are_those_of_conlleval(tags: str, expected: list[Any]) -> None:
    assert entities(tags.split(), prefixed=True, outside=True) == expected


def test_tags_without_prefixes_are_entities_or_words() -> None:
    assert scheme_of(["O", "LOC", "PER"]) == (["LOC", "PER"], False, True)
    assert entities(["PER", "PER", "O", "LOC"], prefixed=False, outside=True) == [("PER", 0, 2), ("LOC", 3, 4)]
    assert scheme_of(["DET", "NOUN"]) == (["DET", "NOUN"], False, False)
    assert entities(["NOUN", "NOUN"], prefixed=False, outside=False) == [("NOUN", 0, 1), ("NOUN", 1, 2)]


def test_tags_of_two_schemes_are_an_error() -> None:
    rows = rows_of((["a", "b", "c"], ["B-PER", "I-PER", "LOC"]))
    with pytest.raises(InputError, match=r"tags in two schemes: some begin with B-, I-, .* and LOC does not") as caught:
        TASK.label_names(rows, settings(), model_names=None)
    assert caught.value.where == "ner.jsonl, row 1"


@pytest.mark.parametrize(
    "names",
    [
        "O B-PER I-PER", "I-PER B-PER O I-LOC", "O I-PER I-LOC", "B-PER I-PER", "O B-X I-X E-X S-X", "O B-X I-X L-X U-X",
        "O B-X M-X E-X W-X", "O B-X M-X E-X S-X", "O PER LOC", "NOUN VERB X ADJ", "NN NNP : , -LRB- ''", "N V O P A",
        "S-NP S-VP", "B-NP I-NP B-VP O",
    ],
)  # fmt: skip
def test_schemes_and_tags_of_words_are_read(names: str) -> None:
    tags = names.split()
    assert sorted(TASK.label_names(rows_of((["a"] * len(tags), tags)), settings(), model_names=None)) == sorted(tags)


LOOK_ALIKES = {
    "B I O": "B-ENTITY I-ENTITY O",
    "b i o": "B-ENTITY I-ENTITY O",
    "B I E S O": "B-ENTITY I-ENTITY E-ENTITY S-ENTITY O",
    "B_PER I_PER O": "B-PER I-PER O",
    "B:PER I:PER": "B-PER I-PER",
    "B\u2013PER I\u2013PER O": "B-PER I-PER O",
    "PER-B PER-I O LOC-B": "B-PER I-PER O B-LOC",
    "PER_B PER_I O": "B-PER I-PER O",
    "b-per i-per o": "B-per I-per O",
    "b-PER i-PER O": "B-PER I-PER O",
    "OTHER B-PER I-PER": "O B-PER I-PER",
    "o B-PER I-PER": "O B-PER I-PER",
    "0 B-PER I-PER": "O B-PER I-PER",
    "OTHER PER LOC": "O PER LOC",
    "NONE PER": "O PER",
    "B-PER I_PER O": "B-PER I-PER O",
}


@pytest.mark.parametrize(("names", "standard"), LOOK_ALIKES.items())
def test_look_alikes_of_schemes_are_rejected_with_a_mapping_that_works(
    names: str, standard: str, tmp_path: Any
) -> None:
    tags = names.split()
    with pytest.raises(InputError) as caught:
        TASK.label_names(
            rows_of((["a"], ["O"][: "O" in tags]), (["a"] * len(tags), tags)), settings(), model_names=None
        )
    assert caught.value.where == "ner.jsonl, row 2"
    mapping = json.loads((caught.value.hint or "").partition("data.label_names: ")[2].partition("}")[0] + "}")
    assert [mapping[tag] for tag in tags] == standard.split()
    file = write_rows(tmp_path / "t.jsonl", [{"tokens": tags, "tags": tags}])
    mapped = settings(train_file=str(file), label_names=mapping)
    rows = splits.read(mapped, "train")
    assert rows.column("tags") == [standard.split()]
    assert sorted(TASK.label_names(rows, mapped, model_names=None)) == sorted(standard.split())


@pytest.mark.parametrize("names", ["O B-X E-X L-X", "O B-X I-X S-X U-X", "O B-X I-X M-X"])
def test_prefixes_of_two_schemes_are_rejected(names: str) -> None:
    tags = names.split()
    with pytest.raises(InputError, match="tags in two schemes"):
        TASK.label_names(rows_of((["a"] * len(tags), tags)), settings(), model_names=None)


def test_look_alike_names_in_the_config_are_rejected_with_a_list() -> None:
    with pytest.raises(InputError) as caught:
        TASK.label_names(rows_of((["a"], [1])), settings(label_names=["O", "B_PER", "I_PER"]), model_names=None)
    assert caught.value.hint == 'if they are entities: data.label_names: ["O", "B-PER", "I-PER"]'


@pytest.mark.parametrize("tags", [[0, 1, 2], ["0", "1", "2"], [0.0, 1.0, 2.0]])
def test_integer_tags_without_names_are_rejected(tags: list[Any]) -> None:
    rows = rows_of((["a", "b", "c"], tags))
    for model_names in (None, ["0", "1", "2"]):
        with pytest.raises(InputError, match="the tags are numbers without names") as caught:
            TASK.label_names(rows, settings(), model_names=model_names)
        assert caught.value.where == "ner.jsonl, row 1"
    named = settings(label_names=["O", "B-PER", "I-PER"])
    labels = TASK.labels(rows, named, TASK.label_names(rows, named, model_names=None))
    assert labels is not None and labels.tolist() == [0, 1, 2]


def test_bmewo_entities_are_those_of_bioes() -> None:
    tags = ["B-PER", "M-PER", "E-PER", "W-LOC", "O", "M-PER"]
    assert entities(tags, prefixed=True, outside=True) == [("PER", 0, 3), ("LOC", 3, 4), ("PER", 5, 6)]


@pytest.mark.parametrize(
    ("names", "statement"),
    [
        (["O", "LOC"], "the tags have no prefixes: adjacent words with the same tag are one entity"),
        (["DET", "NOUN"], "the tags have no prefixes and no O: every word is scored on its own"),
    ],
)
def test_plan_states_how_tags_without_prefixes_are_read(names: list[str], statement: str) -> None:
    assert TASK.label_statements(rows_of((["a", "b"], names)), settings(), names) == [statement]
    assert TASK.label_statements(rows_of((["a"], ["B-PER"])), settings(), NAMES) == []


def test_entities_that_begin_with_i_are_a_label_warning() -> None:
    rows = rows_of((["a", "b", "c", "d"], ["I-PER", "I-PER", "B-LOC", "I-PER"]), (["a"], ["B-PER"]))
    names = ["B-LOC", "B-PER", "I-PER"]
    (warning,) = TASK.label_warnings(rows, settings(), names)
    assert warning.startswith("2 of 4 entities begin with I-")
    assert TASK.label_warnings(rows_of((["a", "b"], ["B-PER", "I-PER"])), settings(), names[1:]) == []


# -- labels --------------------------------------------------------------------------------------------------


def test_names_in_the_data_are_sorted_after_o() -> None:
    rows = rows_of((["a", "b"], ["I-PER", "B-PER"]), (["c"], ["O"]))
    assert TASK.label_names(rows, settings(), model_names=None) == ["O", "B-PER", "I-PER"]


def test_labels_are_the_class_indices_of_every_word() -> None:
    labels = TASK.labels(rows_of((["a", "b"], ["B-PER", 3]), (["c"], None)), settings(), NAMES)
    assert labels is not None and labels.tolist() == [2, 3, -100]


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        (["O"], "2 words and 1 tags"),
        (["O", "B-ORG"], "unknown label 'B-ORG'"),
        ("O O", "expected a list of tags, found 'O O'"),
        ([["O"], "O"], "expected a list of tags, found"),
    ],
)
def test_bad_tags_are_an_error_with_their_row(tags: Any, what: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        TASK.labels(rows_of((["a"], ["O"]), (["a", "b"], tags)), settings(), NAMES)
    assert caught.value.where == "ner.jsonl, row 2"


@pytest.mark.parametrize("bad", ["a text", ["a", 1], None])
def test_row_that_is_not_a_list_of_words_is_an_error_with_its_row(bad: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="expected a list of words, found") as caught:
        TASK.encode(rows_of((["a"], ["O"]), (bad, ["O"])), settings(), tokenizer)
    assert caught.value.where == "ner.jsonl, row 2"


# -- encode --------------------------------------------------------------------------------------------------


def tokens_read(rows: Rows, tokenizer: Any, order: list[int] | None = None, **values: Any) -> tuple[list[str], Array]:
    """The token at which each word is predicted, in batches of two windows in that order, and the index of the word."""
    encoded = TASK.encode(rows, settings(**values), tokenizer)
    assert encoded.layout is not None
    examples = Examples.of(encoded, number=np.arange(int(encoded.layout.row_offsets[-1])))
    tokens: list[str] = []
    numbers: list[int] = []
    for start in range(0, len(examples), 2):
        windows = (order or list(range(len(examples))))[start : start + 2]
        batch = examples.__getitems__(windows)
        of_batch = tokenizer.convert_ids_to_tokens(batch["input_ids"].flatten().tolist())
        tokens += [of_batch[position] for position in batch["positions"].tolist()]
        numbers += batch["number"].tolist()
    return tokens, np.array(numbers)


def test_words_are_predicted_at_their_first_tokens(tokenizer: Any) -> None:
    tokens, _ = tokens_read(rows_of((["Ada", "wrote", "London", "."], None), (["New-York", "in"], None)), tokenizer)
    assert tokens == ["ada", "wrote", "lon", ".", "new", "in"]


def test_chinese_words_are_characters(tokenizer: Any) -> None:
    tokens, _ = tokens_read(rows_of((list("我在北京市"), None)), tokenizer)
    assert tokens == list("我在北京市")


@pytest.mark.parametrize(("length", "stride"), [(5, 0), (6, 2), (8, 3), (12, 5)])
def test_each_word_is_predicted_once_in_shuffled_windows(length: int, stride: int, tokenizer: Any) -> None:
    random = np.random.default_rng(length)
    words = ["ada", "london", "in", "new", "york", "it"]
    rows = rows_of(*(([words[i] for i in random.integers(6, size=count)], None) for count in (1, 9, 23, 0, 40)))
    windows = len(TASK.encode(rows, settings(max_seq_length=length, doc_stride=stride), tokenizer).offsets) - 1
    order = random.permutation(windows).tolist()
    tokens, numbers = tokens_read(rows, tokenizer, order, max_seq_length=length, doc_stride=stride)
    all_words = [word for row in rows.column("tokens") for word in row]
    assert sorted(numbers.tolist()) == list(range(len(all_words)))  # every word once
    assert tokens == [{"london": "lon"}.get(all_words[number], all_words[number]) for number in numbers]


@pytest.mark.parametrize(
    ("count", "room", "stride"), [(0, 4, 1), (3, 4, 1), (4, 4, 1), (23, 4, 1), (41, 7, 3), (40, 6, 0)]
)
def test_each_word_is_predicted_in_the_window_whose_ends_are_furthest(count: int, room: int, stride: int) -> None:
    first = np.arange(count).repeat(2)  # several words may begin at the same token
    windows = list(_windows(first, count, room, stride))
    depths = [np.minimum(first - begin, end - 1 - first) for begin, end, _ in windows]
    furthest = np.argmax(depths, axis=0) if count else np.zeros(0)
    for number, (_, _, words) in enumerate(windows):
        np.testing.assert_array_equal(words, np.flatnonzero(furthest == number))


def test_the_windows_of_a_very_long_text_take_memory_by_its_words() -> None:
    windows = list(_windows(np.arange(400_000), 400_000, 10, 3))
    assert sum(len(words) for _, _, words in windows) == 400_000


def test_word_without_tokens_is_predicted_too(tokenizer: Any) -> None:
    tokens, numbers = tokens_read(rows_of((["ada", "\u200b", "wrote"], None), (["\u200b"], None)), tokenizer)
    assert tokens[:1] == ["ada"] and len(numbers) == 4


def test_two_text_columns_are_an_error(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="one column of words"):
        TASK.encode(rows_of((["a"], None)), Data(text_column_names=["tokens", "tags"]), tokenizer)


# -- metrics -------------------------------------------------------------------------------------------------


def predictions_of(logits: Array, metric: TaggingMetric) -> Predictions:
    rows = rows_of(*((["word"] * len(tags), None) for tags in metric.references))
    return TASK.predictions(logits, Layout(metric.row_offsets), metric.names, rows, settings())


def random_logits(seed: int = 0, names: list[str] = NAMES) -> tuple[Array, TaggingMetric]:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, size=30)
    labels = random.integers(len(names), size=counts.sum())
    logits = random.normal(size=(len(labels), len(names))) + 2 * np.eye(len(names))[labels]
    return logits.astype(np.float32), TaggingMetric(labels, np.cumsum([0, *counts]), names)


def scores_of(logits: Array, metric: TaggingMetric) -> dict[str, float]:
    return metrics.score(metric, predictions_of(logits, metric))


@pytest.mark.parametrize("names", [NAMES, ["O", *(f"{p}-{k}" for p in "BIES" for k in ("LOC", "PER"))]])
@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_conlleval(seed: int, names: list[str]) -> None:
    logits, metric = random_logits(seed, names)
    predictions = predictions_of(logits, metric)
    right, predicted, gold = conlleval(metric.references, list(predictions.values))
    scores = metrics.score(metric, predictions)
    assert scores["precision"] == pytest.approx(right / predicted)
    assert scores["recall"] == pytest.approx(right / gold)
    assert scores["f1"] == pytest.approx(2 * right / (predicted + gold))
    assert scores["f1_macro"] == pytest.approx((scores["f1[LOC]"] + scores["f1[PER]"]) / 2)
    assert {re.sub(r"\[.*", "", name) for name in scores} == {*TASK.metrics, *TASK.extra_metrics}


def test_resampled_values_equal_the_score_of_the_drawn_rows() -> None:
    logits, metric = random_logits()
    predictions = predictions_of(logits, metric)
    values = metrics.resampled(metric, predictions, metric.statistics(predictions), resamples=5, seed=1)
    drawn = np.random.default_rng(1).integers(30, size=30)
    words = concatenated_ranges(metric.row_offsets, drawn)
    counts = np.diff(metric.row_offsets)[drawn]
    expected = scores_of(logits[words], TaggingMetric(metric.labels[words], np.cumsum([0, *counts]), NAMES))
    del expected["ece"]  # has no interval
    assert values.keys() == expected.keys()
    assert {name: values[name][0] for name in expected} == pytest.approx(expected)


def test_predicting_o_for_every_word_has_f1_0() -> None:
    _, metric = random_logits()
    logits = np.eye(5)[np.zeros(len(metric.labels), dtype=int)]
    assert scores_of(logits, metric)["f1"] == metric.majority_baseline() == 0.0


def test_majority_baseline_without_o_is_the_most_frequent_tag() -> None:
    metric = TaggingMetric(np.array([0, 1, 1, 1]), np.array([0, 2, 4]), ["DET", "NOUN"])
    assert metric.majority_baseline() == 0.75


def test_row_scores_are_shares_of_right_words() -> None:
    metric = TaggingMetric(np.array([0, 1, 2, 0]), np.array([0, 3, 3, 4]), ["O", "B-LOC", "B-PER"])
    predictions = predictions_of(np.eye(3)[[0, 1, 1, 0]], metric)
    statistics = metric.statistics(predictions)
    assert metric.row_scores(statistics).tolist() == [pytest.approx(2 / 3), 1.0, 1.0]
    confidence, correct = metric.confidences(predictions, statistics)
    assert correct.tolist() == [True, True, False, True]
    assert confidence.tolist() == pytest.approx([np.e / (np.e + 2)] * 4)


def test_mcnemar_counts_rows_whose_words_are_all_right() -> None:
    metric = TaggingMetric(np.array([0, 1, 1]), np.array([0, 2, 3]), ["O", "B-PER"])
    statistics, reference = (
        metric.statistics(predictions_of(np.eye(2)[tags], metric)) for tags in ([0, 0, 1], [0, 1, 0])
    )
    assert metric.paired_test(statistics, reference) == {"rows_lost": 1, "rows_won": 1, "mcnemar_p": 1.0}


def test_predictions_are_tags_with_the_mean_confidence_of_the_words() -> None:
    metric = TaggingMetric(np.array([0, 1, 1]), np.array([0, 2, 2, 3]), ["O", "B-PER"])
    predictions = predictions_of(np.log([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]]), metric)
    assert predictions.values == [["O", "B-PER"], [], ["O"]]
    assert predictions.confidences == pytest.approx([0.8, 1.0, 0.5])


def test_fidelity_is_computed_word_by_word() -> None:
    metric = TaggingMetric(np.array([0, 1, 1]), np.array([0, 2, 3]), ["O", "B-PER"])
    reference = predictions_of(np.eye(2)[[0, 1, 1]], metric)
    assert TASK.fidelity(predictions_of(np.eye(2)[[0, 1, 0]], metric), reference)["agreement"] == pytest.approx(2 / 3)
    assert TASK.fidelity(reference, reference)["kl"] == 0.0


def test_words_below_min_confidence_are_missing_labels() -> None:
    logits = np.log([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]])
    labels, selected = TASK.hard_labels(logits, Layout(np.array([0, 2, 3])), 0.8)
    assert (labels.tolist(), selected.tolist()) == ([0, -100, -100], [True, False])


def test_balanced_weights_make_rare_tags_count_as_much_as_frequent_ones() -> None:
    balanced = losses.LOSS_SETS[TASK.output_type].balanced
    assert balanced is not None
    np.testing.assert_allclose(balanced(np.array([0, 0, 0, 2, -100])), [2 / 3, 2 / 3, 2 / 3, 2, 0], rtol=1e-6)


# -- predict -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada's ship, (the New-York).", "Ada's ship , ( the New-York ) ."),
        ("The U.S. paid 1,000.50 to AT&T!", "The U.S. paid 1,000.50 to AT&T !"),
        ("我在北京,用Python3。", "我 在 北 京 , 用 Python3 。"),
        ("", ""),
    ],
)
def test_text_is_split_into_words_as_in_corpora(text: str, words: str) -> None:
    assert TASK.row_of([text]) == [words.split()]


@pytest.mark.parametrize(
    "text",
    [
        "हिन्दी में दिल्ली ।", "cafe\u0301 in Zu\u0308rich", "می\u200cروم تهران", "שָׁלוֹם עולם", "مُحَمَّد", "ไม่ใช่", "Donau\u00adschiff",
        "বাংলা", "தமிழ்", "è\u0323 .",
    ],
)  # fmt: skip
def test_marks_and_joiners_are_part_of_their_word(text: str) -> None:
    assert TASK.row_of([text]) == [text.split()]


def test_marks_of_letters_are_no_words_and_punctuation_marks_are() -> None:
    for code in range(0x300, 0x2000):
        character = chr(code)
        category = unicodedata.category(character)
        if category != "Cn":
            whole = TASK.row_of([f"a{character}a"]) == [[f"a{character}a"]]
            assert whole == (category[0] in "MLN"), hex(code)


def test_predicted_entities_have_characters_and_scores() -> None:
    logits = np.zeros((5, len(NAMES)))  # of: Ada wrote in New-York .
    for word, tag in enumerate(["B-PER", "O", "O", "B-LOC", "O"]):
        logits[word, NAMES.index(tag)] = 5.0
    prediction = TASK.format_prediction(["Ada wrote in New-York."], logits, None, NAMES, {})["prediction"]
    assert [(entity["type"], entity["text"], entity["begin"], entity["end"]) for entity in prediction] == [
        ("PER", "Ada", 0, 3), ("LOC", "New-York", 13, 21),
    ]  # fmt: skip
    assert prediction[0]["score"] == pytest.approx(np.exp(5) / (np.exp(5) + 4))
