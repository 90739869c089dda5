"""A translation model of transformers as a `Translator`: `generate` with every setting explicit.

Shapes: B rows, K translations of each, T source tokens, U target tokens, V tokens of the vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.types import Array, Hypothesis, Search, padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tinybert_cli.translation_tokenizer import TranslationTokenizer

MOST_LOGITS = 2**26  # numbers, 256 MB, that scoring has in memory at once


@dataclass(frozen=True)
class TorchTranslator:
    """Translates with `generate`; the model's own generation settings have no effect.

    The beam search ends when no open hypothesis can become better than the best ones (`early_stopping=False`). The
    padding token is never generated.
    """

    model: PreTrainedModel
    start: int
    end: int
    padding: int
    prefix: tuple[int, ...] = ()

    def translate(self, sources: Sequence[Sequence[int]], search: Search) -> list[list[Hypothesis]]:
        batch = self._padded(sources)
        mask, limits = batch["attention_mask"], [search.limit(len(source)) for source in sources]
        begin = torch.full((len(sources), 1), self.start, device=self.model.device)
        self.model.eval()
        with torch.no_grad(), _without_settings(self.model):
            states = self.model.get_encoder()(**batch)[0]  # (B, T, H)
            sequences = self.model.generate(
                attention_mask=mask,
                encoder_outputs=_encoder_outputs(states),
                decoder_input_ids=begin,
                generation_config=self._settings(search, max(limits)),
                stopping_criteria=_stop_at(torch.tensor(limits, device=self.model.device) + 1 + len(self.prefix)),
                **({"past_key_values": _cache_of_beams()} if search.beams > 1 else {}),
            )
            keep, first = search.keep, 1 + len(self.prefix)
            targets = [self._target(ids[first:], limits[index // keep]) for index, ids in enumerate(sequences.tolist())]
            scores = self._scores(states, mask, targets, search)
        hypotheses = [
            Hypothesis(tuple(ids), score, finished) for (ids, finished), score in zip(targets, scores, strict=True)
        ]
        return [hypotheses[row * keep : (row + 1) * keep] for row in range(len(sources))]

    def score(
        self, sources: Sequence[Sequence[int]], translations: Sequence[Hypothesis], search: Search
    ) -> list[float]:
        """The scores that `translate` would give the translations, one of each source."""
        batch = self._padded(sources)
        targets = [(list(one.ids), one.finished) for one in translations]
        self.model.eval()
        with torch.no_grad():
            states = self.model.get_encoder()(**batch)[0]  # (B, T, H)
            return self._scores(states, batch["attention_mask"], targets, replace(search, keep=1))

    def settings(self, search: Search) -> Any:
        """With these, `generate` of a model in transformers makes the translations of `translate`.

        It has no `max_length_factor`: only `max_target_length` limits the length.
        """
        own = self._settings(search, search.max_target_length)
        own.update(max_length=1 + own.max_new_tokens, max_new_tokens=None, num_return_sequences=None)
        if search.beams == 1:  # neither of them has an effect then, and transformers refuses to save them
            own.update(early_stopping=None, length_penalty=None)
        return own

    def _settings(self, search: Search, limit: int) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            num_beams=search.beams,
            num_return_sequences=search.keep,
            early_stopping=False,
            length_penalty=search.length_penalty,
            max_length=None,
            max_new_tokens=limit + len(self.prefix),
            forced_bos_token_id=self.prefix[0] if self.prefix else None,  # the language code, or <s> of BART
            do_sample=False,
            decoder_start_token_id=self.start,
            eos_token_id=self.end,
            pad_token_id=self.padding,
            bad_words_ids=[[self.padding]] if self.padding != self.end else None,
        )

    def _target(self, ids: list[int], limit: int) -> tuple[list[int], bool]:
        """The tokens before the end, and whether there is one; what comes after the limit of the row is padding."""
        length = ids.index(self.end) if self.end in ids else len(ids)
        return ids[: min(length, limit)], self.end in ids and length < limit

    def _scores(
        self, states: Tensor, mask: Tensor, targets: list[tuple[list[int], bool]], search: Search
    ) -> list[float]:
        """Of each translation the log-probability divided by its length, the end included, to the penalty."""
        longest = max(len(ids) for ids, _ in targets) + 2 + len(self.prefix)
        step = max(1, MOST_LOGITS // (longest * self.model.get_output_embeddings().weight.shape[0]))
        scores: list[float] = []
        for begin in range(0, len(targets), step):
            rows = [index // search.keep for index in range(begin, min(begin + step, len(targets)))]
            labels = [[*ids, *([self.end] if finished else [])] for ids, finished in targets[begin : begin + step]]
            inputs = self._padded([[self.start, *self.prefix, *label[:-1]] for label in labels])["input_ids"]
            logits = (
                self.model(
                    encoder_outputs=_encoder_outputs(states[rows]),
                    attention_mask=mask[rows],
                    decoder_input_ids=inputs,
                    use_cache=False,
                )
                .logits[:, len(self.prefix) :]
                .float()
            )  # (B, U, V)
            normalizers = logits.logsumexp(-1)
            for row, label in enumerate(labels):
                chosen = torch.tensor(label, dtype=torch.int64, device=logits.device)
                steps = torch.arange(len(label), device=logits.device)
                total = (logits[row, steps, chosen] - normalizers[row, steps]).sum()
                scores.append(float(total) / max(1, len(label)) ** search.length_penalty)
        return scores

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        values: Array = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        batch = padded({"input_ids": (values, self.padding)}, offsets, np.arange(len(rows)))
        return {name: torch.from_numpy(array).to(self.model.device) for name, array in batch.items()}


def torch_translator(model: Any, tokenizer: TranslationTokenizer) -> TorchTranslator:
    """The model with the start, end and padding of its tokenizer."""
    return TorchTranslator(model, tokenizer.start, tokenizer.end, tokenizer.padding, tokenizer.prefix)


def set_generation(model: Any, tokenizer: TranslationTokenizer, search: Search) -> None:
    """`generate` of transformers then translates with this search by default, into the language of the tokenizer."""
    model.generation_config = torch_translator(model, tokenizer).settings(search)


def _encoder_outputs(states: Tensor) -> Any:
    """A new object each time: `generate` repeats the states in it for the beams."""
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=states)


def _stop_at(lengths: Tensor) -> Any:
    """Stops the search of each row at its own length (B,), so that it does not depend on the other rows of its batch.

    The lengths count every decoder token, the start included.
    """
    from transformers import StoppingCriteria, StoppingCriteriaList

    class RowLengths(StoppingCriteria):  # type: ignore[misc]  # transformers has no types here
        def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            return lengths.repeat_interleave(len(input_ids) // len(lengths)) <= input_ids.shape[1]

    return StoppingCriteriaList([RowLengths()])


def _cache_of_beams() -> Any:
    """A cache that leaves keys and values of the source as they are when the beams of a row are reordered.

    All beams of a row have the same source.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    class CacheOfBeams(EncoderDecoderCache):  # type: ignore[misc]  # transformers has no types here
        def reorder_cache(self, beam_idx: Tensor) -> None:
            self.self_attention_cache.reorder_cache(beam_idx)

    return CacheOfBeams(DynamicCache(), DynamicCache())


@contextmanager
def _without_settings(model: PreTrainedModel) -> Iterator[None]:
    """`generate` fills settings that are not given from the model's own."""
    from transformers import GenerationConfig

    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
