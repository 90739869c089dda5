"""experiments/cascade.py: rows of selection are not trained on, scores are those of `eval`, a restart trains nothing."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState
from conftest import Configs, run, sentences

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import cascade_runs
import cascade_scores
import cascade_sets
import cascade_tables

from tinybert_cli.stage_server import run_here

TINY = cascade_sets.Experiment(
    "text-classification", "accuracy", "tiny", "validation", 2, {"label_names": ["bad", "good"], "max_seq_length": 16},
    ("text",), selection_rows=16, batches={"per_device_train_batch_size": 8},
)  # fmt: skip


def test_rows_with_equal_texts_are_all_trained_on_or_all_set_aside() -> None:
    lines = [json.dumps({"text": f"text {index % 20}", "label": index}) + "\n" for index in range(100)]
    train, selection = cascade_sets.split(lines, ["text"], 12)
    assert len(selection) == 15 and sorted(train + selection) == sorted(lines)
    texts = [{json.loads(line)["text"] for line in part} for part in (train, selection)]
    assert not texts[0] & texts[1]
    assert cascade_sets.split(lines, ["text"], 12) == (train, selection)


def test_a_difference_is_the_mean_over_seeds_with_an_interval_over_rows() -> None:
    reference = {"score": 0.5, "resampled": [0.4, 0.6]}
    pairs = {"42": ({"score": 0.7, "resampled": [0.6, 0.8]}, reference),
             "43": ({"score": 0.6, "resampled": [0.4, 0.8]}, reference)}  # fmt: skip
    measured = cascade_scores.difference(pairs)
    assert measured["seeds"] == pytest.approx({"42": 0.2, "43": 0.1}) and measured["difference"] == pytest.approx(0.15)
    assert (measured["low"], measured["high"]) == pytest.approx((0.1025, 0.1975))  # of the means 0.1 and 0.2
    assert measured["intervals"]["43"] == pytest.approx([0.005, 0.195])
    assert "low" not in cascade_scores.difference({"42": (reference, reference)})


def test_recorded_seeds_of_another_machine_stay() -> None:
    def result(seed: str, gold: float, low: float, high: float) -> dict[str, Any]:
        minus = {"difference": gold - 0.5, "seeds": {seed: gold - 0.5}, "intervals": {seed: [low, high]}}
        gold_model = {"seeds": {seed: {"score": gold}}, "minus direct": {**minus, "low": low, "high": high}}
        models = {"gold": gold_model, "direct": {"seeds": {seed: {"score": 0.5}}}}
        same = {"rows": {"test": 9}, "test_file": "test", "metric": "f1", "epochs": 3, "baselines": {}}
        return {**same, "models": models}

    first, second = result("42", 0.7, 0.1, 0.3), result("43", 0.6, 0.0, 0.2)
    joined = cascade_scores.with_other_seeds(second, first)
    gold = joined["models"]["gold"]
    assert gold["seeds"] == {"42": {"score": 0.7}, "43": {"score": 0.6}} and list(joined["models"]["direct"]["seeds"]) == [
        "42", "43",
    ]  # fmt: skip
    assert gold["minus direct"] == {
        "difference": pytest.approx(0.15), "seeds": {"42": pytest.approx(0.2), "43": pytest.approx(0.1)},
        "intervals": {"42": [0.1, 0.3], "43": [0.0, 0.2]}, "low": pytest.approx(0.05), "high": pytest.approx(0.25),
    }  # fmt: skip
    assert cascade_scores.with_other_seeds(second, joined) == joined
    assert cascade_scores.with_other_seeds(first, first) == first
    assert cascade_scores.with_other_seeds({**second, "epochs": 2}, first) == {**second, "epochs": 2}
    assert cascade_scores.with_other_seeds(second, {}) == second


def in_this_process(command: str, words: Sequence[str]) -> tuple[int, Mapping[str, Any]]:
    """Runs a command as a process of its own would, with no state of the one before."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return run_here(command, words)


@pytest.fixture
def tiny_runs(tmp_path: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`tiny_runs(models)`: trains these models on the sentences of the tests; returns the result."""
    source = tmp_path / "datasets" / "tiny"
    source.mkdir(parents=True)
    for name in ("train", "validation"):
        with gzip.open(source / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(row)}\n" for row in sentences(name)))
    monkeypatch.setitem(cascade_sets.EXPERIMENTS, "tiny", TINY)
    monkeypatch.setattr(cascade_sets, "MINILM", str(base_model))
    folder = tmp_path / "cascade" / "tiny"
    data = cascade_sets.write_split(TINY, source.parent, folder / "data")

    def train(
        models: Sequence[str], seed: int = 42, rates: Sequence[float] = (3e-3,), execute: Any = in_this_process
    ) -> Any:
        runs = cascade_runs.Runs("tiny", data, folder / f"seed-{seed}", seed, rates, execute)
        scores = cascade_scores.Scores("tiny", data, folder)
        for model in models:
            runs.train(model)
            scores.add(seed, model, runs.candidates(model))
        return scores.result()

    return train


def refused(command: str, words: Sequence[str]) -> tuple[int, Mapping[str, Any]]:
    raise AssertionError(f"tinybert {command} {words[0]}")


def test_all_arms_are_trained_and_scored_as_by_eval(
    tiny_runs: Callable[..., dict[str, Any]], configs: Configs, tmp_path: Path
) -> None:
    first = tiny_runs(["teacher"])
    assert [line.split("|")[2].strip(" *") for line in cascade_tables.table({"tiny": first})][2:] == [
        "baseline: majority class", "baseline: TF-IDF", "teacher",
    ]  # fmt: skip
    models = ["teacher", "student", *cascade_runs.ARMS]
    result = tiny_runs(models)
    assert list(result["models"]) == models and len(list(cascade_tables.table({"tiny": result}))) == 4 + len(models)
    rows = result["rows"]
    assert rows["validation"] >= 16 and rows["train"] + rows["validation"] == 96 and rows["test"] == 48
    folder = tmp_path / "cascade" / "tiny" / "seed-42"
    compared = {"direct": str(folder / "direct-0.003"), "gold": str(folder / "gold-0.003")}
    files = {f"data__{part}_file": str(folder.parent / "data" / f"{part}.jsonl") for part in ("train", "test")}
    run("eval", configs("eval", "eval", models=compared, split="test", latency=None, seed=42, **files))
    numbers = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    gold = result["models"]["gold"]
    for key, name in {"score": "gold.accuracy", "low": "gold.accuracy_low", "high": "gold.accuracy_high"}.items():
        assert gold["seeds"]["42"][key] == pytest.approx(numbers[name])
    assert gold["minus direct"]["difference"] == pytest.approx(numbers["gold.accuracy_difference"])
    assert result["baselines"]["tfidf"]["score"] == pytest.approx(numbers["tfidf.accuracy"])
    assert "minus direct" not in result["models"]["direct"] and "minus gold" in result["models"]["direct"]
    assert tiny_runs(models, execute=refused) == result  # finished stages are skipped


def test_the_selection_rows_choose_the_rate_and_seeds_are_averaged(tiny_runs: Callable[..., dict[str, Any]]) -> None:
    tiny_runs(["teacher", "gold"], rates=(1e-9, 3e-3))
    result = tiny_runs(["gold"], seed=43)
    seeds = result["models"]["gold"]["seeds"]
    selection = seeds["42"]["selection"]
    best = max(selection, key=lambda rate: selection[rate])
    assert list(selection) == ["1e-09", "0.003"] and f"{seeds['42']['rate']:g}" == best
    row = list(cascade_tables.table({"tiny": result}))[-1]
    scores = sorted(one["score"] for one in seeds.values())
    assert f"{sum(scores) / 2:.4f} (seeds {scores[0]:.4f}-{scores[1]:.4f})" in row and "| 2 |" in row
