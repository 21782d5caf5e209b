"""``spec.model``: what is trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import Field, model_validator

from photon.api.base import ApiModel, CelRule, Location
from photon.api.presets import PRESETS

# Of the byte tokenizer: 256 bytes and three special tokens.
BYTE_TOKENS: Final = 259
LARGEST_VOCABULARY_RATIO: Final = 2


class Preset(StrEnum):
    """Named shapes; see photon/api/presets.py."""

    LLAMA_1M = "llama-1m"
    LLAMA_10M = "llama-10m"
    LLAMA_125M = "llama-125m"
    LLAMA_350M = "llama-350m"
    LLAMA_1B = "llama-1b"
    LLAMA_3B = "llama-3b"
    LLAMA_7B = "llama-7b"


class TokenizerSpec(ApiModel):
    """The tokenizer: every participant must have prepared its data with this one (its digest is compared)."""

    kind: Annotated[
        str,
        Field(
            pattern="^(byte|file)$",
            max_length=8,
            description="byte: built in, one token per byte. file: a Hugging Face tokenizer.json.",
        ),
    ] = "byte"
    path: Annotated[
        Location | None,
        Field(description="For kind file: path or s3:// URI of a tokenizer.json, or of the folder that contains it."),
    ] = None
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        # has(): the API server also tries rules on a default ({}), before it fills in the defaults within.
        CelRule(
            "(has(self.kind) && self.kind == 'file') == has(self.path)",
            "path is needed with kind 'file', and only then",
        ),
    )

    @model_validator(mode="after")
    def _path_with_file(self) -> Self:
        if (self.kind == "file") != (self.path is not None):
            raise ValueError(TokenizerSpec.__cel_rules__[0].message)
        return self


def unused_entries(entries: int, tokens: int) -> list[str]:
    """A line where a vocabulary of ``entries`` is far too large for a tokenizer of ``tokens``; none where it fits."""
    if entries <= LARGEST_VOCABULARY_RATIO * tokens:
        return []
    return [
        f"model: a vocabulary of {entries:,} entries for a tokenizer of {tokens:,} tokens: most embeddings are never "
        "trained; name the tokenizer that belongs to the model in model.tokenizer"
    ]


class InitFrom(ApiModel):
    """Warm start: a Hugging Face checkpoint instead of random weights."""

    uri: Annotated[Location, Field(description="Folder of a Hugging Face checkpoint: a path, or s3://bucket/prefix.")]


class ModelSpec(ApiModel):
    """The model: a preset, or an inline Hugging Face config, or the config of the checkpoint in initFrom."""

    preset: Annotated[Preset | None, Field(description="Name of a Llama configuration.")] = None
    config: Annotated[
        dict[str, Any] | None,
        Field(description="Inline Hugging Face config of a decoder-only model. model_type is required."),
    ] = None
    tokenizer: Annotated[
        TokenizerSpec | None,
        Field(
            description="The tokenizer of the model and of all data. Default: kind byte; with initFrom, that of the"
            " checkpoint."
        ),
    ] = None
    seed: Annotated[
        int,
        Field(ge=0, le=2**31 - 1, description="Seed of the initial weights, of cohort sampling and of the data order."),
    ] = 0
    init_from: Annotated[
        InitFrom | None, Field(description="Start from the weights of a checkpoint instead of random ones.")
    ] = None
    __cel_rules__: ClassVar[tuple[CelRule, ...]] = (
        CelRule(
            "[has(self.preset), has(self.config), has(self.initFrom)].filter(x, x).size() == 1",
            "exactly one of preset, config and initFrom says what the model is",
        ),
    )

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if sum(x is not None for x in (self.preset, self.config, self.init_from)) != 1:
            raise ValueError(ModelSpec.__cel_rules__[0].message)
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs model_type, for example 'llama'")
        return self

    def its_tokenizer(self) -> TokenizerSpec:
        """The tokenizer, also where none is named."""
        if self.tokenizer is not None:
            return self.tokenizer
        return TokenizerSpec(kind="file", path=self.init_from.uri) if self.init_from is not None else TokenizerSpec()

    def hf_config(self) -> dict[str, Any] | None:
        """The Hugging Face config of the model; None when it comes with the checkpoint in initFrom."""
        if self.preset is not None:
            return dict(PRESETS[self.preset.value])
        return self.config
