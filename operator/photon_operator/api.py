"""The requests that the operator makes of the API server: few, plain and counted."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import quote

import kubernetes

from photon.api.job import GROUP, PLURAL, VERSION
from photon.api.status import JobStatus
from photon_operator import names
from photon_operator.children import Object
from photon_operator.status import Event

TIMEOUT_SECONDS: Final = 20.0
_PATHS: Final = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "Service": "/api/v1/namespaces/{}/services",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "Event": "/api/v1/namespaces/{}/events",
    "FederatedTrainingJob": f"/apis/{GROUP}/{VERSION}/namespaces/{{}}/{PLURAL}",
}
# 256 bits, as long as an attacker can never guess it and a shell can still paste it.
TOKEN_BYTES: Final = 32


class ApiRefused(Exception):
    """The API server refused a request; ``status`` is the HTTP status, the message its own."""

    def __init__(self, what: str, status: int, message: str) -> None:
        super().__init__(f"{what}: {message}")
        self.status = status


class Api:
    """Synchronous and thread-safe. ``on_request`` is told the verb of each request."""

    def __init__(self, client: kubernetes.client.ApiClient, *, on_request: Callable[[str], None]) -> None:
        self._client = client
        self._on_request = on_request

    def apply(self, child: Object) -> None:
        """Server-side apply: what we name is ours, what others set beside it stays theirs."""
        metadata = child["metadata"]
        self._call(
            "apply",
            "PATCH",
            f"{self._path(child['kind'], metadata['namespace'])}/{quote(metadata['name'])}",
            query=[("fieldManager", names.FIELD_MANAGER), ("force", "true")],
            body=child,
            content="application/apply-patch+yaml",
        )

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete in the foreground, so the object goes when its pods have gone. Nothing there is as good."""
        try:
            self._call(
                "delete",
                "DELETE",
                f"{self._path(kind, namespace)}/{quote(name)}",
                query=[],
                body={"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"},
            )
        except ApiRefused as error:
            if error.status != 404:
                raise

    def tokens(self, namespace: str, name: str, participants: Sequence[str]) -> dict[str, str]:
        """The participants' tokens: those that the Secret ``name`` has, and new ones for who has none."""
        known: dict[str, str] = {}
        try:
            found = self._call("get", "GET", f"{self._path('Secret', namespace)}/{quote(name)}", query=[])
            known = {key: base64.b64decode(value).decode() for key, value in (found.get("data") or {}).items()}
        except ApiRefused as error:
            if error.status != 404:
                raise
        return {who: known.get(who) or secrets.token_urlsafe(TOKEN_BYTES) for who in participants}

    def write_status(self, namespace: str, name: str, status: JobStatus) -> None:
        """Replace the status. It was validated by our model, so a refusal is a bug and is raised."""
        document = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        self._call(
            "status",
            "PATCH",
            f"{self._path('FederatedTrainingJob', namespace)}/{quote(name)}/status",
            query=[("fieldManager", names.FIELD_MANAGER)],
            # Replaced as a whole: with a merge, a figure that is gone would stay.
            body=[{"op": "add", "path": "/status", "value": document}],
            content="application/json-patch+json",
        )

    def why_no_pod(self, namespace: str, job: str) -> str | None:
        """What Kubernetes last said of its failure to make a pod for the Job ``job`` (a quota, a policy)."""
        selector = f"involvedObject.kind=Job,involvedObject.name={job},reason=FailedCreate"
        found = self._call("list", "GET", self._path("Event", namespace), query=[("fieldSelector", selector)])
        events = sorted(found.get("items") or [], key=lambda event: event.get("lastTimestamp") or "")
        return str(events[-1].get("message", "")) if events else None

    def emit(self, body: Any, event: Event) -> None:
        """An event on the resource."""
        metadata = body["metadata"]
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._call(
            "event",
            "POST",
            self._path("Event", metadata["namespace"]),
            query=[],
            body={
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
                "involvedObject": {
                    "apiVersion": body["apiVersion"],
                    "kind": body["kind"],
                    "name": metadata["name"],
                    "namespace": metadata["namespace"],
                    "uid": metadata["uid"],
                    "resourceVersion": metadata.get("resourceVersion", ""),
                },
                "type": event.kind,
                "reason": event.reason,
                "message": event.message[:1024],
                "source": {"component": names.MANAGED_BY},
                "firstTimestamp": stamp,
                "lastTimestamp": stamp,
                "count": 1,
            },
        )

    def _path(self, kind: str, namespace: str) -> str:
        return _PATHS[kind].format(quote(namespace))

    def _call(
        self, verb: str, method: str, path: str, *, query: list[tuple[str, str]], body: Any = None, content: str = ""
    ) -> dict[str, Any]:
        self._on_request(verb)
        headers = {"Accept": "application/json", "Content-Type": content or "application/json"}
        method, url, headers, _, _ = self._client.param_serialize(
            method, path, query_params=query, header_params=headers, auth_settings=["BearerToken"]
        )
        answer = self._client.call_api(
            method,
            url,
            header_params=headers,
            # A string is sent as it is (an apply patch is YAML, of which JSON is a part); the client itself writes a
            # JSON patch, and would take one that is a string for another kind of patch.
            body=body if body is None or isinstance(body, list) else json.dumps(body),
            _request_timeout=TIMEOUT_SECONDS,
        )
        data: bytes = answer.read()  # type: ignore[no-untyped-call]
        if not 200 <= answer.status < 300:
            raise ApiRefused(f"{verb} {path}", answer.status, _said(data, answer.reason))
        return cast(dict[str, Any], json.loads(data)) if data else {}


def _said(data: bytes, reason: str | None) -> str:
    try:
        return str(json.loads(data)["message"])
    except (TypeError, ValueError, KeyError):
        return str(reason)
