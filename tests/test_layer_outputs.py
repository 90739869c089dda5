"""Layer outputs of teacher and student are the values that their layers compute."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_students import CONFIGS, UNSUPPORTED
from torch import Tensor
from transformers import AlbertConfig, AutoModelForSequenceClassification, FunnelConfig

from tinybert_cli import losses, models
from tinybert_cli.errors import InputError

ALL = frozenset({"embeddings", "hidden_states", "scores", "queries", "keys", "values"})
INPUTS = {"input_ids", "attention_mask"}
BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 1, 1]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    "labels": torch.tensor([0, 1]),
}


def make_model(family: str, attention: str = "eager", **settings: Any) -> Any:
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[family])
    for name, value in settings.items():
        setattr(config, name, value)
    return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()


def outputs_of(teacher: models.Teacher) -> dict[str, Any]:
    return teacher(BATCH, INPUTS)


@pytest.mark.parametrize("family", CONFIGS)
def test_layer_outputs_match_those_of_transformers(family: str) -> None:
    reference = make_model(family)
    with torch.no_grad():
        expected = reference(
            BATCH["input_ids"], BATCH["attention_mask"], output_attentions=True, output_hidden_states=True
        )
    outputs = outputs_of(models.Teacher(make_model(family, "sdpa"), [1, 3], ALL))
    for index, layer in enumerate([1, 3]):
        query, key, scores = (outputs[name][index] for name in ("queries", "keys", "scores"))
        assert torch.allclose(scores, query @ key.mT / query.shape[-1] ** 0.5, atol=1e-6)
        scores = scores.masked_fill(BATCH["attention_mask"][:, None, None] == 0, -1e9)
        assert torch.allclose(scores.softmax(-1)[0], expected.attentions[layer][0], atol=1e-5)
        assert torch.allclose(scores.softmax(-1)[1, :, :2], expected.attentions[layer][1, :, :2], atol=1e-5)
        assert torch.allclose(outputs["hidden_states"][index][0], expected.hidden_states[layer + 1][0], atol=1e-5)
    assert torch.allclose(outputs["embeddings"], expected.hidden_states[0], atol=1e-6)


def test_teacher_drops_layers_above_the_last_compared_one() -> None:
    complete = outputs_of(models.Teacher(make_model("bert"), [0, 3], ALL))
    cut = models.Teacher(make_model("bert"), [0, 1], ALL)
    assert len(cut.base_model.encoder.layer) == 2
    assert torch.equal(outputs_of(cut)["hidden_states"][0], complete["hidden_states"][0])


def test_teacher_has_no_dropout_and_no_gradients() -> None:
    model = make_model("bert", hidden_dropout_prob=0.5).train()
    teacher = models.Teacher(model, [3], ALL)
    first, second = outputs_of(teacher), outputs_of(teacher)
    assert torch.equal(first["hidden_states"][0], second["hidden_states"][0])
    assert not first["hidden_states"][0].requires_grad


@pytest.mark.parametrize(("shared", "count"), [(True, 1), (False, 3)])
def test_smaller_student_is_projected_to_the_teachers_hidden_size(shared: bool, count: int) -> None:
    teacher = models.Teacher(make_model("bert"), [1, 3], ALL)
    student = models.Student(make_model("bert", num_hidden_layers=2, hidden_size=12), teacher, shared=shared).train()
    assert len(student.projections) == count
    student_outputs = student(**{name: BATCH[name] for name in INPUTS})
    assert student_outputs["embeddings"].shape == student_outputs["hidden_states"][1].shape == (2, 4, 24)
    assert student_outputs["queries"][0].shape == (2, 4, 4, 3) and student_outputs["scores"][0].shape == (2, 4, 4, 4)
    weights: dict[str, Any] = {"hidden_states": 1.0, "attentions": 1.0, "embeddings": 1.0}
    objective = losses.combine(weights | {"relations": {"relation_heads": 6}})
    torch.stack(list(objective(student_outputs, outputs_of(teacher), BATCH).values())).sum().backward()
    body = student.model.bert
    trained: list[Tensor] = [*student.projections.parameters(), body.encoder.layer[0].attention.self.query.weight]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained)


def test_student_with_the_teachers_hidden_size_has_no_projections() -> None:
    model = make_model("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    teacher = models.Teacher(copy.deepcopy(model), range(4), ALL)
    student = models.Student(model, teacher, shared=False).train()
    student_outputs = student(**{name: BATCH[name] for name in INPUTS})
    parts = losses.combine(dict.fromkeys(losses.LAYER_OUTPUTS, 1.0))(student_outputs, outputs_of(teacher), BATCH)
    assert [part.item() for part in parts.values()] == pytest.approx([0.0] * len(parts), abs=1e-5)
    assert not list(student.projections)


def test_student_in_eval_mode_returns_the_outputs_of_its_model() -> None:
    model = make_model("bert")
    student = models.Student(model, models.Teacher(make_model("bert"), range(4), ALL), shared=False).eval()
    inputs = {name: BATCH[name] for name in INPUTS}
    assert torch.equal(student(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize(
    ("outputs", "losses_named"),
    [({"scores"}, "loss attentions needs"), ({"queries", "keys", "values"}, "loss relations needs")],
)
def test_unsupported_family_names_the_loss_that_needs_its_attention(outputs: set[str], losses_named: str) -> None:
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(UNSUPPORTED["squeezebert"]))
    with pytest.raises(
        InputError, match=rf"(?s)squeezebert models cannot be read, but the {losses_named}.*relations +no"
    ):
        models.Teacher(model, [1], frozenset(outputs))


def test_unsupported_family_has_hidden_states() -> None:
    model = AutoModelForSequenceClassification.from_config(copy.deepcopy(UNSUPPORTED["convbert"]))
    outputs = models.Teacher(model, [1], frozenset({"hidden_states", "embeddings"}))(BATCH, INPUTS)
    assert outputs["hidden_states"][0].shape == outputs["embeddings"].shape == (2, 4, 24)


def test_layers_that_join_tokens_are_not_compared() -> None:
    config = FunnelConfig(vocab_size=30, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=32)
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(InputError, match="the layers of funnel models join tokens"):
        models.Teacher(model, [1], frozenset({"hidden_states"}))
    assert models.Teacher(model, [1], frozenset({"embeddings"}))(BATCH, INPUTS)["embeddings"].shape == (2, 4, 16)


def test_layer_of_several_parts_has_the_state_after_the_last_one() -> None:
    config = AlbertConfig(vocab_size=30, embedding_size=8, hidden_size=24, num_attention_heads=4, intermediate_size=40,
                          num_hidden_layers=4, num_hidden_groups=2, inner_group_num=2, pad_token_id=1)  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    groups: list[Tensor] = []
    for group in model.base_model.encoder.albert_layer_groups:
        group.register_forward_hook(lambda module, inputs, output: groups.append(output))
    states = outputs_of(models.Teacher(model, [0, 1, 3], frozenset({"hidden_states"})))["hidden_states"]
    assert len(groups) == 4
    assert all(torch.equal(state, groups[layer]) for state, layer in zip(states, [0, 1, 3], strict=True))


@pytest.mark.parametrize("layers", [[3, 1], [2, 2], [1, 3]])
def test_layer_outputs_are_in_the_order_of_the_compared_layers(layers: list[int]) -> None:
    outputs = outputs_of(models.Teacher(make_model("bert"), layers, ALL))
    for index, layer in enumerate(layers):
        alone = outputs_of(models.Teacher(make_model("bert"), [layer], ALL))
        for name in ALL - {"embeddings"}:
            assert torch.equal(outputs[name][index], alone[name][0]), name
