"""Text in, a prepared folder out: scan, decide, encode, assemble.

Everything under way lies in ``.prepare`` within the output folder. A run that was killed goes on from there and ends
with the same bytes; ``index.json`` is written last, so a folder that has it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import BaseModel, ValidationError

from photon.api.model import TokenizerSpec
from photon_worker.data import inputs as listing
from photon_worker.data.dataset import read_index
from photon_worker.data.errors import DataError
from photon_worker.data.index import INDEX, Index, Left, Settings, Split
from photon_worker.data.pool import Pool, pool
from photon_worker.data.progress import Quiet, Reporter
from photon_worker.data.selection import Decisions, Records, decide
from photon_worker.data.shards import Assembled, assemble
from photon_worker.data.stages import Unit, encode, load_encoded, load_scan, scan
from photon_worker.tokenizer import TextEncoder, tokenizer_files

STATE: Final = ".prepare"


class _Plan(BaseModel):
    """What an unfinished preparation was started with."""

    settings: Settings
    sources: list[str]
    tokenizer_digest: str
    input: str


def prepare(
    sources: Sequence[str],
    output: Path,
    settings: Settings,
    *,
    tokenizer: TokenizerSpec | None = None,
    workers: int | None = None,
    restart: bool = False,
    report: Reporter | None = None,
) -> Index:
    """Prepare ``sources`` (files, folders, s3:// URIs) into the folder ``output``.

    Args:
        workers: Processes; default one for each core. The result does not depend on it.
        restart: Delete what a former preparation left in ``output`` instead of going on or refusing.
        report: Is told how far it is.

    Returns:
        The index that was written.

    Raises:
        DataError: A mistake in what was given; the message says which and what to do.
    """
    report = report or Quiet()
    spec = tokenizer or TokenizerSpec()
    files = tokenizer_files(spec)
    encoder = TextEncoder.from_files(spec.kind, files)
    found = listing.find(sources, settings)
    plan = _Plan(
        settings=settings,
        sources=[_name(source) for source in sources],
        tokenizer_digest=encoder.digest,
        input=listing.fingerprint(found),
    )
    with _claimed(output, plan, restart=restart) as state:
        if (output / INDEX).exists():  # killed after its last step
            return _finish(output, state)
        units = [
            Unit(number=number, pieces=tuple(pieces), settings=settings, state=state)
            for number, pieces in enumerate(listing.units(found, settings))
        ]
        with pool(workers or os.cpu_count() or 1) as processes:
            decisions, parts = _scan(units, processes, report)
            _encode(units, parts, decisions, encoder, processes, report)
        encoded = [load_encoded(unit) for unit in units]
        total = sum(one.train.tokens + one.heldout.tokens for one in encoded)
        shards = assemble(
            units,
            output,
            state,
            dtype=encoder.dtype,
            shard_tokens=settings.shard_tokens,
            on_tokens=report.phase("writing", total),
        )
        train = _split([one.train for one in encoded], shards, "train")
        index = Index(
            dtype="uint16" if encoder.dtype == "uint16" else "uint32",
            vocabulary_size=encoder.vocabulary_size,
            end_of_text=encoder.end_of_text,
            tokenizer="byte" if encoder.kind == "byte" else "file",
            tokenizer_digest=encoder.digest,
            documents=train.documents,
            tokens=train.tokens,
            bytes=train.bytes,
            shards=train.shards,
            held_out=_split([one.heldout for one in encoded], shards, "heldout"),
            left_out=decisions.left_out,
            sources=plan.sources,
            settings=settings,
        )
        for name, content in files.items():  # so that the folder can be read, and inspected, without the job
            (output / name).write_bytes(content)
        _write(output / INDEX, index.model_dump_json(indent=1) + "\n")
        return _finish(output, state)


def _scan(units: Sequence[Unit], processes: Pool, report: Reporter) -> tuple[Decisions, list[int]]:
    """The decisions on all documents, and how many documents each unit has."""
    advance = report.phase("reading", len(units))
    missing = [(unit,) for unit in units if not unit.scanned.exists()]
    advance(len(units) - len(missing))
    for done in processes.run(scan, missing):
        advance(done)
    scans = [load_scan(unit) for unit in units]
    records = Records.join([record for record, _ in scans])
    empty = sum(skipped.empty for _, skipped in scans)
    not_text = sum(skipped.not_text for _, skipped in scans)
    if not len(records.sizes):
        raise DataError(f"the input holds no text: {not_text} files are not UTF-8 text, {empty} documents are empty")
    decisions = decide(records, units[0].settings)
    left = decisions.left_out.model_copy(update={"empty": empty, "not_text": not_text})
    decisions = Decisions(places=decisions.places, limits=decisions.limits, left_out=Left(**left.model_dump()))
    return decisions, [len(record.sizes) for record, _ in scans]


def _encode(
    units: Sequence[Unit],
    parts: Sequence[int],
    decisions: Decisions,
    encoder: TextEncoder,
    processes: Pool,
    report: Reporter,
) -> None:
    advance = report.phase("encoding", len(units))
    missing, first = [], 0
    for unit, count in zip(units, parts, strict=True):
        here = slice(first, first + count)
        first += count
        if not unit.encoded.exists():
            missing.append((unit, decisions.places[here], decisions.limits[here], encoder))
    advance(len(units) - len(missing))
    for done in processes.run(encode, missing):
        advance(done)


def _split(parts: Sequence[BaseModel], shards: Assembled, split: str) -> Split:
    totals = {key: sum(getattr(part, key) for part in parts) for key in ("documents", "tokens", "bytes")}
    return Split(**totals, shards=getattr(shards, split))


@contextmanager
def _claimed(output: Path, plan: _Plan, *, restart: bool) -> Iterator[Path]:
    """The state folder, held by this process alone, with ``plan`` in it.

    A mistake (DataError) deletes the state: it is mended by another input or other settings, which begin anew. Whatever
    else ends the run leaves the state to go on from.
    """
    state = output / STATE
    with _locked(output):
        if restart:
            _clear(output, state)
        _agree(output, state, plan)
        try:
            yield state
        except DataError:
            shutil.rmtree(state, ignore_errors=True)
            raise
        except OSError as error:
            raise DataError(
                f"{output} cannot be written: {error.strerror or error}; mend that and run the same again to go on"
            ) from error


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    try:
        output.mkdir(parents=True, exist_ok=True)
        handle = os.open(output, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise DataError(f"the output folder {output} cannot be made: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another preparation of {output} is running") from error
        yield
    finally:
        os.close(handle)


def _agree(output: Path, state: Path, plan: _Plan) -> None:
    """Check that what lies in ``output`` was begun with the same plan, or begin."""
    path = state / "plan.json"
    if path.exists():
        try:
            former = _Plan.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise DataError(
                f"{output} holds an unfinished preparation by another version: run again with --restart"
            ) from error
        changed = [name for name in _Plan.model_fields if getattr(former, name) != getattr(plan, name)]
        if "settings" in changed:
            changed.remove("settings")
            changed += [n for n in Settings.model_fields if getattr(former.settings, n) != getattr(plan.settings, n)]
        if changed:
            raise DataError(
                f"{output} holds an unfinished preparation with another {', '.join(changed)}: repeat it with the same "
                "to finish it, or start over with --restart"
            )
    elif (output / INDEX).exists():
        raise DataError(f"{output} is prepared already: choose another --output, or start over with --restart")
    else:
        state.mkdir(exist_ok=True)
        _write(path, plan.model_dump_json())


def _clear(output: Path, state: Path) -> None:
    """Delete what preparation makes in ``output``, and nothing else."""
    (output / INDEX).unlink(missing_ok=True)
    for pattern in ("tokens-*.bin", "heldout-*.bin"):
        for path in output.glob(pattern):
            path.unlink()
    if state.exists():
        shutil.rmtree(state)


def _finish(output: Path, state: Path) -> Index:
    shutil.rmtree(state)
    return read_index(output, str(output))[0]


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _name(source: str) -> str:
    """The last part of an input's path: what it is called, not where it lies."""
    return PurePosixPath(source.rstrip("/")).name or hashlib.sha256(source.encode()).hexdigest()[:8]
