"""How much arithmetic a token costs: the numerator of MFU (model FLOP/s utilization, PaLM, arXiv 2204.02311).

Counted from the layout of the weights and the config, so a sharded model need not be looked at.
"""

from __future__ import annotations

import re
from typing import Any, Final

from photon.store.tensors import Header, TensorEntry

# A layer's experts: one tensor of all ([experts, ...]) or a module for each.
_EXPERTS: Final = re.compile(r"(^|\.)experts\.(?P<number>\d+\.)?")
_NUMBER_OF_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_OF_A_TOKEN: Final = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k", "top_k_experts")


def flops_per_token(header: Header, config: Any, *, sequence_length: int) -> float:
    """FLOP of forward and backward: 6 for each active parameter, and 12 L d T for attention.

    Args:
        header: Layout of the model's weights.
        config: Its transformers config.
    """
    text = config.get_text_config()
    attention: float = 12.0 * text.num_hidden_layers * text.hidden_size * sequence_length
    return 6.0 * active_parameters(header, text) + attention


def active_parameters(header: Header, text: Any) -> float:
    """Parameters that a token is multiplied with.

    Of a layer's experts those that a token is sent to. Looking up an embedding is no product: where the head has a
    matrix of its own, that of the embedding does not count.
    """
    share = _share_of_experts(text)
    vocabulary = [entry for entry in header.entries if len(entry.shape) == 2 and entry.shape[0] == text.vocab_size]
    looked_up = sum(entry.elements for entry in vocabulary[1:2])
    return sum(entry.elements * (share if _is_of_an_expert(entry) else 1.0) for entry in header.entries) - looked_up


def _is_of_an_expert(entry: TensorEntry) -> bool:
    return _EXPERTS.search(entry.name) is not None


def _share_of_experts(text: Any) -> float:
    experts, used = _first(text, _NUMBER_OF_EXPERTS), _first(text, _EXPERTS_OF_A_TOKEN)
    return min(1.0, used / experts) if experts and used else 1.0


def _first(text: Any, names: tuple[str, ...]) -> int | None:
    found = (getattr(text, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
