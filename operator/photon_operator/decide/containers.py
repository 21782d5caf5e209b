"""The containers of a pod beside the one that runs our program: of patches, and of what admission adds (a mesh).

An init container that fails keeps our program from ever starting, so there is no record of it to read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from photon_operator.children import names
from photon_operator.children.kinds import Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Helper:
    """A container that is not ours. ``init``: it is an init container. ``waiting``: why it does not run, as Kubernetes
    says. ``ended``: how it last ended."""

    name: str
    init: bool
    image: str
    waiting: Object | None
    ended: Object | None

    @property
    def title(self) -> str:
        """As people name it."""
        return f"the {'init ' if self.init else ''}container {self.name}"

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than well, the last time that it did."""
        return self.ended is not None and self.ended.get("exitCode") != 0


def helpers(pod: Object) -> Iterator[Helper]:
    """Those of a pod, in the order in which they start."""
    status = pod.get("status", {})
    ours = (pod["metadata"].get("labels") or {}).get(names.ROLE)
    for key in ("initContainerStatuses", "containerStatuses"):
        for found in status.get(key) or ():
            if found.get("name") == ours and key == "containerStatuses":
                continue
            state: Object = found.get("state") or {}
            yield Helper(
                name=str(found.get("name")),
                init=key == "initContainerStatuses",
                image=str(found.get("image") or ""),
                waiting=state.get("waiting"),
                ended=state.get("terminated") or (found.get("lastState") or {}).get("terminated"),
            )


def failed(pod: Object) -> Helper | None:
    """The first that failed."""
    return next((helper for helper in helpers(pod) if helper.failed), None)
