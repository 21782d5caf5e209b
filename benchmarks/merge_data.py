"""Rounds for ``benchmarks.merge``: Llama shapes, K updates in parts, on disk or in the object store."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from photon.api.presets import PRESETS
from photon.api.training import Codec
from photon.codec import codec_for, part_ranges
from photon.store.objects import ObjectStore
from photon.store.sink import MultipartSink, multipart_stripe_bytes
from photon.store.source import FileSource
from photon.store.tensors import Header

PART_BYTES = 64 * 2**20
CODEC = codec_for(Codec.DENSE_FP32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """``updates`` updates of a preset's model."""

    name: str
    updates: int
    preset: str

    @property
    def header(self) -> Header:
        return Header.for_model(llama_shapes(self.preset))

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return part_ranges(self.header.elements, PART_BYTES)

    @property
    def input_bytes(self) -> int:
        return (self.updates + 1) * self.header.file_bytes

    def participants(self) -> list[str]:
        return [f"p{index:02}" for index in range(self.updates)]


CASES = {
    "8x124m": Case(name="8x124m", updates=8, preset="llama-125m"),
    "4x1.3b": Case(name="4x1.3b", updates=4, preset="llama-1b"),
    "8x10m": Case(name="8x10m", updates=8, preset="llama-10m"),
}


def llama_shapes(preset: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, as transformers' LlamaForCausalLM with tied embeddings has them."""
    config = PRESETS[preset]
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        for projection in "qkvo":
            shapes[f"{name}.self_attn.{projection}_proj.weight"] = (hidden, hidden)
        for projection in ("gate", "up"):
            shapes[f"{name}.mlp.{projection}_proj.weight"] = (mlp, hidden)
        shapes[f"{name}.mlp.down_proj.weight"] = (hidden, mlp)
        shapes[f"{name}.input_layernorm.weight"] = (hidden,)
        shapes[f"{name}.post_attention_layernorm.weight"] = (hidden,)
    return shapes


def model_name() -> str:
    return "model.safetensors"


def part_name(participant: str, index: int) -> str:
    return f"{participant}-{index:05d}.safetensors"


def file_names(case: Case) -> list[str]:
    """All inputs of a case, in the order of their writing."""
    parts = range(len(case.ranges))
    return [model_name()] + [part_name(name, index) for name in case.participants() for index in parts]


def write_files(case: Case, folder: Path) -> str:
    """The model and the updates as files; the sha256 of the model. Values are one random block repeated with another
    factor: random enough to merge, and made at the speed of the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal(PART_BYTES // 4, dtype=np.float32)
    digest = hashlib.sha256()
    with (folder / model_name()).open("wb") as file:
        for piece in (case.header.to_bytes(), *(_values(noise[: stop - start]) for start, stop in case.ranges)):
            digest.update(piece)
            file.write(piece)
    for number, name in enumerate(case.participants()):
        for index, (start, stop) in enumerate(case.ranges):
            values = noise[: stop - start] * np.float32(1e-3 * (1 + number + index / 100))
            (folder / part_name(name, index)).write_bytes(CODEC.encode(values))
    os.sync()
    return digest.hexdigest()


def _values(noise: npt.NDArray[np.float32]) -> memoryview:
    return (noise * np.float32(0.02)).data


def move_to_store(case: Case, folder: Path, store: ObjectStore) -> None:
    """The same files as objects of the same names. Each file goes once it is stored, so the disk holds one of each."""
    for name in file_names(case):
        source = FileSource(folder / name)
        stripe = multipart_stripe_bytes(source.size_bytes)
        buffer = memoryview(bytearray(stripe))
        with MultipartSink(store.multipart(name), source.size_bytes, stripe_bytes=stripe) as sink:
            for index in range(-(-source.size_bytes // stripe)):
                piece = buffer[: min(stripe, source.size_bytes - index * stripe)]
                source.read_into(index * stripe, piece)
                sink.write(index, piece)
            sink.commit()
        source.close()
        (folder / name).unlink()
