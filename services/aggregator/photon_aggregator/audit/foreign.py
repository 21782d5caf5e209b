"""Objects of a round that no release of Photon writes there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from photon.protocol.canonical import digest
from photon.store import keys
from photon_aggregator.audit.findings import Finding, Reason
from photon_aggregator.audit.rounds import NAME, Audited, Round

_PART: Final = re.compile(rf"updates/({NAME})/\d{{5}}-[0-9a-f]{{16}}\.safetensors")
_OF_UPDATE: Final = re.compile(rf"updates/({NAME})/")
_SIGNATURE: Final = re.compile(rf"signatures/(?:update|evaluation)-{NAME}-[0-9a-f]{{16}}\.json")
_MODEL: Final = re.compile(r"global/[0-9a-f]{16}/([^/]+)")


def check_foreign(found: Round, job: Audited) -> Iterator[Finding]:
    """Every object is a record, a part, or a file of a model. What no record names, as a part of an update that was
    not taken or the model of a merge that was not committed, is counted as left over."""
    folder = f"{keys.round_folder(found.number)}/"
    records = {
        keys.commit(found.number),
        keys.round_log(found.number),
        keys.round_events(found.number),
        keys.end(found.number),
        *(stored.key for stored in found.plans),
        *(stored.key for stored in found.closings),
        *found.unreadable,
        *(stored.key for stored in found.manifests.values()),
        *(stored.key for stored in found.evaluations.values()),
    }
    cohort = {name for stored in found.plans for name in stored.value.cohort}
    head = found.head.commit if found.head is not None else None
    files = {file.name for file in [*head.files, *head.state]} if head is not None else set()
    own = {f"{head.folder}/{name}" for name in files} if head is not None else set()
    named = {
        keys.part(found.number, name, part.index, part.sha256)
        for name, stored in found.manifests.items()
        for part in stored.value.parts
    }
    signed = {
        keys.commit_signature(found.number),
        *(
            keys.update_signature(found.number, one.participant, one.manifest)
            for one in (head.accepted if head else ())
        ),
        *(
            keys.evaluation_signature(found.number, name, digest(stored.value.result))
            for name, stored in found.evaluations.items()
        ),
    }
    for key in found.objects:
        rest = key.removeprefix(folder)
        update, model = _OF_UPDATE.match(rest), _MODEL.fullmatch(rest)
        if update is not None and update[1] not in cohort:
            yield found.finding(key, Reason.FOREIGN, f"{update[1]} is not in the cohort of the round")
        elif key in records or key in named or key in own or key in signed:
            continue
        elif (
            _PART.fullmatch(rest)
            or _SIGNATURE.fullmatch(rest)
            or (model is not None and model[1] in files and not _beside(key, head.folder if head is not None else None))
        ):
            job.figures.leftovers += 1
        else:
            yield found.finding(key, Reason.FOREIGN, "no record of the round names it")


def _beside(key: str, folder: str | None) -> bool:
    """Whether an object is in the folder of the committed model, which holds just the files of the commit."""
    return folder is not None and key.startswith(f"{folder}/")
