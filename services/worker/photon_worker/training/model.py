"""Hugging Face models as Photon sees them: a config, and one flat vector of fp32 weights in ``model.safetensors``.

Any decoder-only architecture of transformers works, because nothing is assumed but ``AutoModelForCausalLM``: the layout
of the flat vector is that of the parameters' names, sorted, each parameter once (a tied ``lm_head`` shares its tensor
with the embedding and is not in the file).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from photon.api.training import InnerOptimizer, WeightDecayOn
from photon.store import keys
from photon.store.source import FileSource, Source
from photon.store.tensors import Header, HeaderError, read_header, require_flat
from photon_worker.lifecycle.errors import Misconfigured, WorkerError
from photon_worker.training import pretrained

Float32 = NDArray[np.float32]

# 16 MiB: large enough for full disk speed, small beside any model.
BLOCK_ELEMENTS = 2**22


def raw(values: Float32) -> memoryview:
    """The bytes of a contiguous array, without a copy; writing to them writes to it."""
    return values.view(np.uint8).data


def config_from(hf_config: Mapping[str, Any], **special_tokens: int | None) -> Any:
    """The transformers config of a job's ``hf_config``; ``special_tokens`` fill what it does not say.

    Raises:
        Misconfigured: transformers does not know the model type or refuses a value.
    """
    from transformers import AutoConfig

    values = {k: v for k, v in special_tokens.items() if v is not None} | dict(hf_config)
    pretrained.require_config(values, "spec.model.config")
    kind = values.pop("model_type")
    try:
        config = AutoConfig.for_model(kind, **values)
    # Each architecture checks its own values, in its own way: whatever it raises is about what the user wrote.
    except Exception as error:
        raise Misconfigured(f"spec.model.config: transformers refuses it: {_one_line(error)}") from error
    require_layers(config)
    return config


def require_layers(config: Any) -> None:
    """Refuse a model without layers, which would train to the end and learn next to nothing."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", 1)
    if not isinstance(layers, int) or layers < 1:
        raise Misconfigured(f"spec.model.config: num_hidden_layers is {layers}: it must be at least 1")


def _one_line(error: Exception) -> str:
    """The text of an error of another library, which may go over many lines."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:397]}..."


def read_config(folder: Path) -> Any:
    """The config of a Hugging Face directory.

    Raises:
        Misconfigured: There is none, or transformers cannot read it.
    """
    from transformers import AutoConfig

    path = folder / pretrained.CONFIG
    try:
        pretrained.require_config(pretrained.read_json(path, "the model"), str(path))
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Misconfigured:
        raise
    # As in config_from.
    except Exception as error:
        raise Misconfigured(f"{folder} is not the directory of a Hugging Face model: {_one_line(error)}") from error


def config_json(config: Any) -> bytes:
    """``config.json`` of a model in fp32, the same for every release of transformers that reads it alike."""
    values = json.loads(config.to_json_string(use_diff=True))
    values.pop("transformers_version", None)
    values.pop("torch_dtype", None)
    values.pop("_name_or_path", None)
    kinds = _auto_model()._model_mapping
    values |= {"architectures": [kinds[type(config)].__name__], "dtype": "float32"}
    return json.dumps(values, indent=2, sort_keys=True).encode() + b"\n"


def _auto_model() -> Any:
    """AutoModelForCausalLM; untyped, and too slow to import at the top."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def build(
    config: Any, *, device: torch.device | str = "cpu", seed: int | None = None, without_weights: bool = False
) -> nn.Module:
    """The model of ``config`` in fp32 on ``device``.

    Args:
        seed: Initial weights as the architecture defines them, drawn from this seed. Without it the weights are
            whatever is in memory, to be loaded.
        without_weights: Parameters have shapes and no memory (torch's meta device); buffers are as they must be.

    Raises:
        Misconfigured: The config is not that of a decoder-only model.
    """
    auto = _auto_model()
    from transformers.initialization import no_init_weights

    try:
        if seed is None:
            with ExitStack() as stack:
                for context in (torch.device(device), no_init_weights()):
                    stack.enter_context(context)
                if without_weights:
                    stack.enter_context(_parameters_without_memory())
                model = auto.from_config(config, dtype=torch.float32)
            # Part of the initialization that was skipped, but it decides which parameters there are.
            model.tie_weights()
        else:
            # The generator of the CPU, whatever the device, and always in the same order of modules.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = auto.from_config(config, dtype=torch.float32).to(device)
    # As in config_from.
    except Exception as error:
        raise Misconfigured(
            f"spec.model: transformers cannot build a causal language model of it: {_one_line(error)}"
        ) from error
    _require_only_parameters(model, "spec.model")
    module: nn.Module = model
    return module


def _require_only_parameters(model: nn.Module, field: str) -> None:
    saved = set(model.state_dict(keep_vars=True)) - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if saved:
        raise Misconfigured(
            f"{field}: {type(model).__name__} keeps state that is not a parameter ({sorted(saved)[0]}); "
            "such a model cannot be averaged"
        )


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Parameters move to the meta device as they are made, so that there is never more than one in memory.

    ``torch.device("meta")`` would take the buffers too, and not every architecture can compute those again.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.data.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def from_checkpoint(folder: Path, *, field: str = "spec.model.initFrom.uri") -> nn.Module:
    """The model of a Hugging Face directory (sharded or not, of any float type) with its weights, in fp32 on the CPU.

    Only safetensors are read, and no code of the checkpoint runs. ``field`` names the setting in messages.

    Raises:
        Misconfigured: A file is damaged, weights are missing or not finite, or the model is no causal language model.
    """
    pretrained.require_folder(folder, field)
    try:
        model, report = _auto_model().from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    # As in config_from.
    except Exception as error:
        raise Misconfigured(f"{field}: {folder} cannot be loaded: {_one_line(error)}") from error
    missing = sorted(set(report["missing_keys"]) & set(parameters(model)))
    if missing:
        raise Misconfigured(f"{field}: {folder} lacks weights of its model, the first is {missing[0]}")
    pretrained.say_unexpected(set(report["unexpected_keys"]), folder)
    _require_only_parameters(model, field)
    module: nn.Module = model
    pretrained.require_trainable(module, field)
    return module


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters in the order of the flat vector: sorted by name, each once."""
    return dict(sorted(model.named_parameters()))


def decay_groups(model: nn.Module, optimizer: InnerOptimizer) -> list[dict[str, Any]]:
    """The parameters as torch's optimizers take them, by their weight decay.

    With ``Matrices`` vectors (norms, biases) and embeddings do not decay; a head that is tied to an embedding is one.
    """
    every = list(parameters(model).values())
    if optimizer.weight_decay_on is not WeightDecayOn.MATRICES:
        return [{"params": every, "weight_decay": optimizer.weight_decay}]
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    kept = [parameter.ndim < 2 or id(parameter) in embeddings for parameter in every]
    decays = [(False, optimizer.weight_decay), (True, 0.0)]
    return [
        {"params": [p for p, is_kept in zip(every, kept, strict=True) if is_kept is which], "weight_decay": decay}
        for which, decay in decays
    ]


def layout(model: nn.Module) -> Header:
    """The header of the model's ``model.safetensors``."""
    return Header.for_model({name: tuple(p.shape) for name, p in parameters(model).items()})


def check_layout(source: Source, expected: Header) -> Header:
    """The header of ``source``, whose tensors must be those of ``expected``.

    Raises:
        WorkerError: They are not; the message names the first that differs.
    """
    try:
        header = require_flat(read_header(source))
    except HeaderError as error:
        raise WorkerError(f"the global model's weights cannot be read: {error}") from error
    found = {entry.name: entry.shape for entry in header.entries}
    wanted = {entry.name: entry.shape for entry in expected.entries}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise WorkerError(
                f"the global model does not fit its config: tensor {name} has shape {found.get(name)} in the file "
                f"and {wanted.get(name)} in the model"
            )
    return header


def weight_blocks(source: Source, expected: Header) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The weights in ``source``, flat: (index of the first, values), a block at a time, in a buffer that is reused.

    Raises:
        WorkerError: They are not those of ``expected``.
    """
    header = check_layout(source, expected)
    block = np.empty(min(BLOCK_ELEMENTS, header.elements), dtype=np.float32)
    for start in range(0, header.elements, BLOCK_ELEMENTS):
        values = block[: min(BLOCK_ELEMENTS, header.elements - start)]
        source.read_into(header.data_offset + 4 * start, raw(values))
        yield start, values


def write_weights(model: nn.Module, path: Path) -> None:
    """Write ``model.safetensors`` (fp32, flat layout), synced to disk. The model must be on the CPU."""
    header = layout(model)
    with path.open("wb") as file:
        file.write(header.to_bytes())
        for parameter in parameters(model).values():
            tensor = parameter.detach().to(torch.float32).contiguous()
            file.write(raw(tensor.reshape(-1).numpy()))
        file.flush()
        os.fsync(file.fileno())


def read_weights(model: nn.Module, folder: Path) -> None:
    """Fill ``model`` (on the CPU) from the ``model.safetensors`` of a folder that Photon wrote."""
    source = FileSource(folder / keys.WEIGHTS)
    try:
        header = check_layout(source, layout(model))
        with torch.no_grad():
            for entry, parameter in zip(header.entries, parameters(model).values(), strict=True):
                values = torch.empty(entry.shape, dtype=torch.float32)
                source.read_into(header.data_offset + entry.start, raw(values.reshape(-1).numpy()))
                parameter.copy_(values)
    finally:
        source.close()
