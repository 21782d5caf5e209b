"""The ledger: what is in it survives kills and full disks, and no change of it goes unnoticed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import MAX_LINE_BYTES, Direction, LedgerError, What
from photon_gate.ledger.verify import read_ledger

PROGRAMS = Path(sys.executable).parent


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 28, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def part(number: int, **changes: object) -> What:
    fields = {"direction": "Out", "kind": "Part", "decision": "Complete", "round": 3, "bytes": 10, "name": f"p{number}"}
    return What.model_validate({**fields, **changes})


def names(folder: Path) -> list[str]:
    return [line.entry.name for line in read_ledger(folder) if line.entry is not None]


def problems(folder: Path) -> list[str]:
    return [f"{line.file}:{line.number} {line.problem}" for line in read_ledger(folder) if line.problem]


def command(*arguments: str, program: str = "photon-gate") -> tuple[int, str]:
    line = [str(PROGRAMS / program), "ledger", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger of two months: three lines, then two."""
    clock = Clock()
    with Ledger(tmp_path / "ledger", now=clock) as ledger:
        for number in range(5):
            if number == 3:
                clock.now += timedelta(days=7)
            ledger.append(part(number))
    return tmp_path / "ledger"


def test_entries_go_to_a_file_a_month_in_one_chain(folder: Path) -> None:
    assert sorted(path.name for path in folder.glob("*.jsonl")) == ["2026-11.jsonl", "2026-12.jsonl"]
    assert names(folder) == ["p0", "p1", "p2", "p3", "p4"]
    assert problems(folder) == []


def test_it_goes_on_after_a_restart_also_with_a_clock_that_was_set_back(folder: Path) -> None:
    with Ledger(folder, now=Clock()) as ledger:
        assert ledger.size == 5
        entry = ledger.append(part(5))
    assert (entry.seq, entry.at.month) == (6, 11)
    assert names(folder)[-1] == "p5"
    assert problems(folder) == []
    assert (folder / "2026-12.jsonl").read_text().count("\n") == 3


def test_a_torn_last_line_is_kept_aside_and_noted(folder: Path) -> None:
    path = folder / "2026-12.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert problems(folder) == []
    with Ledger(folder) as ledger:
        ledger.append(part(6))
    last = [line.entry for line in read_ledger(folder) if line.entry is not None][-2:]
    assert [entry.decision for entry in last] == ["Recovered", "Complete"]
    assert (folder / last[0].name).read_bytes().startswith(b'{"direction":"Out"')
    assert problems(folder) == []


APPEND = """
import sys
from pathlib import Path
from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import What
with Ledger(Path(sys.argv[1])) as ledger:
    while True:
        ledger.append(What(direction="Out", kind="Part", decision="Complete", message="x" * 500))
        print(ledger.size, flush=True)
"""


def test_kill_9_loses_no_entry_that_was_written(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", APPEND, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        with pytest.raises(LedgerError, match="another process writes this ledger"):
            Ledger(tmp_path)
        process.send_signal(signal.SIGKILL)
        written = [20, *(int(line) for line in process.stdout.read().split())][-1]
    with Ledger(tmp_path) as ledger:
        assert ledger.size >= written
    assert problems(tmp_path) == []


FULL = """
import resource, sys
from pathlib import Path
from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import LedgerError, What
what = What(direction="Out", kind="Part", decision="Complete", message="x" * 500)
with Ledger(Path(sys.argv[1])) as ledger:
    ledger.append(what)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        ledger.append(what)
    except LedgerError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger.append(what)
"""


def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "the ledger cannot be written: only" in done.stdout, done.stderr
    assert [line.entry.seq for line in read_ledger(tmp_path) if line.entry] == [1, 2]
    assert problems(tmp_path) == []


def test_lines_are_bounded() -> None:
    for wrong in (
        {"name": "x" * 513},
        {"message": "x" * 513},
        {"envelope": "x" * 8193},
        {"bytes": -1},
        {"kind": "a b"},
    ):
        with pytest.raises(ValidationError):
            part(0, **wrong)
    whole = part(0, name="\0" * 512, message="\0" * 512, envelope="x" * 8192, sha256="0" * 64)
    assert len(whole.model_dump_json()) < MAX_LINE_BYTES - 300
    assert whole.direction is Direction.OUT


def lines_of(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [lines[0], lines[2]], "2026-11.jsonl:2 does not follow"),
        (lambda lines: [lines[0], lines[2], lines[1]], "2026-11.jsonl:2 does not follow"),
        (lambda lines: [lines[0], lines[0], *lines[1:]], "2026-11.jsonl:2 does not follow"),
        (lambda lines: [lines[0].replace(b":10,", b":11,"), *lines[1:]], "2026-11.jsonl:2 does not follow"),
        (lambda lines: [lines[0], b"{}\n", *lines[1:]], "2026-11.jsonl:2 is no entry"),
        (lambda lines: [lines[0], b"x" * 20_000 + b"\n", *lines[1:]], "2026-11.jsonl:2 is too long"),
        (lambda lines: [*lines[:2], lines[2][:-1]], "2026-11.jsonl:3 has no end"),
        (lambda lines: lines[:2], "2026-12.jsonl:1 does not follow"),
        (lambda lines: lines[:0], "2026-12.jsonl:1 does not follow"),
    ],
)
def test_a_change_is_found_and_the_gate_does_not_go_on_with_it(
    folder: Path, change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    lines_of(folder / "2026-11.jsonl", change)
    assert problems(folder)[0].startswith(said)
    with pytest.raises(LedgerError, match="Keep the folder as evidence"):
        Ledger(folder)


def test_any_flipped_bit_but_of_the_last_line_is_found(folder: Path) -> None:
    path = folder / "2026-11.jsonl"
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert problems(folder), place


def test_photon_ledger_shows_and_verifies(folder: Path) -> None:
    with Ledger(folder) as ledger:
        ledger.append(part(5, message="no\x1b[2J"))
        head = ledger.head
    code, text = command(str(folder), program="photon")
    assert code == 0
    assert "2026-11-28 12:00:00  Out   Part        round 3  10 bytes  Complete  p0" in text
    assert "\x1b" not in text
    assert command(str(folder), "--verify") == (0, f"6 entries, each follows the one before; the last is {head}\n")
    assert command(str(folder), "--verify", "--head", head[:16])[0] == 0
    lines_of(sorted(folder.glob("*.jsonl"))[-1], lambda lines: lines[:-1])
    code, text = command(str(folder), "--verify", "--head", head)
    assert (code, "entries were removed or replaced" in text) == (1, True)


def test_mistakes_of_the_command_are_one_line(tmp_path: Path) -> None:
    assert command(str(tmp_path / "absent")) == (2, f"error: {tmp_path / 'absent'} is not a folder\n")
    assert command(str(tmp_path))[1].startswith(f"error: {tmp_path} holds no ledger")
    assert command(str(tmp_path), "--head", "x")[0] == 2
