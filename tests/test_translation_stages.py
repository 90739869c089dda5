"""The stages of the task translation on a small made-up language, with the config files that a user writes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sacrebleu
from conftest import write_rows
from translation_model import pairs

from tinybert_cli import artifacts, cli, data, formats
from tinybert_cli.config import COMMANDS
from tinybert_cli.errors import InputError, Interrupted
from tinybert_cli.stages import distill, finetune, gen_soft_labels, translating
from tinybert_cli.translation_predictor import load_translation_predictor
from tinybert_cli.types import Hypothesis, Search

Stage = Callable[..., dict[str, Any]]
COLUMNS = {"text_column_names": "en", "label_column_name": "xx", "max_seq_length": 32, "max_target_length": 32}
ROWS, EVALUATED = 64, 16  # rows of train and of test
FEW_STEPS = {"max_steps": 4, "per_device_train_batch_tokens": 512, "mixed_precision": "no", "logging_steps": 1}


def run_stage(command: str, folder: Path, **settings: Any) -> dict[str, Any]:
    """Runs a stage from a YAML file that writes `folder`; returns its metrics."""
    config = {"task": "translation", "output_dir": str(folder), **settings}
    file = folder.parent / f"{folder.name}.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    assert cli.execute(command, file, [], **flags) == 0
    return artifacts.read_metrics(folder)


def log(folder: Path, event: str) -> list[dict[str, Any]]:
    return list(artifacts.read_rows(folder, event))


def shard(folder: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.read_table(folder / "train-00000-of-00001.parquet").to_pydict()
    return columns


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The section `data`: few rows of train, validation and test."""
    folder = tmp_path_factory.mktemp("few")
    files = {split: write_rows(folder / f"{split}.jsonl", pairs(split)) for split in ("validation", "test")}
    files["train"] = write_rows(folder / "train.jsonl", pairs("train")[:ROWS])
    return {**COLUMNS, **{f"{split}_file": str(file) for split, file in files.items()}}


@pytest.fixture(scope="module")
def labels(tiny_translator: Path, sentences: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label dataset with the 3 best translations of each row and distributions."""
    folder = tmp_path_factory.mktemp("labels") / "labels"
    search = {"beams": 3, "keep": 3}
    run_stage(
        "gen-soft-labels", folder, teacher=str(tiny_translator), data=sentences, search=search, top_k=6,
        engine="transformers",
    )  # fmt: skip
    return folder


@pytest.fixture
def stage(sentences: dict[str, Any], tmp_path: Path) -> Stage:
    """`stage("eval", "out", models=...)`: the metrics of a stage that writes tmp_path/out."""

    def stage(command: str, output: str, **settings: Any) -> dict[str, Any]:
        values = {"data": {**sentences, **settings.pop("data", {})}, **settings}
        return run_stage(command, tmp_path / output, **values)

    return stage


# -- finetune ------------------------------------------------------------------------------------------------


def test_a_new_model_learns_to_translate(tiny_translator: Path) -> None:
    numbers = artifacts.read_metrics(tiny_translator)
    assert numbers["eval_bleu"] > 70 and numbers["eval_bleu_low"] < numbers["eval_bleu"] < numbers["eval_bleu_high"]
    assert numbers["eval_chrf"] > numbers["eval_bleu"] and numbers["eval_loss"] < 1
    assert numbers["train_target_tokens_per_second"] > 0


def test_the_folder_translates_the_same_in_transformers(tiny_translator: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from tinybert_cli.translation_predictor import load_translation_predictor

    texts = [row["en"] for row in pairs("test")[:12]]
    tokenizer = AutoTokenizer.from_pretrained(tiny_translator)
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny_translator)
    outputs = model.generate(**tokenizer(texts, return_tensors="pt", padding=True), num_beams=4, max_new_tokens=32)
    own = [row["prediction"] for row in load_translation_predictor(str(tiny_translator)).predict(texts)]
    assert tokenizer.batch_decode(outputs, skip_special_tokens=True) == own


def test_validation_by_bleu_generates_and_selects_the_best(stage: Stage, tiny_translator: Path, tmp_path: Path) -> None:
    training = {
        **FEW_STEPS, "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "bleu"
    }  # fmt: skip
    numbers = stage("finetune", "out", model=str(tiny_translator), training=training)
    scores = [row["bleu"] for row in log(tmp_path / "out", "evaluate")]
    assert len(scores) == 2 and numbers["eval_bleu"] == pytest.approx(max(scores), abs=1e-6)


# -- gen-soft-labels -----------------------------------------------------------------------------------------


def test_a_label_dataset_has_translations_scores_and_lengths(labels: Path) -> None:
    columns = shard(labels)
    assert columns["en"] == [row["en"] for row in pairs("train")[:ROWS]]
    assert sacrebleu.corpus_bleu(columns["teacher_prediction"], [columns["xx"]]).score > 70
    assert all(columns["teacher_finished"]) and max(columns["teacher_score"]) < 0
    for texts, scores, chosen in zip(
        columns["teacher_translations"], columns["teacher_scores"], columns["teacher_prediction"], strict=True
    ):
        assert len(texts) == 3 and scores == sorted(scores, reverse=True) and chosen == texts[0]


def test_metrics_and_manifest_count_the_kinds_of_translations(labels: Path) -> None:
    numbers, manifest = artifacts.read_metrics(labels), artifacts.read_manifest(labels)
    assert numbers["rows"] == numbers["stored_rows"] == ROWS
    assert {"share_empty", "share_cut", "share_looping", "share_copied", "share_length_ratio"} <= numbers.keys()
    assert numbers["teacher_bleu"] > 70 > 10 > numbers["copied_source_bleu"]
    assert manifest["engine"] == "transformers" and manifest["search"]["beams"] == 3 and manifest["top_k"] == 6


def test_both_engines_write_the_same_labels(stage: Stage, tiny_translator: Path, labels: Path, tmp_path: Path) -> None:
    stage("gen-soft-labels", "out", teacher=str(tiny_translator), engine="ctranslate2", search={"beams": 3, "keep": 3})
    first, second = shard(labels), shard(tmp_path / "out")
    assert first["teacher_prediction"] == second["teacher_prediction"]
    same = [a == b for a, b in zip(first["teacher_translations"], second["teacher_translations"], strict=True)]
    assert sum(same) >= 0.95 * ROWS  # the last of the n-best depends on when the search ends
    assert first["teacher_score"] == pytest.approx(second["teacher_score"], abs=1e-4)
    assert first["teacher_tokens"] == second["teacher_tokens"]
    manifest = artifacts.read_manifest(tmp_path / "out")
    assert manifest["engine_same"] == manifest["engine_as_good"] == 1.0


def test_an_engine_that_finds_worse_translations_is_not_used(
    stage: Stage, tiny_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Halved(formats.Ctranslate2Translator):
        """Leaves out the second half of each translation, and claims the best score."""

        def translate(self, sources: Sequence[Sequence[int]], search: Search) -> list[list[Hypothesis]]:
            whole = super().translate(sources, search)
            return [[replace(one[0], ids=one[0].ids[: len(one[0].ids) // 2], score=0.0)] for one in whole]

    monkeypatch.setattr(formats, "Ctranslate2Translator", Halved)
    stage("gen-soft-labels", "out", teacher=str(tiny_translator), search={"beams": 4, "length_penalty": 1.3})
    assert artifacts.read_manifest(tmp_path / "out")["engine"] == "transformers"
    warnings = [row["message"] for row in log(tmp_path / "out", "warning")]
    assert any("CTranslate2 translates as well as transformers in only 0.0% of 64 rows" in one for one in warnings)


@pytest.mark.parametrize("by", ["chrf", "bleu"])
def test_select_takes_the_beam_nearest_to_the_reference(
    by: str, stage: Stage, tiny_translator: Path, labels: Path, tmp_path: Path
) -> None:
    stage(
        "gen-soft-labels", "out", teacher=str(tiny_translator), engine="transformers",
        search={"beams": 3, "keep": 3, "select": by},
    )  # fmt: skip
    metric = sacrebleu.CHRF(word_order=2) if by == "chrf" else sacrebleu.BLEU(effective_order=True)
    columns = shard(tmp_path / "out")
    assert columns["teacher_translations"] == shard(labels)["teacher_translations"]
    for reference, texts, chosen in zip(
        columns["xx"], columns["teacher_translations"], columns["teacher_prediction"], strict=True
    ):
        scores = [metric.sentence_score(text, [reference]).score for text in texts]
        assert chosen == texts[int(np.argmax(scores))]
    assert columns["teacher_prediction"] != shard(labels)["teacher_prediction"]  # some of them are better


def test_rows_without_references_are_selected_by_score(stage: Stage, tiny_translator: Path, tmp_path: Path) -> None:
    rows = [{"en": row["en"], "xx": row["xx"] if index % 2 else None} for index, row in enumerate(pairs("train")[:8])]
    file = write_rows(tmp_path / "unlabeled.jsonl", rows)
    stage(
        "gen-soft-labels", "out", teacher=str(tiny_translator), splits=["unlabeled"], engine="transformers",
        data={"unlabeled_file": str(file)}, search={"beams": 3, "keep": 3, "select": "chrf"},
    )  # fmt: skip
    columns = pq.read_table(tmp_path / "out" / "unlabeled-00000-of-00001.parquet").to_pydict()
    assert columns["teacher_prediction"][0] == columns["teacher_translations"][0][0]


@pytest.mark.parametrize("select", ["score", "chrf"])
def test_cut_translations_are_no_alternatives(select: str, stage: Stage, tiny_translator: Path, tmp_path: Path) -> None:
    search = {"beams": 4, "keep": 4, "select": select}
    stage(
        "gen-soft-labels", "out", teacher=str(tiny_translator), engine="transformers", check_teacher=False,
        drop=["cut"], search=search, data={"max_target_length": 14},
    )  # fmt: skip
    columns = shard(tmp_path / "out")
    lengths = {len(texts) for texts in columns["teacher_translations"]}
    assert lengths <= {1, 2, 3, 4} and min(lengths) < 4  # the others were cut
    tokenizer = load_translation_predictor(str(tiny_translator)).tokenizer
    for texts, chosen in zip(columns["teacher_translations"], columns["teacher_prediction"], strict=True):
        assert chosen in texts and max(map(len, tokenizer.target_ids(texts))) <= 14


def test_a_finished_beam_wins_over_a_cut_one_that_is_nearer_to_the_reference(
    stage: Stage, tiny_translator: Path, tmp_path: Path
) -> None:
    cut = {}
    for select in ("score", "chrf"):
        numbers = stage(
            "gen-soft-labels", select, teacher=str(tiny_translator), engine="transformers", check_teacher=False,
            drop=["cut"], search={"beams": 4, "select": select}, data={"max_target_length": 13},
        )  # fmt: skip
        cut[select] = numbers["share_cut"]
    assert cut["chrf"] < cut["score"]


def test_distributions_belong_to_the_chosen_translations(labels: Path, tiny_translator: Path) -> None:
    tokenizer = load_translation_predictor(str(tiny_translator)).tokenizer
    stored = data.read_top_k(labels, [path.name for path in labels.iterdir()])
    ids = tokenizer.target_ids(shard(labels)["teacher_prediction"])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    stored.check(np.concatenate(ids), offsets)
    batch = stored.batch(np.arange(ROWS), np.diff(offsets))
    assert batch["teacher_topk_ids"].shape == (offsets[-1], 6)
    best = (batch["teacher_topk_ids"][:, 0].numpy() == np.concatenate(ids)).mean()
    assert best > 0.9  # greedy and beam search mostly take the most probable token
    assert (batch["teacher_topk_logprobs"].float().exp().sum(-1) <= 1.001).all()


def test_dropped_kinds_are_counted_and_left_out_of_every_file(
    stage: Stage, tiny_translator: Path, tmp_path: Path
) -> None:
    numbers = stage(
        "gen-soft-labels", "out", teacher=str(tiny_translator), engine="transformers", check_teacher=False,
        drop=["cut"], top_k=4, data={"max_target_length": 14},
    )  # fmt: skip
    columns, shares = shard(tmp_path / "out"), numbers["share_cut"]
    assert 0 < shares < 1 and len(columns["en"]) == round(ROWS * (1 - shares)) == numbers["stored_rows"]
    assert all(columns["teacher_finished"]) and max(columns["teacher_tokens"]) <= 14
    assert len(data.read_top_k(tmp_path / "out", ["train-00000-of-00001.parquet"]).shards) == 1


# -- distill and student2 ------------------------------------------------------------------------------------

SAME_SHAPE: dict[str, Any] = {"training": FEW_STEPS, "losses": {"hard_labels": 1.0}}


@pytest.mark.parametrize(("targets", "rows"), [("teacher", ROWS), ("gold", ROWS), ("both", 2 * ROWS), ("n_best", None)])
def test_distill_learns_the_target_texts_that_the_config_names(
    targets: str, rows: int | None, stage: Stage, labels: Path, tiny_translator: Path, tmp_path: Path
) -> None:
    stage("distill", "out", label_dataset=str(labels), student=str(tiny_translator), targets=targets, **SAME_SHAPE)
    (event,) = log(tmp_path / "out", "labels")
    rows = rows or sum(len(set(texts)) for texts in shard(labels)["teacher_translations"])
    assert event["selected"] == rows and event["targets"] == targets
    assert log(tmp_path / "out", "plan")[0]["rows"] == rows
    card = (tmp_path / "out/README.md").read_text()
    assert ("distilled from" in card) == ("on the predictions of" in card) == (targets != "gold")


@pytest.fixture
def cut_labels(
    stage: Stage, tiny_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, int]:
    """A label dataset with the 3 best translations of each row, and how many of the chosen ones were cut."""
    monkeypatch.setattr(translating, "MOST_CUT", 1.0)
    numbers = stage(
        "gen-soft-labels", "cut", teacher=str(tiny_translator), engine="transformers", check_teacher=False, top_k=6,
        search={"beams": 3, "keep": 3}, data={"max_target_length": 13},
    )  # fmt: skip
    assert 0 < numbers["share_cut"] < 1
    return tmp_path / "cut", round(ROWS * numbers["share_cut"])


@pytest.mark.parametrize("targets", ["teacher", "gold", "both", "n_best"])
def test_a_translation_that_was_cut_is_not_learnt(
    targets: str, stage: Stage, cut_labels: tuple[Path, int], tiny_translator: Path, tmp_path: Path
) -> None:
    folder, count = cut_labels
    losses = {"hard_labels": 1.0, **({"soft_labels": 1.0} if targets in ("teacher", "both") else {})}
    stage("distill", "out", label_dataset=str(folder), student=str(tiny_translator), targets=targets, losses=losses,
          training=FEW_STEPS)  # fmt: skip
    columns = shard(folder)
    whole = [
        texts for texts, end in zip(columns["teacher_translations"], columns["teacher_finished"], strict=True) if end
    ]
    assert len(whole) == ROWS - count
    expected = {"teacher": len(whole), "gold": ROWS, "both": ROWS + len(whole)}
    if targets != "n_best":
        assert log(tmp_path / "out", "labels")[0]["selected"] == expected[targets]
    else:
        cut_rows = [texts for texts in columns["teacher_translations"] if texts not in whole]
        others = sum(len(set(texts)) - 1 for texts in cut_rows)
        assert log(tmp_path / "out", "labels")[0]["selected"] == sum(len(set(texts)) for texts in whole) + others
    warned = [row["message"] for row in log(tmp_path / "out", "warning") if "are cut at the limit" in row["message"]]
    assert len(warned) == (targets != "gold")
    assert all(message.startswith(f"{count} of {ROWS} translations in") for message in warned)


def test_student2_learns_no_translation_that_was_cut(
    stage: Stage, cut_labels: tuple[Path, int], tiny_translator: Path, tmp_path: Path
) -> None:
    folder, count = cut_labels
    stage("finetune", "out", label_dataset=str(folder), model=str(tiny_translator), training=FEW_STEPS)
    assert log(tmp_path / "out", "plan")[0]["rows"] == ROWS - count


def test_labels_that_are_all_cut_are_an_error(
    sentences: dict[str, Any], tiny_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(translating, "MOST_CUT", 1.0)
    short = {**sentences, "max_target_length": 4}
    run_stage("gen-soft-labels", tmp_path / "cut", teacher=str(tiny_translator), engine="transformers",
              check_teacher=False, data=short)  # fmt: skip
    config = {"task": "translation", "output_dir": str(tmp_path / "out"), "data": short, "model": str(tiny_translator),
              "label_dataset": str(tmp_path / "cut"), "training": FEW_STEPS}  # fmt: skip
    (tmp_path / "out.yaml").write_text(json.dumps(config))
    flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    assert cli.execute("finetune", tmp_path / "out.yaml", [], **flags) == 3
    assert "every translation in" in capsys.readouterr().err


def test_every_reference_of_a_row_is_learnt(stage: Stage, tiny_translator: Path, tmp_path: Path) -> None:
    rows = [{"en": row["en"], "xx": [row["xx"], row["xx"].lower()]} for row in pairs("train")[:ROWS]]
    file = {"train_file": str(write_rows(tmp_path / "several.jsonl", rows))}
    stage("gen-soft-labels", "labels", teacher=str(tiny_translator), engine="transformers", data=file)
    for targets, count in (("gold", 2 * ROWS), ("both", 3 * ROWS)):
        stage("distill", targets, label_dataset=str(tmp_path / "labels"), student=str(tiny_translator),
              targets=targets, data=file, **SAME_SHAPE)  # fmt: skip
        assert log(tmp_path / targets, "labels")[0]["selected"] == count


def test_word_level_losses_need_only_hard_and_soft_labels(
    stage: Stage, labels: Path, tiny_translator: Path, tmp_path: Path
) -> None:
    losses = {"hard_labels": 1.0, "soft_labels": {"weight": 0.5, "temperature": 2.0}}
    student = {"from": str(tiny_translator), "num_hidden_layers": 2, "initialize": "random"}
    stage("distill", "out", label_dataset=str(labels), student=student, targets="both", losses=losses,
          training={**FEW_STEPS, "max_steps": 12, "learning_rate": 3e-3})  # fmt: skip
    events = log(tmp_path / "out", "train")
    for name in losses:
        assert events[-1][name] < events[0][name]


def test_a_student_of_the_teacher_itself_has_the_lowest_word_level_loss(
    stage: Stage, labels: Path, tiny_translator: Path, tmp_path: Path
) -> None:
    first = {}
    for name, settings in {"same": {}, "random": {"initialize": "random"}}.items():
        stage("distill", name, label_dataset=str(labels), student={"from": str(tiny_translator), **settings},
              losses={"soft_labels": 1.0}, training={**FEW_STEPS, "max_steps": 1})  # fmt: skip
        first[name] = log(tmp_path / name, "train")[0]["soft_labels"]
    assert first["same"] < 0.3 * first["random"]


def test_student2_is_fine_tuned_on_the_translations_of_a_label_dataset(
    stage: Stage, labels: Path, tiny_translator: Path, tmp_path: Path
) -> None:
    numbers = stage(
        "finetune", "out", label_dataset=str(labels), model=str(tiny_translator), training=FEW_STEPS,
        regularization={"label_smoothing": 0.1, "dropout": 0.1, "r_drop": 1.0},
    )  # fmt: skip
    assert log(tmp_path / "out", "labels")[0]["targets"] == "teacher" and numbers["eval_bleu"] > 50
    assert str(labels) in (tmp_path / "out" / "README.md").read_text()


def test_max_train_samples_counts_train_and_unlabeled_rows_apart(
    stage: Stage, tiny_translator: Path, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "unlabeled.jsonl", [{"en": row["en"]} for row in pairs("train")[ROWS : ROWS + 30]])
    limited = {"unlabeled_file": str(file), "max_train_samples": 20}
    stage("gen-soft-labels", "labels", teacher=str(tiny_translator), engine="transformers", data=limited,
          splits=["train", "unlabeled"], top_k=4)  # fmt: skip
    settings = {"label_dataset": str(tmp_path / "labels"), "student": str(tiny_translator), "training": FEW_STEPS}
    stage("distill", "same", data=limited, losses={"soft_labels": 1.0}, **settings)
    stage("distill", "fewer", data={**limited, "max_train_samples": 5}, losses={"soft_labels": 1.0}, **settings)
    rows = [log(tmp_path / name, "labels")[0]["selected"] for name in ("same", "fewer")]
    assert rows == [40, 10]


# -- eval ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluation(tiny_translator: Path, sentences: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models evaluated side by side: the small translator, and one that a few steps have spoilt."""
    folder = tmp_path_factory.mktemp("eval")
    training = {**FEW_STEPS, "max_steps": 2, "learning_rate": 3e-2, "eval_strategy": "no"}
    run_stage("finetune", folder / "worse", model=str(tiny_translator), data=sentences, training=training)
    run_stage(
        "eval", folder / "eval", models={"best": str(tiny_translator), "worse": str(folder / "worse")},
        data={**sentences, "max_eval_samples": EVALUATED}, split="test", latency={"batch_sizes": [2]}, bootstrap=200,
    )  # fmt: skip
    return folder / "eval"


def test_eval_writes_every_number_of_both_models(evaluation: Path) -> None:
    numbers = artifacts.read_metrics(evaluation)
    for model in ("best", "worse"):
        for name in ("bleu", "chrf", "loss", "length_ratio", "empty", "looping", "copied", "bytes", "parameters"):
            assert f"{model}.{name}" in numbers, name
        assert numbers[f"{model}.bleu_low"] <= numbers[f"{model}.bleu"] <= numbers[f"{model}.bleu_high"]
        for beams in (1, 4):
            assert numbers[f"{model}.sentences_per_second_b2_beam{beams}"] > 0
            assert numbers[f"{model}.target_tokens_per_second_b2_beam{beams}"] > 0
    assert numbers["worse.bleu"] < numbers["best.bleu"]
    assert numbers["worse.retention"] == pytest.approx(numbers["worse.bleu"] / numbers["best.bleu"])
    assert 0 < numbers["worse.agreement"] < 1 and 0 <= numbers["worse.same"] < 1
    assert numbers["worse.bleu_difference"] < 0 and numbers["worse.rows_lost"] > 0


def test_eval_scores_as_sacrebleu_does_and_names_its_signature(evaluation: Path) -> None:
    numbers = artifacts.read_metrics(evaluation)
    table = pq.read_table(evaluation / "predictions.parquet").to_pydict()
    texts, references = table["best_prediction"], [row["xx"] for row in pairs("test")[:EVALUATED]]
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF(word_order=2)
    assert numbers["best.bleu"] == pytest.approx(bleu.corpus_score(texts, [references]).score, abs=1e-6)
    assert numbers["best.chrf"] == pytest.approx(chrf.corpus_score(texts, [references]).score, abs=1e-6)
    signatures = artifacts.read_manifest(evaluation)["signatures"]
    assert signatures["bleu"] == str(bleu.get_signature()) and signatures["chrf"] == str(chrf.get_signature())
    report = (evaluation / "report.md").read_text()
    assert signatures["bleu"] in report and signatures["chrf"] in report


def test_eval_slices_by_the_length_of_the_source(evaluation: Path) -> None:
    numbers = artifacts.read_metrics(evaluation)
    assert {f"best.chrf[length={part}]" for part in ("low", "middle", "high")} <= numbers.keys()


def test_regressions_show_the_outputs_of_all_models_side_by_side(evaluation: Path) -> None:
    table = pq.read_table(evaluation / "regressions.parquet").to_pydict()
    assert len(table["en"]) and {"en", "label", "best_prediction", "worse_prediction"} <= table.keys()
    assert all(best != worse for best, worse in zip(table["best_prediction"], table["worse_prediction"], strict=True))


def test_rows_may_have_several_references_in_eval(stage: Stage, tiny_translator: Path, tmp_path: Path) -> None:
    rows = [{**row, "xx": [row["xx"], "Lo fulo."][: 1 + index % 2]} for index, row in enumerate(pairs("test"))]
    file = write_rows(tmp_path / "several.jsonl", rows)
    numbers = stage("eval", "out", models={"t": str(tiny_translator)}, data={"test_file": str(file)}, split="test",
                    latency=None, bootstrap=20)  # fmt: skip
    texts = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pydict()["t_prediction"]
    streams = [[row["xx"][0] for row in rows], [row["xx"][1] if len(row["xx"]) > 1 else None for row in rows]]
    assert numbers["t.bleu"] == pytest.approx(sacrebleu.BLEU().corpus_score(texts, streams).score, abs=1e-6)
    assert "nrefs:var" in artifacts.read_manifest(tmp_path / "out")["signatures"]["bleu"]


def test_translations_that_are_cut_are_counted_and_reported(
    stage: Stage, tiny_translator: Path, tmp_path: Path
) -> None:
    for length in (14, 32):
        numbers = stage("eval", f"eval-{length}", models={"small": str(tiny_translator)}, split="test", latency=None,
                        data={"max_target_length": length}, search={"beams": 2})  # fmt: skip
        warned = [row["message"] for row in log(tmp_path / f"eval-{length}", "warning") if "are cut" in row["message"]]
        count = round(numbers["small.cut"] * 40)
        expected = f"{count} of 40 translations of 'small' are cut at the limit of their length: data.max_target_length"
        assert len(warned) == (length == 14) == bool(count)
        assert all(message.startswith(f"{expected} 14, search.max_length_factor 2") for message in warned)
    assert "| cut |" in (tmp_path / "eval-14" / "report.md").read_text()


def test_the_loss_is_that_of_all_references(stage: Stage, tiny_translator: Path) -> None:
    losses = {
        length: stage("eval", f"eval-{length}", models={"small": str(tiny_translator)}, split="test", latency=None,
                      bootstrap=0, data={"max_target_length": length}, search={"beams": 1})["small.loss"]
        for length in (4, 14, 32)
    }  # fmt: skip
    assert losses[4] == losses[14] == pytest.approx(losses[32], abs=1e-9)


def test_references_with_more_tokens_than_positions_are_left_out_of_the_loss(
    stage: Stage, tiny_translator: Path, tmp_path: Path
) -> None:
    rows = [*pairs("test")[:5], {"en": "The man.", "xx": "borko " * 700}]
    stage("eval", "out", models={"small": str(tiny_translator)}, split="test", latency=None, bootstrap=0,
          data={"test_file": str(write_rows(tmp_path / "long.jsonl", rows))})  # fmt: skip
    warned = [row["message"] for row in log(tmp_path / "out", "warning")]
    expected = f"1 of 6 references has more tokens than '{tiny_translator}' has positions, and is left out of its loss"
    assert expected in warned


def test_a_maximum_is_required_of_metrics_of_which_less_is_better(
    stage: Stage, tiny_translator: Path, tmp_path: Path
) -> None:
    numbers: dict[str, float] = {}
    for name, bound in {"met": 10.0, "missed": 1e-6}.items():
        config = {"models": {"small": str(tiny_translator)}, "split": "test", "latency": None, "bootstrap": 0,
                  "require": {"small": {"loss": bound, "copied": 0.5}}}  # fmt: skip
        if name == "met":
            numbers = stage("eval", name, **config)
        else:
            with pytest.raises(AssertionError, match="5 == 0"):
                stage("eval", name, **config)
    assert 1e-6 < numbers["small.loss"] < 10


def test_a_requirement_that_is_not_met_is_exit_code_5(
    tiny_translator: Path, sentences: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "task": "translation", "output_dir": str(tmp_path / "out"), "data": sentences, "latency": None,
        "models": {"t": str(tiny_translator)}, "require": {"t": {"bleu": 99.9, "chrf": 20}},
    }  # fmt: skip
    (tmp_path / "eval.yaml").write_text(json.dumps(config))
    flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    assert cli.execute("eval", tmp_path / "eval.yaml", [], **flags) == 5
    assert "required is 99.9" in capsys.readouterr().err


# -- runs that are interrupted -------------------------------------------------------------------------------

INTERRUPTED = {
    "max_steps": 9, "per_device_train_batch_tokens": 256, "gradient_accumulation_steps": 2, "mixed_precision": "no",
    "eval_strategy": "no", "save_steps": 4, "logging_steps": 4, "learning_rate": 3e-3,
}  # fmt: skip


def interrupt(events: Iterator[dict[str, Any]], event: str, step: int) -> None:
    """Sends the stage a signal at its first event of this name at or after a step."""
    generator: Any = events
    for row in generator:
        if row["event"] == event and row["step"] >= step:
            with pytest.raises(Interrupted):
                generator.throw(Interrupted(signal.SIGTERM, "interrupted"))
            return
    raise AssertionError(f"no {event} at {step}")


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def of_command(command: str, folder: Path, settings: dict[str, Any]) -> Any:
    return COMMANDS[command].model_validate({"task": "translation", "output_dir": str(folder), **settings})


NEW = {
    "family": "marian", "num_hidden_layers": 1, "num_decoder_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
    "intermediate_size": 16, "vocabulary_size": 100,
}  # fmt: skip


def test_an_interrupted_training_ends_in_the_same_weights(sentences: dict[str, Any], tmp_path: Path) -> None:
    settings = {"data": sentences, "model": NEW, "training": INTERRUPTED, "regularization": {"dropout": 0.1}}
    for name in ("whole", "out"):
        events = finetune.run(of_command("finetune", tmp_path / name, settings))
        list(events) if name == "whole" else interrupt(events, "progress", 7)
    assert log(tmp_path / "whole", "train")[0]["epoch"] % 1  # the checkpoint is in the middle of an epoch
    rows = list(finetune.run(of_command("finetune", tmp_path / "out", settings)))
    assert [row["step"] for row in rows if row["event"] == "resume"] == [4]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def test_an_interrupted_word_level_distillation_ends_in_the_same_weights(
    sentences: dict[str, Any], labels: Path, tiny_translator: Path, tmp_path: Path
) -> None:
    settings = {
        "data": sentences, "label_dataset": str(labels), "student": str(tiny_translator), "targets": "both",
        "losses": {"hard_labels": 1.0, "soft_labels": 1.0}, "training": INTERRUPTED,
    }  # fmt: skip
    for name in ("whole", "out"):
        events = distill.run(of_command("distill", tmp_path / name, settings))
        list(events) if name == "whole" else interrupt(events, "progress", 7)
    rows = list(distill.run(of_command("distill", tmp_path / "out", settings)))
    assert [row["step"] for row in rows if row["event"] == "resume"] == [4]
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


@pytest.fixture
def labelling(
    sentences: dict[str, Any], tiny_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """`labelling("out")`: the events of gen-soft-labels in shards of 16 of 48 rows; some translations are cut."""
    monkeypatch.setattr("tinybert_cli.stages.labelling.ROWS_PER_SHARD", 16)
    settings = {
        "data": {**sentences, "max_train_samples": 48, "max_target_length": 16}, "teacher": str(tiny_translator),
        "engine": "transformers", "search": {"beams": 2, "keep": 2, "select": "chrf"}, "top_k": 4, "drop": ["cut"],
        "check_teacher": False,
    }  # fmt: skip
    return lambda name, **more: gen_soft_labels.run(
        of_command("gen-soft-labels", tmp_path / name, {**settings, **more})
    )


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".npy", ".parquet")}


def without_speed(folder: Path) -> dict[str, float]:
    return {name: value for name, value in artifacts.read_metrics(folder).items() if name != "rows_per_second"}


def test_streamed_labels_are_the_same_also_after_an_interruption(
    labelling: Callable[..., Any], sentences: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**sentences, "max_train_samples": 48, "max_target_length": 16, "streaming": True}
    list(labelling("whole"))
    events = list(labelling("stream", data=settings))
    interrupt(labelling("out", data=settings), "shard", 16)
    list(labelling("out", data=settings))
    assert [row["shard"] for row in events if row["event"] == "shard"] == [f"train-0000{n}.parquet" for n in range(3)]
    for folder in (tmp_path / "stream", tmp_path / "out"):
        assert files_of(folder) == files_of(tmp_path / "whole") and len(files_of(folder)) == 18
        assert without_speed(folder) == without_speed(tmp_path / "whole")
        manifest = artifacts.read_manifest(folder)
        assert manifest["inputs"] == artifacts.read_manifest(tmp_path / "whole")["inputs"]
        assert manifest["streams"]["train"]["rows"] == 48


def test_parallel_text_files_are_streamed(labelling: Callable[..., Any], tmp_path: Path) -> None:
    rows = pairs("train")[:48]
    for language in ("en", "xx"):
        (tmp_path / f"train.{language}").write_text("".join(f"{row[language]}\n" for row in rows))
    files = {**COLUMNS, "train_file": str(tmp_path / "train.{en,xx}"), "max_target_length": 16}
    list(labelling("whole", data=files))
    list(labelling("stream", data={**files, "streaming": True}))
    assert files_of(tmp_path / "stream") == files_of(tmp_path / "whole")
    (tmp_path / "train.xx").write_text("".join(f"{row['xx']}\n" for row in rows[:40]))
    with pytest.raises(InputError, match=r"different numbers of lines: .*train.xx' ends before line 41") as caught:
        list(labelling("short", data={**files, "streaming": True}))
    assert "the 32 rows of train before it, 2 shards, are finished" in str(caught.value.hint)


def test_interrupted_labels_end_in_the_same_files_and_counts(labelling: Callable[[str], Any], tmp_path: Path) -> None:
    list(labelling("whole"))
    interrupt(labelling("out"), "shard", 16)
    rows = list(labelling("out"))
    assert [row["shard"] for row in rows if row["event"] == "shard"] == [
        f"train-0000{number}-of-00003.parquet" for number in (1, 2)
    ]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole") and len(files_of(tmp_path / "out")) == 18
    assert without_speed(tmp_path / "out") == without_speed(tmp_path / "whole")
    assert without_speed(tmp_path / "out")["share_cut"] > 0


def test_a_resumed_run_does_not_change_the_engine(
    labelling: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(labelling("out", engine="auto"), "shard", 16)
    monkeypatch.setattr(formats, "ctranslate2_is_installed", lambda: False)
    with pytest.raises(InputError, match="were translated by ctranslate2, and this run would go on with transformers"):
        list(labelling("out", engine="auto"))


@pytest.mark.parametrize("suffix", ["parquet", "logsumexp.npy"])
def test_a_changed_file_of_a_shard_is_made_again(suffix: str, labelling: Callable[[str], Any], tmp_path: Path) -> None:
    list(labelling("whole"))
    interrupt(labelling("out"), "shard", 32)
    (file,) = (tmp_path / "out").glob(f"train-00000-of-00003.{suffix}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    rows = list(labelling("out"))
    assert [row["shard"][6:11] for row in rows if row["event"] == "shard"] == ["00000", "00002"]
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("name", ["parquet", "topk_logprobs.npy", "target_ids.npy"])
def test_a_changed_label_dataset_is_rejected_by_distill(
    name: str, labels: Path, stage: Stage, sentences: dict[str, Any], tiny_translator: Path, tmp_path: Path
) -> None:
    changed = Path(shutil.copytree(labels, tmp_path / "labels"))
    (file,) = changed.glob(f"train-*.{name}")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    settings = {"data": sentences, "label_dataset": str(changed), "student": str(tiny_translator)}
    with pytest.raises(InputError, match="is damaged"):
        list(distill.run(of_command("distill", tmp_path / "out", settings)))


@pytest.mark.parametrize(
    ("command", "settings", "expected"),
    [
        ("finetune", {}, "loss"),
        ("finetune", {"label_dataset": True}, "bleu"),
        ("finetune", {"label_dataset": True, "training": {"metric_for_best_model": "loss"}}, "loss"),
        ("distill", {"label_dataset": True, "targets": "teacher"}, "bleu"),
        ("distill", {"label_dataset": True, "targets": "n_best"}, "bleu"),
        ("distill", {"label_dataset": True, "targets": "both"}, "loss"),
        ("distill", {"label_dataset": True, "targets": "gold"}, "loss"),
    ],
)
def test_models_that_learn_no_references_are_selected_by_bleu(
    command: str, settings: dict[str, Any], expected: str, stage: Stage, labels: Path, tiny_translator: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    given = {**settings, **({"label_dataset": str(labels)} if "label_dataset" in settings else {})}
    given["training"] = {**FEW_STEPS, "eval_strategy": "steps", "eval_steps": 2, **settings.get("training", {})}
    student = {"model" if command == "finetune" else "student": str(tiny_translator)}
    losses = {"losses": {"hard_labels": 1.0}} if command == "distill" else {}
    stage(command, "out", **student, **losses, **given)
    evaluations = log(tmp_path / "out", "evaluate")
    assert [expected in row and "bleu" in row for row in evaluations] == [expected == "bleu"] * len(evaluations)
    values = [row[expected] for row in evaluations]
    best = [row["step"] for row in evaluations if row["is_best"]][-1]
    chosen = (max if expected == "bleu" else min)(values)
    assert evaluations[values.index(chosen)]["step"] == best
