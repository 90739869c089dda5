"""Invalid input of the task translation, as a user meets it: exit code, message, and what is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_rows
from safetensors.torch import load_file, save_file
from translation_folders import languages_of, write_family
from translation_model import pairs

from tinybert_cli import artifacts, cli, models

Command = Callable[..., tuple[int, str]]
COLUMNS = {"text_column_names": "en", "label_column_name": "xx", "max_seq_length": 32, "max_target_length": 32}
NEW = {
    "family": "marian", "num_hidden_layers": 1, "num_decoder_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
    "intermediate_size": 16, "vocabulary_size": 80,
}  # fmt: skip
FEW = {"max_steps": 1, "per_device_train_batch_tokens": 256, "mixed_precision": "no"}


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("eval", key=value, ...)`: exit code and stderr of a stage with these settings, written to `out`."""

    def execute(name: str, **settings: Any) -> tuple[int, str]:
        config = {"task": "translation", "output_dir": str(tmp_path / "out"), **settings}
        (tmp_path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
        return cli.execute(name, tmp_path / "config.yaml", [], **flags), capsys.readouterr().err

    return execute


@pytest.fixture
def finetune(command: Command, tmp_path: Path) -> Command:
    """A new small model, one step on these rows."""

    def execute(rows: list[dict[str, Any]], **settings: Any) -> tuple[int, str]:
        file = write_rows(tmp_path / "rows.jsonl", rows)
        data = {"train_file": str(file), **COLUMNS, **settings.pop("data", {})}
        return command("finetune", **{"data": data, "model": NEW, "training": FEW, **settings})

    return execute


@pytest.fixture
def label(command: Command, tiny_translator: Path, tmp_path: Path) -> Command:
    """Labels of the small translator for these rows."""

    def execute(rows: list[dict[str, Any]], **settings: Any) -> tuple[int, str]:
        file = write_rows(tmp_path / "rows.jsonl", rows)
        data = {"train_file": str(file), **COLUMNS, **settings.pop("data", {})}
        values = {"teacher": str(tiny_translator), "engine": "transformers", **settings}
        return command("gen-soft-labels", data=data, **values)

    return execute


def few(count: int = 24) -> list[dict[str, Any]]:
    return [dict(row) for row in pairs("train")[:count]]


def changed(number: int, **columns: Any) -> list[dict[str, Any]]:
    """Rows of which one (counted from 1) has these columns."""
    rows = few()
    rows[number - 1] = {**rows[number - 1], **columns}
    return rows


# -- rows ----------------------------------------------------------------------------------------------------

UNFIT = {
    "empty reference": ({"xx": "  "}, "'xx': a reference is empty"),
    "null reference": ({"xx": None}, "'xx': expected a text or a list of texts, found None"),
    "number as reference": ({"xx": 3}, "'xx': expected a text or a list of texts, found 3"),
    "no references": ({"xx": []}, "'xx': expected a text or a list of texts, found []"),
    "empty one of several": ({"xx": ["Lo", ""]}, "'xx': a reference is empty"),
    "empty source": ({"en": " "}, "'en'"),
    "number as source": ({"en": 3}, "'en': expected text, found 3"),
    "null source": ({"en": None}, "'en'"),
}


@pytest.mark.parametrize(("columns", "message"), UNFIT.values(), ids=UNFIT)
def test_finetune_rejects_an_unfit_row_and_names_it(
    columns: dict[str, Any], message: str, finetune: Command, tmp_path: Path
) -> None:
    code, err = finetune(changed(5, **columns))
    assert code == 3 and message in err and "rows.jsonl, row 5" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("columns", "message"), UNFIT.values(), ids=UNFIT)
def test_gen_soft_labels_rejects_an_unfit_row_and_names_it(
    columns: dict[str, Any], message: str, label: Command, tmp_path: Path
) -> None:
    code, err = label(changed(5, **columns))
    assert code == 3 and message in err and "rows.jsonl, row 5" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("columns", "message"), UNFIT.values(), ids=UNFIT)
def test_eval_rejects_an_unfit_row_and_names_it(
    columns: dict[str, Any], message: str, command: Command, tiny_translator: Path, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", changed(5, **columns))
    code, err = command(
        "eval", models={"t": str(tiny_translator)}, data={"validation_file": str(file), **COLUMNS}, latency=None
    )
    assert code == 3 and message in err and "rows.jsonl, row 5" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("columns", "message"), UNFIT.values(), ids=UNFIT)
def test_unfit_validation_rows_are_rejected_before_the_training(
    columns: dict[str, Any], message: str, finetune: Command, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "validation.jsonl", changed(5, **columns))
    code, err = finetune(few(), data={"validation_file": str(file)})
    assert code == 3 and message in err and "validation.jsonl, row 5" in err
    assert not (tmp_path / "out").exists()


def test_a_training_row_with_two_references_is_rejected(finetune: Command) -> None:
    code, err = finetune(changed(3, xx=["Lo borko.", "La disena."]))
    assert code == 3 and "2 references; a training row has one" in err and "row 3" in err


def test_no_column_of_references_is_an_error_that_lists_the_columns(finetune: Command) -> None:
    code, err = finetune([{"en": row["en"], "de": row["xx"]} for row in few()])
    assert code == 3 and "no column 'xx'" in err and "columns here: en, de" in err


def test_the_same_column_on_both_sides_is_rejected(finetune: Command) -> None:
    code, err = finetune(few(), data={"label_column_name": "en"})
    assert code == 2 and "source and references are the same column, 'en'" in err


SUSPICIOUS = {
    "identical": (lambda row: {**row, "xx": row["en"]}, "3 of 24 rows (12.5%) have the same text on both sides"),
    "long target": (lambda row: {**row, "xx": row["xx"] * 6}, "3 of 24 rows (12.5%) have sides whose lengths differ"),
    "long source": (lambda row: {**row, "en": row["en"] * 6}, "3 of 24 rows (12.5%) have sides whose lengths differ"),
}


@pytest.mark.parametrize(("change", "message"), SUSPICIOUS.values(), ids=SUSPICIOUS)
def test_pairs_that_seem_no_translations_are_counted_in_a_warning(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str, finetune: Command
) -> None:
    rows = [change(row) if index in (1, 2, 6) else row for index, row in enumerate(few())]
    code, err = finetune(rows, data={"max_seq_length": 64, "max_target_length": 64})
    assert code == 0 and message in err
    assert all(f"row {number}:" in err for number in (2, 3, 7))


def test_chinese_text_that_is_a_third_as_long_is_not_suspicious(finetune: Command) -> None:
    rows = [
        {**row, "xx": row["xx"].replace(" ", "")[:11].translate({i: 0x4E00 + i for i in range(128)})} for row in few()
    ]
    code, err = finetune(rows)
    assert code == 0 and "lengths differ" not in err


# -- parallel text files -------------------------------------------------------------------------------------


def write_sides(folder: Path, english: list[str], other: list[str]) -> str:
    (folder / "rows.en").write_text("\n".join(english) + "\n")
    (folder / "rows.xx").write_text("\n".join(other))
    return str(folder / "rows.{en,xx}")


def test_two_text_files_are_read_line_by_line(command: Command, tmp_path: Path) -> None:
    file = write_sides(tmp_path, [row["en"] for row in few()], [row["xx"] for row in few()])
    code, _ = command("finetune", data={"train_file": file, **COLUMNS}, model=NEW, training=FEW)
    inputs = artifacts.read_manifest(tmp_path / "out")["inputs"]["data.train_file"]
    assert code == 0 and [Path(entry["path"]).name for entry in inputs] == ["rows.en", "rows.xx"]


def test_text_files_with_different_numbers_of_lines_are_rejected(command: Command, tmp_path: Path) -> None:
    file = write_sides(tmp_path, [row["en"] for row in few()], [row["xx"] for row in few()[:-1]])
    code, err = command("finetune", data={"train_file": file, **COLUMNS}, model=NEW, training=FEW)
    assert code == 3 and "24 lines in 'en', 23 lines in 'xx'" in err


def test_an_empty_line_of_a_text_file_is_an_error_with_its_number(command: Command, tmp_path: Path) -> None:
    sides = [[row[name] for row in few()] for name in ("en", "xx")]
    sides[1][6] = ""
    code, err = command(
        "finetune", data={"train_file": write_sides(tmp_path, *sides), **COLUMNS}, model=NEW, training=FEW
    )
    assert code == 3 and "a reference is empty" in err and "rows.{en,xx}, row 7" in err


def test_a_missing_side_is_named(command: Command, tmp_path: Path) -> None:
    file = write_sides(tmp_path, ["A"], ["B"])
    (tmp_path / "rows.xx").unlink()
    code, err = command("finetune", data={"train_file": file, **COLUMNS}, model=NEW, training=FEW)
    assert code == 3 and f"'{tmp_path / 'rows.xx'}' does not exist" in err


# -- settings ------------------------------------------------------------------------------------------------

DISTILL = {"label_dataset": "labels", "student": "teacher"}
NOT_FOR_TRANSLATION = {
    "label_names": ("finetune", {"data": {"label_names": ["a", "b"]}}, "`label_names` has no effect in translation"),
    "label_separator": ("finetune", {"data": {"label_separator": ";"}}, "`label_separator` has no effect"),
    "two text columns": ("finetune", {"data": {"text_column_names": ["en", "en2"]}}, "reads one source text per row"),
    "two label columns": ("finetune", {"data": {"label_column_name": ["xx", "yy"]}}, "references from one column"),
    "class weights": ("finetune", {"class_weights": "balanced"}, "translation has no classes that could be balanced"),
    "min confidence": (
        "finetune",
        {"label_dataset": "labels", "min_confidence": 0.5},
        "gen-soft-labels: drop: [cut, looping]",
    ),
    "trimming": ("finetune", {"model": {"from": "teacher", "trim_vocabulary": True}}, "give a new model a vocabulary"),
    "trimming a student": (
        "distill",
        {"label_dataset": "labels", "student": {"from": "teacher", "trim_vocabulary": True}},
        "`trim_vocabulary` has no effect in translation",
    ),
    "attentions": ("distill", {**DISTILL, "losses": {"attentions": 1.0}}, "the loss `attentions`"),
    "relations": ("distill", {**DISTILL, "losses": {"relations": 1.0}}, "the loss `relations`"),
    "class weights in distill": (
        "distill",
        {**DISTILL, "losses": {"hard_labels": {"weight": 1.0, "class_weights": "balanced"}}},
        "unknown option 'class_weights'",
    ),
    "pooled": ("distill", {**DISTILL, "losses": {"pooled": 1.0}}, "the loss `pooled`"),
    "ensemble": ("gen-soft-labels", {"teacher": ["a", "b"]}, "translations of several teachers cannot be averaged"),
    "weights": (
        "gen-soft-labels",
        {"teacher": "a", "teacher_weights": [1.0]},
        "several translators cannot be averaged",
    ),
    "augment": ("gen-soft-labels", {"teacher": "a", "augment": {}}, "give more text as data.unlabeled_file"),
    "logits dtype": ("gen-soft-labels", {"teacher": "a", "logits_dtype": "float16"}, "the label dataset holds texts"),
    "keep": (
        "gen-soft-labels",
        {"teacher": "a", "search": {"beams": 2, "keep": 4}},
        "`keep` (4) is more than `beams` (2)",
    ),
    "word level on references": (
        "distill",
        {**DISTILL, "losses": {"soft_labels": 1.0}, "targets": "gold"},
        "targets: teacher or both",
    ),
    "unknown metric": ("eval", {"models": {"t": "a"}, "metrics": ["belu"]}, "did you mean 'bleu'"),
}


@pytest.mark.parametrize(("stage", "settings", "message"), NOT_FOR_TRANSLATION.values(), ids=NOT_FOR_TRANSLATION)
def test_a_setting_without_a_meaning_in_translation_is_rejected(
    stage: str, settings: dict[str, Any], message: str, command: Command, tmp_path: Path
) -> None:
    data = {"train_file": "train.jsonl", **COLUMNS, **settings.get("data", {})}
    defaults = {"model": NEW} if stage == "finetune" else {}
    code, err = command(stage, **{**defaults, **settings, "data": data})
    assert code == 2 and message in err
    assert not (tmp_path / "out").exists()


ONLY_FOR_TRANSLATION = {
    "source_language": ("finetune", {"data": {"source_language": "en"}}),
    "target_language": ("finetune", {"data": {"target_language": "en"}}),
    "max_target_length": ("finetune", {"data": {"max_target_length": 64}}),
    "family": ("finetune", {"model": {"family": "marian"}}),
    "num_decoder_layers": ("finetune", {"model": {"from": "bert", "num_decoder_layers": 2}}),
    "vocabulary_size": ("finetune", {"model": {"from": "bert", "vocabulary_size": 99}}),
    "layer_mapping": ("finetune", {"layer_mapping": {"decoder": "last"}}),
    "engine": ("gen-soft-labels", {"teacher": "a", "engine": "transformers"}),
    "search": ("gen-soft-labels", {"teacher": "a", "search": {"beams": 2}}),
    "top_k": ("gen-soft-labels", {"teacher": "a", "top_k": 8}),
    "drop": ("gen-soft-labels", {"teacher": "a", "drop": ["cut"]}),
    "targets": ("distill", {**DISTILL, "targets": "both"}),
    "search of eval": ("eval", {"models": {"t": "a"}, "search": {"beams": 1}}),
    "search of export": ("export", {"model": "a", "search": {"beams": 1}}),
}


@pytest.mark.parametrize(("stage", "settings"), ONLY_FOR_TRANSLATION.values(), ids=ONLY_FOR_TRANSLATION)
def test_a_setting_of_translation_is_rejected_in_other_tasks(
    stage: str, settings: dict[str, Any], command: Command
) -> None:
    defaults = {"model": "bert"} if stage == "finetune" else {}
    data = {"train_file": "train.jsonl", **settings.get("data", {})}
    code, err = command(stage, **{**defaults, **settings, "task": "text-classification", "data": data})
    assert code == 2 and ("set task: translation" in err or "have no decoder" in err)


# -- teachers and their labels -------------------------------------------------------------------------------


def test_a_teacher_that_is_no_better_than_copying_is_rejected(label: Command, tmp_path: Path) -> None:
    rows = [{"en": row["xx"], "xx": row["xx"]} for row in few()]
    code, err = label(rows)
    assert code == 3 and "the teacher is not better than copying its source: BLEU" in err
    assert "copied source 100.00" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("select", ["chrf", "bleu"])
def test_selection_by_references_that_are_missing_is_an_error(select: str, label: Command, tmp_path: Path) -> None:
    code, err = label(few(), data={"label_column_name": "yy"}, check_teacher=False, search={"select": select})
    assert code == 3 and f"search.select is {select}, and the rows of train have no column 'yy' with references" in err
    assert "their columns are en, xx" in err and not [*tmp_path.glob("out/*.parquet")]


def test_more_than_one_percent_of_cut_translations_is_an_error(label: Command, tmp_path: Path) -> None:
    code, err = label(few(), data={"max_target_length": 8}, check_teacher=False)
    assert code == 3 and "are cut at the limit of their length" in err and "drop: [cut]" in err
    assert not [*tmp_path.glob("out/*.parquet")]


def test_dropping_the_cut_translations_is_the_remedy_of_that_error(label: Command, tmp_path: Path) -> None:
    code, err = label(few(), data={"max_target_length": 13}, check_teacher=False, drop=["cut"])
    numbers = artifacts.read_metrics(tmp_path / "out")
    assert code == 0 and 0 < numbers["share_cut"] < 1 and "cut (left out)" in err
    assert numbers["stored_rows"] == round(24 * (1 - numbers["share_cut"]))


def test_dropping_every_translation_is_an_error(label: Command) -> None:
    code, err = label(few(), data={"max_target_length": 4}, check_teacher=False, drop=["cut"], top_k=4)
    assert code == 3 and "all 24 translations are left out by `drop`" in err


@pytest.mark.parametrize("engine", ["transformers", "ctranslate2", "auto"])
@pytest.mark.parametrize("check_teacher", [True, False])
def test_a_teacher_with_nan_weights_is_rejected(
    engine: str, check_teacher: bool, label: Command, tiny_translator: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny_translator, tmp_path / "broken"))
    (broken / "manifest.json").unlink()
    weights = load_file(broken / "model.safetensors")
    weights["model.decoder.layers.0.fc1.weight"][:] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    code, err = label(few(), teacher=str(broken), engine=engine, check_teacher=check_teacher)
    assert code == 3 and "NaN" in err
    assert not [*tmp_path.glob("out/*.parquet")]


# -- label datasets and models that do not fit ---------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_labels(tiny_translator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label dataset with one translation of each row, without references and distributions."""
    folder = tmp_path_factory.mktemp("labels")
    file = write_rows(folder / "rows.jsonl", [{"en": row["en"]} for row in few()])
    config = {
        "task": "translation", "output_dir": str(folder / "labels"), "teacher": str(tiny_translator),
        "engine": "transformers", "check_teacher": False, "data": {"train_file": str(file), **COLUMNS},
    }  # fmt: skip
    (folder / "labels.yaml").write_text(json.dumps(config))
    flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    assert cli.execute("gen-soft-labels", folder / "labels.yaml", [], **flags) == 0
    return folder / "labels"


LACKING = {
    "distributions": ({"losses": {"hard_labels": 1.0, "soft_labels": 1.0}}, "run gen-soft-labels again with top_k: 8"),
    "default losses": ({}, "run gen-soft-labels again with top_k: 8"),
    "n-best": (
        {"losses": {"hard_labels": 1.0}, "targets": "n_best"},
        "run gen-soft-labels again with search: {keep: 4}",
    ),
    "references": ({"losses": {"hard_labels": 1.0}, "targets": "gold"}, "set targets: teacher"),
    "references of both": ({"losses": {"hard_labels": 1.0}, "targets": "both"}, "set targets: teacher"),
}


@pytest.mark.parametrize(("settings", "message"), LACKING.values(), ids=LACKING)
def test_distill_names_what_the_label_dataset_lacks(
    settings: dict[str, Any], message: str, command: Command, plain_labels: Path, tiny_translator: Path, tmp_path: Path
) -> None:
    data = {"train_file": str(plain_labels.parent / "rows.jsonl"), **COLUMNS}
    code, err = command(
        "distill", label_dataset=str(plain_labels), student=str(tiny_translator), data=data, training=FEW, **settings
    )
    assert code == 3 and message in err
    assert not (tmp_path / "out").exists()


def test_word_level_losses_with_another_tokenizer_name_the_difference(
    command: Command, label: Command, tmp_path: Path
) -> None:
    assert label(few(), top_k=4, output_dir=str(tmp_path / "labels"))[0] == 0
    data = {"train_file": str(tmp_path / "rows.jsonl"), **COLUMNS}
    small = {"model": {**NEW, "vocabulary_size": 60}, "training": FEW, "output_dir": str(tmp_path / "small")}
    assert command("finetune", data=data, **small)[0] == 0
    settings = {"label_dataset": str(tmp_path / "labels"), "student": str(tmp_path / "small"), "training": FEW}
    code, err = command("distill", data=data, losses={"soft_labels": 1.0}, **settings)
    assert code == 3 and "other target tokens than the student's: row 1 has" in err
    code, err = command("distill", data=data, losses={"hard_labels": 1.0}, **settings)
    assert code == 0  # texts have no tokenizer


@pytest.mark.parametrize("stage", ["finetune", "gen-soft-labels", "distill", "eval"])
def test_an_encoder_cannot_translate_and_the_error_names_models_that_can(
    stage: str, command: Command, teacher: Path, plain_labels: Path, tmp_path: Path
) -> None:
    file = str(plain_labels.parent / "rows.jsonl") if stage == "distill" else None
    data = {"train_file": file or str(write_rows(tmp_path / "rows.jsonl", few())), **COLUMNS}
    settings: dict[str, Any] = {
        "finetune": {"model": str(teacher), "training": FEW},
        "gen-soft-labels": {"teacher": str(teacher)},
        "distill": {
            "student": str(teacher), "label_dataset": str(plain_labels), "losses": {"hard_labels": 1.0}, "training": FEW
        },
        "eval": {"models": {"t": str(teacher)}, "split": "train", "latency": None},
    }[stage]  # fmt: skip
    code, err = command(stage, data=data, **settings)
    assert code == 3 and "marian" in err.lower()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["finetune", "gen-soft-labels", "eval"])
@pytest.mark.parametrize("name", ["max_seq_length", "max_target_length"])
def test_more_tokens_than_positions_are_rejected_with_the_number(
    stage: str, name: str, command: Command, tiny_translator: Path, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", few())
    settings: dict[str, Any] = {
        "finetune": {"model": str(tiny_translator), "training": FEW},
        "gen-soft-labels": {"teacher": str(tiny_translator)},
        "eval": {"models": {"t": str(tiny_translator)}, "split": "train", "latency": None},
    }[stage]
    positions = json.loads((tiny_translator / "config.json").read_text())["max_position_embeddings"]
    code, err = command(stage, data={"train_file": str(file), **COLUMNS, name: positions + 1}, **settings)
    assert code == 2 and f"`{name}` is {positions + 1}" in err and f"at most {positions}" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["finetune", "gen-soft-labels", "eval", "export"])
@pytest.mark.parametrize(("family", "most"), [("bart", 63), ("mbart", 64), ("mbart50", 63), ("nllb", 63)])
def test_the_token_before_a_translation_takes_a_position(
    stage: str, family: str, most: int, command: Command, tmp_path: Path
) -> None:
    model = str(write_family(tmp_path / "model", family))
    file = write_rows(tmp_path / "rows.jsonl", few())
    data = {"train_file": str(file), **COLUMNS, **languages_of(family)}
    settings: dict[str, Any] = {
        "finetune": {"model": model, "training": FEW},
        "gen-soft-labels": {"teacher": model},
        "eval": {"models": {"t": model}, "split": "train", "latency": None},
        "export": {"model": model, "format": "onnx", "verify": {"split": "train"}},
    }[stage]
    code, err = command(stage, data={**data, "max_target_length": most + 1}, **settings)
    assert code == 2 and f"`max_target_length` is {most + 1}" in err and f"at most {most}" in err
    assert ("special token before every translation" in err) is (most == 63)
    assert not (tmp_path / "out").exists()


def test_the_longest_translations_of_bart_are_evaluated(command: Command, tmp_path: Path) -> None:
    model = str(write_family(tmp_path / "model", "bart"))
    data = {"train_file": str(write_rows(tmp_path / "rows.jsonl", few(4))), **COLUMNS, "max_target_length": 63}
    search = {"beams": 2, "max_length_factor": 9.0}
    code, err = command("eval", models={"t": model}, split="train", latency=None, bootstrap=0, data=data, search=search)
    assert code == 0, err


@pytest.mark.parametrize("stored", [{"top_k": 4}, {"states": ["hidden_states"]}])
def test_a_target_text_without_positions_has_no_stored_outputs(
    stored: dict[str, Any], command: Command, tiny_translator: Path, tmp_path: Path
) -> None:
    tokenizer = models.load_translation_tokenizer(models.locate(str(tiny_translator)))
    lengths = {
        row["xx"]: (len(tokenizer.source_ids([row["en"]])[0]), len(tokenizer.target_ids([row["xx"]])[0]))
        for row in few(200)
    }
    long = max(few(200), key=lambda row: lengths[row["xx"]][1] - lengths[row["xx"]][0])
    most = lengths[long["xx"]][1] - 1
    chosen = [long, *(row for row in few(200) if max(lengths[row["xx"]]) < most - 2)]
    model = shutil.copytree(tiny_translator, tmp_path / "model", ignore=shutil.ignore_patterns("manifest.json"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": most}))
    data = {"train_file": str(write_rows(tmp_path / "rows.jsonl", chosen)), **COLUMNS, "max_seq_length": most,
            "max_target_length": most}  # fmt: skip
    layers = {"layer_mapping": {"encoder": [1], "decoder": [1]}} if "states" in stored else {}
    settings = {"teacher": str(model), "engine": "transformers", "check_teacher": False, "data": data}
    code, err = command("gen-soft-labels", **settings, **stored, **layers)
    assert code == 0 and f"1 of {len(chosen)} translations is left out" in err
    metrics = artifacts.read_metrics(tmp_path / "out")
    assert (metrics["rows"], metrics["stored_rows"]) == (len(chosen), len(chosen) - 1)
    data["train_file"] = str(write_rows(tmp_path / "rows.jsonl", chosen[:1]))
    code, err = command("gen-soft-labels", output_dir=str(tmp_path / "none"), **settings, **stored, **layers)
    assert code == 3 and "all 1 translations have more tokens than the teacher has positions" in err


def test_target_texts_that_are_all_too_long_are_an_error(finetune: Command) -> None:
    code, err = finetune(few(), data={"max_target_length": 4})
    assert code == 3 and "every target text has more than 4 tokens" in err


def test_rows_with_a_long_target_are_left_out_and_counted(finetune: Command) -> None:
    rows = changed(5, xx="Lo borko " * 30)
    code, err = finetune(rows)
    assert code == 0 and "1 of 24 rows of train (4.2%) has a target of more than 32 tokens and is left out" in err
    assert "\n23 rows  " in f"\n{err}"  # the plan


def test_the_card_names_both_stacks_and_the_rows_that_are_learnt(finetune: Command, tmp_path: Path) -> None:
    finetune(changed(5, xx="Lo borko " * 30), model={**NEW, "num_hidden_layers": 2})
    card = (tmp_path / "out" / "README.md").read_text()
    assert "with 2 encoder layers, 1 decoder layer and" in card and "| training rows | 23 |" in card
    (tmp_path / "out").rename(tmp_path / "model")
    finetune(few(), model={"from": str(tmp_path / "model"), "num_hidden_layers": 1}, layer_mapping={"encoder": "last"})
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| layers copied | 2 |" in card and "| decoder layers copied | 1 |" in card


@pytest.mark.parametrize(("size", "hint"), [(4000, "or less"), (32, None)])
def test_a_vocabulary_that_does_not_fit_is_rejected_with_one_that_does(
    size: int, hint: str | None, finetune: Command
) -> None:
    code, err = finetune(few(), model={**NEW, "vocabulary_size": size})
    assert code == (0 if hint is None else 2) and (hint or "") in err


def test_languages_of_a_model_without_languages_are_rejected(
    command: Command, tiny_translator: Path, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", few())
    code, err = command(
        "eval", models={"t": str(tiny_translator)}, split="train", latency=None,
        data={"train_file": str(file), **COLUMNS, "target_language": "de"},
    )  # fmt: skip
    assert code == 2 and "target_language" in err


SWAPPED = {"text_column_names": "xx", "label_column_name": "en"}


@pytest.mark.parametrize("name", ["eval", "gen-soft-labels", "export"])
def test_swapped_columns_of_source_and_references_are_rejected(
    name: str, command: Command, tiny_translator: Path, tmp_path: Path
) -> None:
    file = str(write_rows(tmp_path / "rows.jsonl", few()))
    rows = {"train_file": file, "validation_file": file, **COLUMNS, **SWAPPED}
    settings: dict[str, Any] = {
        "eval": {"models": {"t": str(tiny_translator)}, "latency": None},
        "gen-soft-labels": {"teacher": str(tiny_translator), "check_teacher": False},
        "export": {"model": str(tiny_translator), "format": "safetensors"},
    }[name]
    code, err = command(name, data=rows, **settings)
    assert code == 3 and "translates from en, and this run takes en as the references and xx as the source" in err
    assert "swap data.text_column_names and data.label_column_name" in err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_another_source_column_than_in_training_is_a_warning(
    command: Command, tiny_translator: Path, tmp_path: Path
) -> None:
    file = str(write_rows(tmp_path / "rows.jsonl", [{"english": row["en"], "xx": row["xx"]} for row in few()]))
    data = {"validation_file": file, **COLUMNS, "text_column_names": "english"}
    code, err = command("eval", models={"t": str(tiny_translator)}, data=data, latency=None, bootstrap=0)
    assert code == 0
    assert "was trained with text_column_names en; this run uses english, from data.text_column_names" in err


@pytest.mark.parametrize("lengths", [[64], ["data", 32]])
def test_latencies_of_fixed_lengths_are_rejected_in_translation(lengths: list[Any], command: Command) -> None:
    data = {"validation_file": "validation.jsonl", **COLUMNS}
    code, err = command("eval", models={"t": "a"}, data=data, latency={"lengths": lengths})
    assert code == 2 and "leave `lengths` out" in err
