"""Losses equal the formulas of their papers for any temperature, number of classes and batch size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from tinybert_cli import losses
from tinybert_cli.errors import ConfigError
from tinybert_cli.losses import layers, logits

LN3 = math.log(3)


def outputs(*rows: list[float]) -> dict[str, Tensor]:
    return {"logits": torch.tensor(rows, dtype=torch.float64)}


def r_drop(first: Tensor, second: Tensor) -> Tensor:
    return logits.r_drop({"logits": first}, {"logits": second}, {})


def labelled(*labels: int) -> dict[str, Tensor]:
    return {"labels": torch.tensor(labels)}


def random_outputs(rows: int, classes: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    values = np.random.default_rng(seed).normal(size=(rows, classes)) * scale
    return {"logits": torch.from_numpy(values - values.mean(-1, keepdims=True)).float()}


def gradient(student: dict[str, Tensor], teacher: dict[str, Tensor], temperature: float) -> Tensor:
    leaf = student["logits"].clone().requires_grad_()
    logits.soft_labels({"logits": leaf}, teacher, {}, temperature=temperature).backward()
    assert leaf.grad is not None
    return leaf.grad


# -- soft labels ---------------------------------------------------------------------------------------------


def test_soft_labels_is_the_cross_entropy_of_two_distributions() -> None:
    loss = logits.soft_labels(
        outputs([0.0, LN3]), outputs([LN3, 0.0]), {}, temperature=1.0
    )  # (3, 1) / 4 against (1, 3) / 4
    assert loss.item() == pytest.approx(-(0.75 * math.log(0.25) + 0.25 * math.log(0.75)))


def test_temperature_softens_both_and_multiplies_by_its_square() -> None:
    loss = logits.soft_labels(outputs([0.0, 2 * LN3]), outputs([4 * LN3, 0.0]), {}, temperature=2.0)
    # softened: teacher (9, 1) / 10, student (1, 3) / 4
    assert loss.item() == pytest.approx(4 * -(0.9 * math.log(0.25) + 0.1 * math.log(0.75)))


def test_default_temperature_is_two() -> None:
    student, teacher = random_outputs(4, 3), random_outputs(4, 3, seed=1)
    assert logits.soft_labels(student, teacher, {}).item() == pytest.approx(
        logits.soft_labels(student, teacher, {}, temperature=2.0).item()
    )


def test_soft_labels_match_numpy() -> None:
    student, teacher = random_outputs(7, 5, scale=3), random_outputs(7, 5, seed=1, scale=3)
    s, t = (values["logits"].double().numpy() / 3 for values in (student, teacher))
    p = np.exp(t) / np.exp(t).sum(1, keepdims=True)
    q = np.exp(s) / np.exp(s).sum(1, keepdims=True)
    expected = 9 * -(p * np.log(q)).sum(1).mean()
    assert logits.soft_labels(student, teacher, {}, temperature=3.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equal_logits_have_zero_gradient(temperature: float) -> None:
    teacher = random_outputs(6, 4, scale=2)
    assert gradient(teacher, teacher, temperature).abs().max() < 1e-6


def test_equal_logits_minimize_the_loss() -> None:
    teacher = random_outputs(6, 4)
    minimum = logits.soft_labels(teacher, teacher, {})
    for seed in range(5):
        other = {"logits": teacher["logits"] + random_outputs(6, 4, seed=seed + 1, scale=0.1)["logits"]}
        assert logits.soft_labels(other, teacher, {}) > minimum


def test_gradient_size_does_not_depend_on_the_temperature() -> None:
    student, teacher = random_outputs(8, 3, scale=0.01), random_outputs(8, 3, seed=1, scale=0.01)
    torch.testing.assert_close(gradient(student, teacher, 4.0), gradient(student, teacher, 1.0), rtol=0.05, atol=1e-5)


def test_gradient_at_high_temperature_is_the_logit_difference() -> None:
    """Hinton et al. 2015, equation 4, times T², over the number of classes; zero-mean logits, mean over rows."""
    student, teacher = random_outputs(8, 3), random_outputs(8, 3, seed=1)
    expected = (student["logits"] - teacher["logits"]) / 3 / 8
    torch.testing.assert_close(gradient(student, teacher, 1000.0), expected, rtol=0.01, atol=1e-4)


def test_soft_labels_are_not_divided_by_the_number_of_classes() -> None:
    """Additional classes of probability 0 do not change the loss."""
    student, teacher = random_outputs(4, 2), random_outputs(4, 2, seed=1)
    wide = [{"logits": torch.cat([v["logits"], torch.full((4, 6), -1e4)], dim=1)} for v in (student, teacher)]
    assert logits.soft_labels(wide[0], wide[1], {}).item() == pytest.approx(
        logits.soft_labels(student, teacher, {}).item(), rel=1e-5
    )


def test_soft_labels_are_computed_in_float32() -> None:
    student, teacher = random_outputs(4, 3, scale=4), random_outputs(4, 3, seed=1, scale=4)
    half = logits.soft_labels({"logits": student["logits"].bfloat16()}, teacher, {})
    full = logits.soft_labels({"logits": student["logits"].bfloat16().float()}, teacher, {})
    assert half.dtype == torch.float32
    assert half.item() == full.item()


@pytest.mark.parametrize("name", ["soft_labels", "hard_labels"])
def test_repeating_the_rows_of_a_batch_keeps_the_loss(name: str) -> None:
    student, teacher, batch = random_outputs(5, 3), random_outputs(5, 3, seed=1), labelled(0, 1, 2, 1, 0)
    twice = [{key: torch.cat([value, value]) for key, value in part.items()} for part in (student, teacher, batch)]
    assert losses.LOSSES[name](*twice).item() == pytest.approx(losses.LOSSES[name](student, teacher, batch).item())


# -- hard labels ---------------------------------------------------------------------------------------------


def test_hard_labels_is_the_cross_entropy_with_gold_labels() -> None:
    loss = logits.hard_labels(outputs([LN3, 0.0], [LN3, 0.0]), {}, labelled(0, 1))
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_rows_without_a_label_are_ignored() -> None:
    loss = logits.hard_labels(outputs([LN3, 0.0], [9.0, -9.0], [5.0, 5.0]), {}, labelled(1, -100, -100))
    assert loss.item() == pytest.approx(math.log(4))


def test_batch_without_labels_has_zero_loss_and_zero_gradient() -> None:
    student = {"logits": torch.randn(2, 3, requires_grad=True)}
    loss = logits.hard_labels(student, {}, labelled(-100, -100))
    loss.backward()
    assert loss.item() == 0.0
    assert student["logits"].grad is not None
    assert student["logits"].grad.abs().max() == 0.0


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    loss = logits.hard_labels(outputs([LN3, 0.0]), {}, labelled(0), label_smoothing=0.2)  # the target is (0.9, 0.1)
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25)))


def test_label_smoothing_ignores_rows_without_a_label() -> None:
    loss = logits.hard_labels(outputs([LN3, 0.0], [7.0, 0.0]), {}, labelled(0, -100), label_smoothing=0.2)
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25)))


def test_balanced_weights_equal_scikit_learn() -> None:
    labels = np.array([0, 0, 0, 2, 0, 2, -100])
    balanced = losses.LOSS_SETS["class"].balanced
    assert balanced is not None
    np.testing.assert_allclose(balanced(labels)[:6], compute_sample_weight("balanced", labels[:6]), rtol=1e-6)
    assert balanced(labels)[6] == 0 and balanced(labels[6:]).tolist() == [0]


def test_balanced_hard_labels_is_the_weighted_mean() -> None:
    batch = {**labelled(0, 1, -100), "label_weights": torch.tensor([0.5, 1.5, 0.0])}
    student = outputs([LN3, 0.0], [LN3, 0.0], [9.0, -9.0])
    loss = logits.hard_labels(student, {}, batch, class_weights="balanced")
    assert loss.item() == pytest.approx(-(0.5 * math.log(0.75) + 1.5 * math.log(0.25)) / 2)
    batch["label_weights"] = torch.zeros(3)
    assert logits.hard_labels(student, {}, batch, class_weights="balanced").item() == 0.0


# -- R-Drop --------------------------------------------------------------------------------------------------


def test_r_drop_is_the_mean_of_both_kl_divergences() -> None:
    first, second = outputs([LN3, 0.0])["logits"], outputs([0.0, 0.0])["logits"]  # (3, 1) / 4 against (1, 1) / 2
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    backward = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert r_drop(first, second).item() == pytest.approx((forward + backward) / 2)


def test_r_drop_is_symmetric() -> None:
    first, second = random_outputs(4, 3)["logits"], random_outputs(4, 3, seed=1)["logits"]
    assert r_drop(first, second).item() == pytest.approx(r_drop(second, first).item())


def test_r_drop_of_equal_passes_is_zero() -> None:
    logits = random_outputs(4, 3)["logits"]
    assert r_drop(logits, logits + 5).item() == pytest.approx(0.0, abs=1e-7)


def test_r_drop_is_a_mean_over_rows() -> None:
    first, second = random_outputs(4, 3)["logits"], random_outputs(4, 3, seed=1)["logits"]
    rows = [r_drop(first[i : i + 1], second[i : i + 1]).item() for i in range(4)]
    assert r_drop(first, second).item() == pytest.approx(sum(rows) / 4)


# -- combine -------------------------------------------------------------------------------------------------

STUDENT, TEACHER, BATCH = random_outputs(5, 3), random_outputs(5, 3, seed=1), labelled(0, 1, 2, -100, 0)


def test_combine_returns_each_part_and_its_weight() -> None:
    loss = losses.combine({"soft_labels": 0.7, "hard_labels": {"weight": 0.3, "label_smoothing": 0.1}})
    parts = loss(STUDENT, TEACHER, BATCH)
    soft = logits.soft_labels(STUDENT, TEACHER, BATCH).item()
    hard = logits.hard_labels(STUDENT, TEACHER, BATCH, label_smoothing=0.1).item()
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(
        {"soft_labels": soft, "hard_labels": hard}
    )
    assert loss.weights == {"soft_labels": 0.7, "hard_labels": 0.3}


def test_options_reach_the_loss_and_the_default_weight_is_one() -> None:
    loss = losses.combine({"soft_labels": {"temperature": 5}})
    assert loss.weights == {"soft_labels": 1.0}
    assert loss(STUDENT, TEACHER, BATCH)["soft_labels"].item() == pytest.approx(
        logits.soft_labels(STUDENT, TEACHER, BATCH, temperature=5.0).item()
    )


def test_gradients_flow_through_the_combined_loss() -> None:
    leaf = STUDENT["logits"].clone().requires_grad_()
    losses.combine({"soft_labels": 2.0})({"logits": leaf}, TEACHER, BATCH)["soft_labels"].backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, gradient(STUDENT, TEACHER, 2.0))


def test_loss_of_weight_zero_is_not_computed() -> None:
    """The batch has no labels: computing hard_labels would fail."""
    parts = losses.combine({"soft_labels": 1.0, "hard_labels": 0.0})(STUDENT, TEACHER, {})
    assert list(parts) == ["soft_labels"]


@pytest.mark.parametrize(
    ("setting", "key", "message"),
    [
        ({"soft_lables": 1.0}, ("soft_lables",), r"unknown loss 'soft_lables'\n   = did you mean 'soft_labels'\?"),
        (
            {"soft_labels": {"temprature": 2.0}},
            ("soft_labels", "temprature"),
            r"unknown option 'temprature' of the loss `soft_labels`\n   = did you mean 'temperature'\?",
        ),
        ({"hard_labels": {"temperature": 2.0}}, ("hard_labels", "temperature"), "one of: weight, label_smoothing"),
        ({"soft_labels": -1.0}, ("soft_labels", "weight"), "greater than or equal to 0, found -1.0"),
        ({"soft_labels": {"weight": "1"}}, ("soft_labels", "weight"), "should be a number, found '1'"),
        ({"soft_labels": True}, ("soft_labels", "weight"), "should be a number, found True"),
        ({"soft_labels": None}, ("soft_labels", "weight"), "should be a number, found None"),
        ({"soft_labels": {"weight": math.inf}}, ("soft_labels", "weight"), "finite number, found inf"),
        ({"soft_labels": {"temperature": 0.0}}, ("soft_labels", "temperature"), "greater than 0, found 0.0"),
        ({"soft_labels": {"temperature": math.nan}}, ("soft_labels", "temperature"), "found nan"),
        ({"soft_labels": {"temperature": math.inf}}, ("soft_labels", "temperature"), "finite number, found inf"),
        ({"hard_labels": {"label_smoothing": 1.0}}, ("hard_labels", "label_smoothing"), "less than 1, found 1.0"),
        ({"hard_labels": {"weight": 0.0, "label_smoothing": 2}}, ("hard_labels", "label_smoothing"), "less than 1"),
        ({}, (), "all loss weights are 0"),
        ({"soft_labels": 0.0, "hard_labels": {"weight": 0.0}}, (), "all loss weights are 0"),
    ],
)
def test_invalid_setting_raises_config_error_with_its_key(
    setting: dict[str, Any], key: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        losses.combine(setting)
    assert caught.value.key == key


def test_options_are_the_keyword_only_parameters() -> None:
    options = {name: list(losses.options_of(loss)) for name, loss in losses.LOSSES.items()}
    assert {name: keys for name, keys in options.items() if keys} == {
        "soft_labels": ["temperature"],
        "hard_labels": ["label_smoothing", "class_weights"],
        "relations": ["relation_heads"],
    }


# -- layer losses --------------------------------------------------------------------------------------------

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # two rows, the second with two tokens of padding
LAYERS, HEADS, HEAD_SIZE = 2, 3, 4


def layer_outputs(seed: int, hidden_size: int = HEADS * HEAD_SIZE, heads: int = HEADS) -> dict[str, Any]:
    """Random layer outputs for MASK: (B, T, H), (B, A, T, D) and (B, A, T, T) per layer, float64."""
    rng = np.random.default_rng(seed)
    outputs: dict[str, Any] = {"embeddings": torch.from_numpy(rng.normal(size=(2, 5, hidden_size)))}
    outputs["hidden_states"] = [torch.from_numpy(rng.normal(size=(2, 5, hidden_size))) for _ in range(LAYERS)]
    for name in ("queries", "keys", "values"):
        shape = (2, heads, 5, hidden_size // heads)
        outputs[name] = [torch.from_numpy(rng.normal(size=shape)) for _ in range(LAYERS)]
    outputs["scores"] = [torch.from_numpy(rng.normal(size=(2, heads, 5, 5))) for _ in range(LAYERS)]
    return outputs


BATCH_OF_MASK = {"attention_mask": torch.from_numpy(MASK)}


def numpy_hidden(student: list[Tensor], teacher: list[Tensor]) -> float:
    real = MASK.astype(bool)
    return sum(float(((s.numpy() - t.numpy())[real] ** 2).mean()) for s, t in zip(student, teacher, strict=True))


def numpy_attentions(student: dict[str, Any], teacher: dict[str, Any]) -> float:
    total = 0.0
    for layer in range(LAYERS):
        squared = []
        for row, head in np.ndindex(2, HEADS):
            real = MASK[row].astype(bool)
            scores = [outputs["scores"][layer][row, head].numpy()[real][:, real] for outputs in (student, teacher)]
            squared += ((scores[0] - scores[1]) ** 2).ravel().tolist()
        total += float(np.mean(squared))
    return total


def numpy_relations(student: dict[str, Any], teacher: dict[str, Any], heads: int) -> float:
    total = 0.0
    for name in ("queries", "keys", "values"):
        divergences: list[float] = []
        for row in range(2):
            real = MASK[row].astype(bool)
            relations = []
            for outputs in (student, teacher):
                concatenated = np.concatenate(list(outputs[name][-1][row].numpy()), axis=-1)[real]  # (T, A·D)
                parts = np.split(concatenated, heads, axis=-1)
                scores = np.stack([part @ part.T / np.sqrt(part.shape[-1]) for part in parts])
                relations.append(np.exp(scores) / np.exp(scores).sum(-1, keepdims=True))
            q, p = relations
            divergences += (p * np.log(p / q)).sum(-1).mean(0).tolist()
        total += float(np.mean(divergences))
    return total


def test_layer_losses_match_numpy() -> None:
    student, teacher = layer_outputs(1), layer_outputs(2)
    computed = {
        name: float(losses.LOSSES[name](student, teacher, BATCH_OF_MASK))
        for name in losses.LAYER_OUTPUTS
        if name != "relations"
    }
    cosines = []
    last_of_student, last_of_teacher = (outputs["hidden_states"][-1].numpy() for outputs in (student, teacher))
    for row, token in zip(*MASK.nonzero(), strict=True):
        s, t = last_of_student[row, token], last_of_teacher[row, token]
        cosines.append(1 - s @ t / np.linalg.norm(s) / np.linalg.norm(t))
    first_tokens = [
        [outputs["hidden_states"][layer][:, 0].numpy() for outputs in (student, teacher)] for layer in range(LAYERS)
    ]
    unit = [[state / np.linalg.norm(state, axis=-1, keepdims=True) for state in pair] for pair in first_tokens]
    assert computed == pytest.approx(
        {
            "hidden_states": numpy_hidden(student["hidden_states"], teacher["hidden_states"]),
            "embeddings": numpy_hidden([student["embeddings"]], [teacher["embeddings"]]),
            "attentions": numpy_attentions(student, teacher),
            "cosine": float(np.mean(cosines)),
            "pooled": sum(float(((s - t) ** 2).sum(-1).mean()) for s, t in unit),
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_relations_match_numpy_for_other_heads_and_hidden_sizes(heads: int) -> None:
    student, teacher = layer_outputs(1, hidden_size=6, heads=2), layer_outputs(2)
    loss = layers.relations(student, teacher, BATCH_OF_MASK, relation_heads=heads)
    assert float(loss) == pytest.approx(numpy_relations(student, teacher, heads), rel=1e-5)


def test_layer_losses_computed_by_hand() -> None:
    mask = {"attention_mask": torch.tensor([[1, 1, 0]])}
    student = {"hidden_states": [torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])]}
    teacher = {"hidden_states": [torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])]}
    assert float(layers.hidden_states(student, teacher, mask)) == (1 + 0 + 0 + 4) / 4
    teacher = {"hidden_states": [torch.tensor([[[0.0, 3.0], [0.0, 1.0], [5.0, 0.0]]])]}
    assert float(layers.cosine(student, teacher, mask)) == (1 + 0) / 2  # at a right angle, and parallel
    assert float(layers.pooled(student, teacher, mask)) == pytest.approx(2.0)  # (1, -1)
    student = {
        "scores": [torch.tensor([[[[1.0, 3.0, 7.0], [2.0, 6.0, 14.0], [7.0, 21.0, 49.0]]]])]
    }  # the third is padding
    teacher = {"scores": [torch.ones(1, 1, 3, 3)]}
    assert float(layers.attentions(student, teacher, mask)) == (0 + 4 + 1 + 25) / 4


def test_embeddings_and_relations_computed_by_hand() -> None:
    mask = {"attention_mask": torch.tensor([[1, 1, 0]])}
    student = {"embeddings": torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])}
    assert float(layers.embeddings(student, {"embeddings": torch.zeros(1, 3, 2)}, mask)) == (1 + 0 + 0 + 4) / 4
    # One head of dimension 1. The first token's scores with itself and the second are ln 3 and 0, so its relation is
    # (3, 1) / 4; that of the second token is uniform, as are both of the student.
    projected = torch.tensor([[[[LN3**0.5], [0.0], [5.0]]]])
    teacher, student = (
        {name: [values] for name in ("queries", "keys", "values")} for values in (projected, 0 * projected)
    )
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = layers.relations(student, teacher, mask, relation_heads=1)
    assert float(loss) == pytest.approx(3 * (first + 0) / 2, rel=1e-5)


@pytest.mark.parametrize("name", losses.LAYER_OUTPUTS)
def test_padding_does_not_change_layer_losses(name: str) -> None:
    student, teacher = layer_outputs(1), layer_outputs(2)
    loss = losses.LOSSES[name]
    expected = float(loss(student, teacher, BATCH_OF_MASK))
    for outputs in (student, teacher):
        for values in outputs.values():
            for tensor in [values] if isinstance(values, Tensor) else values:
                padded = tensor[1, ..., 3:, :]
                padded.copy_(torch.randn_like(padded) * 100)
        for scores in outputs["scores"]:
            scores[1, ..., 3:] = 100.0
    assert float(loss(student, teacher, BATCH_OF_MASK)) == pytest.approx(expected, rel=1e-6)

    def longer(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, 50 * torch.ones_like(tensor[..., :2, :])], dim=-2)

    longer_outputs: list[dict[str, Any]] = [
        {k: longer(v) if isinstance(v, Tensor) else [longer(t) for t in v] for k, v in outputs.items()}
        for outputs in (student, teacher)
    ]
    for outputs in longer_outputs:
        outputs["scores"] = [longer(scores.mT).mT for scores in outputs["scores"]]
    mask = {"attention_mask": torch.nn.functional.pad(BATCH_OF_MASK["attention_mask"], (0, 2))}
    assert float(loss(*longer_outputs, mask)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", losses.LAYER_OUTPUTS)
def test_layer_losses_of_equal_models_are_zero(name: str) -> None:
    teacher = layer_outputs(3)
    assert float(losses.LOSSES[name](teacher, teacher, BATCH_OF_MASK)) == pytest.approx(0.0, abs=1e-6)


def test_incompatible_heads_raise_config_error() -> None:
    with pytest.raises(ConfigError, match="the student has 2, the teacher 3") as caught:
        layers.attentions(layer_outputs(1, heads=2), layer_outputs(2), BATCH_OF_MASK)
    assert caught.value.hint and "relations" in caught.value.hint
    with pytest.raises(ConfigError, match=r"hidden size 12 is not divisible by relation_heads \(5\)"):
        layers.relations(layer_outputs(1), layer_outputs(2), BATCH_OF_MASK, relation_heads=5)


def test_only_layer_losses_need_layer_outputs() -> None:
    assert losses.combine({"soft_labels": 1.0, "hard_labels": 1.0, "attentions": 0.0}).layer_outputs == frozenset()
    layer_outputs = losses.combine({"hidden_states": 1.0, "attentions": 0.5}).layer_outputs
    assert layer_outputs == {"hidden_states", "scores"}
