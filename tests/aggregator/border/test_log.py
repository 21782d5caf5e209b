"""The door's log: what happened, each entry linked to all before it, also after a crash and with two writers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from photon.protocol.border import MAX_DIGESTS
from photon.protocol.canonical import digest
from photon.store import keys
from photon.store.errors import StoreError
from photon.store.objects import ObjectStore
from photon.trust import statements
from photon.trust.log import MAX_ENTRIES, NOTHING, LogEntry, LogKind, Segment, follow
from photon.trust.members import MemberKind, MemberRecord
from photon_aggregator.bucket.door_log import SESSION_SECONDS, DoorLog
from photon_aggregator.bucket.records import RecordError
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker
from tests.aggregator.running import chain, working


def segments(store: ObjectStore) -> list[Segment]:
    return [Segment.model_validate_json(store.get(info.key)) for info in store.list(keys.LOG_SEGMENTS)]


def entries(store: ObjectStore) -> Iterator[tuple[LogEntry, str]]:
    """All entries, with the head after each; each segment continues the one before."""
    head, size = NOTHING, 0
    for segment in segments(store):
        assert (segment.first, segment.before) == (size + 1, head)
        for entry, one in zip(segment.entries, segment.digests, strict=True):
            head, size = follow(head, [one]), size + 1
            yield entry, head


def test_what_happens_at_the_door_is_logged_and_its_head_is_signed(hub: Hub) -> None:
    sites = [Site(name, [hub.url], hub=hub.identity.key, invitation=hub.invite(name)) for name in hub.remote]
    with hub.running() as running:
        for one in sites:
            one.join()
        with working(FakeWorker("home", [running.url]), *sites):
            running.wait()
    logged = list(entries(hub.store))
    heads = [NOTHING, *(head for _, head in logged)]
    assert {entry.participant for entry, _ in logged if entry.kind is LogKind.ENROLLED} == {"north", "south"}
    assert {entry.participant for entry, _ in logged if entry.kind is LogKind.SESSION} == {"north", "south"}
    first = next(entry for entry, _ in logged if entry.participant == "north")
    record = MemberRecord.model_validate_json(hub.store.get(keys.member("north", 1)))
    assert (first.kind, first.serial, first.subject) == (LogKind.ENROLLED, 1, digest(record))
    commits = chain(hub.store)
    assert [entry.subject for entry, _ in logged if entry.kind is LogKind.COMMITTED] == [digest(one) for one in commits]
    taken = {(entry.participant, entry.subject) for entry, _ in logged if entry.kind is LogKind.ACCEPTED}
    assert taken == {
        (one.participant, one.manifest) for each in commits for one in each.accepted if one.participant != "home"
    }
    for number, commit in enumerate(commits):
        said = statements.verify(hub.store.get(keys.commit_signature(number)), statements.Commit, hub.identity.key)
        assert said.audit_head == heads[said.audit_size]
        assert digest(commit) in {entry.subject for entry, _ in logged[: said.audit_size]}


def test_a_restart_goes_on_and_logs_what_a_crash_left_out(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    north, south = (Site(name, [hub.url], hub=hub.identity.key, invitation=hub.invite(name)) for name in hub.remote)
    with hub.running():
        north.join()
    before = list(entries(hub.store))
    assert [entry.participant for entry, _ in before if entry.serial] == ["north"]
    with monkeypatch.context() as patched, hub.running():
        patched.setattr(DoorLog, "flush", lambda _: None)  # killed before it was written
        south.enroll()
    assert list(entries(hub.store)) == before
    with hub.running() as running:
        running.until(lambda engine: engine.state.members_known)
        hello = north.hello()
    after = list(entries(hub.store))
    assert after[: len(before)] == before
    assert [entry.participant for entry, _ in after if entry.serial] == ["north", "south"]
    assert (hello.audit_size, hello.audit_head) == (len(after), after[-1][1])


def test_a_head_that_the_log_had_is_kept_when_a_member_signs_it(hub: Hub) -> None:
    north = Site("north", [hub.url], hub=hub.identity.key, invitation=hub.invite("north"))
    with hub.running():
        north.join()
        shown = north.hello()

        def cosign(size: int, head: str, signer: Site = north) -> int:
            assert north.hub is not None
            said = statements.Cosign(
                audience=north.hub.id, job=shown.job, participant="north", size=size, head=head
            ).seal(signer.identity)
            return north.http.post(f"{hub.url}/v1/cosign", json={"envelope": said.decode()}).status_code

        assert cosign(shown.audit_size, "ab" * 32) == 422
        assert cosign(shown.audit_size, shown.audit_head, Site("north", [hub.url])) == 403
        assert hub.store.head(keys.log_cosignature("north")) is None
        assert cosign(shown.audit_size, shown.audit_head) == 204
        digests = north.http.get(f"{hub.url}/v1/log?after=0").json()["digests"]
        assert follow(NOTHING, digests[: shown.audit_size]) == shown.audit_head
    kept = statements.verify(hub.store.get(keys.log_cosignature("north")), statements.Cosign, north.identity.key)
    assert (kept.size, kept.head) == (shown.audit_size, shown.audit_head)


# --- the log alone ---------------------------------------------------------------------------------------------------


def opened(store: ObjectStore, at: Callable[[], float] = lambda: 1000.0) -> DoorLog:
    made = DoorLog(store, clock=at)
    made.load(0)
    return made


def enrolled(log: DoorLog, name: str, serial: int = 1) -> None:
    record = MemberRecord(
        participant=name, serial=serial, kind=MemberKind.GRANTED, key="ed25519:" + "A" * 42 + "E", at=1000
    )
    log.member(record, digest(record), "ab" * 16)


def test_two_aggregators_write_one_chain(store: ObjectStore) -> None:
    one, other = opened(store), opened(store)
    enrolled(one, "north")
    one.commit(0, "00" * 32)
    one.flush()
    for name in ("north", "south"):
        enrolled(other, name)
    other.commit(0, "00" * 32)
    other.commit(1, "11" * 32)
    other.flush()
    one.commit(2, "22" * 32)
    one.flush()
    logged = [(entry.participant, entry.round) for entry, _ in entries(store)]
    assert logged == [("north", None), (None, 0), ("south", None), (None, 1), (None, 2)]
    assert opened(store).position == one.position
    assert (opened(store).members, opened(store).committed) == ({"north": 1, "south": 1}, 2)


def test_an_answer_that_was_lost_is_no_other_aggregator(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    log, create = opened(store), store.create

    def lost(key: str, data: bytes) -> bool:
        create(key, data)
        raise StoreError("the answer was lost")

    enrolled(log, "north")
    with monkeypatch.context() as patched:
        patched.setattr(store, "create", lost)
        with pytest.raises(StoreError):
            log.flush()
    log.flush()
    assert [entry.participant for entry, _ in entries(store)] == ["north"]
    assert log.size == 1


def test_what_does_not_continue_the_log_is_not_written_over(store: ObjectStore) -> None:
    log = opened(store)
    enrolled(log, "north")
    log.flush()
    forged = Segment(first=2, before="ab" * 32, entries=[LogEntry(kind=LogKind.SESSION)])
    store.put(keys.log_segment(2), forged.model_dump_json(by_alias=True).encode())
    enrolled(log, "south")
    with pytest.raises(RecordError, match=r"segments/0000000002\.json does not continue the log"):
        log.flush()


def test_sessions_are_written_with_what_is_urgent_or_after_minutes(store: ObjectStore) -> None:
    now = 1000.0
    log = opened(store, lambda: now)
    log.add(LogKind.SESSION, participant="north")
    assert not log.due
    now += SESSION_SECONDS
    assert log.due
    log.flush()
    log.add(LogKind.SESSION, participant="north")
    log.update("north", 1, "ab" * 32, None)
    log.update("north", 1, "ab" * 32, None)
    assert log.due
    log.flush()
    assert [len(segment.entries) for segment in segments(store)] == [1, 2]
    assert not log.due


def test_digests_of_long_ago_are_read_again_in_bounded_answers(store: ObjectStore) -> None:
    log = opened(store)
    for number in range(3 * MAX_ENTRIES):
        log.commit(number, f"{number:064x}")
        if number in (0, 5, 6):
            log.flush()
    log.flush()
    every = [one for segment in segments(store) for one in segment.digests]
    assert [len(segment.entries) for segment in segments(store)] == [1, 5, 1, 256, 256, 249]
    late = opened(store)
    assert late.position == (len(every), follow(NOTHING, every))
    for after in (0, 1, 3, 6, 7, 300, 519, 766, 768):
        assert late.digests(after, MAX_DIGESTS) == log.digests(after, MAX_DIGESTS) == every[after:]
    assert late.digests(2, 10) == every[2:12]
    hinted = DoorLog(store, clock=lambda: 0.0)
    hinted.load(600)
    assert hinted.position == late.position
