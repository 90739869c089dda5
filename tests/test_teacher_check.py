"""A teacher whose labels are mixed up is refused, although most of them may be right, and told how to name them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tinybert_cli import tasks
from tinybert_cli.config import Data, GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.stages.teacher_check import TeacherCheck, check_teacher, rows_to_check
from tinybert_cli.types import Rows

NAMES = ["business", "food", "science", "sports"]


def checked(outputs: list[str], *, named: bool = True, right: float = 0.9, rows: int = 200) -> TeacherCheck:
    """The check of a teacher whose outputs are really about `outputs`, and which calls them NAMES."""
    random = np.random.default_rng(0)
    gold = random.integers(len(NAMES), size=rows)
    truth = np.where(random.random(rows) < right, gold, random.integers(len(NAMES), size=rows))
    columns = [outputs.index(NAMES[label]) for label in truth]
    labels = [NAMES[label] for label in gold] if named else gold.tolist()
    table = Rows({"text": ["a"] * rows, "label": labels}, (("rows", rows),))
    config = GenSoftLabels(task="text-classification", data=Data(), output_dir="out", teacher="teacher")
    task = tasks.find_prediction_task("text-classification")
    rows_with_gold = rows_to_check(config, task, {"train": table}, {"train": gold}, NAMES)
    assert rows_with_gold is not None and rows_with_gold.has_names == named
    logits = np.eye(len(NAMES), dtype=np.float32)[columns]
    return check_teacher(config, task, task.predictions(logits, None, NAMES, table, Data()), rows_with_gold, NAMES)


def test_a_teacher_that_names_its_labels_right_passes() -> None:
    assert checked(NAMES).numbers["teacher_accuracy"] > 0.85


@pytest.mark.parametrize(
    "outputs",
    [
        ["food", "business", "science", "sports"],  # half of them are right: far better than the majority class
        ["food", "science", "business", "sports"],  # a cycle: its inverse is another order
        ["sports", "business", "food", "science"],
    ],
)
def test_the_order_of_the_outputs_is_what_the_message_says(outputs: list[str]) -> None:
    with pytest.raises(InputError, match="labels of the teacher seem to be mixed up") as caught:
        checked(outputs)
    assert f"its outputs seem to be {', '.join(outputs)}: write them in this order" in str(caught.value.hint)


def test_integers_in_another_order_are_named_by_the_setting_that_fixes_them() -> None:
    outputs = ["food", "science", "business", "sports"]  # the integer 0 of the data is what the teacher calls science
    with pytest.raises(InputError, match="seem to be mixed up") as caught:
        checked(outputs, named=False)
    mapping = re.search(r"data.label_names: (\{.*\})", str(caught.value.hint))
    assert mapping is not None
    fixed = json.loads(mapping[1])
    assert list(fixed.values()) == NAMES  # in the order of the outputs, as the model has them
    assert {int(integer): NAMES.index(name) for integer, name in fixed.items()} == {
        label: outputs.index(name) for label, name in enumerate(NAMES)
    }


@pytest.mark.parametrize(("right", "rows"), [(0.3, 200), (0.5, 12)])
def test_a_weak_teacher_and_a_few_rows_are_no_sign_of_another_order(right: float, rows: int) -> None:
    try:
        checked(NAMES, right=right, rows=rows)
    except InputError as error:
        assert "does not beat the majority-class baseline" in error.what


def test_a_constant_teacher_is_not_called_mixed_up() -> None:
    rows = 200
    gold = np.array([1] * 150 + [0] * 50)
    table = Rows({"text": ["a"] * rows, "label": [NAMES[label] for label in gold]}, (("rows", rows),))
    config = GenSoftLabels(task="text-classification", data=Data(), output_dir="out", teacher="teacher")
    task = tasks.find_prediction_task("text-classification")
    names = NAMES[:2]
    rows_with_gold = rows_to_check(config, task, {"train": table}, {"train": gold}, names)
    assert rows_with_gold is not None
    logits = np.tile(np.float32([1, 0]), (rows, 1))
    with pytest.raises(InputError, match="does not beat the majority-class baseline"):
        check_teacher(config, task, task.predictions(logits, None, names, table, Data()), rows_with_gold, names)
