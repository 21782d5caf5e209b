"""The few moments of a participant's life that concern all of its processes.

``RoundTrainer`` is written for one process. Where there are several it runs in the main one and asks a ProcessControl
at these moments (distributed/leader.py); where there is one, nothing has to be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from photon_worker.training.strategy import Strategy


class ProcessControl(Protocol):
    """What a RoundTrainer needs of its processes."""

    def strategy(self, config: Any) -> Strategy:
        """Model and optimizer of a transformers config, over all processes."""
        ...

    def training(self, *, first_step: int, done: int, until: int) -> AbstractContextManager[None]:
        """Around the training loop; the others run the same."""
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Around an evaluation; the others run the same."""
        ...

    def attention(self, *, wanted: bool) -> bool:
        """Between two steps: whether anybody wants attention. If so, ``resume`` or an exception must follow.

        A signal that another process was sent is then pending here too.
        """
        ...

    def resume(self) -> None:
        """Go on."""
        ...


class SingleProcess:
    """A participant of one process."""

    def __init__(self, new_strategy: Callable[[Any], Strategy]) -> None:
        self._new_strategy = new_strategy

    def strategy(self, config: Any) -> Strategy:
        return self._new_strategy(config)

    def training(self, *, first_step: int, done: int, until: int) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def evaluating(self) -> AbstractContextManager[None]:
        return nullcontext()

    def attention(self, *, wanted: bool) -> bool:  # noqa: ARG002
        return True  # there is no other process to ask, and looking again costs nothing

    def resume(self) -> None:
        return
