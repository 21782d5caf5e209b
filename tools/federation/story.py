"""A job across institutions, step by step: they are invited, join, are revoked, leave, and the job completes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tools.federation.places import Place, filled_in, status, wait, write_yaml

JOB: Final = "joint"
SECONDS: Final = 900.0
# Small rounds of a demo would be refused by the default policy, which protects real text.
POLICY: Final = {"minCohort": 1, "minTokensPerUpdate": 0}


@dataclass
class Story:
    """``data``: prepared text by institution. ``spec``: the job's, but for participants. ``door``: options of the hub's
    ``photon run``. ``say``: told what happens. ``gone``: who was
    revoked or has left, and may end as it likes."""

    hub: Place
    sites: Mapping[str, Place]
    data: Mapping[str, Path]
    spec: Mapping[str, Any]
    door: tuple[str, ...]
    say: Callable[[str], None] = print
    gone: set[str] = field(default_factory=set)

    def document(self, participants: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
        """The job with these participants."""
        return {
            "apiVersion": "photon.dev/v1alpha1",
            "kind": "FederatedTrainingJob",
            "metadata": {"name": JOB},
            "spec": {**self.spec, "participants": participants, **changes},
        }

    def open_hub(self, *, at_once: int) -> None:
        """The hub runs the job and waits for ``at_once`` institutions."""
        job = self.document(
            [{"name": name, "remote": {}} for name in sorted(self.sites)],
            participation={**self.spec.get("participation", {}), "minParticipants": at_once},
        )
        write_yaml(self.hub.folder / "hub.yaml", job)
        self.hub.photon("identity")
        self.hub.start("run", "hub.yaml", *self.door)
        wait("the hub's door", lambda: (self.hub.run_folder(JOB) / "door.json").exists(), places=[self.hub], seconds=60)

    def join(self, name: str) -> None:
        """Invite an institution; it fills the invitation in, checks it and joins."""
        site = self.sites[name]
        site.photon("identity")
        invitation = self.hub.photon("invite", str(self.hub.run_folder(JOB)), name).stdout
        file = site.folder / "invitation.yaml"
        file.write_text(filled_in(invitation, self.data[name]))
        file.chmod(0o600)
        write_yaml(site.folder / "policy.yaml", POLICY)
        site.photon("check", str(file), "--policy", "policy.yaml")
        site.start("run", str(file), "--policy", "policy.yaml")
        self.say(f"{name} was invited and joins")

    def wait_for_round(self, number: int) -> dict[str, Any]:
        """Until that number of rounds is committed."""
        return self.wait(f"round {number}", lambda now: now["committedRounds"] >= number)

    def wait(self, what: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Until something holds of the hub's status."""

        def look() -> dict[str, Any] | None:
            now = status(self.hub, JOB)
            return now if now is not None and now["conditions"] and holds(now) else None

        places = [self.hub, *(site for name, site in self.sites.items() if name not in self.gone)]
        found: dict[str, Any] = wait(what, look, places=places, seconds=SECONDS)
        return found

    def takes_part(self, name: str) -> bool:
        """Whether the hub merged an update of an institution."""

        def merged(now: dict[str, Any]) -> bool:
            return any(one["name"] == name and one.get("lastRound") for one in now["participants"])

        self.wait(f"an update of {name}", merged)
        return True

    def finish(self) -> dict[str, Any]:
        """Until the job is complete at the hub; its summary."""
        wait("the end of the job", lambda: self.hub.ended() is not None, places=[self.hub], seconds=SECONDS)
        summary: dict[str, Any] = json.loads((self.hub.run_folder(JOB) / "summary.json").read_text())
        return summary

    def at_home(self, place: Place) -> dict[str, Any]:
        """The same job with the same membership on one machine; its summary."""
        job = self.document(
            [{"name": name, "worker": {"data": {"uri": str(self.data[name])}}} for name in sorted(self.sites)]
        )
        write_yaml(place.folder / "job.yaml", job)
        repeat = ("--membership-of", str(self.hub.run_folder(JOB)))
        place.photon("run", "job.yaml", "--quiet", *repeat, seconds=SECONDS)
        summary: dict[str, Any] = json.loads((place.run_folder(JOB) / "summary.json").read_text())
        return summary

    def stop(self) -> None:
        """End whatever still runs."""
        for place in (*self.sites.values(), self.hub):
            place.stop()
