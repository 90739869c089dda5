"""Texts one by one: an int8 export in ONNX Runtime vs. the float32 teacher in torch; prints speeds and ratios.

From the text to the probabilities, after a warm-up. The student has TinyBERT4's shape, student2 two of its layers.

    SST2_DATA=path/to/sst2 python benchmarks/latency.py [minilm|bert-base] [sentences of an export] [of the teacher]
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from common import forward_operations, sentences, student_shape, teacher, texts, token_counts
from labelling import export_int8
from side_by_side import Bar, Benchmark, Measurement, Settings, Side, main, timed

STUDENTS = {"student": 4, "student2": 2}  # layers
WARM_UP = 10  # texts


def prepare(folder: Path, settings: Settings) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from tinybert_cli import models

    data = sentences(settings["rows"])
    source = teacher(settings["shape"], folder / "teacher")
    lengths = token_counts(source, texts(data))
    operations = {"teacher": forward_operations(AutoConfig.from_pretrained(source), lengths)}
    for name, layers in STUDENTS.items():
        torch.manual_seed(0)
        shape = student_shape(source, layers)
        net = AutoModelForSequenceClassification.from_config(shape)
        models.save(net, AutoTokenizer.from_pretrained(source), folder / f"{name}-model")
        export_int8(folder / f"{name}-model", data, folder / name)
        operations[name] = forward_operations(shape, lengths)
    return operations


def torch_float32(folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "teacher").eval()

    def predict(text: str) -> None:
        with torch.inference_mode():
            batch = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
            model(**batch).logits.softmax(-1).tolist()

    rows = texts(sentences(settings["teacher_rows"]))
    return one_by_one(predict, rows, flops=prepared["teacher"], precision="float32")


def export(name: str, folder: Path, settings: Settings, prepared: Settings) -> dict[str, Measurement]:
    import tinybert

    rows = texts(sentences(settings["rows"]))
    return one_by_one(tinybert.load(folder / name), rows, flops=prepared[name], precision="int8")


def one_by_one(predict: Any, rows: list[str], **more: Any) -> dict[str, Measurement]:
    for text in rows[:WARM_UP]:
        predict(text)

    def all_rows() -> None:
        for text in rows:
            predict(text)

    return {"": timed(len(rows), all_rows, **more)}


TEACHER, STUDENT, STUDENT2 = "teacher, torch", "student, int8 export", "student2, int8 export"

BENCHMARK = Benchmark(
    name="latency",
    script=__file__,
    prepare=prepare,
    sides=(
        Side(TEACHER, torch_float32),
        Side(STUDENT, partial(export, "student"), own=True),
        Side(STUDENT2, partial(export, "student2"), own=True),
    ),
    bars=(Bar(STUDENT2, TEACHER, 20.0),),
    settings={"shape": "bert-base", "rows": 2000, "teacher_rows": 200},
    quick={"shape": "tiny", "rows": 64, "teacher_rows": 32},
)

if __name__ == "__main__":
    main(BENCHMARK, ["shape", "rows", "teacher_rows"])
