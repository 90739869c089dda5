"""Layer-wise distillation vs. TextBrewer's GeneralDistiller with the same layer pairs; prints the ratios.

`distill` is measured with the teacher in the training step and with stored layer states. Teacher: BERT-base's shape.
Student: TinyBERT4's shape. Losses: embeddings, and hidden states (with projections) and attentions of four layers.
Batch size 32, padded to the longest row of the batch. The first batch of each run and saving are not timed.

    pip install --target textbrewer-alone --no-deps textbrewer tensorboardX protobuf
    SST2_DATA=path/to/sst2 PYTHONPATH=textbrewer-alone python benchmarks/layerwise.py [sentences]
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import (
    TINYBERT4,
    alternate,
    distill_config,
    gen_soft_labels,
    report,
    reset_accelerate,
    scratch,
    sentences,
    teacher,
    texts,
)

from tinybert_cli import models
from tinybert_cli.config import Distill, Model, ResolvedTraining
from tinybert_cli.stages import distill

ROUNDS = 3
LAYERS = {"teacher": [3, 6, 9, 12], "student": [1, 2, 3, 4]}  # layer_mapping `uniform`, counted from 1
LOSSES = {"hidden_states": 1.0, "attentions": 1.0, "embeddings": 1.0}
TARGETS = {"teacher online": 3.0, "stored states": 7.0}


def main(count: str = "768") -> None:
    try:
        import textbrewer  # noqa: F401
    except ImportError:
        raise SystemExit(__doc__) from None
    logging.disable(logging.INFO)
    settings = sentences(int(count))
    training = ResolvedTraining(num_train_epochs=1.0, eval_strategy="no", lr_scheduler_type="constant", keep="last")
    with scratch() as folder:
        source = teacher("bert-base", folder / "teacher")
        gen_soft_labels(settings, source, folder / "labels")
        plan, *_, done = gen_soft_labels(settings, source, folder / "states", states=list(LOSSES), student_layers=4)
        print(f"states of {count} sentences: {plan['states_bytes'] / 1e6:.0f} MB, {done['rows_per_second']:.0f} rows/s")

        def tinybert(labels: str) -> Callable[[int], float]:
            def measure(turn: int) -> float:
                output = folder / f"{labels}-student-{turn}"
                config = distill_config(
                    settings, folder / labels, source, TINYBERT4, output, losses=LOSSES, training=training
                )
                return training_speed(config)

            return measure

        speeds = alternate(
            {
                "TextBrewer": lambda turn: textbrewer_speed(source, texts(settings), folder / f"textbrewer-{turn}"),
                "teacher online": tinybert("labels"),
                "stored states": tinybert("states"),
            },
            ROUNDS,
        )
    report(f"{count} sentences, one epoch at batch size 32, {ROUNDS} rounds", speeds, "samples/s", TARGETS)


def training_speed(config: Distill) -> float:
    """Samples per second from the end of the first batch to the end of the last one."""
    reset_accelerate()
    ends = [(row["rows"], time.perf_counter()) for row in distill.run(config) if row["event"] == "progress"]
    (first, begin), (last, end) = ends[0], ends[-1]
    return float((last - first) / (end - begin))


def textbrewer_speed(teacher_folder: Path, rows: list[str], folder: Path) -> float:
    """The same with TextBrewer as in its documentation; it needs the eager implementation of attention."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_folder, attn_implementation="eager")
    shape = models.shape(Model(**{"from": str(teacher_folder), **TINYBERT4}), teacher.config)
    student = AutoModelForSequenceClassification.from_config(shape, attn_implementation="eager")
    encoded = [tokenizer(text, truncation=True, max_length=128) for text in rows]
    pad = DataCollatorWithPadding(tokenizer)
    loader = torch.utils.data.DataLoader(
        encoded,  # type: ignore[arg-type]
        batch_size=32,
        shuffle=True,
        collate_fn=lambda batch: dict(pad(batch)),
    )
    begins: list[float] = []

    def note_time(batch: dict[str, Any]) -> dict[str, Any]:
        begins.append(time.perf_counter())
        return batch

    def adaptor(batch: dict[str, Any], outputs: Any) -> dict[str, Any]:
        return {
            "hidden": outputs.hidden_states,
            "attention": outputs.attentions,
            "inputs_mask": batch["attention_mask"],
        }

    matches = layer_matches(shape.hidden_size, teacher.config.hidden_size)
    distiller = GeneralDistiller(
        TrainingConfig(device="cpu", output_dir=str(folder)),
        DistillationConfig(intermediate_matches=matches),
        teacher,
        student,
        adaptor,
        adaptor,
    )
    distiller.save_and_callback = lambda *_, **__: None
    with distiller:
        optimizer = torch.optim.AdamW(student.parameters(), lr=5e-5)
        distiller.train(
            optimizer, loader, num_epochs=1, batch_postprocessor=note_time, max_grad_norm=1.0,
            output_hidden_states=True, output_attentions=True,
        )  # fmt: skip
    return (len(rows) - 32) / (time.perf_counter() - begins[1])


def layer_matches(student_size: int, teacher_size: int) -> list[dict[str, Any]]:
    """TextBrewer's `intermediate_matches`: hidden states (layer 0: embeddings) and attentions."""
    hidden_states: list[dict[str, Any]] = [
        {"layer_T": teacher_layer, "layer_S": student_layer, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
         "proj": ["linear", student_size, teacher_size]}
        for teacher_layer, student_layer in zip([0, *LAYERS["teacher"]], [0, *LAYERS["student"]], strict=True)
    ]  # fmt: skip
    attentions: list[dict[str, Any]] = [
        {"layer_T": teacher_layer - 1, "layer_S": student_layer - 1, "feature": "attention", "loss": "attention_mse",
         "weight": 1}
        for teacher_layer, student_layer in zip(LAYERS["teacher"], LAYERS["student"], strict=True)
    ]  # fmt: skip
    return hidden_states + attentions


if __name__ == "__main__":
    main(*sys.argv[1:])
