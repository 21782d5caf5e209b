"""Institutions join a job from outside, as processes: the same model as on one machine with the same membership."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.whole_runs import MODEL, prepare_data
from tools.federation.places import Place
from tools.federation.story import JOB, Story

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

SPEC: dict[str, Any] = {
    "model": {"config": MODEL, "seed": 3},
    "rounds": 12,
    "local": {
        "steps": 30,
        "batchSize": 4,
        "sequenceLength": 64,
        "precision": "fp32",
        "learningRate": {"max": 3e-3, "warmupSteps": 10},
    },
    "outer": {"type": "Nesterov", "learningRate": 1.0, "momentum": 0.5},
    "evaluation": {"everyRounds": 6, "batchSize": 16},
}


def two_free_ports() -> int:
    """A port of the loopback address such that the next one is free, too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            try:
                other.bind(("127.0.0.1", one.getsockname()[1] + 1))
            except OSError:
                continue
            return int(one.getsockname()[1])


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    data = prepare_data(tmp_path / "data")
    made = Story(
        hub=Place("hub", tmp_path / "hub"),
        sites={name: Place(name, tmp_path / name) for name in data},
        data=data,
        spec=SPEC,
        door=("--door", f"127.0.0.1:{two_free_ports()}"),
    )
    yield made
    made.stop()


def kill(place: Place, *words: str) -> None:
    """kill -9 of a process of this place, the one whose command line has all of ``words``."""
    assert place.process is not None
    for process in psutil.Process(place.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            line = process.cmdline()
            if all(any(word in argument for argument in line) for word in words):
                process.send_signal(signal.SIGKILL)
                return
    raise AssertionError(f"{place.name} has no process {words}")


def test_institutions_join_everything_is_killed_and_the_model_is_that_of_one_machine(
    story: Story, tmp_path: Path
) -> None:
    north, south = story.sites.values()
    story.open_hub(at_once=2)
    for name in story.sites:
        story.join(name)
    for number, (place, words) in enumerate(
        [
            (north, ("photon-gate", "run")),
            (south, ("photon-worker", "run")),
            (story.hub, ("photon-aggregator", "--door-listen")),
            (story.hub, ("weed",)),
        ],
        1,
    ):
        story.wait_for_round(2 * number)
        kill(place, *words)
    summary = story.finish()
    assert summary["rounds"] == SPEC["rounds"]
    for site in story.sites.values():
        assert site.process is not None
        assert site.process.wait(60) == 0, site.output

    alone = story.at_home(Place("home", tmp_path / "home"))
    assert alone["last_commit"] == summary["last_commit"]

    # What left each institution is on record there, and whole.
    for site in story.sites.values():
        done = site.photon("ledger", str(site.run_folder(JOB) / "gate" / "ledger"), "--verify")
        assert done.returncode == 0
    # What each signed is in the hub's bucket, whose audit knows the hub's key from the run's folder.
    audit = story.hub.photon("audit", str(story.hub.run_folder(JOB)), "--recompute", "none", "--json")
    report = json.loads(audit.stdout)
    assert (report["verdict"], report["notes"]) == ("Holds", []), report
    assert report["figures"]["signatures"] >= 7 + 2 * 6
    told = story.hub.photon("participants", str(story.hub.run_folder(JOB))).stdout
    assert told.count("Active") == 2
    assert json.loads((story.hub.run_folder(JOB) / "access.json").read_text())["participants"].keys() == set(
        story.sites
    )
