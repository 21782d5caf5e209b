"""The volume claims of workers: what may become of one that exists, and when one goes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from photon.api.job import JobSpec
from photon.api.placement import ClaimRetention, ClaimRetentionSpec
from photon.protocol.canonical import digest
from photon_operator.children import names
from photon_operator.children.build import as_large_as
from photon_operator.children.kinds import CLAIM, Object
from photon_operator.decide.observed import Observed, ObservedJob
from photon_operator.decide.plan import Delete, KubeEvent, Plan
from photon_operator.decide.situation import Situation

_UNITS: Final[Mapping[str, Decimal]] = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def wanted(situation: Situation, participant: str, known: Object | None) -> Mapping[str, Any]:
    """The claim of a participant as it can be: with what Kubernetes lets no one change of the one that exists."""
    body: Mapping[str, Any] = situation.children.claims[participant]
    if known is None or _applied(known) == _applied(body):
        return body
    worker = next(p.worker for p in situation.job.spec.participants if p.name == participant)
    if worker is not None and worker.work_dir.size is None:
        body = as_large_as(known, body)
    return _possible(known, body)[0]


def said(situation: Situation) -> list[KubeEvent]:
    """What to say, once for each edit, of claims that stay as they are."""
    events = []
    for participant, body in situation.children.claims.items():
        known = situation.observed.child(CLAIM, body["metadata"]["name"])
        if known is None or _applied(known) == _applied(body):
            continue
        worker = next(p.worker for p in situation.job.spec.participants if p.name == participant)
        kept = _possible(known, body, sized=worker is not None and worker.work_dir.size is not None)[1]
        if kept:
            text = f"{participant}: the volume claim {body['metadata']['name']} keeps {', '.join(kept)}"
            events.append(KubeEvent(type="Warning", reason="ClaimKept", message=text))
    return events


def _possible(known: Object, body: Mapping[str, Any], *, sized: bool = True) -> tuple[Mapping[str, Any], list[str]]:
    """``body`` with what of ``known`` cannot change, and what that is where another value was asked for."""
    there, spec, kept = known.get("spec") or {}, dict(body["spec"]), []
    has, asks = (each.get("resources", {}).get("requests", {}).get("storage") for each in (there, spec))
    if has is not None and _is_less(asks, has):
        spec["resources"] = {"requests": {"storage": has}}
        kept += [f"its size {has} (it cannot shrink to {asks})"] if sized else []
    for field in ("storageClassName", "accessModes"):
        if field in there and spec.get(field) != there[field]:
            kept += [f"its {field} {_shown(there[field])}"] if field in spec else []
            spec[field] = there[field]
    if spec == body["spec"]:
        return body, kept
    metadata = body["metadata"]
    annotations = {**metadata["annotations"], names.APPLIED_HASH: digest({"spec": spec})}
    return {**body, "spec": spec, "metadata": {**metadata, "annotations": annotations}}, kept


def leavers(situation: Situation) -> Plan:
    """Of participants that no longer take part: their claims stay, unless the job says otherwise."""
    if _policy(situation.job.spec).when_removed is ClaimRetention.RETAIN:
        return Plan()
    mine = {body["metadata"]["name"] for body in situation.children.claims.values()}
    return _delete(found for name, found in _of_workers(situation.observed).items() if name not in mine)


def after_completion(observed: Observed, spec: JobSpec, jobs: Iterable[ObservedJob]) -> Plan:
    """Of a complete job whose pods have left: all claims go, if the job says so."""
    if _policy(spec).when_finished is ClaimRetention.RETAIN or any(not work.ended for work in jobs):
        return Plan()
    return _delete(_of_workers(observed).values())


def _policy(spec: JobSpec) -> ClaimRetentionSpec:
    return spec.persistent_volume_claim_retention_policy or ClaimRetentionSpec()


def _of_workers(observed: Observed) -> dict[str, Object]:
    return {
        name: found
        for name, found in observed.children.get(CLAIM, {}).items()
        if (found["metadata"].get("labels") or {}).get(names.ROLE) == "worker"
    }


def _delete(claims: Iterable[Object]) -> Plan:
    going = (each["metadata"] for each in claims if not each["metadata"].get("deletionTimestamp"))
    return Plan(delete=tuple(Delete(kind=CLAIM, name=each["name"], uid=each["uid"]) for each in going))


def _applied(body: Object) -> str | None:
    found: str | None = (body["metadata"].get("annotations") or {}).get(names.APPLIED_HASH)
    return found


def _is_less(one: str | None, other: str) -> bool:
    """Whether a size is smaller than another; sizes that are not understood are the API server's to compare."""
    less, more = (_bytes(one) if one is not None else None), _bytes(other)
    return less is not None and more is not None and less < more


def _bytes(quantity: str) -> Decimal | None:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)([A-Za-z]*)", quantity)
    return Decimal(match[1]) * _UNITS[match[2]] if match is not None and match[2] in _UNITS else None


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
