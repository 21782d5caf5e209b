"""When the Secret of a job's tokens is read: the operator has no list and no watch of Secrets."""

from __future__ import annotations

import copy
from typing import Any

from photon.api.job import RETRY
from photon.api.status import JobReason
from photon_operator.children.kinds import SECRET
from photon_operator.cluster.cache import Cache
from photon_operator.cluster.token_secrets import READ_AGAIN_SECONDS, TokenSecrets
from photon_operator.decide.conditions import as_json
from tests.operator.world import World, job_object, said

KEY = ("lab", "first")


class Bench:
    """A job, its clock, and what was read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cache = Cache()
        self.secrets = TokenSecrets(self.cache, lambda: self.now)
        self.job = job_object()

    @property
    def due(self) -> bool:
        return self.secrets.due(KEY, self.job)

    @property
    def known(self) -> Any:
        return self.cache.children(KEY)[SECRET].get("first-tokens")

    def read(self, found: dict[str, Any] | None) -> None:
        self.secrets.take(KEY, self.job, found)


def secret(uid: str = "secret-1", owner: str = "job-1", version: str = "1") -> dict[str, Any]:
    world = World()
    world.settle()
    found = copy.deepcopy(world.children[SECRET]["first-tokens"])
    found["metadata"] |= {"namespace": "lab", "uid": uid, "resourceVersion": version}
    found["metadata"]["ownerReferences"][0]["uid"] = owner
    return found


def test_it_is_read_once_after_the_start_and_again_after_ten_minutes() -> None:
    bench = Bench()
    assert bench.due
    bench.read(secret())
    assert bench.known["metadata"]["uid"] == "secret-1"
    assert not bench.due
    bench.now += READ_AGAIN_SECONDS
    assert bench.due


def test_one_that_a_person_removed_or_replaced_is_found() -> None:
    bench = Bench()
    bench.read(secret())
    bench.read(None)
    assert bench.known is None
    bench.read(secret("secret-2"))
    bench.read(secret("secret-3"))
    assert bench.known["metadata"]["uid"] == "secret-3"


def test_that_of_a_deleted_job_of_the_same_name_is_looked_at_until_it_is_gone() -> None:
    bench = Bench()
    bench.read(secret(owner="job-0"))
    assert bench.due, "garbage collection will come to it"
    bench.read(None)
    assert not bench.due


def test_a_job_that_is_made_again_is_another() -> None:
    bench = Bench()
    bench.read(secret())
    bench.job["metadata"]["uid"] = "job-2"
    assert bench.due


def test_none_of_a_job_that_has_ended_or_is_another_controllers() -> None:
    bench = Bench()
    ended = said("Complete", JobReason.ROUNDS_DONE, round=10, committed=10)
    bench.job["status"] = as_json(ended.model_copy(update={"observed_generation": 1, "document_digest": "0" * 64}))
    assert not bench.due, "a thousand finished jobs cost no request at a start"
    bench.job["metadata"]["annotations"] = {RETRY: "1"}
    assert bench.due, "it is to be tried again"
    bench.job["metadata"] |= {"annotations": {}, "generation": 2}
    assert bench.due, "it was edited, and may go on"
    bench.job["spec"]["managedBy"] = "example.org/other"
    assert not bench.due


def test_it_is_read_again_when_another_operator_may_have_written_it() -> None:
    bench = Bench()
    bench.read(secret())
    bench.secrets.stale(KEY)
    assert bench.due
    assert bench.known is not None, "until then it is what is known"


def test_nothing_is_kept_of_a_job_that_is_gone() -> None:
    bench = Bench()
    bench.read(secret())
    bench.secrets.forget(KEY)
    assert bench.known is None
    assert bench.due
