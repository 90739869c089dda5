"""Word-level distillation from the K most probable tokens, and layer losses of two stacks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tinybert_cli import losses
from tinybert_cli.errors import ConfigError
from tinybert_cli.losses import layers, logits
from tinybert_cli.losses.tokens import soft_labels_of_tokens
from tinybert_cli.types import NO_LABEL

TOKENS, VOCABULARY = 9, 40


def random_logits(seed: int, tokens: int = TOKENS, vocabulary: int = VOCABULARY) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(tokens, vocabulary)) * 3).float()


def stored(teacher: Tensor, k: int) -> dict[str, Tensor]:
    """What a label dataset has of these logits (P, V), in float32."""
    log_probabilities = teacher.log_softmax(-1)
    values, ids = log_probabilities.topk(k)
    return {
        "teacher_topk_ids": ids,
        "teacher_topk_logprobs": values,
        "teacher_logsumexp": (log_probabilities / 2).logsumexp(-1),
        "teacher_known": torch.ones(len(teacher), dtype=torch.bool),
    }


def loss_and_gradient(student: Tensor, batch: dict[str, Tensor], temperature: float) -> tuple[float, Tensor]:
    leaf = student.clone().requires_grad_()
    loss = soft_labels_of_tokens({"logits": leaf}, {}, batch, temperature=temperature)
    loss.backward()
    assert leaf.grad is not None
    return loss.item(), leaf.grad


def dense(student: Tensor, teacher: Tensor, temperature: float) -> tuple[float, Tensor]:
    leaf = student.clone().requires_grad_()
    loss = logits.soft_labels({"logits": leaf}, {"logits": teacher}, {}, temperature=temperature)
    loss.backward()
    assert leaf.grad is not None
    return loss.item(), leaf.grad


# -- soft labels of tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_tokens_give_loss_and_gradient_of_the_dense_loss(temperature: float) -> None:
    student, teacher = random_logits(0, vocabulary=4000), random_logits(1, vocabulary=4000)
    loss, gradient = loss_and_gradient(student, stored(teacher, 4000), temperature)
    expected, expected_gradient = dense(student, teacher, temperature)
    assert loss == pytest.approx(expected, abs=1e-5, rel=1e-6)
    assert (gradient - expected_gradient).abs().max() < 1e-5 * expected_gradient.abs().max()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1])
def test_other_tokens_are_one_class_with_the_teachers_true_mass(temperature: float, k: int) -> None:
    student, teacher = random_logits(0), random_logits(1)
    p, q = ((values.double() / temperature).softmax(-1).numpy() for values in (teacher, student))
    expected = []
    for row in range(TOKENS):
        best = np.argsort(-p[row])[:k]
        rest_p, rest_q = 1 - p[row][best].sum(), 1 - q[row][best].sum()
        expected.append(-(p[row][best] * np.log(q[row][best])).sum() - rest_p * np.log(rest_q))
    loss, _ = loss_and_gradient(student, stored(teacher, k), temperature)
    assert loss == pytest.approx(np.mean(expected) * temperature**2, rel=1e-4)


def test_soft_labels_of_tokens_computed_by_hand() -> None:
    """Teacher (1/2, 1/4, 1/4), one token stored; student (1/4, 1/2, 1/4)."""
    batch = stored(torch.tensor([[0.5, 0.25, 0.25]]).log(), 1)
    loss = soft_labels_of_tokens({"logits": torch.tensor([[0.25, 0.5, 0.25]]).log()}, {}, batch)
    assert loss.item() == pytest.approx(-(0.5 * math.log(0.25) + 0.5 * math.log(0.75)))


def test_default_temperature_of_tokens_is_one() -> None:
    student, batch = random_logits(0), stored(random_logits(1), 4)
    assert soft_labels_of_tokens({"logits": student}, {}, batch).item() == loss_and_gradient(student, batch, 1.0)[0]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equal_distributions_have_no_gradient(temperature: float) -> None:
    teacher = random_logits(0)
    _, gradient = loss_and_gradient(teacher, stored(teacher, 8), temperature)
    assert gradient.abs().max() < 1e-5


def test_certain_student_and_teacher_have_a_finite_loss_and_gradient() -> None:
    certain = torch.full((1, VOCABULARY), -50.0)
    certain[0, 3] = 50.0
    other = certain.roll(1, -1)
    for student, teacher in ((certain, certain), (certain, other), (certain, random_logits(0, 1))):
        loss, gradient = loss_and_gradient(student, stored(teacher, 2), 1.0)
        assert math.isfinite(loss) and gradient.isfinite().all()
    assert loss_and_gradient(certain, stored(certain, 2), 1.0)[0] == pytest.approx(0, abs=1e-6)
    assert loss_and_gradient(certain, stored(other, 2), 1.0)[0] == pytest.approx(100, rel=1e-4)


def test_float16_of_the_label_dataset_changes_the_loss_by_little() -> None:
    student, batch = random_logits(0), stored(random_logits(1), 8)
    half = {name: values.half() if values.is_floating_point() else values for name, values in batch.items()}
    for temperature in (1.0, 2.0):
        loss = loss_and_gradient(student, batch, temperature)[0]
        assert loss_and_gradient(student, half, temperature)[0] == pytest.approx(loss, rel=2e-3)


def test_targets_without_a_distribution_do_not_count() -> None:
    student, teacher = random_logits(0), random_logits(1)
    batch = stored(teacher, 4)
    batch["teacher_known"][5:] = False
    batch["teacher_topk_ids"][5:], batch["teacher_topk_logprobs"][5:] = 0, 0
    loss, gradient = loss_and_gradient(student, batch, 1.0)
    assert loss == pytest.approx(loss_and_gradient(student[:5], stored(teacher[:5], 4), 1.0)[0])
    assert not gradient[5:].any()
    batch["teacher_known"][:] = False
    loss, gradient = loss_and_gradient(student, batch, 1.0)
    assert loss == 0 and not gradient.any()


def test_micro_batches_weigh_by_their_known_target_tokens() -> None:
    loss = losses.combine({"soft_labels": {"temperature": 2.0}}, "tokens")
    student, batch = random_logits(0), stored(random_logits(1), 4)
    batch["teacher_known"][6] = False
    total, sums, counts = loss({"logits": student}, {}, batch)["soft_labels"], 0.0, 0.0
    for part in (slice(0, 2), slice(2, 9)):
        micro = {name: values[part] for name, values in batch.items()}
        count = float(loss.denominators(micro)["soft_labels"])
        sums, counts = sums + float(loss({"logits": student[part]}, {}, micro)["soft_labels"]) * count, counts + count
    assert counts == 8 and sums / counts == pytest.approx(total.item(), rel=1e-6)


def test_hard_labels_of_tokens_is_the_smoothed_cross_entropy() -> None:
    loss = losses.combine({"hard_labels": {"label_smoothing": 0.1}}, "tokens")
    student = random_logits(0)
    labels = torch.arange(TOKENS)
    labels[2] = NO_LABEL
    expected = torch.nn.functional.cross_entropy(student, labels, label_smoothing=0.1)
    assert loss({"logits": student}, {}, {"labels": labels})["hard_labels"].item() == pytest.approx(expected.item())
    assert int(loss.denominators({"labels": labels})["hard_labels"]) == TOKENS - 1


@pytest.mark.parametrize("temperature", [0.5, 1.5, 4.0])
def test_temperature_without_stored_normalizers_is_rejected(temperature: float) -> None:
    with pytest.raises(ConfigError, match=f"`temperature` of the loss `soft_labels` .*, found {temperature}"):
        losses.combine({"soft_labels": {"temperature": temperature}}, "tokens")
    assert losses.combine({"soft_labels": {"temperature": temperature}}, "class").weights == {"soft_labels": 1.0}


# -- hidden states of two stacks ------------------------------------------------------------------------------

MASKS = {
    "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    "decoder_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]),
}


def states(seed: int) -> dict[str, Any]:
    random = torch.Generator().manual_seed(seed)
    return {
        "encoder_hidden_states": [torch.randn(2, 3, 5, generator=random) for _ in range(2)],
        "decoder_hidden_states": [torch.randn(2, 4, 5, generator=random)],
    }


def test_hidden_states_of_each_stack_use_its_own_mask() -> None:
    student, teacher = states(0), states(1)
    values = losses.combine({"hidden_states": 1.0}, "tokens")(student, teacher, MASKS)
    assert list(values) == ["encoder_hidden_states", "decoder_hidden_states"]
    for name, mask in (
        ("encoder_hidden_states", "attention_mask"),
        ("decoder_hidden_states", "decoder_attention_mask"),
    ):
        real = MASKS[mask].bool()
        expected = sum(
            float((s[real] - t[real]).square().mean()) for s, t in zip(student[name], teacher[name], strict=True)
        )
        assert float(values[name]) == pytest.approx(expected, rel=1e-5)


def test_stacks_are_means_over_source_and_target_tokens() -> None:
    loss = losses.combine({"hidden_states": 1.0}, "tokens")
    assert {name: int(value) for name, value in loss.denominators(MASKS).items()} == {
        "encoder_hidden_states": 5,
        "decoder_hidden_states": 5,
    }
    assert loss.layer_outputs == {"encoder_hidden_states", "decoder_hidden_states"}
    assert loss.layer_losses == [*loss.parts] and not loss.trains_head


def test_weights_of_the_stacks_multiply_the_weight_of_the_loss() -> None:
    loss = losses.combine({"hidden_states": {"weight": 0.5, "decoder": 0.2}, "hard_labels": 1.0}, "tokens")
    assert loss.weights == pytest.approx(
        {"encoder_hidden_states": 0.5, "decoder_hidden_states": 0.1, "hard_labels": 1.0}
    )
    assert loss.trains_head
    assert [*losses.combine({"hidden_states": {"encoder": 0.0}}, "tokens").parts] == ["decoder_hidden_states"]


@pytest.mark.parametrize("name", [name for name in losses.LAYER_OUTPUTS if name != "hidden_states"])
def test_losses_on_encoders_only_are_rejected_in_translation(name: str) -> None:
    with pytest.raises(ConfigError, match=f"the loss `{name}` compares the layers of an encoder") as caught:
        losses.combine({"hard_labels": 1.0, name: 1.0}, "tokens")
    assert caught.value.key == (name,) and caught.value.hint is not None and "hidden_states" in caught.value.hint
    assert losses.combine({"hard_labels": 1.0, name: 0.0}, "tokens").weights == {"hard_labels": 1.0}


@pytest.mark.parametrize(
    ("setting", "outputs", "message"),
    [
        ({"hidden_states": {"encoder": -1.0}}, "tokens", "`encoder` of the loss `hidden_states` .*, found -1.0"),
        ({"hidden_states": {"weight": 1.0, "encodr": 1.0}}, "tokens", "unknown option 'encodr'"),
        ({"hidden_states": {"encoder": 0.0, "decoder": 0.0}}, "tokens", "all loss weights are 0"),
        ({"hidden_states": {"encoder": 1.0}}, "class", "unknown option 'encoder' of the loss `hidden_states`"),
    ],
)
def test_invalid_weights_of_stacks_are_rejected(setting: dict[str, Any], outputs: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        losses.combine(setting, outputs)


def test_padding_changes_no_loss_of_two_stacks() -> None:
    student, teacher = states(0), states(1)
    expected = float(layers.decoder_hidden_states(student, teacher, MASKS))
    student["decoder_hidden_states"][0][1, 1:] = 1e4
    assert float(layers.decoder_hidden_states(student, teacher, MASKS)) == expected
