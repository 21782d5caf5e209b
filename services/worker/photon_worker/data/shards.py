"""The units' tokens put together into shards of one size, each shard kept once it is whole.

A unit's file is deleted when the last shard that needs it is noted in the state, so preparation needs the room of its
result and little more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import BaseModel

from photon.files import replacing, write_atomic
from photon_worker.data.index import Shard
from photon_worker.data.stages import Unit, load_encoded

PREFIXES: Final = {"train": "tokens", "heldout": "heldout"}
_BLOCK: Final = 8 * 2**20


class Assembled(BaseModel):
    """Shards that are whole, by split: the state that a killed assembly goes on from."""

    train: list[Shard] = []
    heldout: list[Shard] = []


def assemble(
    units: Sequence[Unit],
    folder: Path,
    state: Path,
    *,
    dtype: str,
    shard_tokens: int,
    on_tokens: Callable[[int], None],
) -> Assembled:
    """Write tokens-00000.bin ... and heldout-00000.bin ... into ``folder`` and return their records."""
    note = state / "assembled.json"
    done = Assembled.model_validate_json(note.read_bytes()) if note.exists() else Assembled()
    width = np.dtype(dtype).itemsize
    for split, prefix in PREFIXES.items():
        shards: list[Shard] = getattr(done, split)
        counts = [getattr(load_encoded(unit), split).tokens for unit in units]
        ends = np.cumsum(counts, dtype=np.int64).tolist()
        total = ends[-1] if ends else 0
        on_tokens(sum(shard.tokens for shard in shards))
        while (start := sum(shard.tokens for shard in shards)) < total:
            stop = min(start + shard_tokens, total)
            path = folder / f"{prefix}-{len(shards):05d}.bin"
            digest = hashlib.sha256()
            with replacing(path, folder=state) as out:
                for unit, count, end in zip(units, counts, ends, strict=True):
                    first, last = max(start, end - count), min(stop, end)
                    if first < last:
                        offset, size = (first - end + count) * width, (last - first) * width
                        _copy(unit.tokens(split), offset, size, out.write, digest.update)
            shards.append(Shard(name=path.name, tokens=stop - start, sha256=digest.hexdigest()))
            _save(note, done)
            for unit, end in zip(units, ends, strict=True):
                if end <= stop:
                    unit.tokens(split).unlink(missing_ok=True)
            on_tokens(stop - start)
    return done


def _copy(source: Path, offset: int, size: int, *sinks: Callable[[bytes], object]) -> None:
    """Hand bytes [offset, offset + size) of ``source`` to each of ``sinks``, block by block."""
    with source.open("rb") as file:
        file.seek(offset)
        while size:
            block = file.read(min(size, _BLOCK))
            if not block:
                raise EOFError(f"{source} is shorter than its record says")
            for sink in sinks:
                sink(block)
            size -= len(block)


def _save(note: Path, done: Assembled) -> None:
    write_atomic(note, done.model_dump_json())
