"""What happens to one job from its creation to its end, and what must hold then."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from tests.soak.jobs import SoakJob, patiently

# Rounds that a short job has; some are edited to have more.
ROUNDS: Final = 2
MORE_ROUNDS: Final = 3
MOST_SECONDS_TO_DELETE: Final = 45.0

Commits: TypeAlias = Mapping[int, str]
Story: TypeAlias = Callable[[SoakJob, Commits, random.Random], None]


def plain(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """Applied, and left alone."""
    job.apply()
    job.wait_complete(commits[ROUNDS])


def extended(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """More rounds than at first: in mid-job, or when it was complete."""
    job.apply()
    if dice.random() < 0.5:
        job.wait(lambda: job.get()["status"].get("committedRounds", 0) >= 1, "past its first round")
    else:
        job.wait_complete(commits[ROUNDS])
    job.patch({"rounds": MORE_ROUNDS})
    job.wait(lambda: job.get()["status"].get("observedGeneration", 0) >= 2, "seen with its edit")
    job.wait_complete(commits[MORE_ROUNDS])


def suspended(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """Suspended at some time, until no pod is left; then resumed."""
    job.apply()
    time.sleep(dice.uniform(0, MOST_SECONDS_TO_DELETE))
    job.patch({"suspend": True})

    def stopped() -> bool:
        kind, reason, _ = job.condition()
        return kind == "Complete" or (reason == "Suspended" and not running(job))

    job.wait(stopped, "suspended without a running pod")
    job.patch({"suspend": False})
    job.wait_complete(commits[ROUNDS])


def deleted(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """Deleted at some time; it and all that it had go, its data too."""
    job.apply(storage=job.document["spec"]["storage"] | {"deletionPolicy": "Delete"})
    time.sleep(dice.uniform(0, MOST_SECONDS_TO_DELETE))


def applied_again(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """Deleted in mid-job, its data kept, and applied again at once: it goes on where it stopped."""
    job.apply()
    time.sleep(dice.uniform(0, MOST_SECONDS_TO_DELETE))
    job.delete()
    if dice.random() < 0.5:
        job.wait(lambda: not job.get(), "deleted")
    else:
        uid = job.get().get("metadata", {}).get("uid")
        job.wait(lambda: job.get().get("metadata", {}).get("uid") != uid or not uid, "deleted")
    job.apply()
    job.wait_complete(commits[ROUNDS])


def short_of_memory(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """A limit that no worker fits into; the reason says so, and an edit of the limit is enough."""
    document = job.document["spec"]["participants"]
    first = document[0] | {"worker": document[0]["worker"] | {"resources": {"memory": "64Mi"}}}
    job.apply(participants=[first, *document[1:]])
    job.wait(lambda: job.condition()[1] == "OutOfMemory", "short of memory")
    job.apply()
    job.wait_complete(commits[ROUNDS])


def wrong_keys(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """Keys that the store does not know; an edit of the reference is enough."""
    wrong = job.document["spec"]["storage"] | {"credentialsSecretRef": {"name": "wrong-keys"}}
    job.apply(storage=wrong)
    job.wait(lambda: job.condition()[1] == "AccessDenied", "refused by the store")
    job.apply()
    job.wait_complete(commits[ROUNDS])


def out_of_time(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """A deadline that cannot be kept fails the job; without it, the same job completes."""
    job.apply(activeDeadlineSeconds=1)
    job.wait(lambda: job.condition()[:2] == ("Failed", "DeadlineExceeded"), "out of time")
    job.patch({"activeDeadlineSeconds": None})
    job.wait(lambda: job.condition()[0] != "Failed", "tried again")
    job.wait_complete(commits[ROUNDS])


def pods_killed(job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """Its pods are deleted by force, one now and one later."""
    job.apply()
    for _ in range(2):
        time.sleep(dice.uniform(5, 20))
        pods = [name for name in job.children() if name.startswith("pod/")]
        if pods:
            job.kube.run("delete", dice.choice(sorted(pods)), "--grace-period=0", "--force", "--wait=false")
    job.wait_complete(commits[ROUNDS])


# How often each is told, out of twenty.
STORIES: Final[Mapping[Story, int]] = {
    plain: 3,
    extended: 3,
    suspended: 3,
    deleted: 3,
    applied_again: 3,
    short_of_memory: 1,
    wrong_keys: 1,
    out_of_time: 1,
    pods_killed: 2,
}


def chosen(number: int, dice: random.Random) -> list[Story]:
    """``number`` stories, each kind about as often as it should be, in random order."""
    pool = [story for story, times in STORIES.items() for _ in range(times)]
    dice.shuffle(pool)
    stories = [pool[index % len(pool)] for index in range(number)]
    dice.shuffle(stories)
    return stories


def tell(story: Story, job: SoakJob, commits: Commits, dice: random.Random) -> None:
    """The story, and the end of all jobs: deleted, with nothing left of it. Raises SoakError."""
    try:
        story(job, commits, dice)
    finally:
        job.delete()
    job.wait(lambda: not job.get(), "deleted")
    job.wait(lambda: not job.children(), f"without children: {job.children()}")


def running(job: SoakJob) -> list[str]:
    """Pods of the job that have not ended."""
    label = f"photon.dev/job={job.name}"
    pods = patiently(lambda: job.kube.items("pods", "--selector", label))
    return [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]
