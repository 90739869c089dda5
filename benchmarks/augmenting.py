"""Replacement candidates from a masked LM: gen-soft-labels vs. TinyBERT's data_augmentation.py; prints the ratio.

The reference runs one forward pass per word: the input is the sentence with this word masked, paired with the original
sentence; all logits are computed and the vocabulary is sorted. gen-soft-labels runs one batched pass per sentence.
Both get the same words of the same sentences. Drawing the augmented examples is not timed. The weights are random,
because speed depends on the shape only.

    SST2_DATA=path/to/sst2 python benchmarks/augmenting.py [minilm|bert-base] [sentences] [sentences of the reference]
"""

from __future__ import annotations

import sys

import torch
from common import MINILM, alternate, report, seconds, sentences, texts
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tinybert_cli import data, loops, models
from tinybert_cli.data import word_replacement

ROUNDS = 4
TARGET = 50
CANDIDATES = 15
BATCH_SIZE = 16  # few sentences: sorted by length, batches of 128 of 4,096 sentences have as little padding
MINILM_SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
Spans = list[tuple[int, int]]


def main(shape: str = "bert-base", count: str = "128", reference_count: str = "2") -> None:
    source = models.locate(MINILM)
    tokenizer = AutoTokenizer.from_pretrained(models.fetch(source))
    rows = texts(sentences(int(count)))
    replaceable = [replaceable_spans(text) for text in rows]
    settings = BertConfig(vocab_size=len(tokenizer), **(MINILM_SHAPE if shape == "minilm" else {}))
    torch.manual_seed(0)
    reference = BertForMaskedLM(settings).eval().to(loops.device())
    batched = BertForMaskedLM(settings).eval()
    batched.load_state_dict(reference.state_dict())
    lm = models.MaskedLM(batched, tokenizer, source, candidates=CANDIDATES, is_excluded=word_replacement.is_protected)
    lm.to(loops.device())
    precision = loops.precision("auto")
    if precision == "bf16":
        models.to_bf16(lm)
    _, _, selected = lm.encode(rows, replaceable, 128)
    spans = [[replaceable[row][index] for index in indices] for row, indices in enumerate(selected)]
    n_words = sum(map(len, spans))

    def pass_per_word(turn: int) -> float:
        step = len(rows) // int(reference_count)
        sample = range(turn % step, len(rows), step)[: int(reference_count)]  # different in each round, evenly spaced
        words = [(rows[row], span) for row in sample for span in spans[row]]
        seconds_per_word = seconds(lambda: [one_word(reference, tokenizer, *word) for word in words]) / len(words)
        # The sample may have more or fewer words per sentence than all rows: extrapolate by the number of words.
        return len(rows) / (seconds_per_word * n_words)

    def pass_per_sentence(turn: int) -> float:
        return len(rows) / seconds(lambda: all_words(lm, rows, replaceable))

    all_words(lm, rows[:BATCH_SIZE], replaceable[:BATCH_SIZE])  # warm-up
    speeds = alternate({"one pass per word": pass_per_word, "gen-soft-labels": pass_per_sentence}, ROUNDS)
    dtype = "float32" if precision == "no" else precision
    data_size = f"{len(spans):,} sentences with {n_words / len(spans):.1f} words to replace on average"
    title = f"{shape}, {data_size}; {loops.device()}, gen-soft-labels in {dtype}"
    report(title, speeds, "sentences/s", {"gen-soft-labels": TARGET})


def replaceable_spans(text: str) -> Spans:
    words = word_replacement.split_words(text)
    return word_replacement.word_spans(words, word_replacement.replaceable_indices(words))


def one_word(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, text: str, span: tuple[int, int]) -> list[str]:
    masked = text[: span[0]] + tokenizer.mask_token + text[span[1] :]
    batch = tokenizer(masked, text, return_tensors="pt").to(model.device)
    position = int((batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
    with torch.no_grad():
        logits = model(**batch).logits
    best = torch.argsort(logits[0, position], descending=True)[:CANDIDATES].tolist()
    return list(tokenizer.convert_ids_to_tokens(best))


def all_words(lm: models.MaskedLM, rows: list[str], spans: list[Spans]) -> None:
    """As in stages/augmentation.py."""
    tokens, offsets, _ = lm.encode(rows, spans, 128)
    examples = data.Examples(tokens, offsets)
    for _ in loops.predict(lm, examples, data.sorted_batches(examples.lengths, BATCH_SIZE), output="candidates"):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
