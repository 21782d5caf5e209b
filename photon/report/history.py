"""A run's history: every record of every round, read from the bucket and kept as lines of JSON beside the checkpoint.

The report and the summary are made from this file alone, so they can be made again when the bucket is long gone. A line
is ``{"kind": "commit" | "log" | "evaluation" | "job" | "event", ...}``. An event of the aggregator is kept whole, as
``event``; ``what`` and ``message`` are its text for people.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from photon.api.learning import LearningJob
from photon.errors import PhotonError, UserError
from photon.protocol.canonical import sha256_hex
from photon.protocol.records import Commit, Evaluation, Plan, RoundLog
from photon.protocol.views import EventLine
from photon.store import keys
from photon.store.objects import ObjectStore

_READERS: Final = 8
_AT_ONCE: Final = 256
_RECORD: Final = re.compile(
    r"^rounds/\d+/(?:(commit)\.json|(plan)(?:-\d+)?\.json|(log)\.json|(evaluation)s/[^/]+\.json|(event)s\.jsonl)$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """What happened in a run, for people. ``record``: the aggregator's own event; None where the launcher or an earlier
    release wrote the line, or where it cannot be read. ``kind`` is its kind also then, as far as the line says one."""

    time: str = ""
    message: str = ""
    kind: str = ""
    record: EventLine | None = None

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> RunEvent:
        """The event of a line of the history, whatever release wrote it."""
        time, message, kind = (str(line.get(name) or "") for name in ("time", "message", "what"))
        return cls(time=time, message=message, kind=kind, record=_readable(line.get("event")))


def _readable(entry: Any) -> EventLine | None:
    try:
        return EventLine.model_validate(entry, extra="ignore")
    except ValidationError:
        return None


@dataclass(slots=True, kw_only=True)
class History:
    """All records of a run. ``digests`` are those of the commits; ``plans`` those that left
    somebody out; evaluations are by round and participant."""

    name: str
    learning: LearningJob | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    commits: dict[int, Commit] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    plans: dict[int, Plan] = field(default_factory=dict)
    logs: dict[int, RoundLog] = field(default_factory=dict)
    evaluations: dict[int, dict[str, Evaluation]] = field(default_factory=dict)
    events: list[RunEvent] = field(default_factory=list)

    @property
    def last_round(self) -> int:
        """The last committed round; -1 when not even the initial model is there."""
        return max(self.commits, default=-1)


def read_bucket(store: ObjectStore) -> Iterator[str]:
    """The lines of the history, in the order of rounds. Some records are in memory at a time, whatever their number."""
    job = [keys.JOB] if store.head(keys.JOB) is not None else []
    found = chain(job, (info.key for info in store.list(keys.ROUNDS) if _RECORD.match(info.key)))
    with ThreadPoolExecutor(_READERS) as pool:
        while some := list(islice(found, _AT_ONCE)):
            for key, body in zip(some, pool.map(store.get, some), strict=True):
                match = _RECORD.match(key)
                kind = next(filter(None, match.groups())) if match else "job"
                if kind == "plan" and b'"leftOut"' not in body:
                    continue
                for line in _events(body) if kind == "event" else [_line(kind, body)]:
                    yield json.dumps(line, separators=(",", ":"), allow_nan=False)


def _line(kind: str, body: bytes) -> dict[str, Any]:
    line = {"kind": kind, "record": json.loads(body)}
    return {**line, "digest": sha256_hex(body)} if kind == "commit" else line


def _events(body: bytes) -> Iterator[dict[str, Any]]:
    """The aggregator's events of a round, in the form of the launcher's own (time and message); what cannot be read
    is left out: no record depends on it."""
    for text in body.split(b"\n"):
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError):
            continue
        record = _readable(entry)
        if record is None:
            continue
        words = " ".join(filter(None, (record.kind, record.participant, record.reason)))
        message = f"round {record.round}: {words}" + (f": {record.message}" if record.message else "")
        yield {"kind": "event", "time": record.at, "what": record.kind, "message": message, "event": entry}


def parse(lines: Iterable[str], *, name: str) -> History:
    """The history in ``lines``.

    Raises:
        ValueError: A line is no record.
    """
    history = History(name=name)
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            _add(history, json.loads(text))
        except (ValidationError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"line {number} is no record of a run: {error}") from error
    return history


def _add(history: History, line: dict[str, Any]) -> None:
    match line["kind"]:
        case "job":
            history.learning = LearningJob.model_validate(line["record"])
        case "settings":
            history.settings = dict(line["record"])
        case "commit":
            commit = Commit.model_validate(line["record"])
            history.commits[commit.round] = commit
            history.digests[commit.round] = str(line["digest"])
        case "plan":
            plan = Plan.model_validate(line["record"])
            history.plans[plan.round] = plan
        case "log":
            log = RoundLog.model_validate(line["record"])
            history.logs[log.round] = log
        case "evaluation":
            evaluation = Evaluation.model_validate(line["record"])
            history.evaluations.setdefault(evaluation.round, {})[evaluation.participant] = evaluation
        case "event":
            history.events.append(RunEvent.of(line))
        case _:
            raise KeyError(line["kind"])


def load(run: Path) -> History:
    """The history of the run in folder ``run`` (or of its history.jsonl itself).

    Raises:
        UserError: It is not a run, or has no round yet.
        PhotonError: The file is broken.
    """
    path = run if run.is_file() else run / "history.jsonl"
    if not path.is_file():
        raise UserError(f"{run} holds no history.jsonl: give the folder of a run, such as runs/demo")
    # A folder's name may hold bytes that are not UTF-8, or come through a locale that is not.
    name = os.fsencode(path.parent.name).decode(errors="replace")
    try:
        with path.open(encoding="utf-8") as lines:
            return parse(lines, name=name)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (ValueError, RecursionError) as error:
        raise PhotonError(f"{path} cannot be read: {error}") from error
