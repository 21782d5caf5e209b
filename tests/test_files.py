"""Files that are whole or absent, folders that one process holds, children that end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from photon.files import lock, replacing, write_atomic
from photon.processes import tied

HALF = """
import os, signal, sys
from pathlib import Path
from photon.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
HOLDER = """
import sys
from photon.files import lock
with open(sys.argv[1], "w") as file:
    print(lock(file.fileno()), flush=True)
    sys.stdin.read()
"""
PARENT = """
import subprocess, sys
from photon.processes import tied
child = subprocess.Popen(tied([sys.executable, "-c", "import time; time.sleep(60)"]))
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, "old")
    write_atomic(path, ["n", "ew"], mode=0o600)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(TypeError), replacing(path) as file:
        file.write("text")  # type: ignore[arg-type]
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_is_killed_leaves_the_old_content_and_nothing_for_long(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, "old")
    done = subprocess.run([sys.executable, "-c", HALF, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_one_process_and_ends_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with (tmp_path / "lock").open("a") as file:
            assert not lock(file.fileno())
            assert not lock(file.fileno(), wait_seconds=0.1)
            holder.kill()
            assert lock(file.fileno(), wait_seconds=30)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux is asked")
def test_a_tied_child_ends_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    deadline = time.monotonic() + 30
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process: int) -> bool:
    """Whether it runs; one that is dead and not reaped does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_tied_command_runs_the_program_with_its_arguments() -> None:
    done = subprocess.run(tied(["echo", "a", "b c"]), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "a b c\n"


def test_several_may_write_the_same_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with replacing(path, several=True) as first:
        first.write(b"fir")
        with replacing(path, several=True) as second:
            second.write(b"second")
        assert path.read_text() == "second"
        first.write(b"st")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
