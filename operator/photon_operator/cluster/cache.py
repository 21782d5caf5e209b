"""What the watches and lists have told: jobs, their children and pods, without what no decision needs.

Watches tell quickly and may lose something when they break off; a list every few minutes tells all. Both come in here,
and what our own requests answered, so that a decision never misses what the one before it did.
"""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from photon.api.job import GROUP, KIND, VERSION
from photon_operator.children import names
from photon_operator.children.kinds import CLAIM, CONFIG_MAP, JOB, NETWORK_POLICY, POD, SECRET, SERVICE, Object
from photon_operator.settings import Settings

log = logging.getLogger(__name__)

Key = tuple[str, str]  # namespace and name of a job

CHILD_KINDS: Final = (CONFIG_MAP, SECRET, SERVICE, NETWORK_POLICY, CLAIM, JOB)
METADATA: Final = (
    *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"),
    "deletionGracePeriodSeconds",
    *("labels", "annotations", "ownerReferences", "finalizers"),
)
_TOMBSTONES: Final = 20_000


def listed_kinds(settings: Settings) -> tuple[str, ...]:
    """Of children, what is listed and watched: no Secrets, which are read by name, and no NetworkPolicies where none
    are made, so that the operator needs no rights for them."""
    return tuple(
        kind
        for kind in CHILD_KINDS
        if kind != SECRET and (kind != NETWORK_POLICY or settings.network_policy is not None)
    )


class Cache:
    """Not thread-safe: used on the event loop only."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Key, Object]] = {kind: {} for kind in (KIND, *CHILD_KINDS, POD)}
        self._of_job: defaultdict[Key, set[tuple[str, str]]] = defaultdict(set)
        # Uids of what is gone, and the last version of each: a list that began before must not bring it back. What is
        # deleted never comes again; what only lost its label does, as a later version.
        self._tombstones: OrderedDict[str, Object] = OrderedDict()

    def put(self, kind: str, raw: Object) -> Key | None:
        """Take an object in; the key of the job that it belongs to, None when this version or a later one is known."""
        metadata = raw["metadata"]
        at = (metadata["namespace"], metadata["name"])
        buried = self._tombstones.get(metadata["uid"])
        if buried is not None:
            if not (version_of(raw).isdecimal() and _newer(raw, buried)):
                return None
            del self._tombstones[metadata["uid"]]
        known = self._objects[kind].get(at)
        if known is not None and known["metadata"]["uid"] == metadata["uid"] and not _newer(raw, known):
            return None
        self._objects[kind][at] = _slim(kind, raw)
        key = job_key(kind, raw)
        if kind != KIND and key is not None:
            self._of_job[key].add((kind, metadata["name"]))
        return key

    def drop(self, kind: str, raw: Object) -> Key | None:
        """An object is gone; the key of the job that it belonged to."""
        metadata = raw["metadata"]
        at = (metadata["namespace"], metadata["name"])
        known = self._objects[kind].get(at)
        same = known is not None and known["metadata"]["uid"] == metadata["uid"]
        last = known if same and known is not None and _newer(known, raw) else raw
        self._tombstones[metadata["uid"]] = {"metadata": {"resourceVersion": version_of(last)}}
        if len(self._tombstones) > _TOMBSTONES:
            self._tombstones.popitem(last=False)
        if same and known is not None:
            self._remove(kind, known)
        return job_key(kind, raw)

    def _remove(self, kind: str, known: Object) -> None:
        metadata = known["metadata"]
        del self._objects[kind][metadata["namespace"], metadata["name"]]
        key = job_key(kind, known)
        if kind != KIND and key is not None:
            self._of_job[key].discard((kind, metadata["name"]))
            if not self._of_job[key]:
                del self._of_job[key]

    def versions(self, kind: str, namespace: str | None = None) -> dict[str, str]:
        """By uid, of all objects of a kind: taken before a list, it says what the list shows to be gone."""
        return {raw["metadata"]["uid"]: version_of(raw) for raw in self._of(kind, namespace)}

    def take_list(
        self, kind: str, namespace: str | None, listed: Sequence[Object], version: str, before: Mapping[str, str]
    ) -> tuple[set[Key], bool]:
        """Take a whole list in, which was as of ``version``; ``before``: ``versions`` when it was asked for.

        Returns the jobs of which it tells something new, and whether it had something that watches had not told.
        """
        if _went_back(version, before.values()):
            # An older state was restored: what is known is of a history that did not happen.
            log.warning("the list of %s is older than what was known: a backup was restored; all of it is taken", kind)
            for raw in self._of(kind, namespace):
                self._remove(kind, raw)
            self._tombstones.clear()
        found = {key for raw in listed if (key := self.put(kind, raw)) is not None}
        gone = before.keys() - {raw["metadata"]["uid"] for raw in listed}
        lost = [raw for raw in self._of(kind, namespace) if raw["metadata"]["uid"] in gone]
        return found | {key for raw in lost if (key := self.drop(kind, raw)) is not None}, bool(found)

    def _of(self, kind: str, namespace: str | None) -> list[Object]:
        return [raw for at, raw in self._objects[kind].items() if namespace is None or at[0] == namespace]

    def job(self, key: Key) -> Object | None:
        return self._objects[KIND].get(key)

    def jobs(self) -> list[Key]:
        return list(self._objects[KIND])

    def children(self, key: Key) -> dict[str, dict[str, Object]]:
        """Of a job, by kind and name."""
        found: dict[str, dict[str, Object]] = {kind: {} for kind in CHILD_KINDS}
        for kind, name in self._of_job.get(key, ()):
            if kind != POD:
                found[kind][name] = self._objects[kind][key[0], name]
        return found

    def pods(self, key: Key) -> list[Object]:
        return [self._objects[POD][key[0], name] for kind, name in self._of_job.get(key, ()) if kind == POD]

    def aggregator_pods(self) -> Iterator[tuple[Key, Object]]:
        """All pods of aggregators, with their jobs."""
        for raw in self._objects[POD].values():
            key = job_key(POD, raw)
            if key is not None and (raw["metadata"].get("labels") or {}).get(names.ROLE) == "aggregator":
                yield key, raw


def job_key(kind: str, raw: Object) -> Key | None:
    """The job that an object belongs to, or is."""
    metadata = raw["metadata"]
    if kind == KIND:
        return metadata["namespace"], metadata["name"]
    job = (metadata.get("labels") or {}).get(names.JOB)
    return (metadata["namespace"], job) if job else None


def _newer(raw: Object, known: Object) -> bool:
    """Whether ``raw`` is a newer version of ``known``; versions of one object are ordered numbers."""
    versions = version_of(raw), version_of(known)
    if not all(version.isdecimal() for version in versions):
        return True
    return int(versions[0]) > int(versions[1])


def _went_back(version: str, known: Iterable[str]) -> bool:
    """Whether a list is of a version before one that was known when it was asked for."""
    return version.isdecimal() and any(each.isdecimal() and int(each) > int(version) for each in known)


def version_of(raw: Object | None) -> str:
    """The version of an object; empty where there is none."""
    return str(raw["metadata"].get("resourceVersion", "")) if raw is not None else ""


def _slim(kind: str, raw: Object) -> Object:
    """``raw`` less what no decision needs: a thousand jobs should not take a gigabyte."""
    metadata = {key: raw["metadata"][key] for key in METADATA if key in raw["metadata"]}
    # Entries of a list do not say what they are.
    slim: dict[str, Any] = {"apiVersion": f"{GROUP}/{VERSION}" if kind == KIND else None, "kind": kind}
    slim["metadata"] = metadata
    if kind == JOB:
        spec: Mapping[str, Any] = raw.get("spec") or {}
        slim["spec"] = {key: spec[key] for key in ("suspend", "parallelism", "completions") if key in spec}
        slim["status"] = raw.get("status") or {}
    elif kind == POD:
        containers = (raw.get("spec") or {}).get("containers") or ()
        slim["spec"] = {
            "containers": [{"name": c.get("name"), "resources": c.get("resources") or {}} for c in containers],
            **{key: raw["spec"][key] for key in ("nodeName",) if key in (raw.get("spec") or {})},
        }
        status: Mapping[str, Any] = raw.get("status") or {}
        kept = ("phase", "podIP", "reason", "message", "conditions", "initContainerStatuses", "containerStatuses")
        slim["status"] = {key: status[key] for key in kept if key in status}
    elif kind == SERVICE:
        slim["spec"] = {"selector": (raw.get("spec") or {}).get("selector")}
    elif kind == CLAIM:
        claim: Mapping[str, Any] = raw.get("spec") or {}
        slim["spec"] = {key: claim[key] for key in ("resources", "storageClassName", "accessModes") if key in claim}
    else:
        slim |= {key: raw[key] for key in ("data", "spec", "status") if key in raw}
    shared: Object = _shared(slim)
    return shared


def _shared(value: Any) -> Any:
    """The same data, all of whose keys are one string each in this process: each answer brings its own."""
    if isinstance(value, dict):
        return {sys.intern(key): _shared(entry) for key, entry in value.items()}
    return [_shared(entry) for entry in value] if isinstance(value, list) else value
