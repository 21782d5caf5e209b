"""What the stop rules remember of validation losses: a bounded number, whatever the number of rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PastLosses:
    """The least validation losses, nats a token, of the rounds up to ``through``, whose results are no longer kept.

    ``own``: those of each participant on its own text; ``least``: of all together. None: nothing was measured.
    """

    through: int = -1
    least: float | None = None
    own: Mapping[str, float] = field(default_factory=dict)

    def followed_by(self, round_number: int, loss: float | None, own: Mapping[str, float]) -> PastLosses:
        """These and the losses of a later round."""
        return PastLosses(
            through=round_number,
            least=least([self.least, loss]),
            own={**self.own, **{name: min(value, self.own.get(name, value)) for name, value in own.items()}},
        )


def least(losses: list[float | None]) -> float | None:
    """The least of those that there are."""
    return min((loss for loss in losses if loss is not None), default=None)
