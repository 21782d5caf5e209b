"""A rollback: the commit that makes an earlier round's model and outer state the head again.

It takes the key of the next round, created if absent like any other commit: two writers agree, and the chain of commits
stays linear. Tokens and rounds keep counting, for they were spent; the step clock returns with the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from photon.protocol.records import Commit, Rollback, RollbackReason

# What a rollback takes over from the round that it returns to.
RESTORED: Final = ("job", "folder", "files", "state", "outer_steps", "sequential_steps")
# How long participants are left out, and a lower outer learning rate lasts, after a rollback.
ROUNDS_AFTER: Final = 3


def rollback_commit(
    head: Commit,
    head_digest: str,
    target: Commit,
    target_digest: str,
    *,
    reason: RollbackReason,
    message: str = "",
    offenders: Sequence[str] = (),
    quarantine: Sequence[str] = (),
    outer_scale: float | None = None,
) -> Commit:
    """The commit after ``head`` that makes ``target`` (the head itself, or before it in the chain) the model again.

    Args:
        quarantine: Participants to leave out of the next ROUNDS_AFTER rounds.
        outer_scale: Factor on the outer learning rate in these rounds.
    """
    number = head.round + 1
    return Commit(
        **{name: getattr(target, name) for name in RESTORED},
        round=number,
        previous=head_digest,
        plan=None,
        tokens=head.tokens,
        rollback=Rollback(
            to=target.round, digest=target_digest, reason=reason, message=message[:1024], offenders=sorted(offenders)
        ),
        quarantine=dict.fromkeys(sorted(quarantine), number + ROUNDS_AFTER),
        outer_scale=outer_scale,
        since=since(head),
    )


def problem(commit: Commit, target: Commit, target_digest: str) -> str | None:
    """What is wrong with the rollback ``commit``, given the commit of the round that it names; None when nothing is."""
    rollback = commit.rollback
    assert rollback is not None
    if not rollback.to < commit.round or target.round != rollback.to:
        return f"it returns to round {rollback.to}, which is not before round {commit.round}"
    if rollback.digest != target_digest:
        return f"it names another commit of round {rollback.to} than the chain has"
    different = [name for name in RESTORED if getattr(commit, name) != getattr(target, name)]
    if different:
        return f"its {', '.join(different)} is not that of round {rollback.to}"
    if commit.accepted:
        return "it is a rollback and takes updates"
    return None


def since(head: Commit) -> int | None:
    """Round of the last rollback up to ``head``: the local state of earlier rounds belongs to another history."""
    return head.round if head.rollback is not None else head.since


def origin(commits: Mapping[int, Commit], number: int) -> Commit | None:
    """The commit that made the model of round ``number``: that of the round itself, or the one it returned to."""
    commit = commits.get(number)
    while commit is not None and commit.rollback is not None:
        commit = commits.get(commit.rollback.to)
    return commit
