"""``photon status`` of a real run: the same words and figures as /v1/status, by folder and by address."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest

from tests.end_to_end.whole_runs import PROGRAMS
from tests.sight.running import LiveRun

pytestmark = pytest.mark.sight


def status(*arguments: str) -> str:
    done = subprocess.run([str(PROGRAMS / "photon"), "status", *arguments], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("where", ["folder", "address"])
def test_its_json_is_the_status_of_the_aggregator(live: LiveRun, where: str) -> None:
    job = str(live.run.folder) if where == "folder" else live.url
    before = live.get("/v1/status").json()
    found = json.loads(status(job, "--json"))
    after = live.get("/v1/status").json()
    assert found.keys() == before.keys()
    assert before["committedRounds"] <= found["committedRounds"] <= after["committedRounds"]
    assert before["tokens"] <= found["tokens"] <= after["tokens"]
    assert [p["name"] for p in found["participants"]] == ["east", "north", "south"]
    if before["committedRounds"] == after["committedRounds"]:
        assert found["lastCommit"] == before["lastCommit"]
        assert found["trainLoss"] == before["trainLoss"]


def test_its_table_says_who_does_what(live: LiveRun) -> None:
    text = status(str(live.run.folder))
    assert re.search(r"tiny\s+round \d+/1000", text)
    assert re.search(r"Running \((Training|Merging|Evaluating)\)", text)
    for name in ("east", "north", "south", "together"):
        assert re.search(rf"^ {name} ", text, re.MULTILINE), name
    assert re.search(r"^ north +(training|pulling|pushing|idle|submitted|checking|evaluating)", text, re.MULTILINE)


def test_watching_in_a_pipe_tells_of_each_round_until_it_is_interrupted(live: LiveRun) -> None:
    command = [str(PROGRAMS / "photon"), "status", "--watch", str(live.run.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        rounds = 0
        for line in watching.stdout:
            rounds += bool(re.search(r"round +\d+/1000  loss +\d", line))
            if rounds == 2:
                break
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=30)
    assert (watching.returncode, errors) == (130, "")
