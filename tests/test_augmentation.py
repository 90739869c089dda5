"""gen-soft-labels computes replacements with a masked language model, once, and labels augmented rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BAD, FILL, GOOD, SPECIAL, Configs, run, sentences, write_rows
from test_masked_lm import SIZES, make_masked_lm, predict_candidates
from test_models import make_tokenizer
from test_stages import killed_at_shard, last, table
from transformers import BertConfig, BertForMaskedLM

from tinybert_cli import models
from tinybert_cli.data import word_replacement
from tinybert_cli.data.stored_columns import StoredColumn
from tinybert_cli.errors import InputError, OutputError
from tinybert_cli.stages import augmentation, labelling
from tinybert_cli.types import Rows

SETTING = {"copies": 4, "candidates": 3, "probability": 0.5}
PAIR = {"data__text_column_names": ["first", "second"], "check_teacher": False}


@pytest.fixture
def lm(tmp_path: Path) -> Path:
    """A masked language model whose vocabulary has all words of conftest's sentences except `plot`."""
    words = [*SPECIAL, *GOOD, *BAD, *(word for word in FILL if word != "plot"), "pl", "##ot", "电", "影", "好", "看"]
    torch.manual_seed(1)
    settings = BertConfig(vocab_size=len(words), max_position_embeddings=32, initializer_range=0.5, **SIZES)
    models.save(BertForMaskedLM(settings), make_tokenizer(words), tmp_path / "lm")
    return tmp_path / "lm"


def copies(folder: Path, *names: str) -> list[tuple[str, ...]]:
    columns = table(folder, "augmented-*.parquet")
    return list(zip(*(columns[name] for name in names or ("text",)), strict=True))


def forbid_masked_lm(patch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the masked language model ran")

    patch.setattr(models.MaskedLM, "forward", fail)


def test_words_are_replaced_by_candidates_of_the_masked_lm(
    lm: Path, teacher: Path, data: Path, configs: Configs, tmp_path: Path
) -> None:
    text = "This film was lovely and never dull, 3 plot is fine."
    write_rows(data / "train.jsonl", [{"text": text, "label": "good"}])
    setting = SETTING | {"copies": 60, "masked_lm": str(lm)}
    rows = run(
        "gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, check_teacher=False, augment=setting)
    )
    source = models.locate(str(lm))
    masked_lm = make_masked_lm(models.load_tokenizer(source), models.load(source, "masked-lm"), 3)
    (candidates,) = predict_candidates(masked_lm, [text])
    assert candidates.keys() == {"This", "film", "was", "lovely", "and", "dull", "is", "fine"}
    words, replacements = word_replacement.split_words(text), set()
    for (copy,) in copies(tmp_path / "out"):
        for one, other in zip(words, word_replacement.split_words(copy), strict=True):
            assert other == one or other.lower() in candidates[one]
            replacements.add((one, other.lower()))
    assert all((one, other) in replacements for one, others in candidates.items() for other in others)
    assert last(rows, "candidates") == {"event": "candidates", "texts": 1, "of": 1}
    assert last(rows, "augmented")["copies"] == len(copies(tmp_path / "out"))


def test_words_of_several_tokens_are_replaced_by_neighbours(
    lm: Path, teacher: Path, base_model: Path, data: Path, configs: Configs, tmp_path: Path
) -> None:
    write_rows(data / "train.jsonl", [{"text": f"the plot was {word}", "label": "good"} for word in GOOD])
    for name, extra in (("alone", {}), ("both", {"embeddings": str(base_model)})):
        setting = SETTING | {"masked_lm": str(lm), "copies": 20, **extra}
        run("gen-soft-labels", configs("gen-soft-labels", name, teacher=teacher, check_teacher=False, augment=setting))
    alone, both = ({copy.split()[1] for (copy,) in copies(tmp_path / name)} for name in ("alone", "both"))
    tokens, base = models.load_tokenizer(models.locate(str(base_model))), models.locate(str(base_model))
    vectors = models.load(base, "sequence-classification", new_head=True).get_input_embeddings().weight.detach()
    near = word_replacement.nearest_neighbours(models.whole_words(tokens), vectors, ["plot"], 3)
    assert alone == {"plot"} and both == {"plot", *near["plot"]}


def test_pairs_stay_together_and_each_text_runs_once(
    lm: Path, teacher: Path, data: Path, configs: Configs, tmp_path: Path
) -> None:
    pairs = [{"first": "9 a film is fine", "second": f"{n} {BAD[n]} {BAD[-n]} cast ."} for n in range(5)]
    write_rows(data / "train.jsonl", pairs)
    setting = SETTING | {"masked_lm": str(lm)}
    (teacher / "manifest.json").unlink()
    models.rewrite_config(teacher, {"tinybert_text_columns": None})
    rows = run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, augment=setting, **PAIR))
    augmented = copies(tmp_path / "out", "first", "second")
    assert last(rows, "candidates")["of"] == 1 + 5 and len(augmented) > 10
    for first, second in augmented:
        assert first.split()[0] == "9" and len(first.split()) == 5
        assert second.split()[0] in "01234" and len(second.split()) == 5 and second.endswith(".")
    changed = {
        (first == pairs[0]["first"], second in {pair["second"] for pair in pairs}) for first, second in augmented
    }
    assert changed == {(True, False), (False, True), (False, False)}


def test_augmented_texts_are_stored_and_name_their_rows(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: dict[str, Rows] = {}
    shards_of = labelling.shards_of

    def watched(of: dict[str, Rows]) -> Any:
        splits.update(of)
        return shards_of(of)

    monkeypatch.setattr(labelling, "shards_of", watched)
    config = configs("gen-soft-labels", "out", teacher=teacher, check_teacher=False, augment=SETTING)
    run("gen-soft-labels", config, dry_run=True)
    train, augmented = splits["train"], splits["augmented"]
    assert isinstance(augmented.columns["text"], StoredColumn) and len(augmented) > len(train)
    assert list(augmented.columns) == ["text"]
    for index in (0, len(augmented) - 1):
        row = int(augmented.location(index).rpartition(" ")[2]) - 1
        words, original = augmented.column("text")[index].split(), train.column("text")[row].split()
        assert len(words) == len(original) and any(map(str.__eq__, words, original))


def test_chinese_is_replaced_character_by_character(
    lm: Path, teacher: Path, data: Path, configs: Configs, tmp_path: Path
) -> None:
    write_rows(data / "train.jsonl", [{"text": "电影不好看", "label": "good"}])
    setting = SETTING | {"masked_lm": str(lm), "copies": 30}
    run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, check_teacher=False, augment=setting))
    augmented = [word_replacement.split_words(copy) for (copy,) in copies(tmp_path / "out")]
    assert len(augmented) > 5 and all("不" in words and words != list("电影不好看") for words in augmented)


def test_rows_without_replaceable_words_are_not_augmented(
    lm: Path, teacher: Path, data: Path, configs: Configs, tmp_path: Path
) -> None:
    write_rows(data / "train.jsonl", [{"text": text, "label": "good"} for text in ("7 .", "never", "!")])
    setting = SETTING | {"masked_lm": str(lm)}
    config = configs("gen-soft-labels", "out", teacher=teacher, check_teacher=False, augment=setting)
    assert last(run("gen-soft-labels", config), "augmented")["copies"] == 0
    assert len(table(tmp_path / "out")["text"]) == 3


def test_batch_size_does_not_change_the_augmented_rows(
    lm: Path, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    setting = SETTING | {"masked_lm": str(lm)}
    for size in (128, 5):
        config = configs(
            "gen-soft-labels", f"by-{size}", teacher=teacher, augment=setting, per_device_eval_batch_size=size
        )
        run("gen-soft-labels", config)
    assert copies(tmp_path / "by-128") == copies(tmp_path / "by-5")
    config = configs("gen-soft-labels", "other", teacher=teacher, augment=setting, seed=43)
    run("gen-soft-labels", config)
    assert copies(tmp_path / "other") != copies(tmp_path / "by-5")


def test_a_killed_run_resumes_without_computing_candidates_again(
    lm: Path, teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augmentation, "TEXTS_PER_FILE", 30)
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 100)
    setting = SETTING | {"masked_lm": str(lm)}
    whole = run("gen-soft-labels", configs("gen-soft-labels", "whole", teacher=teacher, augment=setting))
    files = len([row for row in whole if row["event"] == "candidates"])
    assert files >= 3
    config = configs("gen-soft-labels", "killed", teacher=teacher, augment=setting)

    write, written = augmentation._write, []

    def write_or_die(arrays: Any, folder: Path) -> None:
        if len(written) == files - 1:
            raise RuntimeError("killed")
        written.append(folder)
        write(arrays, folder)

    with monkeypatch.context() as patch:
        patch.setattr(augmentation, "_write", write_or_die)
        with pytest.raises(RuntimeError, match="killed"):
            run("gen-soft-labels", config)
    with monkeypatch.context() as patch:
        killed_at_shard(2, patch)
        with pytest.raises(RuntimeError, match="killed"):
            run("gen-soft-labels", config)
    log = [json.loads(line) for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    assert len([row for row in log if row["event"] == "candidates"]) == files
    with monkeypatch.context() as patch:
        forbid_masked_lm(patch)
        run("gen-soft-labels", config)
    names = sorted(file.name for file in (tmp_path / "whole").glob("*.parquet"))
    assert len(names) > 2
    assert all((tmp_path / "whole" / n).read_bytes() == (tmp_path / "killed" / n).read_bytes() for n in names)
    assert not (tmp_path / "killed/checkpoints").exists()


def test_a_dry_run_loads_the_masked_lm_but_does_not_run_it(
    lm: Path, teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_masked_lm(monkeypatch)
    config = configs("gen-soft-labels", "out", teacher=teacher, augment=SETTING | {"masked_lm": str(lm)})
    rows = run("gen-soft-labels", config, dry_run=True)
    assert last(rows, "augmented") == {"event": "augmented", "rows": 96, "copies": 4 * 96, "at_most": True}
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_masked_lm_head_is_rejected(
    base_model: Path, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    config = configs("gen-soft-labels", "out", teacher=teacher, augment=SETTING | {"masked_lm": str(base_model)})
    with pytest.raises(InputError, match="BertModel model: it has no masked-lm head") as caught:
        run("gen-soft-labels", config)
    assert caught.value.exit_code == 3 and not (tmp_path / "out").exists()


def test_labels_with_another_masked_lm_are_not_up_to_date(
    lm: Path, teacher: Path, configs: Configs, data: Path, tmp_path: Path
) -> None:
    write_rows(data / "train.jsonl", sentences("train")[:8])
    config = configs(
        "gen-soft-labels", "out", teacher=teacher, check_teacher=False, augment=SETTING | {"masked_lm": str(lm)}
    )
    run("gen-soft-labels", config)
    assert "augment.masked_lm" in json.loads((tmp_path / "out/manifest.json").read_text())["inputs"]
    models.save(
        BertForMaskedLM(BertConfig(vocab_size=31, **SIZES)),
        models.load_tokenizer(models.locate(str(lm))),
        lm,
    )
    with pytest.raises(OutputError, match=r"augment\.masked_lm"):
        run("gen-soft-labels", config)


def test_candidates_of_version_0_1_are_read_under_their_new_names(tmp_path: Path) -> None:
    arrays = {"counts": np.array([1]), "places": np.array([2]), "answers": np.array([[3, 4]])}
    np.savez(tmp_path / augmentation.FILE, **arrays)
    assert {name: values.tolist() for name, values in augmentation._read(tmp_path).items()} == {
        "counts": [1], "positions": [2], "candidates": [[3, 4]],
    }  # fmt: skip
