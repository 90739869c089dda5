"""Language modeling: text in full blocks, and task-agnostic students that all later stages accept."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Configs, make_config, run, sentences, write_rows
from family_models import make_teacher
from safetensors.torch import load_file, save_file
from test_stages import events, last, sha256, start, stop_in_the_middle
from test_students import CONFIGS
from transformers import AutoModel, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast, T5Config

from tinybert_cli import configuration, models, tasks
from tinybert_cli.config import Data, Model, Stage
from tinybert_cli.data import Examples
from tinybert_cli.errors import ConfigError, ConfigErrors, InputError, OutputError
from tinybert_cli.stages.checks import CHECKS
from tinybert_cli.tasks import language_modeling
from tinybert_cli.types import Rows

TASK = tasks.find("language-modeling")
CLS, SEP = 2, 3
SMALL = {"num_hidden_layers": 2, "hidden_size": 12, "num_attention_heads": 2, "initialize": "random"}
LONGER = {"training__num_train_epochs": 12.0, "training__learning_rate": 1e-2}  # for the small hidden size
LAYER_LOSSES = {"hidden_states": 1.0, "attentions": 0.5, "embeddings": 1.0}


@pytest.fixture
def tokenizer(finished_runs: Path) -> PreTrainedTokenizerFast:
    return models.load_tokenizer(models.locate(str(finished_runs / "base")))


def rows_of(*texts: str) -> Rows:
    return Rows({"text": list(texts)}, (("corpus.txt", len(texts)),))


def blocks(texts: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> list[list[int]]:
    encoded = TASK.encode(rows_of(*texts), Data(max_seq_length=length), tokenizer)
    ids = encoded.tokens["input_ids"][0]
    return [part.tolist() for part in np.split(ids, encoded.offsets[1:-1])]


# -- blocks --------------------------------------------------------------------------------------------------


def test_texts_are_concatenated_into_blocks_with_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    one, two, three = "the film was very fine", "a dull plot", "great cast and lovely"
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, two, three)]
    stream = [*ids[0], SEP, *ids[1], SEP, *ids[2]]
    assert len(stream) == 14
    assert blocks([one, two, three], tokenizer, 8) == [
        [CLS, *stream[:6], SEP], [CLS, *stream[6:12], SEP], [CLS, *stream[12:], SEP]
    ]  # fmt: skip


def test_full_blocks_are_not_followed_by_an_empty_one(tokenizer: PreTrainedTokenizerFast) -> None:
    assert [len(block) for block in blocks(["the film was fine", "a b c"], tokenizer, 6)] == [6, 6]


def test_a_text_shorter_than_a_block_is_one_block(tokenizer: PreTrainedTokenizerFast) -> None:
    assert blocks(["fine"], tokenizer, 128) == [tokenizer("fine")["input_ids"]]


def test_chunk_size_does_not_change_the_blocks(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the film was very fine " * 40, "dull", "a witty cast " * 7]
    whole = [token for block in blocks(texts, tokenizer, 16) for token in block if token not in (CLS, SEP)]
    monkeypatch.setattr(language_modeling, "_CHUNK", 50)
    assert max(len(part) for chunk in language_modeling._chunks(iter(texts)) for part in chunk) <= 50
    assert max(sum(map(len, chunk)) for chunk in language_modeling._chunks(iter(texts))) <= 50
    in_chunks = [token for block in blocks(texts, tokenizer, 16) for token in block if token not in (CLS, SEP)]
    assert in_chunks == whole


def test_a_text_without_spaces_is_split_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_modeling, "_CHUNK", 4)
    assert list(language_modeling._chunks(iter(["一二三四五六七八九", "十"]))) == [
        ["一二三四"],
        ["五六七八"],
        ["九", "十"],
    ]


def test_rows_without_text_are_skipped(tokenizer: PreTrainedTokenizerFast) -> None:
    assert blocks(["fine", "", " \n", "dull"], tokenizer, 16) == blocks(["fine", "dull"], tokenizer, 16)


def test_data_without_any_text_is_rejected(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="no text") as caught:
        TASK.encode(rows_of("", " "), Data(), tokenizer)
    assert caught.value.where == "corpus.txt, row 1"


def test_two_text_columns_are_concatenated_row_by_row(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = Rows({"q": ["fine", "warm"], "a": ["dull", "cold"]}, (("corpus.jsonl", 2),))
    encoded = TASK.encode(rows, Data(text_column_names=["q", "a"]), tokenizer)
    assert tokenizer.decode(encoded.tokens["input_ids"][0]) == "[CLS] fine [SEP] dull [SEP] warm [SEP] cold [SEP]"


def test_a_value_that_is_not_text_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="expected text, found 7"):
        TASK.encode(Rows({"text": ["fine", 7]}, (("corpus.jsonl", 2),)), Data(), tokenizer)


def test_without_special_tokens_blocks_have_none(tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers import Tokenizer

    description = json.loads(tokenizer.backend_tokenizer.to_str()) | {"post_processor": None}
    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)), pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    ids = bare("the film was very fine and a dull plot")["input_ids"]
    assert blocks(["the film was very fine", "and a dull plot"], bare, 4) == [ids[:4], ids[4:8], ids[8:]]
    assert list(TASK.encode(rows_of("fine"), Data(), bare).tokens) == ["input_ids"]


def test_blocks_are_batched_with_one_token_type(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = Examples.of(TASK.encode(rows_of("the film was very fine"), Data(max_seq_length=6), tokenizer))
    batch = examples.__getitems__([0, 1])
    assert batch["input_ids"].shape == (2, 6) and not batch["token_type_ids"].any()
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


# -- models without a head -----------------------------------------------------------------------------------


def test_the_base_of_a_model_with_a_head_is_its_encoder(teacher: Path) -> None:
    base = models.load(models.locate(str(teacher)), "base")
    assert type(base) is BertModel
    body = BertForSequenceClassification.from_pretrained(teacher).bert.state_dict()
    assert all(torch.equal(body[name], weight) for name, weight in base.state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_encoder_of_every_family_is_loaded_and_shrunk(name: str, tmp_path: Path) -> None:
    whole = make_teacher(name)
    whole.save_pretrained(tmp_path)
    base = models.load(models.locate(str(tmp_path)), "base")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected, states = (model(ids, output_hidden_states=True).hidden_states for model in (whole.base_model, base))
    assert all(torch.equal(*layers) for layers in zip(states[:-1], expected[:-1], strict=True))
    setting = {"from": "teacher", "num_hidden_layers": 2, "hidden_size": 12}
    student = models.build_student(Model.model_validate(setting), base, [1, 3], seed=1)
    assert student.base_model is student and type(student) is type(base)
    assert student(ids).last_hidden_state.shape == (1, 4, 12)


def remove_weights(folder: Path, part: str) -> None:
    weights = load_file(folder / "model.safetensors")
    others = {name: weight for name, weight in weights.items() if part not in name}
    assert len(others) < len(weights)
    save_file(others, folder / "model.safetensors", metadata={"format": "pt"})


def test_only_the_pooler_of_an_encoder_may_be_missing(base_model: Path) -> None:
    remove_weights(base_model, "pooler")
    models.load(models.locate(str(base_model)), "base")
    remove_weights(base_model, "layer.3.output.dense.weight")
    with pytest.raises(InputError, match="missing"):
        models.load(models.locate(str(base_model)), "base")


def test_an_encoder_with_more_layers_than_in_its_config_is_rejected(base_model: Path) -> None:
    file = base_model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="too many"):
        models.load(models.locate(str(base_model)), "base")


def test_an_encoder_decoder_is_rejected(base_model: Path) -> None:
    T5Config().save_pretrained(base_model)
    with pytest.raises(InputError, match="t5, has no encoder-only model"):
        models.load(models.locate(str(base_model)), "base")


def test_a_student_without_a_head_outputs_its_layers_in_eval_mode(base_model: Path) -> None:
    source = models.locate(str(base_model))
    teacher = models.Teacher(models.load(source, "base"), range(4), frozenset({"hidden_states", "queries"}))
    student = models.Student(models.load(source, "base"), teacher, shared=False).eval()
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    outputs, expected = student(**batch), teacher(batch, set(batch))
    assert outputs.keys() == expected.keys() == {"hidden_states", "queries"}
    assert all(torch.allclose(*layers) for layers in zip(outputs["queries"], expected["queries"], strict=True))


# -- task-agnostic students ----------------------------------------------------------------------------------


def write_corpus(folder: Path) -> Path:
    """Paragraphs of the synthetic sentences, and an empty line between documents."""
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 4), ("validation", 5)):
        texts = [row["text"] for row in sentences(split)]
        paragraphs = [" ".join(texts[i : i + count]) for i in range(0, len(texts), count)]
        (folder / f"{split}.txt").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    return folder


def distill_config(corpus: Path, model: Path, output: Path, **settings: Any) -> Stage:
    files = {f"data__{split}_file": None for split in ("validation", "test", "unlabeled")}
    required = {"task": "language-modeling", "teacher": model, "student": {"from": str(model), **SMALL},
             "losses": LAYER_LOSSES, "data__train_file": str(corpus / "train.txt"),
             "training__keep": "last", "training__lr_scheduler_type": "constant"}  # fmt: skip
    return make_config("distill", corpus, output, **files | required | settings)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture(scope="module")
def finished_student(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    corpus = write_corpus(folder / "corpus")
    run("distill", distill_config(corpus, finished_runs / "base", folder / "student", training__num_train_epochs=12.0))
    return folder / "student"


@pytest.fixture
def student(finished_student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_student, tmp_path / "student"))


def test_layer_losses_of_a_task_agnostic_student_decrease(student: Path) -> None:
    rows = [json.loads(line) for line in (student / "log.jsonl").read_text().splitlines()]
    first, *_, end = events(rows, "train")
    assert all(end[name] < 0.8 * first[name] for name in LAYER_LOSSES)


def test_a_task_agnostic_student_is_a_plain_encoder(student: Path) -> None:
    model = AutoModel.from_pretrained(student)
    assert type(model) is BertModel and model.config.hidden_size == 12 and model.config.num_hidden_layers == 2
    assert json.loads((student / "config.json").read_text())["architectures"] == ["BertModel"]
    names = set(load_file(student / "model.safetensors"))
    assert not {name for name in names if "projection" in name or "classifier" in name}
    assert "pipeline_tag: feature-extraction" in (student / "README.md").read_text()


def test_the_manifest_has_the_corpus_and_no_labels(student: Path) -> None:
    manifest = json.loads((student / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"student", "teacher", "data.train_file"}
    assert len(manifest["inputs"]["data.train_file"][0]["sha256"]) == 64
    assert "label_names" not in manifest


def test_a_task_agnostic_student_can_be_fine_tuned(student: Path, configs: Configs, tmp_path: Path) -> None:
    done = last(run("finetune", configs("finetune", "out", model=student, **LONGER)))
    assert done["eval_accuracy"] >= 0.9
    tuned = BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert tuned.config.id2label == {0: "bad", 1: "good"} and tuned.config.hidden_size == 12


def test_a_task_agnostic_student_is_distilled_in_two_steps(
    student: Path, teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    layers = {"teacher": teacher, "losses": LAYER_LOSSES, "training__keep": "last"}
    run("distill", configs("distill", "first", label_dataset=teacher_labels, student=student, **layers))
    config = configs("distill", "out", label_dataset=teacher_labels, student=tmp_path / "first", **LONGER)
    assert last(run("distill", config))["eval_accuracy"] >= 0.9


def test_copied_layers_start_with_a_lower_loss_than_random_ones(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    def first_loss(initialize: str) -> float:
        student = {"from": str(base_model), "num_hidden_layers": 2, "initialize": initialize}
        settings = {"student": student, "training__max_steps": 1, "training__logging_steps": 1}
        rows = run("distill", distill_config(corpus, base_model, tmp_path / initialize, **settings))
        return float(last(rows, "train")["loss"])

    assert first_loss("teacher") < 0.5 * first_loss("random")


def test_the_loss_of_a_copy_of_the_teacher_is_0(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    remove_weights(base_model, "pooler")  # new random weights in both models, but no loss uses them
    file = base_model / "config.json"
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    file.write_text(json.dumps(json.loads(file.read_text()) | no_dropout))
    losses = {**LAYER_LOSSES, "relations": {"relation_heads": 2}, "cosine": 1.0}
    settings = {"student": base_model, "losses": losses, "training__max_steps": 1}
    rows = run("distill", distill_config(corpus, base_model, tmp_path / "out", **settings))
    assert last(rows, "train")["loss"] == pytest.approx(0.0, abs=1e-5)


def test_txt_gz_and_jsonl_of_a_corpus_give_the_same_student(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    text = (corpus / "train.txt").read_bytes()
    (corpus / "train.txt.gz").write_bytes(gzip.compress(text))
    write_rows(corpus / "train.jsonl", [{"body": line} for line in text.decode().splitlines()])
    files = {"txt": {}, "gz": {"data__train_file": str(corpus / "train.txt.gz")},
             "jsonl": {"data__train_file": str(corpus / "train.jsonl"), "data__text_column_names": "body"}}  # fmt: skip
    for name, settings in files.items():
        run("distill", distill_config(corpus, base_model, tmp_path / name, training__max_steps=2, **settings))
    assert sha256(tmp_path / "txt") == sha256(tmp_path / "gz") == sha256(tmp_path / "jsonl")


def test_validation_text_is_scored_by_the_losses(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    settings = {"data__validation_file": str(corpus / "validation.txt"), "training__num_train_epochs": 3.0}
    rows = run("distill", distill_config(corpus, base_model, tmp_path / "out", **settings))
    scores = events(rows, "evaluate")
    assert len(scores) == 3 and scores[-1]["loss"] < scores[0]["loss"]
    parts = [weight * scores[-1][name] for name, weight in LAYER_LOSSES.items()]
    assert scores[-1]["loss"] == pytest.approx(sum(parts), rel=1e-4)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["eval_loss"] == pytest.approx(scores[-1]["loss"], rel=1e-6)
    run("distill", distill_config(corpus, base_model, tmp_path / "unseen", training__num_train_epochs=3.0))
    assert sha256(tmp_path / "out") == sha256(tmp_path / "unseen")


def test_keep_best_stores_the_weights_with_the_lowest_loss(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    settings = {"data__validation_file": str(corpus / "validation.txt"), "training__keep": "best",
                "training__learning_rate": 0.3, "training__num_train_epochs": 4.0}  # fmt: skip
    rows = run("distill", distill_config(corpus, base_model, tmp_path / "out", **settings))
    losses = [row["loss"] for row in events(rows, "evaluate")]
    assert last(rows)["eval_loss"] == min(losses)
    assert not events(rows, "warning")


def test_a_task_agnostic_student_is_up_to_date_until_its_corpus_changes(
    base_model: Path, corpus: Path, tmp_path: Path
) -> None:
    config = distill_config(corpus, base_model, tmp_path / "out", training__max_steps=2)
    run("distill", config)
    assert [row["event"] for row in run("distill", config)] == ["up to date"]
    (corpus / "train.txt").write_text("a fine film\n")
    with pytest.raises(OutputError, match=r"data\.train_file\.0\.sha256"):
        run("distill", config)


@pytest.mark.slow
def test_a_run_resumed_after_sigterm_ends_with_the_same_weights(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    settings = {"training__max_steps": 200, "training__logging_steps": 5}
    run("distill", distill_config(corpus, base_model, tmp_path / "whole", **settings))
    config = distill_config(corpus, base_model, tmp_path / "stopped", **settings)
    process = start("distill", config, tmp_path / "distill.yaml")
    stop_in_the_middle(process, tmp_path / "stopped", signal.SIGTERM)
    assert process.returncode == 143
    assert last(run("distill", config), "resume")["step"] < 200
    assert sha256(tmp_path / "stopped") == sha256(tmp_path / "whole")


def test_a_dry_run_counts_the_blocks_and_writes_nothing(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    config = distill_config(corpus, base_model, tmp_path / "out")
    plan = last(run("distill", config, dry_run=True), "plan")
    tokens = sum(len(row["text"].split()) + 1 for row in sentences("train"))
    assert 96 * 5 / 14 < plan["rows"] < tokens  # fewer than with one block per text
    assert "label_names" not in plan and sorted(tmp_path.rglob("*")) == before


def test_blocks_longer_than_the_positions_of_the_model_are_rejected(
    base_model: Path, corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="positions for 32 tokens, not for 33"):
        run("distill", distill_config(corpus, base_model, tmp_path / "out", data__max_seq_length=33))
    assert not (tmp_path / "out").exists()


# -- what the task rejects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["finetune", "gen-soft-labels", "eval", "export"])
def test_stages_that_need_predictions_reject_the_task(command: str) -> None:
    with pytest.raises(ConfigError, match="'language-modeling' is a task for `tinybert distill` only") as caught:
        CHECKS[command]["task"]("language-modeling")
    assert caught.value.exit_code == 2 and "text-classification" in str(caught.value.hint)


def test_label_datasets_and_text_level_losses_are_rejected(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no label dataset") as caught:
        run("distill", distill_config(corpus, base_model, tmp_path / "out", label_dataset="labels"))
    assert caught.value.key == ("label_dataset",)
    for loss in ("soft_labels", "hard_labels", "pooled"):
        with pytest.raises(ConfigError, match=f"`{loss}` compares whole texts") as caught:
            run("distill", distill_config(corpus, base_model, tmp_path / "out", losses={**LAYER_LOSSES, loss: 1.0}))
        assert caught.value.key == ("losses", loss)


def test_a_text_level_loss_with_weight_0_is_accepted(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    config = distill_config(corpus, base_model, tmp_path / "out", losses={**LAYER_LOSSES, "pooled": 0.0})
    assert last(run("distill", config, dry_run=True), "plan")["steps"] > 0


def config_errors(tmp_path: Path, text: str) -> str:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigErrors) as caught:
        configuration.load("distill", file, (), CHECKS["distill"])
    return str(caught.value).replace(str(file), "a.yaml")


def test_a_missing_label_dataset_is_reported_with_all_other_errors(tmp_path: Path) -> None:
    errors = config_errors(
        tmp_path, "task: text-classification\ndata: {}\nstudnt: x\nlosses: {cosin: 1}\noutput_dir: o\n"
    )
    assert "missing key 'label_dataset'\n --> a.yaml:1:1\n" in errors
    assert all(part in errors for part in ("unknown key 'studnt'", "unknown loss 'cosin'", "missing key 'student'"))


def test_errors_of_the_task_have_a_position_in_the_file(tmp_path: Path) -> None:
    errors = config_errors(
        tmp_path,
        "task: language-modeling\ndata: {}\nstudent: x\nlabel_dataset: y\nlosses:\n  hard_labels: 1\noutput_dir: o\n",
    )
    assert "--> a.yaml:4:16" in errors and "--> a.yaml:6:16" in errors


def test_an_unknown_task_is_reported_once(tmp_path: Path) -> None:
    errors = config_errors(tmp_path, "task: language-modelling\ndata: {}\nstudent: x\noutput_dir: o\n")
    assert errors.count("error") == 0 and "did you mean 'language-modeling'?" in errors


def test_a_task_agnostic_student_needs_a_teacher(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    config = distill_config(corpus, base_model, tmp_path / "out").model_copy(update={"teacher": None})
    with pytest.raises(ConfigError, match="there is no teacher"):
        run("distill", config)


def test_a_task_agnostic_student_needs_training_text(base_model: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows for the split 'train'"):
        run("distill", distill_config(corpus, base_model, tmp_path / "out", data__train_file=None))
