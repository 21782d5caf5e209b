"""``index.json`` of a prepared folder: what its files hold, so that opening it needs no guess.

It names no time and no place, and floats only as they were given: the same input and settings give the same bytes.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT: Final = 1
INDEX: Final = "index.json"

Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Record):
    """One file of tokens, little-endian, nothing else in it."""

    name: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{5,}\.bin$")]
    tokens: Count
    sha256: Sha256


class Split(_Record):
    """Documents one after the other, each closed by the end-of-text token. ``bytes`` are those of the UTF-8 text."""

    documents: Count
    tokens: Count
    bytes: Count
    shards: list[Shard]


class Left(_Record):
    """What did not get in, in documents (``not_text``: files)."""

    exact_duplicates: Count = 0
    near_duplicates: Count = 0
    near_held_out: Annotated[Count, Field(description="Training documents too like a held-out one.")] = 0
    beyond_max_bytes: Count = 0
    empty: Count = 0
    not_text: Count = 0


class Settings(_Record):
    """Everything that decides the bytes of the folder, besides the input and the tokenizer."""

    format: Literal["auto", "text", "jsonl", "parquet", "source"] = "auto"
    text_field: str = "text"
    include: list[str] = []
    exclude: list[str] = []
    held_out_fraction: Annotated[float | None, Field(ge=0, lt=1)] = 0.02
    held_out_bytes: Annotated[int | None, Field(ge=1)] = None
    max_bytes: Annotated[int | None, Field(ge=1)] = None
    seed: Annotated[int, Field(ge=0)] = 0
    shard_tokens: Annotated[int, Field(ge=1024)] = 64 * 2**20
    cut_bytes: Annotated[int, Field(ge=0)] = 64 * 2**10
    deduplicate: bool = True
    near_duplicates: Literal["keep", "remove"] = "keep"


class Index(_Record):
    """The whole of index.json; the training split lies at the top, the held-out split under its own key."""

    format: Literal[1] = 1
    dtype: Literal["uint16", "uint32"]
    vocabulary_size: Annotated[int, Field(ge=1)]
    end_of_text: Annotated[int, Field(ge=0, description="Id of the token that closes a document.")]
    tokenizer: Literal["byte", "file"]
    tokenizer_digest: Annotated[Sha256, Field(description="sha256 of tokenizer.json.")]
    documents: Count
    tokens: Count
    bytes: Count
    shards: list[Shard]
    held_out: Split
    left_out: Left = Left()
    sources: Annotated[list[str], Field(description="The inputs as they were given: names only.")]
    settings: Settings

    @property
    def train(self) -> Split:
        """The training split."""
        return Split(documents=self.documents, tokens=self.tokens, bytes=self.bytes, shards=self.shards)
