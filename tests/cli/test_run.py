"""``photon run`` as a user runs it: to the end, through interruptions, and as the comparisons."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from photon.protocol.canonical import sha256_hex
from photon.report.page import json_block

# Whole runs import torch several times each: minutes on a busy machine.
pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200)]


def summary(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return read


def worker(run: subprocess.Popen[str], name: str) -> psutil.Process | None:
    """The live worker process of participant ``name`` of this run."""
    for process in psutil.Process(run.pid).children():
        try:
            line = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if "photon-worker run" in line and f"work/{name}" in line:
            return process
    return None


def committed(folder: Path) -> int:
    """Rounds committed so far, by the aggregator's log."""
    log = folder / "logs" / "aggregator.log"
    found = re.findall(r"round (\d+): RoundCommitted", log.read_text()) if log.exists() else []
    return max(map(int, found), default=0)


def test_a_run_ends_with_a_model_a_history_and_a_report_and_can_be_run_again(runs: Any) -> None:
    job = runs.job()
    code, out, err = runs.run(job)
    assert (code, err) == (0, "")
    folder = runs.folder / "runs" / "small"

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out), "a pipe gets no control characters"
    assert "round 3/3" in out
    assert f'from_pretrained("{Path("runs/small/checkpoint")}")' in out

    figures = summary(folder)
    assert (figures["rounds"], figures["local_steps"]) == (3, 2)
    assert figures["tokens"] == 3 * 2 * 2 * 2 * 32
    assert set(figures["perplexity_by_participant"]) == {"north", "south"}
    assert figures["bytes_up"] > 0
    assert figures["wall_seconds"] > 0

    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    commits = {line["record"]["round"]: line for line in lines if line["kind"] == "commit"}
    assert sorted(commits) == [0, 1, 2, 3]
    assert figures["last_commit"] == commits[3]["digest"]
    assert [commits[r]["record"]["previous"] for r in (1, 2, 3)] == [commits[r]["digest"] for r in (0, 1, 2)]
    for file in commits[3]["record"]["files"]:
        assert sha256_hex((folder / "checkpoint" / file["name"]).read_bytes()) == file["sha256"]
    assert json_block(figures["last_commit"]) in (folder / "report.html").read_text()
    assert stat.S_IMODE((folder / "tokens" / "north.token").stat().st_mode) == 0o600

    code, _, err = runs.run(job)
    assert (code, err) == (0, "")
    assert summary(folder) == figures, "a finished run that is run again changes nothing"


def test_interrupted_in_every_way_it_ends_with_the_same_commit(runs: Any, eventually: Any) -> None:
    job = runs.job(rounds=20)
    assert runs.run(job, "--name", "undisturbed")[0] == 0
    folder = runs.folder / "runs" / "disturbed"

    # A worker is killed; it is started again, and Ctrl-C then stops everything.
    process = runs.start(job, "--name", "disturbed")
    eventually(lambda: committed(folder) >= 1, "a round is committed", 300)
    victim = worker(process, "north")
    assert victim is not None
    victim.kill()
    eventually(lambda: worker(process, "north") not in (None, victim), "the worker is started again", 120)
    process.send_signal(signal.SIGINT)
    code, out, err = runs.finish(process, 60)
    assert code == 130
    assert err.strip().endswith("stopped; the same command resumes")
    assert "worker-north died (killed by SIGKILL); starting it again, 4 more tries" in out
    assert runs.processes() == []

    # `photon run` itself is killed outright: its children go with it.
    process = runs.start(job, "--name", "disturbed")
    eventually(lambda: worker(process, "south") is not None, "the workers run again", 300)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    eventually(lambda: not runs.processes(), "its children are gone")

    # And then it is left alone.
    code, _, err = runs.run(job, "--name", "disturbed")
    assert (code, err) == (0, "")
    assert summary(folder)["last_commit"] == summary(runs.folder / "runs" / "undisturbed")["last_commit"]


def test_a_worker_that_cannot_work_is_named_with_the_end_of_its_log(runs: Any) -> None:
    """Its work folder is a file: not the job's mistake, and no restart mends it."""
    folder = runs.folder / "runs" / "small"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "north").write_text("in the way")
    code, _, err = runs.run(runs.job())
    assert code != 0
    assert "north" in err
    assert err.startswith("error: ")
    assert "Traceback" not in err.splitlines()[0]


def test_a_run_whose_deadline_is_over_ends_with_all_it_started(runs: Any) -> None:
    code, _, err = runs.run(runs.job(activeDeadlineSeconds=1))
    assert code == 1
    assert "spec.activeDeadlineSeconds (1 s) is over" in err
    assert runs.processes() == []


def test_a_job_that_failed_says_so_and_shows_no_model_as_its_result(runs: Any) -> None:
    """South never comes. The workers' and the aggregator's own ends must not hide that the job has failed."""
    here = [{"name": "north", "worker": {"data": {"uri": str(runs.data / "north")}}}, {"name": "south", "remote": {}}]
    job = runs.job(participants=here, participation={"roundDeadlineSeconds": 10, "whenQuorumLost": "Fail"})
    code, out, err = runs.run(job)
    assert code == 3, (out, err)
    first, second = err.strip().splitlines()
    assert first.startswith("error: the job failed (QuorumLost): ")
    assert second.startswith("round 0 of 3 is reached: its model is s3://photon/")
    assert second.endswith("figures are in runs/small/report.html")
    assert "checkpoint" not in out
    assert "died" not in out
    assert summary(runs.folder / "runs" / "small")["checkpoint"] is None
    assert not (runs.folder / "runs" / "small" / "checkpoint").exists()


def test_proxies_and_odd_folders_do_not_come_between_its_processes(runs: Any) -> None:
    """Institutions set proxies for everybody; these at a closed port would be asked for this machine's loopback."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    runs.env = {spelling: "http://127.0.0.1:9" for name in names for spelling in (name, name.lower())}
    odd = "My Runs, 2026 {x} [y] é"
    code, _, err = runs.run(runs.job(rounds=1), "--runs-dir", odd)
    assert (code, err) == (0, "")
    assert summary(runs.folder / odd / "small")["rounds"] == 1


def test_its_object_store_is_started_again(runs: Any, eventually: Any) -> None:
    process = runs.start(runs.job(rounds=8))
    folder = runs.folder / "runs" / "small"
    eventually(lambda: committed(folder) >= 1, "a round is committed", 400)
    (store,) = (child for child in psutil.Process(process.pid).children() if child.name().startswith("weed"))
    store.kill()
    code, out, err = runs.finish(process)
    assert (code, err) == (0, "")
    assert "the object store died (killed by SIGKILL); starting it again, 4 more tries" in out
    assert summary(folder)["rounds"] == 8


def test_what_nohup_ignores_stays_ignored(runs: Any, eventually: Any) -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = runs.start(runs.job())
    finally:
        signal.signal(signal.SIGHUP, old)
    eventually(lambda: (runs.folder / "runs" / "small" / "logs" / "init.log").exists(), "it works", 120)
    process.send_signal(signal.SIGHUP)
    next_step = runs.folder / "runs" / "small" / "logs" / "aggregator.log"
    eventually(lambda: next_step.exists() or process.poll() is not None, "it goes on", 400)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, _, err = runs.finish(process, 60)
    assert code == 130
    assert err.strip().endswith("stopped; the same command resumes")


def test_the_comparisons_run_through_the_same_code(runs: Any) -> None:
    job = runs.job(rounds=2)
    code, out, err = runs.run(job, "--centralised", "--quiet")
    assert (code, err) == (0, "")
    assert out.startswith("small-centralised: round 2, perplexity "), "quiet: nothing but how it ended"
    pooled = summary(runs.folder / "runs" / "small-centralised")
    assert pooled["tokens"] == 2 * 2 * 2 * 2 * 32, "as many as the federation spends"
    code, out, _ = runs.run(job, "--alone", "south")
    assert code == 0
    alone = summary(runs.folder / "runs" / "small-alone-south")
    assert alone["tokens"] * 2 == pooled["tokens"]
    assert set(alone["perplexity_by_participant"]) == {"south"}
    assert "small-alone-south" in out
