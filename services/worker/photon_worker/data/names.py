"""What the names of files and inputs say: how a file is probably read, and which inputs Photon cannot read."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final, Literal

from photon_worker.data.findings import printable
from photon_worker.lifecycle.data_errors import DataError

Kind = Literal["text", "source", "jsonl", "json", "parquet", "unknown"]

COMPRESSED: Final = {".gz", ".zst", ".bz2", ".xz"}
_JSONL: Final = {".jsonl", ".ndjson"}
_PROSE: Final = {".txt", ".text", ".md", ".rst", ".tex", ".log", ""}
# Not worth opening to find that they are no text.
_BINARY: Final = frozenset(
    f".{name}"
    for name in (
        *("7z", "a", "arrow", "bin", "br", "class", "dll", "dylib", "exe", "feather", "gif", "ico", "jar", "jpeg"),
        *("jpg", "lz4", "mo", "mp3", "mp4", "npy", "npz", "o", "pdf", "png", "pt", "pyc", "pyd", "rar"),
        *("safetensors", "so", "tar", "tgz", "ttf", "wasm", "whl", "woff", "woff2", "zip"),
    )
)
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_ADVICE: Final = {
    "hf": "download the data set first (hf download --repo-type dataset NAME --local-dir FOLDER) and name the folder",
    "http": "download it first (curl -LO) and name the file",
    "https": "download it first (curl -LO) and name the file",
    "gs": "Google's storage also speaks S3: set AWS_ENDPOINT_URL=https://storage.googleapis.com and write s3://",
    "gcs": "Google's storage also speaks S3: set AWS_ENDPOINT_URL=https://storage.googleapis.com and write s3://",
    "file": "write the path alone",
    "s3a": "write s3:// instead",
    "s3n": "write s3:// instead",
}


def suffix(name: str) -> str:
    """The extension that says what a file holds: that before .gz, .zst, .bz2 or .xz."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def ending(name: str) -> str:
    """The last extension."""
    return PurePosixPath(name.lower()).suffix


def binary(name: str) -> bool:
    """Whether a file is no text by its name."""
    return suffix(name) in _BINARY or ending(name) in _BINARY


def kind_of(name: str) -> Kind:
    """How a file is read unless its content says otherwise."""
    extension = suffix(name)
    if extension in _JSONL:
        return "jsonl"
    if extension == ".json":
        return "json"
    if extension == ".parquet":
        return "parquet"
    return "text" if extension in _PROSE else "source"


def check_scheme(uri: str) -> None:
    """Refuse what looks like a URI and is not ``s3://``.

    Raises:
        DataError: Says what to do instead.
    """
    found = _SCHEME.match(uri)
    if found is None or uri.startswith("s3://"):
        return
    scheme = found[1]
    known = scheme.lower()
    advice = "write s3:// in lowercase letters" if known == "s3" else _ADVICE.get(known)
    raise DataError(
        f"{printable(uri)}: {scheme}:// cannot be read, only files, folders and s3://"
        + (f"; {advice}" if advice else "; copy the data to a disk first")
    )
