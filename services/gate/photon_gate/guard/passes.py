"""URLs of the hub's store become addresses at the relay: each for one object, of one size, for a limited time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from photon.protocol.messages import EvaluateTask, GlobalModel, ObjectGet, PartUpload, Task, TrainTask
from photon.protocol.records import Part
from photon_gate.guard.standing import Standing
from photon_gate.hub.checks import not_trusted
from photon_gate.relay.grants import MAX_VALID_SECONDS, GrantRefused, Grants

PART_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """``relay_url``: as workers reach the relay."""

    grants: Grants
    standing: Standing
    relay_url: str

    def task(self, task: TrainTask | EvaluateTask) -> Task:
        """A task whose files are fetched through the relay. Raises Contradiction."""
        valid = max(1, min(task.model.valid_seconds, MAX_VALID_SECONDS))
        files = []
        for each in task.model.files:
            granted = self._grant(
                lambda each=each: self.grants.get(  # type: ignore[misc]
                    each.url,
                    what=each.file.name,
                    size_bytes=each.file.size_bytes,
                    valid_seconds=valid,
                    round=task.model.round,
                )
            )
            files.append(ObjectGet(file=each.file, url=granted))
        model = GlobalModel(round=task.model.round, commit=task.model.commit, files=files, valid_seconds=valid)
        changed: dict[str, object] = {"model": model}
        if isinstance(task, EvaluateTask):
            # Names of data folders stay here.
            changed["by_source"] = False
        return task.model_copy(update=changed)

    def upload(self, round_number: int, each: PartUpload, wanted: dict[int, Part]) -> PartUpload:
        """Where to write a part of ``wanted``, through the relay. Raises Contradiction."""
        part = wanted.get(each.index)
        if part is None:
            raise not_trusted(f"it answers for part {each.index}, which was not asked for")
        if each.present:
            return PartUpload(index=each.index, present=True)
        url = self._grant(
            lambda: self.grants.put(
                each.url,
                each.headers,
                what=f"part {each.index}",
                size_bytes=part.size_bytes,
                sha256=part.sha256,
                valid_seconds=PART_SECONDS,
                round=round_number,
            )
        )
        return PartUpload(index=each.index, url=url, headers=each.headers)

    def _grant(self, make: Callable[[], str]) -> str:
        """The relay's URL. Raises Contradiction: the hub names a place, or headers, that do not pass."""
        try:
            return f"{self.relay_url}/o/{make()}"
        except GrantRefused as error:
            self.standing.refusal("GrantRefused")
            raise not_trusted(f"it sends bytes elsewhere: {error}") from error
