"""Local checkpoints: what a killed worker needs to go on in mid-round as if nothing had happened.

A checkpoint is a folder of ``--work-dir``/checkpoints with one safetensors file (weights and AdamW's moments, flat) and
``state.json`` (where in which round, the sums of the metrics, and the digest of the other file). It is written under a
temporary name, synced, and renamed, so a folder with its final name is whole; the digest finds what a disk did to it
later. At most two are kept: the newest of a finished round (the optimizer's state that the next round starts from) and
the newest of all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from photon.protocol.canonical import canonical_json
from photon.protocol.ranges import Count
from photon.protocol.records import Sha256
from photon.store.source import FileSource
from photon.store.tensors import Header, HeaderError, read_header
from photon_worker.lifecycle.errors import WorkerError
from photon_worker.training.model import raw
from photon_worker.training.strategy import VECTORS, Strategy

logger = logging.getLogger(__name__)

TENSORS: Final = "state.safetensors"
STATE: Final = "state.json"
BLOCK_ELEMENTS: Final = 2**22
KEPT: Final = 2


class LocalState(BaseModel):
    """state.json. ``layout``: digest of the names and shapes; ``totals``: sums of the round's metrics so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: Sha256
    participant: str
    round: Count
    plan: Sha256
    local_step: Count
    finished: bool
    optimizer_steps: Count
    totals: dict[str, float]
    layout: Sha256
    sha256: Sha256 = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCheckpoint:
    """A checkpoint on disk, not yet checked against its digest."""

    folder: Path
    state: LocalState


def layout_digest(header: Header) -> str:
    """Digest of the flat layout: a checkpoint of another model is never loaded."""
    names = [[entry.name, *entry.shape] for entry in header.entries]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


class Checkpoints:
    """The checkpoints of one participant's work directory. One process writes it at a time (see main's lock)."""

    def __init__(self, folder: Path, *, job: str, participant: str) -> None:
        self._folder = folder
        self._job = job
        self._participant = participant
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):
            # Of a process that was killed while it wrote.
            shutil.rmtree(left, ignore_errors=True)

    def found(self) -> list[FoundCheckpoint]:
        """Checkpoints of this job and participant, the furthest last."""
        result = []
        for folder in sorted(self._folder.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            try:
                state = LocalState.model_validate_json((folder / STATE).read_bytes())
            except (OSError, ValidationError) as error:
                logger.warning("checkpoint %s cannot be read and is ignored: %s", folder, _first_line(error))
                continue
            if state.job == self._job and state.participant == self._participant:
                result.append(FoundCheckpoint(folder=folder, state=state))
        return sorted(result, key=lambda found: (found.state.round, found.state.local_step, found.state.finished))

    def forget_after(self, round_number: int, plan: str) -> None:
        """Remove what an earlier life of the job left: later rounds, and this round by another plan."""
        for found in self.found():
            state = found.state
            if state.round > round_number or (state.round == round_number and state.plan != plan):
                logger.warning("checkpoint %s is of an earlier life of this job and is removed", found.folder)
                shutil.rmtree(found.folder)

    def forget_through(self, round_number: int) -> None:
        """Remove those of rounds up to this one: a rollback made the job go on without them."""
        for found in self.found():
            if found.state.round <= round_number:
                logger.warning("checkpoint %s is of before a rollback and is removed", found.folder)
                shutil.rmtree(found.folder)

    def load(self, candidates: Iterable[FoundCheckpoint], strategy: Strategy) -> LocalState | None:
        """Load the first of ``candidates`` that is whole into ``strategy``; None when there is none."""
        for found in candidates:
            try:
                _read(found, strategy)
            except (OSError, HeaderError, _Damaged) as error:
                logger.warning("checkpoint %s is damaged and is ignored: %s", found.folder, _first_line(error))
                continue
            return found.state
        return None

    def save(self, state: LocalState, strategy: Strategy, *, check: Callable[[], None] | None = None) -> None:
        """Write a checkpoint and remove those that it makes needless.

        Every process of the participant calls this (reading the vectors is collective); the main one writes.

        Raises:
            WorkerError: It cannot be written; the disk is full, for example.
        """
        name = f"round-{state.round:05d}-{'finished' if state.finished else f'step-{state.local_step:07d}'}"
        temporary = self._folder / f".{name}.tmp"
        try:
            if strategy.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
            sha256 = _write(temporary / TENSORS, strategy, check)
            if strategy.is_main:
                complete = state.model_copy(update={"sha256": sha256})
                _write_synced(temporary / STATE, canonical_json(complete.model_dump(mode="json")))
                final = self._folder / name
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
                _sync_folder(self._folder)
                self._prune(final)
        except OSError as error:
            raise WorkerError(
                f"--work-dir: the checkpoint {temporary} cannot be written: {error.strerror or error}; "
                f"it takes {3 * strategy.header.data_bytes / 1e6:.0f} MB, and up to three are there at a time"
            ) from error
        finally:
            if strategy.is_main:
                shutil.rmtree(temporary, ignore_errors=True)

    def _prune(self, newest: Path) -> None:
        found = self.found()
        finished = [f.folder for f in found if f.state.finished]
        keep = {newest, *finished[-1:]}
        others = [f.folder for f in found if f.folder not in keep]
        for folder in others[: max(0, len(others) - (KEPT - len(keep)))]:
            shutil.rmtree(folder)


class _Damaged(Exception):
    pass


def _header(strategy: Strategy) -> Header:
    elements = strategy.header.elements
    return Header.build(dict.fromkeys(VECTORS, ("F32", (elements,))))


def _write(path: Path, strategy: Strategy, check: Callable[[], None] | None) -> str:
    header = _header(strategy)
    elements = strategy.header.elements
    block = np.empty(min(BLOCK_ELEMENTS, elements), dtype=np.float32)
    digest = hashlib.sha256()
    file = path.open("wb") if strategy.is_main else None
    try:
        if file is not None:
            file.write(header.to_bytes())
            digest.update(header.to_bytes())
        for vector in VECTORS:
            for start in range(0, elements, BLOCK_ELEMENTS):
                if check is not None:
                    check()
                values = block[: min(BLOCK_ELEMENTS, elements - start)]
                strategy.read(vector, start, values)
                if file is not None:
                    data = raw(values)
                    file.write(data)
                    digest.update(data)
        if file is not None:
            file.flush()
            os.fsync(file.fileno())
    finally:
        if file is not None:
            file.close()
    return digest.hexdigest()


def _read(found: FoundCheckpoint, strategy: Strategy) -> None:
    """Check, then load: a damaged file must not leave half of itself in the model."""
    if found.state.layout != layout_digest(strategy.header):
        raise _Damaged("it is of another model")
    path = found.folder / TENSORS
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != found.state.sha256:
            raise _Damaged(f"the sha256 of {TENSORS} is not that of {STATE}")
    source = FileSource(path)
    try:
        header = read_header(source)
        elements = strategy.header.elements
        block = np.empty(min(BLOCK_ELEMENTS, elements), dtype=np.float32)
        strategy.reset_optimizer(steps=found.state.optimizer_steps)
        for entry, vector in zip(header.entries, VECTORS, strict=True):
            for start in range(0, elements, BLOCK_ELEMENTS):
                values = block[: min(BLOCK_ELEMENTS, elements - start)]
                source.read_into(header.data_offset + entry.start + 4 * start, raw(values))
                strategy.write(vector, start, values)
    finally:
        source.close()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
