"""Rows of JSON: read, named, or counted with the place of the first."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.worker.data.damage.conftest import Prepare
from tests.worker.data.damage.readers import PACK, TEXTS, lines

BAD_ROWS = {
    "no JSON": (b"{", "is no JSON"),
    "a list": (b"[1]", "is a list, not an object with the field 'text'"),
    "a number": (b"17", "is a number, not an object"),
    "without the field": (b'{"body": "x"}', "has no field 'text' (it has 'body'): name the one with the text"),
    "a list in it": (b'{"text": ["x"]}', "the field 'text' holds no text but a list"),
    "an object in it": (b'{"text": {}}', "the field 'text' holds no text but an object"),
    "NaN in it": (b'{"text": NaN}', "the field 'text' holds no text but a number"),
    "true in it": (b'{"text": true}', "the field 'text' holds no text but true or false"),
    "100,000 brackets": (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested too deeply"),
    "100,000 objects": (b'{"text": ' + b'{"a":' * 100_000, "is nested too deeply"),
}


@pytest.mark.parametrize("row", list(BAD_ROWS))
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_bad_row_is_named_or_counted_and_a_second_run_goes_on(
    photon_data: Prepare, tmp_path: Path, row: str, packed: str
) -> None:
    line, said = BAD_ROWS[row]
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(PACK[packed](lines(["one", "two"]) + line + b"\n" + lines(["three"])))
    error = photon_data(path).error
    assert f"{path}, line 3 (byte 48): {said}" in error
    assert "--bad-records skip" in error
    done = photon_data(path, "--bad-records", "skip")
    assert done.texts == ["one", "two", "three"]
    assert done.index["left_out"]["bad_records"] == 1
    assert done.index["first"] == {"bad_records": f"a.jsonl{packed}, line 3 (byte 48)"}
    assert done.index["settings"]["bad_records"] == "skip"


@pytest.mark.parametrize("row", [row for row, (line, _) in BAD_ROWS.items() if line.endswith((b"]", b"}", b"7"))])
def test_a_bad_element_of_an_array_is_named_or_counted(photon_data: Prepare, tmp_path: Path, row: str) -> None:
    line, said = BAD_ROWS[row]
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"text": "one"},\n' + line + b', {"text": "three"}]')
    assert f"{path}, row 2: " in photon_data(path).error
    if "nested" in said:
        return  # where such a row ends is not known
    done = photon_data(path, "--bad-records", "skip")
    assert done.texts == ["one", "three"]
    assert done.index["first"] == {"bad_records": "a.json, row 2"}


def test_null_and_blank_texts_are_empty(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": " "}\n\n{"text": "x"}\n')
    done = photon_data(tmp_path / "a.jsonl")
    assert (done.texts, done.index["left_out"]["empty"]) == (["x"], 2)


def test_numbers_of_any_size_and_marks_between_files_are_json(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "n": ' + "9" * 5000 + '}\n\ufeff{"text": "y", "n": 1e999}\n')
    assert photon_data(tmp_path / "a.jsonl").texts == ["x", "y"]


def test_objects_over_several_lines(photon_data: Prepare, tmp_path: Path) -> None:
    pretty = "\n".join(json.dumps({"text": text}, indent=2) for text in TEXTS[:3])
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text(pretty)
        error = photon_data(tmp_path / name).error
        assert error.endswith("one object per line is needed: `jq -c . FILE` writes that")
    (tmp_path / "one.json").write_text(json.dumps({"text": "one", "n": [1]}, indent=2))
    assert photon_data(tmp_path / "one.json").texts == ["one"]


def test_c4_as_it_is_published(photon_data: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "en"
    folder.mkdir()
    rows = "".join(json.dumps({"text": text, "timestamp": "2019", "url": "https://x"}) + "\n" for text in TEXTS)
    (folder / "c4-train.00000-of-01024.json.gz").write_bytes(gzip.compress(rows.encode()))
    done = photon_data(folder, "--held-out-fraction", "0.1")
    assert done.index["documents"] + done.index["held_out"]["documents"] == len(TEXTS)
    assert set(done.texts) <= set(TEXTS)


def test_json_in_a_source_tree_is_source_and_said_where_it_looks_like_data(
    photon_data: Prepare, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "package.json").write_text('{\n "name": "x"\n}')
    (folder / "numbers.json").write_text("[1, 2]")
    (folder / "rows.json").write_text('{"body": "one"}\n{"body": "two"}\n')
    done = photon_data(folder)
    assert len(done.texts) == 3
    assert (done.index["changed"], done.index["first"]["json_as_text"]) == ({"json_as_text": 3}, "numbers.json")
    assert photon_data(folder, "--text-field", "body", output=tmp_path / "body").texts[-2:] == ["one", "two"]
    assert "has no field 'text' (it has 'body')" in photon_data(folder / "rows.json", output=tmp_path / "n").error


def test_texts_in_nested_fields(photon_data: Prepare, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"meta": {"text": "one"}}\n{"meta": null}\n{"meta.text": "two"}\n')
    done = photon_data(tmp_path / "a.jsonl", "--text-field", "meta.text")
    assert (done.texts, done.index["left_out"]["empty"]) == (["one", "two"], 1)
    table = pyarrow.table({"meta": [{"text": "one", "n": 1}, None, {"text": None, "n": 2}, {"text": "two", "n": 3}]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    done = photon_data(tmp_path / "a.parquet", "--text-field", "meta.text", output=tmp_path / "b")
    assert (done.texts, done.index["left_out"]["empty"]) == (["one", "two"], 2)
    pyarrow.parquet.write_table(pyarrow.table({"meta.text": ["three"]}), tmp_path / "b.parquet")
    assert photon_data(tmp_path / "b.parquet", "--text-field", "meta.text", output=tmp_path / "c").texts == ["three"]
    error = photon_data(tmp_path / "a.parquet", "--text-field", "meta.body", output=tmp_path / "d").error
    assert "has no column 'meta.body' (it has 'meta')" in error


def test_a_row_that_is_too_long_is_one_bad_row(
    photon_data: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("photon_worker.data.rows._LONGEST_ROW", 4096)
    monkeypatch.setattr("photon_worker.data.reading.LARGEST_DOCUMENT", 4096)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(["one", "x" * 100_000, "three"]))
    assert f"{path}, line 2 (byte 24): is longer than a row may be" in photon_data(path).error
    done = photon_data(path, "--bad-records", "skip")
    assert (done.texts, done.index["left_out"]["bad_records"]) == (["one", "three"], 1)
