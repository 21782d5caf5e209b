"""A prepared folder, opened: memory-mapped tokens for training, and held-out text for evaluation.

Everything that can be wrong with it (not there, not prepared, cut short, damaged, another tokenizer) is found here,
before a job has started.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from photon_worker.data import remote, sampler
from photon_worker.data.index import INDEX, Index, Split
from photon_worker.data.names import check_scheme
from photon_worker.lifecycle.data_errors import DataError, MissingError

Tokens = NDArray[Any]  # uint16 or uint32
# Rows in memory while bytes are counted.
_COUNTED_ROWS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStream:
    """Shards as one long array. ``ends[i]`` is the number of tokens up to and including shard i."""

    shards: tuple[Tokens, ...]
    ends: tuple[int, ...]

    @classmethod
    def open(cls, folder: Path, split: Split, dtype: str) -> TokenStream:
        """Map the shards of ``split`` (none for an empty one)."""
        shards = tuple(
            np.memmap(folder / shard.name, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
            for shard in split.shards
            if shard.tokens
        )
        return cls(shards=shards, ends=tuple(accumulate(len(shard) for shard in shards)))

    @property
    def tokens(self) -> int:
        return self.ends[-1] if self.ends else 0

    def read(self, offset: int, out: NDArray[np.int64]) -> None:
        """Fill ``out`` (1-D) with the tokens from ``offset`` on."""
        if offset < 0 or offset + len(out) > self.tokens:
            raise IndexError(f"tokens [{offset}, {offset + len(out)}) are not within {self.tokens}")
        filled = 0
        shard = bisect_right(self.ends, offset)
        while filled < len(out):
            begin = offset + filled - (self.ends[shard - 1] if shard else 0)
            piece = self.shards[shard][begin : begin + len(out) - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            shard += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Held-out text: all of it, or a sample of its windows that represents all of its sources.

    Documents are in the order of preparation, source after source. So a part is not the beginning: it is the first
    windows of a fixed pseudo-random permutation, the same at each evaluation.
    """

    stream: TokenStream
    split: Split
    byte_tokens: bool

    def predicted_tokens(self, sequence_length: int = 1, max_tokens: int | None = None) -> int:
        """Tokens that :meth:`windows` predicts: all but the very first, or whole windows of at most ``max_tokens``."""
        there = max(0, self.stream.tokens - 1)
        if max_tokens is None or max_tokens >= there:
            return there
        return max_tokens // sequence_length * sequence_length or max_tokens

    def text_bytes(self, sequence_length: int = 1, max_tokens: int | None = None) -> int:
        """Bytes of text that the predicted tokens stand for.

        Exact for the byte tokenizer (ends of documents are no text); for others the index's count, in proportion when
        only a part is predicted.
        """
        predicted = self.predicted_tokens(sequence_length, max_tokens)
        if not self.byte_tokens:
            return round(self.split.bytes * predicted / max(1, self.stream.tokens - 1))
        text = 0
        for rows in self.windows(sequence_length, _COUNTED_ROWS, max_tokens):
            text += int(np.count_nonzero(rows[:, 1:] < 256))
        return text

    def windows(
        self, sequence_length: int, batch_size: int, max_tokens: int | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """Windows in batches, in the order of the text: inputs ``[:, :-1]``, targets ``[:, 1:]``, no target twice.

        Yields:
            int64 [rows <= batch_size, sequence_length + 1]; what is left at the end comes as one shorter row
            [1, rest + 1], so nothing is padded.
        """
        places, rest = self._places(sequence_length, max_tokens)
        for first in range(0, len(places), batch_size):
            rows = np.empty((min(batch_size, len(places) - first), sequence_length + 1), dtype=np.int64)
            for row, place in enumerate(places[first : first + batch_size].tolist()):
                self.stream.read(place * sequence_length, rows[row])
            yield rows
        if rest is not None:
            place, length = rest
            last = np.empty((1, length + 1), dtype=np.int64)
            self.stream.read(place * sequence_length, last[0])
            yield last

    def _places(self, sequence_length: int, max_tokens: int | None) -> tuple[NDArray[np.int64], tuple[int, int] | None]:
        """Numbers of the whole windows, ascending, and (number, length) of a shorter one."""
        there = max(0, self.stream.tokens - 1)
        whole, left = divmod(there, sequence_length)
        if max_tokens is None or max_tokens >= there:
            return np.arange(whole, dtype=np.int64), (whole, left) if left else None
        count = max_tokens // sequence_length
        if count and whole:
            return np.sort(sampler.sample(min(count, whole), whole, name="held-out")), None
        place = int(sampler.sample(1, whole, name="held-out")[0]) if whole else 0
        return np.empty(0, dtype=np.int64), (place, max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDataset:
    """An opened folder. ``folder`` is where it is on this machine; ``uri`` is what was asked for."""

    uri: str
    folder: Path
    index: Index
    stream: TokenStream
    held_out: HeldOut

    @classmethod
    def open(
        cls,
        uri: str | Path,
        cache_dir: Path | None = None,
        *,
        tokenizer_digest: str | None = None,
        verify: bool | None = None,
    ) -> TokenDataset:
        """Open a prepared folder: a local path, or s3://bucket/prefix (copied once into ``cache_dir``).

        Args:
            cache_dir: Where copies from S3 are kept, and the record of which folders have been verified.
            tokenizer_digest: The job's tokenizer; another one is an error.
            verify: Read everything and compare sha256. Default: the first time (as noted in ``cache_dir``; without
                one, sizes only).

        Raises:
            DataError: Missing, not prepared, damaged, or prepared with another tokenizer.
        """
        uri = str(uri)
        check_scheme(uri)
        folder = _fetched(uri, cache_dir) if remote.is_remote(uri) else Path(uri)
        index, index_digest = read_index(folder, uri)
        if tokenizer_digest is not None and index.tokenizer_digest != tokenizer_digest:
            raise DataError(
                f"{uri} was prepared with another tokenizer than the job's (sha256 {index.tokenizer_digest[:12]}..., "
                f"the job's is {tokenizer_digest[:12]}...): prepare it again with the tokenizer of spec.model.tokenizer"
            )
        _check_sizes(folder, index, uri)
        note = cache_dir / "verified" / _identity(folder, index_digest) if cache_dir is not None else None
        if verify or (verify is None and note is not None and not note.exists()):
            _check_digests(folder, index, uri)
            if note is not None:
                note.parent.mkdir(parents=True, exist_ok=True)
                note.touch()
        held_out = HeldOut(
            stream=TokenStream.open(folder, index.held_out, index.dtype),
            split=index.held_out,
            byte_tokens=index.tokenizer == "byte",
        )
        stream = TokenStream.open(folder, index.train, index.dtype)
        return cls(uri=uri, folder=folder, index=index, stream=stream, held_out=held_out)

    @property
    def tokens(self) -> int:
        """Training tokens."""
        return self.index.tokens

    def read(self, offset: int, out: NDArray[np.int64]) -> None:
        """Fill ``out`` with training tokens from ``offset`` on."""
        self.stream.read(offset, out)


def read_index(folder: Path, uri: str) -> tuple[Index, str]:
    """The index of a folder and the sha256 of its file.

    Raises:
        DataError: The folder is missing, has no index, or one that this program cannot read.
    """
    if not folder.exists():
        raise MissingError(f"{uri} does not exist")
    path = folder / INDEX
    if not path.is_file():
        if (folder / ".prepare").exists():
            raise DataError(f"the preparation of {uri} was not finished: run the same `photon data prepare` again")
        raise DataError(f"{uri} is not prepared data (it has no {INDEX}): run `photon data prepare` on it first")
    content = path.read_bytes()
    try:
        return Index.model_validate_json(content), hashlib.sha256(content).hexdigest()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its text"
        raise DataError(f"{uri}/{INDEX} cannot be read ({where}: {first['msg']}): prepare the data again") from error


def _check_sizes(folder: Path, index: Index, uri: str) -> None:
    width = np.dtype(index.dtype).itemsize
    for shard in (*index.shards, *index.held_out.shards):
        path = folder / shard.name
        if not path.is_file():
            raise DataError(f"{uri} is incomplete: {shard.name} is missing; prepare the data again")
        if (size := path.stat().st_size) != shard.tokens * width:
            raise DataError(
                f"{uri} is damaged: {shard.name} has {size} bytes instead of {shard.tokens * width}; "
                "prepare the data again"
            )


def _check_digests(folder: Path, index: Index, uri: str) -> None:
    for shard in (*index.shards, *index.held_out.shards):
        with (folder / shard.name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                raise DataError(
                    f"{uri} is damaged: the sha256 of {shard.name} is not that of its index; prepare the data again"
                )


def _identity(folder: Path, index_digest: str) -> str:
    """Name of the note that ``folder``, with exactly these files, was verified."""
    times = [f"{path.name} {path.stat().st_mtime_ns}" for path in sorted(folder.glob("*.bin"))]
    text = "\n".join([str(folder.resolve()), index_digest, *times])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _fetched(uri: str, cache_dir: Path | None) -> Path:
    """The local copy of a prepared folder in S3. Named by the index's digest: new data never meets an old copy."""
    if cache_dir is None:
        raise DataError(f"{uri} needs a cache directory to be copied to")
    bucket, key = remote.split_uri(uri)
    uri = f"s3://{bucket}/{key}"
    try:
        content = remote.read_bytes(f"{uri}/{INDEX}")
    except MissingError as error:
        raise MissingError(
            f"{uri} is not prepared data (it has no {INDEX}): copy a folder that `photon data prepare` made there"
        ) from error
    folder = cache_dir / "data" / hashlib.sha256(content).hexdigest()[:32]
    if (folder / INDEX).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        index = Index.model_validate_json(content)
    except ValidationError as error:
        raise DataError(f"{uri}/{INDEX} cannot be read: prepare the data again") from error
    for shard in (*index.shards, *index.held_out.shards):
        if not (folder / shard.name).is_file():
            remote.fetch(f"{uri}/{shard.name}", folder / shard.name, sha256=shard.sha256)
    remote.fetch(f"{uri}/{INDEX}", folder / INDEX, sha256=hashlib.sha256(content).hexdigest())
    return folder
