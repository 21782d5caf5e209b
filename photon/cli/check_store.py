"""``photon check-store``: what the object store of a job can do, one line a feature."""

from __future__ import annotations

from collections.abc import Sequence

from photon.api.job import FederatedTrainingJob
from photon.errors import UserError
from photon.store.errors import Refused, Unreachable
from photon.store.objects import ObjectStore
from photon.store.probe import Finding, probe


def check_store(job: FederatedTrainingJob) -> tuple[list[str], bool]:
    """Lines for people, and whether the store can hold the job.

    Raises:
        UserError: The job brings its own store, or the store does not answer or does not let us.
    """
    if job.spec.storage.endpoint is None:
        raise UserError(
            "spec.storage.endpoint is not set: photon run starts a store of its own, which can do all of it"
        )
    try:
        with ObjectStore.from_environment(job.spec.storage) as store:
            store.check()
            findings = probe(store)
    except (Unreachable, Refused) as error:
        raise UserError(str(error)) from error
    usable = all(finding.holds or not finding.needed for finding in findings)
    verdict = "can hold the job" if usable else "cannot hold the job"
    return [*table(findings), f"{store.endpoint} {verdict} (photon tried it below {store.uri('probe/')})"], usable


def table(findings: Sequence[Finding]) -> list[str]:
    """One line a feature."""
    width = max(len(finding.feature) for finding in findings)
    return [f"{finding.feature:<{width}}  {_word(finding)}" for finding in findings]


def _word(finding: Finding) -> str:
    if finding.problem is None:
        return "yes"
    return f"NO: {finding.problem}" if finding.needed else f"no, not needed: {finding.problem}"
