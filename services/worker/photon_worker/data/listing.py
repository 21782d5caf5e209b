"""The files of the inputs, in the order in which their documents are numbered."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from photon.files import replacing
from photon_worker.data import remote
from photon_worker.data.findings import Findings, printable
from photon_worker.data.index import INDEX, PreparationSettings
from photon_worker.data.names import binary, check_scheme
from photon_worker.lifecycle.data_errors import DataError

STATE: Final = ".prepare"
_SKIPPED_FOLDERS: Final = {"__pycache__", "node_modules"}
_OWN: Final = re.compile(r"index\.json|(tokens|heldout)-[0-9]{5,}\.bin|tokenizer(_config)?\.json")
_SHARD: Final = re.compile(r"tokens-[0-9]{5,}\.bin")
_END: Final = 2**16  # bytes of a file's beginning and of its end that say whether it is the same


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file of the input. ``stamp`` is another one when the content is; ``named``: as an input of its own."""

    uri: str
    relative: str
    size_bytes: int
    stamp: str
    named: bool = False
    spooled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files to read, and what was passed over."""

    found: list[FoundFile] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)


def find(inputs: Sequence[str], settings: PreparationSettings, *, output: Path | None = None) -> Listing:
    """Every file to read.

    Args:
        output: The folder that is being prepared: what preparation makes in it is no input. Standard input is kept in
            its state while it is needed.

    Raises:
        DataError: An input does not exist, cannot be read, or holds no file that the patterns leave.
    """
    listing = Listing()
    for number, given in enumerate(inputs):
        check_scheme(given)
        before = len(listing.found)
        own = listing.findings.of("own_output")
        for one in _files(given, number, settings, output, listing.findings):
            if binary(one.relative) and not one.spooled:
                listing.findings.note("unread", printable(one.relative))
            else:
                listing.found.append(one)
        if len(listing.found) > before:
            continue
        if listing.findings.of("own_output") > own:
            raise DataError(f"the input {printable(given)} is prepared data: name the text that it was made of")
        if listing.findings.of("unread"):
            raise DataError(
                f"the input {printable(given)} has no file to read: {listing.findings.first['unread']} is no text by "
                "its name (unpack archives first)"
            )
        raise DataError(f"the input {printable(given)} has no file to read (after --include and --exclude)")
    return listing


def wanted(relative: str, settings: PreparationSettings) -> bool:
    """Whether the patterns leave a file."""
    if settings.include and not _matches(relative, settings.include):
        return False
    return not _matches(relative, settings.exclude)


def _files(
    given: str, number: int, settings: PreparationSettings, output: Path | None, findings: Findings
) -> Iterator[FoundFile]:
    if remote.is_remote(given):
        yield from _objects(given, settings, findings)
        return
    if given == "-":
        yield _spooled(given, number, output)
        return
    try:
        path = Path(given).expanduser()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError, RuntimeError) as error:
        raise DataError(f"the input {printable(given)} does not exist") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        yield from _tree(path, settings, output, findings)
    elif not stat.S_ISREG(mode):
        yield _spooled(given, number, output)
    elif wanted(path.name, settings):
        yield _local(path, path.name, named=True)


def _objects(given: str, settings: PreparationSettings, findings: Findings) -> Iterator[FoundFile]:
    root = given.rstrip("/")
    objects = remote.list_objects(given)
    if not objects:
        raise DataError(f"the input {given} does not exist")
    prepared = {uri.rpartition("/")[0] for uri, _, _ in objects if _SHARD.fullmatch(uri.rpartition("/")[2])}
    prepared &= {uri.rpartition("/")[0] for uri, _, _ in objects if uri.endswith(f"/{INDEX}")}
    for uri, size, tag in objects:
        relative = uri.removeprefix(root).lstrip("/") or PurePosixPath(uri).name
        folder, _, name = uri.rpartition("/")
        if not name or _hidden(PurePosixPath(relative).parts) or not wanted(relative, settings):
            continue
        if folder in prepared and _OWN.fullmatch(name):
            findings.note("own_output", relative)
        else:
            yield FoundFile(uri=uri, relative=relative, size_bytes=size, stamp=tag, named=uri == root)


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in parts)


def _tree(root: Path, settings: PreparationSettings, output: Path | None, findings: Findings) -> Iterator[FoundFile]:
    def failed(error: OSError) -> None:
        folder = Path(error.filename)
        if not _matches(f"{folder.relative_to(root).as_posix()}/", settings.exclude):
            raise _unreadable(folder, error, "folder") from error

    for folder, folders, names in os.walk(root, onerror=failed):
        here = Path(folder)
        this = output is not None and _same(here, output)
        own = this or (INDEX in names and any(map(_SHARD.fullmatch, names))) or STATE in folders
        for name in sorted(folders):
            if not _hidden([name]) and (here / name).is_symlink():
                findings.note("unread", printable((here / name).relative_to(root).as_posix()) + " (a link to a folder)")
        folders[:] = sorted(f for f in folders if not _hidden([f]))
        for name in sorted(names):
            file = here / name
            relative = file.relative_to(root).as_posix()
            if name.startswith(".") or not wanted(relative, settings):
                continue
            if own and _OWN.fullmatch(name):
                if not this:  # what is there of this preparation depends on when it was interrupted
                    findings.note("own_output", printable(relative))
            elif _regular(file):
                yield _local(file, relative)
            elif file.is_symlink():
                findings.note("unread", printable(relative) + " (a link that leads nowhere)")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # a folder that may be listed and not entered; links in a circle
        if path.is_symlink() and not isinstance(error, PermissionError):
            return False
        raise _unreadable(path, error) from error


def _local(path: Path, relative: str, *, named: bool = False) -> FoundFile:
    if binary(relative):  # is not opened, whatever it is
        return FoundFile(uri=str(path), relative=relative, size_bytes=0, stamp="", named=named)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(file.read(_END), digest_size=16)
            if size > _END:
                file.seek(max(_END, size - _END))
                digest.update(file.read(_END))
    except OSError as error:
        raise _unreadable(path, error) from error
    return FoundFile(
        uri=str(path.absolute()), relative=relative, size_bytes=size, stamp=digest.hexdigest(), named=named
    )


def _spooled(given: str, number: int, output: Path | None) -> FoundFile:
    """A stream, which can be read only once, as a file: everything is read twice."""
    assert output is not None, "streams are kept in the output's state"
    name = "standard input" if given == "-" else given
    if given == "-" and (sys.stdin is None or sys.stdin.closed or sys.stdin.isatty()):
        raise DataError("the input - is standard input, and nothing is piped into it: zstdcat FILE | ... prepare -")
    path = output / STATE / f"stream-{number}"
    with replacing(path) as target:
        try:
            opened = nullcontext(sys.stdin.buffer) if given == "-" else Path(given).open("rb")  # noqa: SIM115
        except OSError as error:
            raise _unreadable(Path(given), error) from error
        with opened as source:
            shutil.copyfileobj(source, target, 2**20)
    with path.open("rb") as file:
        stamp = hashlib.file_digest(file, "sha256").hexdigest()
    return FoundFile(
        uri=str(path.absolute()),
        relative=name,
        size_bytes=path.stat().st_size,
        stamp=stamp,
        named=True,
        spooled=True,
    )


def _unreadable(path: Path, error: OSError, what: str = "input") -> DataError:
    return DataError(
        f"the {what} {printable(str(path))} cannot be read: {error.strerror}: change that, or leave it out by --exclude"
    )


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern fits the path below the input (``*`` also spans folders) or the file's name."""
    name = PurePosixPath(relative).name
    return any(fnmatchcase(path, pattern) for pattern in patterns for path in (relative, f"/{relative}", name))
