"""Translations per second: `generate` of transformers in file order against what tinybert runs; prints the ratios.

The first table is labelling with 4 beams: `model.generate` in fixed batches of 32 rows in file order, the same search
over sorted batches of limited tokens, and CTranslate2 in float32 and int8. The others are greedy, in batches of 1 and
32, with ONNX Runtime as well. The baseline generates with the same limits, length penalty and stopping.

    OMP_NUM_THREADS=1 python benchmarks/translating.py MODEL_FOLDER FILE COLUMN [rows]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import alternate, report, scratch, seconds

ROUNDS = 3
GREEDY_ROWS = {1: 50, 32: 256}  # batch size → rows


def main(model_folder: str, file: str, column: str, count: str = "1014") -> None:
    from tinybert_cli import formats, models
    from tinybert_cli.data.readers import read_file

    source = models.locate(model_folder)
    model, tokenizer = models.load_translation_model(source), models.load_translation_tokenizer(source)
    texts = read_file(Path(file)).column(column)[: int(count)]
    ids = tokenizer.source_ids(texts, 128)
    with scratch() as folder:
        translators = {"generate": Fixed(Generate(model, tokenizer), 32)}
        own = {"transformers engine": models.torch_translator(model, tokenizer)}
        for name, quantize in (("ctranslate2", "none"), ("ctranslate2 int8", "int8")):
            (folder / name).mkdir()
            formats.write_ctranslate2(model, tokenizer, folder / name, quantize=quantize)
            own[name] = formats.Ctranslate2Translator(folder / name)
        compare("labelling, 4 beams", translators | own, ids, 4, tokenizer.texts)
        onnx = formats.find_translation("onnx")
        (folder / "onnx").mkdir()
        onnx.write(model, tokenizer, folder / "onnx")
        assert onnx.load is not None
        own["onnx"] = onnx.load(folder / "onnx")
        del own["transformers engine"]
        for size, rows in GREEDY_ROWS.items():
            fixed = {name: Fixed(translator, size) for name, translator in {**translators, **own}.items()}
            compare(f"greedy, batches of {size}", fixed, ids[:rows], 1, tokenizer.texts)


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
        self.translator = translator.translator if isinstance(translator, Fixed) else translator
        self.size = size

    def all(self, ids: Sequence[Sequence[int]], search: Any) -> list[tuple[int, ...]]:
        parts = (ids[begin : begin + self.size] for begin in range(0, len(ids), self.size))
        return [best[0].ids for part in parts for best in self.translator.translate(part, search)]


def compare(
    title: str,
    translators: dict[str, Any],
    ids: Sequence[Sequence[int]],
    beams: int,
    texts_of: Callable[[list[tuple[int, ...]]], list[str]],
) -> None:
    """Rows per second of each in turns, and the share of texts that are those of `generate`."""
    from tinybert_cli.types import Search

    search, outputs = Search(beams=beams, max_target_length=128), {}

    def measure(name: str) -> Callable[[int], float]:
        def run() -> None:
            translator = translators[name]
            outputs[name] = translator.all(ids, search) if isinstance(translator, Fixed) else sorted_batches(translator)

        def sorted_batches(translator: Any) -> list[tuple[int, ...]]:
            import numpy as np

            from tinybert_cli import loops
            from tinybert_cli.types import Encoded

            values = np.concatenate([np.asarray(row) for row in ids])
            offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
            encoded = Encoded({"input_ids": (values, 0)}, offsets, 0, [])
            return [best[0].ids for best in loops.translate_all(translator, encoded, search)]

        return lambda turn: len(ids) / seconds(run)

    speeds = alternate({name: measure(name) for name in translators}, ROUNDS)
    report(f"{title}, {len(ids):,} rows", speeds, "rows/s")
    reference = texts_of(outputs["generate"])
    for name, rows in outputs.items():
        same = sum(a == b for a, b in zip(reference, texts_of(rows), strict=True)) / len(reference)
        print(f"  {name}: {same:.1%} of the texts are those of generate")


if __name__ == "__main__":
    main(*sys.argv[1:])
