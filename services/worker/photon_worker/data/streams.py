"""A file's content as a stream: from disk or S3, decompressed by what it is and not by its name.

A compressed file that ends early or is damaged is an error at the place where that shows, never a shorter text.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import zstandard

from photon_worker.data import remote
from photon_worker.data.findings import printable
from photon_worker.data.names import COMPRESSED, ending
from photon_worker.lifecycle.data_errors import DataError

_BLOCK: Final = 1 << 20
_HEAD: Final = 1 << 12
_ZSTD_INPUT: Final = 1 << 13  # decompressed at once: becomes 256 MiB at the very most
_COMPRESSIONS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_LARGEST_WINDOW: Final = 2**31  # what `zstd --long=31` needs; archives of web text are packed so


@contextmanager
def stream(uri: str, start: int = 0, *, label: str | None = None) -> Iterator[BinaryIO]:
    """``uri`` from byte ``start`` on; the whole of it (``start`` 0) is decompressed. Messages call it ``label``.

    Raises:
        DataError: It is gone, may not be read, is damaged or cut short.
    """
    with _explained(uri, label), ExitStack() as opened:
        yield _opened(uri, start, opened)


@contextmanager
def _explained(uri: str, label: str | None = None) -> Iterator[None]:
    try:
        with remote.explained(uri) if remote.is_remote(uri) else nullcontext():
            yield
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, MemoryError) as error:
        raise _unreadable(label or printable(uri), error) from error


def _unreadable(name: str, error: BaseException) -> DataError:
    if isinstance(error, MemoryError):
        return DataError(f"{name} cannot be read: there is not enough memory for it")
    if isinstance(error, PermissionError):
        return DataError(f"{name} cannot be read: {error.strerror}: change that, or leave it out by --exclude")
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{name} cannot be read: {error.strerror}")
    return DataError(f"{name} cannot be read: it is damaged or was cut short ({error}); copy it again")


def _opened(uri: str, start: int, opened: ExitStack) -> BinaryIO:
    raw = _raw(uri, start, opened)
    if start:
        return raw
    head = raw.read(_HEAD)
    raw = joined(head, raw)
    match compression(head):
        case "gzip":
            return cast(BinaryIO, opened.enter_context(gzip.GzipFile(fileobj=raw)))
        case "bzip2":
            return cast(BinaryIO, opened.enter_context(bz2.BZ2File(raw)))
        case "xz":
            return cast(BinaryIO, opened.enter_context(lzma.LZMAFile(raw)))
        case "zstd":
            return cast(BinaryIO, io.BufferedReader(_Frames(raw), _BLOCK))
    if ending(uri) in COMPRESSED and not _is_text(head) and not head.startswith(b"PAR1"):
        raise EOFError("it is empty" if not head else f"it does not begin as a {ending(uri)} file does")
    return raw


def _raw(uri: str, start: int, opened: ExitStack) -> BinaryIO:
    if remote.is_remote(uri):
        bucket, key = remote.split_uri(uri)
        body = remote.client().get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-")["Body"]
        opened.callback(body.close)
        return cast(BinaryIO, io.BufferedReader(cast(Any, body), _BLOCK))
    raw = opened.enter_context(Path(uri).open("rb"))  # noqa: SIM115 - it is one
    raw.seek(start)
    return raw


def peek(uri: str, size: int) -> bytes:
    """The first ``size`` bytes of ``uri`` as they are.

    Raises:
        DataError: As :func:`stream`.
    """
    with _explained(uri), ExitStack() as opened:
        return _raw(uri, 0, opened).read(size)


def compression(head: bytes) -> str | None:
    """How what begins with ``head`` is compressed."""
    if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:  # a frame to pass over, which pzstd puts first
        return "zstd"
    return next((name for magic, name in _COMPRESSIONS if head.startswith(magic)), None)


def joined(head: bytes, rest: BinaryIO) -> BinaryIO:
    """``head`` and then ``rest``, as one stream: puts back what was read to look at it."""
    return cast(BinaryIO, io.BufferedReader(_Joined(head, rest), _BLOCK))


def _is_text(head: bytes) -> bool:
    """Whether ``head`` looks like the beginning of UTF-8 text."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < _HEAD)
    except UnicodeDecodeError:
        return False
    return bool(head) and b"\0" not in head


class _Joined(io.RawIOBase):
    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer)
        data = self._head[: len(target)] if self._head else self._rest.read(len(target))
        self._head = self._head[len(data) :]
        target[: len(data)] = data
        return len(data)


class _Frames(io.RawIOBase):
    """The frames of a zstd file one after the other. The library's own reader takes a cut frame for the end."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if not self._input:
                self._input = self._source.read(_ZSTD_INPUT)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a zstd frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        target = memoryview(buffer)
        size = min(len(target), len(self._output))
        target[:size] = self._output[:size]
        self._output = self._output[size:]
        return size


def converted(source: BinaryIO, encoding: str) -> BinaryIO:
    """``source`` in UTF-8. What is not valid in ``encoding`` becomes bytes that are not valid in UTF-8 either."""
    return cast(BinaryIO, io.BufferedReader(_Converted(source, encoding), _BLOCK))


def _marked(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\udc80", error.end


codecs.register_error("photon-damage", _marked)


class _Converted(io.RawIOBase):
    def __init__(self, source: BinaryIO, encoding: str) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)("photon-damage")
        self._output = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output and not self._ended:
            block = self._source.read(_BLOCK)
            self._ended = not block
            text = self._decoder.decode(block, final=self._ended)
            self._output = memoryview(text.encode("utf-8", "surrogatepass"))
        target = memoryview(buffer)
        size = min(len(target), len(self._output))
        target[:size] = self._output[:size]
        self._output = self._output[size:]
        return size
