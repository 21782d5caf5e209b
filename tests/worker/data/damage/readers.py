"""Files of every kind with the documents that are in them, whole and packed: what the tests of damage damage."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.parquet
import zstandard

TEXTS = [f"document {number} of the café: " + f"word{number} " * (number % 7 + 3) for number in range(60)]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
PACKED = [ending for ending in PACK if ending]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text, "n": 1}, ensure_ascii=False) + "\n" for text in texts).encode()


def array(texts: list[str]) -> bytes:
    return json.dumps([{"text": text} for text in texts], indent=1, ensure_ascii=False).encode()


def parquet(texts: list[Any], kind: Any = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array(texts, kind)}), sink, **options)
    return sink.getvalue()


def prose(texts: list[str]) -> bytes:
    return "\n\n".join(texts).encode()


# name -> (file's name, content of TEXTS, the documents that come out)
READERS: dict[str, tuple[str, Callable[[list[str]], bytes], list[str]]] = {
    "text": ("a.txt", prose, ["\n\n".join(TEXTS)]),
    "source": ("a.py", prose, ["\n\n".join(TEXTS)]),
    "jsonl": ("a.jsonl", lines, TEXTS),
    "json lines in .json": ("a.json", lines, TEXTS),
    "json array": ("b.json", array, TEXTS),
    "parquet": ("a.parquet", parquet, TEXTS),
}
