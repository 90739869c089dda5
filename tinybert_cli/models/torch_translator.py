"""A translation model of transformers as a `Translator`: `generate` with every setting explicit.

Shapes: B rows, K beams, U target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tinybert_cli.types import Hypothesis, Search, padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tinybert_cli.translation_tokenizer import TranslationTokenizer


@dataclass(frozen=True)
class TorchTranslator:
    """Translates with `generate`; the model's own generation settings have no effect.

    The beam search ends when no open hypothesis can become better than the best ones (`early_stopping=False`). A token
    that training never sees as a target, padding, is never generated.
    """

    model: PreTrainedModel
    start: int
    end: int
    padding: int
    prefix: tuple[int, ...] = ()

    def translate(self, sources: Sequence[Sequence[int]], search: Search) -> list[list[Hypothesis]]:
        device = self.model.device
        values = np.concatenate([np.asarray(source, dtype=np.int64) for source in sources])
        offsets = np.concatenate([[0], np.cumsum([len(source) for source in sources])])
        batch = padded({"input_ids": (values, self.padding)}, offsets, np.arange(len(sources)))
        limits = [search.limit(len(source)) for source in sources]
        begin = torch.tensor([self.start, *self.prefix], device=device).expand(len(sources), -1)
        self.model.eval()
        with torch.no_grad():
            outputs = self.model.generate(
                **{name: torch.from_numpy(values).to(device) for name, values in batch.items()},
                decoder_input_ids=begin,
                generation_config=self._settings(search, max(limits)),
            )
        keep, hypotheses = search.keep, []
        for index, (ids, score) in enumerate(
            zip(outputs.sequences.tolist(), self._scores(outputs, search), strict=True)
        ):
            hypotheses.append(self._hypothesis(ids[1 + len(self.prefix) :], score, limits[index // keep]))
        return [hypotheses[row * keep : (row + 1) * keep] for row in range(len(sources))]

    def _settings(self, search: Search, limit: int) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            num_beams=search.beams,
            num_return_sequences=search.keep,
            early_stopping=False,
            length_penalty=search.length_penalty,
            max_new_tokens=limit,
            do_sample=False,
            decoder_start_token_id=self.start,
            eos_token_id=self.end,
            pad_token_id=self.padding,
            bad_words_ids=[[self.padding]] if self.padding != self.end else None,
            return_dict_in_generate=True,
            output_logits=search.beams == 1,
        )

    def _scores(self, outputs: Any, search: Search) -> list[float]:
        """Of each sequence the log-probability divided by its length, the end token included, to the penalty."""
        if search.beams > 1:
            scores: list[float] = outputs.sequences_scores.tolist()
            return scores
        generated = outputs.sequences[:, -len(outputs.logits) :]  # (B, U)
        log_probabilities = torch.stack(outputs.logits, dim=1).float().log_softmax(-1)
        chosen = log_probabilities.gather(-1, generated[..., None]).squeeze(-1)
        after_end = (generated == self.end).int().cumsum(-1) - (generated == self.end).int() > 0
        lengths = (~after_end).sum(-1)
        greedy: list[float] = (chosen.masked_fill(after_end, 0).sum(-1) / lengths**search.length_penalty).tolist()
        return greedy

    def _hypothesis(self, ids: list[int], score: float, limit: int) -> Hypothesis:
        """The tokens before the end; one that is longer than the limit is cut there, whatever its batch allowed."""
        length = ids.index(self.end) if self.end in ids else len(ids)
        while length and self.end not in ids and ids[length - 1] == self.padding:
            length -= 1
        finished = self.end in ids and length < limit
        return Hypothesis(tuple(ids[: min(length, limit)]), score, finished)


def torch_translator(model: Any, tokenizer: TranslationTokenizer) -> TorchTranslator:
    """The model with the start, end and padding of its tokenizer."""
    return TorchTranslator(model, tokenizer.start, tokenizer.end, tokenizer.padding, tokenizer.prefix)
