"""A prefix belongs to one job: another one says so before it writes anything, and no job is kept from its own."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from photon.api.placement import StorageSpec
from photon.exit_codes import EXIT_USER_ERROR
from photon.protocol.canonical import canonical_json
from photon.protocol.owner import NAMESPACE_VARIABLE, Owner
from photon.store import keys
from photon.store.errors import PrefixTaken
from photon.store.objects import ObjectStore
from photon.store.owner import claim, owner_of
from photon_aggregator.errors import JobMismatch
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import aggregator, working

LAB, OTHER = Owner(job="first", namespace="lab"), Owner(job="first", namespace="other")


def test_the_first_job_has_the_prefix_and_the_second_is_told_whose_it_is(store: ObjectStore) -> None:
    claim(store, LAB)
    claim(store, LAB)
    with pytest.raises(PrefixTaken) as taken:
        claim(store, OTHER)
    assert "belongs to the job lab/first, not to other/first: give this job another storage.prefix" in str(taken.value)
    assert store.uri(keys.OWNER) in str(taken.value)
    assert (taken.value.exit_code, taken.value.reason.value) == (EXIT_USER_ERROR, "PrefixTaken")
    assert owner_of(store) == LAB


def test_of_many_at_the_same_time_one_has_it(store: ObjectStore) -> None:
    owners = [Owner(job=f"job-{number}") for number in range(8)]

    def attempt(owner: Owner) -> bool:
        try:
            claim(store, owner)
        except PrefixTaken:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, owners)) == 1


def test_a_run_that_names_no_namespace_goes_on_where_it_was(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"])
    assert Owner.of(job, {}) == Owner(job="test")
    assert str(Owner.of(job, {NAMESPACE_VARIABLE: "lab"})) == "lab/test"
    for known in (Owner(job="test"), Owner(job="test", namespace="lab")):
        store.put(keys.OWNER, canonical_json(known))
        claim(store, Owner.of(job, {}))
        claim(store, Owner.of(job, {NAMESPACE_VARIABLE: "lab"}))
        assert owner_of(store) == known
        with pytest.raises(PrefixTaken, match="not to renamed"):
            claim(store, Owner(job="renamed"))


def test_what_a_later_release_adds_to_the_record_is_ignored_and_what_is_no_record_is_said(store: ObjectStore) -> None:
    store.put(keys.OWNER, json.dumps({"job": "first", "namespace": "lab", "cluster": "x"}).encode())
    claim(store, LAB)
    store.put(keys.OWNER, b"[]")
    with pytest.raises(PrefixTaken, match=r"use another storage\.prefix"):
        claim(store, LAB)


def test_an_aggregator_starts_with_no_others_prefix(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"], rounds=1)
    write_round_zero(job, store)
    claim(store, LAB)
    before = {info.key for info in store.list()}
    with aggregator(job, store) as running:
        running.wait()
    assert isinstance(running.error, PrefixTaken)
    assert {info.key for info in store.list()} == before


def test_a_job_of_an_earlier_release_gets_its_record_with_its_next_start(
    store: ObjectStore, storage: StorageSpec
) -> None:
    job = job_document(storage, ["north"], rounds=1)
    write_round_zero(job, store)
    with aggregator(job_document(storage, ["north"], local={"steps": 5}), store) as running:
        running.wait()
    assert isinstance(running.error, JobMismatch)
    assert owner_of(store) is None, "a job that does not fit takes nothing"
    for rounds in (1, 2):
        longer = job_document(storage, ["north"], rounds=rounds)
        with aggregator(longer, store) as running, working(FakeWorker("north", [running.url])):
            running.wait()
        assert (running.error, running.code) == (None, 0)
        assert owner_of(store) == Owner(job="test")
