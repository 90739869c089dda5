"""Layer-wise training against TextBrewer's GeneralDistiller, with the same matches, in turn; prints the ratios.

Ours twice: with the teacher running beside the student, and with its layer states from disk. Teacher in the shape of
BERT-base, student TinyBERT4's; embeddings, hidden states of four layers through projections, attention of four layers.
Batch 32, padded to the longest of each batch. The first batch of each run is left out, and so is saving.

    pip install --target textbrewer-alone --no-deps textbrewer tensorboardX protobuf
    SST2_DATA=path/to/sst2 PYTHONPATH=textbrewer-alone python benchmarks/layerwise.py [sentences]
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import fresh, scratch, sentences, teacher, texts

from tinybert_cli import models
from tinybert_cli.config import Distill, GenSoftLabels, Model, Training
from tinybert_cli.stages import distill, gen_soft_labels

ROUNDS = 3
LAYERS = {"teacher": [3, 6, 9, 12], "student": [1, 2, 3, 4]}  # `uniform`, counted from 1
LOSSES = {"hidden_states": 1.0, "attentions": 1.0, "embeddings": 1.0}
STUDENT = {"preset": "tinybert-4l-312", "initialize": "random"}  # the shape is what costs time, not the weights
BARS = {"teacher online": 3.0, "states from disk": 7.0}


def main(count: str = "768") -> None:
    try:
        import textbrewer  # noqa: F401
    except ImportError:
        raise SystemExit(__doc__) from None
    logging.disable(logging.INFO)
    settings = sentences(int(count))
    with scratch() as name:
        folder = Path(name)
        source = teacher("bert-base", folder / "teacher")
        assert source.folder is not None
        plain = {"task": "text-classification", "data": settings, "teacher": str(source.folder), "check_teacher": False}
        list(gen_soft_labels.run(GenSoftLabels(**plain, output_dir=str(folder / "labels"))))
        kept = GenSoftLabels(**plain, states=list(LOSSES), student_layers=4, output_dir=str(folder / "states"))
        plan, *_, done = gen_soft_labels.run(kept)
        print(f"states of {count} sentences: {plan['states_bytes'] / 1e6:.0f} MB, {done['rows_per_second']:.0f} rows/s")
        speeds: dict[str, list[float]] = {"TextBrewer": [], "teacher online": [], "states from disk": []}
        for turn in range(ROUNDS):
            speeds["TextBrewer"].append(_textbrewer(source.folder, texts(settings), folder / f"textbrewer-{turn}"))
            for what, labels in (("teacher online", "labels"), ("states from disk", "states")):
                config = Distill(
                    task="text-classification", data=settings, label_dataset=str(folder / labels),
                    teacher=str(source.folder), student=Model(**{"from": str(source.folder), **STUDENT}), losses=LOSSES,
                    training=Training(
                        num_train_epochs=1.0, eval_strategy="no", lr_scheduler_type="constant", keep="last"
                    ),
                    output_dir=str(folder / f"{labels}-{turn}"),
                )  # fmt: skip
                speeds[what].append(_ours(config))
            print("  " + "   ".join(f"{what} {values[-1]:.1f}" for what, values in speeds.items()), flush=True)
    print(f"{count} sentences, one epoch at batch 32, {ROUNDS} rounds, samples/s")
    theirs = speeds.pop("TextBrewer")
    print(f"  {'TextBrewer':<18}{statistics.median(theirs):8.1f}   {[round(value, 1) for value in theirs]}")
    for what, values in speeds.items():
        ratio = statistics.median(ours / slow for ours, slow in zip(values, theirs, strict=True))
        runs = [round(value, 1) for value in values]
        print(f"  {what:<18}{statistics.median(values):8.1f}   {runs}   ratio {ratio:.1f}   (to reach: {BARS[what]:g})")


def _ours(config: Distill) -> float:
    """Samples per second by the clock, from the end of the first batch to that of the last one."""
    fresh()
    seen = [(row["rows"], time.perf_counter()) for row in distill.run(config) if row["event"] == "progress"]
    (first, begin), (last, end) = seen[0], seen[-1]
    return float((last - first) / (end - begin))


def _textbrewer(teacher_folder: Path, shown: list[str], folder: Path) -> float:
    """The same, of the way that TextBrewer's documentation shows; it needs attention computed the eager way."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    online = AutoModelForSequenceClassification.from_pretrained(teacher_folder, attn_implementation="eager")
    shape = models.shape(Model(**{"from": str(teacher_folder), **STUDENT}), online.config)
    student = AutoModelForSequenceClassification.from_config(shape, attn_implementation="eager")
    rows = [tokenizer(text, truncation=True, max_length=128) for text in shown]
    pad = DataCollatorWithPadding(tokenizer)
    loader = torch.utils.data.DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=32,
        shuffle=True,
        collate_fn=lambda batch: dict(pad(batch)),
    )
    matches: list[dict[str, Any]] = [
        {"layer_T": there, "layer_S": here, "feature": "hidden", "loss": "hidden_mse", "weight": 1,
         "proj": ["linear", shape.hidden_size, online.config.hidden_size]}
        for there, here in zip([0, *LAYERS["teacher"]], [0, *LAYERS["student"]], strict=True)
    ]  # fmt: skip
    matches += [
        {"layer_T": there - 1, "layer_S": here - 1, "feature": "attention", "loss": "attention_mse", "weight": 1}
        for there, here in zip(LAYERS["teacher"], LAYERS["student"], strict=True)
    ]

    def adaptor(batch: dict[str, Any], said: Any) -> dict[str, Any]:
        return {"hidden": said.hidden_states, "attention": said.attentions, "inputs_mask": batch["attention_mask"]}

    begins: list[float] = []

    def note(batch: dict[str, Any]) -> dict[str, Any]:
        begins.append(time.perf_counter())
        return batch

    distiller = GeneralDistiller(
        TrainingConfig(device="cpu", output_dir=str(folder)),
        DistillationConfig(intermediate_matches=matches),
        online,
        student,
        adaptor,
        adaptor,
    )
    distiller.save_and_callback = lambda *_, **__: None
    with distiller:
        optimizer = torch.optim.AdamW(student.parameters(), lr=5e-5)
        distiller.train(
            optimizer, loader, num_epochs=1, batch_postprocessor=note, max_grad_norm=1.0,
            output_hidden_states=True, output_attentions=True,
        )  # fmt: skip
    return (len(shown) - 32) / (time.perf_counter() - begins[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
