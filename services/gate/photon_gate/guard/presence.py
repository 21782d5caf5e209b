"""What the hub is told of this institution: that it is here, away by the policy's hours, or declines a task."""

from __future__ import annotations

from dataclasses import dataclass

from photon.api.status import JoinReason
from photon.policy.document import AtEnd
from photon.protocol.border import SiteState, StateReport
from photon_gate.guard.common import Common
from photon_gate.hub.errors import Declined


@dataclass(slots=True, kw_only=True)
class Presence:
    """``told``: what the hub heard last."""

    common: Common
    told: tuple[SiteState, str] = (SiteState.HERE, "")

    def tell(self, state: SiteState, reason: str) -> None:
        """Tell the hub once, by a code; a hub that does not take it misses nothing."""
        if self.told != (state, reason):
            self.told = state, reason
            try:
                self.common.client.state(StateReport(state=state, **({"reason": str(reason)} if reason else {})))
            except Declined:
                return

    def look_at_hours(self) -> None:
        """Whether the policy's hours allow work now; with atEnd Finish, a round under way is finished first."""
        training, said = self.common.memory.training, self.common.standing.progress
        finishing = (
            self.common.policy.at_end is AtEnd.FINISH
            and training is not None
            and said is not None
            and said.task_id == f"train-{training.round:05d}"
            and self.common.memory.update(training.round) is None
        )
        self.common.standing.closed_hours = not self.common.open_now and not finishing
        if self.common.standing.closed_hours:
            self.tell(SiteState.AWAY, JoinReason.OUTSIDE_HOURS)
            self.common.standing.is_at(JoinReason.OUTSIDE_HOURS.value, "the policy's hours do not allow work now")
