"""Text in, a prepared folder out: scan, decide, encode, assemble.

Work in progress is in ``.prepare`` within the output folder. A run that was killed goes on from there and ends
with the same bytes; ``index.json`` is written last, so a folder that has it is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from photon.api.model import TokenizerSpec
from photon_worker.data import inputs, listing
from photon_worker.data.dataset import read_index
from photon_worker.data.findings import Findings, describe, printable
from photon_worker.data.index import INDEX, Changed, Index, Left, PreparationSettings, Split
from photon_worker.data.pool import Pool, pool
from photon_worker.data.progress import Quiet, Reporter
from photon_worker.data.reading import check_encoding
from photon_worker.data.selection import HELD_OUT, TRAIN, Decisions, Records, decide
from photon_worker.data.shards import Assembled, assemble
from photon_worker.data.stages import Unit, encode, is_encoded, is_scanned, load_encoded, load_scan, scan
from photon_worker.data.state import PreparationPlan, State, claimed, write
from photon_worker.data.tokenizer import TextEncoder, tokenizer_files
from photon_worker.lifecycle.data_errors import DataError


def prepare(
    sources: Sequence[str],
    output: Path,
    settings: PreparationSettings,
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
    for name in (settings.text_field, *settings.include, *settings.exclude):
        if printable(name) != name:
            raise DataError(f"{printable(name)} is not valid UTF-8: use ? or * in patterns of such names")
    if settings.encoding is not None:
        settings = settings.model_copy(update={"encoding": check_encoding(settings.encoding)})
    spec = tokenizer or TokenizerSpec()
    files = tokenizer_files(spec)
    encoder = TextEncoder.from_files(spec.kind, files)
    for note in encoder.notes:
        report.note(note)
    with claimed(output, restart=restart) as state:
        listed = listing.find(sources, settings, output=output)
        plan = PreparationPlan(
            settings=settings,
            sources=[_name(source) for source in sources],
            tokenizer_digest=encoder.digest,
            input=inputs.fingerprint(listed.found),
        )
        state.agree(plan)
        if (output / INDEX).exists():  # killed after its last step
            return _finish(output, state)
        units = [
            Unit(number=number, pieces=tuple(pieces), settings=settings, state=state.folder)
            for number, pieces in enumerate(inputs.units(listed.found, settings))
        ]
        with pool(workers or os.cpu_count() or 1) as processes:
            decisions, parts, findings = _scan(units, processes, report, listed.findings)
            _encode(units, parts, decisions, encoder, processes, report)
        encoded = [load_encoded(unit) for unit in units]
        total = sum(one.train.tokens + one.heldout.tokens for one in encoded)
        shards = assemble(
            units,
            output,
            state.folder,
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
            changed=Changed(**{name: findings.counts.get(name, 0) for name in Changed.model_fields}),
            first=dict(sorted(findings.first.items())),
            sources=plan.sources,
            settings=settings,
        )
        for name, content in files.items():  # so that the folder can be read, and inspected, without the job
            (output / name).write_bytes(content)
        write(output / INDEX, index.model_dump_json(indent=1) + "\n")
        return _finish(output, state)


def _scan(
    units: Sequence[Unit], processes: Pool, report: Reporter, findings: Findings
) -> tuple[Decisions, list[int], Findings]:
    """The decisions on all documents, how many documents each unit has, and what was found on the way."""
    advance = report.phase("reading", len(units))
    missing = [(unit,) for unit in units if not is_scanned(unit)]
    advance(len(units) - len(missing))
    for done in processes.run(scan, missing):
        advance(done)
    scans = [load_scan(unit) for unit in units]
    for _, found in scans:
        findings.add(found)
    records = Records.join([record for record, _ in scans])
    if not len(records.sizes):
        raise DataError(f"the input holds no text: {describe(findings.counts, findings.first)}")
    decisions = decide(records, units[0].settings)
    counts = decisions.left_out.model_dump()
    counts |= {name: count for name, count in findings.counts.items() if name in Left.model_fields}
    held_out = int((decisions.places == HELD_OUT).sum())
    if not (decisions.places == TRAIN).any():
        raise DataError(
            f"nothing is left to train on: of {len(records.sizes)} documents, {held_out} are held out; left out are "
            f"{describe(counts, findings.first)}; give more text, or another --max-bytes, --held-out-fraction or "
            "--held-out-bytes"
        )
    decisions = Decisions(places=decisions.places, limits=decisions.limits, left_out=Left(**counts))
    return decisions, [len(record.sizes) for record, _ in scans], findings


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
        if not is_encoded(unit):
            missing.append((unit, decisions.places[here], decisions.limits[here], encoder))
    advance(len(units) - len(missing))
    for done in processes.run(encode, missing):
        advance(done)


def _split(parts: Sequence[BaseModel], shards: Assembled, split: str) -> Split:
    totals = {key: sum(getattr(part, key) for part in parts) for key in ("documents", "tokens", "bytes")}
    return Split(**totals, shards=getattr(shards, split))


def _finish(output: Path, state: State) -> Index:
    state.finish()
    return read_index(output, str(output))[0]


def _name(source: str) -> str:
    """The last part of an input's path: its name without its folder."""
    name = printable(PurePosixPath(source.rstrip("/")).name)
    return name or hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()[:8]
