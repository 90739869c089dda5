"""distill from stored logits vs. transformers.Trainer with a float32 teacher in the training step; prints the ratio.

Same student (TinyBERT4's shape), same sentences, one epoch at batch size 32.

    SST2_DATA=path/to/sst2 python benchmarks/distilling.py [minilm|bert-base] [sentences]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from common import (
    TINYBERT4,
    alternate,
    distill,
    distill_config,
    gen_soft_labels,
    report,
    reset_accelerate,
    scratch,
    seconds,
    sentences,
    teacher,
    texts,
)

from tinybert_cli import models
from tinybert_cli.config import Model, ResolvedTraining

ROUNDS = 2
TARGET = 10
TEMPERATURE = 2.0


def main(shape: str = "bert-base", count: str = "1536") -> None:
    settings = sentences(int(count))
    training = ResolvedTraining(num_train_epochs=1.0, eval_strategy="no")
    with scratch() as folder:
        source = teacher(shape, folder / "teacher")
        gen_soft_labels(settings, source, folder / "labels")

        def tinybert(turn: int) -> float:
            output = folder / f"student-{turn}"
            return distill(distill_config(settings, folder / "labels", source, TINYBERT4, output, training=training))

        speeds = alternate(
            {
                "Trainer, online teacher": lambda turn: trainer(source, texts(settings), folder / f"trainer-{turn}"),
                "distill": tinybert,
            },
            ROUNDS,
        )
    title = f"teacher {shape}, student {TINYBERT4['preset']}, {count} sentences, one epoch at batch size 32"
    report(title, speeds, "samples/s", {"distill": TARGET})


def trainer(teacher_folder: Path, rows: list[str], folder: Path) -> float:
    """Samples per second of the common implementation: a Trainer whose `compute_loss` runs the teacher."""
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    reset_accelerate()
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_folder).eval()
    shape = models.shape(Model(**{"from": str(teacher_folder), **TINYBERT4}), teacher.config)
    student = AutoModelForSequenceClassification.from_config(shape)

    class DistillationTrainer(Trainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            inputs.pop("labels", None)
            outputs = model(**inputs)
            with torch.no_grad():
                teacher_logits = teacher(**inputs).logits
            target = torch.softmax(teacher_logits / TEMPERATURE, -1)
            log_probabilities = torch.log_softmax(outputs.logits / TEMPERATURE, -1)
            loss = -(target * log_probabilities).sum(-1).mean() * TEMPERATURE**2
            return (loss, outputs) if return_outputs else loss

    dataset = Dataset.from_dict({"text": rows, "labels": [0] * len(rows)})
    dataset = dataset.map(lambda row: tokenizer(row["text"], truncation=True, max_length=128), batched=True)
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=32, save_strategy="no",
        report_to=[], disable_tqdm=True, learning_rate=5e-5, logging_steps=10_000,
    )  # fmt: skip
    distillation = DistillationTrainer(
        student, arguments, train_dataset=dataset.remove_columns("text"),
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    return len(rows) / seconds(distillation.train)


if __name__ == "__main__":
    main(*sys.argv[1:])
