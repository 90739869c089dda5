"""Shapes of published students, from the config.json of their checkpoints. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The four numbers of a BERT-class model."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int


@dataclass(frozen=True)
class TranslationShape:
    """The five numbers of an encoder-decoder model."""

    num_hidden_layers: int  # of the encoder
    num_decoder_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int


PRESETS = {
    "tinybert-4l-312": Shape(4, 312, 12, 1200),  # Jiao et al. 2020, arXiv 1909.10351
    "tinybert-6l-768": Shape(6, 768, 12, 3072),
    "distilbert-6l-768": Shape(6, 768, 12, 3072),  # Sanh et al. 2019, arXiv 1910.01108
    "minilm-6l-384": Shape(6, 384, 12, 1536),  # Wang et al. 2020, arXiv 2002.10957
    "minilm-12l-384": Shape(12, 384, 12, 1536),
    "xtremedistil-6l-256": Shape(6, 256, 8, 1024),  # Mukherjee et al. 2021, arXiv 2106.04563
    "bert-tiny": Shape(2, 128, 2, 512),  # Turc et al. 2019, arXiv 1908.08962, this and the next three
    "bert-mini": Shape(4, 256, 4, 1024),
    "bert-small": Shape(4, 512, 8, 2048),
    "bert-medium": Shape(8, 512, 8, 2048),
}

TRANSLATION_PRESETS = {
    "bergamot-tiny": TranslationShape(6, 2, 256, 8, 1536),  # browsermt/students, README; its decoder is an SSRU
    "bergamot-base": TranslationShape(6, 2, 512, 8, 2048),
    "kasai-12-1": TranslationShape(12, 1, 512, 8, 2048),  # Kasai et al. 2021, arXiv 2006.10369
}
