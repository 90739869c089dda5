"""Shared fixtures: one thread, no network, a tiny model, and synthetic sentences that a model can learn."""

from __future__ import annotations

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it

import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models

from tinybert_cli.config import COMMANDS, Stage

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD = ["fine", "great", "lovely", "witty", "warm", "rich"]
BAD = ["dull", "awful", "boring", "weak", "cold", "poor"]
FILL = ["the", "a", "film", "plot", "cast", "is", "was", "and", "very", "this", "##ly", "."]
UNUSED = ["zebra", "##zle"]  # tokens that no sentence needs
ROWS = {"train": 96, "validation": 48, "test": 24, "unlabeled": 32}
QUICK = {
    "num_train_epochs": 6.0, "per_device_train_batch_size": 8, "learning_rate": 3e-3,
    "mixed_precision": "no", "logging_steps": 6,
}  # fmt: skip

Configs = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", action="store_true", help="run the slow faults too, and write docs/reliability.md")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--faults"):
        for item in items:
            if "faults" in item.keywords and item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.skip(reason="a slow fault: make faults"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)  # an interrupted stage may leave no_grad


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate stores precision and device per process; a command has its own process, tests share one."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def sentences(split: str) -> list[dict[str, str]]:
    """Rows of one split, always the same: two words of a row have the sentiment of its label, `good` or `bad`."""
    draw = random.Random(f"tinybert {split}")
    rows = []
    for index in range(ROWS[split]):
        label, choices = ("good", GOOD) if index % 2 else ("bad", BAD)
        words = [*draw.choices(FILL[:-2], k=draw.randint(1, 5)), *draw.choices(choices, k=2)]
        draw.shuffle(words)
        rows.append({"text": " ".join([*words, "."]), "label": label})
    draw.shuffle(rows)
    return rows


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def write_sentences(folder: Path) -> Path:
    for split in ROWS:
        rows = sentences(split)
        write_rows(folder / f"{split}.jsonl", [{"text": r["text"]} for r in rows] if split == "unlabeled" else rows)
    return folder


def write_base_model(folder: Path, words: Sequence[str] = (*GOOD, *BAD, *FILL, *UNUSED)) -> Path:
    """A random BERT with 4 layers and no head, and its WordPiece tokenizer with these tokens."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = [*SPECIAL, *words]
    backend = Tokenizer(tokenizer_models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(vocabulary), max_position_embeddings=32, hidden_size=16, num_attention_heads=2,
            num_hidden_layers=4, intermediate_size=32, initializer_range=0.2,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_config(command: str, data: Path, output: Path, **settings: Any) -> Stage:
    """The config of a stage on the sentences in `data`; `data__x=1` sets data.x, `training__x=1` training.x."""
    sections: dict[str, dict[str, Any]] = {
        "data": {f"{split}_file": str(data / f"{split}.jsonl") for split in ROWS} | {"max_seq_length": 16}
    }
    if command in ("finetune", "distill"):
        sections["training"] = dict(QUICK)
    plain: dict[str, Any] = {"mixed_precision": "no"} if command == "gen-soft-labels" else {}
    for name, value in settings.items():
        section, _, key = name.partition("__")
        if key:
            sections.setdefault(section, {})[key] = value
        else:
            plain[name] = str(value) if isinstance(value, Path) else value
    settings = {"task": "text-classification", "output_dir": str(output), **sections, **plain}
    return COMMANDS[command].model_validate(settings)


def run(command: str, config: Stage, **options: Any) -> list[dict[str, Any]]:
    """All rows of a stage, after the checks that the command line makes."""
    import importlib

    from tinybert_cli.runner import STAGES
    from tinybert_cli.stages import checks

    checks.check(command, config)
    rows: list[dict[str, Any]] = list(
        importlib.import_module(f"tinybert_cli.stages.{STAGES[command]}").run(config, **options)
    )
    return rows


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """train, validation, test and unlabeled.jsonl, a copy that a test may change."""
    return write_sentences(tmp_path / "data")


@pytest.fixture
def configs(data: Path, tmp_path: Path) -> Configs:
    """`configs("distill", "student", training__max_steps=3, ...)`: the config of a stage that writes tmp_path/student."""
    return lambda command, output, **settings: make_config(command, data, tmp_path / output, **settings)


@pytest.fixture
def base_model(finished_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_runs / "base", tmp_path / "base"))


@pytest.fixture
def teacher(finished_runs: Path, tmp_path: Path) -> Path:
    """A finished teacher with an accuracy of nearly 1."""
    return Path(shutil.copytree(finished_runs / "teacher", tmp_path / "teacher"))


@pytest.fixture
def teacher_labels(finished_runs: Path, tmp_path: Path) -> Path:
    """A finished label dataset: its predictions for train.jsonl."""
    return Path(shutil.copytree(finished_runs / "teacher-labels", tmp_path / "teacher-labels"))


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders base, teacher and teacher-labels, written once per session."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    data, base = write_sentences(folder / "data"), write_base_model(folder / "base")
    run("finetune", make_config("finetune", data, folder / "teacher", model=base))
    run("gen-soft-labels", make_config("gen-soft-labels", data, folder / "teacher-labels", teacher=folder / "teacher"))
    return folder


@pytest.fixture(scope="session")
def tiny_translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished translation model, written once per session; its sentences are in the folder `data` beside it."""
    from translation_model import train_translator

    torch.set_num_threads(1)
    return train_translator(tmp_path_factory.mktemp("translation"))
