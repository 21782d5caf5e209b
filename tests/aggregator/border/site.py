"""An institution that speaks with the door and signs what it says; beyond that a FakeWorker."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from photon.protocol.border import (
    PROTOCOL,
    BorderTask,
    EnrolmentRequest,
    HelloReply,
    MembershipReply,
    RotateRequest,
    SessionReply,
    SessionRequest,
)
from photon.protocol.canonical import digest
from photon.protocol.messages import TaskReply
from photon.protocol.records import Evaluation, UpdateManifest
from photon.trust import statements
from photon.trust.keys import Identity, Key
from tests.aggregator.fake_worker import FakeWorker

NONCE = "0123456789abcdef" * 2


@dataclass
class Site(FakeWorker):
    """``urls``: the door's. ``hub``: its key. ``invitation``: the token. ``protocol``: 1 for one of
    the release before."""

    hub: Key | None = None
    identity: Identity = field(default_factory=Identity.new)
    invitation: str | None = None
    job_name: str = "default/test"
    protocol: int = PROTOCOL
    envelopes: list[str] = field(default_factory=list)

    def hello(self) -> statements.Hello:
        reply = super().request("GET", "/v1/hello", params={"nonce": NONCE})
        assert reply.status_code == 200, reply.text
        assert self.hub is not None
        said = HelloReply.model_validate_json(reply.content)
        return statements.verify(said.envelope.encode(), statements.Hello, self.hub)

    def enrolment(self, **changes: Any) -> EnrolmentRequest:
        """What enrolls this site; ``changes`` to the statement."""
        assert self.hub is not None
        said = statements.Enrolment.model_validate(
            {
                "audience": self.hub.id,
                "job_name": self.job_name,
                "invitation": (self.invitation or "phi_aaaaaaaa")[4:12],
                "participant": self.name,
                "public_key": self.identity.key.text,
                "version": "0.2.0",
                "protocol": self.protocol,
                "nonce": NONCE,
                **changes,
            }
        )
        return EnrolmentRequest(
            public_key=self.identity.key.text, envelope=said.seal(self.identity).decode(), token=self.invitation
        )

    def enroll(self, **changes: Any) -> httpx.Response:
        return self.said("enrolment", self.enrolment(**changes))

    def session(self, hello: statements.Hello | None = None, **changes: Any) -> httpx.Response:
        """A session; its token is used from now on."""
        hello = hello or self.hello()
        assert self.hub is not None
        said = statements.Session.model_validate(
            {
                "audience": self.hub.id,
                "job": hello.job,
                "participant": self.name,
                "challenge": hello.challenge,
                "version": "0.2.0",
                "protocol": self.protocol,
                **changes,
            }
        )
        reply = self.said("session", SessionRequest(participant=self.name, envelope=said.seal(self.identity).decode()))
        if reply.status_code == 200:
            token = SessionReply.model_validate_json(reply.content).session
            self.http.headers["Authorization"] = f"Bearer {token}"
        return reply

    def join(self) -> statements.Membership:
        """Enroll, and open a session."""
        reply = self.enroll()
        assert reply.status_code == 200, reply.text
        assert self.hub is not None
        envelope = MembershipReply.model_validate_json(reply.content).envelope
        member = statements.verify(envelope.encode(), statements.Membership, self.hub)
        opened = self.session()
        assert opened.status_code == 200, opened.text
        # Rounds begin with members that were heard.
        super().request("POST", "/v1/state", json={"state": "Here"})
        return member

    def said(self, path: str, body: Any) -> httpx.Response:
        """A request as it is; again while the door is not ready."""
        headers = {"Content-Type": "application/json"}
        return super().request("POST", f"/v1/{path}", content=body.model_dump_json(by_alias=True), headers=headers)

    def left(self, reason: str = "Finished") -> httpx.Response:
        assert self.hub is not None
        said = statements.Leave(audience=self.hub.id, job=self.job_digest, participant=self.name, reason=reason)
        return self.http.post(f"{self.urls[0]}/v1/leave", json={"envelope": said.seal(self.identity).decode()})

    def rotated(self, new: Identity, *signers: Identity) -> httpx.Response:
        """Ask for another key; ``signers``: the old one, then the new one, unless a test says otherwise."""
        assert self.hub is not None
        said = statements.Rotate(audience=self.hub.id, participant=self.name, new_key=new.key.text)
        envelope = said.seal(*(signers or (self.identity, new))).decode()
        return self.said("keys", RotateRequest(new_key=new.key.text, envelope=envelope))

    # --- the worker's words, signed ----------------------------------------------------------------------------------

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        content = arguments.get("content")
        if content is not None and path.endswith("/update"):
            arguments["content"] = self._signed_update(json.loads(content))
        elif content is not None and path.endswith("/evaluation"):
            arguments["content"] = self._signed_evaluation(json.loads(content))
        reply = super().request(method, path, **arguments)
        if reply.status_code == 401:
            self.session()
            reply = super().request(method, path, **arguments)
        if path == "/v1/task" and reply.status_code == 200:
            given = BorderTask.model_validate_json(reply.content)
            self.envelopes.append(given.envelope)
            text = TaskReply(task=given.task).model_dump_json(by_alias=True)
            return httpx.Response(200, content=text, request=reply.request)
        return reply

    def update_statement(self, manifest: UpdateManifest, /, **changes: Any) -> str:
        assert self.hub is not None
        said = statements.Update.model_validate(
            {
                "audience": self.hub.id,
                "job": self.job_digest,
                "participant": self.name,
                "round": manifest.round,
                "plan": manifest.plan,
                "manifest": digest(manifest),
                "tokens": manifest.tokens,
                **changes,
            }
        )
        return said.seal(self.identity).decode()

    def _signed_update(self, submission: dict[str, Any]) -> str:
        manifest = UpdateManifest.model_validate(submission["manifest"])
        return json.dumps({"submission": submission, "envelope": self.update_statement(manifest)})

    def _signed_evaluation(self, body: dict[str, Any]) -> str:
        evaluation = Evaluation.model_validate(body)
        assert self.hub is not None
        said = statements.Evaluation(
            audience=self.hub.id,
            job=self.job_digest,
            participant=self.name,
            round=evaluation.round,
            commit=evaluation.commit,
            result=digest(evaluation.result),
        )
        return json.dumps({"evaluation": body, "envelope": said.seal(self.identity).decode()})
