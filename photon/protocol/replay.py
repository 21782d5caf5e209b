"""Who took part in each round of a job that is run again, so that both end with the same model.

Where institutions join, are revoked and leave, the chain of commits depends on when they did. ``photon run
--membership-of RUN`` repeats that history on one machine; the file between the launcher and the aggregator is this.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from photon.api.base import ApiModel, Name
from photon.protocol.records import Sha256

MAX_FILE_BYTES: Final = 256 * 2**20
RoundKey = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}$")]


class ReplayedRound(ApiModel):
    """``not_members``, ``absent``: left out of the plan as such. ``updates``: what the round took, by participant."""

    not_members: list[Name] = []
    absent: list[Name] = []
    updates: dict[Name, Sha256]


class Replay(ApiModel):
    """Rounds by number. A round that is not in it is run as usual."""

    rounds: dict[RoundKey, ReplayedRound]
