"""Every task goes all the way: teacher, labels, student with another tokenizer, student2, eval, export, predict."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import BAD, FILL, GOOD, make_config, run, sentences, write_base_model, write_rows
from safetensors.torch import load_file, save_file

from tinybert_cli import artifacts, models, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.helpers import predict
from tinybert_cli.stages import distill

SPLIT = {"great": ["gre", "##at"], "lovely": ["lo", "##vely"], "awful": ["aw", "##ful"], "dull": ["du", "##ll"]}
OTHER_WORDS = [piece for word in [*BAD, *GOOD, *FILL] for piece in SPLIT.get(word, [word])]
FILLERS = ["the", "a", "is", "was", "and", "very"]
COUNTS = {"train": 120, "validation": 48}


@dataclass(frozen=True)
class Made:
    """What a task's rows are, and how well tiny models learn them."""

    write: Callable[[Path], dict[str, Any]]  # writes data, gives the settings of it
    asked: str  # what predict is asked
    answer: Any
    bar: float  # of the student, in the main metric; the others may be a little worse
    rounds: float = 24.0
    task: str = ""  # if the case is not called as its task
    words: tuple[str, ...] = (*GOOD, *BAD, *FILL)
    other_words: tuple[str, ...] = tuple(OTHER_WORDS)


def draw_words(draw: random.Random, moods: list[list[str]]) -> list[str]:
    said = draw.choices(FILLERS, k=draw.randint(2, 5))
    for words in moods:
        said.insert(draw.randint(0, len(said)), draw.choice(words))
    return [*said, "."]


def write_moods(folder: Path) -> dict[str, Any]:
    for split in COUNTS:
        write_rows(folder / f"{split}.jsonl", sentences(split))
    return {}


def write_soft_labels(folder: Path) -> dict[str, Any]:
    """Any of two moods, in cells of a CSV."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        lines = ["text,moods"]
        for _ in range(count):
            chosen = [name for name in ("good", "bad") if draw.random() < 0.5]
            said = draw_words(draw, [{"good": GOOD, "bad": BAD}[name] for name in chosen])
            lines.append(f"{' '.join(said)},{'|'.join(chosen)}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    files = {f"data__{split}_file": str(folder / f"{split}.csv") for split in COUNTS}
    return {**files, "data__label_column_name": "moods"}


def write_numbers(folder: Path) -> dict[str, Any]:
    """How many good words more than bad ones."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        rows = []
        for _ in range(count):
            good, bad = draw.randint(0, 3), draw.randint(0, 3)
            rows.append({"text": " ".join(draw_words(draw, [GOOD] * good + [BAD] * bad)), "label": float(good - bad)})
        write_rows(folder / f"{split}.jsonl", rows)
    return {}


def write_tags(folder: Path) -> dict[str, Any]:
    """Moods of two words in a row, in files of the form of CoNLL."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        lines = ["-DOCSTART- X O", ""]
        for _ in range(count):
            said = [(word, "O") for word in draw.choices(FILLERS, k=draw.randint(2, 12))]
            for kind, words in (("GOOD", GOOD), ("BAD", BAD)):
                found = [(draw.choice(words), f"{prefix}-{kind}") for prefix in "BI"]
                place = draw.choice([i for i in range(len(said) + 1) if i == len(said) or said[i][1][0] != "I"])
                said[place:place] = found
            lines += [*(f"{word} X {tag}" for word, tag in [*said, (".", "O")]), ""]
        (folder / f"{split}.conll").write_text("\n".join(lines))
    files = {f"data__{split}_file": str(folder / f"{split}.conll") for split in COUNTS}
    columns = {"data__text_column_names": "tokens", "data__label_column_name": "tags"}
    return {**files, **columns, "data__conll_column_names": ["tokens", "pos", "tags"], "data__max_seq_length": 12}


def write_questions(folder: Path) -> dict[str, Any]:
    """`film` asks for the kind word of a sentence, `plot` for the unkind one; some have none. The form of SQuAD 2.0."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        asked = []
        for index in range(count):
            question, words, others = draw.choice([("film", GOOD, BAD), ("plot", BAD, GOOD)])
            word, impossible = draw.choice(words), index % 6 == 0
            context = " ".join(draw_words(draw, [others] if impossible else [[word], others]))
            answer = [] if impossible else [{"text": word, "answer_start": context.index(word)}]
            qas = [{"id": str(index), "question": question, "answers": answer, "is_impossible": impossible}]
            asked.append({"context": context, "qas": qas})
        (folder / f"{split}.json").write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": asked}]}))
    files = {f"data__{split}_file": str(folder / f"{split}.json") for split in COUNTS}
    columns = {"data__text_column_names": ["question", "context"], "data__label_column_name": "answers"}
    return {**files, **columns, "data__max_seq_length": 12, "data__doc_stride": 3}


FAMILIES, PLACES = "王李张赵", "京沪渝津"
CHARACTERS = (*"人我们在去了到和看，。", *FAMILIES, *PLACES, *"小明红市城")


def write_chinese(folder: Path) -> dict[str, Any]:
    """Made-up sentences, character by character: who went where."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        rows = []
        for _ in range(count):
            parts = [
                (draw.choice(FAMILIES) + draw.choice("小明红"), "PER"), (draw.choice(["去了", "到了", "在"]), None),
                (draw.choice(PLACES) + draw.choice(["市", "城"]), "LOC"), (draw.choice(["。", "，我们和人看。"]), None),
            ]  # fmt: skip
            characters = [character for text, _ in parts for character in text]
            tags = [f"{'BI'[n > 0]}-{kind}" if kind else "O" for text, kind in parts for n in range(len(text))]
            rows.append({"tokens": characters, "ner_tags": tags})
        write_rows(folder / f"{split}.jsonl", rows)
    return {"data__text_column_names": "tokens", "data__label_column_name": "ner_tags", "data__max_seq_length": 12}


MADE = {
    "text-classification": Made(write_moods, "the cast is great and warm .", "good", 0.85, rounds=12.0),
    "multi-label-classification": Made(write_soft_labels, "a great and dull .", ["bad", "good"], 0.85),
    "regression": Made(write_numbers, "the very lovely great fine .", pytest.approx(3.0, abs=1.5), 0.85),
    "token-classification": Made(
        write_tags, "the lovely great and the boring cold .",
        [("GOOD", "lovely great", 4, 16), ("BAD", "boring cold", 25, 36)], 0.85,
    ),
    "chinese": Made(
        write_chinese, "王明去了沪市。", [("PER", "王明", 0, 2), ("LOC", "沪市", 4, 6)], 0.85,
        task="token-classification", words=CHARACTERS, other_words=tuple(reversed(CHARACTERS)),
    ),
    "question-answering": Made(write_questions, "plot\tthe great and awful .", "awful", 0.7, rounds=30.0),
}  # fmt: skip


@dataclass(frozen=True)
class Cascade:
    """Finished folders of one task."""

    case: str
    folder: Path
    settings: dict[str, Any]

    @property
    def made(self) -> Made:
        return MADE[self.case]

    @property
    def task(self) -> str:
        return self.made.task or self.case

    def stage(self, command: str, name: str, *, dry_run: bool = False, **given: Any) -> list[dict[str, Any]]:
        return run(command, self.config(command, name, **given), dry_run=dry_run)

    def config(self, command: str, name: str, **given: Any) -> Any:
        blank = {"data__test_file": None, "data__unlabeled_file": None}
        if command in ("finetune", "distill"):
            given = {"training__num_train_epochs": self.made.rounds, **given}
        options = {**blank, **self.settings, **given}
        return make_config(command, self.folder / "data", self.folder / name, task=self.task, **options)

    def metrics(self, name: str) -> dict[str, float]:
        return dict(json.loads((self.folder / name / "metrics.json").read_text()))

    @property
    def metric(self) -> str:
        return tasks.find_prediction_task(self.task).main_metric


@pytest.fixture(scope="module", params=MADE)
def cascade(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cascade]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "data").mkdir()
    made = Cascade(request.param, folder, MADE[request.param].write(folder / "data"))
    base = write_base_model(folder / "base", made.made.words)
    other = write_base_model(folder / "other", made.made.other_words)
    made.stage("finetune", "teacher", model=base)
    made.stage("gen-soft-labels", "labels", teacher=folder / "teacher")
    made.stage("distill", "student", label_dataset=folder / "labels", student=str(other))
    made.stage("gen-soft-labels", "student-labels", teacher=folder / "student")
    student2 = {"from": str(folder / "student"), "num_hidden_layers": 2}
    made.stage("finetune", "student2", label_dataset=folder / "student-labels", model=student2)
    yield made


def test_teacher_student_and_student2_learn_whatever_their_tokenizers(cascade: Cascade) -> None:
    bar = cascade.made.bar
    found = {name: cascade.metrics(name)[f"eval_{cascade.metric}"] for name in ("teacher", "student", "student2")}
    assert found["teacher"] > bar - 0.15 and found["student"] > bar and found["student2"] > bar - 0.15, found


def test_the_teacher_is_checked_before_anything_is_labelled(cascade: Cascade) -> None:
    found = cascade.metrics("labels")
    assert found[f"teacher_{cascade.metric}"] > found[f"majority_{cascade.metric}"]
    shutil.copytree(
        cascade.folder / "teacher", cascade.folder / "worse", ignore=shutil.ignore_patterns("manifest.json")
    )
    weights = load_file(cascade.folder / "worse" / "model.safetensors")
    for name in weights:
        if name.startswith(("classifier.", "qa_outputs.")):
            weights[name].zero_()
    save_file(weights, cascade.folder / "worse" / "model.safetensors", metadata={"format": "pt"})
    models.rewrite_config(cascade.folder / "worse", dict.fromkeys(tasks.find_prediction_task(cascade.task).decides))
    with pytest.raises(InputError, match="no better than always giving the most frequent answer"):
        cascade.stage("gen-soft-labels", "worse-labels", teacher=cascade.folder / "worse")


def test_labels_hold_as_many_answers_as_the_rows_ask_for(cascade: Cascade) -> None:
    table = pq.read_table(cascade.folder / "labels" / "train-00000-of-00001.parquet").to_pydict()
    task = tasks.find_prediction_task(cascade.task)
    logits = np.concatenate([np.ravel(row) for row in table["teacher_logits"]])
    assert np.isfinite(logits).all() and len(table["teacher_prediction"]) == len(table["teacher_logits"])
    if task.name == "token-classification":
        assert [len(row) for row in table["teacher_logits"]] == [len(words) for words in table["tokens"]]


def test_labelling_goes_on_where_it_was_stopped(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinybert_cli.stages import gen_soft_labels

    monkeypatch.setattr(gen_soft_labels, "ROWS_PER_SHARD", 50)
    written = artifacts.Output.put
    shards: list[int] = []

    def put(self: artifacts.Output, write: Any) -> None:
        written(self, write)
        shards.append(1)
        if len(shards) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(artifacts.Output, "put", put)
    with pytest.raises(KeyboardInterrupt):
        cascade.stage("gen-soft-labels", "stopped", teacher=cascade.folder / "teacher")
    rows = cascade.stage("gen-soft-labels", "stopped", teacher=cascade.folder / "teacher")
    assert [row["step"] for row in rows if row["event"] == "resume"] == [50]
    whole = pq.read_table(cascade.folder / "labels" / "train-00000-of-00001.parquet").to_pydict()["teacher_logits"]
    parts = [
        pq.read_table(file).to_pydict()["teacher_logits"] for file in sorted(cascade.folder.glob("stopped/*.parq*"))
    ]
    for ours, theirs in zip([row for part in parts for row in part], whole, strict=True):
        np.testing.assert_allclose(np.ravel(ours), np.ravel(theirs), atol=1e-4)


def test_training_that_was_stopped_goes_on_to_the_same_weights(cascade: Cascade) -> None:
    given = {
        "label_dataset": cascade.folder / "labels", "student": str(cascade.folder / "other"), "training__max_steps": 6,
        "training__eval_strategy": "steps", "training__eval_steps": 2, "losses": {"soft_labels": 1.0, "hard_labels": 0.5},
    }  # fmt: skip
    cascade.stage("distill", "whole", **given)
    rows = distill.run(cascade.config("distill", "halved", **given))
    for row in rows:
        if row["event"] == "evaluate" and row["step"] == 4:
            break
    rows.close()  # type: ignore[attr-defined]  # it is a generator
    resumed = cascade.stage("distill", "halved", **given)
    assert next(row["step"] for row in resumed if row["event"] == "resume") in (2, 4)
    whole, halved = (load_file(cascade.folder / name / "model.safetensors") for name in ("whole", "halved"))
    assert all((whole[name] == halved[name]).all() for name in whole)
    assert cascade.metrics("whole")[f"eval_{cascade.metric}"] == cascade.metrics("halved")[f"eval_{cascade.metric}"]


def test_layers_of_models_that_split_text_differently_are_not_compared(cascade: Cascade) -> None:
    with pytest.raises(InputError, match="split text differently, so their layers cannot be compared"):
        cascade.stage(
            "distill", "layers", label_dataset=cascade.folder / "labels", teacher=cascade.folder / "teacher",
            student=str(cascade.folder / "other"), losses={"hidden_states": 1.0, "soft_labels": 1.0},
        )  # fmt: skip


def test_layers_of_models_with_one_tokenizer_are(cascade: Cascade) -> None:
    (*_, done) = cascade.stage(
        "distill", "layers", label_dataset=cascade.folder / "labels", teacher=cascade.folder / "teacher",
        student={"from": str(cascade.folder / "teacher"), "num_hidden_layers": 2}, training__max_steps=2,
        losses={"hidden_states": 1.0, "attentions": 1.0, "soft_labels": 1.0, "hard_labels": 0.5},
    )  # fmt: skip
    assert done["steps"] == 2 and np.isfinite(done["train_loss"])


def test_a_dry_run_writes_nothing(cascade: Cascade) -> None:
    asked: dict[str, dict[str, Any]] = {
        "finetune": {"model": cascade.folder / "base"},
        "gen-soft-labels": {"teacher": cascade.folder / "teacher"},
        "distill": {"label_dataset": cascade.folder / "labels", "student": str(cascade.folder / "other")},
        "eval": {"models": {"teacher": str(cascade.folder / "teacher")}, "latency": {"lengths": ["data"]}},
    }
    for command, given in asked.items():
        (*_, plan) = cascade.stage(command, "dry", dry_run=True, **given)
        assert plan["event"] == "plan" and not (cascade.folder / "dry").exists()


def test_models_are_scored_side_by_side_as_their_training_scored_them(cascade: Cascade) -> None:
    named = {name: str(cascade.folder / name) for name in ("teacher", "student", "student2")}
    cascade.stage("eval", "eval", models=named, latency=None, bootstrap=50)
    found = cascade.metrics("eval")
    for name in named:
        assert found[f"{name}.{cascade.metric}"] == pytest.approx(cascade.metrics(name)[f"eval_{cascade.metric}"])
    assert found["student.retention"] == pytest.approx(
        found[f"student.{cascade.metric}"] / found[f"teacher.{cascade.metric}"]
    )
    assert 0.5 < found["student.agreement"] <= 1.0
    assert found[f"student.{cascade.metric}_low"] <= found[f"student.{cascade.metric}_high"]
    assert any(key.startswith(f"student.{tasks.find_prediction_task(cascade.task).sliced}[length=") for key in found)
    rows = pq.read_table(cascade.folder / "eval" / "predictions.parquet").to_pydict()
    assert len(rows["student_prediction"]) == COUNTS["validation"] or cascade.task == "text-classification"


def plain(said: Any) -> Any:
    """Of entities what they are and where."""
    if isinstance(said, list) and said and isinstance(said[0], dict):
        return [(one["type"], one["text"], one["begin"], one["end"]) for one in said]
    return said


def test_predict_says_what_the_task_says(cascade: Cascade) -> None:
    (said,) = predict.run(str(cascade.folder / "student"), [cascade.made.asked])
    assert plain(said["prediction"]) == cascade.made.answer
    assert ("confidence" in said) == tasks.find_prediction_task(cascade.task).confident
    assert "".join(predict.as_fields(said))


def test_predict_reads_a_text_in_windows_that_is_too_long_for_the_model(cascade: Cascade) -> None:
    made = cascade.made
    if tasks.find_prediction_task(cascade.task).parted is None:
        pytest.skip("it cuts the text")
    question, tab, text = made.asked.rpartition("\t")
    filled = "我们在看，" * 14 if cascade.case == "chinese" else "the a is was and very " * 12
    (said,) = predict.run(str(cascade.folder / "teacher"), [f"{question}{tab}{filled}{text}"])
    found = said["prediction"] if isinstance(said["prediction"], list) else said["n_best"]
    assert any(one["begin"] >= len(filled) for one in found)  # beyond the 32 tokens that the model has positions for
    assert all(f"{filled}{text}"[one["begin"] : one["end"]] == one["text"] for one in found)


def test_an_export_answers_the_same_without_torch(cascade: Cascade) -> None:
    pytest.importorskip("onnxruntime")
    cascade.stage("export", "export", model=cascade.folder / "student", verify__atol=1e-3)
    assert cascade.metrics("export")["agreement"] == pytest.approx(1.0, abs=1e-4)
    asked = cascade.made.asked
    code = (
        "import json, sys; from tinybert_cli.helpers import predict\n"
        f"print(json.dumps(list(predict.run({str(cascade.folder / 'export')!r}, [{asked!r}]))))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (exported,) = json.loads(done.stdout)
    (trained,) = predict.run(str(cascade.folder / "student"), [asked])
    ours, theirs = plain(exported["prediction"]), plain(trained["prediction"])
    assert ours == (pytest.approx(theirs, abs=1e-3) if isinstance(theirs, float) else theirs)


def test_the_model_card_names_the_pipeline_and_its_python_runs(cascade: Cascade) -> None:
    card = (cascade.folder / "student" / "README.md").read_text()
    task = tasks.find_prediction_task(cascade.task)
    assert f"pipeline_tag: {task.pipeline}\n" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    command = re.search(r"tinybert predict \S+ (.*)", card)
    assert code and command
    exec(compile(code[1], "card", "exec"), {})
    asked = subprocess.run(["bash", "-c", f"printf %s {command[1]}"], capture_output=True, text=True, check=True).stdout
    (said,) = predict.run(str(cascade.folder / "student"), [asked])
    assert "prediction" in said
