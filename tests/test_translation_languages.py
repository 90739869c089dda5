"""The languages of mBART, M2M100 and NLLB: the code of model cards, generation_config.json, and other languages than
those of the training or of an export.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import run, write_rows
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from translation_folders import ENGLISH, GERMAN, languages_of, write_family
from translation_model import translation_config
from typer.testing import CliRunner

from tinybert_cli import tasks
from tinybert_cli.cli import app
from tinybert_cli.errors import ConfigError
from tinybert_cli.translation_predictor import load_translation_predictor

Trained = Callable[[str], Path]
EXAMPLE = "A man rides a bicycle."  # of the model cards
OTHER = {"mbart": "fr_XX", "mbart50": "fr_XX", "m2m100": "fr", "nllb": "fra_Latn"}  # a third language
LENGTHS = {"data__max_seq_length": 40, "data__max_target_length": 40}
VERIFY = {"split": "validation", "min_agreement": 0, "max_metric_drop": 100}


def slow(name: str) -> Any:
    """A family, or a command, that only `make test-slow` tries."""
    return pytest.param(name, marks=pytest.mark.slow)


def settings_of(family: str, **languages: str) -> dict[str, Any]:
    """The settings of `data`, for `translation_config`; `languages` replace those of the family."""
    return {**LENGTHS, **{f"data__{key}": code for key, code in {**languages_of(family), **languages}.items()}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`trained(family)`: a tiny model that has learned six sentences; they are in the folder `data` beside it."""
    root, rows = tmp_path_factory.mktemp("languages"), [
        {"en": source, "xx": target} for source, target in zip(ENGLISH, GERMAN, strict=True)
    ]  # fmt: skip
    for split in ("train", "validation", "test"):
        write_rows(root / "data" / f"{split}.jsonl", rows)

    def train(family: str) -> Path:
        folder = root / family
        if not folder.exists():
            base = write_family(root / f"{family}-base", family, d_model=48)
            own = {"max_new_tokens": 3, "no_repeat_ngram_size": 1, "forced_eos_token_id": 2}  # have no effect
            generation = json.loads((base / "generation_config.json").read_text())
            (base / "generation_config.json").write_text(json.dumps({**generation, **own}))
            training = {"training__num_train_epochs": 60.0, "training__learning_rate": 5e-3}
            config = translation_config(
                "finetune", root / "data", folder, model=base, **training, **settings_of(family)
            )
            run("finetune", config)
        return folder

    return train


def exported(model: Path, folder: Path, family: str, form: str, **settings: Any) -> Path:
    """An export of the model; `settings` may have other languages than those of the family."""
    values = {"format": form, "verify": VERIFY, **settings_of(family), **settings}
    run("export", translation_config("export", model.parent / "data", folder, model=model, **values))
    return folder


def warnings_of(command: str, data: Path, folder: Path, **settings: Any) -> list[str]:
    """The warnings of a stage that writes the folder."""
    config = translation_config(command, data, folder, **settings)
    return [row["message"] for row in run(command, config) if row["event"] == "warning"]


# -- model cards and generation_config.json -------------------------------------------------------------------


def result_of_card(folder: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Path) -> list[str]:
    """What the Python code of the card makes of its example, run in another folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(elsewhere)
    lines, scope = code.strip().split("\n"), {}  # type: ignore[var-annotated]
    exec("\n".join(lines[:-1]), scope)
    result: list[str] = eval(lines[-1], scope)
    return result


def predicted(folder: Path, text: str) -> str:
    """What `tinybert predict` prints, without the text."""
    done = CliRunner().invoke(app, ["predict", str(folder), text])
    assert done.exit_code == 0, done.stderr
    return done.stdout.split("\t")[0].strip()


@pytest.mark.parametrize("family", ["bart", *map(slow, ("mbart", "mbart50", "m2m100", "nllb"))])
def test_the_code_of_a_card_makes_the_translation_of_predict(
    family: str, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(family)
    export = exported(model, tmp_path / "export", family, "safetensors")
    for folder in (model, export):
        (translation,) = result_of_card(folder, monkeypatch, tmp_path)
        assert translation and translation == predicted(folder, EXAMPLE), folder
        recorded = json.loads((folder / "generation_config.json").read_text())
        tokenizer = load_translation_predictor(str(folder)).tokenizer
        assert recorded.get("forced_bos_token_id") == next(iter(tokenizer.prefix), None)
        assert recorded["decoder_start_token_id"] == tokenizer.start
        assert recorded["max_length"] == 1 + len(tokenizer.prefix) + 40
    assert predicted(model, ENGLISH[0]) == GERMAN[0]


@pytest.mark.parametrize(
    "search",
    [
        {"beams": 3, "length_penalty": 1.5},
        pytest.param({"beams": 1, "length_penalty": 1.5}, marks=pytest.mark.slow),
    ],
)
def test_generate_has_the_search_and_the_target_language_of_an_export(
    search: dict[str, Any], trained: Trained, tmp_path: Path
) -> None:
    languages = {"target_language": OTHER["mbart50"]}
    model = trained("mbart50")
    export = exported(
        model, tmp_path / "export", "mbart50", "safetensors", search=search, **settings_of("mbart50", **languages)
    )
    tokenizer = AutoTokenizer.from_pretrained(export, src_lang="en_XX", tgt_lang="fr_XX")
    generator = AutoModelForSeq2SeqLM.from_pretrained(export, dtype="float32")
    texts = [*ENGLISH, EXAMPLE]
    outputs = generator.generate(**tokenizer(texts, return_tensors="pt", padding=True))
    assert outputs[0, 1] == tokenizer.convert_tokens_to_ids("fr_XX")
    own = [row["prediction"] for row in load_translation_predictor(str(export)).predict(texts)]
    assert [text.strip() for text in tokenizer.batch_decode(outputs, skip_special_tokens=True)] == own


@pytest.mark.parametrize("family", ["mbart", "nllb"])
def test_predict_and_its_start_need_a_model_that_records_its_languages(
    family: str, trained: Trained, tmp_path: Path
) -> None:
    model, data = write_family(tmp_path / "published", family), trained("nllb").parent / "data"
    done = CliRunner().invoke(app, ["predict", str(model), EXAMPLE])
    assert done.exit_code == 3 and "does not record between which" in done.stderr
    assert "data.source_language and data.target_language" in done.stderr
    settings = {"models": {"t": str(model)}, "latency": {"startup": True}, **settings_of(family)}
    with pytest.raises(ConfigError, match="does not record between which languages") as raised:
        run("eval", translation_config("eval", data, tmp_path / "eval", **settings))
    assert raised.value.key == ("latency", "startup")


# -- languages that differ from the recorded ones -------------------------------------------------------------


@pytest.mark.parametrize("family", ["mbart", slow("m2m100")])
@pytest.mark.parametrize("command", ["finetune", "gen-soft-labels", "eval", slow("export")])
def test_other_languages_than_those_of_the_training_are_a_warning(
    command: str, family: str, trained: Trained, tmp_path: Path
) -> None:
    model, (own, other) = trained(family), (languages_of(family)["target_language"], OTHER[family])
    settings: dict[str, Any] = {
        "finetune": {"model": model, "training__max_steps": 1, "training__num_train_epochs": "auto"},
        "gen-soft-labels": {"teacher": model, "check_teacher": False, "drop": ["cut"], "engine": "transformers"},
        "eval": {"models": {"t": str(model)}, "latency": None, "bootstrap": 0},
        "export": {"model": model, "format": "onnx", "verify": VERIFY},
    }[command]
    expected = f"'{model}' was trained with target_language {own}; this run uses {other}, from data.target_language"
    same = warnings_of(command, model.parent / "data", tmp_path / "same", **settings, **settings_of(family))
    assert not [message for message in same if "was trained with" in message]
    different = warnings_of(
        command, model.parent / "data", tmp_path / "different", **settings, **settings_of(family, target_language=other)
    )
    assert [message for message in different if "was trained with" in message] == [expected]


def test_distill_warns_of_the_languages_of_student_and_teacher(trained: Trained, tmp_path: Path) -> None:
    model = trained("nllb")
    other = settings_of("nllb", source_language=OTHER["nllb"])
    labels = {"teacher": model, "check_teacher": False, "drop": ["cut"], "engine": "transformers"}
    warnings_of("gen-soft-labels", model.parent / "data", tmp_path / "labels", **labels, **other)
    student = shutil.copytree(model, tmp_path / "student")
    losses = {"losses": {"hard_labels": 1.0, "hidden_states": 1.0}, "teacher": model, "student": student}
    messages = warnings_of("distill", model.parent / "data", tmp_path / "out", label_dataset=tmp_path / "labels", **losses, training__max_steps=1,
        training__num_train_epochs="auto", **other,
    )  # fmt: skip
    assert [message for message in messages if "was trained with" in message] == [
        f"'{folder}' was trained with source_language eng_Latn; this run uses fra_Latn, from data.source_language"
        for folder in (student, model)
    ]


@pytest.mark.parametrize(("family", "other"), [("nllb", "fra_Latn"), ("mbart50", None)])
def test_a_training_warns_of_other_languages_than_those_of_its_labels(
    family: str, other: str | None, trained: Trained, tmp_path: Path
) -> None:
    """A student from the Hub records no languages. The codes of another family are not compared."""
    model = trained("nllb")
    labels = {"teacher": model, "check_teacher": False, "drop": ["cut"], "engine": "transformers"}
    data = model.parent / "data"
    warnings_of("gen-soft-labels", data, tmp_path / "labels", **labels, **settings_of("nllb"))
    languages = settings_of(family) if other is None else settings_of(family, target_language=other)
    messages = warnings_of(
        "finetune", data, tmp_path / "out", label_dataset=tmp_path / "labels",
        model=write_family(tmp_path / "student", family), training__max_steps=1,
        training__num_train_epochs="auto", **languages,
    )  # fmt: skip
    assert [message for message in messages if "were made with" in message] == [
        f"the labels in '{tmp_path / 'labels'}' were made with target_language deu_Latn; this run uses {other}, from "
        "data.target_language"
        for _ in ([] if other is None else [other])
    ]


@pytest.mark.parametrize(
    ("family", "form"),
    [
        ("mbart", "ctranslate2"),
        pytest.param("m2m100", "ctranslate2", marks=pytest.mark.slow),
        pytest.param("nllb", "onnx", marks=pytest.mark.slow),
    ],
)
def test_an_export_has_only_the_languages_that_it_was_verified_with(
    family: str, form: str, trained: Trained, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    model, source, other = trained(family), languages_of(family)["source_language"], OTHER[family]
    french = settings_of(family, target_language=other)
    export = exported(model, tmp_path / "export", family, form, **french)
    assert json.loads((export / "config.json").read_text())[tasks.LANGUAGES] == [source, other]
    stages: dict[str, dict[str, Any]] = {
        "eval": {"models": {"t": str(export)}, "latency": None, "bootstrap": 0, "search": {"beams": 1}},
        "gen-soft-labels": {
            "teacher": export, "check_teacher": False, "drop": ["cut"], "search": {"beams": 1}, "splits": ["train"]
        },
    }  # fmt: skip
    for command, settings in stages.items():
        with pytest.raises(ConfigError, match=f"translates from {source} to {other}; `target_language` is") as raised:
            warnings_of(command, model.parent / "data", tmp_path / "refused", **settings, **settings_of(family))
        assert raised.value.key == ("data", "target_language")
        assert str(raised.value.hint).startswith(f"target_language: {other}, or export the model again with")
        assert not (tmp_path / "refused").exists()
        for name, languages in {"same": french, "none": LENGTHS}.items():
            messages = warnings_of(
                command, model.parent / "data", tmp_path / f"{command}-{name}", **settings, **languages
            )
            assert not [message for message in messages if "was trained with" in message]


def test_eval_compares_a_model_with_languages_with_one_that_has_none(
    trained: Trained, tiny_translator: Path, tmp_path: Path
) -> None:
    model = trained("m2m100")
    settings = {"models": {"teacher": str(model), "student": str(tiny_translator)}, "latency": None, "bootstrap": 0}
    data = model.parent / "data"
    assert not [
        one
        for one in warnings_of("eval", data, tmp_path / "out", **settings, **settings_of("m2m100"))
        if "language" in one
    ]
    alone = {**settings, "models": {"student": str(tiny_translator)}}
    with pytest.raises(ConfigError, match="has no setting for languages"):
        warnings_of("eval", data, tmp_path / "alone", **alone, **settings_of("m2m100"))


@pytest.mark.parametrize("key", ["source_language", "target_language"])
def test_a_language_for_an_export_without_languages_is_an_error(
    key: str, tiny_translator: Path, tmp_path: Path
) -> None:
    config = translation_config(
        "export", tiny_translator.parent / "data", tmp_path / "export", model=tiny_translator, format="onnx",
        verify={"split": "validation", "max_samples": 8},
    )  # fmt: skip
    run("export", config)
    settings: dict[str, Any] = {"models": {"t": str(tmp_path / "export")}, "latency": None, f"data__{key}": "de"}
    with pytest.raises(ConfigError, match="has no setting for languages") as raised:
        warnings_of("eval", tiny_translator.parent / "data", tmp_path / "out", **settings)
    assert raised.value.key == ("data", key)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mbart", "mbart50", "m2m100"])
def test_a_ctranslate2_export_translates_like_its_model(family: str, trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    export = exported(trained(family), tmp_path / "export", family, "ctranslate2")
    assert "decoder_start_token" in json.loads((export / "config.json").read_text())  # else CTranslate2 may crash
    assert [predicted(export, text) for text in ENGLISH] == [predicted(trained(family), text) for text in ENGLISH]


def test_a_ctranslate2_export_without_a_start_token_is_an_error(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    export = exported(trained("mbart"), tmp_path / "export", "mbart", "ctranslate2")
    config = json.loads((export / "config.json").read_text())
    del config["decoder_start_token"]
    (export / "config.json").write_text(json.dumps(config))
    (export / "manifest.json").unlink()  # which would say that the file was changed
    done = CliRunner().invoke(app, ["predict", str(export), ENGLISH[0]])
    assert done.exit_code == 3 and "lacks `decoder_start_token`" in done.stderr and "export it again" in done.stderr
