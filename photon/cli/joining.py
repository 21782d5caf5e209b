"""Jobs of another institution: ``photon check`` says what one would be and use here, ``photon run`` takes part."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path
from typing import Final

from photon.api.invitation import Invitation, joins, read_invitation
from photon.api.text import printable
from photon.errors import UserError
from photon.local.identity import identity_path
from photon.local.programs import find_program
from photon.local.run_folder import RunDirectory, find_run
from photon.policy.document import Policy, load_policy
from photon.policy.hours import is_open, next_change
from photon.policy.verdict import Hub, Refusal, of_invitation

_DOCTOR_SECONDS: Final = 120.0


def check(file: Path, policy_file: Path | None, *, now: datetime, online: bool = False) -> tuple[list[str], bool]:
    """Lines for a person, and whether the policy allows it. Raises UserError: the file or the policy is wrong.

    ``online``: the hub is asked for its signed greeting as well; nothing of this institution is told to it.
    """
    invitation = read_invitation(file)
    policy = load_policy(policy_file) if policy_file is not None else Policy()
    join, metadata = invitation.job.spec.join, invitation.job.metadata
    hub = Hub(key_id=join.hub_key_id, host=join.host)
    refusals = of_invitation(policy, hub, name=metadata.name, namespace=metadata.namespace or "")
    lines = [*_facts(invitation), *_verdict(policy, policy_file, refusals, now)]
    if not online:
        return lines, not refusals
    said, reached = _asked(file)
    return [*lines, *said], reached and not refusals


def take_part(
    file: Path,
    *,
    runs_dir: Path,
    name: str | None,
    identity: Path | None,
    policy: Path | None,
    quiet: bool,
) -> list[str]:
    """Take part in a job to its end. Lines for a person.

    Raises:
        UserError, RunFailed, JobFailed, Stopped: As photon.local.joined.run_joined says.
    """
    from photon.local.identity import load
    from photon.local.joined import Site, run_joined

    invitation = read_invitation(file)
    job = invitation.job
    rules = load_policy(policy) if policy is not None else Policy()
    join = job.spec.join
    hub = Hub(key_id=join.hub_key_id, host=join.host)
    refusals = of_invitation(rules, hub, name=job.metadata.name, namespace=job.metadata.namespace or "")
    if refusals:
        whose = "the default policy" if policy is None else str(policy)
        raise UserError("\n".join(f"{whose} refuses: {refusal}" for refusal in refusals))
    run = RunDirectory((runs_dir / (name or job.metadata.name)).resolve())
    key, path, made = load(identity)
    if made and not quiet:
        print(f"made a key for this institution: {path} ({key.key.fingerprint}); back it up")
    site = Site(identity=path, policy=None if policy is None else policy.resolve(), folder=file.resolve().parent)
    end = run_joined(invitation, run=run, site=site, quiet=quiet)
    why = f": {end.message}" if end.message else ""
    return [
        f"{job.metadata.name}: {end.type.lower()} ({end.reason}){why}",
        f"what left this institution: photon ledger {run.shown}/gate/ledger",
    ]


def leave_arguments(run: str, reason: str, identity: Path | None) -> list[str]:
    """What photon-gate is called with. Raises UserError: there is no such run, or it joined no job."""
    found = find_run(run)
    if not joins(found.job):
        raise UserError(f"{found.shown} is a run of this institution's own: stop it with Ctrl-C")
    kept = Path(found.key_path.read_text(encoding="utf-8").strip()) if found.key_path.exists() else None
    key = identity_path(identity or kept)
    return ["leave", "--job", str(found.job), "--identity", str(key), "--reason", reason]


def _asked(file: Path) -> tuple[list[str], bool]:
    """What photon-gate finds on the way to the hub, and whether all of it is well."""
    command = [find_program("photon-gate"), "doctor", "--job", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOCTOR_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [f"hub          photon doctor did not end within {_DOCTOR_SECONDS:.0f} s"], False
    said = [*done.stdout.splitlines(), *([] if done.returncode in (0, 1) else done.stderr.splitlines()[-1:])]
    return [f"hub          {line}" for line in said], done.returncode == 0


def _facts(invitation: Invitation) -> list[str]:
    job = invitation.job
    join, here = job.spec.join, job.spec.participants[0]
    assert here.worker is not None, "JoinedSpec requires it"
    needs, data = here.worker.resources, here.worker.data
    folders = [data.uri] if data.uri else [source.uri for source in data.sources or ()]
    memory = f", {needs.memory} of memory" if needs.memory else ""
    if invitation.token is not None:
        token = "a token in this file, for one use: keep the file private until it was applied"
    elif join.invitation_secret_ref is not None:
        token = f"the token in the Secret {join.invitation_secret_ref.name}"
    else:
        token = "none: the hub must know this institution's key already"
    return [
        f"job          {job.metadata.name}, coordinated at {join.url}",
        f"hub's key    {join.hub_key_id}: compare it by telephone before you apply the file",
        f"connections  outbound only, to {', '.join(sorted({join.origin, *join.objects}))}",
        f"takes part   {here.name}: {here.worker.nodes} x ({needs.cpus} CPUs, {needs.gpus} GPUs{memory})",
        f"data         {printable(', '.join(str(folder) for folder in folders))}: it does not leave this institution",
        f"invitation   {token}",
    ]


def _verdict(policy: Policy, policy_file: Path | None, refusals: list[Refusal], now: datetime) -> list[str]:
    name = "the default policy" if policy_file is None else str(policy_file)
    lines = [f"policy       {name} refuses: {refusal}" for refusal in refusals]
    if not refusals:
        lines.append(f"policy       {name} allows this hub and this job")
    if policy.hours:
        change = next_change(policy.hours, now)
        until = "" if change is None else f" until {change:%Y-%m-%d %H:%M} UTC"
        lines.append(f"hours        {'open' if is_open(policy.hours, now) else 'closed'}{until}")
    return [*lines, "not checked  the model and its size: the hub is not asked before the job is joined"]
