"""Peak memory and time of each stage on tables of growing size, with a tiny model: what the data layer costs.

The rows are generated, the models have random weights, and every stage runs in a process of its own. `finetune` and
`distill` stop after a few steps; with `-resumed` behind their name, a run that has saved half of them is resumed.
TASK is text-classification, token-classification, question-answering, or language-modeling, which has only `distill`:
task-agnostic distillation of paragraphs of 520 bytes on average.
`read` only reads the rows, and `tokenizer` only tokenizes them. Prints one line per stage and size, as Markdown; with
FILE the numbers are also recorded there, as in experiments/results/scale.json.

    OMP_NUM_THREADS=1 python benchmarks/scale.py FOLDER [ROWS,ROWS,...] [STAGE,STAGE,...] [TASK] [FILE]
"""

from __future__ import annotations

import itertools
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
RESUMED, STOPPED = "-resumed", "-stopped"  # a run that is resumed, and the one before it
WORDS = 5_000
CLASSES = ["negative", "neutral", "positive"]
TAGS = ["O", *(f"{prefix}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for prefix in "BI")]
DATA: dict[str, dict[str, Any]] = {
    "text-classification": {"label_names": CLASSES},
    "token-classification": {"text_column_names": "tokens", "label_column_name": "tags", "label_names": TAGS},
    "question-answering": {"text_column_names": ["question", "context"], "label_column_name": "answers"},
    "language-modeling": {},
}
LAYERS = {"losses": {"hidden_states": 1.0}}
SUFFIXES = {"text-classification": "csv", "language-modeling": "txt"}  # the others: jsonl


def main(
    folder: str,
    sizes: str = ",".join(map(str, SIZES)),
    stages: str = ",".join(STAGES),
    task: str = "text-classification",
    record: str = "",
) -> None:
    root = Path(folder) / task
    root.mkdir(parents=True, exist_ok=True)
    words = _words()
    if not (root / "model").exists():
        _write_model(root / "model", words, task)
    print("| rows | stage | peak memory | of it private | CPU time before the first step | rows/CPU s after it |")
    print("|---:|---|---:|---:|---:|---:|")
    for size in map(int, sizes.split(",")):
        if not _table(root, size).exists():
            _write_rows(_table(root, size), size, words, task)
        for stage in stages.split(","):
            if stage.endswith(RESUMED):
                _measured(stage.removesuffix(RESUMED) + STOPPED, root, size)
            result = _measured(stage, root, size)
            if record:
                _record(Path(record), task, stage, size, result)
            print(
                f"| {size:,} | {stage} | {result['peak'] / 1e9:.2f} GB | {result['private'] / 1e9:.2f} GB "
                f"| {result['before']:.1f} s | {result['speed']:,.0f} |",
                flush=True,
            )


def _measured(stage: str, root: Path, size: int) -> dict[str, float]:
    """What a stage takes in a process of its own."""
    command = [sys.executable, __file__, "--child", stage, str(root), str(size)]
    measured: dict[str, float] = json.loads(subprocess.check_output(command).splitlines()[-1])
    return measured


def _record(file: Path, task: str, stage: str, size: int, result: dict[str, float]) -> None:
    """Sets the numbers of one stage and size, in megabytes, CPU seconds, and rows per CPU second.

    `table_mb` is the size of the file with the rows, `output_mb` that of the finished folder.
    """
    content = json.loads(file.read_text()) if file.exists() else {}
    content.setdefault(task, {}).setdefault(stage, {})[str(size)] = {
        "peak_mb": round(result["peak"] / 1e6),
        "private_mb": round(result["private"] / 1e6),
        "cpu_s_before": round(result["before"], 1),
        "cpu_s": round(result["cpu"], 1),
        "rows_per_cpu_s": round(result["speed"]),
        "table_mb": round(result["table"] / 1e6),
        "output_mb": round(result["output"] / 1e6),
    }
    file.write_text(json.dumps(content, indent=1) + "\n")


def settings(stage: str, root: Path, size: int) -> dict[str, Any]:
    """The config of a stage for the table of this size; the folder is named after the task."""
    table, model, labels = str(_table(root, size)), str(root / "model"), str(root / f"labels-{size}")
    training = {"max_steps": STEPS, "save_steps": STEPS // 2, "keep": "last", "logging_steps": 1}
    new_head = {"from": model, "initialize": "teacher"}
    own = {
        "finetune": {"model": new_head, "training": training},
        "gen-soft-labels": {"teacher": model, "check_teacher": False},
        "distill": {
            "student": {"from": model, "num_hidden_layers": 1}, "training": training,
            **(LAYERS | {"teacher": model} if root.name == "language-modeling" else {"label_dataset": labels}),
        },
        "eval": {"models": {"teacher": model}},
    }[stage]  # fmt: skip
    file = {"test_file": table} if stage == "eval" else {"train_file": table}
    if stage == "eval":
        own["split"] = "test"
    output = labels if stage == "gen-soft-labels" else str(root / f"{stage}-{size}")
    return {"task": root.name, **own, "data": {**DATA[root.name], **file}, "output_dir": output}


def child(stage: str, root: Path, size: int) -> None:
    """Runs one stage, and prints what it took as JSON."""
    private = _PrivateMemory()
    private.start()
    before, rows = None, 0
    only = {"read": _read, "tokenizer": _tokenize}.get(stage)
    for event in _events(stage, root, size) if only is None else only(root, size):
        if before is None and event["event"] in ("progress", "train", "scored"):
            before = time.process_time()
        if event["event"] == "progress":
            rows = event["rows"]
        if event["event"] == "checkpoint" and stage.endswith(STOPPED):
            break
    cpu = time.process_time()
    before = cpu if before is None else before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    speed = rows / max(cpu - before, 1e-9)
    output = 0 if only else _bytes(Path(settings(_command(stage), root, size)["output_dir"]))
    sizes = {"table": _table(root, size).stat().st_size, "output": output}
    print(json.dumps({"peak": peak, "private": private.peak, "before": before, "cpu": cpu, "speed": speed, **sizes}))


def _events(stage: str, root: Path, size: int) -> Iterator[dict[str, Any]]:
    import importlib

    from tinybert_cli import config, runner
    from tinybert_cli.stages import checks

    command = _command(stage)
    parsed = config.COMMANDS[command].model_validate(settings(command, root, size))
    checks.check(command, parsed)
    if not stage.endswith(RESUMED):
        shutil.rmtree(parsed.output_dir, ignore_errors=True)
    yield from importlib.import_module(f"tinybert_cli.stages.{runner.STAGES[command]}").run(parsed)


def _command(stage: str) -> str:
    return stage.removesuffix(RESUMED).removesuffix(STOPPED)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _read(root: Path, size: int) -> Iterator[dict[str, Any]]:
    from tinybert_cli import config, data

    memory, begin = _private(), time.process_time()
    rows = data.read(config.Data(train_file=str(_table(root, size)), **DATA[root.name]), "train")
    added, seconds = (_private() - memory) / 1e6, time.process_time() - begin
    print(f"{len(rows):,} rows: {added:,.0f} MB of private memory, {seconds:.1f} CPU s", file=sys.stderr)
    yield {"event": "progress", "rows": len(rows)}


def _tokenize(root: Path, size: int) -> Iterator[dict[str, Any]]:
    """Only tokenizes the first text column, with the tokenizer that the stages use, as fast as it can."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(root / "model" / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    yield {"event": "scored"}
    with _table(root, size).open(encoding="utf-8") as file:
        next(file)
        while part := [line.rpartition(",")[0] for line in itertools.islice(file, 1000)]:
            tokenizer.encode_batch_fast(part)
    yield {"event": "progress", "rows": size}


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


def _table(root: Path, size: int) -> Path:
    return root / f"rows-{size}.{SUFFIXES.get(root.name, 'jsonl')}"


def _write_rows(path: Path, size: int, words: list[str], task: str) -> None:
    """Rows as CSV of sentences with a label, as plain text, or as JSON lines of the other tasks."""
    lines = {"token-classification": _tagged, "question-answering": _question, "language-modeling": _paragraph}
    line = lines.get(task, _sentence)
    random.seed(size)
    with path.open("w", encoding="utf-8") as file:
        if task == "text-classification":
            file.write("text,label\n")
        for _ in range(size):
            file.write(f"{line(words)}\n")


def _sentence(words: list[str]) -> str:
    """Sentences of 3 to 25 words, 14 on average, as in SST-2 with phrases left out."""
    return f"{' '.join(random.choices(words, k=random.randint(3, 25)))},{random.choice(CLASSES)}"


def _paragraph(words: list[str]) -> str:
    return " ".join(random.choices(words, k=random.randint(40, 120)))


def _tagged(words: list[str]) -> str:
    """A sentence of 10 to 50 words, of which a tenth begins an entity of one to three words."""
    tokens = random.choices(words, k=random.randint(10, 50))
    tags = ["O"] * len(tokens)
    for begin in range(0, len(tokens) - 3, 4):
        if random.random() < 0.4:
            kind, length = random.choice(TAGS[1:])[2:], random.randint(1, 3)
            tags[begin : begin + length] = [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
    return json.dumps({"tokens": tokens, "tags": tags})


def _question(words: list[str]) -> str:
    """A question of 8 words, and an answer of one to three words in a context of 60 to 180 words."""
    context = random.choices(words, k=random.randint(60, 180))
    begin = random.randrange(len(context) - 3)
    answer = " ".join(context[begin : begin + random.randint(1, 3)])
    start = len(" ".join(context[:begin])) + (begin > 0)
    answers = {"text": [answer], "answer_start": [start]}
    question = " ".join(random.choices(words, k=8))
    return json.dumps({"question": question, "context": " ".join(context), "answers": answers})


def _write_model(folder: Path, words: list[str], task: str) -> None:
    import torch
    import transformers
    from transformers import BertConfig, BertTokenizerFast

    folder.mkdir()
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(vocabulary))
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    kind, classes = {
        "token-classification": ("BertForTokenClassification", TAGS),
        "question-answering": ("BertForQuestionAnswering", []),
        "language-modeling": ("BertModel", []),
    }.get(task, ("BertForSequenceClassification", CLASSES))
    names = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    config = BertConfig(vocab_size=len(tokenizer), **shape, **(names if classes else {}))
    getattr(transformers, kind)(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*sys.argv[1:])
