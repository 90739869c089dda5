"""experiments/sst2.py: no phrase of a sentence set aside is in training; every candidate and stage has valid settings."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import recipe_stages
import result_files
import sst2
import sst2_tables

from tinybert_cli import configuration

SENTENCES = [
    "a slow but rewarding film about a slow town",
    "the cast never finds its rhythm",
    "a film about nothing at all",
]
TEXTS = [
    *SENTENCES,
    "slow but rewarding",
    "slow",
    "film about",
    "a film about nothing",
    "never finds its rhythm",
    "low but",
]


def test_whole_sentences_are_those_inside_no_other_row() -> None:
    rows = sst2.whole_sentences(TEXTS)
    assert [TEXTS[row] for row in rows] == [*SENTENCES, "low but"]  # "low but" is inside "slow but", but no words of it


@pytest.mark.parametrize("seed", range(5))
def test_no_long_phrase_of_a_sentence_set_aside_is_in_training(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sst2, "SPLIT_SEED", seed)
    train, held_out = sst2.split(TEXTS, 2)
    assert len(held_out) == 2 and not set(train) & set(held_out)
    sentences = [f" {TEXTS[row]} " for row in held_out]
    inside = {row for row, text in enumerate(TEXTS) if any(f" {text} " in sentence for sentence in sentences)}
    short = {row for row, text in enumerate(TEXTS) if len(text.split()) <= 2} - set(held_out)
    assert set(train) == (set(range(len(TEXTS))) - inside) | short


def test_files_of_the_split_contain_lines_of_the_training_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sst2, "HELD_OUT", 2)
    lines = [json.dumps({"sentence": text, "label": row % 2}) + "\n" for row, text in enumerate(TEXTS)]
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    counts = sst2.write_split(tmp_path, tmp_path / "held-out")
    written = {name: gzip.decompress((tmp_path / "held-out" / f"{name}.jsonl.gz").read_bytes()).decode()
               .splitlines(keepends=True) for name in ("train", "validation")}  # fmt: skip
    assert counts == {"training": len(written["train"]), "held out": 2,
                      "left out": len(lines) - len(written["train"]) - 2}  # fmt: skip
    assert set(written["train"]) | set(written["validation"]) <= set(lines)


def test_stages_of_all_candidates_and_of_the_report_have_valid_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: dict[str, Any] = {}

    def finish(words: list[str], *, env: dict[str, str]) -> Any:
        command, file, *settings = words[3:-1]
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RUNS", "SST2_DATA"):
                patch.setenv(name, env[name])
            config: Any = configuration.load(command, file, settings)
        folder = Path(config.output_dir)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        metrics: dict[str, float] = {"eval_accuracy": 0.9, "train_cpu_seconds": 60.0}
        metrics |= {"agreement": 0.99, "bytes": 5e6, "mean_abs_logit_difference": 0.1, "metric_difference": 0.0}
        for model in sst2.MODELS:
            metrics |= {f"{model}.accuracy{end}": 0.9 for end in ("", "_low", "_high")}
            metrics |= {f"{model}.bytes": 9e6, f"{model}.latency_ms_b1": 2.0, f"{model}.latency_ms_b32": 8.0}
            metrics |= {f"{model}.accuracy_difference{end}": 0.0 for end in ("", "_low", "_high")}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        configs[str(folder.relative_to(tmp_path))] = config

        class Done:
            returncode = 0

        return Done()

    monkeypatch.setattr(recipe_stages.subprocess, "run", finish)
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    runs = sst2.Runs(tmp_path / "data", tmp_path / "seed-43", 43)
    for part, candidates in sst2.CANDIDATES.items():
        for name in candidates:
            sst2._record(part, 43, {name: runs.measured(runs.candidate(part, name))})
    assert {config.seed for config in configs.values()} == {43}
    trained = {name: config for name, config in configs.items() if hasattr(config, "training")}
    assert {(config.training.eval_strategy, config.training.keep) for config in trained.values()} == {("no", "last")}
    assert configs["seed-43/teacher-labels-0"].augment is None
    assert configs["seed-43/teacher-labels-2"].augment.copies == 2
    best = "students-3-epochs"  # the first of equal ones
    after_layers = "students-3-epochs-on-layers-then-3-epochs-rate-1e-4"
    assert configs[f"seed-43/{after_layers}"].student.from_ == str(tmp_path / "seed-43" / f"{after_layers}-layers")
    student2 = configs["seed-43/students2-3-epochs-trimmed-vocabulary"]
    assert student2.model.from_ == str(tmp_path / "seed-43" / best)
    assert student2.label_dataset == str(tmp_path / "seed-43" / f"{best}-labels-0")
    small = configs["seed-43/small-320-units"]
    assert (small.student.hidden_size, small.student.num_hidden_layers) == (320, 2)
    assert small.student.from_ == small.teacher == student2.model.from_
    of_report = sst2.Runs(tmp_path / "data", tmp_path / "report", 43)
    report = of_report.report()
    assert report["models"].keys() == set(sst2.MODELS) and "student2 minus student2-plain" in report["differences"]
    reported = [
        config for name, config in configs.items() if name.startswith("report/") and hasattr(config, "training")
    ]
    assert {(config.training.eval_strategy, config.training.keep) for config in reported} == {("no", "last")}
    assert configs["report/sst2-minilm/student"].teacher == str(tmp_path / "report/sst2-minilm/teacher")
    lines = list(sst2_tables.candidates("students")(result_files.read(sst2.RESULTS)))
    assert lines[0] == "| student | seed 43 | mean | minus teacher | CPU minutes |"
    assert lines[2] == "| 3 epochs | 0.9000 | 0.9000 | +0.0000 | 1 |" and len(lines) == 2 + len(sst2.STUDENTS)
    latencies = of_report.latencies()
    line = list(sst2_tables.report({"report": {"43": report}, "latencies": {"43": latencies}}))[3]
    assert line.startswith("| student, layers 1, 3, 6 | `3-student.yaml` | 0.9000 | 0.9000 | 100.0%, 100.0% |")
    chosen = configs["seed-43/small-320-units"]
    small = configs["report/sst2-minilm/student2-small"]
    assert small.student.hidden_size == chosen.student.hidden_size and small.training == chosen.training
    assert configs["report/sst2-minilm/export-small"].matrix_bits == 4
    assert len(list(sst2_tables.small({"report": {"43": report}, "latencies": {"43": latencies}}))) == 6
    assert of_report.bits().keys() == {f"{matrices} {tables}" for matrices, tables in sst2.BITS}
