"""A masked language model says which other words could stand in a sentence, of many sentences as of one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_models import make_config, make_tokenizer
from test_vocabulary_trimming import make_tokenizer as make_trained_tokenizer
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tinybert_cli import data, loops, models
from tinybert_cli.data import word_replacement
from tinybert_cli.errors import InputError

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##ly", "##s", "##rd", "3", "7", ".", ",", "'", "!", "don", "t", "a",
    "the", "film", "was", "warm", "witty", "moving", "dull", "slow", "great", "not", "never", "plot", "cast", "rd",
    "电", "影", "好", "看", "不", "很", "##影",
]  # fmt: skip
TEXTS = ["The film was warm, witty, moving.", "Great!", "dull", "the plot was not slow", "7 .", "电影很好看。", ""]
SOURCE = models.Source(folder=None, hub_id=None, revision=None, name="lm")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES: dict[str, tuple[type[PreTrainedModel], Any, str]] = {
    "bert": (BertForMaskedLM, BertConfig(**SIZES), "own"),
    "electra": (ElectraForMaskedLM, ElectraConfig(**SIZES, embedding_size=8), "WordPiece"),
    "distilbert": (DistilBertForMaskedLM, DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32), "WordPiece"),
    "roberta": (RobertaForMaskedLM, RobertaConfig(**SIZES, pad_token_id=1), "BPE"),
    "xlm-roberta": (RobertaForMaskedLM, RobertaConfig(**SIZES, pad_token_id=1), "Unigram"),
}


def tokens_and_model(family: str = "bert") -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    model_class, settings, kind = FAMILIES[family]
    tokens = make_tokenizer(WORDS) if kind == "own" else make_trained_tokenizer(kind)
    settings = copy.deepcopy(settings)
    settings.vocab_size, settings.initializer_range, settings.max_position_embeddings = len(tokens), 0.5, 64
    torch.manual_seed(2)
    model = model_class(settings).eval()
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    return tokens, model


def asker(tokens: PreTrainedTokenizerFast, model: PreTrainedModel, candidates: int = 4) -> models.MaskedLM:
    return models.MaskedLM(model, tokens, SOURCE, candidates=candidates, is_barred=word_replacement.is_protected)


def answers(lm: models.MaskedLM, texts: list[str], *, batch: int = 3, length: int = 64) -> list[dict[str, list[str]]]:
    """For each text the words that were asked about, as they stand there, and what was said of each."""
    split = [word_replacement.split_words(text) for text in texts]
    places = [word_replacement.replaceable_indices(parts) for parts in split]
    spans = [word_replacement.word_spans(parts, at) for parts, at in zip(split, places, strict=True)]
    tokens, offsets, asked = lm.encode(texts, spans, length)
    examples = data.Examples(tokens, offsets)
    order = data.sorted_batches(examples.lengths, batch)
    found: list[dict[str, list[str]]] = [{} for _ in texts]
    for rows, values in loops.predict(lm, examples, order, output="candidates"):
        for row, said in zip(rows, values, strict=True):
            for number, best in zip(asked[row], said, strict=False):
                found[row][split[row][places[row][number]]] = [lm.words[index] for index in best]
    return found


def said_of_one(model: PreTrainedModel, tokens: PreTrainedTokenizerFast, text: str, word: str) -> list[str]:
    """All other words, the likeliest first: one forward of the whole model for this text alone."""
    place = text.index(word)
    encoded = tokens(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoded).logits[0, encoded.char_to_token(place)]
    table = {
        other: piece for other, piece in models.whole_words(tokens).items() if not word_replacement.is_protected(other)
    }
    table.pop(word.lower(), None)
    return sorted(table, key=lambda other: -float(logits[table[other]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_many_sentences_at_once_are_told_what_each_is_told_alone(family: str) -> None:
    tokens, model = tokens_and_model(family)
    whole = copy.deepcopy(model)
    texts = ["the film was warm", "witty", "a dull film was never boring , the film was moving", "warm films"]
    found = answers(asker(tokens, model), texts)
    asked = [(text, word) for text, words in zip(texts, found, strict=True) for word in words]
    assert len(asked) >= (2 if family == "xlm-roberta" else 8)  # the Unigram vocabulary has few words whole
    for text, said in zip(texts, found, strict=True):
        for word, best in said.items():
            if text.count(word) == 1:
                assert len(best) >= 2 and best == said_of_one(whole, tokens, text, word)[: len(best)], (text, word)


def test_the_sentence_decides_what_is_said_of_a_word() -> None:
    warm, cold = answers(asker(*tokens_and_model()), ["the film was warm", "a film was never dull"])
    assert warm["film"] != cold["film"]


def test_no_answer_is_special_inner_a_mark_a_number_a_negation_or_the_word_itself() -> None:
    lm = asker(*tokens_and_model(), candidates=1000)  # as many as there are
    possible = {"the", "film", "was", "warm", "witty", "moving", "dull", "slow", "great", "plot", "cast", "rd", "don"}
    possible |= {"电", "影", "好", "看", "很"}
    for said in answers(lm, TEXTS):
        for word, best in said.items():
            assert sorted(best) == sorted(possible - {word.lower()}), word


def test_guarded_words_marks_numbers_and_words_in_pieces_are_not_asked_about() -> None:
    text = "The Film was not slowly warm, never 7 unknown films. Great 3rd don't"
    (said,) = answers(asker(*tokens_and_model()), [text])
    assert list(said) == ["The", "was", "warm", "Great"]  # Film: a name; slowly, films, 3rd: in pieces; unknown: [UNK]


def test_a_chinese_character_is_a_word() -> None:
    (said,) = answers(asker(*tokens_and_model()), ["电影不好看。"])
    assert list(said) == ["电", "影", "好", "看"]


def test_what_is_cut_off_is_not_asked_about() -> None:
    lm = asker(*tokens_and_model())
    assert list(answers(lm, ["the film was warm"], length=4)[0]) == ["the", "film"]
    assert len(answers(lm, ["film " * 100], length=1000)[0]) == 1  # and the model reads no more than it has places for


def test_several_pieces_for_one_character_are_no_word() -> None:
    lm = asker(*tokens_and_model("roberta"))
    assert [list(said) for said in answers(lm, ["電", "the film"])] == [[], ["the", "film"]]


def test_texts_without_a_word_are_answered_with_nothing() -> None:
    assert answers(asker(*tokens_and_model()), ["7 .", "", "!"]) == [{}, {}, {}]


def test_long_batches_are_answered_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = asker(*tokens_and_model())
    whole = answers(lm, TEXTS, batch=7)
    monkeypatch.setattr("tinybert_cli.models.masked_lm.CHUNK", 2)
    assert answers(lm, TEXTS, batch=7) == whole


def test_a_half_precision_model_answers_too() -> None:
    lm = asker(*tokens_and_model()).to(torch.bfloat16)
    assert [list(said) for said in answers(lm, TEXTS)] == [list(said) for said in answers(lm.float(), TEXTS)]


# Which models can be asked


def saved(model: PreTrainedModel, folder: Path) -> models.Source:
    models.save(model, make_tokenizer(), folder)
    return models.locate(str(folder))


def test_a_masked_language_model_loads_whole_and_tied(tmp_path: Path) -> None:
    model = BertForMaskedLM(make_config()).eval()
    source = saved(model, tmp_path / "lm")
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "lm/model.safetensors")
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(models.load(source, "masked-lm")(ids).logits, model(ids).logits)


def test_a_model_with_both_heads_of_bert_is_one_too(tmp_path: Path) -> None:
    model = BertForPreTraining(make_config()).eval()
    loaded = models.load(saved(model, tmp_path / "lm"), "masked-lm")
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(loaded(ids).logits, model(ids).prediction_logits)


@pytest.mark.parametrize("family", [BertModel, ElectraForPreTraining])
def test_a_model_that_fills_in_no_words_is_refused(family: type[PreTrainedModel], tmp_path: Path) -> None:
    settings = ElectraConfig(vocab_size=12, **SIZES) if family is ElectraForPreTraining else make_config()
    with pytest.raises(InputError, match=f"{family.__name__} model.*no masked-lm head\n.*bert-base-uncased") as caught:
        models.load(saved(family(settings), tmp_path / "lm"), "masked-lm")
    assert caught.value.exit_code == 3


def test_a_head_that_is_only_named_is_refused(tmp_path: Path) -> None:
    source = saved(BertModel(make_config()), tmp_path / "lm")
    file = tmp_path / "lm/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(InputError, match=r"missing: cls\.predictions\.bias"):
        models.load(source, "masked-lm")


def test_a_family_that_is_laid_out_otherwise_is_refused() -> None:
    model = AlbertForMaskedLM(AlbertConfig(vocab_size=len(WORDS), embedding_size=8, **SIZES))
    with pytest.raises(InputError, match="albert models cannot be asked"):
        asker(make_tokenizer(WORDS), model)


def test_the_numbers_of_an_example_are_those_of_its_tokens() -> None:
    lm = asker(*tokens_and_model())
    tokens, offsets, asked = lm.encode(["the film"], [[(0, 3), (4, 8)]], 64)
    assert asked == [[0, 1]] and offsets.tolist() == [0, 4]
    own = [lm.words.index("the"), lm.words.index("film")]
    assert np.array_equal(tokens["own_words"][0], [-1, *own, -1])
