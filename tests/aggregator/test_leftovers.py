"""Uploads that a crash left unfinished are freed: at the start, after each round, and with the job's data."""

from __future__ import annotations

import time

from photon.api.placement import RetentionSpec, StorageSpec
from photon.local.object_store import EmbeddedStore
from photon.protocol.messages import PartsReply, PartsRequest, TrainTask
from photon.protocol.owner import Owner
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.actions import leftovers
from photon_aggregator.actions.purge import purge
from tests.aggregator.fake_worker import FakeWorker, Prepared, job_document, write_round_zero
from tests.aggregator.running import aggregator, working
from tests.faults import Fault, FaultProxy
from tests.opened import OpenStore


def begin(store: ObjectStore, key: str) -> None:
    """What kill -9 in a merge leaves: an upload that nobody completes or aborts."""
    store.multipart(key).upload_part(1, b"a stripe")


def unfinished(store: ObjectStore) -> list[str]:
    return sorted(upload.key for upload in store.unfinished())


def test_only_uploads_of_committed_rounds_are_aborted(store: ObjectStore) -> None:
    begin(store, "rounds/00001/global/a/model.safetensors")
    begin(store, "rounds/00001/global/b/model.safetensors")
    begin(store, "rounds/00002/global/c/model.safetensors")
    begin(store, "elsewhere/model.safetensors")
    assert leftovers.drop(store, 1) == 2
    assert unfinished(store) == ["elsewhere/model.safetensors", "rounds/00002/global/c/model.safetensors"]
    assert leftovers.drop(store, 1) == 0


def test_an_upload_that_is_under_way_completes_after_the_others_were_dropped(store: ObjectStore) -> None:
    begin(store, "rounds/00001/global/a/model.safetensors")
    with store.multipart("rounds/00002/global/b/model.safetensors") as ours:
        ours.upload_part(1, b"a stripe")
        leftovers.drop(store, 1)
        ours.complete()
    assert store.get("rounds/00002/global/b/model.safetensors") == b"a stripe"


def test_deleting_a_jobs_data_frees_its_unfinished_uploads(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north"])
    write_round_zero(job, store)
    begin(store, "rounds/00001/global/a/model.safetensors")
    begin(store, "data/north/shard")
    store.put("probe/of one that died/created", b"")
    purge(store, job, Owner.of(job, {}))
    assert list(store.list()) == []
    assert unfinished(store) == ["data/north/shard"]


def test_a_store_that_lists_no_uploads_is_no_failure(
    storage: StorageSpec, s3: EmbeddedStore, open_store: OpenStore
) -> None:
    with FaultProxy(s3.endpoint) as proxy:
        spec = storage.model_copy(update={"endpoint": proxy.endpoint})
        store = open_store(spec)
        denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        proxy.plan(Fault(method="GET", status=403, body=denied))
        assert leftovers.drop(store, 1) == 0


def test_a_job_leaves_no_uploads_of_its_crashes(store: ObjectStore, storage: StorageSpec) -> None:
    job = job_document(storage, ["north", "south"])
    write_round_zero(job, store)
    begin(store, "rounds/00000/global/an init that died/model.safetensors")
    begin(store, "rounds/00002/global/a merge that died/model.safetensors")
    with (
        aggregator(job, store) as running,
        working(FakeWorker("north", [running.url]), FakeWorker("south", [running.url])),
    ):
        running.wait(120)
    assert (running.code, running.error) == (0, None)
    assert unfinished(store) == []


def test_what_is_uploaded_after_its_round_was_tidied_up_goes_with_the_next_round(
    store: ObjectStore, storage: StorageSpec
) -> None:
    """URLs outlive their round: a worker that was away may use one hours later."""
    job = job_document(storage, ["north", "south"], rounds=4, participation={"quorum": 1, "graceSeconds": 0})
    retention = RetentionSpec(keep_last_rounds=1)
    job = job.model_copy(
        update={"spec": job.spec.model_copy(update={"storage": storage.model_copy(update={"retention": retention})})}
    )
    write_round_zero(job, store)
    late: list[tuple[str, dict[str, str], bytes]] = []
    statuses: list[int] = []

    def values() -> list[str]:
        return [info.key for info in store.list(keys.updates_folder(1)) if not info.key.endswith("/manifest.json")]

    def granted(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        answer = worker.post(f"/v1/rounds/{task.round}/parts", PartsRequest(plan=task.plan, parts=prepared.records))
        (first, *_) = PartsReply.model_validate_json(answer.content).uploads
        late.append((first.url, first.headers, prepared.parts[first.index]))
        worker.stop.set()

    def sends_it(worker: FakeWorker, task: TrainTask, prepared: Prepared) -> None:
        deadline = time.monotonic() + 30
        while task.round == 1 and not late and time.monotonic() < deadline:
            time.sleep(0.02)
        if task.round == 3:
            while values() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert values() == []
            url, headers, data = late[0]
            statuses.append(worker.http.put(url, headers=headers, content=data).status_code)
            assert len(values()) == 1
        worker.train_honestly(task, prepared)

    with aggregator(job, store) as running:
        workers = [
            FakeWorker("north", [running.url], tamper=sends_it),
            FakeWorker("south", [running.url], tamper=granted),
        ]
        with working(*workers):
            running.wait(90)
    assert statuses == [200]
    assert values() == []
