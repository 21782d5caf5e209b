"""What an audit says: one finding for each file that does not hold, figures, a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from photon.api.base import ApiModel
from photon.api.text import printable
from photon.exit_codes import EXIT_NOT_CHECKABLE, EXIT_TAMPERED

SCHEMA: Final = 1
# The first findings say what happened; a bucket full of foreign objects must not fill the memory.
MOST_FINDINGS: Final = 10_000
_LONGEST_MESSAGE: Final = 512


class Reason(StrEnum):
    """Why a file does not hold. Names are part of the ``--json`` schema."""

    MISSING = "Missing"
    NOT_A_RECORD = "NotARecord"
    WRONG_SIZE = "WrongSize"
    WRONG_DIGEST = "WrongDigest"
    BROKEN_CHAIN = "BrokenChain"
    WRONG_JOB = "WrongJob"
    WRONG_PLAN = "WrongPlan"
    WRONG_COHORT = "WrongCohort"
    WRONG_MANIFEST = "WrongManifest"
    WRONG_CLOSING = "WrongClosing"
    WRONG_WEIGHT = "WrongWeight"
    WRONG_TOTALS = "WrongTotals"
    WRONG_NORM = "WrongNorm"
    WRONG_FOLDER = "WrongFolder"
    WRONG_ROLLBACK = "WrongRollback"
    WRONG_MERGE = "WrongMerge"
    WRONG_METRICS = "WrongMetrics"
    WRONG_EVALUATION = "WrongEvaluation"
    WRONG_END = "WrongEnd"
    WRONG_MEMBERSHIP = "WrongMembership"
    WRONG_SIGNATURE = "WrongSignature"
    WRONG_LOG = "WrongLog"
    FOREIGN = "Foreign"


class Finding(ApiModel):
    """A file that does not hold. ``file``: its key below the job's prefix. ``round``: that it belongs to."""

    file: str
    round: int | None
    reason: Reason
    message: str


def finding(file: str, round_number: int | None, reason: Reason, message: str) -> Finding:
    """A finding; whatever the bucket held, the message is printable and of bounded length."""
    return Finding(
        file=printable(file, _LONGEST_MESSAGE),
        round=round_number,
        reason=reason,
        message=printable(message, _LONGEST_MESSAGE),
    )


class Verdict(StrEnum):
    HOLDS = "Holds"
    TAMPERED = "Tampered"
    NOT_CHECKABLE = "NotCheckable"


EXIT_CODES: Final = {
    Verdict.HOLDS: 0,
    Verdict.TAMPERED: EXIT_TAMPERED,
    Verdict.NOT_CHECKABLE: EXIT_NOT_CHECKABLE,
}


@dataclass
class Figures:
    """How much was checked. ``merges``: made again. ``chain_only``: rounds whose updates or base model the bucket no
    longer holds. ``hashed_bytes``: of files that were read whole outside merges. ``leftovers``: objects that Photon
    writes and no record names, such as those of an update that was not taken. ``signatures``: that hold, by the keys of
    the hub and of members. ``log_entries``: of the log of the door."""

    rounds: int = 0
    merges: int = 0
    updates: int = 0
    parts: int = 0
    hashed_bytes: int = 0
    chain_only: list[int] = field(default_factory=list)
    leftovers: int = 0
    signatures: int = 0
    log_entries: int = 0


class Report(ApiModel):
    """What ``photon audit --json`` prints. Fields are added, never renamed or removed, within one schema version."""

    schema_version: Annotated[int, Field(description="1")] = SCHEMA
    place: str
    verdict: Verdict
    reason: Annotated[str, Field(description="Of NotCheckable: why.")] = ""
    job: str | None = None
    last_round: int | None = None
    last_commit: str | None = None
    deep: bool = False
    figures: Figures = Figures()
    findings: tuple[Finding, ...] = ()
    notes: Annotated[tuple[str, ...], Field(description="What could not be checked, and what is unusual.")] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def lines(report: Report) -> list[str]:
    """The report for people: a line for each finding and note, and a summary."""
    said = [f"{one.file}: {one.reason.value}: {one.message}" for one in report.findings]
    said += [f"note: {note}" for note in report.notes]
    if report.verdict is Verdict.NOT_CHECKABLE:
        return [*said, f"not checkable: {report.place}: {report.reason}"]
    figures = report.figures
    counts = f"{figures.rounds} rounds, {figures.updates} updates, {figures.merges} merges made again"
    if figures.parts:
        counts += f", {figures.parts} parts hashed"
    if figures.signatures:
        counts += f", {figures.signatures} signatures"
    if figures.log_entries:
        counts += f", {figures.log_entries} log entries"
    if figures.chain_only:
        counts += f", {len(figures.chain_only)} rounds chain only"
    if report.verdict is Verdict.HOLDS:
        return [*said, f"holds: {report.place}: {counts}; last commit {(report.last_commit or '')[:12]}"]
    files = len({one.file for one in report.findings})
    return [*said, f"tampered: {report.place}: {files} files do not hold; {counts}"]
