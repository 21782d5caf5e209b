"""What the guards decide, in the ledger and the counts, before it takes effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from photon_gate.guard.standing import Standing
from photon_gate.hub.errors import Declined
from photon_gate.ledger.book import Ledger
from photon_gate.ledger.entries import MAX_TEXT, Direction, What

MAX_ENVELOPE_KEPT: Final = 8192


@dataclass(slots=True, kw_only=True)
class Record:
    """Of one gate. Thread-safe."""

    ledger: Ledger
    standing: Standing
    _lock: Lock = field(default_factory=Lock)
    _marks: set[str] = field(default_factory=set)

    def add(
        self,
        direction: Direction,
        kind: str,
        decision: str,
        name: str,
        round_number: int | None,
        *,
        envelope: str = "",
        message: str = "",
        size: int = 0,
    ) -> None:
        """Raises LedgerError: then nothing crosses."""
        sha256 = name if len(name) == 64 else None
        self.ledger.append(
            What(
                direction=direction,
                kind=kind,
                decision=decision,
                name="" if sha256 else name[:MAX_TEXT],
                round=round_number,
                bytes=size or None,
                sha256=sha256,
                envelope=envelope if 0 < len(envelope) <= MAX_ENVELOPE_KEPT else None,
                message=message[:MAX_TEXT],
            )
        )

    def once(
        self,
        kind: str,
        decision: str,
        name: str,
        round_number: int,
        *,
        envelope: str = "",
        message: str = "",
        size: int = 0,
    ) -> bool:
        """Record what leaves, the first time in the life of this process; whether it was."""
        with self._lock:
            mark = f"{kind} {decision} {name}"
            if mark in self._marks:
                return False
            if len(self._marks) > 64:
                self._marks.clear()
            self.add(Direction.OUT, kind, decision, name, round_number, envelope=envelope, message=message, size=size)
            self._marks.add(mark)
            if size:
                self.standing.crossed("out", kind.lower(), size)
            return True

    def refused(self, reason: str, message: str, status: int = 422) -> Declined:
        """Count and record a request of the worker that stays here; what to raise."""
        self.standing.refusal(reason)
        self.add(Direction.OUT, "Request", "Refused", reason, None, message=message)
        return Declined(status, "UnknownRound" if status == 404 else "InvalidRequest", f"the gate: {message}")
