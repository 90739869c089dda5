"""`format: spacy` and the component, with real spaCy: `make test-spacy`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import integration_models as models
import pytest
from conftest import run

from tinybert_cli import artifacts, predictor
from tinybert_cli.errors import ConfigError, GateError, InputError
from tinybert_cli.stages import spacy_parity

spacy = pytest.importorskip("spacy")
component = pytest.importorskip("tinybert_cli.integrations.spacy")
pytestmark = pytest.mark.spacy

PAGE = Path(__file__).parents[1] / "docs" / "integrations.md"
LONG = "a very lovely film " * 6000  # 114,000 characters
TEXTS = ["a very lovely film .", "dull plot", "The cast was great, the film AWFUL", "warm" * 3]


@pytest.fixture(scope="module", params=models.ROWS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of each task, in int8."""
    folder = models.write(request.param, tmp_path_factory.mktemp("spacy"))
    settings = {"model": folder / "model", "format": "spacy", "language": "en", "verify": models.LOOSE}
    run("export", models.config(request.param, "export", folder, "pipeline", quantize="int8", **settings))
    return folder / "pipeline"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX export of a classifier."""
    folder = models.write("text-classification", tmp_path_factory.mktemp("onnx"))
    settings = {"model": folder / "model", "verify": models.LOOSE}
    run("export", models.config("text-classification", "export", folder, "export", **settings))
    return folder / "export"


def predictions(folder: Path, texts: list[str]) -> list[Any]:
    return [
        {key: value for key, value in output.items() if key != "text"}
        for output in predictor.load_predictor(str(folder)).predict(texts)
    ]


def spans(doc: Any) -> list[tuple[str, str]]:
    return [(span.text, span.label_) for span in doc.ents]


# -- what a pipeline predicts --------------------------------------------------------------------------------


def test_documents_have_the_predictions_of_the_export(exported: Path) -> None:
    nlp = spacy.load(exported)
    for text in TEXTS:
        assert [nlp(text)._.tinybert] == predictions(exported, [text])


def test_cats_are_the_probabilities_and_ents_the_entities(exported: Path) -> None:
    doc = spacy.load(exported)("a very lovely film was dull .")
    prediction = doc._.tinybert
    if "probabilities" in prediction:
        assert doc.cats == prediction["probabilities"] and not doc.ents
    else:
        assert spans(doc) == [(entity["text"], entity["type"]) for entity in prediction["prediction"]]
        assert spans(doc) == [("lovely", "GOOD"), ("dull", "BAD")] and not doc.cats


def test_pipe_equals_one_document_at_a_time_in_order(exported: Path) -> None:
    nlp = spacy.load(exported)
    texts = ["", *TEXTS, "  \n"] * 3
    for text, doc in zip(texts, nlp.pipe(texts, batch_size=5), strict=True):
        alone = nlp(text)
        assert doc.text == text and spans(doc) == spans(alone) and doc.cats == pytest.approx(alone.cats, abs=0.05)


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_document_without_text_has_cats_of_zero_and_no_ents(text: str, exported: Path) -> None:
    doc = spacy.load(exported)(text)
    assert doc._.tinybert is None and not doc.ents and not any(doc.cats.values())
    assert set(doc.cats) in (set(), set(spacy.load(exported).get_pipe("tinybert").labels))


def test_document_of_100000_characters_is_cut_as_in_training(
    classifier: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("tinybert", config={"model": str(classifier)})
    long, again, cut = nlp.pipe([LONG, LONG, " ".join(LONG.split()[:10])])  # with two special tokens: 12
    assert long.cats == again.cats == pytest.approx(cut.cats, abs=1e-6)
    assert caplog.messages == ["a text is longer than 12 tokens and was cut, as in training"]


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model_quantized.onnx"]
)
def test_spacy_load_names_a_missing_file(name: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "pipeline")
    (folder / "tinybert" / name).unlink()
    with pytest.raises(InputError, match=f"the export has no .*{name}"):
        spacy.load(folder)


def test_metrics_hold_the_agreement_of_documents_with_the_export(exported: Path) -> None:
    assert artifacts.read_metrics(exported)["pipeline_agreement"] >= 0.5
    assert artifacts.verify_folder(exported)["precision"] == "int8"


def test_folder_is_an_export_for_tinybert_too(exported: Path) -> None:
    assert predictions(exported, ["dull plot"]) == predictions(exported / "tinybert", ["dull plot"])


# -- entities ------------------------------------------------------------------------------------------------


class Entities:
    """Stands for an export that finds the same characters in every text."""

    labels, tags_words, tags_every_word = ("X",), True, False

    def __init__(self, *ranges: tuple[int, int]) -> None:
        self.ranges = ranges

    def predict(self, texts: list[str]) -> list[Any]:
        entities = [{"type": "X", "begin": begin, "end": end} for begin, end in self.ranges]
        return [
            {"prediction": [{**one, "text": text[one["begin"] : one["end"]]} for one in entities]} for text in texts
        ]


def annotated(doc: Any, *ranges: tuple[int, int]) -> Any:
    one = component.Component("tinybert")
    one._export = Entities(*ranges)
    return one(doc)


def test_entity_inside_of_a_token_becomes_the_token_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    doc = annotated(spacy.blank("xx")("東京に住む 人"), (0, 2), (3, 4))
    assert spans(doc) == [("東京に住む", "X")] and "is a part of the token" in caplog.text
    assert [entity["text"] for entity in doc._.tinybert["prediction"]] == ["東京", "住"]


def test_entities_of_earlier_components_stay() -> None:
    doc = spacy.blank("en")("Ada wrote it in London .")
    doc.set_ents([doc.char_span(0, 3, "PERSON")])
    assert spans(annotated(doc, (0, 9), (16, 22))) == [("Ada", "PERSON"), ("London", "X")]


def test_words_that_are_no_entities_are_spans() -> None:
    one = component.Component("tags")
    one._export = Entities((0, 3), (4, 9))
    one._export.tags_every_word = True  # type: ignore[misc]
    doc = one(spacy.blank("en")("Ada wrote"))
    assert [(span.text, span.label_) for span in doc.spans["tags"]] == [("Ada", "X"), ("wrote", "X")] and not doc.ents


# -- in pipelines of one's own -------------------------------------------------------------------------------


def test_export_is_added_to_a_pipeline_and_survives_disk_and_bytes(classifier: Path, tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("tinybert", config={"model": str(classifier)})
    expected = nlp(TEXTS[0]).cats
    nlp.to_disk(tmp_path / "nlp")
    copied = spacy.blank("en")
    copied.add_pipe("sentencizer")
    copied.add_pipe("tinybert")
    for other in (spacy.load(tmp_path / "nlp"), copied.from_bytes(nlp.to_bytes())):
        assert other(TEXTS[0]).cats == expected and other.pipe_names == ["sentencizer", "tinybert"]


def test_component_without_a_model_says_how_to_give_it_one() -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("tinybert")
    with pytest.raises(InputError, match="has no model") as error:
        nlp("text")
    assert "add_pipe" in (error.value.hint or "")


@pytest.mark.parametrize("threads", [None, "true"], ids=["default", "TOKENIZERS_PARALLELISM=true"])
def test_processes_predict_after_the_parent_has_predicted(
    threads: str | None, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork would wait for threads that it does not have: those of ONNX Runtime without an own session in each process,
    and those of the tokenizers library, if it is told to use them. A process that waits prints its stack and ends."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if threads is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", threads)
    code = f"""
import faulthandler, os
import spacy, tinybert_cli.integrations.spacy
nlp = spacy.blank("en")
nlp.add_pipe("tinybert", config={{"model": {str(classifier)!r}}})
one = nlp("dull plot").cats
os.register_at_fork(after_in_child=lambda: faulthandler.dump_traceback_later(100, exit=True))
assert [doc.cats for doc in nlp.pipe(["dull plot"] * 6, n_process=2, batch_size=2)] == [one] * 6
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_pipeline_imports_neither_torch_nor_transformers(classifier: Path) -> None:
    blocked = "torch", "transformers", "datasets", "sklearn", "pandas", "pyarrow"
    code = f"""
import sys
for name in {blocked}:
    sys.modules[name] = None
import spacy, tinybert_cli.integrations.spacy
nlp = spacy.blank("en")
nlp.add_pipe("tinybert", config={{"model": {str(classifier)!r}}})
assert nlp("dull plot").cats
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_ten_thousand_documents_need_the_memory_of_one_batch(classifier: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("tinybert", config={"model": str(classifier)})
    list(nlp.pipe(["a film"] * 1000))
    tracemalloc.start()
    count = sum(1 for _ in nlp.pipe(("a dull film" for _ in range(10_000)), batch_size=500))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 10_000 and peak < 20 * 2**20


# -- export --------------------------------------------------------------------------------------------------


def test_unknown_language_is_a_config_error(tmp_path: Path) -> None:
    from tinybert_cli.formats import spacy as format_spacy

    with pytest.raises(ConfigError, match="no language 'klingon'"):
        format_spacy.blank_pipeline("klingon")


def test_pipeline_that_differs_from_its_export_is_rejected(
    exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spacy_parity, "agreement", lambda *_: 0.5)
    task = next(name for name in models.ROWS if name == artifacts.verify_folder(exported)["settings"]["task"])
    settings = {"model": exported.parent / "model", "format": "spacy", "language": "en"}
    with pytest.raises(GateError, match=r"in only 50\.00%"):
        run("export", models.config(task, "export", exported.parent, "rejected", **settings))
    assert not (exported.parent / "rejected").exists()


def test_package_predicts_like_the_folder(classifier: Path, tmp_path: Path) -> None:
    """The commands of docs/integrations.md, and `pip install`."""
    nlp = spacy.blank("en")
    nlp.add_pipe("tinybert", config={"model": str(classifier)})
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    nlp.to_disk(tmp_path / "runs" / "mine" / "spacy")
    (typed,) = re.findall(
        r"```sh\n(?:pip install build\n)(mkdir packages\nspacy package .*?)\n", PAGE.read_text(encoding="utf-8")
    )
    command = typed.replace("\nspacy package ", f"\n'{sys.executable}' -m spacy package ")
    subprocess.run(command, shell=True, check=True, capture_output=True, timeout=300, cwd=tmp_path)
    (wheel,) = tmp_path.glob("packages/en_mine-0.0.0/dist/en_mine-0.0.0-*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel]
    subprocess.run(pip, check=True, capture_output=True, timeout=300)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
import spacy
print(spacy.load("en_mine")({TEXTS[0]!r}).cats)
"""
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100
    ).stdout
    assert output.strip() == str(nlp(TEXTS[0]).cats)
