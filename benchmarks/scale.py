"""Peak memory and time of each stage on tables of growing size, with a tiny model: what the data layer costs.

The rows are generated, the models have random weights, and every stage runs in a process of its own. `finetune` and
`distill` stop after a few steps; `read` only reads the rows. Prints one line per stage and size, as Markdown.

    python benchmarks/scale.py FOLDER [ROWS,ROWS,...] [STAGE,STAGE,...]
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGES = ("finetune", "gen-soft-labels", "distill", "eval")
SIZES = (10_000, 100_000, 1_000_000)
STEPS = 20
WORDS = 5_000
CLASSES = ["negative", "neutral", "positive"]
TASK = {"task": "text-classification", "data": {"label_names": CLASSES}}


def main(folder: str, sizes: str = ",".join(map(str, SIZES)), stages: str = ",".join(STAGES)) -> None:
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    words = _words()
    if not (root / "model").exists():
        _write_model(root / "model", words)
    print("| rows | stage | peak memory | of it private | CPU time before the first step | rows/CPU s after it |")
    print("|---:|---|---:|---:|---:|---:|")
    for size in map(int, sizes.split(",")):
        table = root / f"rows-{size}.csv"
        if not table.exists():
            _write_rows(table, size, words)
        for stage in stages.split(","):
            command = [sys.executable, __file__, "--child", stage, str(root), str(size)]
            result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            print(
                f"| {size:,} | {stage} | {result['peak'] / 1e9:.2f} GB | {result['private'] / 1e9:.2f} GB "
                f"| {result['before']:.1f} s | {result['speed']:,.0f} |",
                flush=True,
            )


def settings(stage: str, root: Path, size: int) -> dict[str, Any]:
    """The config of a stage for the table of this size."""
    table, model, labels = str(root / f"rows-{size}.csv"), str(root / "model"), str(root / f"labels-{size}")
    training = {"max_steps": STEPS, "keep": "last", "logging_steps": 1}
    new_head = {"from": model, "initialize": "teacher"}
    own = {
        "finetune": {"model": new_head, "training": training},
        "gen-soft-labels": {"teacher": model, "check_teacher": False},
        "distill": {"label_dataset": labels, "student": {"from": model, "num_hidden_layers": 1}, "training": training},
        "eval": {"models": {"teacher": model}},
    }[stage]
    file = {"test_file": table} if stage == "eval" else {"train_file": table}
    if stage == "eval":
        own["split"] = "test"
    output = labels if stage == "gen-soft-labels" else str(root / f"{stage}-{size}")
    return {**TASK, **own, "data": {**TASK["data"], **file}, "output_dir": output}  # type: ignore[dict-item]


def child(stage: str, root: Path, size: int) -> None:
    """Runs one stage, and prints what it took as JSON."""
    private = _PrivateMemory()
    private.start()
    before, rows = None, 0
    for event in _events(stage, settings(stage, root, size)) if stage != "read" else _read(root, size):
        if before is None and event["event"] in ("progress", "train", "scored"):
            before = time.process_time()
        if event["event"] == "progress":
            rows = event["rows"]
    cpu = time.process_time()
    before = cpu if before is None else before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    speed = rows / max(cpu - before, 1e-9)
    print(json.dumps({"peak": peak, "private": private.peak, "before": before, "cpu": cpu, "speed": speed}))


def _events(stage: str, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import importlib

    from tinybert_cli import config, runner
    from tinybert_cli.stages import checks

    kinds = {"finetune": config.Finetune, "gen-soft-labels": config.GenSoftLabels, "distill": config.Distill}
    parsed = kinds.get(stage, config.Eval).model_validate(values)
    checks.check(stage, parsed)
    shutil.rmtree(values["output_dir"], ignore_errors=True)
    yield from importlib.import_module(f"tinybert_cli.stages.{runner.STAGES[stage]}").run(parsed)


def _read(root: Path, size: int) -> Iterator[dict[str, Any]]:
    from tinybert_cli import config, data

    memory, begin = _private(), time.process_time()
    rows = data.read(config.Data(train_file=str(root / f"rows-{size}.csv"), **TASK["data"]), "train")  # type: ignore[arg-type]
    added, seconds = (_private() - memory) / 1e6, time.process_time() - begin
    print(f"{len(rows):,} rows: {added:,.0f} MB of private memory, {seconds:.1f} CPU s", file=sys.stderr)
    yield {"event": "progress", "rows": len(rows)}


class _PrivateMemory(threading.Thread):
    """The most memory that belongs to this process alone: pages of mapped files are not counted. Sampled; Linux."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, _private())
            time.sleep(0.05)


def _private() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def _words() -> list[str]:
    random.seed(0)
    return sorted({"".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 9))) for _ in range(WORDS)})


def _write_rows(path: Path, size: int, words: list[str]) -> None:
    """Sentences of 3 to 25 words, 14 on average, as in SST-2 with phrases left out."""
    random.seed(size)
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for _ in range(size):
            file.write(f"{' '.join(random.choices(words, k=random.randint(3, 25)))},{random.choice(CLASSES)}\n")


def _write_model(folder: Path, words: list[str]) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(vocabulary))
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: index for index, name in enumerate(CLASSES)}}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **shape, **names)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*sys.argv[1:])
