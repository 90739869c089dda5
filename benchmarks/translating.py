"""Translations per second: `generate` of transformers in file order against what tinybert runs; prints the ratios.

The first case is labelling with 4 beams: `model.generate` in fixed batches of 32 rows in file order, the same search
over sorted batches of limited tokens, and CTranslate2 in float32 and int8. The others are greedy, in batches of 1 and
32, with ONNX Runtime as well. The baseline generates with the same limits, length penalty and stopping. The share of
the peak counts the products that the baseline's translations need at least (`operations`). Without arguments the
teacher of configs/made-up is trained first, and translates sentences of its training file.

    python benchmarks/translating.py [MODEL_FOLDER FILE COLUMN [rows]]
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from common import ROOT
from side_by_side import Benchmark, Measurement, Settings, Side, main, timed

GREEDY = {1: 50, 32: 256}  # batch size → rows
MADE_UP = {"model": "", "file": "", "column": "english"}  # without a model: that of configs/made-up and its sentences


def prepare(folder: Path, settings: Settings) -> dict[str, Any]:
    from tinybert_cli import formats, models

    model_folder = settings["model"] or str(train_made_up(folder / "teacher", settings["steps"]))
    source = models.locate(model_folder)
    model, tokenizer = models.load_translation_model(source), models.load_translation_tokenizer(source)
    for name, quantize in (("ctranslate2", "none"), ("ctranslate2-int8", "int8")):
        (folder / name).mkdir()
        formats.write_ctranslate2(model, tokenizer, folder / name, quantize=quantize)
    (folder / "onnx").mkdir()
    formats.find_translation("onnx").write(model, tokenizer, folder / "onnx")
    (folder / "model").write_text(str(source.folder), encoding="utf-8")
    return {}


def train_made_up(folder: Path, steps: int) -> Path:
    """The teacher of configs/made-up, in half a minute; `steps`: -1 = as many as there."""
    import tinybert

    os.chdir(ROOT)  # the config names its files from there
    tinybert.finetune("configs/made-up/1-teacher.yaml", f"training.max_steps={steps}", f"output_dir={folder}")
    return folder


def measure(
    engine: str, precision: str, folder: Path, settings: Settings, prepared: Settings
) -> dict[str, Measurement]:
    """Case → speed; the texts of `generate`, which is the first side, are kept for comparison."""
    from tinybert_cli import models
    from tinybert_cli.data.readers import read_file

    file = Path(settings["file"] or ROOT / "configs/made-up/sentences/train.jsonl")
    tokenizer = models.load_translation_tokenizer(models.locate((folder / "model").read_text(encoding="utf-8")))
    ids = tokenizer.source_ids(read_file(file).column(settings["column"])[: settings["rows"]], 128)
    translator = translator_of(engine, folder)
    needed = partial(operations, json.loads((folder / "ctranslate2" / "config.json").read_text(encoding="utf-8")))
    cases: dict[str, tuple[Any, Sequence[Sequence[int]], int]] = {}
    if engine != "onnx":
        whole = Fixed(translator, 32) if engine == "generate" else Sorted(translator)
        cases[f"labelling, 4 beams, {len(ids):,} rows"] = (whole, ids, 4)
    if engine != "transformers":
        for size, rows in GREEDY.items():
            cases[f"greedy, batches of {size}, {len(ids[:rows])} rows"] = (Fixed(translator, size), ids[:rows], 1)
    return {case: speed(case, *work, tokenizer.texts, needed, precision, folder) for case, work in cases.items()}


def speed(
    case: str, translator: Any, ids: Sequence[Sequence[int]], beams: int, texts_of: Callable[[Any], list[str]],
    needed: Callable[..., float], precision: str, folder: Path,
) -> Measurement:  # fmt: skip
    from tinybert_cli.types import Search

    search, outputs = Search(beams=beams, max_target_length=128), []
    translator.all(ids[:2], search)
    measurement = timed(len(ids), lambda: outputs.extend(translator.all(ids, search)), precision=precision)
    translations, kept = texts_of(outputs), folder / f"{case}.json"
    if not kept.exists():
        flops = needed([len(row) for row in ids], [len(row) + 1 for row in outputs], beams) / len(ids)
        kept.write_text(json.dumps({"texts": translations, "flops": flops}), encoding="utf-8")
    baseline = json.loads(kept.read_text(encoding="utf-8"))
    pairs = list(zip(translations, baseline["texts"], strict=True))
    equal = sum(ours == theirs for ours, theirs in pairs) / len(pairs)
    return {**measurement, "flops": baseline["flops"], "equal": equal}


def operations(config: Settings, sources: Sequence[int], targets: Sequence[int], beams: int) -> float:
    """Floating-point operations of the matrix products, for rows with these numbers of source and target tokens.

    Each target token is computed once for every beam, keys and values of the source once for a row; a search that goes
    on after its best translation needs more. Products of attention scores, which are small here, are left out. The
    config is that of a Marian or BART model.
    """
    width, words = config["d_model"], config["vocab_size"]
    encoder = config["encoder_layers"] * (4 * width**2 + 2 * width * config["encoder_ffn_dim"])
    keys_and_values = config["decoder_layers"] * 2 * width**2
    decoder = config["decoder_layers"] * (6 * width**2 + 2 * width * config["decoder_ffn_dim"]) + width * words
    return 2.0 * (sum(sources) * (encoder + keys_and_values) + beams * sum(targets) * decoder)


def translator_of(engine: str, folder: Path) -> Any:
    from tinybert_cli import formats, models

    if engine.startswith("ctranslate2"):
        return formats.Ctranslate2Translator(folder / engine)
    if engine == "onnx":
        load = formats.find_translation("onnx").load
        if load is None:
            raise RuntimeError("the format onnx cannot be loaded")
        return load(folder / "onnx")
    source = models.locate((folder / "model").read_text(encoding="utf-8"))
    model, tokenizer = models.load_translation_model(source), models.load_translation_tokenizer(source)
    return Generate(model, tokenizer) if engine == "generate" else models.torch_translator(model, tokenizer)


class Generate:
    """`generate` as in a script of transformers."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def translate(self, sources: Sequence[Sequence[int]], search: Any) -> list[Any]:
        import torch

        from tinybert_cli.types import Hypothesis

        tokenizer, longest = self.tokenizer, max(map(len, sources))
        ids = torch.tensor([[*row, *[tokenizer.padding] * (longest - len(row))] for row in sources])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sources])
        outputs = self.model.generate(
            input_ids=ids, attention_mask=mask, num_beams=search.beams, early_stopping=False, do_sample=False,
            length_penalty=search.length_penalty, max_length=None, max_new_tokens=search.limit(longest),
        )  # fmt: skip
        ends = [row.index(tokenizer.end) if tokenizer.end in row else len(row) for row in outputs[:, 1:].tolist()]
        return [
            [Hypothesis(tuple(row[:end]), 0.0, finished=True)]
            for row, end in zip(outputs[:, 1:].tolist(), ends, strict=True)
        ]


class Fixed:
    """Translates in batches of a fixed number of rows, in their order."""

    def __init__(self, translator: Any, size: int) -> None:
        self.translator, self.size = translator, size

    def all(self, ids: Sequence[Sequence[int]], search: Any) -> list[tuple[int, ...]]:
        parts = (ids[begin : begin + self.size] for begin in range(0, len(ids), self.size))
        return [best[0].ids for part in parts for best in self.translator.translate(part, search)]


class Sorted:
    """Translates as gen-soft-labels does: batches of similar lengths and limited tokens."""

    def __init__(self, translator: Any) -> None:
        self.translator = translator

    def all(self, ids: Sequence[Sequence[int]], search: Any) -> list[tuple[int, ...]]:
        import numpy as np

        from tinybert_cli import loops
        from tinybert_cli.types import Encoded

        values = np.concatenate([np.asarray(row) for row in ids])
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
        encoded = Encoded({"input_ids": (values, 0)}, offsets, 0, [])
        return [best[0].ids for best in loops.translate_all(self.translator, encoded, search)]


BENCHMARK = Benchmark(
    name="translating",
    script=__file__,
    prepare=prepare,
    sides=(
        Side("generate of transformers", partial(measure, "generate", "float32")),
        Side("torch, sorted batches", partial(measure, "transformers", "float32"), own=True),
        Side("ONNX Runtime", partial(measure, "onnx", "float32"), own=True),
        Side("CTranslate2", partial(measure, "ctranslate2", "float32"), own=True),
        Side("CTranslate2, int8", partial(measure, "ctranslate2-int8", "int8"), own=True),
    ),
    settings={**MADE_UP, "rows": 600, "steps": -1},
    quick={"rows": 8, "steps": 2},
)

if __name__ == "__main__":
    main(BENCHMARK, ["model", "file", "column", "rows"])
