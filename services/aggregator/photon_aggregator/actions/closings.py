"""The chain of closings of a round: the first decides which updates it takes, later ones drop what cannot be merged.

``closing.json`` is written before anything is merged. When an update that it names turns out to be unusable,
``closing-2.json`` names the digest of the one before it, whom it drops, and why. Each link is created if absent and
drops at least one update, so aggregators agree on every link and a chain is no longer than its cohort.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from photon.protocol.records import Closing, Plan
from photon.store import keys
from photon.store.objects import ObjectStore
from photon_aggregator.bucket import records
from photon_aggregator.bucket.records import RecordError


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A closing in the bucket: its digest, its place in the chain (from 1), and all that the chain dropped so far.

    ``decided``: number of updates of the first closing of its chain.
    """

    closing: Closing
    digest: str
    number: int
    dropped: dict[str, str]
    decided: int

    @classmethod
    def first(cls, closing: Closing, digest: str) -> Link:
        """The link that a chain begins with."""
        return cls(closing=closing, digest=digest, number=1, dropped={}, decided=len(closing.updates))

    def quorum(self, wanted: int) -> int:
        """How many updates the round needs, where ``wanted`` are a quorum by what is known now.

        What the first closing took was a quorum then. That someone is a member again, or that the job asks for more
        by now, must not undo what was decided.
        """
        return max(1, min(wanted, self.decided))


def first(store: ObjectStore, plan: Plan, plan_digest: str, ours: Closing) -> Link:
    """The end of the chain that begins with ``ours``, or with what the bucket has already.

    Raises:
        RecordError: A closing is of another plan, or does not follow from the one before it.
        StoreError: The store does not answer.
    """
    closing, digest, _ = records.create(store, keys.closing(plan.round), ours)
    _check(store, closing, plan, plan_digest, 1)
    return _follow(store, plan, plan_digest, Link.first(closing, digest))


def last(store: ObjectStore, plan: Plan, plan_digest: str) -> Link | None:
    """The end of the chain; None while the round is open, or when what is there belongs to another plan.

    Raises:
        RecordError: A closing does not follow from the one before it.
        StoreError: The store does not answer.
    """
    found = records.find(store, keys.closing(plan.round), Closing)
    if found is None or found[0].plan != plan_digest:
        return None
    return _follow(store, plan, plan_digest, Link.first(found[0], found[1]))


def drop(store: ObjectStore, plan: Plan, plan_digest: str, link: Link, dropped: dict[str, str]) -> Link:
    """The end of the chain once this or another aggregator has written what follows ``link``.

    ``dropped``: why, by participant.

    Raises:
        RecordError, StoreError: As ``first``.
    """
    ours = Closing(
        job=plan.job,
        round=plan.round,
        plan=plan_digest,
        updates={name: digest for name, digest in link.closing.updates.items() if name not in dropped},
        clip_to_median=link.closing.clip_to_median,
        supersedes=link.digest,
        dropped=dropped,
    )
    records.create(store, keys.closing(plan.round, link.number + 1), ours)
    return _follow(store, plan, plan_digest, link)


def _follow(store: ObjectStore, plan: Plan, plan_digest: str, link: Link) -> Link:
    while True:
        number = link.number + 1
        found = records.find(store, keys.closing(plan.round, number), Closing)
        if found is None:
            return link
        closing, digest = found[0], found[1]
        _check(store, closing, plan, plan_digest, number)
        left = {name: sha for name, sha in link.closing.updates.items() if name not in closing.dropped}
        follows = closing.supersedes == link.digest and closing.updates == left != link.closing.updates
        if not follows or closing.clip_to_median != link.closing.clip_to_median:
            where = store.uri(keys.closing(plan.round, number))
            raise RecordError(f"{where} does not follow from the closing before it")
        dropped = {**link.dropped, **closing.dropped}
        link = replace(link, closing=closing, digest=digest, number=number, dropped=dropped)


def _check(store: ObjectStore, closing: Closing, plan: Plan, plan_digest: str, number: int) -> None:
    if closing.job != plan.job or closing.plan != plan_digest:
        raise RecordError(f"{store.uri(keys.closing(plan.round, number))} belongs to another plan")
