"""Runs every stage on a small model of each family and prints what it measured, as a table.

    python tests/family_runs.py configs/demo/reviews runs/families [FAMILY]...

The folder of the data is that of the demo, or SST-2: train and validation as .jsonl or .jsonl.gz. The models start from
random weights, so their scores say little; that every stage runs, and the differences of the exports, are the point.
Finished stages are skipped. `make test-families` runs it.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from conftest import run
from family_folders import FOLDERS, write_family_folder

from tinybert_cli.config import COMMANDS
from tinybert_cli.errors import GateError

ROOT = Path(__file__).parents[1]
SIZES = {"hidden_size": 96, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 192}
LOSSES = ("hidden_states", "embeddings", "attentions", "relations", "cosine", "pooled")
COLUMNS = ("teacher", "student", "narrow", "trimmed", "fp32 diff", "int8 agreement", "int8", "of float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("families", nargs="*", default=list(FOLDERS), metavar="FAMILY")
    arguments = parser.parse_args()
    sys.stdout.write(f"| family | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}\n")
    for name in arguments.families:
        cells = measure(name, arguments.data, arguments.runs / name)
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
        sys.stdout.flush()


def measure(name: str, source: Path, runs: Path) -> list[str]:
    """Runs all stages of one family; the cells of its row."""
    texts = [json.loads(line)["text"] for line in (ROOT / "configs/demo/reviews/unlabeled.jsonl").open()]
    if not (runs / "base").exists():
        write_family_folder(name, runs / "base", texts, vocabulary=2000, **SIZES)
    (train,), (validation,) = (list(source.resolve().glob(f"{split}.jsonl*")) for split in ("train", "validation"))
    column = "sentence" if train.suffix == ".gz" else "text"
    data = {
        "train_file": str(train), "validation_file": str(validation), "text_column_names": column,
        "label_column_name": "label", "max_seq_length": 48, "max_train_samples": 2000,
    }  # fmt: skip
    folder = {part: str(runs / part) for part in ("teacher", "labels", "student", "narrow", "trimmed")}

    def stage(command: str, part: str, **settings: Any) -> dict[str, Any]:
        config = {"task": "text-classification", "data": data, "output_dir": str(runs / part), **settings}
        with suppress(GateError):  # a missed requirement is a result
            run(command, COMMANDS[command].model_validate(config))
        metrics: dict[str, Any] = json.loads((runs / part / "metrics.json").read_text())
        return metrics

    training = {"num_train_epochs": 2, "learning_rate": 5e-4, "mixed_precision": "no"}
    scores = [stage("finetune", "teacher", model=str(runs / "base"), training={**training, "num_train_epochs": 4})]
    stage("gen-soft-labels", "labels", teacher=folder["teacher"], splits=["train"], check_teacher=False)
    losses: dict[str, Any] = dict.fromkeys(LOSSES, 0.2) | {"soft_labels": {"temperature": 2.0}}
    losses["relations"] = {"weight": 0.2, "relation_heads": 4}
    layered = {"label_dataset": folder["labels"], "teacher": folder["teacher"], "training": training}
    shallow = {"from": folder["teacher"], "num_hidden_layers": 2}
    narrow = {"from": folder["teacher"], "hidden_size": 48, "num_attention_heads": 2}
    scores.append(stage("distill", "student", student=shallow, losses=losses, **layered))
    of_any_heads = {name: value for name, value in losses.items() if name != "attentions"}
    scores.append(stage("distill", "narrow", student=narrow, losses=of_any_heads, **layered))
    trimmed = {"from": folder["student"], "trim_vocabulary": True}
    scores.append(stage("distill", "trimmed", student=trimmed, label_dataset=folder["labels"], training=training))
    float32 = stage("export", "float32", model=folder["trimmed"], format="onnx", verify={"atol": 1e-4})
    int8 = stage("export", "int8", model=folder["trimmed"], format="onnx", quantize="int8")
    return [
        *(f"{metrics['eval_accuracy']:.4f}" for metrics in scores),
        f"{float32['max_abs_logit_difference']:.1e}",
        f"{int8['agreement']:.1%}",
        f"{int8['bytes'] / 1e6:.2f} MB",
        f"{int8['bytes_ratio']:.2f}",
    ]


if __name__ == "__main__":
    main()
