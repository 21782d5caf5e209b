"""What the worker says of its progress: cut to what the policy reveals, and not more often than the hub needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from photon.policy.document import AtEnd
from photon.protocol.messages import Progress, ProgressReply
from photon_gate.guard import reveal
from photon_gate.guard.common import Common

REPORT_SECONDS: Final = 5.0


@dataclass(slots=True, kw_only=True)
class Reports:
    """``steady``: seconds that never go back."""

    common: Common
    steady: Callable[[], float]
    _lock: Lock = field(default_factory=Lock)
    _reported: tuple[float, str] = (float("-inf"), "")
    _cancel: bool = False

    def progress(self, said: Progress) -> ProgressReply:
        """What the worker does: passed on cut, every few seconds and when its phase changes."""
        self.common.job()
        self.common.standing.progress = said
        if self.common.standing.finish is not None:
            return ProgressReply(cancel=True)
        self.common.reached()
        if not self.common.open_now and self.common.policy.at_end is AtEnd.STOP:
            return ProgressReply(cancel=True)
        with self._lock:
            now, what = self.steady(), f"{said.task_id} {said.phase}"
            if now < self._reported[0] + REPORT_SECONDS and what == self._reported[1]:
                return ProgressReply(cancel=self._cancel)
            self._reported = now, what
        reply = self.common.client.progress(reveal.of_progress(self.common.policy.reveal, said))
        self.common.standing.heard()
        self._cancel = reply.cancel
        return reply
