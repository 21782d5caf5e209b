"""``photon retry NAME``: ask the operator of a cluster to try a failed job again, as kubectl annotate does."""

from __future__ import annotations

from datetime import UTC, datetime

from photon.api.job import RETRY
from photon.api.status import ConditionType
from photon.cli.sources.kubernetes import Resource
from photon.cli.status import ended
from photon.errors import UserError


def ask(job: str, *, namespace: str | None, context: str | None) -> list[str]:
    """Ask for one more try of ``job`` (a name, or namespace/name); what to print.

    Raises:
        UserError: There is no such job, it is complete, or it may not be changed.
        NoAnswer: The API server does not answer.
    """
    within, _, name = job.rpartition("/")
    if within and namespace is not None and within != namespace:
        raise UserError(f"{job} names the namespace {within} and --namespace says {namespace}: give one of them")
    resource = Resource(namespace=namespace or within or None, name=name, context=context)
    seen = resource.fetch()
    if ended(seen.status, ConditionType.COMPLETE) is not None:
        raise UserError(f"{seen.name} is complete, nothing failed; to train longer, raise spec.rounds")
    # To the microsecond: another value each time is what asks.
    value = datetime.now(UTC).isoformat()
    resource.annotate(RETRY, value)
    return [f"{seen.name}: what failed is tried again ({RETRY}: {value}); photon status {seen.name} --watch follows it"]
