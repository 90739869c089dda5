"""Label datasets of translations: texts in Parquet, distributions beside them, and which targets a student learns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinybert_cli import data, losses, tasks
from tinybert_cli.config import Data, GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.stages.translating import _check_teacher
from tinybert_cli.types import Hypothesis, Rows

SHARDS = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "unlabeled-00000-of-00001.parquet"]


def labels_of(count: int, first: int = 0, *, n_best: bool = False, reference: bool = True) -> data.Translations:
    texts = [f"Übersetzung {first + index}" for index in range(count)]
    columns: dict[str, list[Any]] = {"en": [f"translation {first + index}" for index in range(count)]}
    if reference:
        columns["de"] = [f"Referenz {first + index}" for index in range(count)]
    return data.Translations(
        Rows(columns, (("train.csv", count),)),
        texts,
        -np.arange(count, dtype=np.float32) / 8,
        np.arange(count, dtype=np.int32) + 1,
        np.arange(count) % 2 == 0,
        [[text, f"{text}b"] for text in texts] if n_best else None,
        [[-0.5, -0.75] for _ in texts] if n_best else None,
    )


# -- the teacher check ------------------------------------------------------------------------------------------


class Copier:
    """A labeller whose teacher translates every row of `labels_of` as its reference."""

    task = tasks.Translation()
    config = GenSoftLabels(
        task="translation", teacher="teacher", output_dir="out", splits=["train"],
        data=Data(text_column_names="en", label_column_name="de"),
    )  # fmt: skip

    def __init__(self) -> None:
        self.teacher, self.texts = self, self.decode
        self.tokenizer = self

    def translate(self, rows: Rows) -> Iterator[int]:
        yield len(rows)
        return [[Hypothesis((int(text.split()[1]),), -1.0, True)] for text in rows.column("en")]  # type: ignore[return-value]

    def decode(self, targets: list[tuple[int, ...]]) -> list[str]:
        return [f"Referenz {index}" for (index,) in targets]


def test_teacher_check_counts_the_rows_that_it_has_scored() -> None:
    labelled, unlabeled = labels_of(5).rows, labels_of(70, reference=False).rows
    rows, scores = _check_teacher(Copier(), {"train": labelled, "unlabeled": unlabeled})  # type: ignore[arg-type]
    assert rows == 5 and scores["teacher_chrf"] > scores["copied_source_chrf"]  # two words are too few for BLEU
    assert _check_teacher(Copier(), {"unlabeled": unlabeled}) == (0, {})  # type: ignore[arg-type]


# -- texts ----------------------------------------------------------------------------------------------------


def test_shards_are_read_as_they_were_written(tmp_path: Path) -> None:
    parts = [labels_of(3, n_best=True), labels_of(2, 3, n_best=True), labels_of(2, 5, n_best=True, reference=False)]
    for shard, part in zip(SHARDS, parts, strict=True):
        data.write_translations(tmp_path / shard, part, {})
    data.write_translations(tmp_path / "validation-00000-of-00001.parquet", labels_of(4), {})
    read = data.read_translations(tmp_path, [*reversed(SHARDS), "validation-00000-of-00001.parquet"])
    assert read.texts == [text for part in parts for text in part.texts]
    assert read.rows.columns["en"] == [f"translation {index}" for index in range(7)]
    assert read.rows.columns["de"] == [*(f"Referenz {index}" for index in range(5)), None, None]
    assert read.n_best is not None and read.n_best[4] == ["Übersetzung 4", "Übersetzung 4b"]
    assert read.n_best_scores is not None and read.n_best_scores[0] == [-0.5, -0.75]
    assert read.scores.dtype == np.float32 and read.scores.tolist() == [0, -0.125, -0.25, 0, -0.125, 0, -0.125]
    assert read.tokens.tolist() == [1, 2, 3, 1, 2, 1, 2] and read.finished.tolist()[:3] == [True, False, True]
    assert read.rows.location(4).endswith("train-00001-of-00002.parquet, row 2")


def test_selected_rows_keep_all_of_their_columns(tmp_path: Path) -> None:
    part = labels_of(5, n_best=True).select([4, 1])
    assert part.texts == ["Übersetzung 4", "Übersetzung 1"] and part.tokens.tolist() == [5, 2]
    assert part.n_best == [["Übersetzung 4", "Übersetzung 4b"], ["Übersetzung 1", "Übersetzung 1b"]]
    assert part.rows.columns["en"] == ["translation 4", "translation 1"]


def test_labels_without_n_best_have_none(tmp_path: Path) -> None:
    data.write_translations(tmp_path / SHARDS[0], labels_of(2), {})
    assert data.read_translations(tmp_path, SHARDS[:1]).n_best is None


def test_label_dataset_of_another_task_is_rejected(tmp_path: Path) -> None:
    rows = Rows({"en": ["a"]}, (("train.csv", 1),))
    data.write_soft_labels(tmp_path / SHARDS[0], rows, np.zeros((1, 2)), None, columns={}, dtype="float32")
    with pytest.raises(InputError, match="no label dataset of translations: it has no column 'teacher_prediction'"):
        data.read_translations(tmp_path, SHARDS[:1])


def test_damaged_shard_is_rejected(tmp_path: Path) -> None:
    data.write_translations(tmp_path / SHARDS[0], labels_of(2), {})
    (tmp_path / SHARDS[0]).write_bytes((tmp_path / SHARDS[0]).read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged") as caught:
        data.read_translations(tmp_path, SHARDS[:1])
    assert caught.value.where == str(tmp_path / SHARDS[0])


def test_column_that_the_label_dataset_adds_is_rejected() -> None:
    with pytest.raises(InputError, match="the data has a column 'teacher_score'"):
        data.check_translation_names(Rows({"en": ["a"], "teacher_score": [1]}, (("train.csv", 1),)))


# -- distributions --------------------------------------------------------------------------------------------


def target_ids(count: int, vocabulary: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocabulary, size=rng.integers(1, 9)).tolist() for _ in range(count)]


def distributions(ids: list[list[int]], k: int, vocabulary: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random distributions for each row."""
    rng = np.random.default_rng(seed + 1)
    return [
        {
            "topk_ids": rng.integers(0, vocabulary, size=(len(row), k)),
            "topk_logprobs": -rng.random((len(row), k)).astype(np.float32) * 9,
            "logsumexp": rng.random(len(row)).astype(np.float32) * 5,
        }
        for row in ids
    ]


def write(
    folder: Path, shard: str, ids: list[list[int]], rows: list[dict[str, Any]], vocabulary: int, order: list[list[int]]
) -> None:
    writer = data.TopKWriter(ids, rows[0]["topk_ids"].shape[1], vocabulary)
    for batch in order:
        writer.write(batch, {name: np.concatenate([rows[row][name] for row in batch]) for name in rows[0]})
    writer.save(folder, shard)


@pytest.mark.parametrize("vocabulary", [4_000, 65_536, 65_537, 256_206])
def test_distributions_are_read_as_they_were_written(tmp_path: Path, vocabulary: int) -> None:
    ids = [target_ids(4, vocabulary), target_ids(3, vocabulary, seed=5)]
    ids[0][0][0] = vocabulary - 1
    rows = [distributions(part, 3, vocabulary, seed) for seed, part in enumerate(ids)]
    rows[0][2]["topk_ids"][0] = [vocabulary - 1, 0, 255]
    write(tmp_path, SHARDS[0], ids[0], rows[0], vocabulary, [[2], [0, 3], [1]])
    write(tmp_path, SHARDS[1], ids[1], rows[1], vocabulary, [[0, 1, 2]])
    top_k, both = data.read_top_k(tmp_path, SHARDS[:2]), [*rows[0], *rows[1]]
    lengths = np.array([len(row) for part in ids for row in part])
    windows = np.array([5, 2, 0])
    batch = top_k.batch(windows, lengths[windows])
    for name in ("topk_ids", "topk_logprobs", "logsumexp"):
        expected = np.concatenate([both[window][name] for window in windows])
        np.testing.assert_allclose(batch[f"teacher_{name}"].numpy(), expected, rtol=1e-3, atol=1e-6)
    assert torch.equal(
        batch["teacher_topk_ids"], torch.from_numpy(np.concatenate([both[w]["topk_ids"] for w in windows]))
    )
    assert batch["teacher_known"].all() and top_k.k == 3
    top_k.check(np.concatenate([row for part in ids for row in part]), np.concatenate([[0], np.cumsum(lengths)]))


def test_files_do_not_depend_on_the_order_of_the_batches(tmp_path: Path) -> None:
    ids, folders = target_ids(5, 100), [tmp_path / "a", tmp_path / "b"]
    rows = distributions(ids, 2, 100)
    for folder, order in zip(folders, ([[0, 1, 2, 3, 4]], [[4, 0], [2], [3, 1]]), strict=True):
        folder.mkdir()
        write(folder, SHARDS[0], ids, rows, 100, order)
    for name in data.top_k_files(SHARDS[0]):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


@pytest.mark.parametrize("vocabulary", [58_101, 256_206])
def test_eight_tokens_take_at_most_50_bytes_per_target_token(tmp_path: Path, vocabulary: int) -> None:
    ids = [np.random.default_rng(row).integers(0, vocabulary, size=25).tolist() for row in range(400)]
    rows = distributions(ids, 8, vocabulary)
    write(tmp_path, SHARDS[0], ids, rows, vocabulary, [list(range(len(ids)))])
    size = sum((tmp_path / name).stat().st_size for name in data.top_k_files(SHARDS[0]))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(data.top_k_files(SHARDS[0]))
    assert size / sum(map(len, ids)) <= 50


def test_windows_without_a_distribution_are_unknown_and_finite(tmp_path: Path) -> None:
    ids = target_ids(3, 100)
    write(tmp_path, SHARDS[0], ids, distributions(ids, 4, 100), 100, [[0, 1, 2]])
    top_k = data.read_top_k(tmp_path, SHARDS[:1]).select(np.array([2, -1, 0, -1])).select(np.array([1, 2]))
    batch = top_k.batch(np.array([1, 0]), np.array([len(ids[0]), 7]))
    assert batch["teacher_known"].tolist() == [True] * len(ids[0]) + [False] * 7
    assert batch["teacher_topk_ids"].shape == (len(ids[0]) + 7, 4)
    loss = losses.combine({"soft_labels": {"temperature": 2.0}}, "tokens")
    student = {"logits": torch.randn(len(ids[0]) + 7, 100)}
    alone = {name: values[: len(ids[0])] for name, values in batch.items()}
    expected = loss({"logits": student["logits"][: len(ids[0])]}, {}, alone)["soft_labels"]
    assert loss(student, {}, batch)["soft_labels"].item() == pytest.approx(expected.item())
    top_k.check(np.array([1, 2, *ids[0]]), np.array([0, 2, 2 + len(ids[0])]))  # the other target is not compared


def test_other_target_tokens_are_rejected_with_the_first_difference(tmp_path: Path) -> None:
    ids = [[5, 6, 7], [8, 9]]
    write(tmp_path, SHARDS[0], ids, distributions(ids, 2, 10), 10, [[0, 1]])
    top_k = data.read_top_k(tmp_path, SHARDS[:1])
    with pytest.raises(InputError, match="row 2 has 9 as token 2 there and 4 as token 2 here"):
        top_k.check(np.array([5, 6, 7, 8, 4]), np.array([0, 3, 5]))
    with pytest.raises(InputError, match="row 1 has 7 as token 3 there and only 2 tokens here") as caught:
        top_k.check(np.array([5, 6, 8, 9]), np.array([0, 2, 4]))
    assert caught.value.hint is not None and "gen-soft-labels" in caught.value.hint


def test_more_tokens_than_the_vocabulary_has_are_all_of_them(tmp_path: Path) -> None:
    writer = data.TopKWriter([[1, 2]], 8, 5)
    teacher = torch.randn(2, 5).log_softmax(-1)
    values, indices = teacher.topk(5)
    writer.write([0], {"topk_ids": indices.numpy(), "topk_logprobs": values.numpy(), "logsumexp": np.zeros(2)})
    writer.save(tmp_path, SHARDS[0])
    assert data.read_top_k(tmp_path, SHARDS[:1]).k == 5


def test_shard_whose_rows_are_all_left_out_has_empty_files(tmp_path: Path) -> None:
    ids = target_ids(2, 100)
    data.TopKWriter([], 2, 100).save(tmp_path, SHARDS[0])
    write(tmp_path, SHARDS[1], ids, distributions(ids, 2, 100), 100, [[0, 1]])
    top_k = data.read_top_k(tmp_path, SHARDS[:2])
    assert top_k.batch(np.array([1]), np.array([len(ids[1])]))["teacher_known"].tolist() == [True] * len(ids[1])


def test_distributions_that_are_not_finite_are_rejected() -> None:
    writer = data.TopKWriter([[1, 2]], 1, 5)
    values = {"topk_ids": np.zeros((2, 1)), "topk_logprobs": np.array([[-1], [np.nan]]), "logsumexp": np.zeros(2)}
    with pytest.raises(InputError, match="log-probabilities are NaN or infinite"):
        writer.write([0], values)
