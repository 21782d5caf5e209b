"""photon-aggregator --delete-data: what a job wrote goes, and nothing else."""

from __future__ import annotations

from photon.api.placement import StorageSpec
from photon.store.objects import ObjectStore
from photon_aggregator.actions.purge import purge
from tests.aggregator.fake_worker import job_document, write_round_zero


def test_only_what_the_job_wrote_goes(store: ObjectStore, storage: StorageSpec) -> None:
    write_round_zero(job_document(storage, ["north"]), store)
    store.put("data/north/index.json", b"{}")
    written = {info.key for info in store.list()}
    assert purge(store) == len(written) - 1
    assert [info.key for info in store.list()] == ["data/north/index.json"]
    assert purge(store) == 0, "and once more changes nothing"
