"""The list of checks. Each sees one round and says what does not hold; none trusts what another found.

What is signed beside the records is checked by entries here. The log of the door has no rounds: log.py, after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from photon_aggregator.audit.chain import check_chain, check_first, check_rollback, check_totals
from photon_aggregator.audit.evaluations import check_ends, check_evaluations
from photon_aggregator.audit.findings import Finding
from photon_aggregator.audit.foreign import check_foreign
from photon_aggregator.audit.members import check_members
from photon_aggregator.audit.models import check_files, check_merge
from photon_aggregator.audit.plans import check_plans
from photon_aggregator.audit.rounds import Audited, Round
from photon_aggregator.audit.shares import check_folder, check_shares
from photon_aggregator.audit.signatures import check_signatures
from photon_aggregator.audit.updates import check_closings, check_manifests, check_parts

Check = Callable[[Round, Audited], Iterable[Finding]]

# Of every committed round, in the order of its life.
CHECKS: Final[tuple[Check, ...]] = (
    check_chain,
    check_first,
    check_plans,
    check_members,
    check_ends,
    check_manifests,
    check_closings,
    check_parts,
    check_shares,
    check_folder,
    check_totals,
    check_rollback,
    check_files,
    check_merge,
    check_evaluations,
    check_signatures,
    check_foreign,
)

# Of the round after the last commit, which is under way or was ended.
OPEN: Final[tuple[Check, ...]] = (check_plans, check_members, check_ends)
