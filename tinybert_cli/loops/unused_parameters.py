"""Parameters that receive no gradient: poolers and classifiers that no loss reads."""

from __future__ import annotations

import torch

from tinybert_cli.loops.inference import StepLoss
from tinybert_cli.types import Batch

_LAYER_DROP = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")  # in configs of transformers: a probability


def unused_parameters(model: torch.nn.Module, loss: StepLoss, batch: Batch) -> list[torch.nn.Parameter]:
    """The trainable parameters that the loss does not depend on.

    One forward and one backward pass over a batch on the model's device, without dropout. No gradient is stored; the
    model is in train mode afterwards.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()  # no layer is left out at random
    model.training = True  # the wrapper of a student returns layer outputs in train mode only
    gradients = torch.autograd.grad(loss.total(loss.means(model, batch)), parameters, allow_unused=True)
    model.train()
    return [parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None]


def drops_layers(model: torch.nn.Module) -> bool:
    """Whether the model leaves out layers at random: then each step has other parameters without a gradient."""
    from transformers import PreTrainedModel

    configs = [module.config.to_dict() for module in model.modules() if isinstance(module, PreTrainedModel)]
    return any(config.get(name) for config in configs for name in _LAYER_DROP)
