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
