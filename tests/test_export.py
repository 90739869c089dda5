"""export for each head and format: predictions match the original, and what fails verification is not stored."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import BAD, GOOD, Configs, make_config, run, sentences, write_rows
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from tinybert_cli import artifacts, models
from tinybert_cli.config import Stage, Verify
from tinybert_cli.errors import ConfigError, GateError, InputError, explained
from tinybert_cli.helpers import predict
from tinybert_cli.metrics import regression
from tinybert_cli.stages import export, parity
from tinybert_cli.stages.int8_search import Int8Result

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]
LOOSE = {"min_agreement": 0.9, "max_metric_drop": 0.1}  # tiny models lose more than real ones
TEXTS = [row["text"] for row in sentences("test")]


def done(rows: list[dict[str, Any]]) -> dict[str, Any]:
    assert rows[-1]["event"] == "done"
    return rows[-1]


# -- all heads -----------------------------------------------------------------------------------------------


def tagged_row(text: str) -> dict[str, Any]:
    words = text.split()
    return {"tokens": words, "tags": ["B-GOOD" if w in GOOD else "B-BAD" if w in BAD else "O" for w in words]}


def question_row(text: str) -> dict[str, Any]:
    word = next(word for word in text.split() if word in GOOD + BAD)
    return {"question": "film", "context": text, "answers": {"text": [word], "answer_start": [text.index(word)]}}


def score_of(text: str) -> float:
    return float(sum(word in GOOD for word in text.split()) - sum(word in BAD for word in text.split()))


HEADS: dict[str, tuple[Callable[[str], dict[str, Any]], str | list[str], str]] = {  # task → row, its columns
    "text-classification": (lambda text: {"text": text, "label": "good" if score_of(text) > 0 else "bad"}, "text", "label"),
    "multi-label-classification": (
        lambda text: {"text": text, "labels": [word for word in ("film", "plot", "the") if word in text.split()]},
        "text", "labels",
    ),
    "regression": (lambda text: {"text": text, "score": score_of(text)}, "text", "score"),
    "token-classification": (tagged_row, "tokens", "tags"),
    "question-answering": (question_row, ["question", "context"], "answers"),
}  # fmt: skip


def config_for(task: str, command: str, folder: Path, output: str, **settings: Any) -> Stage:
    _, texts, labels = HEADS[task]
    fixed = {"data__text_column_names": texts, "data__label_column_name": labels, "data__test_file": None}
    fixed |= {"data__unlabeled_file": None}
    fixed |= {"data__doc_stride": 3} if task in ("token-classification", "question-answering") else {}
    return make_config(command, folder / "data", folder / output, task=task, **fixed, **settings)


@pytest.fixture(scope="module", params=HEADS)
def trained(
    request: pytest.FixtureRequest, finished_runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A task, and a folder with its data and a model for it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("head")
    row, _, _ = HEADS[request.param]
    for split in ("train", "validation"):
        write_rows(folder / "data" / f"{split}.jsonl", [row(one["text"]) for one in sentences(split)])
    epochs = 30.0 if request.param == "multi-label-classification" else 6.0  # fewer: logits too near the thresholds
    longer = {"training__num_train_epochs": epochs}
    run("finetune", config_for(request.param, "finetune", folder, "model", model=finished_runs / "base", **longer))
    return request.param, folder


def without_scores(output: dict[str, Any]) -> Any:
    """The prediction of `predict`, without confidence."""
    prediction = output["prediction"]
    if isinstance(prediction, float):
        return pytest.approx(prediction, abs=1e-3)
    if isinstance(prediction, list):
        return [{**part, "score": None} if isinstance(part, dict) else part for part in prediction]
    return prediction


@pytest.mark.parametrize(
    ("name", "settings", "precision", "atol"),
    [
        ("plain", {}, "float32", 1e-4),
        ("int8", {"quantize": "int8"}, "int8", 2.0),
        ("half", {"format": "safetensors"}, "bfloat16", 0.2),
    ],
)
def test_the_export_of_every_head_matches_the_original(
    name: str, settings: dict[str, Any], precision: str, atol: float, trained: tuple[str, Path]
) -> None:
    task, folder = trained
    config = config_for(task, "export", folder, name, model=folder / "model", verify=LOOSE, **settings)
    metrics = done(run("export", config))
    assert metrics["max_abs_logit_difference"] < atol
    assert metrics["agreement"] > (0.9 if precision == "int8" else 0.9999 if precision == "float32" else 0.97)
    assert artifacts.verify_folder(folder / name)["precision"] == precision
    evaluation = config_for(task, "eval", folder, f"{name}-eval", models={"a": str(folder / "model"), "b": str(folder / name)},
                            latency=None, bootstrap=0)  # fmt: skip
    assert done(run("eval", evaluation))["b.agreement"] == pytest.approx(
        metrics["agreement"], abs=0.03
    )  # int8 depends on the batch
    if precision == "float32":
        texts = [f"film\t{text}" if task == "question-answering" else text for text in TEXTS]
        exported, original = (list(predict.run(str(folder / where), texts)) for where in (name, "model"))
        assert [without_scores(output) for output in exported] == [without_scores(output) for output in original]


EXAMPLES: dict[str, list[Any]] = {
    "token-classification": [*TEXTS[:5], "U.S. New-York (lovely)!", "dull"],
    "question-answering": [("film", text) for text in (*TEXTS[:5], " ".join(TEXTS[:4]))],  # the last has windows
}


def test_the_example_of_every_head_predicts_like_tinybert(trained: tuple[str, Path]) -> None:
    task, folder = trained
    run("export", config_for(task, "export", folder, "plain", model=folder / "model", verify=LOOSE))
    example = folder / "plain" / "example.py"
    code = example.read_text(encoding="utf-8")
    texts = EXAMPLES.get(task, TEXTS[:5])
    for part in [[text] for text in texts] if task in EXAMPLES else [texts]:
        value = part if "texts = " in code else part[0]
        changed = re.sub(r"^(texts|text|question, context) = .*", r"\1 = given", code, flags=re.MULTILINE)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(changed, str(example), "exec"), {"__file__": str(example), "given": value})
        lines = [line.split("\t") for line in printed.getvalue().splitlines()]
        given = ["\t".join(one) if isinstance(one, tuple) else one for one in part]
        assert_same(task, lines, list(predict.run(str(example.parent), given)))


def test_the_cards_of_every_head_say_what_happened_to_long_input(trained: tuple[str, Path]) -> None:
    task, folder = trained
    run("export", config_for(task, "export", folder, "plain", model=folder / "model", verify=LOOSE))
    for made, stage in (("plain", "verification"), ("model", "training")):
        card = (folder / made / "README.md").read_text(encoding="utf-8")
        windows = "Input longer than 16 tokens was read in windows of so many tokens"
        handled = {
            "token-classification": windows,
            "question-answering": f"{windows}, and questions longer than 8 tokens were cut",
        }.get(task, "Input longer than 16 tokens was cut")
        assert f"- {handled} in {stage}.\n" in card


def assert_same(task: str, lines: list[list[str]], outputs: list[dict[str, Any]]) -> None:
    """What an example prints is what `predict` returns."""
    if task == "token-classification":
        entities = [{**ast.literal_eval(entity), "text": text} for text, entity in lines]
        expected = outputs[0]["prediction"]
        assert [{**one, "score": None} for one in entities] == [{**one, "score": None} for one in expected]
        assert [one["score"] for one in entities] == pytest.approx([one["score"] for one in expected], abs=1e-5)
        return
    if task == "question-answering":
        ((text, begin, end),) = lines
        best = outputs[0]
        assert text == (best["prediction"] or "no answer")
        assert not best["prediction"] or (int(begin), int(end)) == (best["begin"], best["end"])
        return
    for line, output in zip(lines, outputs, strict=True):
        assert line[0] == output["text"]
        if task == "regression":
            assert float(line[1]) == pytest.approx(output["prediction"], abs=1e-5)
        else:
            assert line[1] == str(output["prediction"])
            assert ast.literal_eval(line[2]) == pytest.approx(output["probabilities"], abs=1e-4)


# -- safetensors ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["bfloat16", "float16"])
def half_export(request: pytest.FixtureRequest, teacher: Path, configs: Configs, tmp_path: Path) -> tuple[str, Path]:
    run("export", configs("export", "half", model=teacher, format="safetensors", dtype=request.param))
    return request.param, tmp_path / "half"


def test_transformers_loads_a_safetensors_export(half_export: tuple[str, Path], teacher: Path) -> None:
    dtype, folder = half_export
    documented = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "README.md",
                "metrics.json", "run.yaml", "manifest.json"}  # fmt: skip
    assert documented <= {path.name for path in folder.iterdir()}
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert str(model.dtype) == f"torch.{dtype}" and model.config.id2label == {0: "bad", 1: "good"}
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {model.dtype}  # noqa: SIM118  no mapping
    full = load_file(teacher / "model.safetensors")
    assert all(torch.equal(weights.to(model.dtype), model.state_dict()[name]) for name, weights in full.items())


def test_a_safetensors_export_has_metrics_and_a_card(half_export: tuple[str, Path]) -> None:
    dtype, folder = half_export
    metrics = json.loads((folder / "metrics.json").read_text())
    documented = {"max_abs_logit_difference", "mean_abs_logit_difference", "agreement", "metric_difference", "bytes",
                "bytes_ratio", "latency_ms_b1", "latency_ratio_b1"}  # fmt: skip
    assert documented <= set(metrics) and metrics["agreement"] >= 0.99
    assert metrics["bytes"] == (folder / "model.safetensors").stat().st_size and 1.5 < metrics["bytes_ratio"] <= 2.0
    assert 0 < metrics["max_abs_logit_difference"] < (0.2 if dtype == "bfloat16" else 0.02)
    text = (folder / "README.md").read_text()
    assert (
        f"for transformers, in {dtype}" in text
        and "verification and timing computed in float32" in text
        and 'dtype="float32"' in text
    )
    assert ("where float16 is very slow" in text) == (dtype == "float16")


def test_all_commands_accept_a_safetensors_export(
    half_export: tuple[str, Path], teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    _, folder = half_export
    rows = list(predict.run(str(folder), TEXTS))
    expected = list(predict.run(str(teacher), TEXTS))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected]
    compared = {"teacher": str(teacher), "half": str(folder)}
    metrics = done(run("eval", configs("eval", "eval", models=compared, latency=None, bootstrap=0)))
    assert metrics["half.agreement"] >= 0.99 and metrics["half.bytes"] < 0.7 * metrics["teacher.bytes"]
    assert done(run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=folder)))["teacher_accuracy"] > 0.9


@pytest.mark.parametrize(
    "settings",
    [
        {"format": "safetensors"},
        {"quantize": "int8", "verify": LOOSE},
        {"quantize": "int8", "matrix_bits": 4, "verify": LOOSE},
    ],
)
def test_exporting_twice_gives_the_same_bytes(
    settings: dict[str, Any], teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    for output in ("first", "second"):
        run("export", configs("export", output, model=teacher, **settings))

    def files(output: str) -> list[str]:
        return sorted(
            str(path.relative_to(tmp_path / output)) for path in (tmp_path / output).rglob("*") if path.is_file()
        )

    names = files("first")
    timed = {"README.md", "metrics.json", "manifest.json", "log.jsonl", "run.log", "run.yaml"}  # different in each run
    assert names == files("second") and len(set(names) - timed) >= 4
    for name in set(names) - timed:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("settings", "key", "hint"),
    [
        ({"format": "safetensors", "quantize": "int8"}, ("quantize",), "onnx"),
        ({"format": "safetensors", "quantize_exclude": ["classifier"]}, ("quantize_exclude",), "onnx"),
        ({"format": "safetensors", "opset": 17}, ("opset",), "onnx"),
        ({"format": "safetensors", "verify": {"atol": 1e-5}}, ("verify", "atol"), "min_agreement"),
        ({"format": "safetensors", "embedding_bits": 6}, ("embedding_bits",), "onnx"),
        ({"embedding_bits": 6}, ("embedding_bits",), "quantize: int8"),
        ({"matrix_bits": 4}, ("matrix_bits",), "quantize: int8"),
        ({"format": "safetensors", "matrix_bits": 4}, ("matrix_bits",), "onnx"),
        ({"dtype": "bfloat16"}, ("dtype",), "safetensors"),
        ({"format": "onnx", "dtype": "float16"}, ("dtype",), "safetensors"),
    ],
)
def test_a_setting_that_the_format_does_not_read_is_rejected(
    settings: dict[str, Any], key: tuple[str, ...], hint: str, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        run("export", configs("export", "out", model=teacher, **settings))
    assert error.value.key == key and hint in str(error.value.hint) and not (tmp_path / "out").exists()


def test_an_export_with_the_settings_of_run_yaml_is_up_to_date(
    half_export: tuple[str, Path], teacher: Path, data: Path, tmp_path: Path
) -> None:
    _, folder = half_export
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    (row,) = run(
        "export", make_config("export", data, folder, **{k: settings[k] for k in ("model", "format", "dtype")})
    )
    assert row["event"] == "up to date"


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "manifest.json").unlink()


def test_weights_that_overflow_float16_are_rejected(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    edit_weights(teacher, lambda weights: weights["classifier.bias"].add_(1e5))
    with pytest.raises(ConfigError, match=r"'classifier\.bias' has values too large for float16") as error:
        run("export", configs("export", "out", model=teacher, format="safetensors", dtype="float16"))
    assert error.value.hint == "dtype: bfloat16" and not (tmp_path / "out").exists()


def test_a_safetensors_export_that_does_not_match_is_not_stored(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    def round_in_bfloat16(weights: dict[str, torch.Tensor]) -> None:  # it has no number between 256 and 258
        weights["classifier.weight"].mul_(1e-3)
        weights["classifier.bias"].copy_(torch.tensor([256.0, 256.9]))

    edit_weights(teacher, round_in_bfloat16)
    with pytest.raises(GateError, match="agreement") as error:
        run("export", configs("export", "out", model=teacher, format="safetensors"))
    assert error.value.exit_code == 5 and not (tmp_path / "out").exists()


# -- without torch -------------------------------------------------------------------------------------------

BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
"""


def run_without(code: str, *blocked: str) -> str:
    """The stdout of a Python program in a process that cannot import these packages."""
    process = subprocess.run([sys.executable, "-c", BLOCKED.format(names=blocked) + code], capture_output=True, text=True,
                           cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=60)  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def exported(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "export"
    run(
        "export",
        make_config(
            "export", finished_runs / "data", folder, model=finished_runs / "teacher", quantize="int8", verify=LOOSE
        ),
    )
    return folder


def test_the_manifest_of_an_export_has_its_parameters(exported: Path, finished_runs: Path) -> None:
    """`report` reads them there: `eval` counts those of models only."""
    of_export, of_model = (artifacts.read_manifest(folder) for folder in (exported, finished_runs / "teacher"))
    assert of_export["parameters"] == of_model["parameters"]


HEAVY = ("torch", "transformers", "datasets", "sklearn", "scipy", "pandas", "pyarrow", "safetensors", "onnx")


def test_the_base_installation_has_no_package_of_training() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", entry)[0] for entry in project["dependencies"]}
    assert not names & {"torch", "transformers", "datasets", "accelerate", "pyarrow", "scikit-learn"}
    assert "onnxruntime" in names and "tinybert[train]" in project["optional-dependencies"]["demo"]


def test_a_missing_package_of_training_names_the_extra() -> None:
    error = explained(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert isinstance(error, InputError) and error.hint == "pip install 'tinybert[train]'"
    assert explained(ImportError("other")).args == ("other",)


def test_predict_on_an_export_needs_no_torch(exported: Path) -> None:
    code = f"import sys; sys.argv = ['tinybert', 'predict', {str(exported)!r}, 'a lovely film .']\n"
    code += "from tinybert_cli.cli import main; main()"
    prediction, _, text = run_without(code, *HEAVY).strip().split("\t")
    assert (prediction, text) == ("good", "a lovely film .")


def test_the_lines_of_the_card_run_from_another_folder_without_tinybert(exported: Path, tmp_path: Path) -> None:
    lines = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert (
        lines
        and lines[1].replace(f'Path("{exported}")', "Path(__file__).parent") == (exported / "example.py").read_text()
    )
    moved = shutil.copytree(exported, tmp_path / "moved")
    code = f"import runpy; runpy.run_path({str(moved / 'example.py')!r})"
    printed = run_without(code, *HEAVY, "tinybert_cli", "accelerate").splitlines()
    texts = ["Better than it looks.", "It looks bad."]
    for line, output in zip(printed, predict.run(str(exported), texts), strict=True):
        text, label, probabilities = line.split("\t")
        assert (text, label) == (output["text"], output["prediction"])
        assert ast.literal_eval(probabilities) == pytest.approx(output["probabilities"], abs=1e-4)


# -- rejected int8, from the command line --------------------------------------------------------------------


def ruin_classifier(weights: dict[str, torch.Tensor]) -> None:
    """An input that is always 0 gets weights so large that int8 rounds all others to 0."""
    weights["bert.pooler.dense.weight"][0] = 0.0
    weights["bert.pooler.dense.bias"][0] = 0.0
    weights["classifier.weight"][:, 0] = 1e4


def test_an_input_that_is_always_zero_costs_int8_no_precision(teacher: Path, configs: Configs) -> None:
    edit_weights(teacher, ruin_classifier)
    metrics = done(run("export", configs("export", "out", model=teacher, quantize="int8")))
    assert metrics["agreement"] == 1.0


def test_rejected_int8_is_an_error_and_leaves_float32(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "violations", lambda numbers, verify, *, exact: [] if exact else ["agreement too low"])
    for _ in range(2):  # the second finds the finished folder
        with pytest.raises(GateError, match=r"int8 rejected: agreement too low; no form with .* passes") as error:
            run("export", configs("export", "out", model=teacher, quantize="int8"))
        assert error.value.exit_code == 5
    assert artifacts.verify_folder(tmp_path / "out")["precision"] == "float32"
    assert [path.name for path in (tmp_path / "out" / "onnx").iterdir()] == ["model.onnx"]


def test_weights_in_4_bits_are_smaller_and_the_card_says_so(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinybert_cli.formats import four_bits

    sizes = {}
    for bits in (8, 4):
        settings = {"quantize": "int8", "matrix_bits": bits, "verify": LOOSE}
        sizes[bits] = done(run("export", configs("export", f"bits-{bits}", model=teacher, **settings)))["bytes"]
        card = (tmp_path / f"bits-{bits}" / "README.md").read_text()
        assert "| weights | int8 |" in card  # 4 bits have no effect, see below
        (row,) = predict.run(str(tmp_path / f"bits-{bits}"), TEXTS[:1])
        assert row["prediction"] in ("good", "bad")
    assert sizes[4] < 1.05 * sizes[8]  # of matrices this small, the nodes would take more than the weights
    monkeypatch.setattr(four_bits, "SMALL", 0)
    settings = {"quantize": "int8", "matrix_bits": 4, "verify": LOOSE}
    events = run("export", configs("export", "packed", model=teacher, **settings))
    assert done(events)["agreement"] > 0.7 and not any("has no effect" in str(event) for event in events)
    assert "| weights | int8, matrices in 4 bits |" in (tmp_path / "packed" / "README.md").read_text()
    assert (tmp_path / "packed" / "onnx" / "model_quantized.onnx").read_bytes().count(b"_int4") > 0


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"parts": {8: ["layer.0"]}}, "int8, matrices in 4 bits, except pooler, layer.0 (8 bits)"),
        (
            {"parts": {8: ["layer.0"], 12: ["layer.1"]}, "has_fewer_bits": False},
            "int8, except pooler, layer.1 (12 bits)",
        ),
        ({"parts": {12: ["layer.1"]}, "without_effect": {"matrix_bits": ""}}, "int8, except pooler, layer.1 (12 bits)"),
    ],
)
def test_the_card_names_only_bits_that_the_weights_have(
    result: dict[str, Any], expected: str, teacher: Path, configs: Configs
) -> None:
    settings = {"quantize": "int8", "matrix_bits": 4, "quantize_exclude": ["pooler"]}
    config = configs("export", "out", model=teacher, **settings)
    assert export._weights_in_words(config, Int8Result({}, None, **result)) == expected  # type: ignore[arg-type]


def test_a_drop_of_the_metric_by_exactly_the_limit_passes() -> None:
    numbers = {"agreement": 0.99, "metric_difference": 0.94 - 0.95}  # -0.010000000000000009
    assert parity.violations(numbers, Verify(), exact=False) == []
    assert parity.violations(numbers | {"metric_difference": -0.0101}, Verify(), exact=False)
    assert parity.violations(numbers | {"metric_difference": float("nan")}, Verify(), exact=False)


@pytest.mark.parametrize(
    ("shift", "scale", "fails"), [(0.0, 1.0, False), (2.5, 1.0, True), (0.0, 1.3, True), (0.05, 1.01, False)]
)
def test_numbers_that_are_shifted_or_scaled_do_not_pass_the_verification(
    shift: float, scale: float, fails: bool
) -> None:
    original = np.linspace(0, 5, 200)
    changed = regression.concordance(original * scale + shift, original)
    numbers = {"agreement": 1.0, "concordance": changed, "max_abs_logit_difference": shift}
    found = parity.violations(numbers, Verify(), exact=False)
    assert bool(found) is fails and all("shifted or have another scale" in failure for failure in found)


def test_concordance_of_equal_and_of_constant_numbers() -> None:
    numbers = np.array([1.0, 2.0, 4.0])
    assert regression.concordance(numbers, numbers) == pytest.approx(1)
    assert regression.concordance(np.ones(3), np.ones(3)) == 1
    assert regression.concordance(np.ones(3), numbers) == 0


def test_rows_without_labels_cannot_limit_the_drop_of_the_metric(data: Path, teacher: Path, configs: Configs) -> None:
    write_rows(data / "validation.jsonl", [{"text": row["text"]} for row in sentences("validation")])
    rows = run("export", configs("export", "out", model=teacher))
    messages = [row["message"] for row in rows if row["event"] == "warning"]
    assert any("so that only the agreement is verified, and no metric" in message for message in messages)
    with pytest.raises(InputError, match=r"verify.max_metric_drop needs labels: no column 'label'"):
        run("export", configs("export", "strict", model=teacher, verify__max_metric_drop=0.02))


def test_bits_that_change_nothing_are_a_warning(teacher: Path, configs: Configs) -> None:
    settings = {"quantize": "int8", "matrix_bits": 4, "embedding_bits": 6, "verify": LOOSE}
    warnings = [event["message"] for event in run("export", configs("export", "out", model=teacher, **settings))
                if event["event"] == "warning"]  # fmt: skip
    reasons = {
        "`matrix_bits: 4`": "no quantized matrix has 10,000 weights",
        "`embedding_bits: 6`": "no quantized embedding",
    }
    for setting, reason in reasons.items():
        assert any(message.startswith(f"{setting} has no effect: {reason}") for message in warnings)


def test_int8_that_is_verified_on_one_row_is_a_warning(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    settings = {"quantize": "int8", "verify": {"max_samples": 1, "min_agreement": 0.9, "max_metric_drop": 1.0}}
    events = run("export", configs("export", "out", model=teacher, **settings))
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert any(message.startswith("1 row cannot show an agreement of 0.9") for message in warnings)
    assert any("measured on 1 row," in message and "64 rows or more" in message for message in warnings)
    assert "of the 1 row used for verification" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(("rows", "least", "few"), [(99, None, True), (100, None, False), (9, 0.9, True),
                                                    (10, 0.9, False), (1, 1.0, False), (999, 0.999, True)])  # fmt: skip
def test_so_many_rows_can_show_the_agreement(rows: int, least: float | None, few: bool) -> None:
    messages = parity.too_few_rows(rows, None, Verify(min_agreement=least))
    assert [f"{rows:,} rows cannot show" in message for message in messages] == [True] * few


@pytest.mark.parametrize(("measured", "few"), [(63, True), (64, False), (None, False)])
def test_few_rows_to_measure_int8_on_are_a_warning(measured: int | None, few: bool) -> None:
    assert len(parity.too_few_rows(1000, measured, Verify())) == few


def test_a_model_whose_outputs_have_no_names_can_be_used_after_export(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    """transformers leaves the names of two outputs out of config.json if they are its own."""
    config = json.loads((teacher / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (teacher / "config.json").write_text(json.dumps(config))
    (teacher / "manifest.json").unlink()
    (tmp_path / "data" / "validation.jsonl").write_text("".join(
        json.dumps({"text": text, "label": int(score_of(text) > 0)}) + "\n" for text in TEXTS
    ))  # fmt: skip
    run("export", configs("export", "out", model=teacher, verify=LOOSE))
    expected = [row["prediction"] for row in predict.run(str(teacher), TEXTS)]
    assert [row["prediction"] for row in predict.run(str(tmp_path / "out"), TEXTS)] == expected
    assert set(expected) == {"0", "1"}
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}
    del written["id2label"]  # an export of an earlier version
    (tmp_path / "out" / "config.json").write_text(json.dumps(written))
    (tmp_path / "out" / "manifest.json").unlink()
    assert [row["prediction"] for row in predict.run(str(tmp_path / "out"), TEXTS)] == expected


def test_an_operator_set_without_an_operator_writes_nothing_to_stdout(
    teacher: Path, configs: Configs, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="`opset` 11 lacks an operator"):
        run("export", configs("export", "out", model=teacher, opset=11))
    assert capfd.readouterr().out == ""


def test_int8_records_its_agreement_alone_in_batches_and_padded(exported: Path) -> None:
    numbers = json.loads((exported / "metrics.json").read_text())
    kinds = [numbers[f"agreement_{kind}"] for kind in ("b1", "b32", "padded")]
    assert numbers["agreement"] == min(kinds) and 0 < numbers["max_probability_difference"] < 0.5
    card = (exported / "README.md").read_text()
    assert f"one row at a time {numbers['agreement_b1']:.4f}" in card
    assert f"| largest difference of a probability | {numbers['max_probability_difference']:.4f} |" in card


def test_a_float16_export_has_a_second_file_for_gpus(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    metrics = done(run("export", configs("export", "out", model=teacher, quantize="fp16")))
    files = {path.name: path.stat().st_size for path in (tmp_path / "out" / "onnx").iterdir()}
    assert files.keys() == {"model.onnx", "model_fp16.onnx"} and files["model_fp16.onnx"] == metrics["bytes"]
    assert metrics["agreement_b1"] == 1.0 and 0 < metrics["max_abs_logit_difference"] < 0.1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "The numbers of this card are those of `onnx/model_fp16.onnx`" in card
    assert 'folder / "onnx/model.onnx"' in card and "open `onnx/model.onnx`, in float32." in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "bad", "1": "bad"}}, "gives several classes the name 'bad'"),
        ({"id2label": {"0": "bad", "2": "good"}}, "has the positions 0, 2"),
        ({"id2label": {"0": "bad", "1": "good", "2": "fair"}}, "they return 1 x 2 numbers, not 1 x 3 for .* 3 labels"),
        ({"tinybert_task": "token-classification", "architectures": ["BertForTokenClassification"], "problem_type": None},
         "they return 1 x 2 numbers, not 1 x 4 x 2 for"),
        ({"problem_type": "regression"}, "has 2 outputs, and a model for regression has one"),
        ({"pad_token_id": "x"}, "`pad_token_id` of config.json is 'x'"),
    ],
)  # fmt: skip
def test_an_export_whose_config_does_not_fit_its_weights_is_rejected(
    changes: dict[str, Any], message: str, exported: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "edited"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=message):
        list(predict.run(str(folder), ["fine film"]))


def test_an_export_of_a_newer_layout_is_rejected(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "newer")
    (folder / "manifest.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tinybert_layout": 99}))
    with pytest.raises(InputError, match="has layout 99 and was written by another version") as error:
        predict.load(str(folder))
    assert error.value.hint == "pip install --upgrade tinybert"


def test_an_export_cannot_be_exported_again(exported: Path, configs: Configs) -> None:
    with pytest.raises(InputError, match="no weights"):
        run("export", configs("export", "again", model=exported))


def test_a_safetensors_export_is_loaded_in_float32(half_export: tuple[str, Path]) -> None:
    assert models.load(models.locate(str(half_export[1])), "sequence-classification").dtype == torch.float32
