"""A short form of ``make fuzz-input``, with a seed of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from photon_worker.data.findings import Findings
from photon_worker.data.index import PreparationSettings
from tools import fuzz_input


@pytest.mark.parametrize("kind", fuzz_input.KINDS)
def test_mutated_inputs_end_in_their_documents_or_one_line(kind: str) -> None:
    tally = fuzz_input.run(kind, range(60), seed=1)
    assert tally.inputs == 60
    assert (tally.tracebacks, tally.lost, tally.invented) == (0, 0, 0), tally.examples


def test_the_comparison_notices_what_is_lost_or_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fuzzer that cannot fail shows nothing."""
    real = fuzz_input.documents
    monkeypatch.setattr(fuzz_input, "documents", lambda *given: list(real(*given))[:-1])
    for kind in ("jsonl", "json", "parquet"):
        tally = fuzz_input.run(kind, range(40), seed=1)
        assert tally.lost > (tally.inputs - tally.refused) // 2 > 0, kind  # nothing is missing where nothing was read
    assert fuzz_input.run("text", range(20), seed=1).lost > 5
    monkeypatch.setattr(fuzz_input, "documents", lambda *given: [*real(*given), b"made up"])
    for kind in ("jsonl", "text"):
        assert fuzz_input.run(kind, range(20), seed=1).invented > 5


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_sound_rows_that_are_counted_as_bad_are_lost(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That each row is read or counted is not enough: a reader that calls everything bad reads nothing."""
    real = fuzz_input.documents

    def bad(one: Any, settings: PreparationSettings, findings: Findings) -> list[bytes]:
        for _ in real(one, settings, findings):
            findings.note("bad_records", "here")
        return []

    monkeypatch.setattr(fuzz_input, "documents", bad)
    tally = fuzz_input.run(kind, range(40), seed=1)
    assert tally.lost > (tally.inputs - tally.refused) // 2 > 0


def test_the_whole_program_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_input, "RESULT", tmp_path / "fuzz-input.json")
    monkeypatch.setattr("sys.argv", ["fuzz_input", "--mutations", "2"])
    with pytest.raises(SystemExit, match="0"):
        fuzz_input.main()
    result = json.loads((tmp_path / "fuzz-input.json").read_text())
    assert (result["inputs"], result["tracebacks"], result["lost"], result["invented"]) == (12, 0, 0, 0)
