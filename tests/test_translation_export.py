"""export of translation models: the search that it is verified with, records and translates with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from transformers import AutoModelForSeq2SeqLM
from translation_model import pairs, translation_config

from tinybert_cli import artifacts, formats, models, tasks
from tinybert_cli.errors import ConfigError, GateError, InputError
from tinybert_cli.formats import ctranslate2
from tinybert_cli.stages import translation_parity
from tinybert_cli.translation_predictor import load_translation_predictor
from tinybert_cli.types import Hypothesis, Search

pytest.importorskip("ctranslate2")

SEARCH = {"beams": 3, "length_penalty": 1.5, "max_length_factor": 3.0}
VERIFY = {"split": "validation", "max_samples": 8}


def export(model: Path, folder: Path, **settings: Any) -> dict[str, float]:
    config = translation_config("export", model.parent / "data", folder, model=model, verify=VERIFY, **settings)
    run("export", config)
    return artifacts.read_metrics(folder)


@pytest.fixture(scope="module")
def exported(tiny_translator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In float32 for CTranslate2, with a search of its own."""
    folder = tmp_path_factory.mktemp("export") / "export"
    export(tiny_translator, folder, format="ctranslate2", search=SEARCH)
    return folder


def test_an_export_records_what_the_model_was_trained_with(tiny_translator: Path, tmp_path: Path) -> None:
    config = translation_config("export", tiny_translator.parent / "data", tmp_path / "out", model=tiny_translator,
                                verify=VERIFY, format="safetensors", data__max_target_length=14)  # fmt: skip
    messages = [row["message"] for row in run("export", config) if row["event"] == "warning"]
    record = json.loads((tmp_path / "out" / "config.json").read_text())
    assert record[tasks.TEXT_COLUMNS] == ["en"] and record[tasks.MAX_LENGTHS] == [32, 32]
    assert any("was trained with max_target_length 32; this run uses 14" in message for message in messages)
    assert any("of 8 translations of" in message and "are cut at the limit" in message for message in messages)


@pytest.mark.parametrize("form", ["ctranslate2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_export_stores_no_more_positions_than_it_translates(
    form: str, tiny_translator: Path, tmp_path: Path
) -> None:
    export(tiny_translator, tmp_path / "short", format=form)
    unknown = Path(shutil.copytree(tiny_translator, tmp_path / "data" / "unknown"))
    shutil.copytree(tiny_translator.parent / "data", tmp_path / "data" / "data")
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "manifest.json").unlink()
    del config[tasks.MAX_LENGTHS]
    (unknown / "config.json").write_text(json.dumps(config))
    export(unknown, tmp_path / "long", format=form)
    sizes = {name: artifacts.read_metrics(tmp_path / name)["bytes"] for name in ("short", "long")}
    tables = {"ctranslate2": 1, "onnx": 2}[form]  # of both sides, or of each
    assert sizes["long"] - sizes["short"] == pytest.approx(tables * (512 - 32) * 64 * 4, rel=0.05)
    texts = [row["en"] for row in pairs("test")]
    outputs = [list(load_translation_predictor(str(tmp_path / name)).predict(texts)) for name in ("short", "long")]
    assert [one["prediction"] for one in outputs[0]] == [one["prediction"] for one in outputs[1]]
    config = translation_config("eval", tiny_translator.parent / "data", tmp_path / "out", data__max_seq_length=33,
                                models={"short": str(tmp_path / "short")}, latency=None)  # fmt: skip
    with pytest.raises(ConfigError, match="has positions for 32 tokens"):
        run("eval", config)


def test_predict_warns_once_of_translations_that_are_cut(
    exported: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load_translation_predictor(str(exported))
    texts = [row["en"] for row in pairs("test")]
    assert not any("cut" in output for output in predictor.predict(texts)) and not caplog.messages
    object.__setattr__(predictor, "config", {**predictor.config, tasks.MAX_LENGTHS: [32, 8]})
    for _ in range(2):
        assert all(output["cut"] for output in predictor.predict(texts))
    assert caplog.messages == ["a translation was cut at its limit, 8 tokens or fewer: --json marks it"]


class Recorder:
    """A translator that only records with which search it is called."""

    def __init__(self) -> None:
        self.searches: list[Search] = []

    def translate(self, sources: Sequence[Sequence[int]], search: Search) -> list[list[Hypothesis]]:
        self.searches.append(search)
        return [[Hypothesis((1,), 0.0, True)] for _ in sources]


def searches_of_predict(folder: Path) -> list[Search]:
    predictor, recorder = load_translation_predictor(str(folder)), Recorder()
    object.__setattr__(predictor, "translator", recorder)
    list(predictor.predict(["The man sees a dog."]))
    return recorder.searches


def test_an_export_is_verified_greedily_and_with_its_own_beams(exported: Path) -> None:
    numbers = artifacts.read_metrics(exported)
    assert numbers["same_beam1"] == numbers["as_good_beam1"] >= 0.99
    assert numbers["as_good_beam3"] >= max(0.99, numbers["same_beam3"])
    assert not [name for name in numbers if name.endswith("_beam4")]


@pytest.mark.parametrize(
    ("rows", "exact", "hint"),
    [
        (8, True, "nothing was stored; one translation of 8 is 12.5%: give `verify.split` and `verify.max_samples` "
         "100 rows or more"),
        (1, True, "nothing was stored; one translation of 1 is 100.0%: give `verify.split` and `verify.max_samples` "
         "100 rows or more"),
        (100, True, "nothing was stored; export in another format"),
        (8, False, "nothing was stored; export in another format"),
    ],
)  # fmt: skip
def test_a_refused_export_says_whether_more_rows_may_pass(rows: int, exact: bool, hint: str) -> None:
    assert translation_parity.refusal_hint(rows, exact=exact) == hint


def test_one_other_translation_of_few_rows_refuses_a_float32_export_and_asks_for_more_rows(
    tiny_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = translation_parity.TranslationParity.compare

    def one_differs(*arguments: Any, **options: Any) -> Any:
        numbers, predictions = compare(*arguments, **options)
        return {**numbers, "as_good": 7 / 8}, predictions

    monkeypatch.setattr(translation_parity.TranslationParity, "compare", one_differs)
    with pytest.raises(GateError) as raised:
        export(tiny_translator, tmp_path / "out", format="ctranslate2")
    assert raised.value.hint == translation_parity.refusal_hint(8, exact=True)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_one_beam_is_verified_once(tiny_translator: Path, tmp_path: Path) -> None:
    numbers = export(tiny_translator, tmp_path / "out", format="ctranslate2", search={"beams": 1})
    assert {name for name in numbers if "_beam" in name} == {
        f"{name}_beam1" for name in ("agreement", "same", "as_good", "metric_difference")
    }
    assert searches_of_predict(tmp_path / "out")[0].beams == 1


def test_predict_translates_with_the_search_of_the_export(exported: Path, tiny_translator: Path) -> None:
    assert json.loads((exported / "config.json").read_text())[tasks.SEARCH] == SEARCH
    assert searches_of_predict(exported) == [Search(3, 1, 1.5, 3.0, 32)]
    assert searches_of_predict(tiny_translator) == [Search(4, 1, 1.0, 2.0, 32)]  # a model records none


def test_an_export_without_beam_search_records_its_search_and_translates_greedily(
    tiny_translator: Path, tmp_path: Path
) -> None:
    export(tiny_translator, tmp_path / "out", format="onnx", search=SEARCH)
    assert searches_of_predict(tmp_path / "out") == [Search(1, 1, 1.5, 3.0, 32)]


def test_transformers_generates_with_the_search_of_a_safetensors_export(tiny_translator: Path, tmp_path: Path) -> None:
    export(tiny_translator, tmp_path / "out", format="safetensors", search=SEARCH)
    settings = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").generation_config
    assert (settings.num_beams, settings.length_penalty) == (3, 1.5)


@pytest.mark.parametrize(("search", "warns"), [({"beams": 3}, True), (SEARCH, False)])
def test_eval_warns_of_another_search_than_that_of_the_export(
    search: dict[str, float], warns: bool, exported: Path, tiny_translator: Path, tmp_path: Path
) -> None:
    config = translation_config(
        "eval", tiny_translator.parent / "data", tmp_path / "out", models={"small": str(exported)}, search=search,
        latency=None, bootstrap=0,
    )  # fmt: skip
    messages = [row["message"] for row in run("eval", config) if row["event"] == "warning"]
    expected = (
        "'small' was exported with 3 beams, length_penalty 1.5, max_length_factor 3, as `predict` translates; this run "
        "uses 3 beams, length_penalty 1, max_length_factor 2"
    ).replace("'small'", f"'{exported}'")
    assert (expected in messages) is warns


@pytest.mark.parametrize("record", ["beams: 3", {"beams": 0}, {"beam": 3}, [3]])
def test_a_damaged_record_of_the_search_is_an_error(record: object, exported: Path) -> None:
    predictor = load_translation_predictor(str(exported))
    object.__setattr__(predictor, "config", {**predictor.config, tasks.SEARCH: record})
    with pytest.raises(InputError, match="`tinybert_search` is damaged"):
        list(predictor.predict(["The man sees a dog."]))


@pytest.mark.parametrize(("quantize", "batches"), [("none", 1), ("int8", 3)])
def test_threads_share_a_product_in_float32_and_a_batch_in_int8(
    quantize: str, batches: int, tiny_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.locate(str(tiny_translator))
    model, tokenizer = models.load_translation_model(source), models.load_translation_tokenizer(source)
    formats.write_ctranslate2(model, tokenizer, tmp_path, quantize=quantize)
    sources = tokenizer.source_ids([row["en"] for row in pairs("test")])
    translations = {}
    for threads in (1, 3):
        monkeypatch.setattr(ctranslate2, "_threads", lambda threads=threads: threads)
        translator = formats.Ctranslate2Translator(tmp_path)
        assert translator.batches == (batches if threads > 1 else 1)
        translations[threads] = [
            [best[0].ids for best in translator.translate(sources[:count], Search(beams=4))] for count in (1, 2, 40)
        ]
    assert translations[1] == translations[3]
