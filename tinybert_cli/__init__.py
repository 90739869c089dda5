"""Two-stage knowledge distillation for BERT-class models."""

__version__ = "0.2.0"
