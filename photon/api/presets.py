"""Model presets: Hugging Face Llama configs with the shapes of the Photon papers.

Widths, depths and heads are those of arXiv 2411.02908, table 1. The papers' MLP has two matrices with expansion 4; a
Llama MLP has three, so its width is 8/3 of d_model (rounded as usual), which keeps the parameter count and the FLOPs.
Embeddings are tied, as in the papers. ``llama-1m`` and ``llama-10m`` are byte-level, for laptops and tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final


def _llama(hidden: int, layers: int, heads: int, mlp: int, vocabulary: int, positions: int = 2048) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": mlp,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.02,
    }


# The byte tokenizer needs 256 + 3 entries; 320 is the next multiple of 64.
PRESETS: Final[dict[str, dict[str, Any]]] = {
    "llama-1m": _llama(128, 4, 4, 352, 320),
    "llama-10m": _llama(320, 8, 5, 864, 320),
    "llama-125m": _llama(768, 12, 12, 2048, 50368),
    "llama-350m": _llama(1024, 24, 16, 2736, 50368),
    "llama-1b": _llama(2048, 24, 16, 5504, 50368),
    "llama-3b": _llama(2560, 32, 20, 6912, 50368),
    "llama-7b": _llama(4096, 32, 32, 11008, 50368),
}


# Names of one thing in the configs of different architectures.
_HIDDEN: Final = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers")
_MLP: Final = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def most_parameters_of(config: Mapping[str, Any]) -> int | None:
    """About how many parameters a decoder-only model of this Hugging Face config may have: rather too many.

    None where the config says too little: the rest are defaults that only transformers knows.
    """
    hidden, layers, vocabulary = (_number(config, names) for names in (_HIDDEN, _LAYERS, ("vocab_size",)))
    if hidden is None or layers is None or vocabulary is None:
        return None
    heads, width = _number(config, ("num_attention_heads",)), _number(config, ("head_dim",))
    attention = 4 * hidden * max(hidden, (heads or 0) * (width or 0))
    # Three matrices where the MLP is gated; of a mixture all experts, and one that every token goes to.
    mlp = 3 * hidden * (_number(config, _MLP) or 4 * hidden)
    experts = _number(config, _EXPERTS)
    expert = 3 * hidden * (_number(config, ("moe_intermediate_size",)) or 0) or mlp
    mixture = (experts or 0) * expert
    return 2 * vocabulary * hidden + layers * (attention + mlp + mixture)


def _number(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int and 0 < value < 10**9), None)


def parameters_of(config: Mapping[str, Any]) -> int | None:
    """How many parameters a model of this Hugging Face config has; None for what is not a plain Llama."""
    if config.get("model_type") != "llama" or config.get("attention_bias") or config.get("mlp_bias"):
        return None
    try:
        hidden, layers, mlp = (int(config[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
        vocabulary, heads = int(config["vocab_size"]), int(config["num_attention_heads"])
        width = int(config.get("head_dim") or hidden // heads)
        values = int(config.get("num_key_value_heads") or heads)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    attention = 2 * hidden * width * (heads + values)
    layer = attention + 3 * hidden * mlp + 2 * hidden
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return embeddings + layers * layer + hidden
