"""Two real processes under ``photon-worker torchrun``: however one of them ends, the other ends, and says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from photon.api.training import LocalSpec
from photon.ending import read
from photon_worker.commands.run_distributed import check_processes
from photon_worker.commands.torchrun import verdict
from photon_worker.lifecycle.errors import Misconfigured
from tests.worker.together import WORKER

PROGRAM = Path(__file__).with_name("peers_program.py")


def torchrun(*command: str, record: Path) -> subprocess.CompletedProcess[str]:
    """Two processes of ``command``, whose termination record is left in ``record``."""
    arguments = ("torchrun", "--standalone", "--nnodes=1", "--nproc-per-node=2", "--max-restarts=0", "--no-python")
    return subprocess.run(
        [WORKER, *arguments, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PHOTON_TERMINATION_LOG": str(record)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.mark.parametrize(
    ("case", "code", "reason", "why", "said"),
    [
        ("commands", 0, "Completed", "", ""),
        ("mistake", 2, "InvalidConfiguration", "the data is not there", "rank 0 heard: process 1 of 2 ended: "),
        ("surprise", 1, "ProgramFailed", "RuntimeError: nobody foresaw this", "rank 0 heard: process 1 of 2 ended: "),
        ("kill", 1, "ProgramFailed", "process 1 was killed by SIGKILL", "error: "),
        (
            "terminate",
            128 + signal.SIGTERM,
            "Interrupted",
            "stopped by SIGTERM",
            "rank 0 heard: process 1 of 2 ended: ",
        ),
    ],
)
def test_however_a_process_ends_the_others_end_with_it(
    case: str, code: int, reason: str, why: str, said: str, tmp_path: Path
) -> None:
    result = torchrun(sys.executable, str(PROGRAM), case, record=tmp_path / "log")
    assert result.returncode == code, result.stderr
    assert said + why in result.stderr
    record = read(tmp_path / "log")
    assert record is not None
    assert (record.reason, record.exit_code) == (reason, code)
    assert why in record.message
    assert ("Traceback" in result.stderr) == (case == "surprise"), result.stderr
    assert "waitForInput" not in result.stderr


def test_a_process_that_hangs_is_given_up(tmp_path: Path) -> None:
    result = torchrun(sys.executable, str(PROGRAM), "hang", record=tmp_path / "log")
    assert result.returncode == 1, result.stderr
    assert "another process of this participant was killed or cannot be reached" in result.stderr
    record = read(tmp_path / "log")
    assert record is not None
    assert record.reason == "ProgramFailed"


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([(0, -signal.SIGTERM), (1, -signal.SIGKILL)], (1, "process 1 was killed by SIGKILL (out of memory?)")),
        ([(0, 1), (1, -signal.SIGSEGV)], (1, "process 1 was killed by SIGSEGV")),
        ([(0, 143), (1, 2)], (2, None)),
        ([(0, 143), (1, 1)], (1, None)),
        ([(0, 143)], (143, None)),
        ([(0, -signal.SIGTERM)], (143, None)),
        ([], (1, None)),
    ],
)
def test_the_code_is_that_of_what_ended_them(codes: list[tuple[int, int]], expected: tuple[int, str | None]) -> None:
    assert verdict(codes) == expected


def test_a_batch_that_cannot_be_shared_evenly_names_the_field() -> None:
    local = LocalSpec.model_validate({"strategy": "FSDP", "batchSize": 6})
    check_processes(local, 3)
    with pytest.raises(Misconfigured, match=r"spec\.local\.batchSize: 6 sequences .* 4 processes .* multiple of 4"):
        check_processes(local, 4)
    micro = LocalSpec.model_validate({"strategy": "FSDP", "batchSize": 8, "microBatchSize": 2})
    with pytest.raises(Misconfigured, match=r"spec\.local\.microBatchSize: 2 sequences"):
        check_processes(micro, 4)
    with pytest.raises(Misconfigured, match="use FSDP"):
        check_processes(LocalSpec(), 2)
