"""Parts of an update on their way out: of the round under way, within the model's size, a bounded number of times."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from photon.protocol.messages import PartsReply, PartsRequest
from photon.protocol.records import Part
from photon_gate.guard.common import Common
from photon_gate.guard.memory import Training
from photon_gate.guard.passes import Passes

# The header of a part, a small safetensors file; and how often all parts of a round may be sent.
PART_HEADER: Final = 64 * 1024
TIMES: Final = 4


@dataclass(slots=True, kw_only=True)
class Parts:
    """``sent``: round, sha256 and size of parts that were seen to leave."""

    common: Common
    passes: Passes
    sent: set[tuple[int, str, int]]
    _lock: Lock = field(default_factory=Lock)
    _granted: dict[int, set[str]] = field(default_factory=dict)
    _spent: dict[int, int] = field(default_factory=dict)

    def grant(self, round_number: int, request: PartsRequest) -> PartsReply:
        """Where to write parts of the update under way: at the relay."""
        training = self.common.training(round_number, request.plan)
        wanted = {part.index: part for part in request.parts}
        if len(wanted) != len(request.parts):
            raise self.common.record.refused("WrongParts", "parts: an index is given twice")
        for part in request.parts:
            self._in_bounds(part, training)
        with self._lock:
            if round_number not in self._granted:
                self._granted, self._spent = {round_number: set()}, {round_number: 0}
                self.sent.difference_update({one for one in self.sent if one[0] < round_number})
            fresh = {part.sha256: part.size_bytes for part in request.parts}
            more = sum(size for sha, size in fresh.items() if sha not in self._granted[round_number])
            if self._spent[round_number] + more > TIMES * (training.model_bytes + PART_HEADER):
                raise self.common.record.refused(
                    "TooMuch", f"the parts of round {round_number} exceed {TIMES} times the model"
                )
            self._granted[round_number].update(fresh)
            self._spent[round_number] += more
        reply = self.common.client.parts(round_number, request)
        self.common.standing.heard()
        uploads = [self.passes.upload(round_number, each, wanted) for each in reply.uploads]
        return PartsReply(uploads=uploads)

    def _in_bounds(self, part: Part, training: Training) -> None:
        if part.stop <= part.start or part.size_bytes > 4 * (part.stop - part.start) + PART_HEADER:
            raise self.common.record.refused("WrongParts", f"part {part.index} has more bytes than its elements take")
        if 4 * part.stop > training.model_bytes:
            raise self.common.record.refused("WrongParts", f"part {part.index} ends after the model")
