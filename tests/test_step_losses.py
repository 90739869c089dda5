"""A step has the same loss and gradient for any split of its rows into batches, accumulated batches and processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tinybert_cli import loops, losses
from tinybert_cli.config import ResolvedTraining
from tinybert_cli.data import Examples, sorted_batches
from tinybert_cli.types import NO_LABEL, Batch

ROWS, CLASSES, HEADS, HEAD_SIZE, VOCABULARY = 32, 3, 2, 4, 30
HIDDEN = HEADS * HEAD_SIZE


class Net(torch.nn.Module):
    """Returns every output that a loss reads; logits for a window (B, C), for its tokens (B, T, C), or for spans."""

    def __init__(self, output: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.output = output
        self.embedding = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(HIDDEN, HIDDEN) for _ in range(2))
        self.head = torch.nn.Linear(HIDDEN, {"span": 2, "value": 1}.get(output, CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Any]:
        states = [self.embedding(input_ids)]
        for layer in self.layers:
            states.append(torch.tanh(layer(states[-1])))
        heads = [state.unflatten(-1, (HEADS, HEAD_SIZE)).transpose(1, 2) for state in states[1:]]
        outputs: dict[str, Any] = {"embeddings": states[0], "hidden_states": states[1:]}
        outputs |= dict.fromkeys(("queries", "keys", "values"), heads)
        outputs["scores"] = [head @ head.mT for head in heads]
        logits = self.head(states[-1])
        if self.output == "span":
            return outputs | {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
        mask = attention_mask[..., None]
        return outputs | {"logits": logits if self.output == "tags" else (logits * mask).sum(1) / mask.sum(1)}


def make_examples(output: str) -> Examples:
    """Rows of very different lengths; a third of the labels is missing, most of them in the first rows."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 12, ROWS)
    tokens = {"input_ids": (rng.integers(1, VOCABULARY, lengths.sum()).astype(np.int32), 0)}
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    counts = np.ones(ROWS, dtype=int)  # predictions per row
    if output in ("tags", "span"):
        counts = lengths - 2 * (output == "tags")  # some rows have no tags
    positions = np.concatenate([np.arange(count) + (output == "tags") for count in counts])
    rows = np.repeat(np.arange(ROWS), counts)
    missing = rng.random(len(rows)) < np.where(rows < 12, 0.9, 0.1)
    targets: dict[str, Any]
    if output == "value":
        targets = {"labels": np.where(missing, np.nan, rng.normal(size=len(rows))).astype(np.float32)}
    elif output == "classes":
        shape = (len(rows), CLASSES)
        targets = {"labels": np.where(rng.random(shape) < 0.3, np.nan, rng.random(shape) < 0.3).astype(np.float32)}
        targets["labels"][missing] = np.nan
    elif output == "span":
        begins = np.concatenate([[0], np.cumsum(counts)])[:-1]
        targets = {"labels": np.full((len(rows), 2), np.nan, dtype=np.float32)}
        for begin, count in zip(begins, counts, strict=True):
            if rng.random() < 0.6:  # the other rows have no label
                targets["labels"][begin : begin + count] = 0
                targets["labels"][begin, 0] = targets["labels"][begin + count - 1, 1] = 1
    else:
        classes = rng.choice(CLASSES, size=len(rows), p=[0.7, 0.2, 0.1])
        targets = {"labels": np.where(missing, NO_LABEL, classes)}
    balanced = losses.LOSS_SETS[LOSS_SETS[output]].balanced
    if balanced is not None:
        targets["label_weights"] = balanced(targets["labels"])
    if output not in ("tags", "span"):
        return Examples(tokens, offsets, targets)
    window_offsets = np.concatenate([[0], np.cumsum(counts)])
    return Examples(tokens, offsets, targets, window_offsets, positions)


LOSS_SETS = {"class": "class", "tags": "class", "classes": "classes", "value": "value", "span": "span"}
BALANCED = {"hard_labels": {"class_weights": "balanced", "label_smoothing": 0.1}}
CASES = [
    *((output, name, {}) for output in LOSS_SETS for name in ("soft_labels", "hard_labels", "r_drop")),
    *((output, "hard_labels", BALANCED["hard_labels"]) for output in ("class", "tags", "classes")),
    *(("tags", name, {"relation_heads": 2} if name == "relations" else {}) for name in losses.LAYER_OUTPUTS),
]


def make_loss(output: str, name: str, options: Mapping[str, Any]) -> loops.StepLoss:
    function = getattr(losses.LOSS_SETS[LOSS_SETS[output]], name, losses.LOSSES.get(name))
    assert function is not None
    loss = losses.WeightedLoss({name: losses.part(function, 0.7, options)})
    teacher = Net(output, seed=2)

    def means(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        with torch.no_grad():
            teacher_outputs = loops.forward(teacher, batch)
        return loss(loops.forward(model, batch), teacher_outputs, batch)

    return loops.StepLoss(means, loss.denominators, loss.weights)


class Batches:
    """The rows in order."""

    def __init__(self, size: int) -> None:
        self.epoch = 0
        self.batches = [list(range(begin, begin + size)) for begin in range(0, ROWS, size)]

    def __len__(self) -> int:
        return len(self.batches)

    def count(self, epoch: int) -> int:
        return len(self)

    def after(self, count: int) -> Iterator[list[int]]:
        return iter(self.batches[count:])

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def one_step(
    case: tuple[str, str, Mapping[str, Any]], size: int, accumulated: int, *, most: int = ROWS
) -> tuple[float, Tensor]:
    """The logged loss of one optimizer step, and its gradient, on a GPU with memory for `most` rows."""
    output, name, options = case
    training = ResolvedTraining(
        max_steps=1, gradient_accumulation_steps=accumulated, max_grad_norm=0.0, mixed_precision="no", logging_steps=1
    )
    accelerator = loops.make_accelerator(training)
    trainer = loops.Trainer(
        Net(output, seed=1), make_examples(output), Batches(size), training, accelerator=accelerator, seed=0
    )
    gradients: list[Tensor] = []
    trainer.optimizer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: gradients.extend(
            p.grad.ravel().clone() for g in optimizer.param_groups for p in g["params"] if p.grad is not None
        )
    )
    loss = make_loss(output, name, options)

    def means(model: torch.nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        values = loss.means(model, batch)
        if len(batch["attention_mask"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return values

    small = loops.StepLoss(means, loss.denominators, loss.weights)
    rows = list(trainer.train(small, None, better=1.0, stop=lambda: 0))
    return next(row["loss"] for row in rows if row["event"] == "train"), torch.cat(gradients)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([*case[:2], *case[2]]))
def test_four_accumulated_batches_equal_one_batch_of_the_same_rows(case: Any) -> None:
    loss, gradient = one_step(case, ROWS, 1)
    accumulated_loss, accumulated = one_step(case, ROWS // 4, 4)
    assert gradient.norm() > 1e-4 and accumulated_loss == pytest.approx(loss, abs=2e-6)
    assert (accumulated - gradient).norm() < 1e-5 * gradient.norm()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([*case[:2], *case[2]]))
def test_step_that_is_repeated_in_micro_batches_equals_one_batch(case: Any) -> None:
    loss, gradient = one_step(case, ROWS, 1)
    repeated_loss, repeated = one_step(case, ROWS, 1, most=ROWS // 3)
    assert gradient.norm() > 1e-4 and repeated_loss == pytest.approx(loss, abs=2e-6)
    assert (repeated - gradient).norm() < 1e-5 * gradient.norm()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([*case[:2], *case[2]]))
def test_loss_of_a_split_does_not_depend_on_batch_size_and_padding(case: Any) -> None:
    examples, loss, net = make_examples(case[0]), make_loss(*case), Net(case[0], seed=1)
    found = [loops.mean_loss(net, loss, examples, sorted_batches(examples.lengths, size)) for size in (1, 5, ROWS)]
    assert found[0] == pytest.approx(found[2], rel=1e-5) and found[1] == pytest.approx(found[2], rel=1e-5)


def may_be_empty(case: tuple[str, str, Mapping[str, Any]]) -> bool:
    """Whether a batch may have nothing to average: no predictions, or no labels."""
    output, name, _ = case
    return name == "hard_labels" or (output == "tags" and name not in losses.LAYER_OUTPUTS)


@pytest.mark.parametrize("case", [*filter(may_be_empty, CASES)], ids=lambda case: "-".join([*case[:2], *case[2]]))
def test_mean_over_nothing_is_zero(case: Any) -> None:
    output, name, _ = case
    examples, net = make_examples(output), Net(output, seed=1)
    if output == "tags":
        rows = np.flatnonzero(examples.lengths == 2).tolist()
        batch = examples.__getitems__(rows)
        assert rows and not len(batch["positions"])
    else:
        batch = examples.__getitems__([0])
        batch["labels"] = torch.full_like(batch["labels"], NO_LABEL if output == "class" else torch.nan)
    means = make_loss(*case).means(net, batch)
    means[name].backward()
    assert means[name].item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())
