"""All stories at once, a few at a time, with what disturbs them; and the table of what happened."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from tests.cluster.release import Release
from tests.soak.disturbances import Disturber
from tests.soak.documents import Kind
from tests.soak.jobs import SoakJob
from tests.soak.stories import Story, applied_again, chosen, tell
from tests.soak.watching import Memory, labeled
from tools.cluster.launcher import Cluster

# Of the names of a soak's jobs.
PREFIX: Final = "soak-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one job's story ended; ``problem`` is empty when all held."""

    name: str
    story: str
    seconds: float
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """``width``: jobs at a time. ``patience``: seconds of each wait. ``spread``: seconds over which jobs are begun."""

    release: Release
    cluster: Cluster
    kinds: tuple[Kind, ...]
    jobs: int
    width: int
    spread: float
    patience: float
    seed: int
    between: tuple[float, float]

    def run(self, say: Any) -> dict[str, Any]:
        """Return what happened, as written to summary.json."""
        dice = random.Random(self.seed)
        memory = Memory()
        disturber = Disturber(
            cluster=self.cluster, kube=self.release.kube, dice=random.Random(dice.random()), between=self.between
        )
        helpers = [threading.Thread(target=one.run, daemon=True) for one in (memory, disturber)]
        for helper in helpers:
            helper.start()
        began = time.monotonic()
        outcomes: list[Outcome] = []
        with ThreadPoolExecutor(self.width) as pool:
            stories = chosen(self.jobs, dice)
            running = [
                pool.submit(
                    partial(
                        self._one, f"{PREFIX}{number:02}", story, self._kind(story, dice), random.Random(dice.random())
                    ),
                    began + self.spread * number / self.jobs,
                )
                for number, story in enumerate(stories, start=1)
            ]
            for done in as_completed(running):
                outcomes.append(done.result())
                one = outcomes[-1]
                say(f"{one.name}  {one.story:<16} {one.seconds:5.0f} s  {one.problem.partition(chr(10))[0] or 'ok'}")
        disturber.end.set()
        helpers[1].join(timeout=300)
        left = self._left_over()
        memory.end.set()
        left += self._data_left([one.name for one in outcomes if one.story == "deleted"])
        return {
            "jobs": self.jobs,
            "as_documented": sum(not one.problem for one in outcomes),
            "minutes": round((time.monotonic() - began) / 60, 1),
            "stories": dict(sorted(_by_story(outcomes).items())),
            "disturbances": dict(sorted(disturber.counts.items())),
            "left_over": left,
            "operator_mib_by_third": memory.thirds(),
            "problems": [one.problem for one in outcomes if one.problem],
            "seed": self.seed,
        }

    def _kind(self, story: Story, dice: random.Random) -> Kind:
        # The claims of a deleted job go with it, and what only they held: then the model may be another one.
        return dice.choice([kind for kind in self.kinds if story is not applied_again or not kind.stateful])

    def _one(self, name: str, story: Story, kind: Kind, dice: random.Random, begin: float) -> Outcome:
        time.sleep(max(0.0, begin - time.monotonic()))
        document = self.release.for_cluster(kind.document, name=name)
        job = SoakJob(kube=self.release.kube, name=name, document=document, seconds=self.patience)
        started, problem = time.monotonic(), ""
        try:
            tell(story, job, kind.commits, dice)
        except Exception as error:  # of whatever kind: the others go on, and the table names it
            problem = f"{name} ({story.__name__}): {error}"
        return Outcome(name=name, story=story.__name__, seconds=round(time.monotonic() - started, 1), problem=problem)

    def _left_over(self) -> list[str]:
        """What is of some job although there is none any more."""
        until = time.monotonic() + self.patience
        while (left := labeled(self.release.kube, PREFIX)) and time.monotonic() < until:
            time.sleep(2)
        return left

    def _data_left(self, names: list[str]) -> list[str]:
        """Prefixes of jobs that were to be deleted with their data, and still have some."""
        with self.release.s3() as client:
            found = {
                name: client.list_objects_v2(Bucket="photon", Prefix=f"jobs/{name}/").get("Contents", [])
                for name in names
            }
        return [f"s3://photon/{objects[0]['Key']} and more" for objects in found.values() if objects]


def _by_story(outcomes: Iterable[Outcome]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for one in outcomes:
        row = table.setdefault(one.story, {"jobs": 0, "ok": 0, "slowest_seconds": 0})
        row["jobs"] += 1
        row["ok"] += not one.problem
        row["slowest_seconds"] = max(row["slowest_seconds"], one.seconds)
    return table
