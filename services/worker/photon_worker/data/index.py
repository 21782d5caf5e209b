"""``index.json`` of a prepared folder: what its files hold, so that opening it needs no guess.

It names no time and no place, and floats only as they were given: the same input and settings give the same bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

INDEX: Final = "index.json"

Count = Annotated[int, Field(ge=0)]
# Left out of index.json where there is none, so that plain input gives the index that it always gave.
Rare = Annotated[int, Field(ge=0, exclude_if=lambda count: count == 0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _unset(value: Any) -> bool:
    return value is None


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
    """What did not get in, in documents (``not_text``, ``unread``, ``own_output``: files)."""

    exact_duplicates: Count = 0
    near_duplicates: Count = 0
    near_held_out: Annotated[Count, Field(description="Training documents too like a held-out one.")] = 0
    beyond_max_bytes: Count = 0
    empty: Count = 0
    not_text: Annotated[Count, Field(description="Files that are no text by their content.")] = 0
    bad_records: Annotated[Rare, Field(description="Rows without a text where it is looked for.")] = 0
    invalid_bytes: Annotated[Rare, Field(description="Documents with bytes that are not valid UTF-8.")] = 0
    unread: Annotated[Rare, Field(description="Files that are no text by their name, and links that lead nowhere.")] = 0
    own_output: Annotated[Rare, Field(description="Files of prepared data below the input.")] = 0


class Changed(_Record):
    """What got in otherwise than it was."""

    replaced: Annotated[Rare, Field(description="Documents with U+FFFD in place of invalid bytes.")] = 0
    converted: Annotated[Rare, Field(description="Files, or single documents, converted to UTF-8.")] = 0
    json_as_text: Annotated[Rare, Field(description="JSON files read as source: no text in the field.")] = 0


class PreparationSettings(_Record):
    """Everything that decides the bytes of the folder, except for the input and the tokenizer."""

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
    encoding: Annotated[str | None, Field(exclude_if=_unset)] = None
    invalid_bytes: Annotated[Literal["fail", "replace", "skip"] | None, Field(exclude_if=_unset)] = None
    bad_records: Annotated[Literal["fail", "skip"], Field(exclude_if=lambda value: value == "fail")] = "fail"


class Index(_Record):
    """The whole of index.json; the training split is at the top level, the held-out split under its own key."""

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
    changed: Annotated[Changed, Field(exclude_if=lambda changed: changed == Changed())] = Changed()
    first: Annotated[
        dict[str, str],
        Field(
            description="Where the first of each kind in left_out and changed is.", exclude_if=lambda first: not first
        ),
    ] = {}
    sources: Annotated[list[str], Field(description="The inputs as they were given: names only.")]
    settings: PreparationSettings

    @property
    def train(self) -> Split:
        """The training split."""
        return Split(documents=self.documents, tokens=self.tokens, bytes=self.bytes, shards=self.shards)
