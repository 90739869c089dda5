"""Losses give the numbers of their papers, whatever the temperature, the classes and the batch size."""

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


def said(*rows: list[float]) -> dict[str, Tensor]:
    return {"logits": torch.tensor(rows, dtype=torch.float64)}


def r_drop(first: Tensor, second: Tensor) -> Tensor:
    return logits.r_drop({"logits": first}, {"logits": second}, {})


def shown(*labels: int) -> dict[str, Tensor]:
    return {"labels": torch.tensor(labels)}


def at_random(rows: int, classes: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    values = np.random.default_rng(seed).normal(size=(rows, classes)) * scale
    return {"logits": torch.from_numpy(values - values.mean(-1, keepdims=True)).float()}


def gradient(student: dict[str, Tensor], teacher: dict[str, Tensor], temperature: float) -> Tensor:
    leaf = student["logits"].clone().requires_grad_()
    logits.soft_labels({"logits": leaf}, teacher, {}, temperature=temperature).backward()
    assert leaf.grad is not None
    return leaf.grad


# -- soft labels ---------------------------------------------------------------------------------------------


def test_soft_labels_are_the_cross_entropy_of_the_two_distributions() -> None:
    loss = logits.soft_labels(said([0.0, LN3]), said([LN3, 0.0]), {}, temperature=1.0)  # (3, 1) / 4 against (1, 3) / 4
    assert loss.item() == pytest.approx(-(0.75 * math.log(0.25) + 0.25 * math.log(0.75)))


def test_temperature_softens_both_and_multiplies_by_its_square() -> None:
    loss = logits.soft_labels(said([0.0, 2 * LN3]), said([4 * LN3, 0.0]), {}, temperature=2.0)
    # the teacher says (9, 1) / 10, the student (1, 3) / 4
    assert loss.item() == pytest.approx(4 * -(0.9 * math.log(0.25) + 0.1 * math.log(0.75)))


def test_default_temperature_is_two() -> None:
    student, teacher = at_random(4, 3), at_random(4, 3, seed=1)
    assert logits.soft_labels(student, teacher, {}).item() == pytest.approx(
        logits.soft_labels(student, teacher, {}, temperature=2.0).item()
    )


def test_soft_labels_agree_with_numpy_on_many_rows() -> None:
    student, teacher = at_random(7, 5, scale=3), at_random(7, 5, seed=1, scale=3)
    s, t = (values["logits"].double().numpy() / 3 for values in (student, teacher))
    p = np.exp(t) / np.exp(t).sum(1, keepdims=True)
    q = np.exp(s) / np.exp(s).sum(1, keepdims=True)
    expected = 9 * -(p * np.log(q)).sum(1).mean()
    assert logits.soft_labels(student, teacher, {}, temperature=3.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_student_that_says_what_the_teacher_says_has_nothing_to_learn(temperature: float) -> None:
    teacher = at_random(6, 4, scale=2)
    assert gradient(teacher, teacher, temperature).abs().max() < 1e-6


def test_equal_answers_are_the_minimum() -> None:
    teacher = at_random(6, 4)
    least = logits.soft_labels(teacher, teacher, {})
    for seed in range(5):
        other = {"logits": teacher["logits"] + at_random(6, 4, seed=seed + 1, scale=0.1)["logits"]}
        assert logits.soft_labels(other, teacher, {}) > least


def test_size_of_the_gradient_does_not_depend_on_the_temperature() -> None:
    student, teacher = at_random(8, 3, scale=0.01), at_random(8, 3, seed=1, scale=0.01)
    torch.testing.assert_close(gradient(student, teacher, 4.0), gradient(student, teacher, 1.0), rtol=0.05, atol=1e-5)


def test_gradient_at_a_high_temperature_is_the_difference_of_the_logits_over_classes() -> None:
    """Hinton et al. 2015, equation 4, times T²; logits of mean zero, and a mean over the rows."""
    student, teacher = at_random(8, 3), at_random(8, 3, seed=1)
    expected = (student["logits"] - teacher["logits"]) / 3 / 8
    torch.testing.assert_close(gradient(student, teacher, 1000.0), expected, rtol=0.01, atol=1e-4)


def test_soft_labels_are_not_divided_by_the_number_of_classes() -> None:
    """Classes that nobody believes in change nothing."""
    student, teacher = at_random(4, 2), at_random(4, 2, seed=1)
    wide = [{"logits": torch.cat([v["logits"], torch.full((4, 6), -1e4)], dim=1)} for v in (student, teacher)]
    assert logits.soft_labels(wide[0], wide[1], {}).item() == pytest.approx(
        logits.soft_labels(student, teacher, {}).item(), rel=1e-5
    )


def test_soft_labels_are_computed_in_float32() -> None:
    student, teacher = at_random(4, 3, scale=4), at_random(4, 3, seed=1, scale=4)
    half = logits.soft_labels({"logits": student["logits"].bfloat16()}, teacher, {})
    full = logits.soft_labels({"logits": student["logits"].bfloat16().float()}, teacher, {})
    assert half.dtype == torch.float32
    assert half.item() == full.item()


@pytest.mark.parametrize("name", ["soft_labels", "hard_labels"])
def test_batch_twice_as_large_of_the_same_rows_has_the_same_loss(name: str) -> None:
    student, teacher, batch = at_random(5, 3), at_random(5, 3, seed=1), shown(0, 1, 2, 1, 0)
    twice = [{key: torch.cat([value, value]) for key, value in part.items()} for part in (student, teacher, batch)]
    assert losses.LOSSES[name](*twice).item() == pytest.approx(losses.LOSSES[name](student, teacher, batch).item())


# -- hard labels ---------------------------------------------------------------------------------------------


def test_hard_labels_are_the_cross_entropy_with_the_gold_label() -> None:
    loss = logits.hard_labels(said([LN3, 0.0], [LN3, 0.0]), {}, shown(0, 1))
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_rows_without_a_label_count_for_nothing() -> None:
    loss = logits.hard_labels(said([LN3, 0.0], [9.0, -9.0], [5.0, 5.0]), {}, shown(1, -100, -100))
    assert loss.item() == pytest.approx(math.log(4))


def test_batch_without_any_label_has_the_loss_zero_and_no_gradient() -> None:
    student = {"logits": torch.randn(2, 3, requires_grad=True)}
    loss = logits.hard_labels(student, {}, shown(-100, -100))
    loss.backward()
    assert loss.item() == 0.0
    assert student["logits"].grad is not None
    assert student["logits"].grad.abs().max() == 0.0


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    loss = logits.hard_labels(said([LN3, 0.0]), {}, shown(0), label_smoothing=0.2)  # the target is (0.9, 0.1)
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25)))


def test_label_smoothing_ignores_rows_without_a_label() -> None:
    loss = logits.hard_labels(said([LN3, 0.0], [7.0, 0.0]), {}, shown(0, -100), label_smoothing=0.2)
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.75) + 0.1 * math.log(0.25)))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0, 0, 0, 2, 0, 2, -100])
    balanced = losses.LOSS_SETS["class"].balanced
    assert balanced is not None
    np.testing.assert_allclose(balanced(labels)[:6], compute_sample_weight("balanced", labels[:6]), rtol=1e-6)
    assert balanced(labels)[6] == 0 and balanced(labels[6:]).tolist() == [0]


def test_balanced_hard_labels_are_the_mean_by_these_weights() -> None:
    batch = {**shown(0, 1, -100), "label_weights": torch.tensor([0.5, 1.5, 0.0])}
    student = said([LN3, 0.0], [LN3, 0.0], [9.0, -9.0])
    loss = logits.hard_labels(student, {}, batch, class_weights="balanced")
    assert loss.item() == pytest.approx(-(0.5 * math.log(0.75) + 1.5 * math.log(0.25)) / 2)
    batch["label_weights"] = torch.zeros(3)
    assert logits.hard_labels(student, {}, batch, class_weights="balanced").item() == 0.0


# -- R-Drop --------------------------------------------------------------------------------------------------


def test_r_drop_is_the_mean_of_both_divergences() -> None:
    first, second = said([LN3, 0.0])["logits"], said([0.0, 0.0])["logits"]  # (3, 1) / 4 against (1, 1) / 2
    there = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    back = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert r_drop(first, second).item() == pytest.approx((there + back) / 2)


def test_r_drop_is_symmetric() -> None:
    first, second = at_random(4, 3)["logits"], at_random(4, 3, seed=1)["logits"]
    assert r_drop(first, second).item() == pytest.approx(r_drop(second, first).item())


def test_r_drop_of_equal_passes_is_zero() -> None:
    logits = at_random(4, 3)["logits"]
    assert r_drop(logits, logits + 5).item() == pytest.approx(0.0, abs=1e-7)


def test_r_drop_is_a_mean_over_rows() -> None:
    first, second = at_random(4, 3)["logits"], at_random(4, 3, seed=1)["logits"]
    rows = [r_drop(first[i : i + 1], second[i : i + 1]).item() for i in range(4)]
    assert r_drop(first, second).item() == pytest.approx(sum(rows) / 4)


# -- combine -------------------------------------------------------------------------------------------------

STUDENT, TEACHER, BATCH = at_random(5, 3), at_random(5, 3, seed=1), shown(0, 1, 2, -100, 0)


def test_combined_loss_is_the_weighted_sum_and_each_part_stands_beside_it() -> None:
    found = losses.combine({"soft_labels": 0.7, "hard_labels": {"weight": 0.3, "label_smoothing": 0.1}})(
        STUDENT, TEACHER, BATCH
    )
    soft = logits.soft_labels(STUDENT, TEACHER, BATCH).item()
    hard = logits.hard_labels(STUDENT, TEACHER, BATCH, label_smoothing=0.1).item()
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"loss": 0.7 * soft + 0.3 * hard, "soft_labels": soft, "hard_labels": hard}
    )


def test_options_reach_the_loss_and_the_weight_is_one_unless_said() -> None:
    found = losses.combine({"soft_labels": {"temperature": 5}})(STUDENT, TEACHER, BATCH)
    assert found["loss"].item() == pytest.approx(logits.soft_labels(STUDENT, TEACHER, BATCH, temperature=5.0).item())


def test_gradients_flow_through_the_combined_loss() -> None:
    leaf = STUDENT["logits"].clone().requires_grad_()
    losses.combine({"soft_labels": 2.0})({"logits": leaf}, TEACHER, BATCH)["loss"].backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, 2 * gradient(STUDENT, TEACHER, 2.0))


def test_loss_of_weight_zero_is_not_computed() -> None:
    """There are no labels here: computing hard_labels would fail."""
    found = losses.combine({"soft_labels": 1.0, "hard_labels": 0.0})(STUDENT, TEACHER, {})
    assert list(found) == ["loss", "soft_labels"]


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
def test_setting_that_cannot_be_is_refused_with_its_place(
    setting: dict[str, Any], key: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        losses.combine(setting)
    assert caught.value.key == key


def test_options_of_a_loss_are_its_keyword_only_parameters() -> None:
    options = {name: list(losses.options_of(loss)) for name, loss in losses.LOSSES.items()}
    assert {name: found for name, found in options.items() if found} == {
        "soft_labels": ["temperature"],
        "hard_labels": ["label_smoothing", "class_weights"],
        "relations": ["relation_heads"],
    }


# -- layer losses --------------------------------------------------------------------------------------------

MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # two rows, the second with two tokens of padding
LAYERS, HEADS, SIZE = 2, 3, 4


def states(seed: int, width: int = HEADS * SIZE, heads: int = HEADS) -> dict[str, Any]:
    """All that a model could say of MASK: layers of (B, T, H), (B, A, T, D) and (B, A, T, T), float64."""
    draw = np.random.default_rng(seed)
    logits: dict[str, Any] = {"embeddings": torch.from_numpy(draw.normal(size=(2, 5, width)))}
    logits["hidden_states"] = [torch.from_numpy(draw.normal(size=(2, 5, width))) for _ in range(LAYERS)]
    for name in ("queries", "keys", "values"):
        shape = (2, heads, 5, width // heads)
        logits[name] = [torch.from_numpy(draw.normal(size=shape)) for _ in range(LAYERS)]
    logits["scores"] = [torch.from_numpy(draw.normal(size=(2, heads, 5, 5))) for _ in range(LAYERS)]
    return logits


MASKED = {"attention_mask": torch.from_numpy(MASK)}


def numpy_hidden(ours: list[Tensor], theirs: list[Tensor]) -> float:
    real = MASK.astype(bool)
    return sum(float(((s.numpy() - t.numpy())[real] ** 2).mean()) for s, t in zip(ours, theirs, strict=True))


def numpy_attentions(student: dict[str, Any], teacher: dict[str, Any]) -> float:
    total = 0.0
    for layer in range(LAYERS):
        squared = []
        for row, head in np.ndindex(2, HEADS):
            real = MASK[row].astype(bool)
            scores = [said["scores"][layer][row, head].numpy()[real][:, real] for said in (student, teacher)]
            squared += ((scores[0] - scores[1]) ** 2).ravel().tolist()
        total += float(np.mean(squared))
    return total


def numpy_relations(student: dict[str, Any], teacher: dict[str, Any], heads: int) -> float:
    total = 0.0
    for name in ("queries", "keys", "values"):
        found = []
        for row in range(2):
            real = MASK[row].astype(bool)
            tables = []
            for said in (student, teacher):
                whole = np.concatenate(list(said[name][-1][row].numpy()), axis=-1)[real]  # (T, A·D)
                parts = np.split(whole, heads, axis=-1)
                scores = np.stack([part @ part.T / np.sqrt(part.shape[-1]) for part in parts])
                tables.append(np.exp(scores) / np.exp(scores).sum(-1, keepdims=True))
            ours, theirs = tables
            found += (theirs * np.log(theirs / ours)).sum(-1).mean(0).tolist()
        total += float(np.mean(found))
    return total


def test_layer_losses_are_what_numpy_says() -> None:
    student, teacher = states(1), states(2)
    said = {
        name: float(losses.LOSSES[name](student, teacher, MASKED))
        for name in losses.LAYER_OUTPUTS
        if name != "relations"
    }
    cosines = []
    ours, theirs = student["hidden_states"][-1].numpy(), teacher["hidden_states"][-1].numpy()
    for row, token in zip(*MASK.nonzero(), strict=True):
        s, t = ours[row, token], theirs[row, token]
        cosines.append(1 - s @ t / np.linalg.norm(s) / np.linalg.norm(t))
    heads = [[said["hidden_states"][layer][:, 0].numpy() for said in (student, teacher)] for layer in range(LAYERS)]
    unit = [[state / np.linalg.norm(state, axis=-1, keepdims=True) for state in pair] for pair in heads]
    assert said == pytest.approx(
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
def test_relations_are_what_numpy_says_whatever_the_heads_and_widths(heads: int) -> None:
    student, teacher = states(1, width=6, heads=2), states(2)
    loss = layers.relations(student, teacher, MASKED, relation_heads=heads)
    assert float(loss) == pytest.approx(numpy_relations(student, teacher, heads), rel=1e-5)


def test_layer_losses_by_hand() -> None:
    mask = {"attention_mask": torch.tensor([[1, 1, 0]])}
    ours = {"hidden_states": [torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])]}
    theirs = {"hidden_states": [torch.tensor([[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])]}
    assert float(layers.hidden_states(ours, theirs, mask)) == (1 + 0 + 0 + 4) / 4
    theirs = {"hidden_states": [torch.tensor([[[0.0, 3.0], [0.0, 1.0], [5.0, 0.0]]])]}
    assert float(layers.cosine(ours, theirs, mask)) == (1 + 0) / 2  # at a right angle, and along
    assert float(layers.pooled(ours, theirs, mask)) == pytest.approx(2.0)  # (1, -1)
    ours = {
        "scores": [torch.tensor([[[[1.0, 3.0, 7.0], [2.0, 6.0, 14.0], [7.0, 21.0, 49.0]]]])]
    }  # the third is padding
    theirs = {"scores": [torch.ones(1, 1, 3, 3)]}
    assert float(layers.attentions(ours, theirs, mask)) == (0 + 4 + 1 + 25) / 4


def test_embeddings_and_relations_by_hand() -> None:
    mask = {"attention_mask": torch.tensor([[1, 1, 0]])}
    ours = {"embeddings": torch.tensor([[[1.0, 0.0], [0.0, 2.0], [9.0, 9.0]]])}
    assert float(layers.embeddings(ours, {"embeddings": torch.zeros(1, 3, 2)}, mask)) == (1 + 0 + 0 + 4) / 4
    # one head of one dimension: the first token's products with itself and the second are ln 3 and 0, so it looks at
    # them as 3 to 1; the second looks at both alike, as both of the student's do
    told = torch.tensor([[[[LN3**0.5], [0.0], [5.0]]]])
    theirs, ours = ({name: [said] for name in ("queries", "keys", "values")} for said in (told, 0 * told))
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    loss = layers.relations(ours, theirs, mask, relation_heads=1)
    assert float(loss) == pytest.approx(3 * (first + 0) / 2, rel=1e-5)


@pytest.mark.parametrize("name", losses.LAYER_OUTPUTS)
def test_padding_changes_no_layer_loss(name: str) -> None:
    student, teacher = states(1), states(2)
    loss, before = losses.LOSSES[name], losses.LOSSES[name](student, teacher, MASKED)
    for said in (student, teacher):
        for values in said.values():
            for tensor in [values] if isinstance(values, Tensor) else values:
                padded = tensor[1, ..., 3:, :]
                padded.copy_(torch.randn_like(padded) * 100)
        for scores in said["scores"]:
            scores[1, ..., 3:] = 100.0
    assert float(loss(student, teacher, MASKED)) == pytest.approx(float(before), rel=1e-6)

    def longer(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, 50 * torch.ones_like(tensor[..., :2, :])], dim=-2)

    padded_answers: list[dict[str, Any]] = [
        {k: longer(v) if isinstance(v, Tensor) else [longer(t) for t in v] for k, v in said.items()}
        for said in (student, teacher)
    ]
    for said in padded_answers:
        said["scores"] = [longer(scores.mT).mT for scores in said["scores"]]
    mask = {"attention_mask": torch.nn.functional.pad(MASKED["attention_mask"], (0, 2))}
    assert float(loss(*padded_answers, mask)) == pytest.approx(float(before), rel=1e-6)


@pytest.mark.parametrize("name", losses.LAYER_OUTPUTS)
def test_a_student_like_its_teacher_has_no_layer_loss(name: str) -> None:
    teacher = states(3)
    assert float(losses.LOSSES[name](teacher, teacher, MASKED)) == pytest.approx(0.0, abs=1e-6)


def test_heads_that_do_not_match_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 attention heads, its teacher 3") as caught:
        layers.attentions(states(1, heads=2), states(2), MASKED)
    assert caught.value.hint and "relations" in caught.value.hint
    with pytest.raises(ConfigError, match="width of 12 cannot be shared by 5"):
        layers.relations(states(1), states(2), MASKED, relation_heads=5)


def test_only_layer_losses_need_the_teacher_itself() -> None:
    assert losses.combine({"soft_labels": 1.0, "hard_labels": 1.0, "attentions": 0.0}).layer_outputs == frozenset()
    layer_outputs = losses.combine({"hidden_states": 1.0, "attentions": 0.5}).layer_outputs
    assert layer_outputs == {"hidden_states", "scores"}
