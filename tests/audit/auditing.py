"""Jobs of fake workers in the real store, audited; and somebody who changes what they left."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from photon.api.job import FederatedTrainingJob
from photon.protocol.canonical import canonical_json, sha256_hex
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.audit.findings import Report, Verdict
from photon_aggregator.audit.run import audit
from photon_aggregator.rounds.taking import inputs_digest
from tests.aggregator.fake_worker import FakeWorker, write_round_zero
from tests.aggregator.running import aggregator, working


def trained(job: FederatedTrainingJob, store: ObjectStore, *, first: bool = True) -> None:
    """Run ``job`` to its end with an honest worker for each participant."""
    if first:
        write_round_zero(job, store)
    names = [participant.name for participant in job.spec.participants]
    with aggregator(job, store) as running, working(*[FakeWorker(name, [running.url]) for name in names]):
        running.wait()
    assert (running.error, running.code) == (None, 0)


def holds(store: ObjectStore, **options: Any) -> Report:
    report = audit(store, **options)
    assert (report.verdict, report.findings) == (Verdict.HOLDS, ()), report
    return report


def found(store: ObjectStore, **options: Any) -> dict[str, set[str]]:
    """Reasons by file."""
    report = audit(store, **options)
    assert report.verdict is Verdict.TAMPERED, report
    files: dict[str, set[str]] = {}
    for one in report.findings:
        files.setdefault(one.file, set()).add(one.reason.value)
    return files


def key_of(store: ObjectStore, prefix: str, suffix: str = "") -> str:
    """The first object whose key begins and ends so."""
    return next(info.key for info in store.list(prefix) if info.key.endswith(suffix))


def flip(store: ObjectStore, key: str, place: int = -3) -> None:
    """Turn one bit of an object."""
    data = bytearray(store.get(key))
    data[place] ^= 1
    store.put(key, bytes(data))


def edit(store: ObjectStore, key: str, change: Callable[[Any], None]) -> None:
    """Change a record and nothing else."""
    record = json.loads(store.get(key))
    change(record)
    store.put(key, canonical_json(record))


def edit_and_chain(store: ObjectStore, number: int, change: Callable[[Any], None], last: int) -> None:
    """Change the commit of a round, and let every record after it, and what is named by them, follow from it again."""
    edit(store, keys.commit(number), change)
    _evaluated(store, number)
    for later in range(number + 1, last + 1):
        base = sha256_hex(store.get(keys.commit(later - 1)))
        edit(store, keys.plan(later), lambda plan, base=base: plan.update(base=base))
        _rechain(store, later, base)
        _evaluated(store, later)


def _rechain(store: ObjectStore, number: int, base: str) -> None:
    plan = sha256_hex(store.get(keys.plan(number)))
    commit = json.loads(store.get(keys.commit(number)))
    manifests: dict[str, str] = {}
    for update in commit["accepted"]:
        key = keys.manifest(number, update["participant"])
        edit(store, key, lambda manifest: manifest.update(plan=plan))
        update["manifest"] = manifests[update["participant"]] = sha256_hex(store.get(key))
    edit(store, keys.closing(number), lambda closing: closing.update(plan=plan, updates=manifests))
    folder = keys.global_folder(number, inputs_digest(plan, manifests, {}))
    for info in list(store.list(f"{commit['folder']}/")):
        store.put(f"{folder}/{info.key.rsplit('/', 1)[1]}", store.get(info.key))
        store.delete([info.key])
    commit.update(plan=plan, previous=base, folder=folder)
    store.put(keys.commit(number), canonical_json(commit))


def _evaluated(store: ObjectStore, number: int) -> None:
    commit = sha256_hex(store.get(keys.commit(number)))
    for info in list(store.list(f"{keys.evaluations_folder(number)}/")):
        edit(store, info.key, lambda evaluation: evaluation.update(commit=commit))
