"""What student and teacher say of their layers is what the layers really computed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_students import CONFIGS, SIZES
from torch import Tensor
from transformers import AutoModelForSequenceClassification, DebertaV2Config, ModernBertConfig

from tinybert_cli import losses, models
from tinybert_cli.errors import InputError

ALL = frozenset({"embeddings", "hidden_states", "scores", "queries", "keys", "values"})
INPUTS = {"input_ids", "attention_mask"}
BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    "labels": torch.tensor([0, 1]),
}


def model(family: str, attention: str = "eager", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[family])
    for name, value in changes.items():
        setattr(config, name, value)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()


def answers(teacher: models.Teacher) -> dict[str, Any]:
    return teacher(BATCH, INPUTS)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_scores_give_the_attention_that_the_model_computes(family: str) -> None:
    reference = model(family)
    with torch.no_grad():
        out = reference(BATCH["input_ids"], BATCH["attention_mask"], output_attentions=True, output_hidden_states=True)
    heard = answers(models.Teacher(model(family, "sdpa"), [1, 3], ALL))
    for index, layer in enumerate([1, 3]):
        query, key, scores = (heard[name][index] for name in ("queries", "keys", "scores"))
        assert torch.allclose(scores, query @ key.mT / query.shape[-1] ** 0.5, atol=1e-6)
        scores = scores.masked_fill(BATCH["attention_mask"][:, None, None] == 0, -1e9)
        assert torch.allclose(scores.softmax(-1)[0], out.attentions[layer][0], atol=1e-5)
        assert torch.allclose(scores.softmax(-1)[1, :, :2], out.attentions[layer][1, :, :2], atol=1e-5)
        assert torch.allclose(heard["hidden_states"][index][0], out.hidden_states[layer + 1][0], atol=1e-5)
    assert torch.allclose(heard["embeddings"], out.hidden_states[0], atol=1e-6)


def test_a_teacher_computes_nothing_above_the_last_compared_layer() -> None:
    whole, cut = answers(models.Teacher(model("bert"), [0, 3], ALL)), models.Teacher(model("bert"), [0, 1], ALL)
    assert len(cut.body.encoder.layer) == 2
    assert torch.equal(answers(cut)["hidden_states"][0], whole["hidden_states"][0])


def test_a_teacher_has_no_dropout_and_no_gradients() -> None:
    net = model("bert", hidden_dropout_prob=0.5).train()
    teacher = models.Teacher(net, [3], ALL)
    first, second = answers(teacher), answers(teacher)
    assert torch.equal(first["hidden_states"][0], second["hidden_states"][0])
    assert not first["hidden_states"][0].requires_grad


@pytest.mark.parametrize(("shared", "count"), [(True, 1), (False, 3)])
def test_a_narrower_student_is_brought_to_its_teachers_width(shared: bool, count: int) -> None:
    teacher = models.Teacher(model("bert"), [1, 3], ALL)
    student = models.Student(model("bert", num_hidden_layers=2, hidden_size=12), teacher, shared=shared).train()
    assert len(student.projections) == count
    said = student(**{name: BATCH[name] for name in INPUTS})
    assert said["embeddings"].shape == said["hidden_states"][1].shape == (2, 4, 24)
    assert said["queries"][0].shape == (2, 4, 4, 3) and said["scores"][0].shape == (2, 4, 4, 4)
    named: dict[str, Any] = {"hidden_states": 1.0, "attentions": 1.0, "embeddings": 1.0}
    objective = losses.combine(named | {"relations": {"relation_heads": 6}})
    objective(said, answers(teacher), BATCH)["loss"].backward()
    body = student.model.bert
    learned: list[Tensor] = [*student.projections.parameters(), body.encoder.layer[0].attention.self.query.weight]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in learned)


def test_a_student_as_wide_as_its_teacher_is_compared_as_it_is() -> None:
    net = model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    teacher = models.Teacher(copy.deepcopy(net), range(4), ALL)
    student = models.Student(net, teacher, shared=False).train()
    said = student(**{name: BATCH[name] for name in INPUTS})
    parts = losses.combine(dict.fromkeys(losses.LAYER_OUTPUTS, 1.0))(said, answers(teacher), BATCH)
    assert parts["loss"].item() == pytest.approx(0.0, abs=1e-5)
    assert not list(student.projections)


def test_in_eval_mode_a_student_is_its_model() -> None:
    net = model("bert")
    student = models.Student(net, models.Teacher(model("bert"), range(4), ALL), shared=False).eval()
    shown = {name: BATCH[name] for name in INPUTS}
    assert torch.equal(student(**shown).logits, net(**shown).logits)


@pytest.mark.parametrize("config", [DebertaV2Config, ModernBertConfig])
def test_a_family_whose_attention_cannot_be_read_is_named_and_has_its_other_states(config: Any) -> None:
    net = AutoModelForSequenceClassification.from_config(config(**SIZES, pad_token_id=1))
    with pytest.raises(InputError, match=rf"{config.model_type} .* attentions and relations"):
        models.Teacher(net, [1], frozenset({"scores"}))
    heard = models.Teacher(net, [1], frozenset({"hidden_states", "embeddings"}))(BATCH, INPUTS)
    assert heard["hidden_states"][0].shape == heard["embeddings"].shape == (2, 4, 24)
