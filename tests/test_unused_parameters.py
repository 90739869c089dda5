"""Parameters that no loss reads are frozen if several processes train; the weights are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_layer_outputs import BATCH, make_model
from test_loops import CROSS_ENTROPY, Net, SequentialBatches, make_examples, train, weights
from transformers import M2M100Config, M2M100ForConditionalGeneration

from tinybert_cli import loops, losses, models
from tinybert_cli.config import ResolvedTraining
from tinybert_cli.loops.unused_parameters import drops_layers
from tinybert_cli.types import Batch


def layer_loss(teacher: models.Teacher, names: dict[str, Any]) -> loops.StepLoss:
    loss = losses.combine(names)
    return loops.StepLoss(
        lambda model, batch: loss(loops.forward(model, batch), teacher(batch, loops.MODEL_INPUTS), batch),
        loss.denominators,
        loss.weights,
    )


def unused_names(model: torch.nn.Module, loss: loops.StepLoss, batch: Batch) -> set[str]:
    unused = {id(parameter) for parameter in loops.unused_parameters(model, loss, batch)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in unused}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_layer_losses_leave_pooler_and_classifier_without_gradient(dropout: float) -> None:
    teacher = models.Teacher(make_model("bert"), [1, 3], frozenset({"hidden_states"}))
    model = make_model("bert", num_hidden_layers=2, hidden_size=12, hidden_dropout_prob=dropout)
    student = models.Student(model, teacher, shared=False)
    loss = layer_loss(teacher, {"hidden_states": 1.0})
    names = unused_names(student, loss, BATCH)
    expected = {f"model.{part}.{name}" for part in ("bert.pooler.dense", "classifier") for name in ("weight", "bias")}
    expected |= {f"projections.0.{name}" for name in ("weight", "bias")}  # of the embeddings
    assert names == expected and student.training and student.model.bert.training
    loss.total(loss.means(student, BATCH)).backward()
    assert {name for name, parameter in student.named_parameters() if parameter.grad is None} == names


def test_loss_that_reads_everything_leaves_nothing_unused() -> None:
    assert unused_names(Net(), CROSS_ENTROPY, make_examples().__getitems__([0])) == set()


def test_layers_that_are_left_out_at_random_are_used() -> None:
    config = M2M100Config(
        vocab_size=20, d_model=8, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=16,
        encoder_layerdrop=1.0, decoder_layerdrop=1.0, use_cache=False,
    )  # fmt: skip
    model = M2M100ForConditionalGeneration(config)
    tokens = torch.tensor([[5, 6, 7]])
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "decoder_input_ids": tokens}
    batch |= {"decoder_attention_mask": torch.ones_like(tokens), "positions": torch.tensor([0, 1])}
    loss = loops.StepLoss(
        lambda model, batch: {"part": loops.forward(model, batch)["logits"].sum()},
        lambda batch: {"part": torch.tensor(1)},
        {"part": 1.0},
    )
    assert unused_names(model, loss, batch) == set()
    assert drops_layers(torch.nn.ModuleList([model])) and not drops_layers(make_model("bert"))


class NetWithPooler(Net):
    def __init__(self) -> None:
        super().__init__(dropout=0.3)
        self.pooler = torch.nn.Linear(8, 8)


def make_trainer(*, frozen: bool) -> loops.Trainer:
    torch.manual_seed(1)
    net, examples = NetWithPooler(), make_examples()
    unused = loops.unused_parameters(net, CROSS_ENTROPY, examples.__getitems__([0])) if frozen else []
    assert len(unused) == 2 * frozen
    training = ResolvedTraining(num_train_epochs=2.0, learning_rate=1e-2, weight_decay=0.1, mixed_precision="no")
    accelerator = loops.make_accelerator(training)
    return loops.Trainer(net, examples, SequentialBatches(4), training, accelerator=accelerator, seed=3, unused=unused)


def test_frozen_parameters_change_no_weights(tmp_path: Path) -> None:
    """The checkpoints are the same, too: those of an earlier version can be resumed."""
    plain = make_trainer(frozen=False)
    train(plain)
    frozen = make_trainer(frozen=True)  # seeds the dropout anew
    before = weights(frozen)
    train(frozen)
    expected = weights(plain)
    for name, values in weights(frozen).items():
        assert torch.equal(values, expected[name]), name
        assert torch.equal(values, before[name]) == name.startswith("pooler"), name
    plain.save(tmp_path / "state")
    resumed = make_trainer(frozen=True)
    resumed.load(tmp_path / "state")
    assert all(torch.equal(values, expected[name]) for name, values in weights(resumed).items())
