"""photon-aggregator --delete-data: what a job wrote goes, and nothing else."""

from __future__ import annotations

import pytest

from photon.api.placement import StorageSpec
from photon.protocol.owner import Owner
from photon.store import keys
from photon.store.errors import PrefixTaken
from photon.store.objects import ObjectStore
from photon.store.owner import claim
from photon_aggregator.actions.purge import purge
from tests.aggregator.fake_worker import job_document, write_round_zero

OURS = Owner(job="test", namespace="lab")


def test_only_what_the_job_wrote_goes(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"])
    claim(store, OURS)
    write_round_zero(job, store)
    store.put(keys.member("north", 1), b"{}")
    store.put("data/north/index.json", b"{}")
    written = {info.key for info in store.list()}
    assert purge(store, job, OURS) == len(written) - 1
    assert [info.key for info in store.list()] == ["data/north/index.json"]
    assert purge(store, job, OURS) == 0, "and once more changes nothing"


def test_broken_off_it_goes_on_where_it_was(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"])
    claim(store, OURS)
    write_round_zero(job, store)
    store.delete([keys.JOB])
    assert purge(store, job, OURS) > 1
    assert list(store.list()) == []


def test_what_another_job_owns_stays(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"])
    claim(store, Owner(job="test", namespace="production"))
    write_round_zero(job, store)
    store.multipart("rounds/00001/global/a/model.safetensors").upload_part(1, b"a stripe")
    before = {info.key for info in store.list()}
    with pytest.raises(PrefixTaken, match="belongs to the job production/test, not to lab/test"):
        purge(store, job, OURS)
    assert {info.key for info in store.list()} == before
    assert len(store.unfinished()) == 1


def test_of_a_job_of_an_earlier_release_its_own_record_says_whose_it_is(
    store: ObjectStore, storage: StorageSpec
) -> None:
    write_round_zero(job_document(storage, ["north"]), store)
    written = {info.key for info in store.list()}
    with pytest.raises(PrefixTaken, match=r"job\.json is not of lab/test: "):
        purge(store, job_document(storage, ["north"], local={"steps": 5}), OURS)
    assert {info.key for info in store.list()} == written
    assert purge(store, job_document(storage, ["north"]), OURS) == len(written)
    store.put("rounds/notes.txt", b"")
    assert purge(store, job_document(storage, ["north"]), OURS) == 0, "no record covers it"
