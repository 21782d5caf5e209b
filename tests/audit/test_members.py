"""The audit of a job that institutions join: who was a member when, and what they and the hub signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from photon.api.placement import StorageSpec
from photon.api.status import MemberState
from photon.local.object_store import EmbeddedStore
from photon.protocol.border import RotateRequest
from photon.protocol.records import LeftOut, Plan
from photon.store import keys
from photon.store.objects import ObjectStore
from photon.trust import statements
from photon.trust.keys import Identity
from photon_aggregator.audit.run import audit
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker, job_document, write_round_zero
from tests.aggregator.running import chain, working
from tests.audit.auditing import edit, flip, found, holds, key_of

LAST = 4


@dataclass
class Joined:
    """A finished job, and the keys that took part in it."""

    objects: dict[str, bytes]
    hub: Identity
    north: Identity


def hand_in(worker: FakeWorker, task: Any, prepared: Any) -> None:
    worker.upload(task, prepared)
    worker.submit(task.round, prepared.manifest)


def rotate(site: Site) -> None:
    """Another key from now on."""
    assert site.hub is not None
    new = Identity.new()
    said = statements.Rotate(audience=site.hub.id, participant=site.name, new_key=new.key.text)
    envelope = said.seal(site.identity, new).decode()
    reply = site.said("keys", RotateRequest(new_key=new.key.text, envelope=envelope))
    assert reply.status_code == 200, reply.text
    site.identity = new


@pytest.fixture(scope="module")
def joined(s3: EmbeddedStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Joined]:
    """``north`` stays and changes its key in round 2; ``south`` is revoked in round 3."""
    with ExitStack() as stack:
        spec = StorageSpec(endpoint=s3.endpoint, bucket="photon", prefix="joined")
        store = stack.enter_context(ObjectStore.open(spec, access_key=s3.access_key, secret_key=s3.secret_key))
        store.check(create_bucket=True)
        job = job_document(
            spec,
            ["home", "north", "south"],
            rounds=LAST,
            evaluation={"everyRounds": 1},
            stop={"targetPerplexity": 1.0000001},
        )
        write_round_zero(job, store)
        hub = Hub(tmp_path_factory.mktemp("hub"), job, store, ["north", "south"])
        stack.callback(hub.close)
        north, south = (Site(n, [hub.url], hub=hub.identity.key, invitation=hub.invite(n)) for n in hub.remote)
        with hub.running() as running:
            north.join()
            south.join()

            def rotates(worker: FakeWorker, task: Any, prepared: Any) -> None:
                if task.round == 2 and north.identity is first:
                    rotate(north)
                hand_in(worker, task, prepared)

            def is_revoked(worker: FakeWorker, task: Any, prepared: Any) -> None:
                if task.round < 3:
                    hand_in(worker, task, prepared)
                    return
                hub.change("south", access="Revoked")
                running.until(lambda engine: engine.state.members.get("south") is MemberState.REVOKED)
                worker.stop.set()

            first = north.identity
            north.tamper, south.tamper = rotates, is_revoked
            with working(FakeWorker("home", [running.url]), north, south):
                running.wait()
        assert (running.code, running.error) == (0, None)
        yield Joined({info.key: store.get(info.key) for info in store.list()}, hub.identity, north.identity)


@pytest.fixture
def bucket(joined: Joined, store: ObjectStore) -> ObjectStore:
    """A copy of the job that a test may spoil."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: store.put(*item), joined.objects.items()))
    return store


def update_of(store: ObjectStore, number: int, name: str = "north") -> str:
    return key_of(store, f"{keys.round_folder(number)}/signatures/update-{name}-")


def test_a_job_whose_members_came_and_went_holds(bucket: ObjectStore, joined: Joined) -> None:
    plan = Plan.model_validate_json(bucket.get(keys.plan(LAST)))
    assert plan.left_out == {"south": LeftOut.NOT_A_MEMBER}
    assert [update.participant for update in chain(bucket)[-1].accepted] == ["home", "north"]
    assert bucket.head(keys.member("north", 2)) is not None

    report = holds(bucket, hub=joined.hub.key)
    updates = len([key for key in joined.objects if "/signatures/update-" in key])
    evaluations = len([key for key in joined.objects if "/signatures/evaluation-" in key])
    assert report.figures.signatures == 1 + LAST + updates + evaluations
    assert (report.notes, report.figures.leftovers) == ((), 0)


def test_without_the_hubs_key_the_report_says_what_was_not_checked(bucket: ObjectStore) -> None:
    report = holds(bucket)
    assert report.figures.signatures == 0
    assert report.notes == ("memberships and signatures were not checked: give the hub's key (--hub-key)",)


@pytest.mark.parametrize("place", [30, 200, -10])
def test_a_flipped_bit_in_a_signed_update(place: int, bucket: ObjectStore, joined: Joined) -> None:
    key = update_of(bucket, 1)
    flip(bucket, key, place)
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}


@pytest.mark.parametrize("signer", ["a stranger", "the key before"])
def test_an_update_that_another_key_signed(signer: str, bucket: ObjectStore, joined: Joined) -> None:
    key = update_of(bucket, 4)
    said = statements.verify(bucket.get(key), statements.Update, joined.north.key)
    earlier = bucket.get(update_of(bucket, 1))
    bucket.put(key, said.seal(Identity.new()) if signer == "a stranger" else earlier)
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}


def test_an_update_whose_signature_is_gone(bucket: ObjectStore, joined: Joined) -> None:
    key = update_of(bucket, 2)
    bucket.delete([key])
    assert found(bucket, hub=joined.hub.key) == {key: {"Missing"}}


def test_an_update_that_was_signed_for_another_round(bucket: ObjectStore, joined: Joined) -> None:
    key = update_of(bucket, 3)
    bucket.put(key, bucket.get(update_of(bucket, 4)))
    report = audit(bucket, hub=joined.hub.key)
    assert [(one.file, one.reason.value) for one in report.findings] == [(key, "WrongSignature")]
    assert "it was signed for something else: round is 4, not 3" in report.findings[0].message


@pytest.mark.parametrize("serial", [1, 2])
def test_a_record_of_a_member_that_was_removed(serial: int, bucket: ObjectStore, joined: Joined) -> None:
    key = keys.member("north", serial)
    bucket.delete([key])
    assert found(bucket, hub=joined.hub.key) == {key: {"Missing"}}


def test_a_revocation_that_was_removed(bucket: ObjectStore, joined: Joined) -> None:
    key = keys.member("south", 2)
    assert json.loads(bucket.get(key))["kind"] == "Revoked"
    bucket.delete([key])
    report = audit(bucket, hub=joined.hub.key)
    assert [(one.file, one.reason.value) for one in report.findings] == [(key, "Missing")]
    assert report.findings[0].message == "rounds/00004/plan.json says that south was no member then; no record does"


def test_all_records_of_a_member_that_were_removed(bucket: ObjectStore, joined: Joined) -> None:
    bucket.delete([info.key for info in bucket.list(keys.members_folder("north"))])
    assert found(bucket, hub=joined.hub.key) == {keys.member("north", 1): {"Missing"}}


def test_a_member_that_someone_else_became(bucket: ObjectStore, joined: Joined) -> None:
    stranger = Identity.new()
    edit(bucket, keys.member("north", 1), lambda record: record.update(key=stranger.key.text))
    assert found(bucket, hub=joined.hub.key) == {keys.member("north", 1): {"WrongMembership"}}


def test_a_commit_that_the_hub_did_not_sign(bucket: ObjectStore, joined: Joined) -> None:
    key = keys.commit_signature(2)
    said = statements.verify(bucket.get(key), statements.Commit, joined.hub.key)
    bucket.put(key, said.seal(Identity.new()))
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}

    bucket.delete([key])
    assert found(bucket, hub=joined.hub.key) == {key: {"Missing"}}

    bucket.put(key, said.model_copy(update={"keys": {}}).seal(joined.hub))
    assert found(bucket, hub=joined.hub.key) == {key: {"WrongSignature"}}


def test_the_last_commits_may_be_signed_later_but_not_all(bucket: ObjectStore, joined: Joined) -> None:
    bucket.delete([keys.commit_signature(number) for number in (LAST - 1, LAST)])
    assert holds(bucket, hub=joined.hub.key).notes == ("rounds 3 to 4: not signed by the hub, or not yet",)

    bucket.delete([keys.commit_signature(number) for number in range(LAST - 1)])
    assert found(bucket, hub=joined.hub.key) == {keys.commit_signature(0): {"Missing"}}


def test_an_evaluation_that_was_changed_has_no_signature(bucket: ObjectStore, joined: Joined) -> None:
    edit(bucket, keys.evaluation(2, "north"), lambda evaluation: evaluation["result"].update(lossSum=1.0))
    ((file, reasons),) = found(bucket, hub=joined.hub.key).items()
    assert (file.startswith(f"{keys.round_folder(2)}/signatures/evaluation-north-"), reasons) == (True, {"Missing"})


def test_the_key_of_another_hub_holds_for_nothing(bucket: ObjectStore) -> None:
    files = found(bucket, hub=Identity.new().key)
    assert {keys.member("north", 1), keys.member("south", 1), keys.commit_signature(0)} <= set(files)


def test_other_files_beside_the_records_of_members(bucket: ObjectStore, joined: Joined) -> None:
    for key in ("members/north/notes.txt", "members/north/1.json"):
        bucket.put(key, b"{}")
    files = found(bucket, hub=joined.hub.key)
    assert files == {"members/north/notes.txt": {"Foreign"}, "members/north/1.json": {"Foreign"}}
