"""The two passes over the input, as functions of one unit that a pool of processes runs: scan, then encode.

Each writes its result into the state folder under a name that appears only when it is whole, so a pass that was killed
goes on with the units that are missing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from photon.files import replacing, write_atomic
from photon_worker.data.documents import documents
from photon_worker.data.findings import Findings, printable
from photon_worker.data.index import PreparationSettings
from photon_worker.data.piece import Piece
from photon_worker.data.selection import HELD_OUT, OUT, TRAIN, Records
from photon_worker.data.similarity import SIGNATURE, signature
from photon_worker.data.text import character_start
from photon_worker.data.tokenizer import TextEncoder
from photon_worker.lifecycle.data_errors import DataError

_BATCH_BYTES = 2**20  # text handed to the tokenizer at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit of the input and where its results go."""

    number: int
    pieces: tuple[Piece, ...]
    settings: PreparationSettings
    state: Path

    @property
    def scanned(self) -> Path:
        return self.state / f"scan-{self.number:06d}.npz"

    @property
    def encoded(self) -> Path:
        return self.state / f"encoded-{self.number:06d}.json"

    @property
    def key(self) -> str:
        """Another one when the documents may be others."""
        settings = self.settings.model_dump_json(include={"format", "text_field", "cut_bytes"})
        pieces = [(p.name, p.kind, p.size_bytes, p.stamp, p.lenient, p.named, p.start, p.stop) for p in self.pieces]
        return hashlib.sha256(f"{settings} {pieces!r}".encode(errors="surrogateescape")).hexdigest()

    @property
    def policy(self) -> str:
        """What becomes of damage."""
        return self.settings.model_dump_json(include={"encoding", "invalid_bytes", "bad_records"})

    def tokens(self, split: str) -> Path:
        return self.state / f"{split}-{self.number:06d}.bin"


class _Scanned(BaseModel):
    """Beside the records of a scan: of what it is, and what was found."""

    key: str
    policy: str
    counts: dict[str, int]
    first: dict[str, str]


class EncodedSplit(BaseModel):
    documents: int = 0
    tokens: int = 0
    bytes: int = 0


class Encoded(BaseModel):
    """What a unit's files of tokens hold."""

    train: EncodedSplit = EncodedSplit()
    heldout: EncodedSplit = EncodedSplit()


def scan(unit: Unit) -> None:
    """Note hash, size and signature of every document of the unit."""
    findings = Findings()
    digests, sizes, signatures = [], [], []
    for text in _documents(unit, findings):
        digests.append(_digest(text))
        sizes.append(len(text))
        signatures.append(signature(text))
    count = len(sizes)
    note = _Scanned(key=unit.key, policy=unit.policy, counts=findings.counts, first=findings.first)
    with replacing(unit.scanned) as file:
        np.savez(
            file,
            digests=np.frombuffer(b"".join(digests), dtype="<u8").reshape(count, 2),
            sizes=np.array(sizes, dtype=np.int64),
            signatures=np.array(signatures, dtype=np.uint32).reshape(count, SIGNATURE),
            note=np.frombuffer(note.model_dump_json().encode(), dtype=np.uint8),
        )


def is_scanned(unit: Unit) -> bool:
    """Whether there is a whole scan of the unit's present content that would be the same under its policies."""
    try:
        with unit.scanned.open("rb") as file, np.load(file) as data:
            note = _Scanned.model_validate_json(data["note"].tobytes())
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # not there, or cut short by a lost machine
        return False
    findings = Findings(counts=note.counts, first=note.first)
    return note.key == unit.key and (note.policy == unit.policy or not findings.depends_on_policy)


def load_scan(unit: Unit) -> tuple[Records, Findings]:
    """What :func:`scan` noted."""
    with np.load(unit.scanned) as data:
        note = _Scanned.model_validate_json(data["note"].tobytes())
        records = Records(digests=data["digests"], sizes=data["sizes"], signatures=data["signatures"])
        return records, Findings(counts=note.counts, first=note.first)


def encode(unit: Unit, places: NDArray[np.uint8], limits: NDArray[np.int64], encoder: TextEncoder) -> None:
    """Write the tokens of the unit's training and held-out documents, each document closed by the end of text."""
    records, _ = load_scan(unit)
    if len(places) != len(records.sizes):
        raise AssertionError("one decision for each document that was scanned")
    done = Encoded()
    with unit.tokens("train").open("wb") as train, unit.tokens("heldout").open("wb") as held_out:
        for place, texts in _batches(unit, records, places, limits):
            split, file = (done.train, train) if place == TRAIN else (done.heldout, held_out)
            end = np.array([encoder.end_of_text], dtype=encoder.dtype)
            for text, tokens in zip(texts, encoder.encode(texts), strict=True):
                for values in (tokens, end):
                    file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
                split.documents += 1
                split.tokens += len(tokens) + 1
                split.bytes += len(text)
    write_atomic(unit.encoded, done.model_dump_json())


def load_encoded(unit: Unit) -> Encoded:
    """What :func:`encode` wrote."""
    return Encoded.model_validate_json(unit.encoded.read_bytes())


def is_encoded(unit: Unit) -> bool:
    """Whether :func:`encode` wrote all of it."""
    try:
        load_encoded(unit)
    except (OSError, ValueError):
        return False
    return True


def window(text: bytes, limit: int, number: int) -> bytes:
    """At most ``limit`` bytes of ``text``, from a line's start that ``number`` chooses."""
    if len(text) <= limit:
        return text
    start = number % (len(text) - limit + 1)
    line = text.rfind(b"\n", max(0, start - 1024), start) + 1
    start = line or character_start(text, start)  # no line begins near: a character then
    return text[start : character_start(text, start + limit)]


def _batches(
    unit: Unit, records: Records, places: NDArray[np.uint8], limits: NDArray[np.int64]
) -> Iterator[tuple[int, list[bytes]]]:
    """The chosen documents in order, in runs of one place and about _BATCH_BYTES."""
    batch: list[bytes] = []
    size, batch_place, number = 0, TRAIN, -1
    for number, text in enumerate(_documents(unit, Findings())):
        if number >= len(places) or _digest(text) != records.digests[number].astype("<u8").tobytes():
            raise _changed(unit)
        place = int(places[number])
        if place == OUT:
            continue
        if place == HELD_OUT:
            text = window(text, int(limits[number]), int(records.digests[number, 1]))
        if batch and (place != batch_place or size > _BATCH_BYTES):
            yield batch_place, batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
        batch_place = place
    if number + 1 != len(places):
        raise _changed(unit)
    if batch:
        yield batch_place, batch


def _documents(unit: Unit, findings: Findings) -> Iterator[bytes]:
    for piece in unit.pieces:
        yield from documents(piece, unit.settings, findings)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()


def _changed(unit: Unit) -> DataError:
    names = ", ".join(printable(os.path.basename(piece.uri)) for piece in unit.pieces[:3])
    return DataError(f"the input changed while it was being prepared (near {names}): run again with --restart")
