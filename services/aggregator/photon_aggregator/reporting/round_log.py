"""The logs next to a round's records: times, bytes, outcomes, events. Not hashed; for people and reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from photon.protocol.ranges import MAX_COUNT
from photon.protocol.records import ParticipantLog, Phase, RoundLog
from photon.protocol.views import EventRecord
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.reporting.books import JobBooks, iso
from photon_aggregator.rounds.events import Admission, Head
from photon_aggregator.rounds.state import CheckState, OpenRound

Amount = TypeVar("Amount", int, float)


def round_log(books: JobBooks, head: Head, open_round: OpenRound | None, at: float) -> RoundLog:
    """The log of the round that ``head`` committed; ``open_round`` is how it stood before.

    The seconds of a phase are those of the slowest participant, and the aggregator's own for admit, merge and commit;
    ``wait`` is the time that these do not account for. A participant's ``wait`` is the time in which it did nothing.
    """
    cohort = open_round.plan.cohort if open_round is not None else [u.participant for u in head.commit.accepted]
    opened_at = books.opened_at if books.opened_at is not None else at
    participants = {name: _participant(books, name, head, open_round, at - opened_at) for name in _names(books, cohort)}
    seconds: dict[Phase, float] = {}
    for entry in participants.values():
        for phase, spent in entry.seconds.items():
            if phase == "wait":
                continue
            seconds[phase] = max(seconds.get(phase, 0.0), spent)
    seconds.update(books.aggregator_seconds)
    seconds["wait"] = _rest(at - opened_at, seconds)
    return RoundLog(
        round=head.round,
        started_at=iso(opened_at),
        committed_at=iso(at),
        seconds=seconds,
        participants=participants,
        bytes_up=_total(entry.bytes_up for entry in participants.values()),
        bytes_down=_total(entry.bytes_down for entry in participants.values()),
        update_bytes=_total(p.size_bytes for a in _merged(head, open_round) for p in a.manifest.parts),
    )


def nothing(round_number: int, at: float) -> RoundLog:
    """The log of a round of which no more is known than that it ended."""
    return RoundLog(round=round_number, started_at=iso(at), committed_at=iso(at))


def with_evaluations(log: RoundLog, books: JobBooks) -> RoundLog:
    """The last round's log once more, with what participants did after its commit."""
    participants = dict(log.participants)
    for name in _names(books, list(participants)):
        entry, share = participants.get(name, ParticipantLog(outcome="Idle")), books.book(name).round_usage
        # Validated like every record that is written: a copy would take any value.
        participants[name] = ParticipantLog.model_validate(
            dict(entry)
            | {
                "seconds": _added(entry.seconds, share.seconds),
                "retries": _added(entry.retries, share.retries),
                "bytes_up": _total([entry.bytes_up, share.bytes_up]),
                "bytes_down": _total([entry.bytes_down, share.bytes_down]),
            }
        )
    evaluate = max((entry.seconds.get("evaluate", 0.0) for entry in participants.values()), default=0.0)
    seconds: dict[Phase, float] = {**log.seconds, "evaluate": evaluate} if evaluate else dict(log.seconds)
    return RoundLog.model_validate(
        dict(log)
        | {
            "seconds": seconds,
            "participants": participants,
            "bytes_up": _total(entry.bytes_up for entry in participants.values()),
            "bytes_down": _total(entry.bytes_down for entry in participants.values()),
        }
    )


def _total(counts: Iterable[int]) -> int:
    """A sum that a record can hold."""
    return min(MAX_COUNT, sum(counts))


def write(store: ObjectStore, log: RoundLog, events: Sequence[EventRecord]) -> None:
    """Put the log of a round and its events (JSON, a line each) into the bucket."""
    store.put(keys.round_log(log.round), _log_bytes(log))
    store.put(keys.round_events(log.round), _event_lines(events))


def append(store: ObjectStore, log: RoundLog, events: Sequence[EventRecord]) -> None:
    """Put a log again, and add events to those of the round that the bucket has."""
    key = keys.round_events(log.round)
    before = store.get(key) if store.head(key) is not None else b""
    store.put(keys.round_log(log.round), _log_bytes(log))
    store.put(key, before + _event_lines(events))


def _log_bytes(log: RoundLog) -> bytes:
    return json.dumps(log.model_dump(mode="json", by_alias=True)).encode() + b"\n"


def _event_lines(events: Sequence[EventRecord]) -> bytes:
    return "".join(record.model_dump_json(by_alias=True) + "\n" for record in events).encode()


def _names(books: JobBooks, cohort: Sequence[str]) -> list[str]:
    return sorted({*cohort, *(name for name, book in books.participants() if book.round_usage.seconds)})


def _merged(head: Head, open_round: OpenRound | None) -> list[Admission]:
    """The updates that the commit was made of, as far as this aggregator admitted them itself."""
    manifests = {update.manifest for update in head.commit.accepted}
    return [a for a in open_round.admissions if a.digest in manifests] if open_round is not None else []


def _participant(
    books: JobBooks, name: str, head: Head, open_round: OpenRound | None, duration: float
) -> ParticipantLog:
    book = books.book(name)
    accepted = {update.participant: update for update in head.commit.accepted}
    submission = open_round.submissions.get(name) if open_round is not None else None
    message = ""
    if name in accepted:
        outcome = "Accepted"
    elif submission is not None and submission.check is CheckState.REFUSED and submission.reason is not None:
        outcome, message = submission.reason.value, submission.message
    elif open_round is not None and name not in open_round.plan.cohort:
        outcome = "NotInCohort"
    elif head.commit.rollback is not None:
        outcome = "RolledBack"
    else:
        outcome = "Late"
    progress = book.progress
    return ParticipantLog(
        outcome=outcome,
        message=message,
        seconds={**book.round_usage.seconds, "wait": _rest(duration, book.round_usage.seconds)},
        retries=book.round_usage.retries,
        tokens=accepted[name].tokens if name in accepted else 0,
        tokens_per_second=progress.tokens_per_second if progress is not None else None,
        mfu=progress.mfu if progress is not None else None,
        memory_bytes=progress.memory_bytes if progress is not None else None,
        bytes_up=book.round_usage.bytes_up,
        bytes_down=book.round_usage.bytes_down,
    )


def _rest(duration: float, seconds: Mapping[Phase, float]) -> float:
    """What of ``duration`` no phase but waiting accounts for."""
    return max(0.0, duration - sum(spent for phase, spent in seconds.items() if phase != "wait"))


def _added(first: Mapping[Phase, Amount], second: Mapping[Phase, Amount]) -> dict[Phase, Amount]:
    return {phase: first.get(phase, 0) + second.get(phase, 0) for phase in [*first, *second]}
