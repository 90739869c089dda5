"""A last layer that computes [CLS] only gives the same logits and gradients as one that computes all tokens."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_layer_outputs import BATCH, make_model
from test_students import CONFIGS
from transformers import BertForTokenClassification

from tinybert_cli import loops, models
from tinybert_cli.config import Model
from tinybert_cli.formats.onnx import load_onnx, write_onnx
from tinybert_cli.models.cls_last_layer import compute_all_tokens, compute_cls_only

INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", CONFIGS)
def test_cls_only_has_the_logits_and_gradients_of_all_tokens(family: str, attention: str) -> None:
    all_tokens, cls_only = make_model(family, attention), compute_cls_only(make_model(family, attention))
    for model in (all_tokens, cls_only):
        torch.nn.functional.cross_entropy(model(**INPUTS).logits, BATCH["labels"]).backward()
    with torch.no_grad():
        assert torch.allclose(all_tokens(**INPUTS).logits, cls_only(**INPUTS).logits, atol=1e-6)
    gradients = dict(cls_only.named_parameters())
    for name, parameter in all_tokens.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradients[name].grad, atol=1e-6), name


@pytest.mark.parametrize("family", CONFIGS)
def test_cls_only_output_has_one_token_until_it_is_undone(family: str) -> None:
    model = compute_cls_only(make_model(family))
    assert model.base_model(**INPUTS)[0].shape == (2, 1, model.config.hidden_size)
    compute_all_tokens(model)
    assert model.base_model(**INPUTS)[0].shape == (2, 4, model.config.hidden_size)


def test_causal_model_is_not_patched() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])  # without padding, so without a mask
    expected = make_model("bert", "sdpa", is_decoder=True)(ids).logits
    assert torch.equal(compute_cls_only(make_model("bert", "sdpa", is_decoder=True))(ids).logits, expected)


def test_attention_dropout_is_active_in_training_only() -> None:
    model = compute_cls_only(make_model("bert", attention_probs_dropout_prob=0.9, hidden_dropout_prob=0.0)).train()
    torch.manual_seed(1)
    first, second = model(**INPUTS).logits, model(**INPUTS).logits
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()(**INPUTS).logits, model(**INPUTS).logits)


def test_deep_copy_uses_its_own_weights() -> None:
    model = compute_cls_only(make_model("bert"))
    before = model(**INPUTS).logits
    copied: Any = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.base_model.encoder.layer[-1].parameters():
            parameter.zero_()
    assert torch.equal(model(**INPUTS).logits, before)
    assert not torch.allclose(copied(**INPUTS).logits, before)


def test_state_dict_keys_are_unchanged() -> None:
    assert compute_cls_only(make_model("bert")).state_dict().keys() == make_model("bert").state_dict().keys()


def test_token_classification_model_is_not_patched() -> None:
    model = compute_cls_only(BertForTokenClassification(copy.deepcopy(CONFIGS["bert"])).eval())
    assert model(**INPUTS).logits.shape[:2] == (2, 4)


@pytest.mark.parametrize("cls_only", [False, True])
def test_load_and_build_student_patch_the_last_layer_on_request(cls_only: bool, tmp_path: Path) -> None:
    make_model("bert").save_pretrained(tmp_path)
    loaded = models.load(models.locate(str(tmp_path)), "sequence-classification", cls_only=cls_only)
    setting = Model.model_validate({"from": str(tmp_path), "num_hidden_layers": 2})
    student = models.build_student(setting, loaded, [1, 3], seed=1, cls_only=cls_only)
    for model in (loaded, student):
        assert model.base_model(**INPUTS)[0].shape[1] == (1 if cls_only else 4)


def test_teacher_and_student_of_layer_losses_compute_all_tokens() -> None:
    teacher = models.Teacher(compute_cls_only(make_model("bert")), [1, 3], frozenset({"hidden_states"}))
    student = models.Student(compute_cls_only(make_model("bert")), teacher, shared=False).train()
    assert student(**INPUTS)["hidden_states"][-1].shape[1] == 4
    assert teacher(BATCH, set(INPUTS))["hidden_states"][-1].shape[1] == 4


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_onnx_export_is_cls_only_and_has_the_same_logits(family: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    all_tokens, cls_only = make_model(family), compute_cls_only(make_model(family))
    write_onnx(cls_only, INPUTS, tmp_path)
    longer = {name: torch.cat([value, value], -1) for name, value in INPUTS.items()}
    longer["attention_mask"] = longer["attention_mask"].sort(descending=True).values  # padding on the right
    for inputs in (INPUTS, longer):
        with torch.no_grad():
            expected = all_tokens(**inputs).logits.numpy()
        assert np.allclose(loops.SessionModule(load_onnx(tmp_path))(**inputs)["logits"].numpy(), expected, atol=1e-5)
    operators = [node.op_type for node in onnx.load(str(tmp_path / "onnx" / "model.onnx")).graph.node]
    assert operators.count("Attention") == 3 and operators.count("MultiHeadAttention") == 1
    assert "Softmax" not in operators and len(operators) < 80
