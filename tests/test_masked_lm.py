"""The masked language model proposes replacement candidates, the same for a batch as for a single text."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_models import MODERN
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
    ConvBertConfig,
    ConvBertForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ModernBertConfig,
    ModernBertForMaskedLM,
    MPNetConfig,
    MPNetForMaskedLM,
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
    "mpnet": (MPNetForMaskedLM, MPNetConfig(**SIZES), "WordPiece"),
    "albert": (AlbertForMaskedLM, AlbertConfig(**SIZES, embedding_size=8), "Unigram"),
    "deberta-v2": (DebertaV2ForMaskedLM, DebertaV2Config(**SIZES), "Unigram"),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig(**SIZES, pad_token_id=1, **MODERN), "BPE"),
    "xlm-roberta": (RobertaForMaskedLM, RobertaConfig(**SIZES, pad_token_id=1), "Unigram"),
}


def make_tokenizer_and_model(family: str = "bert") -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    model_class, settings, algorithm = FAMILIES[family]
    tokenizer = make_tokenizer(WORDS) if algorithm == "own" else make_trained_tokenizer(algorithm)
    settings = copy.deepcopy(settings)
    settings.vocab_size, settings.initializer_range, settings.max_position_embeddings = len(tokenizer), 0.5, 64
    torch.manual_seed(2)
    model = model_class(settings).eval()
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    return tokenizer, model


def make_masked_lm(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, candidates: int = 4) -> models.MaskedLM:
    return models.MaskedLM(model, tokenizer, SOURCE, candidates=candidates, is_excluded=word_replacement.is_protected)


def predict_candidates(
    lm: models.MaskedLM, texts: list[str], *, batch_size: int = 3, max_length: int = 64
) -> list[dict[str, list[str]]]:
    """For each text the words that have candidates, as written in the text, and their candidates."""
    units = [word_replacement.split_words(text) for text in texts]
    indices = [word_replacement.replaceable_indices(parts) for parts in units]
    spans = [word_replacement.word_spans(parts, at) for parts, at in zip(units, indices, strict=True)]
    tokens, offsets, span_indices = lm.encode(texts, spans, max_length)
    examples = data.Examples(tokens, offsets)
    batches = data.sorted_batches(examples.lengths, batch_size)
    candidates: list[dict[str, list[str]]] = [{} for _ in texts]
    for rows, outputs in loops.predict(lm, examples, batches, output="candidates"):
        for row, predicted in zip(rows, outputs, strict=True):
            for span, best in zip(span_indices[row], predicted, strict=False):
                candidates[row][units[row][indices[row][span]]] = [lm.words[index] for index in best]
    return candidates


def rank_all_words(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, text: str, word: str) -> list[str]:
    """All other words, the most likely first: one forward pass of the complete model for this text only."""
    encoding = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoding).logits[0, encoding.char_to_token(text.index(word))]
    words = models.whole_words(tokenizer)
    candidates = {other for other in words if not word_replacement.is_protected(other)} - {word.lower()}
    return sorted(candidates, key=lambda other: (-float(logits[words[other]]), words[other]))


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_of_a_batch_equal_those_of_single_texts(family: str) -> None:
    tokenizer, model = make_tokenizer_and_model(family)
    complete_model = copy.deepcopy(model)
    texts = ["the film was warm", "witty", "a dull film was never boring , the film was moving", "warm films"]
    by_text = predict_candidates(make_masked_lm(tokenizer, model), texts)
    # The Unigram vocabulary has few complete words.
    assert sum(map(len, by_text)) >= (2 if FAMILIES[family][2] == "Unigram" else 8)
    for text, candidates in zip(texts, by_text, strict=True):
        for word, best in candidates.items():
            if text.count(word) == 1:
                expected = rank_all_words(complete_model, tokenizer, text, word)[: len(best)]
                assert len(best) >= 2 and best == expected, (text, word)


def test_candidates_depend_on_the_sentence() -> None:
    lm = make_masked_lm(*make_tokenizer_and_model())
    warm, dull = predict_candidates(lm, ["the film was warm", "a film was never dull"])
    assert warm["film"] != dull["film"]


def test_candidates_are_whole_words_other_than_negations_and_the_word() -> None:
    lm = make_masked_lm(*make_tokenizer_and_model(), candidates=1000)  # more than there are words
    possible = {"the", "film", "was", "warm", "witty", "moving", "dull", "slow", "great", "plot", "cast", "rd", "don"}
    possible |= {"电", "影", "好", "看", "很"}
    for candidates in predict_candidates(lm, TEXTS):
        for word, best in candidates.items():
            assert sorted(best) == sorted(possible - {word.lower()}), word


def test_only_replaceable_words_that_are_one_token_have_candidates() -> None:
    text = "The Film was not slowly warm, never 7 unknown films. Great 3rd don't"
    (candidates,) = predict_candidates(make_masked_lm(*make_tokenizer_and_model()), [text])
    # Film is a name; slowly, films and 3rd are several tokens; unknown is [UNK].
    assert list(candidates) == ["The", "was", "warm", "Great"]


def test_chinese_characters_have_candidates() -> None:
    (candidates,) = predict_candidates(make_masked_lm(*make_tokenizer_and_model()), ["电影不好看。"])
    assert list(candidates) == ["电", "影", "好", "看"]


def test_truncated_words_have_no_candidates() -> None:
    lm = make_masked_lm(*make_tokenizer_and_model())
    assert list(predict_candidates(lm, ["the film was warm"], max_length=4)[0]) == ["the", "film"]
    # The number of positions of the model limits the length, too.
    assert len(predict_candidates(lm, ["film " * 100], max_length=1000)[0]) == 1


def test_a_character_of_several_tokens_has_no_candidates() -> None:
    lm = make_masked_lm(*make_tokenizer_and_model("roberta"))
    assert [list(candidates) for candidates in predict_candidates(lm, ["電", "the film"])] == [[], ["the", "film"]]


def test_texts_without_words_have_no_candidates() -> None:
    assert predict_candidates(make_masked_lm(*make_tokenizer_and_model()), ["7 .", "", "!"]) == [{}, {}, {}]


def test_chunked_prediction_gives_the_same_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make_masked_lm(*make_tokenizer_and_model())
    expected = predict_candidates(lm, TEXTS, batch_size=7)
    monkeypatch.setattr("tinybert_cli.models.masked_lm.CHUNK", 2)
    assert predict_candidates(lm, TEXTS, batch_size=7) == expected


def test_half_precision_model_gives_candidates() -> None:
    lm = make_masked_lm(*make_tokenizer_and_model()).to(torch.bfloat16)
    words = [list(candidates) for candidates in predict_candidates(lm, TEXTS)]
    assert words == [list(candidates) for candidates in predict_candidates(lm.float(), TEXTS)]


# Which models can be used


def save_as(model: PreTrainedModel, folder: Path) -> models.Source:
    models.save(model, make_tokenizer(), folder)
    return models.locate(str(folder))


def test_masked_lm_loads_with_tied_embeddings(tmp_path: Path) -> None:
    model = BertForMaskedLM(make_config()).eval()
    source = save_as(model, tmp_path / "lm")
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "lm/model.safetensors")
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(models.load(source, "masked-lm")(ids).logits, model(ids).logits)


def test_bert_with_both_pretraining_heads_loads_as_masked_lm(tmp_path: Path) -> None:
    model = BertForPreTraining(make_config()).eval()
    loaded = models.load(save_as(model, tmp_path / "lm"), "masked-lm")
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(loaded(ids).logits, model(ids).prediction_logits)


@pytest.mark.parametrize("family", [BertModel, ElectraForPreTraining])
def test_model_without_masked_lm_head_is_rejected(family: type[PreTrainedModel], tmp_path: Path) -> None:
    settings = ElectraConfig(vocab_size=12, **SIZES) if family is ElectraForPreTraining else make_config()
    with pytest.raises(InputError, match=f"{family.__name__} model.*no masked-lm head\n.*bert-base-uncased") as caught:
        models.load(save_as(family(settings), tmp_path / "lm"), "masked-lm")
    assert caught.value.exit_code == 3


def test_masked_lm_head_without_weights_is_rejected(tmp_path: Path) -> None:
    source = save_as(BertModel(make_config()), tmp_path / "lm")
    file = tmp_path / "lm/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(InputError, match=r"missing: cls\.predictions\.bias"):
        models.load(source, "masked-lm")


def test_unsupported_family_is_rejected() -> None:
    model = ConvBertForMaskedLM(ConvBertConfig(vocab_size=len(WORDS), embedding_size=16, head_ratio=1, **SIZES))
    with pytest.raises(InputError, match=r"(?s)convbert models cannot propose replacements.*replace words +no"):
        make_masked_lm(make_tokenizer(WORDS), model)


def test_deberta_whose_head_needs_the_embeddings_is_rejected() -> None:
    tokenizer = make_trained_tokenizer("Unigram")
    model = DebertaV2ForMaskedLM(DebertaV2Config(vocab_size=len(tokenizer), legacy=False, **SIZES))
    with pytest.raises(InputError, match="legacy: false"):
        make_masked_lm(tokenizer, model)


def test_encode_gives_word_indices_and_offsets_per_token() -> None:
    lm = make_masked_lm(*make_tokenizer_and_model())
    tokens, offsets, span_indices = lm.encode(["the film"], [[(0, 3), (4, 8)]], 64)
    assert span_indices == [[0, 1]] and offsets.tolist() == [0, 4]
    own = [lm.words.index("the"), lm.words.index("film")]
    assert np.array_equal(tokens["own_words"][0], [-1, *own, -1])
