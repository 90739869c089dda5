"""Every family of translation models: tokenizers, losses, students, translations and the conversion to CTranslate2.

`transformers` is the judge: it tokenizes, shifts labels and generates for the same folder.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from translation_folders import ENGLISH, FAMILIES, GERMAN, languages_of, write_family

from tinybert_cli import data, formats, loops, models, tasks
from tinybert_cli.config import Data, Model
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.inspection.vocabulary import unknown_warnings
from tinybert_cli.translation_predictor import load_translation_predictor
from tinybert_cli.translation_tokenizer import TranslationTokenizer, read_tokenizer
from tinybert_cli.types import Encoded, Hypothesis, Rows, Search

TASK = tasks.Translation()
FAST = ("marian", "t5")
MOST_ARE_SLOW = [
    family if family in FAST else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES
]  # for tests with seconds of searches for each family
ODD = [
    "", " ", ">>deu<< Hello", ">>xxx<<Hello", "a</s>b", "<unk> x <pad>", "e\u0301 \ufb01 \u2460", "日本語 テスト", "🙂🙂 ok",
    "a\u00a0b", "zero\u200bwidth", "tab\tnew\nline", "  lead", "trail  ", "a  b", ">>deu<<</s>x", "x" * 300, "\ufeffbom",
    "STRASSE straße", "▁under_score ▁ x", "\x00\x01ctrl", "a <s> b",
]  # fmt: skip


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: write_family(root / family, family) for family in FAMILIES}


def tokenizer_of(folder: Path, family: str) -> TranslationTokenizer:
    return models.load_translation_tokenizer(models.locate(str(folder)), **languages_of(family))


def judge_of(folder: Path, family: str) -> Any:
    """The tokenizer of transformers."""
    codes = languages_of(family)
    options = {"src_lang": codes["source_language"], "tgt_lang": codes["target_language"]} if codes else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Marian recommends sacremoses, which it does not use here
        return AutoTokenizer.from_pretrained(folder, **options)


def model_of(folder: Path) -> Any:
    return models.load_translation_model(models.locate(str(folder)))


def encoded_pairs(folder: Path, family: str) -> tuple[Encoded, data.Examples]:
    rows = Rows({"en": ENGLISH, "de": GERMAN}, (("rows", len(ENGLISH)),))
    columns = Data(text_column_names="en", label_column_name="de", **languages_of(family))
    encoded = TASK.encode_pairs(rows, columns, tokenizer_of(folder, family))
    return encoded, data.Examples.of(encoded, labels=encoded.labels)


# -- tokenizers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_both_sides_have_the_ids_of_transformers(folders: dict[str, Path], family: str) -> None:
    tokenizer, judge = tokenizer_of(folders[family], family), judge_of(folders[family], family)
    assert tokenizer.source_ids(ENGLISH) == judge(ENGLISH)["input_ids"]
    assert tokenizer.target_ids(GERMAN) == judge(text_target=GERMAN)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_decoded_as_by_transformers(folders: dict[str, Path], family: str) -> None:
    tokenizer, judge = tokenizer_of(folders[family], family), judge_of(folders[family], family)
    ids = [row[len(tokenizer.prefix) :] for row in tokenizer.target_ids(GERMAN)]  # translators leave the code out
    expected = [text.strip() for text in judge.batch_decode(ids, skip_special_tokens=True)]
    assert tokenizer.texts(ids) == expected and expected[0] == GERMAN[0]


@pytest.mark.parametrize("family", ["marian", "m2m100"])
@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_text_has_the_ids_of_the_slow_tokenizer(folders: dict[str, Path], family: str, text: str) -> None:
    tokenizer, judge = tokenizer_of(folders[family], family), judge_of(folders[family], family)
    assert tokenizer.source_ids([text]) == [judge(text)["input_ids"]]
    assert tokenizer.target_ids([text]) == [judge(text_target=text)["input_ids"]]


@pytest.mark.parametrize("family", ["marian", "m2m100"])
def test_any_text_has_the_ids_of_the_slow_tokenizer(folders: dict[str, Path], family: str) -> None:
    tokenizer, judge = tokenizer_of(folders[family], family), judge_of(folders[family], family)
    words = st.sampled_from([*ODD, *ENGLISH, *GERMAN, "</s>", "<pad>", ">>", "<<", "▁", "__de__"])

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(words | st.text(max_size=8), max_size=5).map(" ".join))
    def check(text: str) -> None:
        assert tokenizer.source_ids([text]) == [judge(text)["input_ids"]]
        assert tokenizer.target_ids([text]) == [judge(text_target=text)["input_ids"]]

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_source_keeps_its_special_tokens(folders: dict[str, Path], family: str) -> None:
    tokenizer, judge = tokenizer_of(folders[family], family), judge_of(folders[family], family)
    expected = judge(ENGLISH, truncation=True, max_length=8)["input_ids"]
    assert tokenizer.source_ids(ENGLISH, 8) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_has_the_original_tokenizer_files(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(folders[family], family)
    models.save_translation_model(model_of(folders[family]), tokenizer, tmp_path)
    for name, content in tokenizer.files.items():
        assert (tmp_path / name).read_bytes() == content == (folders[family] / name).read_bytes()
    again = tokenizer_of(tmp_path, family)
    assert again.source_ids(ENGLISH) == tokenizer.source_ids(ENGLISH) and again.start == tokenizer.start


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_reads_its_tokenizer_without_transformers(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(folders[family], family)
    tokenizer.write(tmp_path)
    again = read_tokenizer(tmp_path)
    assert again.source_ids([*ENGLISH, *ODD]) == tokenizer.source_ids([*ENGLISH, *ODD])
    assert again.target_ids(GERMAN) == tokenizer.target_ids(GERMAN)
    numbers = (again.start, again.end, again.padding, again.prefix)
    assert numbers == (tokenizer.start, tokenizer.end, tokenizer.padding, tokenizer.prefix)


# -- models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_inputs_are_the_labels_that_the_model_shifts(folders: dict[str, Path], family: str) -> None:
    model = model_of(folders[family])
    _, examples = encoded_pairs(folders[family], family)
    batch = examples.__getitems__(range(len(examples)))
    labels = torch.full(batch["decoder_input_ids"].shape, -100)
    labels.view(-1)[batch["positions"]] = batch["labels"]
    with torch.no_grad():
        expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss = torch.nn.functional.cross_entropy(loops.forward(model, batch)["logits"], batch["labels"])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_in_transformers_with_the_same_logits(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    model = model_of(folders[family])
    models.save_translation_model(model, tokenizer_of(folders[family], family), tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    _, examples = encoded_pairs(folders[family], family)
    batch = examples.__getitems__([0, 1])
    with torch.no_grad():
        assert torch.equal(loops.forward(again, batch)["logits"], loops.forward(model, batch)["logits"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_with_all_layers_copied_in_two_steps_is_its_teacher(folders: dict[str, Path], family: str) -> None:
    teacher = model_of(folders[family])
    deeper, _ = models.translation_student(
        Model(**{"from": "x", "num_hidden_layers": 1, "num_decoder_layers": 1}), "last", teacher, seed=1
    )
    names = dict(deeper.state_dict())
    same = [key for key, tensor in names.items() if key in teacher.state_dict() and ".1." not in key]
    copied = sum(torch.equal(names[key], teacher.state_dict()[key]) for key in same if "layers.0" not in key)
    assert copied >= sum("layers.0" not in key and "block.0" not in key for key in same)
    assert models.size(deeper)["parameters"] < models.size(teacher)["parameters"]


def test_the_first_layer_of_a_t5_student_keeps_the_relative_positions(folders: dict[str, Path]) -> None:
    teacher = model_of(folders["t5"])
    student, copies = models.translation_student(
        Model(**{"from": "x", "num_decoder_layers": 1}), "last", teacher, seed=1
    )
    name = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert copies == {"encoder": [1, 2], "decoder": [2]}
    assert torch.equal(student.state_dict()[name], teacher.state_dict()[name])
    query = "layer.0.SelfAttention.q.weight"
    own, other = student.state_dict(), teacher.state_dict()
    assert torch.equal(own[f"decoder.block.0.{query}"], other[f"decoder.block.1.{query}"])


@pytest.mark.parametrize("heads", [3, 4], ids=["flan-t5-small", "t5-11b"])
def test_a_student_of_t5_keeps_the_size_of_its_heads(heads: int, tmp_path: Path) -> None:
    """It is not the hidden size divided by the heads: 512 units have 6 heads of 64, and 1024 have 128 heads of 128."""
    teacher = model_of(write_family(tmp_path / "teacher", "t5", num_heads=heads, d_kv=8))
    same, _ = models.translation_student(Model(**{"from": "x"}), "uniform", teacher, seed=1)
    assert same is teacher
    for initialize in ("teacher", "random"):
        options: dict[str, Any] = {"from": "x", "num_decoder_layers": 1, "initialize": initialize}
        student, _ = models.translation_student(Model(**options), "uniform", teacher, seed=1)
        assert student.config.d_kv == 8
    options = {"from": "x", "hidden_size": 8, "num_attention_heads": 2, "initialize": "random"}
    narrow, _ = models.translation_student(Model(**options), "uniform", teacher, seed=1)
    assert narrow.config.d_kv == 4


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "num_attention_heads"])
def test_another_width_needs_random_weights(folders: dict[str, Path], name: str) -> None:
    teacher = model_of(folders["bart"])
    with pytest.raises(ConfigError, match="copied whole") as raised:
        models.translation_student(Model(**{"from": "x", name: 8}), "uniform", teacher, seed=1)
    assert raised.value.key == (name,) and "initialize: random" in str(raised.value.hint)
    options: dict[str, Any] = {"from": "x", "hidden_size": 8, "initialize": "random"}
    student, _ = models.translation_student(Model(**options), "uniform", teacher, seed=1)
    assert student.config.d_model == 8 and student.config.decoder_ffn_dim == 16


@pytest.mark.parametrize(("source", "target"), [("日本語", "ein Haus"), ("a house", "日本語"), ("a house", "ein Haus")])
def test_words_that_the_vocabulary_lacks_are_a_warning_on_each_side(
    source: str, target: str, folders: dict[str, Path]
) -> None:
    rows, tokenizer = Rows({"en": [source]}, (("rows", 1),)), tokenizer_of(folders["t5"], "t5")
    columns = Data(text_column_names="en", label_column_name="de")
    encoded = TASK.encode_targets(rows, columns, tokenizer, [target])
    messages = unknown_warnings("train", encoded, rows, columns, tokenizer, "t5")
    sides = [side for side, text in (("source", source), ("target", target)) if text == "日本語"]
    assert [message.partition(" of the ")[2].partition(" tokens")[0] for message in messages] == sides
    assert all("translation model for this language" in message and "BERT" not in message for message in messages)


# -- translations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 4])
def test_translations_are_those_of_generate(folders: dict[str, Path], family: str, beams: int) -> None:
    tokenizer, model = tokenizer_of(folders[family], family), model_of(folders[family])
    translator = models.torch_translator(model, tokenizer)
    hypotheses = translator.translate(tokenizer.source_ids(ENGLISH), Search(beams=beams, max_target_length=8))
    inputs = judge_of(folders[family], family)(ENGLISH, return_tensors="pt", padding=True)
    forced = {"forced_bos_token_id": tokenizer.prefix[0]} if tokenizer.prefix else {}
    outputs = model.generate(
        **inputs, **forced, num_beams=beams, early_stopping=False, length_penalty=1.0, do_sample=False,
        max_new_tokens=8 + len(tokenizer.prefix), decoder_start_token_id=tokenizer.start,
        bad_words_ids=[[tokenizer.padding]],
    )  # fmt: skip
    expected = [ids[1 + len(tokenizer.prefix) :] for ids in outputs.tolist()]
    assert [list(best[0].ids) for best in hypotheses] == [until_end(ids, tokenizer) for ids in expected]


def until_end(ids: list[int], tokenizer: TranslationTokenizer) -> list[int]:
    return ids[: ids.index(tokenizer.end)] if tokenizer.end in ids else ids


@pytest.mark.parametrize("family", FAMILIES)
def test_ctranslate2_translates_like_transformers(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    tokenizer, model = tokenizer_of(folders[family], family), model_of(folders[family])
    formats.write_ctranslate2(model, tokenizer, tmp_path)
    for beams in (1, 4):
        search, sources = Search(beams=beams, keep=beams, max_target_length=8), tokenizer.source_ids(ENGLISH)
        ours = models.torch_translator(model, tokenizer).translate(sources, search)
        theirs = formats.Ctranslate2Translator(tmp_path).translate(sources, search)
        assert_equal(ours, theirs)


def test_ctranslate2_reads_tokens_that_only_the_model_has(tmp_path: Path) -> None:
    """T5 has more embeddings than its tokenizer has tokens."""
    folder = write_family(tmp_path / "model", "t5", vocab_size=136)
    tokenizer, model = tokenizer_of(folder, "t5"), model_of(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[135] = 1.5 * model.get_input_embeddings().weight[18]
    sources, search = tokenizer.source_ids(ENGLISH), Search(beams=1, max_target_length=12)
    own = models.torch_translator(model, tokenizer).translate(sources, search)
    assert tokenizer.size < 135 and any(135 in best[0].ids for best in own)
    (tmp_path / "export").mkdir()
    formats.write_ctranslate2(model, tokenizer, tmp_path / "export")
    exported = formats.Ctranslate2Translator(tmp_path / "export").translate(sources, search)
    assert [best[0].ids for best in exported] == [best[0].ids for best in own]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limit", [4, 8])
def test_translations_get_the_score_that_they_have_as_hypotheses(
    folders: dict[str, Path], family: str, limit: int
) -> None:
    tokenizer, model = tokenizer_of(folders[family], family), model_of(folders[family])
    translator = models.torch_translator(model, tokenizer)
    search, sources = Search(beams=4, length_penalty=1.3, max_target_length=limit), tokenizer.source_ids(ENGLISH)
    own = [best[0] for best in translator.translate(sources, search)]
    assert translator.score(sources, own, search) == pytest.approx([one.score for one in own], abs=1e-5)
    without_scores = [replace(one, score=math.nan) for one in own]
    assert translator.score(sources[::-1], without_scores[::-1], search) == pytest.approx(
        [one.score for one in own[::-1]], abs=1e-5
    )


def test_other_translations_are_as_good_if_the_model_gives_them_no_lower_score(folders: dict[str, Path]) -> None:
    tokenizer, model = tokenizer_of(folders["marian"], "marian"), model_of(folders["marian"])
    translator = models.torch_translator(model, tokenizer)
    sources = tokenizer.source_ids(ENGLISH)
    rows = [np.array(source) for source in sources]
    encoded = Encoded({"input_ids": (np.concatenate(rows), 0)}, np.cumsum([0, *map(len, rows)]), 0, [])
    wide, narrow = (Search(beams=beams, keep=beams, max_target_length=8) for beams in (4, 1))
    best = translator.translate(sources, wide)
    others = [hypotheses[1:] for hypotheses in best]  # the second best ones
    assert loops.as_good(translator, encoded, best, best, wide) == [True] * len(sources)
    assert loops.as_good(translator, encoded, best, others, wide) == [False] * len(sources)
    claims = [[replace(one[0], score=1.0)] for one in others]  # the score that counts is the model's
    assert loops.as_good(translator, encoded, best, claims, wide) == [False] * len(sources)
    assert loops.as_good(translator, encoded, others, best, narrow) == [True] * len(sources)


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_translates_like_transformers(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    tokenizer, model = tokenizer_of(folders[family], family), model_of(folders[family])
    form = formats.find_translation("onnx")
    form.write(model, tokenizer, tmp_path)
    assert form.load is not None
    search, sources = Search(beams=1, max_target_length=8), tokenizer.source_ids(ENGLISH)
    ours, theirs = models.torch_translator(model, tokenizer).translate(sources, search), form.load(tmp_path)
    assert_equal(ours, theirs.translate(sources, search), 1e-4)
    assert_equal(ours, [theirs.translate([source], search)[0] for source in sources], 1e-4)


def test_an_opset_that_cannot_be_written_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer, model = tokenizer_of(folders["marian"], "marian"), model_of(folders["marian"])
    with pytest.raises(ConfigError, match="`opset` 99 cannot be written") as raised:
        formats.find_translation("onnx").write(model, tokenizer, tmp_path, opset=99)
    assert raised.value.key == ("opset",)


def test_onnx_has_no_beam_search(folders: dict[str, Path], tmp_path: Path) -> None:
    tokenizer, model = tokenizer_of(folders["marian"], "marian"), model_of(folders["marian"])
    form = formats.find_translation("onnx")
    form.write(model, tokenizer, tmp_path)
    assert form.load is not None and not form.beams
    with pytest.raises(InputError, match="no beam search"):
        form.load(tmp_path).translate(tokenizer.source_ids(ENGLISH), Search(beams=2))


def assert_equal(ours: list[list[Hypothesis]], theirs: list[list[Hypothesis]], tolerance: float = 0.02) -> None:
    """CTranslate2 leaves the padding token out of the softmax, and random models give it a probability."""
    assert [best[0].ids for best in ours] == [best[0].ids for best in theirs]
    assert [best[0].finished for best in ours] == [best[0].finished for best in theirs]
    assert [one.score for best in ours for one in best] == pytest.approx(
        [one.score for best in theirs for one in best], abs=tolerance
    )


@pytest.mark.parametrize("family", MOST_ARE_SLOW)
def test_the_longest_translations_that_are_allowed_fill_all_positions(family: str, tmp_path: Path) -> None:
    positions = 24
    folder = write_family(
        tmp_path / "model", family, **({} if "t5" in family else {"max_position_embeddings": positions})
    )
    tokenizer, model = tokenizer_of(folder, family), model_of(folder)
    config, source = model.config.to_dict(), f"'{family}'"
    longest = positions - len(tokenizer.prefix)
    allowed = Data(max_seq_length=positions, max_target_length=longest)
    models.check_positions(source, config, tokenizer, allowed)
    longer = allowed.model_copy(update={"max_target_length": longest + 1})
    if "t5" in family:
        models.check_positions(source, config, tokenizer, longer)  # relative positions have no limit
    else:
        with pytest.raises(ConfigError, match=f"`max_target_length` is {longest + 1}") as raised:
            models.check_positions(source, config, tokenizer, longer)
        assert raised.value.hint == f"at most {longest}"
    sources, ours = tokenizer.source_ids(ENGLISH, positions), models.torch_translator(model, tokenizer)
    exports = [("ctranslate2", formats.write_ctranslate2), ("onnx", formats.find_translation("onnx").write)]
    for name, write in exports:
        (tmp_path / name).mkdir()
        write(model, tokenizer, tmp_path / name)
        load = formats.find_translation(name).load
        assert load is not None
        for beams in (1, 4) if name == "ctranslate2" else (1,):
            search = Search(beams=beams, keep=beams, max_length_factor=9.0, max_target_length=longest)
            own = ours.translate(sources, search)
            assert max(len(best[0].ids) for best in own) == longest
            assert_equal(own, load(tmp_path / name).translate(sources, search))
            best = [hypotheses[0] for hypotheses in own]
            assert ours.score(sources, best, search) == pytest.approx([one.score for one in best], abs=1e-5)


@pytest.mark.parametrize(("family", "target"), [("bart", 63), ("mbart", 64), ("nllb", 63), ("t5", 512)])
@pytest.mark.parametrize("recorded", [None, [40, 64]])  # an older version accepted 64 for BART
def test_predict_translates_only_as_far_as_there_are_positions(
    family: str, target: int, recorded: list[int] | None, tmp_path: Path
) -> None:
    folder = write_family(tmp_path / "model", family)
    languages = list(languages_of(family).values()) or None
    models.rewrite_config(folder, {tasks.MAX_LENGTHS: recorded, tasks.LANGUAGES: languages})
    predictor = load_translation_predictor(str(folder))
    assert predictor.max_lengths == (tuple(recorded) if recorded else (512 if family == "t5" else 64, target))
    texts = [f"{text} {text}" for text in ENGLISH]  # some hypotheses of their beam search reach the limit
    assert len(list(predictor.predict(texts))) == len(texts)


@pytest.mark.parametrize("change", ["a padding row that is not zero", "a padding token that is not the last"])
def test_any_marian_is_converted_right(folders: dict[str, Path], change: str, tmp_path: Path) -> None:
    tokenizer, model = tokenizer_of(folders["marian"], "marian"), model_of(folders["marian"])
    weight = model.get_input_embeddings().weight
    if change.startswith("a padding row"):
        with torch.no_grad():
            weight[tokenizer.padding] = 0.5
    else:
        size = len(weight)
        model.resize_token_embeddings(size + 3)
        assert model.config.vocab_size == size + 3
    formats.write_ctranslate2(model, tokenizer, tmp_path)
    search, sources = Search(beams=4, max_target_length=8), tokenizer.source_ids(ENGLISH)
    ours = models.torch_translator(model, tokenizer).translate(sources, search)
    assert_equal(ours, formats.Ctranslate2Translator(tmp_path).translate(sources, search))


def test_a_padding_row_that_is_not_zero_is_made_zero_and_stays_so(folders: dict[str, Path]) -> None:
    model, padding = model_of(folders["marian"]), tokenizer_of(folders["marian"], "marian").padding
    weight = model.get_input_embeddings().weight
    assert not models.zero_padding_row(model)
    with torch.no_grad():
        weight[padding] = 0.5
    assert models.zero_padding_row(model) and not weight[padding].any()
    _, examples = encoded_pairs(folders["marian"], "marian")
    loops.forward(model, examples.__getitems__([0, 1]))["logits"].square().mean().backward()
    assert weight.grad is not None and weight.grad.any() and not weight.grad[padding].any()


@pytest.mark.parametrize("family", MOST_ARE_SLOW)
@pytest.mark.parametrize("beams", [1, 4])
def test_a_translation_does_not_depend_on_its_batch(
    folders: dict[str, Path], family: str, beams: int, tmp_path: Path
) -> None:
    tokenizer, model = tokenizer_of(folders[family], family), model_of(folders[family])
    formats.write_ctranslate2(model, tokenizer, tmp_path)
    sources = tokenizer.source_ids(["A dog.", *ENGLISH, "A dog and a cat " * 3])
    search = Search(beams=beams, keep=beams, length_penalty=1.3, max_length_factor=0.5, max_target_length=40)
    limits = [search.limit(len(source)) for source in sources]
    assert min(limits) < max(limits)
    for translator in (models.torch_translator(model, tokenizer), formats.Ctranslate2Translator(tmp_path)):
        together = translator.translate(sources, search)
        alone = [translator.translate([source], search)[0] for source in sources]
        assert [[one.ids for one in best] for best in together] == [[one.ids for one in best] for best in alone]
        assert_equal(together, alone, 1e-3)
        for best, limit in zip(together, limits, strict=True):
            assert all(len(one.ids) + one.finished <= limit for one in best)
            assert all(one.finished or len(one.ids) == limit for one in best)


def test_only_full_batches_are_timed() -> None:
    sizes: list[int] = []

    class Counting:
        def translate(self, sources: list[list[int]], search: Search) -> list[list[Hypothesis]]:
            sizes.append(len(sources))
            return [[Hypothesis((1, 2), 0.0, True)] for _ in sources]

    rows = [np.arange(3 + index % 2) for index in range(5)]
    encoded = Encoded({"input_ids": (np.concatenate(rows), 0)}, np.cumsum([0, *map(len, rows)]), 0, [])
    _, tokens = loops.translation_seconds({"one": Counting()}, {"one": encoded}, Search(beams=1), 4, 8)
    assert set(sizes) == {4} and len(sizes) == 2 * 4 and tokens == {"one": 8 * 3}


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mbart", "mbart50", "nllb", "m2m100"])
@pytest.mark.parametrize("key", ["source_language", "target_language"])
def test_a_missing_or_unknown_language_is_an_error_with_codes(folders: dict[str, Path], family: str, key: str) -> None:
    load = partial(models.load_translation_tokenizer, models.locate(str(folders[family])))
    codes = languages_of(family)
    with pytest.raises(ConfigError, match="is not set") as raised:
        load(**{**codes, key: None})
    assert raised.value.key == ("data", key)
    with pytest.raises(ConfigError, match="has no language 'eng_Ltn'") as raised:
        load(**{**codes, key: "eng_Ltn"})
    assert raised.value.key == ("data", key)
    assert ("eng_Latn" if family == "nllb" else "en") in str(raised.value.hint)


@pytest.mark.parametrize("family", ["marian", "t5", "bart"])
def test_a_language_for_a_model_without_languages_is_an_error(folders: dict[str, Path], family: str) -> None:
    with pytest.raises(ConfigError, match="has no effect") as raised:
        models.load_translation_tokenizer(models.locate(str(folders[family])), target_language="de")
    assert raised.value.key == ("data", "target_language")


def test_m2m100_with_another_padding_id_is_not_converted(tmp_path: Path) -> None:
    folder = write_family(tmp_path / "model", "m2m100")
    tokenizer, model = tokenizer_of(folder, "m2m100"), model_of(folder)
    model.config.pad_token_id = 2
    with pytest.raises(InputError, match="padding id 1"):
        formats.write_ctranslate2(model, tokenizer, tmp_path)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_an_error(tmp_path: Path) -> None:
    folder = write_family(tmp_path / "model", "marian")
    (folder / "vocab.json").write_text((folder / "vocab.json").read_text()[:-1] + ', "more": 5000}')
    with pytest.raises(InputError, match="does not match the model"):
        tokenizer_of(folder, "marian")


@pytest.mark.parametrize(("size", "reason"), [(40, "different characters"), (5000, "different subwords")])
def test_a_vocabulary_that_the_text_cannot_have_is_an_error(size: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        models.train_joint_tokenizer([*ENGLISH, *GERMAN], size)
    assert raised.value.key == ("vocabulary_size",)
    wanted = int(str(raised.value.hint).split()[1])
    assert models.train_joint_tokenizer([*ENGLISH, *GERMAN], wanted).size == wanted


def test_a_joint_vocabulary_is_deterministic_and_ends_with_padding() -> None:
    first, second = (models.train_joint_tokenizer([*ENGLISH, *GERMAN], 120) for _ in range(2))
    assert first.files == second.files and first.size == 120
    assert first.padding == first.start == 119 and first.texts(first.target_ids(GERMAN)) == GERMAN
