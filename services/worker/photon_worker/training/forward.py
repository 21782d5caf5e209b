"""A forward pass in training: logits, and what a mixture of experts adds to the loss so that all experts are used.

Routers collapse without that addition: a few experts get all tokens and the others are never trained. The config says
how much it counts (``router_aux_loss_coef``, as in plain transformers); 0 turns it off. Whether the config also asks
for the routers' outputs (``output_router_logits``) is about who uses the model, and changes nothing here.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn


class Output(NamedTuple):
    """``logits`` [rows, length, vocabulary]; of a mixture of experts also ``balance``, the load-balancing loss of these
    rows (scalar, before its coefficient), and ``penalty``, what of it is added to the loss."""

    logits: torch.Tensor
    balance: torch.Tensor | None = None
    penalty: torch.Tensor | None = None


class Training:
    """Calls a causal language model as training needs it."""

    def __init__(self, module: nn.Module, config: Any) -> None:
        self._coefficient = _coefficient(module, config)
        self._more = {"output_router_logits": True} if self._coefficient else {}

    def __call__(self, call: Any, tokens: torch.Tensor) -> Output:
        """``call``: the module, or what it was compiled to. ``tokens``: ids [rows, length]."""
        output = call(input_ids=tokens, use_cache=False, **self._more)
        balance = getattr(output, "aux_loss", None) if self._coefficient else None
        if balance is None:
            return Output(output.logits)
        return Output(output.logits, balance, self._coefficient * balance)


def _coefficient(module: nn.Module, config: Any) -> float:
    """Of the load-balancing loss; 0 where the model has none."""
    value = getattr(config.get_text_config(), "router_aux_loss_coef", None)
    knows = "output_router_logits" in inspect.signature(module.forward).parameters
    return float(value) if knows and isinstance(value, int | float) and value > 0 else 0.0
