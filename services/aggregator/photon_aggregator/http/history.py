"""The records of past rounds for who asks for them: from memory as far as it holds them, else from the bucket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import TypeAdapter

from photon.protocol.records import Evaluation, HeldOutResult, RoundLog
from photon.protocol.views import HistoryEntry
from photon.store import keys
from photon_aggregator.actions import recover
from photon_aggregator.bucket import records
from photon_aggregator.engine import Engine
from photon_aggregator.rounds.events import Head

MAX_ROUNDS: Final = 200
# Participants' entries in one answer: about a megabyte of JSON.
MAX_ENTRIES: Final = 2000


_ENTRIES: Final = TypeAdapter(list[HistoryEntry])


def rounds_asked(engine: Engine, after: int, limit: int) -> range:
    """The committed rounds later than ``after``: at most ``limit``, and no more than one answer holds."""
    head = engine.state.head
    if head is None:
        return range(0)
    at_once = max(1, min(limit, MAX_ENTRIES // max(1, len(engine.state.settings.participants))))
    return range(after + 1, min(head.round, after + at_once) + 1)


async def history(engine: Engine, rounds: range) -> bytes:
    """These rounds as a JSON list of ``HistoryEntry``.

    Raises:
        StoreError: The store does not answer, or lacks a record.
    """
    books, state = engine.books, engine.state
    known = {number: (books.commits[number], books.logs.get(number)) for number in rounds if number in books.commits}
    results = {number: state.evaluations.get(number, books.curves.results(number)) for number in rounds}

    def entry(number: int) -> HistoryEntry:
        head, log = known.get(number) or _read(engine, number)
        found = results[number]
        return _entry(head, log, recover.evaluations_of(engine.store, head) if found is None else found)

    def work() -> bytes:
        return _ENTRIES.dump_json(list(engine.bench.executors.requests.map(entry, rounds)), by_alias=True)

    return await engine.in_thread(work)


def _read(engine: Engine, number: int) -> tuple[Head, RoundLog | None]:
    head = recover.commit_of(engine.store, number)
    if head is None:
        raise records.RecordError(f"{engine.store.uri(keys.commit(number))} is missing")
    return head, recover.log_of(engine.store, number)


def _entry(head: Head, log: RoundLog | None, results: Mapping[str, HeldOutResult]) -> HistoryEntry:
    commit = head.commit
    # Older rounds in memory have no more than the sums; the records in the bucket do.
    evaluations = [
        Evaluation(job=commit.job, round=commit.round, commit=head.digest, participant=name, result=result.sums())
        for name, result in sorted(results.items())
    ]
    return HistoryEntry(digest=head.digest, commit=commit, log=log, evaluations=evaluations)
