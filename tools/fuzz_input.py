"""Fuzz the input readers and job documents: no traceback, no invented document, no silently lost document.

Each reader gets thousands of damaged files, plain and compressed; its output is compared with that of standard
libraries for the same bytes. Job documents are only loaded: each must be either valid or rejected.

    python -m tools.fuzz_input            # 5,000 mutations per kind; writes runs/bench/fuzz-input.json

Each thousand mutations run in a separate process, so that a crash of a library is counted instead of ending the run.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import random
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import zstandard

from photon.api.document import JobFileError
from photon.api.validate import load_job
from photon_worker.data.documents import documents
from photon_worker.data.findings import Findings
from photon_worker.data.index import PreparationSettings
from photon_worker.data.inputs import units
from photon_worker.data.listing import find
from photon_worker.lifecycle.data_errors import DataError

RESULT = Path("runs/bench/fuzz-input.json")
EXAMPLE = Path(__file__).parent.parent / "examples" / "first.yaml"
_CHUNK = 1000
_TOKENS = (
    *(b"\0", b"\n", b"\r\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\xff", b"\xe9", b"\xef\xbb\xbf"),
    *(b"\xff\xfe", b"\\ud800", b"\\u0000", b"null", b"NaN", b"1e999", b"&a", b"*a", b"<<: ", b"---\n", b"PAR1", b"\t"),
)
_PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@dataclass(slots=True)
class Tally:
    """``lost``: inputs whose documents are missing silently; ``invented``: with documents that are not in them."""

    inputs: int = 0
    refused: int = 0
    tracebacks: int = 0
    lost: int = 0
    invented: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, other: dict[str, Any]) -> None:
        for name in ("inputs", "refused", "tracebacks", "lost", "invented"):
            setattr(self, name, getattr(self, name) + other[name])
        self.examples = (self.examples + other["examples"])[:20]


def _texts(chance: random.Random) -> list[str]:
    words = ["model", "café", "数据", "round", "\n", '"quoted"', "token", "😀"]
    return [f"{n} " + " ".join(chance.choices(words, k=chance.randint(1, 30))) for n in range(chance.randint(2, 12))]


def _parquet(texts: list[str], chance: random.Random) -> bytes:
    sink = io.BytesIO()
    values = pyarrow.array([*texts, None])
    table = pyarrow.table({"text": values.dictionary_encode() if chance.random() < 0.3 else values})
    compression = chance.choice(["none", "snappy", "zstd"])
    pyarrow.parquet.write_table(
        table, sink, compression=compression, write_page_checksum=chance.random() < 0.5, row_group_size=5
    )
    return sink.getvalue()


_MAKE: dict[str, tuple[str, Callable[[list[str], random.Random], bytes]]] = {
    "text": ("a.txt", lambda texts, _: "\n\n".join(texts).encode()),
    "source": ("a.py", lambda texts, _: "\n\n".join(texts).encode()),
    "jsonl": (
        "a.jsonl",
        lambda texts, _: "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts).encode(),
    ),
    "json": ("a.json", lambda texts, _: json.dumps([{"text": t} for t in texts], ensure_ascii=False).encode()),
    "parquet": ("a.parquet", _parquet),
}
KINDS = (*_MAKE, "job")
# Records there, the forms that their texts may have, and how many of them are sound beyond doubt.
Rows = tuple[int, set[bytes], int]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """``content`` with one to four changes: bytes, pieces cut out, doubled or put in, or its end gone."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at:at] = chance.choice(_TOKENS)
            case 2:
                del data[at : at + chance.randint(1, 20)]
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 200)]
            case 4:
                data[at : at + chance.randint(1, 9)] = chance.randbytes(chance.randint(1, 9))
            case 5 if chance.random() < 0.3:
                del data[at:]
    return bytes(data)


def run(kind: str, numbers: range, seed: int) -> Tally:
    """The mutations ``numbers`` of one kind."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="photon-fuzz-") as name:
        for number in numbers:
            chance = random.Random(f"{seed}/{kind}/{number}")
            tally.inputs += 1
            try:
                problem = _job(Path(name), chance, tally) if kind == "job" else _file(kind, Path(name), chance, tally)
            except Exception:
                tally.tracebacks += 1
                problem = traceback.format_exc(limit=-4)
            if problem:
                tally.examples.append(f"{kind} {number}: {problem}")
    return tally


def _job(folder: Path, chance: random.Random, tally: Tally) -> str:
    path = folder / "job.yaml"
    path.write_bytes(mutated(EXAMPLE.read_bytes(), chance))
    try:
        load_job(path)
    except JobFileError:
        tally.refused += 1
    return ""


def _file(kind: str, folder: Path, chance: random.Random, tally: Tally) -> str:
    name, make = _MAKE[kind]
    content, packed = make(_texts(chance), chance), chance.choice(["", "", *_PACK])
    inside = chance.random() < 0.6
    whole = _PACK[packed](mutated(content, chance)) if inside else mutated(_PACK[packed](content), chance)
    path = folder / f"{name}{packed}"
    path.write_bytes(whole)
    settings = PreparationSettings(
        bad_records=chance.choice(["fail", "skip", "skip"]),
        invalid_bytes=chance.choice(["fail", "replace", "skip", "skip"]),
        encoding=chance.choice([None, None, "latin-1", "gbk"]),
        cut_bytes=chance.choice([0, 64, 2**16]),
    )
    findings = Findings()
    try:
        found = find([str(path)], settings).found
        read = [text for unit in units(found, settings) for one in unit for text in documents(one, settings, findings)]
    except DataError as error:
        tally.refused += 1
        return "" if "\n" not in str(error) else _longer(error, tally)
    finally:
        path.unlink()
    plain = _unpacked(whole)
    if plain is None:
        tally.lost += 1
        return f"damage of {packed} was not seen"
    return _compared(kind, read, plain, findings, settings, tally)


def _longer(error: DataError, tally: Tally) -> str:
    tally.tracebacks += 1
    return f"an error of several lines: {error}"


def _unpacked(content: bytes) -> bytes | None:
    """What is compressed in ``content``; None if it is damaged."""
    try:
        if content.startswith(b"\x1f\x8b"):
            return gzip.decompress(content)
        if content.startswith(b"BZh"):
            return bz2.decompress(content)
        if content.startswith(b"\xfd7zXZ\0"):
            return lzma.decompress(content)
        if content.startswith(b"\x28\xb5\x2f\xfd"):
            out = b""
            while content:
                frame = zstandard.ZstdDecompressor().decompressobj()
                out += frame.decompress(content)
                if not frame.eof:
                    return None
                content = frame.unused_data
            return out
    except Exception:  # the library's word that it is damaged
        return None
    return content


def _compared(
    kind: str, read: list[bytes], plain: bytes, findings: Findings, settings: PreparationSettings, tally: Tally
) -> str:
    """What is wrong with the documents that were read out of ``plain``, if anything."""
    left = sum(findings.of(what) for what in ("empty", "bad_records", "invalid_bytes", "not_text"))
    if plain.startswith((b"\xff\xfe", b"\xfe\xff")):
        plain = plain.decode("utf-16", errors="replace").encode()
    if kind in ("text", "source"):
        return _compared_text(read, plain, left, findings, settings, tally)
    rows = _rows_without_text(plain)
    if rows is not None and not read and findings.of("bad_records") == left == max(1, rows):
        return ""
    counts = []
    for records in (_rows_of_parquet, _rows_of_array, _rows_of_lines):
        there = records(plain, settings)
        if there is None:
            continue
        count, texts, sound = there
        strange = [text for text in read if text not in texts]
        if not strange and len(read) + left == count:
            if len(read) >= sound:
                return ""
            tally.lost += 1
            return f"{len(read)} read, though {sound} of {count} are sound: {plain[:200]!r}"
        counts.append((count, len(strange)))
        if records is _rows_of_parquet:
            break
    # Of the ways to see it, the one that explains most of what was read.
    count, strange_ones = min(counts, key=lambda one: one[1], default=(0, len(read)))
    if strange_ones or len(read) + left > count:
        tally.invented += 1
    else:
        tally.lost += 1
    return f"{len(read)} read ({strange_ones} not there), {left} left out, {count} there: {plain[:200]!r}"


def _compared_text(
    read: list[bytes], plain: bytes, left: int, findings: Findings, settings: PreparationSettings, tally: Tally
) -> str:
    """The documents are parts of the text; and if nothing was left out or changed, all of its words in order."""
    texts = [_decoded(plain, encoding) for encoding in ("utf-8-sig", settings.encoding) if encoding]
    whole = texts[0] or ""
    if findings.of("converted"):  # parts of it may be, which no decoding of the whole shows: compare the ASCII in it
        strange = [one for one in read if not any(_ascii(one.decode()) in _ascii(text) for text in texts if text)]
    else:
        strange = [one for one in read if one.decode() not in whole]
        complete = not (left or findings.of("replaced"))
        if complete and not strange and "".join(one.decode() for one in read).split() != whole.split():
            tally.lost += 1
            return f"text is missing: {read[:2]!r} of {plain[:200]!r}"
    if strange:
        tally.invented += 1
        return f"not in the text: {strange[0][:100]!r} of {plain[:200]!r}"
    return ""


def _ascii(text: str) -> str:
    return "".join(character for character in text if character.isascii())


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding, errors="replace").replace("\0", "\ufffd")
    except ValueError:
        return None


def _forms(text: Any, settings: PreparationSettings) -> set[bytes]:
    if not isinstance(text, str):
        return set()
    raw = text.encode("utf-8", "surrogatepass")
    with suppress(UnicodeEncodeError):
        raw = text.encode("utf-8", "surrogateescape")
    forms = {text.encode(errors="replace"), raw, raw.decode(errors="replace").encode()}
    forms.add(raw.decode(errors="replace").replace("\0", "\ufffd").encode())
    if settings.encoding:
        forms.add(raw.decode(settings.encoding, errors="replace").encode(errors="replace"))
    return forms


def _values(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _strict(text: str) -> Any:
    """The value of standard JSON; None for anything else."""
    try:
        return json.loads(text, parse_constant=lambda _: 1 / 0)
    except (ValueError, RecursionError, ZeroDivisionError):
        return None


def _is_sound(row: Any) -> bool:
    """Whether there is no doubt that this row has a text, so that it must be read."""
    text = row.get("text") if isinstance(row, dict) else None
    try:
        return isinstance(text, str) and text.encode().strip() != b""
    except ValueError:
        return False


def _rows_of_lines(plain: bytes, settings: PreparationSettings) -> Rows | None:
    plain = plain.removeprefix(b"\xef\xbb\xbf")
    lines = [line for line in plain.split(b"\n") if line.strip()]
    texts: set[bytes] = set()
    sound = 0
    for line in lines:
        with suppress(ValueError):
            sound += _is_sound(_strict(line.decode()))
        for encoding in ("utf-8", settings.encoding or "utf-8"):
            try:
                row = _values(line.decode(encoding, "surrogateescape").strip().removeprefix("\ufeff"))
            except ValueError:
                continue
            if isinstance(row, dict):
                texts |= _forms(row.get("text"), settings)
    return len(lines), texts, sound


def _rows_of_array(plain: bytes, settings: PreparationSettings) -> Rows | None:
    for encoding in ("utf-8", settings.encoding or "utf-8"):
        try:
            rows = _values(plain.removeprefix(b"\xef\xbb\xbf").decode(encoding, "surrogateescape"))
        except ValueError:
            continue
        rows = [rows] if isinstance(rows, dict) else rows
        if isinstance(rows, list):
            texts = [_forms(row.get("text"), settings) for row in rows if isinstance(row, dict)]
            return len(rows), set().union(*texts), sum(map(_is_sound, rows))
    return None


def _rows_without_text(plain: bytes) -> int | None:
    """Rows of a Parquet file that has not one column of text, so that none can be read; None of any other file."""
    if not plain.startswith(b"PAR1"):
        return None
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(plain))
        kinds = [field.type for field in file.schema_arrow if field.name == "text"]
    except Exception:  # the library's word that it is damaged
        return None
    kinds = [kind.value_type if pyarrow.types.is_dictionary(kind) else kind for kind in kinds]
    types = pyarrow.types
    readable = (
        *(types.is_string, types.is_large_string, types.is_binary, types.is_large_binary),
        *(types.is_fixed_size_binary, types.is_null),
    )
    if len(kinds) == 1 and any(is_one(kinds[0]) for is_one in readable):
        return None
    return int(file.metadata.num_rows)


def _rows_of_parquet(plain: bytes, settings: PreparationSettings) -> Rows | None:
    if not plain.startswith(b"PAR1"):
        return None
    try:
        column = pyarrow.parquet.read_table(io.BytesIO(plain)).column("text").cast(pyarrow.large_binary())
        values = column.to_pylist()
        count = pyarrow.parquet.ParquetFile(io.BytesIO(plain)).metadata.num_rows
    except Exception:
        return None
    decoded = [v.decode("utf-8", "surrogateescape") for v in values if v is not None]
    sound = sum(_is_sound({"text": text}) for text in decoded)
    return count, set().union(*(_forms(text, settings) for text in decoded)), sound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=5000, help="number per reader, and for job documents")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, help="run one kind in this process and print one line of JSON")
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(asdict(run(given.only, range(given.first, given.mutations), given.seed))))
        return
    total = Tally()
    for kind in KINDS:
        for first in range(0, given.mutations, _CHUNK):
            stop = min(first + _CHUNK, given.mutations)
            options = ["--only", kind, "--first", str(first), "--mutations", str(stop), "--seed", str(given.seed)]
            done = subprocess.run(
                [sys.executable, "-m", "tools.fuzz_input", *options], stdout=subprocess.PIPE, check=False
            )
            if done.returncode == 0:
                total.add(json.loads(done.stdout))
            else:
                total.add(
                    {**asdict(Tally()), "tracebacks": 1, "examples": [f"{kind} {first}-{stop}: {done.returncode}"]}
                )
        print(
            f"{kind:<8} {total.inputs:>6,} inputs so far: {total.tracebacks} tracebacks, {total.lost} lost, "
            f"{total.invented} invented"
        )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(asdict(total), indent=1) + "\n")
    for example in total.examples:
        print(example)
    sys.exit(1 if total.tracebacks or total.lost or total.invented else 0)


if __name__ == "__main__":
    main()
