"""Layer-wise distillation vs. TextBrewer and the code of TinyBERT's authors; prints speeds and ratios.

`distill` is measured with the teacher in the training step and with stored layer states. Teacher: BERT-base's shape.
Student: TinyBERT4's shape. Losses: embeddings, and hidden states (with projections) and attentions of four layers.
Batch size 32, one thread each. TextBrewer pads to the longest row of a batch, the authors' code to 64 tokens, as their
script does for SST-2. The first batch, and what comes after the last one, are not timed.

`make bench` installs TextBrewer. TINYBERT_REFERENCE names the folder of the authors' code, which contains
task_distill.py and the package `transformer`.

    pip install --target textbrewer-alone --no-deps -r benchmarks/requirements.txt
    SST2_DATA=path/to/sst2 PYTHONPATH=textbrewer-alone python benchmarks/layerwise.py [sentences]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    TINYBERT4,
    distill_config,
    forward_operations,
    gen_soft_labels,
    sentences,
    student_shape,
    teacher,
    texts,
    token_counts,
)
from distilling import training_speed
from side_by_side import Bar, Benchmark, Clock, Measurement, MissingPeer, Settings, Side, main

LAYERS = {"teacher": [3, 6, 9, 12], "student": [1, 2, 3, 4]}  # layer_mapping `uniform`, counted from 1
LOSSES = {"hidden_states": 1.0, "attentions": 1.0, "embeddings": 1.0}
BATCH_SIZE = 32
REFERENCE_TOKENS = 64


def prepare(folder: Path, settings: Settings) -> dict[str, Any]:
    from transformers import AutoConfig

    data = sentences(settings["rows"])
    source = teacher(settings["shape"], folder / "teacher")
    gen_soft_labels(data, source, folder / "labels")
    plan, *_ = gen_soft_labels(data, source, folder / "states", states=list(LOSSES), student_layers=4)
    lengths = token_counts(source, texts(data))
    wide, narrow = AutoConfig.from_pretrained(source), student_shape(source)
    projections = 2 * 5 * narrow.hidden_size * wide.hidden_size * sum(lengths) / len(lengths)
    return {
        "training": 3 * (forward_operations(narrow, lengths) + projections),
        "teacher": forward_operations(wide, lengths),
        "states_bytes": plan["states_bytes"],
        "states_rows": len(lengths),
    }


def distill(labels: str, epochs: float, folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    from tinybert_cli.config import ResolvedTraining
    from tinybert_cli.stages import distill

    training = ResolvedTraining(
        num_train_epochs=epochs, eval_strategy="no", lr_scheduler_type="constant", keep="last"
    )  # fmt: skip
    config = distill_config(
        sentences(settings["rows"]), folder / labels, folder / "teacher", TINYBERT4, folder / f"{labels}-student",
        losses=LOSSES, training=training,
    )  # fmt: skip
    flops = prepared["training"] + (prepared["teacher"] if labels == "labels" else 0)
    return {"": training_speed(distill.run(config, force=True), flops=flops)}


# -- TextBrewer ----------------------------------------------------------------------------------------------


def textbrewer(folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    """GeneralDistiller as in its documentation; it needs the eager implementation of attention."""
    try:
        from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    except ImportError as error:
        raise MissingPeer(f"TextBrewer is not installed ({error})") from error
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    teacher = AutoModelForSequenceClassification.from_pretrained(folder / "teacher", attn_implementation="eager")
    shape = student_shape(folder / "teacher")
    student = AutoModelForSequenceClassification.from_config(shape, attn_implementation="eager")
    rows = texts(sentences(settings["peer_rows"]))
    encoded = [tokenizer(text, truncation=True, max_length=128) for text in rows]
    pad = DataCollatorWithPadding(tokenizer)
    loader = torch.utils.data.DataLoader(
        encoded,  # type: ignore[arg-type]
        batch_size=BATCH_SIZE,
        shuffle=True,
        collate_fn=lambda batch: dict(pad(batch)),
    )
    clock, begun = Clock(), 0

    def mark_batch(batch: dict[str, Any]) -> dict[str, Any]:
        """Called before each batch."""
        nonlocal begun
        if begun:
            clock.mark(begun)
        begun += len(batch["input_ids"])
        return batch

    def adaptor(batch: dict[str, Any], outputs: Any) -> dict[str, Any]:
        return {
            "hidden": outputs.hidden_states,
            "attention": outputs.attentions,
            "inputs_mask": batch["attention_mask"],
        }

    matches = layer_matches(shape.hidden_size, teacher.config.hidden_size)
    distiller = GeneralDistiller(
        TrainingConfig(device="cpu", output_dir=str(folder / "textbrewer")),
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
            optimizer, loader, num_epochs=1, batch_postprocessor=mark_batch, max_grad_norm=1.0,
            output_hidden_states=True, output_attentions=True,
        )  # fmt: skip
    clock.mark(begun)
    return {"": clock.measurement(flops=prepared["training"] + prepared["teacher"], precision="float32")}


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


# -- the code of TinyBERT's authors --------------------------------------------------------------------------


def reference(folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    """The training step of task_distill.py without prediction losses, on its models and with its optimizer."""
    source = os.environ.get("TINYBERT_REFERENCE")
    if not source:
        raise MissingPeer("TINYBERT_REFERENCE is not set")
    if not Path(source, "transformer", "modeling.py").is_file():
        raise MissingPeer("TINYBERT_REFERENCE has no transformer/modeling.py")
    sys.path.insert(0, source)
    import torch
    from transformer.modeling import TinyBertForSequenceClassification
    from transformer.optimization import BertAdam

    student_shape(folder / "teacher").save_pretrained(folder / "reference-student")
    teacher = TinyBertForSequenceClassification.from_scratch(str(folder / "teacher"), num_labels=2)
    width = teacher.config.hidden_size
    student = TinyBertForSequenceClassification.from_scratch(
        str(folder / "reference-student"), num_labels=2, fit_size=width
    )  # fmt: skip
    student.train()
    batches = list(reference_batches(folder, settings["peer_rows"]))
    optimizer = BertAdam(
        list(student.parameters()), schedule="none", lr=5e-5, warmup=0.1, t_total=len(batches), weight_decay=0.01
    )  # fmt: skip
    mse, clock, done = torch.nn.MSELoss(), Clock(), 0
    for ids, mask, segments in batches:
        _, student_scores, student_states = student(ids, segments, mask, is_student=True)
        with torch.no_grad():
            _, scores, states = teacher(ids, segments, mask)
        matched = [scores[n - 1] for n in LAYERS["teacher"]]
        pairs = [
            *zip(map(hide_padding, student_scores), map(hide_padding, matched), strict=True),
            *zip(student_states, [states[n] for n in [0, *LAYERS["teacher"]]], strict=True),
        ]
        loss = sum((mse(*pair) for pair in pairs), torch.zeros(()))
        loss.backward()
        loss.item()
        optimizer.step()
        optimizer.zero_grad()
        done += len(ids)
        clock.mark(done)
    return {"": clock.measurement(flops=prepared["training"] + prepared["teacher"], precision="float32")}


def hide_padding(scores: Any) -> Any:
    """Scores of padding, which are large negative numbers there, do not count."""
    import torch

    return torch.where(scores <= -1e2, torch.zeros_like(scores), scores)


def reference_batches(folder: Path, rows: int) -> Iterator[tuple[Any, Any, Any]]:
    """Token ids, attention mask and segments (B, T) of full batches; other batches are skipped there."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    settings = {"truncation": True, "max_length": REFERENCE_TOKENS, "padding": "max_length", "return_tensors": "pt"}
    encoded = tokenizer(texts(sentences(rows)), return_token_type_ids=True, **settings)
    order = torch.randperm(len(encoded["input_ids"]))
    for indices in order.split(BATCH_SIZE):
        if len(indices) == BATCH_SIZE:
            yield tuple(encoded[name][indices] for name in ("input_ids", "attention_mask", "token_type_ids"))


TEXTBREWER, REFERENCE = "TextBrewer", "TinyBERT's own code"
ONLINE, STORED = "distill, online teacher", "distill, stored states"

BENCHMARK = Benchmark(
    name="layerwise",
    script=__file__,
    prepare=prepare,
    sides=(
        Side(TEXTBREWER, textbrewer),
        Side(REFERENCE, reference),
        Side(ONLINE, partial(distill, "labels", 0.5), own=True),
        Side(STORED, partial(distill, "states", 1.0), own=True),
    ),
    bars=(
        Bar(ONLINE, TEXTBREWER, 5.0),
        Bar(STORED, TEXTBREWER, 15.0),
        Bar(ONLINE, REFERENCE, 8.0),
        Bar(STORED, REFERENCE, 18.0),
    ),
    threads=1,
    settings={"shape": "bert-base", "rows": 1024, "peer_rows": 128},
    quick={"shape": "tiny", "rows": 128, "peer_rows": 96},
)

if __name__ == "__main__":
    main(BENCHMARK, ["rows"])
