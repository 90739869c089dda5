"""All stages for each task: teacher, labels, student with another tokenizer, student2, eval, export, predict."""

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

from tinybert_cli import models, tasks
from tinybert_cli.artifacts.run_files import RunFiles
from tinybert_cli.errors import InputError
from tinybert_cli.helpers import predict
from tinybert_cli.stages import distill, labelling

SPLIT = {"great": ["gre", "##at"], "lovely": ["lo", "##vely"], "awful": ["aw", "##ful"], "dull": ["du", "##ll"]}
OTHER_WORDS = [token for word in [*BAD, *GOOD, *FILL] for token in SPLIT.get(word, [word])]
FILLERS = ["the", "a", "is", "was", "and", "very"]
COUNTS = {"train": 120, "validation": 48}


@dataclass(frozen=True)
class Case:
    """The rows of a task, and how well tiny models learn them."""

    write: Callable[[Path], dict[str, Any]]  # writes the data and returns its settings
    text: str  # input of predict
    prediction: Any
    minimum: float  # of the student's main metric; the other models may score 0.15 less
    epochs: float = 24.0  # of teacher and student; student2, which has learnt layers, has a third of them
    task: str = ""  # if it is not the name of the case
    words: tuple[str, ...] = (*GOOD, *BAD, *FILL)
    other_words: tuple[str, ...] = tuple(OTHER_WORDS)


def draw_words(draw: random.Random, choices: list[list[str]]) -> list[str]:
    words = draw.choices(FILLERS, k=draw.randint(2, 5))
    for group in choices:
        words.insert(draw.randint(0, len(words)), draw.choice(group))
    return [*words, "."]


def write_sentiments(folder: Path) -> dict[str, Any]:
    for split in COUNTS:
        write_rows(folder / f"{split}.jsonl", sentences(split))
    return {}


def write_label_lists(folder: Path) -> dict[str, Any]:
    """Any of two labels, in cells of a CSV."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        lines = ["text,sentiments"]
        for _ in range(count):
            chosen = [name for name in ("good", "bad") if draw.random() < 0.5]
            words = draw_words(draw, [{"good": GOOD, "bad": BAD}[name] for name in chosen])
            lines.append(f"{' '.join(words)},{'|'.join(chosen)}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    files = {f"data__{split}_file": str(folder / f"{split}.csv") for split in COUNTS}
    return {**files, "data__label_column_name": "sentiments"}


def write_numbers(folder: Path) -> dict[str, Any]:
    """The number of good words minus that of bad words."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        rows = []
        for _ in range(count):
            good, bad = draw.randint(0, 3), draw.randint(0, 3)
            rows.append({"text": " ".join(draw_words(draw, [GOOD] * good + [BAD] * bad)), "label": float(good - bad)})
        write_rows(folder / f"{split}.jsonl", rows)
    return {}


def write_tags(folder: Path) -> dict[str, Any]:
    """Entities of two words, good or bad, in the CoNLL format."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        lines = ["-DOCSTART- X O", ""]
        for _ in range(count):
            tagged = [(word, "O") for word in draw.choices(FILLERS, k=draw.randint(2, 12))]
            for kind, words in (("GOOD", GOOD), ("BAD", BAD)):
                entity = [(draw.choice(words), f"{prefix}-{kind}") for prefix in "BI"]
                index = draw.choice([i for i in range(len(tagged) + 1) if i == len(tagged) or tagged[i][1][0] != "I"])
                tagged[index:index] = entity
            lines += [*(f"{word} X {tag}" for word, tag in [*tagged, (".", "O")]), ""]
        (folder / f"{split}.conll").write_text("\n".join(lines))
    files = {f"data__{split}_file": str(folder / f"{split}.conll") for split in COUNTS}
    columns = {"data__text_column_names": "tokens", "data__label_column_name": "tags"}
    return {**files, **columns, "data__conll_column_names": ["tokens", "pos", "tags"], "data__max_seq_length": 12}


def write_questions(folder: Path) -> dict[str, Any]:
    """SQuAD 2.0: the answer to `film` is the good word of a sentence, to `plot` the bad one; some have no answer."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        paragraphs = []
        for index in range(count):
            question, words, others = draw.choice([("film", GOOD, BAD), ("plot", BAD, GOOD)])
            word, impossible = draw.choice(words), index % 6 == 0
            context = " ".join(draw_words(draw, [others] if impossible else [[word], others]))
            answer = [] if impossible else [{"text": word, "answer_start": context.index(word)}]
            qas = [{"id": str(index), "question": question, "answers": answer, "is_impossible": impossible}]
            paragraphs.append({"context": context, "qas": qas})
        (folder / f"{split}.json").write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": paragraphs}]}))
    files = {f"data__{split}_file": str(folder / f"{split}.json") for split in COUNTS}
    columns = {"data__text_column_names": ["question", "context"], "data__label_column_name": "answers"}
    return {**files, **columns, "data__max_seq_length": 12, "data__doc_stride": 3}


SURNAMES, CITIES = "王李张赵", "京沪渝津"
CHARACTERS = (*"人我们在去了到和看，。", *SURNAMES, *CITIES, *"小明红市城")


def write_chinese(folder: Path) -> dict[str, Any]:
    """Synthetic sentences as lists of characters: a person and a city."""
    for split, count in COUNTS.items():
        draw = random.Random(split)
        rows = []
        for _ in range(count):
            parts = [
                (draw.choice(SURNAMES) + draw.choice("小明红"), "PER"), (draw.choice(["去了", "到了", "在"]), None),
                (draw.choice(CITIES) + draw.choice(["市", "城"]), "LOC"), (draw.choice(["。", "，我们和人看。"]), None),
            ]  # fmt: skip
            characters = [character for text, _ in parts for character in text]
            tags = [f"{'BI'[n > 0]}-{kind}" if kind else "O" for text, kind in parts for n in range(len(text))]
            rows.append({"tokens": characters, "ner_tags": tags})
        write_rows(folder / f"{split}.jsonl", rows)
    return {"data__text_column_names": "tokens", "data__label_column_name": "ner_tags", "data__max_seq_length": 12}


CASES = {
    "text-classification": Case(write_sentiments, "the cast is great and warm .", "good", 0.85, epochs=12.0),
    "multi-label-classification": Case(write_label_lists, "a great and dull .", ["bad", "good"], 0.85),
    "regression": Case(write_numbers, "the very lovely great fine .", pytest.approx(3.0, abs=1.5), 0.85),
    "token-classification": Case(
        write_tags, "the lovely great and the boring cold .",
        [("GOOD", "lovely great", 4, 16), ("BAD", "boring cold", 25, 36)], 0.85,
    ),
    "chinese": Case(
        write_chinese, "王明去了沪市。", [("PER", "王明", 0, 2), ("LOC", "沪市", 4, 6)], 0.85,
        task="token-classification", words=CHARACTERS, other_words=tuple(reversed(CHARACTERS)), epochs=12.0,
    ),
    "question-answering": Case(write_questions, "plot\tthe great and awful .", "awful", 0.7, epochs=45.0),
}  # fmt: skip


@dataclass(frozen=True)
class Cascade:
    """Finished folders of one task."""

    name: str  # of the case
    folder: Path
    settings: dict[str, Any]

    @property
    def case(self) -> Case:
        return CASES[self.name]

    @property
    def task(self) -> str:
        return self.case.task or self.name

    def stage(self, command: str, name: str, *, dry_run: bool = False, **settings: Any) -> list[dict[str, Any]]:
        return run(command, self.config(command, name, **settings), dry_run=dry_run)

    def config(self, command: str, name: str, **settings: Any) -> Any:
        unused = {"data__test_file": None, "data__unlabeled_file": None}
        if command in ("finetune", "distill"):
            settings = {"training__num_train_epochs": self.case.epochs, **settings}
        merged = {**unused, **self.settings, **settings}
        return make_config(command, self.folder / "data", self.folder / name, task=self.task, **merged)

    def metrics(self, name: str) -> dict[str, float]:
        return dict(json.loads((self.folder / name / "metrics.json").read_text()))

    @property
    def metric(self) -> str:
        return tasks.find_prediction_task(self.task).main_metric


FAST = ("text-classification",)  # `make test-slow` tries the others


@pytest.fixture(
    scope="module", params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def cascade(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cascade]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "data").mkdir()
    cascade = Cascade(request.param, folder, CASES[request.param].write(folder / "data"))
    base = write_base_model(folder / "base", cascade.case.words)
    other = write_base_model(folder / "other", cascade.case.other_words)
    cascade.stage("finetune", "teacher", model=base)
    cascade.stage("gen-soft-labels", "labels", teacher=folder / "teacher")
    cascade.stage("distill", "student", label_dataset=folder / "labels", student=str(other))
    cascade.stage("gen-soft-labels", "student-labels", teacher=folder / "student")
    student2 = {"from": str(folder / "student"), "num_hidden_layers": 2}
    cascade.stage(
        "finetune", "student2", label_dataset=folder / "student-labels", model=student2,
        training__num_train_epochs=cascade.case.epochs / 3,
    )  # fmt: skip
    yield cascade


def test_teacher_student_and_student2_learn_with_different_tokenizers(cascade: Cascade) -> None:
    minimum = cascade.case.minimum
    scores = {name: cascade.metrics(name)[f"eval_{cascade.metric}"] for name in ("teacher", "student", "student2")}
    assert scores["student"] > minimum, scores
    assert scores["teacher"] > minimum - 0.15 and scores["student2"] > minimum - 0.15, scores


def test_a_teacher_without_a_trained_head_is_rejected(cascade: Cascade) -> None:
    metrics = cascade.metrics("labels")
    assert metrics[f"teacher_{cascade.metric}"] > metrics[f"majority_{cascade.metric}"]
    shutil.copytree(
        cascade.folder / "teacher", cascade.folder / "worse", ignore=shutil.ignore_patterns("manifest.json")
    )
    weights = load_file(cascade.folder / "worse" / "model.safetensors")
    for name in weights:
        if name.startswith("classifier."):
            weights[name].zero_()
        elif name.startswith("qa_outputs."):  # equal logits would mean the first token, which is sometimes right
            weights[name].neg_()
    save_file(weights, cascade.folder / "worse" / "model.safetensors", metadata={"format": "pt"})
    models.rewrite_config(
        cascade.folder / "worse", dict.fromkeys(tasks.find_prediction_task(cascade.task).tuned_settings)
    )
    with pytest.raises(InputError, match="does not beat the majority-class baseline"):
        cascade.stage("gen-soft-labels", "worse-labels", teacher=cascade.folder / "worse")


def test_a_label_dataset_has_the_right_number_of_logits_per_row(cascade: Cascade) -> None:
    table = pq.read_table(cascade.folder / "labels" / "train-00000-of-00001.parquet").to_pydict()
    task = tasks.find_prediction_task(cascade.task)
    logits = np.concatenate([np.ravel(row) for row in table["teacher_logits"]])
    assert np.isfinite(logits).all() and len(table["teacher_prediction"]) == len(table["teacher_logits"])
    if task.name == "token-classification":
        assert [len(row) for row in table["teacher_logits"]] == [len(words) for words in table["tokens"]]


def test_interrupted_labelling_resumes_after_the_last_shard(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 50)
    publish = RunFiles.publish
    groups: list[int] = []

    def publish_one(self: RunFiles, folder: Path, files: Any) -> None:
        publish(self, folder, files)
        groups.append(1)
        if len(groups) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFiles, "publish", publish_one)
    with pytest.raises(KeyboardInterrupt):
        cascade.stage("gen-soft-labels", "stopped", teacher=cascade.folder / "teacher")
    rows = cascade.stage("gen-soft-labels", "stopped", teacher=cascade.folder / "teacher")
    assert [row["step"] for row in rows if row["event"] == "resume"] == [50]
    whole = pq.read_table(cascade.folder / "labels" / "train-00000-of-00001.parquet").to_pydict()["teacher_logits"]
    parts = [
        pq.read_table(file).to_pydict()["teacher_logits"] for file in sorted(cascade.folder.glob("stopped/*.parq*"))
    ]
    for row, expected in zip([row for part in parts for row in part], whole, strict=True):
        np.testing.assert_allclose(np.ravel(row), np.ravel(expected), atol=1e-4)


def test_interrupted_training_resumes_to_the_same_weights(cascade: Cascade) -> None:
    settings = {
        "label_dataset": cascade.folder / "labels", "student": str(cascade.folder / "other"), "training__max_steps": 6,
        "training__eval_strategy": "steps", "training__eval_steps": 2, "losses": {"soft_labels": 1.0, "hard_labels": 0.5},
    }  # fmt: skip
    cascade.stage("distill", "whole", **settings)
    rows = distill.run(cascade.config("distill", "halved", **settings))
    for row in rows:
        if row["event"] == "evaluate" and row["step"] == 4:
            break
    rows.close()  # type: ignore[attr-defined]  # it is a generator
    resumed = cascade.stage("distill", "halved", **settings)
    assert next(row["step"] for row in resumed if row["event"] == "resume") in (2, 4)
    whole, halved = (load_file(cascade.folder / name / "model.safetensors") for name in ("whole", "halved"))
    assert all((whole[name] == halved[name]).all() for name in whole)
    assert cascade.metrics("whole")[f"eval_{cascade.metric}"] == cascade.metrics("halved")[f"eval_{cascade.metric}"]


def test_layer_losses_reject_models_with_different_tokenizers(cascade: Cascade) -> None:
    with pytest.raises(InputError, match="split text differently, so their layers cannot be compared"):
        cascade.stage(
            "distill", "layers", label_dataset=cascade.folder / "labels", teacher=cascade.folder / "teacher",
            student=str(cascade.folder / "other"), losses={"hidden_states": 1.0, "soft_labels": 1.0},
        )  # fmt: skip


def test_layer_losses_accept_models_with_the_same_tokenizer(cascade: Cascade) -> None:
    (*_, done) = cascade.stage(
        "distill", "layers", label_dataset=cascade.folder / "labels", teacher=cascade.folder / "teacher",
        student={"from": str(cascade.folder / "teacher"), "num_hidden_layers": 2}, training__max_steps=2,
        losses={"hidden_states": 1.0, "attentions": 1.0, "soft_labels": 1.0, "hard_labels": 0.5},
    )  # fmt: skip
    assert done["steps"] == 2 and np.isfinite(done["train_loss"])


def test_a_dry_run_writes_nothing(cascade: Cascade) -> None:
    settings: dict[str, dict[str, Any]] = {
        "finetune": {"model": cascade.folder / "base"},
        "gen-soft-labels": {"teacher": cascade.folder / "teacher"},
        "distill": {"label_dataset": cascade.folder / "labels", "student": str(cascade.folder / "other")},
        "eval": {"models": {"teacher": str(cascade.folder / "teacher")}, "latency": {"lengths": ["data"]}},
    }
    for command, own in settings.items():
        rows = cascade.stage(command, "dry", dry_run=True, **own)
        after_the_plan = [row["event"] for row in rows[[row["event"] for row in rows].index("plan") + 1 :]]
        assert set(after_the_plan) <= {"warning"} and not (cascade.folder / "dry").exists()


def test_eval_gives_each_model_its_score_in_training(cascade: Cascade) -> None:
    compared = {name: str(cascade.folder / name) for name in ("teacher", "student", "student2")}
    cascade.stage("eval", "eval", models=compared, latency=None, bootstrap=50)
    metrics = cascade.metrics("eval")
    for name in compared:
        assert metrics[f"{name}.{cascade.metric}"] == pytest.approx(cascade.metrics(name)[f"eval_{cascade.metric}"])
    assert metrics["student.retention"] == pytest.approx(
        metrics[f"student.{cascade.metric}"] / metrics[f"teacher.{cascade.metric}"]
    )
    assert 0.5 < metrics["student.agreement"] <= 1.0
    assert metrics[f"student.{cascade.metric}_low"] <= metrics[f"student.{cascade.metric}_high"]
    slice_metric = tasks.find_prediction_task(cascade.task).slice_metric
    assert any(key.startswith(f"student.{slice_metric}[length=") for key in metrics)
    rows = pq.read_table(cascade.folder / "eval" / "predictions.parquet").to_pydict()
    assert len(rows["student_prediction"]) == COUNTS["validation"] or cascade.task == "text-classification"


def without_scores(prediction: Any) -> Any:
    """Entities as (type, text, begin, end); other predictions as they are."""
    if isinstance(prediction, list) and prediction and isinstance(prediction[0], dict):
        return [(entity["type"], entity["text"], entity["begin"], entity["end"]) for entity in prediction]
    return prediction


def test_predict_gives_the_output_of_the_task(cascade: Cascade) -> None:
    (output,) = predict.run(str(cascade.folder / "student"), [cascade.case.text])
    assert without_scores(output["prediction"]) == cascade.case.prediction
    assert ("confidence" in output) == tasks.find_prediction_task(cascade.task).has_confidence
    assert "".join(predict.as_fields(output))


def test_predict_splits_long_text_into_windows(cascade: Cascade) -> None:
    if not tasks.find_prediction_task(cascade.task).splits_long_texts:
        pytest.skip("the task cuts long text")
    question, tab, text = cascade.case.text.rpartition("\t")
    filler = "我们在看，" * 14 if cascade.name == "chinese" else "the a is was and very " * 12
    (output,) = predict.run(str(cascade.folder / "teacher"), [f"{question}{tab}{filler}{text}"])
    spans = output["prediction"] if isinstance(output["prediction"], list) else output["n_best"]
    assert any(span["begin"] >= len(filler) for span in spans)  # beyond the 32 tokens that the model has positions for
    assert all(f"{filler}{text}"[span["begin"] : span["end"]] == span["text"] for span in spans)


def test_an_export_predicts_the_same_without_torch(cascade: Cascade) -> None:
    pytest.importorskip("onnxruntime")
    cascade.stage("export", "export", model=cascade.folder / "student", verify__atol=1e-3)
    assert cascade.metrics("export")["agreement"] == pytest.approx(1.0, abs=1e-4)
    text = cascade.case.text
    code = (
        "import json, sys; from tinybert_cli.helpers import predict\n"
        f"print(json.dumps(list(predict.run({str(cascade.folder / 'export')!r}, [{text!r}]))))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (exported,) = json.loads(done.stdout)
    (original,) = predict.run(str(cascade.folder / "student"), [text])
    expected = without_scores(original["prediction"])
    assert without_scores(exported["prediction"]) == (
        pytest.approx(expected, abs=1e-3) if isinstance(expected, float) else expected
    )


def test_the_code_in_the_model_card_runs(cascade: Cascade) -> None:
    card = (cascade.folder / "student" / "README.md").read_text()
    task = tasks.find_prediction_task(cascade.task)
    assert f"pipeline_tag: {task.pipeline}\n" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    command = re.search(r"tinybert predict \S+ (.*)", card)
    assert code and command
    exec(compile(code[1], "card", "exec"), {})
    shell = ["bash", "-c", f"printf %s {command[1]}"]
    text = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    (output,) = predict.run(str(cascade.folder / "student"), [text])
    assert "prediction" in output
