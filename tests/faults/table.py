"""The faults: what is damaged, the command that meets the damage, its exit code and its message.

After each of them every file is what it was before the command, except run.log.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import write_config

Damage = Callable[[Path], object]


@dataclass(frozen=True)
class Fault:
    """A damage of the finished cascade that a command must notice before it changes anything.

    Args:
        words: the command line, after `tinybert`.
        code: its exit code.
        message: a part of its output on stderr, or on stdout if it succeeds.
        slow: takes more than two seconds.
    """

    name: str
    words: str
    code: int
    message: str
    damage: Damage = lambda _: None
    slow: bool = False


# -- damages -------------------------------------------------------------------------------------------------


def flip(name: str, position: float = 0.5) -> Damage:
    """Flips one bit of the file, at this part of its length."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(len(content) * position)] ^= 4
        (folder / name).write_bytes(content)

    return damage


def write(name: str, content: str | bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def config(name: str, command: str, **settings: Any) -> Damage:
    return lambda folder: write_config(folder, name, command, **settings)


def shorten(name: str) -> Damage:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def edit(name: str, **changes: Any) -> Damage:
    """Changes entries of a JSON file."""
    return lambda folder: (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), **changes}))


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def without_manifest(name: str) -> Damage:
    """A model folder that another tool could have written: nothing there records hashes."""
    return remove(f"{name}/manifest.json")


def foreign(**settings: Any) -> Damage:
    """base/, a model of another tool, with other entries in its config.json."""
    return edit("base/config.json", **settings)


# -- kinds ---------------------------------------------------------------------------------------------------

CONFIGS = [
    Fault("unknown key", "finetune teacher.yaml training.learnin_rate=1", 2, "did you mean"),
    Fault("config is missing", "finetune teaher.yaml", 3, "did you mean"),
    Fault("config is a folder", "finetune data", 3, "is a folder"),
    Fault("tab in YAML", "finetune bad.yaml", 2, "bad.yaml:2", write("bad.yaml", "stage: finetune\n\ttask: x\n")),
    Fault("Python tag in YAML", "finetune bad.yaml", 2, "tag", write("bad.yaml", "task: !!python/name:os.system x\n")),
    Fault("`extends` in a circle", "finetune bad.yaml", 2, "extends", write("bad.yaml", "extends: bad.yaml\n")),
    Fault("`extends` of a device", "finetune bad.yaml", 3, "/dev/zero", write("bad.yaml", "extends: /dev/zero\n")),
    Fault(
        "`extends` of a pipe", "finetune bad.yaml", 3, "pipe",
        both(write("bad.yaml", "extends: pipe\n"), lambda folder: os.mkfifo(folder / "pipe")),
    ),
    Fault("2 MB of nested lists", "finetune bad.yaml", 3, "bad.yaml", write("bad.yaml", "a: " + "[" * 2_000_000)),
    Fault("a million list items", "finetune bad.yaml", 3, "bad.yaml", write("bad.yaml", "a: [" + "1, " * 700_000 + "1]")),
    Fault(
        "aliases that multiply", "finetune bad.yaml", 2, "bad.yaml",
        write("bad.yaml", "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))),
    ),
    Fault("a setting out of bounds", "finetune teacher.yaml training.per_device_train_batch_size=1e12", 2, "batch_size"),
]  # fmt: skip

DATA = [
    Fault("half a gzip file", "finetune new.yaml", 3, "gzip",
          both(config("new", "finetune", model="base", data={"train_file": "t.jsonl.gz"}),
               write("t.jsonl.gz", gzip.compress(b'{"text": "fine", "label": "good"}\n' * 999)[:-20]))),
    Fault("10 MB of gzip that hold 10 GB", "finetune new.yaml", 3, "t.csv.gz",
          both(config("new", "finetune", model="base", data={"train_file": "t.csv.gz"}),
               write("t.csv.gz", gzip.compress(b"a" * 100_000_000) * 100)), slow=True),
    Fault("data file is a device", "finetune new.yaml", 3, "not a file",
          config("new", "finetune", model="base", data={"train_file": "/dev/zero"})),
    Fault("JSON nested 100,000 deep", "finetune new.yaml", 3, "nested too deep",
          both(config("new", "finetune", model="base", data={"train_file": "t.jsonl"}),
               write("t.jsonl", '{"text": ' + "[" * 100_000 + "\n"))),
    Fault("a damaged Parquet file", "finetune new.yaml", 3, "t.parquet",
          both(config("new", "finetune", model="base", data={"train_file": "t.parquet"}),
               write("t.parquet", b"PAR1" + b"\0" * 900 + b"PAR1"))),
    Fault("a misspelt column", "gen-soft-labels labels.yaml output_dir=new data.text_column_names=txt", 3, "did you mean"),
]  # fmt: skip

BITS = [
    Fault("weights, read by predict", "predict student fine", 3, "model.safetensors", flip("student/model.safetensors")),
    Fault("weights, read by eval", "eval eval.yaml output_dir=new", 3, "model.safetensors",
          flip("student/model.safetensors")),
    Fault("weights, read by gen-soft-labels", "gen-soft-labels labels.yaml output_dir=new", 3, "model.safetensors",
          flip("teacher/model.safetensors")),
    Fault("weights, read by export", "export export.yaml output_dir=new", 3, "model.safetensors",
          flip("student/model.safetensors")),
    Fault("weights of the student's source", "distill student.yaml output_dir=new", 3, "model.safetensors",
          flip("teacher/model.safetensors")),
    Fault("tokenizer", "predict student fine", 3, "tokenizer.json", flip("student/tokenizer.json")),
    Fault("model config", "predict student fine", 3, "config.json", flip("student/config.json")),
    Fault("ONNX model", "predict export fine", 3, "model.onnx", flip("export/onnx/model.onnx")),
    Fault("label dataset", "distill student.yaml output_dir=new", 3, "parquet",
          flip("labels/train-00000-of-00001.parquet")),
    Fault("label dataset, cut short", "distill student.yaml output_dir=new", 3, "parquet",
          shorten("labels/train-00000-of-00001.parquet")),
    Fault("label dataset, one file missing", "distill student.yaml output_dir=new", 3, "parquet",
          remove("labels/train-00000-of-00001.parquet")),
    Fault("manifest edited by hand", "predict student fine", 3, "manifest.json",
          edit("student/manifest.json", seed=43)),
    Fault("weights cut short, no manifest", "predict student fine", 3, "safetensors",
          both(without_manifest("student"), shorten("student/model.safetensors"))),
]  # fmt: skip


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


HOSTILE = [
    Fault("a pickle that runs code", "finetune teacher.yaml output_dir=new", 3, "pytorch_model.bin",
          both(remove("base/model.safetensors"), write("base/pytorch_model.bin", pickle.dumps(_Evil())))),
    Fault("a model with its own code", "finetune teacher.yaml output_dir=new", 3, "code",
          foreign(auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}, model_type="evil")),
    Fault("10**6 layers in config.json", "finetune teacher.yaml output_dir=new", 3, "num_hidden_layers",
          foreign(num_hidden_layers=10**6)),
    Fault("10**9 labels in config.json", "predict student fine", 3, "config.json",
          both(without_manifest("student"), edit("student/config.json", num_labels=10**9, id2label=None))),
    Fault("a vocabulary of 10**9 in config.json", "finetune teacher.yaml output_dir=new", 3, "config.json",
          foreign(vocab_size=10**9)),
    Fault("hidden_size of 10**7 in config.json", "finetune teacher.yaml output_dir=new", 3, "config.json",
          foreign(hidden_size=10**7)),
    Fault("10**9 positions in config.json", "finetune teacher.yaml output_dir=new", 3, "config.json",
          foreign(max_position_embeddings=10**9)),
    Fault("safetensors header of 2**60 bytes", "finetune teacher.yaml output_dir=new", 3, "model.safetensors",
          write("base/model.safetensors", struct.pack("<Q", 1 << 60) + b"{}")),
    Fault("weights index that leads out of the folder", "finetune teacher.yaml output_dir=new", 3, "index",
          both(lambda folder: (folder / "base/model.safetensors").rename(folder / "outside.safetensors"),
               write("base/model.safetensors.index.json",
                     json.dumps({"metadata": {}, "weight_map": {"a": "../outside.safetensors"}})))),
    Fault("broken regular expression in tokenizer.json", "finetune teacher.yaml output_dir=new", 3, "tokenizer",
          edit("base/tokenizer.json", normalizer={"type": "Replace", "pattern": {"Regex": "(a"}, "content": ""})),
    Fault("catastrophic regular expression in tokenizer.json", "finetune teacher.yaml output_dir=new", 3, "tokenizer",
          edit("base/tokenizer.json", normalizer={
              "type": "Replace", "pattern": {"Regex": r"((([a-z ]*)*)*)*\d\d\d$"}, "content": ""})),
    Fault("kernel loader in config.json", "finetune teacher.yaml output_dir=new -n", 0, "",
          foreign(attn_implementation="evil/kernel")),
    Fault("weights that are not finite", "finetune teacher.yaml output_dir=new", 3, "NaN or infinity",
          lambda folder: _infinite(folder / "base/model.safetensors")),
    Fault("config.json is no JSON", "finetune teacher.yaml output_dir=new", 3, "config.json",
          write("base/config.json", "{")),
    Fault("no tokenizer", "finetune teacher.yaml output_dir=new", 3, "tokenizer",
          both(remove("base/tokenizer.json"), remove("base/tokenizer_config.json"))),
]  # fmt: skip

DESTRUCTIVE = [
    Fault("--force with a misspelt setting", "finetune teacher.yaml --force data.text_column_names=txt", 3, "txt"),
    Fault("--force with a missing file", "finetune teacher.yaml --force data.train_file=gone.jsonl", 3, "gone.jsonl"),
    Fault("--force with a run that diverges",
          "finetune teacher.yaml --force training.learning_rate=1e30 training.warmup_ratio=0", 1, "not finite"),
    Fault("output_dir is the model", "finetune teacher.yaml --force output_dir=base", 4, "base"),
    Fault("output_dir is the teacher", "gen-soft-labels labels.yaml --force output_dir=teacher", 4, "teacher"),
    Fault("output_dir is the label dataset", "distill student.yaml --force output_dir=labels", 4, "labels"),
    Fault("output_dir is the student's source", "distill student.yaml --force output_dir=teacher", 4, "teacher"),
    Fault("output_dir is one of the models", "eval eval.yaml --force output_dir=student", 4, "student"),
    Fault("output_dir is the exported model", "export export.yaml --force output_dir=student", 4, "student"),
    Fault("output_dir holds the data", "finetune teacher.yaml --force output_dir=data", 4, "data"),
    Fault("output_dir holds every input", "finetune teacher.yaml --force output_dir=.", 4, "output_dir"),
    Fault("output_dir inside an input", "gen-soft-labels labels.yaml output_dir=teacher/labels", 4, "teacher"),
    Fault("output_dir is a link to an input", "gen-soft-labels labels.yaml --force output_dir=link", 4, "teacher",
          lambda folder: (folder / "link").symlink_to("teacher")),
    Fault("output_dir holds a stranger's files", "finetune teacher.yaml --force output_dir=mine", 4, "thesis.doc",
          lambda folder: ((folder / "mine").mkdir(), (folder / "mine/thesis.doc").write_text("years of work"))),
    Fault("another run, other settings", "finetune teacher.yaml seed=7", 4, "seed: 42 before, 7 now"),
    Fault("output_dir is a file", "finetune teacher.yaml output_dir=base.txt", 4, "base.txt",
          write("base.txt", "a file")),
]  # fmt: skip

NETWORK = [
    Fault("Hub id without a network", "finetune teacher.yaml output_dir=new model=org/unknown", 3, "org/unknown"),
    Fault("dataset id without a network",
          "finetune new.yaml", 3, "org/unknown",
          config("new", "finetune", model="base", data={"dataset_name": "org/unknown"})),
]  # fmt: skip

TABLE: dict[str, list[Fault]] = {
    "Configs": CONFIGS,
    "Data files": DATA,
    "Flipped bits and missing parts": BITS,
    "Hostile models": HOSTILE,
    "Destructive commands": DESTRUCTIVE,
    "Network": NETWORK,
}


def _infinite(file: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    tensors["embeddings.word_embeddings.weight"][3, 3] = torch.inf
    save_file(tensors, file, metadata={"format": "pt"})
