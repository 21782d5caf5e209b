from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from photon_worker.data import DataError, inputs
from photon_worker.data.documents import documents
from photon_worker.data.findings import Findings
from photon_worker.data.index import PreparationSettings
from photon_worker.data.inputs import units
from photon_worker.data.listing import find
from photon_worker.data.text import cut


def read(*paths: Path, skipped: Findings | None = None, **changed: object) -> list[bytes]:
    """All documents of the inputs, through the same units as preparation."""
    given = PreparationSettings(**changed)  # type: ignore[arg-type]
    found = find([str(path) for path in paths], given).found
    return [
        text
        for unit in units(found, given)
        for piece in unit
        for text in documents(piece, given, skipped or Findings())
    ]


LINES = [json.dumps({"text": text, "n": 1}) for text in ("first", "zweiter ä", "", "fourth\nline")]
TEXTS = [b"first", "zweiter ä".encode(), b"fourth\nline"]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_json_lines_plain_and_compressed(tmp_path: Path, ending: str) -> None:
    content = ("\n".join(LINES) + "\n\n").encode()
    packed = {"": content, ".gz": gzip.compress(content), ".zst": zstandard.compress(content)}[ending]
    path = tmp_path / f"data.jsonl{ending}"
    path.write_bytes(packed)
    skipped = Findings()
    assert read(path, skipped=skipped) == TEXTS
    assert skipped.of("empty") == 1


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_text_and_files_of_several_frames(tmp_path: Path, ending: str) -> None:
    pack: Callable[[bytes], bytes] = gzip.compress if ending == ".gz" else zstandard.compress
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(pack(b"one ") + pack(b"two"))
    assert read(path) == [b"one two"]


@pytest.mark.parametrize("limit", [1, 7, 40, 100, 1000])
def test_ranges_of_a_large_file_of_json_lines_give_each_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    path = tmp_path / "data.ndjson"
    wanted = [f"line {n} " + "x" * (n % 50) for n in range(60)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in wanted))
    monkeypatch.setattr(inputs, "_LARGEST_UNIT", limit)
    assert read(path) == [text.encode() for text in wanted]


def test_parquet_by_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.parquet"
    texts = [f"text {n}" for n in range(100)]
    table = pyarrow.table({"body": [*texts, None], "n": list(range(101))})
    pyarrow.parquet.write_table(table, path, row_group_size=10)
    monkeypatch.setattr(inputs, "_LARGEST_UNIT", 200)
    given = PreparationSettings(text_field="body")
    assert len(units(find([str(path)], given).found, given)) > 2
    assert read(path, text_field="body") == [text.encode() for text in texts]


def test_source_trees_skip_what_is_no_text_and_hidden_folders(tmp_path: Path) -> None:
    for name in (".git/config", "__pycache__/a.py", "src/a.py", "src/b.c", "src/data.png", "src/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "src/latin.py").write_bytes(b"# caf\xe9")
    (tmp_path / "src/nul.c").write_bytes(b"a\0b")
    (tmp_path / "src/bom.c").write_bytes(b"\xef\xbb\xbfint x;")
    skipped = Findings()
    assert read(tmp_path, skipped=skipped) == [b"src/a.py", b"src/b.c", b"int x;"]
    assert (skipped.of("not_text"), skipped.of("invalid_bytes")) == (1, 1)


def test_patterns_choose_by_name_and_by_path(tmp_path: Path) -> None:
    for name in ("a.py", "tests/b.py", "deep/tests/c.py", "deep/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path, include=["*.py"]) == [b"a.py", b"deep/tests/c.py", b"tests/b.py"]
    assert read(tmp_path, include=["*.py"], exclude=["*/tests/*"]) == [b"a.py"]
    assert read(tmp_path, exclude=["d.txt", "/tests/*"]) == [b"a.py", b"deep/tests/c.py"]


def test_inputs_are_read_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    assert read(tmp_path / "b.txt", tmp_path / "a.txt") == [b"b", b"a"]


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab\né數", max_size=400), limit=st.integers(4, 60))
def test_cutting_loses_nothing_and_keeps_characters_whole(text: str, limit: int) -> None:
    parts = list(cut(io.BytesIO(text.encode()), limit))
    assert b"".join(parts) == text.encode()
    assert all(len(part) <= limit for part in parts)
    for part in parts:
        part.decode()


def test_long_prose_is_cut_at_blank_lines_and_source_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first\n\nsecond\n\nthird")
    (tmp_path / "a.py").write_text("first\n\nsecond\n\nthird")
    assert read(tmp_path / "a.txt", cut_bytes=12) == [b"first\n\n", b"second\n\n", b"third"]
    assert len(read(tmp_path / "a.py", cut_bytes=12)) == 1
    assert len(read(tmp_path / "a.txt", cut_bytes=0)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"bad.jsonl, line 2 \(byte 15\): is no JSON: .* at character 2; .* --bad-records skip"),
        ('{"body": "x"}', r"line 2 \(byte 15\): has no field 'text' \(it has 'body'\): .* --text-field"),
        ("[1]", r"line 2 \(byte 15\): is a list, not an object with the field 'text'"),
        ('{"text": 3}', r"the field 'text' holds no text but a number: see --text-field"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "ok"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read(path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}' * 100)[:-9])
    with pytest.raises(DataError, match=r"data.jsonl.gz cannot be read"):
        read(path)
    path = tmp_path / "data.jsonl.zst"
    path.write_bytes(b"no zstandard \xff")
    with pytest.raises(DataError, match=r"data.jsonl.zst cannot be read"):
        read(path)


def test_a_parquet_file_without_the_column_says_which_it_has(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"], "n": [1]}), path)
    with pytest.raises(DataError, match=r"has no column 'text' \(it has 'body', 'n'\): .* --text-field"):
        read(path)
    with pytest.raises(DataError, match=r"the column 'n' holds no text but int64"):
        read(path, text_field="n")
    path.write_bytes(b"PAR0")
    with pytest.raises(DataError, match=r"data.parquet is no Parquet file"):
        read(path)


def test_missing_and_empty_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the input .*/nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"has no file to read \(after --include and --exclude\)"):
        read(tmp_path)
