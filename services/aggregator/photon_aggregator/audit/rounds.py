"""Everything that the bucket holds of one round, and what of the job the checks of a round need."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pydantic import BaseModel

from photon.api.learning import LearningJob
from photon.protocol.records import Closing, Commit, End, Evaluation, Plan, UpdateManifest
from photon.store import keys
from photon.store.errors import NotFound
from photon.store.objects import ObjectInfo
from photon.trust.keys import Key
from photon.trust.members import Member
from photon_aggregator.audit.findings import Figures, Finding, Reason, finding
from photon_aggregator.audit.place import Place, Stored
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.bucket.update_layout import UpdateLayout
from photon_aggregator.rounds.events import Head
from photon_aggregator.rounds.rollback import TRAIL

Model = TypeVar("Model", bound=BaseModel)

# photon.api.base.Name
NAME: Final = r"[a-z0-9](?:[-a-z0-9]{0,38}[a-z0-9])?"
_MANIFEST: Final = re.compile(rf"updates/({NAME})/manifest\.json")
_EVALUATION: Final = re.compile(rf"evaluations/({NAME})\.json")


@dataclass
class History:
    """Where a participant stood: before its first record, and after each. ``digests``: of its records. ``place``: what
    the rounds have reached.

    ``broken``: something of it is a finding already, and what follows from that is none.
    """

    standing: list[Member]
    digests: list[str] = field(default_factory=list)
    place: int = 0
    broken: bool = False

    def reaches(self, holds: Callable[[Member], bool]) -> bool:
        """Go on to the next place where ``holds``, which may be this one; whether there is one."""
        for place in range(self.place, len(self.standing)):
            if holds(self.standing[place]):
                self.place = place
                return True
        return False

    def key(self, key_id: str) -> Key | None:
        """The key with this id, if the participant ever had it."""
        return next((one.key for one in self.standing if one.key is not None and one.key.id == key_id), None)


@dataclass
class Trust:
    """What is checked of signatures: by the hub's key, and by those of the records of members.

    ``unsigned``: the last rounds so far, by number, whose commit is not signed. ``heads``: of the door's log that were
    signed, by number of entries, and in what.
    """

    hub: Key
    job_name: str
    histories: dict[str, History] = field(default_factory=dict)
    unsigned: list[int] = field(default_factory=list)
    heads: dict[int, list[tuple[str, str]]] = field(default_factory=dict)


@dataclass
class Audited:
    """The job that is audited, and what was found so far. ``digests``: of commits by round. ``hashed``: folders of
    models whose files were read once. ``trail``: the last commits, as deciding needs them. ``trust``: None without the
    hub's key."""

    place: Place
    learning: LearningJob
    digest: str
    last: int
    layout: UpdateLayout | None
    deep: bool
    recompute_from: int | None
    figures: Figures = field(default_factory=Figures)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    participants: set[str] = field(default_factory=set)
    hashed: set[str] = field(default_factory=set)
    trust: Trust | None = None
    trail: deque[Head] = field(default_factory=lambda: deque(maxlen=TRAIL))

    def recomputes(self, round_number: int) -> bool:
        """Whether the merge of a round is to be made again."""
        return self.recompute_from is not None and round_number >= self.recompute_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round as it is in the bucket. ``objects`` by key; ``base``: the commit before it, unless that is not there.

    ``plans`` and ``closings`` are chains, first to last, as far as they have no gap. ``unreadable``: keys of records
    that are none of this version.
    """

    number: int
    objects: Mapping[str, ObjectInfo]
    base: Head | None
    head: Head | None
    plans: tuple[Stored[Plan], ...]
    closings: tuple[Stored[Closing], ...]
    manifests: Mapping[str, Stored[UpdateManifest]]
    evaluations: Mapping[str, Stored[Evaluation]]
    end: Stored[End] | None
    unreadable: frozenset[str]

    @property
    def plan(self) -> Stored[Plan] | None:
        """The plan that opened the round: the last of the chain, unless that ends the job."""
        return self.plans[-1] if self.plans and self.plans[-1].value.end is None else None

    @property
    def merged(self) -> Commit | None:
        """The commit, if it is one of a merge."""
        commit = self.head.commit if self.head is not None else None
        return commit if commit is not None and self.number > 0 and commit.rollback is None else None

    def finding(self, key: str, reason: Reason, message: str) -> Finding:
        return finding(key, self.number, reason, message)


def read_round(
    place: Place, number: int, objects: Mapping[str, ObjectInfo], base: Head | None
) -> tuple[Round, list[Finding]]:
    """The records of a round, and those that are none.

    Evaluations that cannot be read are no finding: an earlier release let any number in, and they count nowhere.
    """
    unreadable: dict[str, str] = {}

    def read(key: str, model: type[Model]) -> Stored[Model] | None:
        info = objects.get(key)
        if info is None:
            return None
        try:
            return place.read(info, model)
        except NotFound:
            return None  # it was deleted since it was listed
        except RecordError as error:
            unreadable[key] = str(error)
            return None

    def chain(key: Callable[[int, int], str], model: type[Model]) -> tuple[Stored[Model], ...]:
        found: list[Stored[Model]] = []
        while (record := read(key(number, len(found) + 1), model)) is not None:
            found.append(record)
        return tuple(found)

    commit = read(keys.commit(number), Commit)
    folder = f"{keys.round_folder(number)}/"

    def people(pattern: re.Pattern[str], model: type[Model]) -> dict[str, Stored[Model]]:
        matches = ((key, pattern.fullmatch(key.removeprefix(folder))) for key in objects)
        records = ((match[1], read(key, model)) for key, match in matches if match is not None)
        return {name: record for name, record in records if record is not None}

    found = Round(
        number=number,
        objects=objects,
        base=base,
        head=Head(commit=commit.value, digest=commit.digest) if commit is not None else None,
        plans=chain(keys.plan, Plan),
        closings=chain(keys.closing, Closing),
        manifests=people(_MANIFEST, UpdateManifest),
        evaluations=people(_EVALUATION, Evaluation),
        end=read(keys.end(number), End),
        unreadable=frozenset(unreadable),
    )
    counted = _counted(found)
    return found, [
        finding(key, number, Reason.NOT_A_RECORD, why)
        for key, why in sorted(unreadable.items())
        if ("/updates/" not in key and "/evaluations/" not in key) or key in counted
    ]


def _counted(found: Round) -> frozenset[str]:
    """Manifests that the commit took."""
    taken = found.merged.accepted if found.merged is not None else []
    return frozenset(keys.manifest(found.number, update.participant) for update in taken)
