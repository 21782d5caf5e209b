"""A Hugging Face directory from outside, before anything of it is used: what it holds, and whether it can be trained.

Nothing of a checkpoint is run. Its config is read as JSON and refused when it asks for code of its own, its weights are
safetensors whose headers are read here first, so that a damaged file is named instead of ending in a traceback.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from photon.store.source import FileSource
from photon.store.tensors import HeaderError, read_header
from photon_worker.lifecycle.errors import Misconfigured

logger = logging.getLogger(__name__)

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
LFS: Final = b"version https://git-lfs"
MAX_JSON_BYTES: Final = 64 * 2**20
# Long enough for sliding windows and convolutions of a few tokens to show, short enough for any model.
PROBE_TOKENS: Final = 8
# Of the change that another last token makes to its own prediction: what earlier predictions may round by.
CAUSAL_SHARE: Final = 1e-3


def require_config(values: Mapping[str, Any], where: str) -> None:
    """Refuse a config that asks for code: its own (auto_map), or kernels and attention from a hub.

    Raises:
        Misconfigured: With the key.
    """
    if values.get("auto_map"):
        raise Misconfigured(
            f"{where}: auto_map asks for code that comes with the model, and Photon runs none; use an architecture "
            "that transformers has itself"
        )
    for key in ("attn_implementation", "_attn_implementation", "use_kernels", "kernel_config"):
        value = values.get(key)
        if (isinstance(value, str) and "/" in value) or (value and key in ("use_kernels", "kernel_config")):
            raise Misconfigured(f"{where}: {key} names code on a hub, and Photon runs none; remove it")
    if values.get("quantization_config"):
        raise Misconfigured(
            f"{where}: the model is quantized; training needs the weights it was made from (fp32 or bf16)"
        )


def require_folder(folder: Path, field: str) -> None:
    """Check the files of a Hugging Face directory; ``field`` names the setting in messages.

    Raises:
        Misconfigured: The first file that cannot be used, and why.
    """
    config = read_json(folder / CONFIG, field)
    require_config(config, f"{field}: {folder / CONFIG}")
    index = folder / INDEX
    names = sorted({str(name) for name in _weight_map(index, field).values()} if index.is_file() else ())
    if not names:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        pickles = f" ({others[0]} is a pickle, which can run code)" if others else ""
        raise Misconfigured(f"{field}: {folder} has no .safetensors file{pickles}; save the model as safetensors")
    for name in names:
        _require_weights(folder / name, field)


def _require_weights(path: Path, field: str) -> None:
    if not path.is_file():
        raise Misconfigured(f"{field}: {path} is missing, though {INDEX} names it")
    if path.stat().st_size == 0:
        raise Misconfigured(f"{field}: {path} is empty")
    with path.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            raise Misconfigured(f"{field}: {path} is a Git LFS pointer, not the file: run git lfs pull")
    source = FileSource(path)
    try:
        read_header(source)
    except HeaderError as error:
        raise Misconfigured(f"{field}: {path} is damaged or no safetensors file: {error}; copy it again") from error
    finally:
        source.close()


def _weight_map(path: Path, field: str) -> Mapping[str, Any]:
    found = read_json(path, field).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) and "/" not in name for name in found.values()):
        raise Misconfigured(f"{field}: {path}: weight_map must name a file of this folder for each tensor")
    return found


def read_json(path: Path, field: str) -> dict[str, Any]:
    """The JSON object in ``path``. Raises Misconfigured when there is none."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise Misconfigured(f"{field}: {path} is larger than {MAX_JSON_BYTES // 2**20} MiB")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise Misconfigured(f"{field}: {path}: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise Misconfigured(f"{field}: {path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise Misconfigured(f"{field}: {path} must hold a JSON object")
    return values


def require_trainable(model: nn.Module, field: str) -> None:
    """Check a model with its weights: all finite, and no token sees a later one.

    Raises:
        Misconfigured: The first weight that is not finite, or an architecture that is not causal.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise Misconfigured(f"{field}: the model's weights are not finite; the first is in {name}")
    vocabulary = max(2, int(model.config.get_text_config().vocab_size))  # type: ignore[union-attr, operator]
    first = torch.arange(PROBE_TOKENS) % vocabulary
    other = first.clone()
    other[-1] = (int(first[-1]) + 1) % vocabulary
    training = model.training
    model.eval()
    with torch.no_grad():
        # Two calls of one shape, not a batch of two: a batch may round otherwise.
        logits = [model(input_ids=tokens[None], use_cache=False).logits[0] for tokens in (first, other)]
    model.train(training)
    moved = (logits[0] - logits[1]).abs().amax(dim=-1)
    if bool(moved[:-1].max() > CAUSAL_SHARE * moved[-1]):
        raise Misconfigured(
            f"{field}: {type(model).__name__} is not causal: a token's prediction depends on later tokens, so it "
            "cannot be trained to predict the next one"
        )


def say_unexpected(keys: set[str], folder: Path) -> None:
    """Log the tensors of a checkpoint that its model does not have."""
    if keys:
        shown = ", ".join(sorted(keys)[:5]) + (", ..." if len(keys) > 5 else "")
        logger.warning("%s: %d tensors that the model does not have are ignored: %s", folder, len(keys), shown)


def own_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Small files that belong to the checkpoint and stay with the model: chat template, generation settings, and what
    a tokenizer of an earlier transformers keeps beside its tokenizer.json."""
    beside = ("special_tokens_map.json", "added_tokens.json") if (folder / "tokenizer.json").is_file() else ()
    for name in ("chat_template.jinja", "generation_config.json", *beside):
        path = folder / name
        if path.is_file() and path.stat().st_size <= MAX_JSON_BYTES:
            yield name, path.read_bytes()
