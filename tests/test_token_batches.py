"""Training batches with a number of tokens: their size, their order, and how an epoch is continued."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import Configs, run, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from tinybert_cli import cli, configuration, loops
from tinybert_cli.config import Distill, Finetune, Stage
from tinybert_cli.data import TokenBatches
from tinybert_cli.errors import Interrupted
from tinybert_cli.loops.step_batches import OwnBatches
from tinybert_cli.stages import finetune
from tinybert_cli.stages.checks import CHECKS
from tinybert_cli.types import Batch

LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=80)


def batches_of(lengths: list[tuple[int, int]], budget: int, *, epoch: int = 0, **options: Any) -> list[list[int]]:
    source, target = np.array(lengths).T
    batches = TokenBatches(source, target, budget, **{"seed": 3, **options})
    batches.epoch = epoch
    return list(batches)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(16, 400), st.booleans())
def test_every_window_comes_once_and_no_batch_exceeds_the_budget(
    lengths: list[tuple[int, int]], budget: int, group_by_length: bool
) -> None:
    batches = batches_of(lengths, budget, group_by_length=group_by_length)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(max(lengths[row]) for row in batch) <= budget


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(16, 400), st.integers(0, 5))
def test_the_order_depends_on_seed_and_epoch_alone(lengths: list[tuple[int, int]], budget: int, epoch: int) -> None:
    source, target = np.array(lengths).T
    batches = TokenBatches(source, target, budget, seed=3)
    for earlier in range(epoch):  # as in a run that was not interrupted
        batches.epoch = earlier
        list(batches)
    batches.epoch = epoch
    assert list(batches) == batches_of(lengths, budget, epoch=epoch)
    assert batches.count(epoch) == len(batches) == len(list(batches))


def test_epochs_and_seeds_have_other_batches() -> None:
    draw = np.random.default_rng(0)
    lengths = [(int(a), int(a)) for a in draw.integers(1, 40, size=300)]
    first = batches_of(lengths, 200)
    assert batches_of(lengths, 200, epoch=1) != first and batches_of(lengths, 200, seed=4) != first
    assert batches_of(lengths, 200) == first


def test_an_epoch_is_continued_with_the_batches_that_were_left() -> None:
    lengths = [(1 + row % 17, 1 + row % 13) for row in range(90)]
    source, target = np.array(lengths).T
    batches = TokenBatches(source, target, 64, seed=5)
    batches.epoch = 2
    whole = list(batches)
    assert list(OwnBatches(batches, Accelerator(), skip=4)) == whole[4:]


def test_batches_of_similar_lengths_have_little_padding() -> None:
    draw = np.random.default_rng(0)
    source = draw.integers(4, 40, size=2000)
    target = np.clip(source + draw.integers(-3, 4, size=2000), 3, None)
    lengths = list(zip(source.tolist(), target.tolist(), strict=True))

    def share(**options: Any) -> float:
        cells = [len(batch) * max(max(lengths[row]) for row in batch) for batch in batches_of(lengths, 512, **options)]
        return float(np.maximum(source, target).sum() / sum(cells))

    assert share() > 0.85 > share(group_by_length=False)


# -- the setting ---------------------------------------------------------------------------------------------


SHORT = {"training__max_steps": 9, "training__eval_strategy": "no", "training__save_steps": 4}
TOKENS = {"training__per_device_train_batch_tokens": 40, "training__gradient_accumulation_steps": 2}


@pytest.fixture
def batches_seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and width of every training batch, without those of validation rows."""
    seen: list[tuple[int, int]] = []
    forward = loops.forward

    def watched(model: torch.nn.Module, batch: Batch) -> Any:
        if model.training:
            seen.append(tuple(batch["input_ids"].shape))  # type: ignore[arg-type]
        return forward(model, batch)

    monkeypatch.setattr(loops, "forward", watched)
    return seen


@pytest.fixture
def by_tokens(base_model: Path, configs: Configs) -> Callable[..., Stage]:
    """`by_tokens("out")`: the config of a finetune with batches of at most 40 tokens, two in a step."""

    def config(output: str, **settings: Any) -> Stage:
        stage = configs("finetune", output, model=base_model, **{**SHORT, **TOKENS, **settings})
        values = stage.model_dump(exclude_unset=True, by_alias=True)
        del values["training"]["per_device_train_batch_size"]  # conftest's
        return Finetune.model_validate(values)

    return config


def test_batches_of_a_classifier_have_at_most_the_tokens(
    by_tokens: Callable[..., Stage], batches_seen: list[tuple[int, int]], tmp_path: Path
) -> None:
    rows = run("finetune", by_tokens("out"))
    assert len(batches_seen) == 2 * 9 and all(count * width <= 40 for count, width in batches_seen)
    assert len({count for count, _ in batches_seen}) > 1  # not a number of rows
    assert not [row for row in rows if row["event"] == "warning" and "baseline" not in row["message"]]
    assert "at most 40 tokens" in (tmp_path / "out/README.md").read_text()


def test_an_interrupted_classifier_with_token_batches_ends_in_the_same_weights(
    by_tokens: Callable[..., Stage], tmp_path: Path
) -> None:
    run("finetune", by_tokens("whole", regularization__dropout=0.1))
    stage: Any = finetune.run(by_tokens("out", regularization__dropout=0.1))  # type: ignore[arg-type]
    next(row for row in stage if row["event"] == "progress" and row["step"] == 7)
    with pytest.raises(Interrupted):
        stage.throw(Interrupted(signal.SIGTERM, "interrupted"))
    rows = run("finetune", by_tokens("out", regularization__dropout=0.1))
    assert [row["step"] for row in rows if row["event"] == "resume"] == [4]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out")]
    assert weights[0] == weights[1]


def test_a_student_learns_from_stored_logits_in_token_batches(
    teacher: Path, teacher_labels: Path, configs: Configs, batches_seen: list[tuple[int, int]]
) -> None:
    config = configs("distill", "out", label_dataset=teacher_labels, student=teacher, **SHORT, **TOKENS)
    values = config.model_dump(exclude_unset=True, by_alias=True)
    del values["training"]["per_device_train_batch_size"]
    run("distill", Distill.model_validate(values))
    assert len(batches_seen) == 2 * 9 and all(count * width <= 40 for count, width in batches_seen)


def test_rows_longer_than_the_budget_are_batches_of_their_own_and_counted(
    by_tokens: Callable[..., Stage], batches_seen: list[tuple[int, int]], data: Path
) -> None:
    words = ["film was good"] * 6 + ["the film was a good one and the cast was fine , all of it"] * 3
    write_rows(
        data / "train.jsonl", [{"text": text, "label": "good" if n % 2 else "bad"} for n, text in enumerate(words)]
    )
    config = by_tokens("out", training__per_device_train_batch_tokens=16, data__max_seq_length=24)
    warnings = [row["message"] for row in run("finetune", config) if row["event"] == "warning"]
    (warning,) = [text for text in warnings if "batch_tokens" in text]
    longest = max(width for _, width in batches_seen)
    assert longest > 16 and warning == (
        "3 of 9 training examples have more than 16 tokens (training.per_device_train_batch_tokens), the longest "
        f"{longest}: each is a batch of its own"
    )
    assert all(count == 1 or count * width <= 16 for count, width in batches_seen)
    assert any(count > 1 for count, _ in batches_seen)


@pytest.mark.parametrize("rows", [32, 8])  # 32 is the default
def test_rows_and_tokens_of_a_batch_are_a_contradiction(
    rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = f"{{per_device_train_batch_size: {rows}, per_device_train_batch_tokens: 64}}"
    file = tmp_path / "finetune.yaml"
    file.write_text(
        f"task: regression\nmodel: bert\ndata: {{train_file: a.csv}}\noutput_dir: o\ntraining: {settings}\n"
    )
    flags = dict.fromkeys(("dry_run", "force", "as_json", "quiet", "verbose"), False)
    assert cli.execute("finetune", file, [], **flags) == 2
    err = capsys.readouterr().err
    assert "`per_device_train_batch_size` and `per_device_train_batch_tokens` are both set" in err
    assert f"{file}:5:" in err and "leave one of them out" in err


def test_run_yaml_of_token_batches_repeats_the_run(by_tokens: Callable[..., Stage], tmp_path: Path) -> None:
    run("finetune", by_tokens("out"))
    config = configuration.load("finetune", tmp_path / "out/run.yaml", checks=CHECKS["finetune"])
    (row,) = run("finetune", config)
    assert row["event"] == "up to date"
