"""Models are located, loaded with complete weights or rejected, and saved in the format of transformers."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tinybert_cli import models
from tinybert_cli.errors import InputError, UserError
from tinybert_cli.models import loading
from tinybert_cli.models.families import FAMILIES

HEAD = "sequence-classification"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "is", "good", "bad", "##ly", "not"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_tokenizer(words: list[str] | None = None, *, lowercase: bool = True) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(words or WORDS)}
    backend = Tokenizer(tokenizer_models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]",
    )  # fmt: skip


def make_config(**settings: object) -> BertConfig:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    return BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **(sizes | settings))


def make_classifier(names: tuple[str, ...] = ("negative", "positive")) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = make_config(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})
    return BertForSequenceClassification(config).eval()


def save_as(model: PreTrainedModel, folder: Path) -> models.Source:
    models.save(model, make_tokenizer(), folder)
    return models.locate(str(folder))


def edit_config(source: models.Source, **settings: object) -> None:
    file = Path(str(source.folder)) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[2, 5, 6, 7, 8, 3], [2, 6, 9, 3, 0, 0]])).logits


@pytest.fixture
def teacher(tmp_path: Path) -> models.Source:
    return save_as(make_classifier(), tmp_path / "teacher")


# Locating models


def test_locate_accepts_a_folder(teacher: models.Source) -> None:
    assert teacher.folder is not None and teacher.hub_id is None


@pytest.mark.parametrize(
    ("name", "hub_id", "revision"),
    [("org/name", "org/name", None), ("org/name@v1.0", "org/name", "v1.0"),
     ("org/name@refs/pr/1", "org/name", "refs/pr/1"), ("bert-base-uncased", "bert-base-uncased", None)],
)  # fmt: skip
def test_locate_distinguishes_hub_ids_from_folders(
    name: str, hub_id: str, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert models.locate(name) == models.Source(folder=None, hub_id=hub_id, revision=revision, name=name)


def test_missing_folder_is_rejected_with_nearest_name_and_stage(
    teacher: models.Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/sst2").mkdir(parents=True)
    shutil.copytree(tmp_path / "teacher", tmp_path / "runs/sst2/teacher")
    for name in ("runs/sst2/teahcer", "runs/sst3/teacher", "./runs/sst2/teachers"):
        with pytest.raises(InputError, match="run the stage that writes it first") as caught:
            models.locate(name)
        assert "runs/sst2/teacher?" in str(caught.value)


@pytest.mark.parametrize("name", ["runs/teacher", "./teacher", "../teacher", "/nowhere/teacher", "~/no-such", "a/b/c"])
def test_missing_path_is_not_looked_up_on_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        models.locate(name)


def test_unfinished_run_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    (tmp_path / "teacher/checkpoints").mkdir()
    models.locate(teacher.name)  # a folder of the user
    (tmp_path / "teacher/checkpoints/started.json").write_text("{}")
    with pytest.raises(InputError, match="is still running, or was interrupted"):
        models.locate(teacher.name)
    (tmp_path / "teacher/manifest.json").write_text("{}")
    models.locate(teacher.name)


def test_a_folder_of_models_is_rejected_with_their_names(tmp_path: Path) -> None:
    for checkpoint in ("checkpoint-1000", "checkpoint-500"):
        (tmp_path / checkpoint).mkdir()
        (tmp_path / checkpoint / "config.json").touch()
    with pytest.raises(InputError, match=r"folder that contains it: .*checkpoint-1000, .*checkpoint-500$"):
        models.locate(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("train-00000-of-00001.parquet", "label dataset"),
        ("adapter_config.json", "adapter"),
        ("notes.txt", "config.json"),
    ],
)
def test_folder_without_a_model_is_rejected_with_its_content(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).touch()
    with pytest.raises(InputError, match=message):
        models.locate(str(tmp_path))


def test_the_folder_of_an_eval_is_rejected_as_such(tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").touch()
    (tmp_path / "manifest.json").write_text('{"command": "eval"}')
    with pytest.raises(InputError, match="these are the results of an eval, not a model"):
        models.locate(str(tmp_path))


@pytest.fixture
def package(teacher: models.Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "site/shipped_model"
    shutil.copytree(tmp_path / "teacher", root / "model")
    (root / "__init__.py").write_text("raise SystemExit('a package was imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return root


def test_model_in_a_package_is_located_without_importing_it(package: Path) -> None:
    source = models.locate("package://shipped_model/model")
    assert source.folder == package / "model"
    assert "shipped_model" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [("package://shipped_model/../../teacher", "outside the package"), ("package://shipped_model/modle", "it has: model"),
     ("package://no_such_package/model", "pip install no-such-package"), ("package:///model", "contains no package name"),
     ("package://os.path/model", "contains no package name")],
)  # fmt: skip
def test_invalid_package_address_is_rejected(name: str, message: str, package: Path) -> None:
    with pytest.raises(InputError, match=message):
        models.locate(name)


def test_known_package_that_is_not_installed_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.PACKAGES, "not_installed_at_all/model", ("org/name", "0" * 64))
    assert models.locate("package://not_installed_at_all/model").hub_id == "org/name"


def test_known_package_with_other_weights_is_rejected(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.PACKAGES, "shipped_model/model", ("org/name", "0" * 64))
    with pytest.raises(InputError, match="sha256"):
        models.locate("package://shipped_model/model")


def test_offline_hub_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"hf download org/name.*HF_HOME") as caught:
        models.load(models.locate("org/name"), HEAD)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("revision", ["", "@v1", "@" + "c" * 40])
def test_model_in_the_hub_cache_loads_offline(
    revision: str, teacher: models.Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "c" * 40
    shutil.copytree(tmp_path / "teacher", tmp_path / "hub/models--org--name/snapshots" / commit)
    (tmp_path / "hub/models--org--name/refs").mkdir()
    (tmp_path / "hub/models--org--name/refs" / ("v1" if revision else "main")).write_text(commit)
    source = models.locate(f"org/name{revision}")
    assert models.fetch(source).name == commit
    assert torch.equal(logits(models.load(source, HEAD)), logits(models.load(teacher, HEAD)))


def test_read_only_cache_is_an_error_with_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", "/cache/hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", forbidden)
    with pytest.raises(InputError, match="no permission to write the cache, /cache/hub") as caught:
        models.fetch(models.locate("org/name"))
    assert "HF_HOME" in str(caught.value)


# Tokenizers


def test_folder_without_tokenizer_files_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / "teacher" / name).unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        models.load_tokenizer(teacher)


def test_a_tokenizer_without_a_padding_token_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    file = tmp_path / "teacher/tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pad_token": None}))
    with pytest.raises(InputError, match="has no padding token") as caught:
        models.load_tokenizer(teacher)
    assert '"pad_token": "[PAD]"' in str(caught.value.hint)


def test_a_model_of_tinybert_that_lost_the_length_of_its_texts_is_rejected(
    teacher: models.Source, tmp_path: Path
) -> None:
    (tmp_path / "teacher/tokenizer_config.json").unlink()
    models.load_tokenizer(teacher)  # of another tool: transformers knows the tokenizer of BERT
    edit_config(teacher, tinybert_text_columns=["text"])
    with pytest.raises(InputError, match=r"has no tokenizer_config\.json"):
        models.load_tokenizer(teacher)


@pytest.mark.parametrize(
    ("settings", "problem", "message"),
    [
        ({"problem_type": "regression"}, "regression", "has 2 outputs, and a model for regression has one"),
        ({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}, "single_label_classification",
         "its outputs are regression, not single label classification"),
        ({"id2label": {"0": "bad", "2": "good"}}, None, "`id2label` of config.json has the positions 0, 2"),
        ({"problem_type": 3}, "regression", "its outputs are 3, not regression"),
    ],
)  # fmt: skip
def test_outputs_that_do_not_fit_the_task_are_rejected(
    settings: dict[str, object], problem: str | None, message: str, teacher: models.Source
) -> None:
    edit_config(teacher, **settings)
    with pytest.raises(InputError, match=message):
        models.check_outputs(teacher, None, problem)


def test_layers_in_chunks_take_inputs_of_any_length(teacher: models.Source) -> None:
    expected = logits(models.load(teacher, "sequence-classification"))
    edit_config(teacher, chunk_size_feed_forward=5)
    assert torch.equal(logits(models.load(teacher, "sequence-classification")), expected)


def test_damaged_tokenizer_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    (tmp_path / "teacher/tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        models.load_tokenizer(teacher)


def test_tokenizer_code_in_a_folder_is_not_run(teacher: models.Source, tmp_path: Path) -> None:
    (tmp_path / "teacher/evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    settings = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}, "pad_token": "[PAD]"}
    (tmp_path / "teacher/tokenizer_config.json").write_text(json.dumps(settings))
    assert models.load_tokenizer(teacher).get_vocab() == make_tokenizer().get_vocab()
    assert not (tmp_path / "ran").exists()


def test_empty_vocabulary_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    (tmp_path / "teacher/tokenizer.json").unlink()
    (tmp_path / "teacher/vocab.txt").write_text("")
    with pytest.raises(InputError, match=r"only special tokens|cannot be read"):
        models.load_tokenizer(teacher)


def test_equal_tokenizers_have_no_difference(teacher: models.Source) -> None:
    assert models.tokenizer_difference(models.load_tokenizer(teacher), models.load_tokenizer(teacher)) is None


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (make_tokenizer([*WORDS, "more"]), "12 and 13 tokens, 1 of them different, such as more"),
        (make_tokenizer([*WORDS[:-2], WORDS[-1], WORDS[-2]]), "2 of them different"),
        (make_tokenizer(lowercase=False), "they split"),
    ],
)
def test_tokenizer_difference_describes_vocabulary_and_splitting(
    other: PreTrainedTokenizerFast, difference: str
) -> None:
    words = [*WORDS[:-1], "vu"] if difference == "they split" else WORDS
    other = make_tokenizer(words, lowercase=False) if difference == "they split" else other
    assert re.search(difference, models.tokenizer_difference(make_tokenizer(words), other) or "")


def test_tokenizer_difference_describes_special_tokens() -> None:
    other = make_tokenizer()
    other.pad_token = "[MASK]"
    assert "pad_token is" in (models.tokenizer_difference(make_tokenizer(), other) or "")


# Saving


def test_saved_folder_loads_with_transformers(teacher: models.Source) -> None:
    model, report = AutoModelForSequenceClassification.from_pretrained(teacher.folder, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(logits(model), logits(make_classifier()))
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_saved_folder_has_architecture_and_dtype_and_no_pickle(teacher: models.Source, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "teacher/config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"] and config["dtype"] == "float32"
    assert sorted(file.name for file in (tmp_path / "teacher").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip


def test_save_writes_vocab_txt_for_wordpiece(teacher: models.Source, tmp_path: Path) -> None:
    assert (tmp_path / "teacher/vocab.txt").read_text().split("\n")[:-1] == WORDS
    assert BertTokenizer(str(tmp_path / "teacher/vocab.txt")).get_vocab() == make_tokenizer().get_vocab()


def test_half_precision_model_is_saved_as_float32(tmp_path: Path) -> None:
    source = save_as(make_classifier().to(torch.bfloat16), tmp_path / "half")
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "float32"
    assert models.load(source, HEAD).dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(value: float, tmp_path: Path) -> None:
    model = make_classifier()
    model.classifier.weight.data[0, 0] = value
    with pytest.raises(UserError, match=r"classifier\.weight"):
        models.save(model, make_tokenizer(), tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


# Loading models


def test_model_loads_in_eval_mode_and_float32(tmp_path: Path) -> None:
    source = save_as(make_classifier(), tmp_path / "model")
    half = make_classifier().to(torch.float16)
    half.save_pretrained(tmp_path / "model")
    model = models.load(source, HEAD)
    assert model.dtype == torch.float32 and not model.training


def test_attention_kernel_in_the_config_is_ignored(teacher: models.Source) -> None:
    edit_config(teacher, attn_implementation="org/kernel", _attn_implementation="org/kernel")
    assert models.load(teacher, HEAD).config._attn_implementation == "sdpa"


def test_outputs_have_names_whatever_the_config_asks_for(teacher: models.Source) -> None:
    edit_config(teacher, return_dict=False)
    assert "logits" in models.load(teacher, HEAD)(input_ids=torch.tensor([[5, 6]]))


@pytest.mark.parametrize("family", [BertModel, BertForMaskedLM, BertForTokenClassification])
def test_model_without_the_head_is_rejected_with_its_architecture(
    family: type[PreTrainedModel], tmp_path: Path
) -> None:
    source = save_as(family(make_config()), tmp_path / "model")
    with pytest.raises(InputError, match=f"{family.__name__} model.*\n.*tinybert finetune"):
        models.load(source, HEAD)


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_hidden_layers": 3}, "missing: .*layer.2"), ({"num_hidden_layers": 1}, "too many: .*layer.1"),
     ({"intermediate_size": 40}, "of another shape: .*intermediate"), ({"vocab_size": 20}, "of another shape: .*word")],
)  # fmt: skip
def test_weights_that_do_not_fit_the_config_are_rejected(
    settings: dict[str, int], message: str, new_head: bool, teacher: models.Source
) -> None:
    edit_config(teacher, **settings)
    with pytest.raises(InputError, match=message):
        models.load(teacher, HEAD, new_head=new_head)


@pytest.mark.parametrize("new_head", [False, True])
def test_a_classifier_that_the_config_has_and_the_weights_lack_is_never_random(
    new_head: bool, teacher: models.Source, tmp_path: Path
) -> None:
    BertModel(make_config()).save_pretrained(tmp_path / "teacher")
    edit_config(teacher, architectures=["BertForSequenceClassification"])
    with pytest.raises(InputError, match=r"missing: classifier\.bias, classifier\.weight"):
        models.load(teacher, HEAD, new_head=new_head)


def test_model_with_custom_code_is_rejected(teacher: models.Source) -> None:
    edit_config(teacher, model_type="mystery", auto_map={"AutoConfig": "code.Mystery"})
    with pytest.raises(InputError, match="never run"):
        models.load(teacher, HEAD)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"model_type": "mystery"}, "unknown"), ({"hidden_size": "wide"}, "cannot be read"),
     ({"model_type": "clip"}, "has no"), ({"quantization_config": {"quant_method": "gptq"}}, "quantized")],
)  # fmt: skip
def test_unusable_config_is_rejected(settings: dict[str, object], message: str, teacher: models.Source) -> None:
    edit_config(teacher, **settings)
    with pytest.raises(InputError, match=message):
        models.load(teacher, HEAD)


def test_config_that_is_not_json_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    for text in ("{", "[]", "\x00"):
        (tmp_path / "teacher/config.json").write_text(text)
        with pytest.raises(InputError, match="not"):
            models.load(teacher, HEAD)


def test_truncated_weights_file_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    file = tmp_path / "teacher/model.safetensors"
    whole = file.read_bytes()
    for length in (0, 5, 200, len(whole) - 4):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged or incomplete"):
            models.load(teacher, HEAD)


def test_weights_that_are_not_finite_are_rejected(teacher: models.Source, tmp_path: Path) -> None:
    model = make_classifier()
    model.classifier.bias.data[0] = float("nan")
    model.save_pretrained(tmp_path / "teacher")
    with pytest.raises(InputError, match=r"NaN.*classifier\.bias"):
        models.load(teacher, HEAD)


def test_folder_without_weights_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    (tmp_path / "teacher/model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        models.load(teacher, HEAD)


def test_sharded_weights_are_read(teacher: models.Source, tmp_path: Path) -> None:
    expected = logits(models.load(teacher, HEAD))
    (tmp_path / "teacher/model.safetensors").unlink()
    make_classifier().save_pretrained(tmp_path / "teacher", max_shard_size="5KB")
    assert len(list((tmp_path / "teacher").glob("model-*"))) > 1
    assert torch.equal(logits(models.load(teacher, HEAD)), expected)


@pytest.mark.parametrize("path", ["../outside.safetensors", "/etc/passwd", "..", "a\\b.safetensors"])
def test_weight_index_with_outside_paths_is_rejected(path: str, teacher: models.Source, tmp_path: Path) -> None:
    (tmp_path / "teacher/model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.weight": path}}
    (tmp_path / "teacher/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="path outside the folder"):
        models.load(teacher, HEAD)


# Early BERT checkpoints, such as TinyBERT's


@pytest.fixture
def early_checkpoint(teacher: models.Source) -> models.Source:
    """A folder like TinyBERT_General_4L_312D: no model_type, vocab.txt, a pickle, old layer-norm names, projections."""
    folder = Path(str(teacher.folder))
    torch.manual_seed(3)
    body = BertModel(make_config())
    weights = {f"bert.{key}": tensor for key, tensor in body.state_dict().items()}
    for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
        weights = {key.replace(new, old): tensor for key, tensor in weights.items()}
    weights |= {f"fit_denses.{i}.weight": torch.ones(4, 4) for i in range(3)} | {
        "cls.predictions.bias": torch.ones(len(WORDS))
    }
    for file in folder.iterdir():
        file.unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    config = {"cell": {}, "emb_size": 312, "pre_trained": "", "training": "", "structure": []} | {
        name: getattr(body.config, name)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
                     "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "type_vocab_size",
                     "max_position_embeddings", "vocab_size")
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return teacher


def test_early_tinybert_checkpoint_loads_as_bert(early_checkpoint: models.Source, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = BertModel(make_config()).state_dict()
    model = models.load(early_checkpoint, HEAD, label_names=["no", "yes"], new_head=True)
    weights = {key.removeprefix("bert."): value for key, value in model.state_dict().items() if key.startswith("bert.")}
    assert weights.keys() == expected.keys() and all(torch.equal(weights[key], expected[key]) for key in weights)
    tokenizer = models.load_tokenizer(early_checkpoint)
    assert tokenizer.get_vocab() == {word: index for index, word in enumerate(WORDS)}
    assert tokenizer(WORDS[-1].upper())["input_ids"] == [WORDS.index("[CLS]"), len(WORDS) - 1, WORDS.index("[SEP]")]
    models.save(model, tokenizer, tmp_path / "student")
    reloaded = models.load(models.locate(str(tmp_path / "student")), HEAD)
    assert torch.equal(reloaded.bert.embeddings.LayerNorm.weight, model.bert.embeddings.LayerNorm.weight)


def test_config_without_model_type_that_is_not_bert_is_rejected(early_checkpoint: models.Source) -> None:
    file = Path(str(early_checkpoint.folder)) / "config.json"
    file.write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(InputError, match="model type 'None'"):
        models.load(early_checkpoint, HEAD, new_head=True)


# Pickled weights


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def replace_by_pickle(source: models.Source, weights: object) -> None:
    folder = Path(str(source.folder))
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")


def test_pickled_weights_are_read_with_a_warning(teacher: models.Source, caplog: pytest.LogCaptureFixture) -> None:
    expected = logits(models.load(teacher, HEAD))
    replace_by_pickle(teacher, make_classifier().state_dict())
    with caplog.at_level(logging.WARNING, logger="tinybert"):
        model = models.load(teacher, HEAD)
    assert torch.equal(logits(model), expected)
    assert "old format" in caplog.text


@pytest.mark.parametrize("plain_pickle", [False, True], ids=["torch", "pickle"])
def test_code_in_a_pickle_is_not_run(plain_pickle: bool, teacher: models.Source, tmp_path: Path) -> None:
    replace_by_pickle(teacher, make_classifier().state_dict() | {"extra": Malicious(tmp_path / "ran")})
    if plain_pickle:
        (tmp_path / "teacher/pytorch_model.bin").write_bytes(pickle.dumps({"extra": Malicious(tmp_path / "ran")}, 2))
    with pytest.raises(InputError, match=r"more than tensors|damaged"):
        models.load(teacher, HEAD)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("extra", [{"epoch": 3}, {"args": {"lr": 0.1}}, {"state_dict": {"a": torch.ones(1)}}])
def test_pickle_with_more_than_tensors_is_rejected(extra: dict[str, object], teacher: models.Source) -> None:
    replace_by_pickle(teacher, make_classifier().state_dict() | extra)
    with pytest.raises(InputError, match="more than tensors"):
        models.load(teacher, HEAD)


def test_damaged_pickle_is_rejected(teacher: models.Source, tmp_path: Path) -> None:
    replace_by_pickle(teacher, make_classifier().state_dict())
    file = tmp_path / "teacher/pytorch_model.bin"
    whole = file.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"not a pickle"):
        file.write_bytes(content)
        with pytest.raises(InputError):
            models.load(teacher, HEAD)


# Models to be trained


@pytest.mark.parametrize("family", [BertModel, BertForMaskedLM, BertForTokenClassification])
def test_new_head_is_random_and_the_base_model_is_loaded(family: type[PreTrainedModel], tmp_path: Path) -> None:
    torch.manual_seed(1)
    base = family(make_config())
    source = save_as(base, tmp_path / "base")
    model = models.load(source, HEAD, label_names=["negative", "positive"], new_head=True)
    assert models.label_names(model) == ["negative", "positive"]
    body = base.base_model.state_dict()
    assert all(torch.equal(tensor, body[key]) for key, tensor in model.bert.state_dict().items() if "pooler" not in key)
    heads = [weight for key, weight in base.state_dict().items() if key == "classifier.weight"]
    assert not any(torch.equal(model.classifier.weight, weight) for weight in heads)


def test_new_head_does_not_replace_a_fine_tuned_head(teacher: models.Source) -> None:
    model = models.load(teacher, HEAD, label_names=["negative", "positive"], new_head=True)
    assert torch.allclose(logits(model), logits(make_classifier()), atol=1e-7)


@pytest.mark.parametrize("new_head", [False, True])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["positive", "negative"], "another order"),
        (["no", "yes"], "other labels than the data"),
        (["a", "b", "c"], "other labels"),
    ],
)
def test_head_with_other_labels_is_rejected_with_both_lists(
    names: list[str], message: str, new_head: bool, teacher: models.Source
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        models.load(teacher, HEAD, label_names=names, new_head=new_head)
    assert "negative, positive" in str(caught.value) and ", ".join(names) in str(caught.value)


def test_head_without_label_names_is_compared_by_their_number(tmp_path: Path) -> None:
    source = save_as(make_classifier(("LABEL_0", "LABEL_1")), tmp_path / "model")
    assert models.label_names(models.load(source, HEAD)) is None
    assert models.label_names(models.load(source, HEAD, label_names=["no", "yes"])) == ["no", "yes"]
    with pytest.raises(InputError, match="has 2 labels, the data has 3"):
        models.load(source, HEAD, new_head=True, label_names=["a", "b", "c"])


def test_regression_head_has_one_output(tmp_path: Path) -> None:
    source = save_as(BertModel(make_config()), tmp_path / "base")
    assert logits(models.load(source, HEAD, label_names=["score"], new_head=True)).shape == (2, 1)


@pytest.mark.parametrize("task", ["SequenceClassification", "QuestionAnswering", "TokenClassification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_set_in_the_heads_of_all_families(family: str, task: str) -> None:
    config = AutoConfig.for_model(family)
    loading._set_dropout(config, 0.3)
    with torch.device("meta"):
        model = getattr(transformers, f"AutoModelFor{task}").from_config(config)
    probabilities = {float(module.p) for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert probabilities <= {0.3} and probabilities


@pytest.mark.parametrize("family", ["funnel", "xlm", "flaubert"])
def test_dropout_is_set_in_the_layers_and_heads_of_other_families(family: str) -> None:
    config = AutoConfig.for_model(family)
    loading._set_dropout(config, 0.3)
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    names = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout) and module.p != 0.3}
    assert not [name for name in names if "activation" not in name]


def test_dropout_is_set_in_all_modules(teacher: models.Source) -> None:
    model = models.load(teacher, HEAD, dropout=0.3)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.3}


def test_loaded_models_do_not_share_a_config(teacher: models.Source) -> None:
    first, second = models.load(teacher, HEAD), models.load(teacher, HEAD)
    first.config.id2label[0] = "changed"
    assert models.label_names(second) == ["negative", "positive"]


def test_size_counts_embeddings_separately() -> None:
    model = make_classifier()
    embeddings = (len(WORDS) + 32 + 2) * 16
    total = sum(weight.numel() for weight in model.parameters())
    assert models.size(model) == {"parameters": total, "embedding_parameters": embeddings}
