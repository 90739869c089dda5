"""A small made-up language, and a translation model that has learnt it: for the tests of the task translation."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conftest import run, write_rows

from tinybert_cli.config import COMMANDS, Stage

ARTICLES = {"the": ("lo", "la"), "a": ("un", "una")}
NOUNS = {"man": "borko", "woman": "disena", "dog": "fulo", "house": "gatra", "river": "melino", "tree": "nuska"}
ADJECTIVES = {"old": "pral", "small": "rist", "red": "suvan", "quiet": "tolk"}
VERBS = {"sees": "vadet", "likes": "zumet", "finds": "kelet", "paints": "bripet"}
ADVERBS = {"today": "ogim", "often": "lurim"}
ROWS = {"train": 900, "validation": 40, "test": 40}
TRAINING = {
    "num_train_epochs": 5.0, "per_device_train_batch_tokens": 512, "learning_rate": 6e-3, "mixed_precision": "no",
    "lr_scheduler_type": "cosine", "logging_steps": 50, "eval_strategy": "no", "keep": "last",
}  # fmt: skip
NEW_MODEL = {
    "family": "marian", "num_hidden_layers": 1, "num_decoder_layers": 1, "hidden_size": 64, "num_attention_heads": 4,
    "intermediate_size": 128, "vocabulary_size": 120,
}  # fmt: skip


def pairs(split: str) -> list[dict[str, str]]:
    """Rows with `en` and `xx`, always the same; the verb of `xx` is at its end, and nouns have a gender."""
    draw = random.Random(f"tinybert {split}")
    rows: dict[str, str] = {}
    while len(rows) < ROWS[split]:
        (subject, own), (object_, other) = _noun_phrase(draw), _noun_phrase(draw)
        verb = draw.choice(list(VERBS))
        adverb = draw.choice([*ADVERBS, *[""] * 3])
        source = " ".join([subject, verb, object_, adverb]).strip()
        target = " ".join(filter(None, [own, other, ADVERBS.get(adverb), VERBS[verb]]))
        rows[f"{source.capitalize()}."] = f"{target.capitalize()}."
    return [{"en": source, "xx": target} for source, target in rows.items()]


def _noun_phrase(draw: random.Random) -> tuple[str, str]:
    article, noun, adjective = draw.choice(list(ARTICLES)), draw.choice(list(NOUNS)), draw.choice([*ADJECTIVES, ""])
    female = NOUNS[noun].endswith("a")
    words = [ARTICLES[article][female], NOUNS[noun]]
    if adjective:
        words.append(ADJECTIVES[adjective] + ("a" if female else "o"))
    return " ".join(filter(None, [article, adjective, noun])), " ".join(words)


def write_pairs(folder: Path) -> Path:
    """train, validation and test.jsonl."""
    for split in ROWS:
        write_rows(folder / f"{split}.jsonl", pairs(split))
    return folder


def translation_config(command: str, data: Path, output: Path, **settings: Any) -> Stage:
    """The config of a stage on these sentences; `data__x=1` sets data.x, `training__x=1` training.x."""
    sections: dict[str, dict[str, Any]] = {
        "data": {
            **{f"{split}_file": str(data / f"{split}.jsonl") for split in ROWS},
            "text_column_names": "en", "label_column_name": "xx", "max_seq_length": 32, "max_target_length": 32,
        }
    }  # fmt: skip
    if command in ("finetune", "distill"):
        sections["training"] = dict(TRAINING)
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        section, _, key = name.partition("__")
        if key:
            sections.setdefault(section, {})[key] = value
        else:
            plain[name] = str(value) if isinstance(value, Path) else value
    values: Mapping[str, Any] = {"task": "translation", "output_dir": str(output), **sections, **plain}
    return COMMANDS[command].model_validate(values)


def train_translator(folder: Path) -> Path:
    """Writes the sentences to `folder`/data, and trains `folder`/translator on them: a Marian of BLEU about 90."""
    data = write_pairs(folder / "data")
    run("finetune", translation_config("finetune", data, folder / "translator", model=NEW_MODEL))
    return folder / "translator"
