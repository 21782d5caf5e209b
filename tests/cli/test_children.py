"""Processes of a run: restarted a bounded number of times, stopped in order, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from photon.launch import Process, Role
from photon.local.process import Child, Exit, stop_all


class Clock:
    """Time that only passes when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def eventually(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Children that run Python code; whatever a test leaves is stopped."""
    made: list[Child] = []

    def child(code: str, *, restarts: int = 2, clock: Callable[[], float] = time.monotonic) -> Child:
        process = Process(
            role=Role.WORKER, name="worker-a", command=(sys.executable, "-c", code), cpus=1, restarts=restarts
        )
        env = {"PATH": os.environ["PATH"]}
        made.append(Child(process, env=env, cwd=tmp_path, log_path=tmp_path / f"{len(made)}.log", clock=clock))
        return made[-1]

    yield child
    stop_all(made, seconds=0)


def leaves(reason: str, message: str, code: int) -> str:
    """Code of a program that ends with a record."""
    return (
        "import json, os, pathlib; pathlib.Path(os.environ['PHOTON_TERMINATION_LOG']).write_text(json.dumps("
        f"{{'reason': {reason!r}, 'message': {message!r}, 'exitCode': {code}}})); raise SystemExit({code})"
    )


def ended(child: Child) -> Exit:
    found: list[Exit] = []

    def poll() -> bool:
        if exit_ := child.poll():
            found.append(exit_)
        return bool(found)

    eventually(poll, "the process ends")
    return found[0]


def test_success_is_final(make: Callable[..., Child]) -> None:
    child = make("print('done')")
    child.start()
    exit_ = ended(child)
    assert (exit_.code, exit_.final, exit_.log_tail) == (0, True, "done")
    assert child.finished == exit_
    assert child.poll() is None


def test_a_failure_is_tried_again_after_a_pause_and_then_no_more(make: Callable[..., Child]) -> None:
    clock = Clock()
    child = make("raise SystemExit(7)", restarts=2, clock=clock)
    child.start()
    exits = []
    for _ in range(3):
        exits.append(ended(child))
        assert not child.running
        assert child.poll() is None
        assert not child.running, "it is not started again before its time"
        clock.now += 60
    assert [(e.code, e.final, e.restarts_left) for e in exits] == [(7, False, 2), (7, False, 1), (7, True, 0)]
    assert exits[0].reason == "exit code 7"


def test_restarts_are_counted_afresh_after_a_long_healthy_run(make: Callable[..., Child]) -> None:
    clock = Clock()
    child = make("raise SystemExit(7)", restarts=1, clock=clock)
    child.start()
    assert not ended(child).final
    clock.now += 60
    child.poll()
    clock.now += 3600
    assert not ended(child).final


def test_the_users_mistake_is_not_tried_again_and_its_message_is_kept(make: Callable[..., Child]) -> None:
    child = make(f"print('error: noise'); {leaves('InvalidConfiguration', 'too few tokens in a', 2)}")
    child.start()
    exit_ = ended(child)
    assert exit_.final
    assert exit_.error == "too few tokens in a"


def test_a_failure_has_its_reason_and_message(make: Callable[..., Child]) -> None:
    child = make(leaves("AccessDenied", "check the keys", 4))
    child.start()
    exit_ = ended(child)
    assert (exit_.code, exit_.error) == (4, "AccessDenied: check the keys")


def test_what_a_program_prints_is_not_taken_for_its_reason(make: Callable[..., Child]) -> None:
    child = make("print('error: AccessDenied: check the keys'); raise SystemExit(1)")
    child.start()
    exit_ = ended(child)
    assert exit_.error is None
    assert exit_.log_tail == "error: AccessDenied: check the keys"


def test_a_program_that_is_not_there_is_a_failure_with_its_reason_in_the_log(
    make: Callable[..., Child], tmp_path: Path
) -> None:
    process = Process(role=Role.WORKER, name="w", command=("no-such-program",), cpus=1, restarts=0)
    child = Child(process, env={"PATH": "/nowhere"}, cwd=tmp_path, log_path=tmp_path / "log")
    child.start()
    exit_ = ended(child)
    assert exit_.final
    assert exit_.code != 0
    assert "no-such-program" in exit_.log_tail or "No such file" in exit_.log_tail


def test_the_tail_is_of_this_start_not_of_an_earlier_one(make: Callable[..., Child]) -> None:
    child = make("print('new')")
    child.log_path.write_text("error: old\n")
    child.start()
    exit_ = ended(child)
    assert (exit_.log_tail, exit_.error) == ("new", None)


def test_a_signal_is_named(make: Callable[..., Child]) -> None:
    child = make("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    child.start()
    assert ended(child).reason == "killed by SIGKILL"


def test_stopping_ends_the_deaf_and_their_children_too(make: Callable[..., Child]) -> None:
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    child = make(code)
    child.start()
    eventually(lambda: child.log_tail().strip().isdigit(), "the grandchild runs")
    grandchild = psutil.Process(int(child.log_tail()))
    stop_all([child], seconds=0.2)
    assert not child.running
    eventually(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE, "it is gone")


def test_children_die_with_a_parent_that_was_killed_outright(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from photon.local.process import Child
from photon.launch import Process, Role
p = Process(role=Role.WORKER, name="w", command=(sys.executable, "-c", "import time; time.sleep(600)"), cpus=1)
c = Child(p, env=dict(os.environ), cwd=Path({str(tmp_path)!r}), log_path=Path({str(tmp_path / "log")!r}))
c.start()
print(c._handle.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        # Until it has become the program itself, it may not have asked the kernel yet.
        eventually(lambda: "time.sleep(600)" in " ".join(child.cmdline()[-1:]), "the child has started")
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child is gone")
