"""A last layer that works for the first token alone says what the whole one says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_layer_outputs import BATCH, model
from test_students import CONFIGS
from transformers import BertForTokenClassification

from tinybert_cli import formats, models
from tinybert_cli.config import Model
from tinybert_cli.models.cls_last_layer import compute_all_tokens, compute_cls_only

INPUTS = {name: BATCH[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", CONFIGS)
def test_logits_and_gradients_are_those_of_the_whole_layer(family: str, attention: str) -> None:
    whole, short = model(family, attention), compute_cls_only(model(family, attention))
    for net in (whole, short):
        torch.nn.functional.cross_entropy(net(**INPUTS).logits, BATCH["labels"]).backward()
    with torch.no_grad():
        assert torch.allclose(whole(**INPUTS).logits, short(**INPUTS).logits, atol=1e-6)
    gradients = dict(short.named_parameters())
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradients[name].grad, atol=1e-6), name


@pytest.mark.parametrize("family", CONFIGS)
def test_only_the_first_token_passes_the_last_feed_forward_network(family: str) -> None:
    net = compute_cls_only(model(family))
    assert net.base_model(**INPUTS)[0].shape == (2, 1, net.config.hidden_size)
    compute_all_tokens(net)
    assert net.base_model(**INPUTS)[0].shape == (2, 4, net.config.hidden_size)


def test_dropout_of_the_attention_is_that_of_training() -> None:
    net = compute_cls_only(model("bert", attention_probs_dropout_prob=0.9, hidden_dropout_prob=0.0)).train()
    torch.manual_seed(1)
    first, second = net(**INPUTS).logits, net(**INPUTS).logits
    assert not torch.equal(first, second)
    assert torch.equal(net.eval()(**INPUTS).logits, net(**INPUTS).logits)


def test_a_copied_model_uses_its_own_weights() -> None:
    net = compute_cls_only(model("bert"))
    before = net(**INPUTS).logits
    twin: Any = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in twin.base_model.encoder.layer[-1].parameters():
            parameter.zero_()
    assert torch.equal(net(**INPUTS).logits, before)
    assert not torch.allclose(twin(**INPUTS).logits, before)


def test_what_is_saved_is_the_whole_model() -> None:
    assert compute_cls_only(model("bert")).state_dict().keys() == model("bert").state_dict().keys()


def test_a_head_that_reads_every_token_keeps_them() -> None:
    net = compute_cls_only(BertForTokenClassification(copy.deepcopy(CONFIGS["bert"])).eval())
    assert net(**INPUTS).logits.shape[:2] == (2, 4)


@pytest.mark.parametrize("cls_only", [False, True])
def test_load_and_build_student_patch_the_last_layer_on_request_only(cls_only: bool, tmp_path: Path) -> None:
    model("bert").save_pretrained(tmp_path)
    loaded = models.load(models.locate(str(tmp_path)), "sequence-classification", cls_only=cls_only)
    setting = Model.model_validate({"from": str(tmp_path), "num_hidden_layers": 2})
    student = models.build_student(setting, loaded, [1, 3], seed=1, cls_only=cls_only)
    for net in (loaded, student):
        assert net.base_model(**INPUTS)[0].shape[1] == (1 if cls_only else 4)


def test_losses_that_compare_layers_see_all_tokens() -> None:
    teacher = models.Teacher(compute_cls_only(model("bert")), [1, 3], frozenset({"hidden_states"}))
    student = models.Student(compute_cls_only(model("bert")), teacher, shared=False).train()
    assert student(**INPUTS)["hidden_states"][-1].shape[1] == 4
    assert teacher(BATCH, set(INPUTS))["hidden_states"][-1].shape[1] == 4


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_an_export_has_the_short_layer_and_the_same_logits(family: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    whole, short = model(family), compute_cls_only(model(family))
    formats.write_onnx(short, INPUTS, tmp_path)
    longer = {name: torch.cat([value, value], -1) for name, value in INPUTS.items()}
    longer["attention_mask"] = longer["attention_mask"].sort(descending=True).values  # the padding is on the right
    for shown in (INPUTS, longer):
        with torch.no_grad():
            expected = whole(**shown).logits.numpy()
        assert np.allclose(formats.read_onnx(tmp_path)(**shown)["logits"].numpy(), expected, atol=1e-5)
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "model.onnx")).graph.node]
    assert kinds.count("Attention") == 3 and kinds.count("MultiHeadAttention") == 1 and "Softmax" not in kinds
    assert len(kinds) < 80
