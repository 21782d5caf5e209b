"""What an institution is shown of what the hub signed: its own updates, and how the job ended; of either release."""

from __future__ import annotations

from photon.protocol.border import CommitsReply
from photon.protocol.canonical import digest
from photon.store import keys
from photon.trust import statements
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import FakeWorker
from tests.aggregator.running import Aggregator, chain, working


def finished(hub: Hub, running: Aggregator, *sites: Site) -> None:
    for one in sites:
        one.join()
    with working(FakeWorker("home", [running.url]), *sites):
        running.until(lambda engine: engine.state.outcome is not None)


def shown(worker: Site, hub: Hub) -> list[str]:
    site = Site(worker.name, [hub.url], hub=worker.hub, identity=worker.identity, protocol=worker.protocol)
    site.session()
    return CommitsReply.model_validate_json(site.http.get(f"{hub.url}/v1/commits").content).envelopes


def test_a_signed_commit_names_no_other_institution_and_a_finish_says_whether_it_failed(hub: Hub) -> None:
    north, south = (Site(n, [hub.url], hub=hub.identity.key, invitation=hub.invite(n)) for n in hub.remote)
    south.protocol = 1  # Of the release before.
    hub.linger_seconds = 30.0
    with hub.running(stop_when_done=False) as running:
        finished(hub, running, north, south)
        new = [statements.verify(one.encode(), statements.Commit2, hub.identity.key) for one in shown(north, hub)]
        old = [statements.verify(one.encode(), statements.Commit, hub.identity.key) for one in shown(south, hub)]
    commits = chain(hub.store)
    assert [one.commit for one in new] == [one.commit for one in old] == [digest(one) for one in commits]
    assert [(one.participant, one.key) for one in new] == [("north", None), *[("north", north.identity.key.id)] * 3]
    assert [one.keys for one in old] == [{}, *[{"south": south.identity.key.id}] * 3]
    kept = statements.verify(hub.store.get(keys.commit_signature(3)), statements.Commit, hub.identity.key)
    assert set(kept.keys) == {"north", "south"}
    assert (kept.audit_size, kept.audit_head) == (new[3].audit_size, new[3].audit_head)

    end = statements.verify(north.envelopes[-1].encode(), statements.Task2, hub.identity.key)
    assert (end.kind, end.reason, end.failed) == ("finish", "RoundsDone", False)
    end_before = statements.verify(south.envelopes[-1].encode(), statements.Task, hub.identity.key)
    assert (end_before.kind, end_before.reason) == ("finish", "RoundsDone")
