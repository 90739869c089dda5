"""gen-soft-labels vs. the transformers pipeline at batch size 32, on the same sentences; prints the ratios.

gen-soft-labels is measured with the teacher itself (bf16 where the machine supports it) and with its int8 export.

    SST2_DATA=path/to/sst2 python benchmarks/labelling.py [minilm|bert-base] [sentences]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common import alternate, gen_soft_labels, report, scratch, seconds, sentences, teacher, texts

if TYPE_CHECKING:
    from tinybert_cli.config import Data

ROUNDS = 3
TARGET = 4.5


def main(shape: str = "minilm", count: str = "2000") -> None:
    from transformers import pipeline

    settings = sentences(int(count))
    rows = texts(settings)
    with scratch() as folder:
        model = teacher(shape, folder / "teacher")
        exported = export_int8(model, settings, folder / "export")
        classify = pipeline("text-classification", str(model), batch_size=32, top_k=None)

        def rows_per_second(source: Path) -> Callable[[int], float]:
            def measure(turn: int) -> float:
                *_, done = gen_soft_labels(settings, source, folder / f"{source.name}-labels-{turn}")
                return float(done["rows_per_second"])

            return measure

        speeds = alternate(
            {
                "pipeline": lambda turn: len(rows) / seconds(lambda: classify(rows)),
                "gen-soft-labels": rows_per_second(model),
                "gen-soft-labels, int8": rows_per_second(exported),
            },
            ROUNDS,
        )
    targets = dict.fromkeys(speeds, TARGET)
    report(f"{shape}, {len(rows):,} sentences", speeds, "sentences/s", targets)


def export_int8(model: Path, settings: Data, folder: Path) -> Path:
    """The int8 export of a model; without quality limits, because its head is random."""
    from tinybert_cli.config import Export, Verify
    from tinybert_cli.stages import export

    data = settings.model_copy(update={"validation_file": settings.train_file})
    verify = Verify(max_samples=64, min_agreement=0.0, max_metric_drop=1.0)
    config = Export(
        task="text-classification", data=data, model=str(model), quantize="int8", verify=verify, output_dir=str(folder)
    )
    list(export.run(config))
    return folder


if __name__ == "__main__":
    main(*sys.argv[1:])
