"""Updates and evaluations on their way out: checked, signed once a round, recorded, and handed in."""

from __future__ import annotations

from dataclasses import dataclass

from photon.protocol.border import BorderEvaluation, BorderUpdate
from photon.protocol.canonical import canonical_json, digest
from photon.protocol.messages import RefusalReason, UpdateReply, UpdateSubmission
from photon.protocol.records import Evaluation, UpdateManifest
from photon.trust import statements
from photon_gate.guard import reveal
from photon_gate.guard.common import Common
from photon_gate.guard.memory import Training
from photon_gate.ledger.entries import Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """``sent``: round, sha256 and size of parts that were seen to leave."""

    common: Common
    sent: set[tuple[int, str, int]]

    def update(self, round_number: int, submission: UpdateSubmission, wait_seconds: float) -> UpdateReply:
        """Sign an update and hand it in; again while the hub checks it."""
        manifest = submission.manifest
        training = self.common.training(round_number, manifest.plan)
        name = digest(manifest)
        problem = self._problem(manifest, training)
        if problem is None and not self.common.memory.signs(round_number, name):
            problem = RefusalReason.ALREADY_SUBMITTED, "this institution has signed another update of the round"
        if problem is not None:
            self.common.record.add(
                Direction.OUT, "Update", "Refused", name, round_number, message=f"{problem[0]}: {problem[1]}"
            )
            self.common.standing.refusal(problem[0].value)
            return UpdateReply(state="refused", reason=problem[0], message=f"the gate: {problem[1]}")
        envelope = self.common.client.sign(
            statements.Update(
                audience=self.common.client.hub.id,
                job=self.common.client.job,
                participant=self.common.client.participant,
                round=round_number,
                plan=manifest.plan,
                manifest=name,
                tokens=manifest.tokens,
            )
        )
        size = len(canonical_json(manifest))
        self.common.record.once("Update", "Signed", name, round_number, envelope=envelope, size=size)
        cut = reveal.of_submission(self.common.policy.reveal, submission)
        reply = self.common.client.update(round_number, BorderUpdate(submission=cut, envelope=envelope), wait_seconds)
        self.common.standing.heard()
        if reply.state != "checking":
            self._verdict(reply, name, manifest)
        return reply

    def evaluation(self, round_number: int, said: Evaluation) -> None:
        """Sign the result of an evaluation and hand it in."""
        self.common.reached()
        due = (
            ("round", said.round, round_number),
            ("participant", said.participant, self.common.client.participant),
            ("job", said.job, self.common.client.job),
            ("commit", said.commit, self.common.memory.commit(round_number)),
        )
        for name, found, expected in due:
            if found != expected:
                raise self.common.record.refused("WrongEvaluation", f"{name} is {found}, not {expected}")
        cut = reveal.of_evaluation(said)
        name = digest(cut.result)
        envelope = self.common.client.sign(
            statements.Evaluation(
                audience=self.common.client.hub.id,
                job=self.common.client.job,
                participant=self.common.client.participant,
                round=round_number,
                commit=said.commit,
                result=name,
            )
        )
        self.common.record.once(
            "Evaluation", "Signed", name, round_number, envelope=envelope, size=len(canonical_json(cut))
        )
        self.common.client.evaluation(BorderEvaluation(evaluation=cut, envelope=envelope))
        self.common.standing.heard()

    def _verdict(self, reply: UpdateReply, name: str, manifest: UpdateManifest) -> None:
        accepted = reply.state == "accepted"
        reason = reply.reason.value if reply.reason is not None else "Refused"
        message = "" if accepted else f"{reason}: {reply.message}"
        if self.common.record.once(
            "Update", "Accepted" if accepted else "RefusedByHub", name, manifest.round, message=message
        ):
            if accepted:
                self.common.standing.accepted += 1
                self.common.standing.tokens += manifest.tokens
                self.common.standing.last_round = manifest.round
            else:
                self.common.standing.refused += 1
                self.common.standing.refusal(reason)

    def _problem(self, manifest: UpdateManifest, training: Training) -> tuple[RefusalReason, str] | None:
        """Why this update must not be signed."""
        if manifest.participant != self.common.client.participant:
            return RefusalReason.WRONG_PARTICIPANT, f"the manifest is of {manifest.participant}"
        if manifest.job != self.common.client.job:
            return RefusalReason.WRONG_JOB, "the manifest is of another job"
        if manifest.round != training.round:
            return RefusalReason.WRONG_ROUND, f"the manifest is of round {manifest.round}"
        if manifest.tokens < self.common.policy.min_tokens_per_update:
            least = self.common.policy.min_tokens_per_update
            return (
                RefusalReason.WRONG_TOKENS,
                f"tokens is {manifest.tokens}: the policy's minTokensPerUpdate is {least}",
            )
        for part in manifest.parts:
            if (manifest.round, part.sha256, part.size_bytes) not in self.sent:
                return RefusalReason.MISSING_PART, f"part {part.index} was not seen to leave through the relay"
        return None
