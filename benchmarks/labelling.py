"""gen-soft-labels against the transformers pipeline at batch 32, on the same sentences, in turn; prints the ratio.

SST2_DATA=path/to/sst2 python benchmarks/labelling.py [minilm|bert-base] [sentences]
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from sentences import scratch, sentences, teacher, texts

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
        speeds: dict[str, list[float]] = {"pipeline": [], "gen-soft-labels": []}
        for turn in range(ROUNDS):
            begin = time.perf_counter()
            reference(shown)
            speeds["pipeline"].append(len(shown) / (time.perf_counter() - begin))
            config = GenSoftLabels(
                task="text-classification",
                data=settings,
                teacher=str(source.folder),
                check_teacher=False,
                output_dir=str(folder / f"labels-{turn}"),
            )
            *_, done = gen_soft_labels.run(config)
            speeds["gen-soft-labels"].append(done["rows_per_second"])
        report(speeds, f"{shape}, {len(shown):,} sentences")


def report(speeds: dict[str, list[float]], what: str) -> None:
    print(what)
    for name, values in speeds.items():
        print(f"  {name:<18}{statistics.median(values):8.1f} sentences/s   {[round(v, 1) for v in values]}")
    ratios = [ours / theirs for theirs, ours in zip(*speeds.values(), strict=True)]
    print(f"  ratio {statistics.median(ratios):.1f}   {[round(r, 1) for r in ratios]}   (to reach: 4.5)")


if __name__ == "__main__":
    main(*sys.argv[1:])
