"""Where everything is below the job's prefix. Keys are built nowhere else.

Update parts are named by their digest, so a worker that trained again after a crash (and got other bits, as GPUs may)
never meets its own older bytes. A model's folder is named by the updates that went into it, for the same reason.
"""

from __future__ import annotations

from typing import Final

JOB: Final = "job.json"
# Whose the prefix is (photon.protocol.owner).
OWNER: Final = "owner.json"
ROUNDS: Final = "rounds/"
# What photon.store.probe writes, and removes.
PROBE: Final = "probe/"
# What all rounds but the last add up to; written over with each commit, and made again when it is missing.
SUMMARY: Final = "rounds/summary.json"
WEIGHTS: Final = "model.safetensors"
MEMBERS: Final = "members/"
LOG: Final = "log/"
LOG_SEGMENTS: Final = "log/segments/"
COSIGNATURES: Final = "log/cosignatures/"


def round_folder(round_number: int) -> str:
    """``rounds/00012``."""
    return f"rounds/{round_number:05d}"


def round_of(key: str) -> int:
    """The round of a key below ``rounds/``."""
    return int(key.removeprefix(ROUNDS).partition("/")[0])


def plan(round_number: int, number: int = 1) -> str:
    """The plan of a round, or the ``number``-th of its chain: ``plan-2.json``."""
    return f"{round_folder(round_number)}/plan{_place(number)}.json"


def end(round_number: int) -> str:
    """Where earlier releases wrote that evaluations ended the job with a round."""
    return f"{round_folder(round_number)}/end.json"


def closing(round_number: int, number: int = 1) -> str:
    """The first closing of a round, or the ``number``-th of its chain: ``closing-2.json``."""
    return f"{round_folder(round_number)}/closing{_place(number)}.json"


def _place(number: int) -> str:
    return f"-{number}" if number > 1 else ""


def commit(round_number: int) -> str:
    return f"{round_folder(round_number)}/commit.json"


def round_log(round_number: int) -> str:
    return f"{round_folder(round_number)}/log.json"


def round_events(round_number: int) -> str:
    """Events of a round, one JSON object a line; like the log it is for people and not hashed."""
    return f"{round_folder(round_number)}/events.jsonl"


def updates_folder(round_number: int) -> str:
    return f"{round_folder(round_number)}/updates"


def part(round_number: int, participant: str, index: int, sha256: str) -> str:
    return f"{updates_folder(round_number)}/{participant}/{index:05d}-{sha256[:16]}.safetensors"


def manifest(round_number: int, participant: str) -> str:
    return f"{updates_folder(round_number)}/{participant}/manifest.json"


def global_folder(round_number: int, inputs_digest: str) -> str:
    """Folder of a model, named by the digest of what was merged into it (round 0: of the job)."""
    return f"{round_folder(round_number)}/global/{inputs_digest[:16]}"


def evaluations_folder(round_number: int) -> str:
    return f"{round_folder(round_number)}/evaluations"


def evaluation(round_number: int, participant: str) -> str:
    return f"{evaluations_folder(round_number)}/{participant}.json"


def outer_state(name: str) -> str:
    """File name of a vector of the outer optimizer's state in the model's folder (``momentum``, ...)."""
    return f"outer.{name}.safetensors"


def members_folder(participant: str) -> str:
    """What happened to the membership of a participant that joins from elsewhere."""
    return f"{MEMBERS}{participant}/"


def member(participant: str, serial: int) -> str:
    """``members/st-mary/00001.json``; serials have no gap."""
    return f"{members_folder(participant)}{serial:05d}.json"


def update_signature(round_number: int, participant: str, digest: str) -> str:
    """The signed statement of an update; named by the manifest's digest, so it never changes."""
    return f"{round_folder(round_number)}/signatures/update-{participant}-{digest[:16]}.json"


def evaluation_signature(round_number: int, participant: str, digest: str) -> str:
    """The signed statement of an evaluation, named by the digest of its result."""
    return f"{round_folder(round_number)}/signatures/evaluation-{participant}-{digest[:16]}.json"


def commit_signature(round_number: int) -> str:
    """The hub's statement of a commit."""
    return f"{round_folder(round_number)}/signatures/commit.json"


def log_segment(first: int) -> str:
    """A segment of the door's log, by the number of its first entry: ``log/segments/0000000001.json``."""
    return f"{LOG_SEGMENTS}{first:010d}.json"


def log_cosignature(participant: str) -> str:
    """The newest head of the log that a participant signed; written over, for it covers all before."""
    return f"{COSIGNATURES}{participant}.json"
