"""What is to be read: inputs (files, folders, s3:// prefixes) as a fixed list of units of about the same size.

A unit is what one process reads at a time. The list depends on the input alone, never on the number of processes, so
the prepared bytes do not either.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from photon_worker.data import remote
from photon_worker.data.errors import DataError
from photon_worker.data.index import Settings
from photon_worker.data.parquet import row_group_sizes

Kind = Literal["text", "source", "jsonl", "parquet"]

_JSONL: Final = {".jsonl", ".ndjson"}
_PROSE: Final = {".txt", ".text", ".md", ".rst", ".tex", ".log", ""}
_COMPRESSED: Final = {".gz", ".zst"}
_SKIPPED_FOLDERS: Final = {"__pycache__", "node_modules"}
# Not worth opening to find that they are no text.
_BINARY: Final = frozenset(
    f".{name}"
    for name in (
        *("a", "bin", "bz2", "class", "dll", "dylib", "exe", "gif", "ico", "jar", "jpeg", "jpg", "mo", "mp3", "mp4"),
        *("npy", "npz", "o", "pdf", "png", "pt", "pyc", "pyd", "safetensors", "so", "tar", "ttf", "wasm", "whl"),
        *("woff", "woff2", "xz", "zip"),
    )
)
_SMALLEST_UNIT: Final = 2 * 2**20
_LARGEST_UNIT: Final = 256 * 2**20
_MOST_UNITS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A file, or a range of one: bytes [start, stop) of JSON lines, row groups [start, stop) of Parquet."""

    uri: str
    kind: Kind
    size_bytes: int
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file of the input. ``stamp`` changes when the file does."""

    uri: str
    relative: str
    size_bytes: int
    stamp: str


def suffix(name: str) -> str:
    """The extension that says what a file holds: that before .gz or .zst."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def find(inputs: Sequence[str], settings: Settings) -> list[Found]:
    """Every file to read, in the order in which documents are numbered.

    Raises:
        DataError: An input does not exist, or holds no file that the patterns leave.
    """
    found: list[Found] = []
    for given in inputs:
        here = [one for one in _files(given) if _wanted(one, settings)]
        if not here:
            raise DataError(f"the input {given} has no file to read (after --include and --exclude)")
        found.extend(here)
    return found


def fingerprint(found: Sequence[Found]) -> str:
    """Changes when any file of the input is added, removed or written."""
    lines = "\n".join(f"{one.uri}\t{one.size_bytes}\t{one.stamp}" for one in found)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def units(found: Sequence[Found], settings: Settings) -> list[list[Piece]]:
    """The pieces of each unit, in order."""
    total = sum(one.size_bytes for one in found)
    limit = min(_LARGEST_UNIT, max(_SMALLEST_UNIT, total // _MOST_UNITS))
    result: list[list[Piece]] = [[]]
    size = 0
    for one in found:
        for piece in _pieces(one, kind_of(one.relative, settings), limit):
            if size and size + piece.size_bytes > limit:
                result.append([])
                size = 0
            result[-1].append(piece)
            size += piece.size_bytes
    return result


def kind_of(name: str, settings: Settings) -> Kind:
    """How a file is read."""
    if settings.format != "auto":
        return settings.format
    extension = suffix(name)
    if extension in _JSONL:
        return "jsonl"
    if extension == ".parquet":
        return "parquet"
    return "text" if extension in _PROSE else "source"


def _files(given: str) -> Iterator[Found]:
    if remote.is_remote(given):
        root = given.rstrip("/")
        objects = remote.list_objects(given)
        if not objects:
            raise DataError(f"the input {given} does not exist")
        for uri, size, tag in objects:
            relative = uri.removeprefix(root).lstrip("/") or PurePosixPath(uri).name
            yield Found(uri=uri, relative=relative, size_bytes=size, stamp=tag)
        return
    path = Path(given)
    if path.is_file():
        yield _local(path, path.name)
    elif path.is_dir():
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIPPED_FOLDERS)
            for name in sorted(names):
                file = Path(folder) / name
                if not name.startswith(".") and file.is_file():
                    yield _local(file, file.relative_to(path).as_posix())
    else:
        raise DataError(f"the input {given} does not exist")


def _local(path: Path, relative: str) -> Found:
    status = path.stat()
    return Found(uri=str(path.absolute()), relative=relative, size_bytes=status.st_size, stamp=str(status.st_mtime_ns))


def _wanted(one: Found, settings: Settings) -> bool:
    if suffix(one.relative) in _BINARY:
        return False
    if settings.include and not _matches(one.relative, settings.include):
        return False
    return not _matches(one.relative, settings.exclude)


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits the path below the input (``*`` also spans folders) or the file's name."""
    name = PurePosixPath(relative).name
    return any(fnmatchcase(path, pattern) for pattern in patterns for path in (relative, f"/{relative}", name))


def _pieces(one: Found, kind: Kind, limit: int) -> Iterator[Piece]:
    if kind == "jsonl" and PurePosixPath(one.relative).suffix not in _COMPRESSED:
        for start in range(0, max(1, one.size_bytes), limit):
            stop = min(start + limit, one.size_bytes)
            yield Piece(uri=one.uri, kind=kind, size_bytes=stop - start, start=start, stop=stop)
    elif kind == "parquet" and not remote.is_remote(one.uri):
        first, size = 0, 0
        sizes = row_group_sizes(one.uri)
        for number, group in enumerate(sizes):
            size += group
            if size >= limit or number == len(sizes) - 1:
                yield Piece(uri=one.uri, kind=kind, size_bytes=size, start=first, stop=number + 1)
                first, size = number + 1, 0
    else:
        yield Piece(uri=one.uri, kind=kind, size_bytes=one.size_bytes)
