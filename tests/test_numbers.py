"""Numbers that are stored: float32 heads, the precision of label datasets, and finite values everywhere."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from conftest import Configs, run
from family_models import make_teacher
from transformers import BertForSequenceClassification

from tinybert_cli import artifacts, console, data, loops, models
from tinybert_cli.artifacts.records import append_events
from tinybert_cli.errors import InputError
from tinybert_cli.stages import gen_soft_labels, labelling
from tinybert_cli.types import Encoded

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32,
    "max_position_embeddings": 32,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Albert": {**SIZES, "embedding_size": 8},
    "Bert": SIZES,
    "DebertaV2": SIZES,
    "DistilBert": {"vocab_size": 64, "dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32},
    "Electra": SIZES,
    "MPNet": SIZES,
    "ModernBert": {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "classifier_pooling": "mean"},
    "Roberta": {**SIZES, "pad_token_id": 1},
}
HEADS = ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
IDS = torch.arange(5, 29).reshape(2, 12)


def make_model(family: str, head: str = "ForSequenceClassification") -> Any:
    """A model whose biases in the head are around 2022."""
    torch.manual_seed(0)
    model = getattr(transformers, family + head)(getattr(transformers, f"{family}Config")(**FAMILIES[family])).eval()
    with torch.no_grad():
        next(reversed([weight for name, weight in model.named_parameters() if weight.ndim == 1])).add_(2022.0)
    return model


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    logits: torch.Tensor = outputs["logits"] if "logits" in outputs else outputs["start_logits"]
    return logits


# -- float32 heads -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_encoder_has_a_float32_head(family: str, head: str) -> None:
    model = make_model(family, head)
    expected = logits_of(model)
    models.to_bf16_with_float32_head(model)
    logits = logits_of(copy.deepcopy(model))
    assert model.base_model.dtype == torch.bfloat16 and logits.dtype == torch.float32
    assert torch.allclose(logits, expected, rtol=0, atol=0.05)  # bf16 has steps of 8 around 2022


def test_bf16_model_has_rotary_frequencies_in_float32() -> None:
    model = make_teacher("modernbert")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    models.to_bf16(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert any("inv_freq" in name for name in before)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert not any("inv_freq" in name for name in model.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_head_ignores_autocast(family: str) -> None:
    model = make_model(family)
    expected = logits_of(model)
    models.compute_head_in_float32(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(logits_of(model), expected, rtol=0, atol=0.05)


def test_float32_head_changes_no_float32_logits_and_no_names() -> None:
    model = make_model("Bert")
    expected, names = logits_of(model), list(model.state_dict())
    models.compute_head_in_float32(model)
    assert torch.equal(logits_of(model), expected) and list(model.state_dict()) == names


# -- labels --------------------------------------------------------------------------------------------------


def year_teacher(teacher: Path, *, scale: float = 3.0, centre: float = 2022.0) -> Path:
    """A regression teacher with its answers around `centre`."""
    model = BertForSequenceClassification.from_pretrained(teacher)
    torch.manual_seed(0)
    model.classifier = torch.nn.Linear(16, 1)
    with torch.no_grad():
        model.classifier.weight.mul_(scale)
        model.classifier.bias.fill_(centre)
    model.config.update(
        {"problem_type": "regression", "num_labels": 1, "id2label": {0: "label"}, "label2id": {"label": 0}}
    )
    model.save_pretrained(teacher)
    (teacher / "manifest.json").unlink()
    return teacher


def labels_of(folder: Path) -> np.ndarray[Any, Any]:
    return np.array(pq.read_table(folder / "train-00000-of-00001.parquet")["teacher_logits"].to_pylist())


def with_large_logits(folder: Path, value: float) -> Path:
    """The model with a first logit of about `value`, which is infinite in float32 above 3.4e38."""
    model = BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight[0] = value / 64
        model.classifier.bias[0] = min(value, 3e38)
    model.save_pretrained(folder)
    (folder / "manifest.json").unlink()
    return folder


def test_regression_labels_come_from_a_float32_teacher(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    year_teacher(teacher)
    for name, precision in {"auto": "bf16", "exact": "no"}.items():
        settings: dict[str, Any] = {"task": "regression", "check_teacher": False, "mixed_precision": precision}
        run(
            "gen-soft-labels",
            configs("gen-soft-labels", name, teacher=teacher, data__label_column_name="none", **settings),
        )
    assert np.array_equal(labels_of(tmp_path / "auto"), labels_of(tmp_path / "exact"))
    assert len(np.unique(labels_of(tmp_path / "auto"))) > 20
    manifest = artifacts.read_manifest(tmp_path / "auto")
    assert manifest["label_precision"] == {"weights": "float32", "head": "float32", "storage": "float32"}


def test_bf16_labels_state_their_precision_and_drift(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    rows = run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, mixed_precision="bf16"))
    run("gen-soft-labels", configs("gen-soft-labels", "exact", teacher=teacher))
    manifest, numbers = artifacts.read_manifest(tmp_path / "labels"), artifacts.read_metrics(tmp_path / "labels")
    assert manifest["label_precision"] == {"weights": "bf16", "head": "float32", "storage": "float32"}
    difference = np.abs(labels_of(tmp_path / "labels") - labels_of(tmp_path / "exact"))
    assert 0 < numbers["drift_max_abs_logit_difference"] <= difference.max() + 1e-6
    assert 0.9 <= numbers["drift_agreement"] <= 1
    (drift,) = [row for row in rows if row["event"] == "drift"]
    assert drift["rows"] == 64 and drift["mean_abs_logit_difference"] == numbers["drift_mean_abs_logit_difference"]
    assert "drift_agreement" not in artifacts.read_metrics(tmp_path / "exact")


def test_labels_of_a_resumed_run_have_one_precision_also_on_another_machine(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 48)
    monkeypatch.setattr(loops, "precision", lambda *_, **__: "bf16")
    settings: dict[str, Any] = {"teacher": teacher, "mixed_precision": "auto"}
    whole = configs("gen-soft-labels", "whole", **settings)
    config = configs("gen-soft-labels", "labels", **settings)
    run("gen-soft-labels", whole)
    killed = gen_soft_labels.run(config)
    next(row for row in killed if row["event"] == "shard")
    killed.close()
    monkeypatch.setattr(loops, "precision", lambda *_, **__: "no")
    rows = run("gen-soft-labels", config)
    assert [row["step"] for row in rows if row["event"] == "resume"] == [48]
    assert artifacts.read_manifest(tmp_path / "labels")["label_precision"]["weights"] == "bf16"
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet"):
        both = [pq.read_table(tmp_path / folder / name)["teacher_logits"] for folder in ("labels", "whole")]
        assert both[0] == both[1]


def test_gpus_without_bf16_label_in_float32_and_say_so(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "precision", lambda *_, **__: "fp16")
    rows = run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, mixed_precision="auto"))
    assert next(row["precision"] for row in rows if row["event"] == "plan") == "no"
    assert artifacts.read_manifest(tmp_path / "labels")["label_precision"]["weights"] == "float32"


def test_float16_labels_measure_the_rounding_as_drift(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, logits_dtype="float16"))
    assert 0 < artifacts.read_metrics(tmp_path / "labels")["drift_max_abs_logit_difference"] < 0.01
    assert artifacts.read_manifest(tmp_path / "labels")["label_precision"]["storage"] == "float16"


@pytest.mark.parametrize(("dtype", "value"), [("float16", 250_000.0), ("float32", 2e40)])
def test_infinite_labels_are_rejected_with_their_row(
    dtype: str, value: float, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    config = configs(
        "gen-soft-labels", "labels", teacher=with_large_logits(teacher, value), logits_dtype=dtype, check_teacher=False
    )
    with pytest.raises(InputError, match=r"overflows float16|NaN or infinite") as raised:
        run("gen-soft-labels", config)
    assert "train.jsonl, row " in str(raised.value)
    assert not (tmp_path / "labels").exists()


# -- label datasets ------------------------------------------------------------------------------------------


def test_nan_in_a_label_dataset_is_found_before_training(teacher_labels: Path) -> None:
    shard = teacher_labels / "train-00000-of-00001.parquet"
    table = pq.read_table(shard)
    logits = table["teacher_logits"].to_pylist()
    logits[6][1] = float("nan")
    pq.write_table(table.drop(["teacher_logits"]).append_column("teacher_logits", pa.array(logits)), shard)
    with pytest.raises(InputError, match=r"(?s)NaN or infinite.*train-00000-of-00001\.parquet, row 7"):
        data.read_soft_labels(teacher_labels, [shard.name])


@pytest.mark.parametrize("name", ["hidden_states", "scores"])
def test_infinite_layer_states_are_found_before_training(
    name: str, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"states": ["hidden_states", "attentions"], "student_layers": 2}
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, **settings))
    shard, folder = "train-00000-of-00001", tmp_path / "labels"
    offsets = np.load(folder / f"{shard}.offsets.npy").astype(int)
    entries = offsets if name == "hidden_states" else np.concatenate([[0], np.cumsum(np.diff(offsets) ** 2)])
    states = np.load(folder / f"{shard}.{name}.npy")
    states[entries[6] - 1].flat[0] = np.inf  # the last entry of the sixth row
    np.save(folder / f"{shard}.{name}.npy", states)
    with pytest.raises(InputError, match=rf"(?s)NaN or infinite.*{shard}\.{name}\.npy, row 6"):
        data.read_states(folder, [f"{shard}.parquet"], [name], None)


def test_nan_states_of_a_teacher_are_not_called_an_overflow(tmp_path: Path) -> None:
    encoded = Encoded({"input_ids": (np.array([2, 3]), 0)}, np.array([0, 2]), 0, [])
    writer = data.StatesWriter(tmp_path, "train-00000-of-00001.parquet", encoded, {"hidden_states": (1, 3)})
    with pytest.raises(InputError, match=r"(?s)hidden states are NaN.*train-00000-of-00001\.parquet, row 1"):
        writer.write([0], {"hidden_states": np.full((1, 2, 1, 3), np.nan, dtype=np.float16)})


# -- files ---------------------------------------------------------------------------------------------------


def strict(text: str) -> Any:
    def reject(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=reject)


def test_files_and_output_are_json_without_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"loss": float("inf"), "mean": float("nan"), "rows": 3}
    list(
        append_events(lambda: tmp_path / "log.jsonl", [{"event": "evaluate", "parts": [1.0, float("nan")], **numbers}])
    )
    row = strict((tmp_path / "log.jsonl").read_text())
    assert row["loss"] is None and row["mean"] is None and row["rows"] == 3 and row["parts"] == [1.0, None]
    screen = console.Screen("eval", as_json=True, quiet=True, verbose=False)
    screen.show({"event": "done", "output_dir": "runs/eval", **numbers})
    screen.finish(tmp_path / "eval.yaml", "runs/eval", dry_run=False)
    assert strict(capsys.readouterr().out)["loss"] is None


def test_metrics_json_leaves_out_infinite_numbers(configs: Configs, tmp_path: Path) -> None:
    with artifacts.open_output("eval", configs("eval", "out", models={"a": "b"}), {}) as output:
        output.finish({"a.loss": float("inf"), "a.mean": float("nan"), "a.rows": 3})
    assert strict((tmp_path / "out" / "metrics.json").read_text()) == {"a.rows": 3}
    assert artifacts.verify_folder(tmp_path / "out")
