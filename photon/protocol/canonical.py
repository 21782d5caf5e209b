"""Records as bytes: one JSON text for one value, so that a digest names a record."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def canonical_json(value: Any) -> bytes:
    """``value`` (a pydantic model or plain JSON data) as sorted, compact UTF-8 JSON with a final newline.

    Raises:
        ValueError: A float is NaN or infinite: those have no JSON.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """The digest by which everything in Photon is named."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of a record; equals ``sha256sum`` of the object in the bucket."""
    return sha256_hex(canonical_json(value))
