"""distill from stored logits against transformers.Trainer with an online float32 teacher; prints the ratio.

Same student (4 layers of the teacher's shape by default 4 x 312), same sentences, batch 32, one after the other.

    SST2_DATA=path/to/sst2 python benchmarks/distilling.py [minilm|bert-base] [sentences]
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
from common import fresh, scratch, sentences, teacher, texts

from tinybert_cli.config import Distill, GenSoftLabels, Model, Training
from tinybert_cli.stages import distill, gen_soft_labels

ROUNDS = 2
STUDENT = {"preset": "tinybert-4l-312", "initialize": "random"}  # the shape is what costs time, not the weights


def main(shape: str = "bert-base", count: str = "1536") -> None:
    settings = sentences(int(count))
    with scratch() as name:
        folder = Path(name)
        source = teacher(shape, folder / "teacher")
        assert source.folder is not None
        labelled = GenSoftLabels(
            task="text-classification", data=settings, teacher=str(source.folder), check_teacher=False,
            output_dir=str(folder / "labels"),
        )  # fmt: skip
        list(gen_soft_labels.run(labelled))
        speeds: dict[str, list[float]] = {"Trainer, online teacher": [], "distill": []}
        for turn in range(ROUNDS):
            fresh()
            speeds["Trainer, online teacher"].append(
                _trainer(source.folder, texts(settings), folder / f"trainer-{turn}")
            )
            config = Distill(
                task="text-classification", data=settings, label_dataset=str(folder / "labels"),
                student=Model(**{"from": str(source.folder), **STUDENT}),
                training=Training(num_train_epochs=1.0, eval_strategy="no"),
                output_dir=str(folder / f"student-{turn}"),
            )  # fmt: skip
            fresh()
            *_, done = distill.run(config)
            speeds["distill"].append(done["train_samples_per_second"])
    print(f"teacher {shape}, student {STUDENT['preset']}, {count} sentences, one epoch at batch 32")
    for what, values in speeds.items():
        print(f"  {what:<26}{statistics.median(values):8.1f} samples/s   {[round(v, 1) for v in values]}")
    ratios = [ours / theirs for theirs, ours in zip(*speeds.values(), strict=True)]
    print(f"  ratio {statistics.median(ratios):.1f}   {[round(r, 1) for r in ratios]}   (to reach: 10)")


def _trainer(teacher_folder: Path, shown: list[str], folder: Path) -> float:
    """Samples per second of the way that most people write it: a Trainer with `compute_loss` and the teacher in it."""
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from tinybert_cli import models

    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    online = AutoModelForSequenceClassification.from_pretrained(teacher_folder).eval()
    setting = Model(**{"from": str(teacher_folder), **STUDENT})
    student = AutoModelForSequenceClassification.from_config(models.shape(setting, online.config))

    class Distiller(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore
            inputs.pop("labels", None)
            said = model(**inputs)
            with torch.no_grad():
                told = online(**inputs)
            target = torch.softmax(told.logits / 2.0, -1)
            loss = -(target * torch.log_softmax(said.logits / 2.0, -1)).sum(-1).mean() * 4.0
            return (loss, said) if return_outputs else loss

    rows = Dataset.from_dict({"text": shown, "labels": [0] * len(shown)})
    rows = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=128), batched=True)
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=32, save_strategy="no",
        report_to=[], disable_tqdm=True, learning_rate=5e-5, logging_steps=10_000,
    )  # fmt: skip
    trainer = Distiller(student, arguments, train_dataset=rows.remove_columns("text"),
                        data_collator=DataCollatorWithPadding(tokenizer))  # fmt: skip
    begin = time.perf_counter()
    trainer.train()
    return len(shown) / (time.perf_counter() - begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
