"""gen-soft-labels against the transformers pipeline at batch 32, on the same sentences, in turn; prints the ratios.

Once with the teacher itself, in bf16 where the machine has it, and once with its int8 export.

SST2_DATA=path/to/sst2 python benchmarks/labelling.py [minilm|bert-base] [sentences]
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from common import scratch, sentences, teacher, texts

if TYPE_CHECKING:
    from tinybert_cli.config import Data

ROUNDS = 3


def main(shape: str = "minilm", count: str = "2000") -> None:
    from transformers import pipeline

    from tinybert_cli.config import GenSoftLabels
    from tinybert_cli.stages import gen_soft_labels

    settings = sentences(int(count))
    with scratch() as name:
        folder = Path(name)
        source = teacher(shape, folder / "teacher")
        reference = pipeline("text-classification", str(source.folder), batch_size=32, top_k=None)
        shown = texts(settings)
        exported = export(source.folder, settings, folder / "export")
        speeds: dict[str, list[float]] = {"pipeline": [], "gen-soft-labels": [], "its int8 export": []}
        for turn in range(ROUNDS):
            begin = time.perf_counter()
            reference(shown)
            speeds["pipeline"].append(len(shown) / (time.perf_counter() - begin))
            for name, asked in (("gen-soft-labels", source.folder), ("its int8 export", exported)):
                config = GenSoftLabels(
                    task="text-classification",
                    data=settings,
                    teacher=str(asked),
                    check_teacher=False,
                    output_dir=str(folder / f"{name}-{turn}"),
                )
                *_, done = gen_soft_labels.run(config)
                speeds[name].append(done["rows_per_second"])
        report(speeds, f"{shape}, {len(shown):,} sentences")


def export(model: Path, settings: Data, folder: Path) -> Path:
    """The model in int8; its head is random, so nothing is asked of its answers."""
    from tinybert_cli.config import Export, Verify
    from tinybert_cli.stages import export as exporting

    given = settings.model_copy(update={"validation_file": settings.train_file})
    verify = Verify(max_samples=64, min_agreement=0.0, max_metric_drop=1.0)
    config = Export(
        task="text-classification", data=given, model=str(model), quantize="int8", verify=verify, output_dir=str(folder)
    )
    list(exporting.run(config))
    return folder


def report(speeds: dict[str, list[float]], what: str) -> None:
    print(what)
    for name, values in speeds.items():
        print(f"  {name:<18}{statistics.median(values):8.1f} sentences/s   {[round(v, 1) for v in values]}")
    theirs, *others = speeds
    for name in others:
        ratios = [ours / slow for slow, ours in zip(speeds[theirs], speeds[name], strict=True)]
        print(f"  {name}: ratio {statistics.median(ratios):.1f}   {[round(r, 1) for r in ratios]}   (to reach: 4.5)")


if __name__ == "__main__":
    main(*sys.argv[1:])
