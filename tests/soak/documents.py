"""The documents of a soak's jobs, and what each of their rounds must end with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from tests.cluster.release import Release
from tests.end_to_end.whole_runs import Run, prepare_data, write_job
from tests.soak.stories import MORE_ROUNDS, ROUNDS, Commits
from tools.cluster.kube import Object

STEPS: Final = 3
# The length of the learning rate's schedule, whatever the number of rounds becomes.
SCHEDULE_STEPS: Final = STEPS * MORE_ROUNDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A document, and its commits by round as one machine makes them. ``stateful``: workers keep state in claims."""

    document: Object
    commits: Commits
    stateful: bool


def kinds(release: Release, folder: Path) -> tuple[Kind, ...]:
    """A job of one participant whose worker keeps nothing, and one of two whose workers keep their optimizer's state in
    claims; what each of their rounds ends with, by one run on this machine."""
    data = prepare_data(folder / "data")
    _make_wrong_keys(release)
    release.upload(data)
    found = []
    for names, stateful in ((("north",), False), (("north", "south"), True)):
        local: Object = {
            "steps": STEPS,
            "batchSize": 4,
            "sequenceLength": 64,
            "precision": "fp32",
            "state": "Keep" if stateful else "Reset",
            "learningRate": {"max": 3e-3, "warmupSteps": 2, "totalSteps": SCHEDULE_STEPS},
        }
        where = folder / "-".join(names)
        where.mkdir(parents=True)
        path = write_job(
            where / "job.yaml", {name: data[name] for name in names}, rounds=MORE_ROUNDS, local=local, steps=STEPS
        )
        run = Run(path, where)
        run.finish()
        document = yaml.safe_load(path.read_text())
        document["spec"]["rounds"] = ROUNDS
        for participant in document["spec"]["participants"]:
            participant["worker"]["workDir"] = {"type": "Claim" if stateful else "EmptyDir"}
        commits = _commits(run.folder / "history.jsonl")
        found.append(Kind(document=document, commits=commits, stateful=stateful))
    return tuple(found)


def _make_wrong_keys(release: Release) -> None:
    """The Secret that one of the stories names."""
    keys = {"AWS_ACCESS_KEY_ID": "wrong", "AWS_SECRET_ACCESS_KEY": "wrong"}
    release.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-keys"}, "stringData": keys})


def _commits(history: Path) -> Commits:
    """Digests by round, from the history.jsonl of a run."""
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    return {line["record"]["round"]: line["digest"] for line in lines if line["kind"] == "commit"}
